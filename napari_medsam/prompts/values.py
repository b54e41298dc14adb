"""The values: which slice, and what points at an object on it. Each is validated when it is built."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_medsam.terminology import Term

Box = tuple[float, float, float, float]
Point = tuple[float, float]

FOREGROUND, BACKGROUND = 1, 0
LARGEST_LABEL = 65535
LONGEST_NAME = 200

# No image has a side this long, and the float32 of a model could not place much larger numbers between
# pixels.
LARGEST_COORDINATE_PX = 1_000_000.0
_LARGEST_INDEX = 2**31 - 1


class PromptError(ValueError):
    """A prompt that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True, order=True)
class SliceIndex:
    """One slice of a volume: the array axis it is counted along (0 to 2) and its index on that axis.

    Raises
    ------
    PromptError
        When the axis is not 0, 1 or 2, or the index is not a whole number from 0 up.
    """

    axis: int
    index: int

    def __post_init__(self) -> None:
        """Refuse what numpy would read as counting from the end."""
        object.__setattr__(self, "axis", whole_number(self.axis, "A slice's axis", 0, 2))
        object.__setattr__(self, "index", whole_number(self.index, "A slice's index", 0))

    def checked(self, shape: Sequence[int]) -> SliceIndex:
        """Return this slice when a volume of `shape` (z, y, x) has it.

        Raises
        ------
        PromptError
            When it lies outside, or the shape has fewer than three axes.
        """
        if len(shape) < 3:
            raise PromptError(
                f"Slices need an image of three axes (z, y, x), not one of shape {tuple(shape)}."
            )
        if self.index >= shape[self.axis]:
            raise PromptError(
                f"There is no slice {self.index} along axis {self.axis}: the image has {shape[self.axis]} "
                f"slices there, 0 to {shape[self.axis] - 1}."
            )
        return self

    def shifted(self, n: int) -> SliceIndex:
        """Return the slice `n` further along the same axis.

        Raises
        ------
        PromptError
            When that would be before slice 0. The far end is known to `checked` only.
        """
        return SliceIndex(self.axis, self.index + n)

    def take(self, array: NDArray) -> NDArray:
        """Return a view of this slice.

        Parameters
        ----------
        array : numpy.ndarray
            (z, y, x), or (z, y, x, 3) for RGB.

        Returns
        -------
        numpy.ndarray
            (H, W) or (H, W, 3), sharing memory with `array`.

        Raises
        ------
        PromptError
            When the array has no such slice.
        """
        self.checked(array.shape)
        return array[(slice(None),) * self.axis + (self.index,)]

    def put(self, array: NDArray, mask: NDArray[np.bool_], value: int) -> None:
        """Write `value` into this slice of `array` wherever `mask` is true.

        Parameters
        ----------
        array : numpy.ndarray
            (z, y, x), changed in place.
        mask : numpy.ndarray of bool
            (H, W), the slice's own shape.
        value : int
            A value that the array's type can hold.

        Raises
        ------
        PromptError
            When the array has no such slice, the mask is not boolean or of another shape, or the value does
            not fit. Nothing is written then.
        """
        target = self.take(array)
        if mask.shape != target.shape or mask.dtype != np.bool_:
            raise PromptError(
                f"A mask for this slice must be boolean and of shape {target.shape}, "
                f"not {mask.dtype} of {mask.shape}."
            )
        if array.dtype.kind in "iu" and not np.iinfo(array.dtype).min <= value <= np.iinfo(array.dtype).max:
            raise PromptError(f"Label {value} does not fit into an array of type {array.dtype}.")
        target[mask] = value


