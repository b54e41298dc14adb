"""Intensity windows: which part of an image's range a model, or a person, gets to see.

A window never touches the user's voxels: `apply_window` returns a new array. Which window a model family
wants is part of its preprocessing contract; the defaults here are those that the published MedSAM weights
were trained with (bowang-lab/MedSAM, ``pre_CT_MR.py``: 400/40 HU for CT, the 0.5 and 99.5 percentiles of
the voxels above zero for everything else).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from napari_medsam.geometry import Volume

MODALITIES = ("CT", "MR", "RGB", "other")

# Percentiles of this many regularly spaced voxels differ from those of all by far less than one grey level
# in 256.
_PERCENTILE_VOXELS = 1 << 23
_GUESS_VOXELS = 1 << 18

# Scanners fill the corners outside their circular field of view with values far below air.
_LOWEST_AIR_HU, _HIGHEST_AIR_HU = -1100.0, -500.0
_LOWEST_SOFT_HU, _HIGHEST_SOFT_HU = -150.0, 150.0
_LEAST_AIR_FRACTION, _LEAST_SOFT_FRACTION = 0.001, 0.25

# Reconstruction and resampling leave a few values just below a background of zero.
_RINGING_FRACTION = 0.1


class WindowError(ValueError):
    """A window that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Window:
    """An intensity range, shown as black to white.

    Attributes
    ----------
    lower, upper : float
        Intensities in the image's own units (Hounsfield units for CT), finite, ``lower < upper``.
    name : str
        What to call it in front of a user.

    Raises
    ------
    WindowError
        When the limits are not finite or not in order.
    """

    lower: float
    upper: float
    name: str

    def __post_init__(self) -> None:
        """Refuse limits that cannot be divided by."""
        lower, upper = float(self.lower), float(self.upper)
        if not (math.isfinite(lower) and math.isfinite(upper)):
            raise WindowError(f"A window needs two finite limits, not {self.lower} and {self.upper}.")
        if not (lower < upper and math.isfinite(upper - lower)):
            raise WindowError(
                f"A window needs a lower limit below its upper limit, not {self.lower} and {self.upper}."
            )
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)


def _hounsfield(width: float, level: float, name: str) -> Window:
    return Window(level - width / 2, level + width / 2, name)


PRESETS: Mapping[str, Window] = MappingProxyType(
    {
        "soft_tissue": _hounsfield(400, 40, "soft_tissue"),
        "lung": _hounsfield(1500, -600, "lung"),
        "mediastinum": _hounsfield(350, 50, "mediastinum"),
        "bone": _hounsfield(1800, 400, "bone"),
        "brain": _hounsfield(80, 40, "brain"),
        "liver": _hounsfield(150, 30, "liver"),
        "angiography": _hounsfield(660, 170, "angiography"),
        "wide": Window(-500.0, 1000.0, "wide"),
    }
)
"""CT windows in Hounsfield units, by name.

``soft_tissue`` is what the MedSAM weights were trained with, ``wide`` what the 2023 MedSAM preprint used;
in ``angiography`` vessels with contrast are not all white, and the default model finds most of them better;
the others are the widths and levels in common clinical use. None of them means anything on an image that is
not in HU.
"""


def percentile_window(array: ArrayLike, lower: float = 0.5, upper: float = 99.5) -> Window:
    """Window between two percentiles of the foreground.

    The foreground is what MedSAM takes, the voxels above zero (``pre_CT_MR.py``), as long as fewer than a
    tenth of the voxels that are not zero are negative. Where more are negative (z-scored images, CT), every
    voxel but exact zeros counts, because there zero is a value like any other or a mask's filling.

    Parameters
    ----------
    array : array_like of real numbers
        Any shape. NaN and infinite voxels are ignored. Arrays above eight million voxels are thinned on a
        regular grid first.
    lower, upper : float
        Percentiles, ``0 <= lower < upper <= 100``.

    Returns
    -------
    Window
        Always a valid one: a foreground whose percentiles coincide gives its whole range, an image of one
        value a range around that value, an image without a finite voxel the range 0 to 1.

    Raises
    ------
    WindowError
        When the percentiles are out of order or range, or the array does not hold real numbers.
    """
    if not 0 <= lower < upper <= 100:
        raise WindowError(f"Percentiles must satisfy 0 <= lower < upper <= 100, not {lower} and {upper}.")
    # Between two percentiles numpy interpolates in the array's own type, in which int16 overflows.
    finite = _finite_sample(array, _PERCENTILE_VOXELS).astype(np.float64)
    nonzero = finite[finite != 0]
    negatives = np.count_nonzero(nonzero < 0)
    foreground = nonzero[nonzero > 0] if negatives < _RINGING_FRACTION * nonzero.size else nonzero
    for values, percentiles in ((foreground, (lower, upper)), (foreground, (0, 100)), (finite, (0, 100))):
        if values.size:
            with np.errstate(over="ignore", invalid="ignore"):
                low, high = (float(value) for value in np.percentile(values, percentiles))
            if low < high and math.isfinite(high - low):
                return Window(low, high, "percentile")
    if not finite.size:
        return Window(0.0, 1.0, "percentile")
    return _window_around(float(finite[0]))