@dataclass(frozen=True)
class SlicePrompts:
    """What points at one object on one slice.

    Attributes
    ----------
    box : tuple of 4 floats or None
        (y0, x0, y1, x1) in pixels, inclusive corners. Given in any order, kept sorted.
    points : tuple of (y, x)
        In pixels, in the order in which they were set.
    labels : tuple of int
        One for each point: 1 foreground, 0 background.

    Raises
    ------
    PromptError
        When a coordinate is no finite number within a million pixels, or labels and points do not match.
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Bring what was given into one form, or refuse it."""
        if self.box is not None:
            y0, x0, y1, x1 = finite_numbers(self.box, 4, "A box needs four numbers (y0, x0, y1, x1)")
            box = (min(y0, y1), min(x0, x1), max(y0, y1), max(x0, x1))
            object.__setattr__(self, "box", box)
        points = tuple(finite_numbers(p, 2, "A point needs two numbers (y, x)") for p in self.points)
        labels = tuple(
            whole_number(label, "A point's label", BACKGROUND, FOREGROUND) for label in self.labels
        )
        if len(points) != len(labels):
            raise PromptError(f"Each point needs one label, not {len(labels)} for {len(points)} points.")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a box nor a point."""
        return self.box is None and not self.points

    def with_box(self, box: Box | None) -> SlicePrompts:
        """Return the same prompts with another box, or without one."""
        return SlicePrompts(box, self.points, self.labels)

    def with_point(self, point: Point, label: int = FOREGROUND) -> SlicePrompts:
        """Return the same prompts with one point (y, x) more, at the end."""
        return SlicePrompts(self.box, (*self.points, point), (*self.labels, label))

    def clipped(self, shape: Sequence[int]) -> SlicePrompts:
        """Return what of these prompts lies on a slice of `shape` (H, W).

        A pixel reaches half a pixel around its centre. A box that touches no pixel and points beyond the
        outermost pixels are left out; everything else is moved to lie between the centres of the first and
        the last pixel, so that each coordinate rounds to an index into the slice.
        """
        last_y, last_x = shape[0] - 1, shape[1] - 1
        box = None
        if self.box is not None:
            y0, x0, y1, x1 = self.box
            if y1 >= -0.5 and x1 >= -0.5 and y0 <= last_y + 0.5 and x0 <= last_x + 0.5:
                box = (_between(y0, last_y), _between(x0, last_x), _between(y1, last_y), _between(x1, last_x))
        kept = [
            ((_between(y, last_y), _between(x, last_x)), label)
            for (y, x), label in zip(self.points, self.labels, strict=True)
            if -0.5 <= y <= last_y + 0.5 and -0.5 <= x <= last_x + 0.5
        ]
        return SlicePrompts(box, tuple(point for point, _ in kept), tuple(label for _, label in kept))


@dataclass(frozen=True)
class ObjectPrompts:
    """Everything that points at one object, slice by slice.

    Attributes
    ----------
    label : int
        The value it has in the label map, 1 to 65535.
    name : str
        What the user calls it; may be empty.
    slices : mapping of SliceIndex to SlicePrompts
        Copied; not to be changed afterwards.
    term : Term or None
        What it is in codes, where somebody said so; the name may say it otherwise.

    Raises
    ------
    PromptError
        When the label is out of range, or the name is too long or holds control characters.
    """

    label: int
    name: str = ""
    slices: Mapping[SliceIndex, SlicePrompts] = field(default_factory=dict, hash=False)
    term: Term | None = None

    def __post_init__(self) -> None:
        """Refuse labels and names that could not be written to a file."""
        object.__setattr__(self, "label", whole_number(self.label, "An object's label", 1, LARGEST_LABEL))
        if not isinstance(self.name, str) or len(self.name) > LONGEST_NAME:
            raise PromptError(f"An object's name must be a text of at most {LONGEST_NAME} characters.")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in self.name):
            raise PromptError("An object's name must not hold line breaks or other control characters.")
        object.__setattr__(self, "slices", dict(self.slices))


def whole_number(value: object, what: str, least: int, most: int = _LARGEST_INDEX) -> int:
    """Return `value` as an int when it is a whole number from `least` to `most`, else raise PromptError.

    True and False are not numbers here; 3.0 is a whole number, as it is in JSON Schema.
    """
    whole = isinstance(value, Integral) or (isinstance(value, float | np.floating) and value.is_integer())
    if isinstance(value, bool) or not whole or not least <= value <= most:  # type: ignore[operator]
        raise PromptError(f"{what} must be a whole number from {least} to {most}, not {reprlib.repr(value)}.")
    return int(value)  # type: ignore[call-overload]


def finite_numbers(
    values: object, n: int, what: str, largest: float = LARGEST_COORDINATE_PX
) -> tuple[float, ...]:
    """Return `n` numbers within ± `largest` as floats, else raise PromptError.

    `what` begins its sentence: "a point needs two numbers (y, x)".
    """

    def fits(value: object) -> bool:
        # NaN fails every comparison, and comparing does not overflow on integers that no float can hold.
        return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= largest  # type: ignore[operator]

    given = tuple(values) if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) else ()
    if len(given) != n or not all(fits(value) for value in given):
        raise PromptError(f"{what} between -{largest:.10g} and {largest:.10g}, not {reprlib.repr(values)}.")
    return tuple(float(v) for v in given)


def _between(value: float, last: int) -> float:
    return min(max(value, 0.0), float(last))