def guess_modality(volume: Volume) -> str:
    """Say what kind of image a volume is: from its header, else from its values.

    Without a header that says so, an image is taken for CT when its values look like Hounsfield units: some
    voxels (1 in 1000) are air or lung, below -500, and of what is denser than that at least a quarter lies
    within 150 HU of water, where fat, muscle and organs are. Voxels of exactly zero do not count, for a
    zeroed background says nothing. Rescaled CT (0 to 1, 0 to 255) cannot be told from MR and is "other".

    Parameters
    ----------
    volume : Volume
        Its ``modality`` is believed when it is set. Values are judged on about 260,000 regularly spaced
        voxels.

    Returns
    -------
    str
        "CT", "MR", "RGB" or "other". A guess: show it, and let the user overrule it.
    """
    if volume.array.ndim == 4:
        return "RGB"
    if volume.modality:
        return volume.modality if volume.modality in MODALITIES else "other"
    values = _finite_sample(volume.array, _GUESS_VOXELS)
    values = values[(values >= _LOWEST_AIR_HU) & (values != 0)]
    air = np.count_nonzero(values <= _HIGHEST_AIR_HU)
    soft = np.count_nonzero((values >= _LOWEST_SOFT_HU) & (values <= _HIGHEST_SOFT_HU))
    denser = values.size - air
    has_air = air > _LEAST_AIR_FRACTION * values.size
    return "CT" if has_air and soft > _LEAST_SOFT_FRACTION * denser else "other"


def default_window(volume: Volume, modality: str | None = None) -> Window:
    """Choose the window that MedSAM's recipe gives an image of this kind.

    Parameters
    ----------
    volume : Volume
        The image.
    modality : {"CT", "MR", "RGB", "other"}, optional
        What the user says it is; `guess_modality` decides when this is None.

    Returns
    -------
    Window
        400/40 HU for CT, 0 to 255 for RGB, `percentile_window` for everything else.

    Raises
    ------
    WindowError
        When `modality` is none of the four.
    """
    if modality is None:
        modality = guess_modality(volume)
    if modality not in MODALITIES:
        raise WindowError(f"The modality must be one of {', '.join(MODALITIES)}, not {modality!r}.")
    if modality == "CT":
        return PRESETS["soft_tissue"]
    if modality == "RGB":
        return Window(0.0, 255.0, "rgb")
    return percentile_window(volume.array)


def parse_window(text: str, volume: Volume) -> Window:
    """Read a window as a user types it.

    Parameters
    ----------
    text : str
        A preset's name ("soft_tissue", also "soft tissue"), "WIDTH/LEVEL" ("400/40"), "LOWER:UPPER"
        ("-160:240"), "percentile", or "auto" for `default_window`. Case and surrounding space do not
        matter.
    volume : Volume
        What "percentile" and "auto" look at.

    Returns
    -------
    Window
        Named after what was typed.

    Raises
    ------
    WindowError
        When the text is none of these, or its limits are not finite and in order.
    """
    word = text.strip().lower()
    preset = PRESETS.get(word.replace(" ", "_").replace("-", "_"))
    if preset is not None:
        return preset
    if word == "auto":
        return default_window(volume)
    if word == "percentile":
        return percentile_window(volume.array)
    for separator in "/:":
        first, found, second = word.partition(separator)
        if found:
            a, b = _number(first, text), _number(second, text)
            return Window(a, b, word) if separator == ":" else _width_level(a, b, word)
    raise _unreadable(text)


def apply_window(image: ArrayLike, window: Window) -> NDArray[np.float32]:
    """Map intensities to 0 (at or below the lower limit) to 1 (at or above the upper limit).

    Parameters
    ----------
    image : array_like of real numbers
        Any shape and byte order; left as it is.
    window : Window
        The range, in the image's units.

    Returns
    -------
    numpy.ndarray
        float32 in [0, 1], of the image's shape. NaN becomes 0, infinities 0 or 1.

    Raises
    ------
    WindowError
        When the image does not hold real numbers.
    """
    # A window one unit wide far from zero (raw PET counts, uint32) is lost in float32.
    values = _real_numbers(image).astype(np.float64)
    # Unlike clip, fmax puts the limit in place of NaN, and so NaN ends as 0.
    np.fmax(values, window.lower, out=values)
    np.fmin(values, window.upper, out=values)
    values -= window.lower
    values /= window.upper - window.lower
    return values.astype(np.float32)


def _real_numbers(array: ArrayLike) -> NDArray:
    found = np.asarray(array)
    if found.dtype.kind not in "biuf":
        raise WindowError(f"An image must hold real numbers, not values of type {found.dtype}.")
    return found


def _finite_sample(array: ArrayLike, most: int) -> NDArray:
    """Flatten the finite voxels of an array, thinned along its longest axes to at most `most`."""
    found = _real_numbers(array)
    while found.size > most:
        axis = int(np.argmax(found.shape))
        found = found[(slice(None),) * axis + (slice(None, None, 2),)]
    if found.dtype.kind == "f":
        return found[np.isfinite(found)]
    return found.ravel()


def _window_around(value: float) -> Window:
    # Half a unit is lost beside a huge value; a window past the largest float would not be finite.
    half = max(0.5, abs(value) * 1e-6)
    largest = np.finfo(np.float64).max
    return Window(max(value - half, -largest), min(value + half, largest), "percentile")


def _number(part: str, text: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise _unreadable(text) from None


def _width_level(width: float, level: float, name: str) -> Window:
    if not width > 0:
        raise WindowError(
            f"The window {name!r} reads as WIDTH/LEVEL and needs a width above 0, not {width:g}."
        )
    return Window(level - width / 2, level + width / 2, name)


def _unreadable(text: str) -> WindowError:
    return WindowError(
        f"Cannot read the window {text!r}: give one of {', '.join(PRESETS)}, WIDTH/LEVEL such as 400/40, "
        "LOWER:UPPER such as -160:240, percentile, or auto."
    )
