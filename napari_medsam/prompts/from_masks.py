"""Prompts worked out from masks and from RECIST lines, for tests, for propagation and for measuring."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam.prompts.values import Box, Point, PromptError, finite_numbers, whole_number


def box_from_mask(mask: ArrayLike, margin_px: float = 0.0) -> Box | None:
    """Return the box (y0, x0, y1, x1) around a mask's outermost pixels.

    Parameters
    ----------
    mask : array_like
        (H, W); what is not zero is the object.
    margin_px : float
        How far to move every side outwards (inwards when negative), but never past the outermost pixel
        centres of the image or the middle of the object.

    Returns
    -------
    tuple of 4 floats or None
        None when the mask is empty.

    Raises
    ------
    PromptError
        When the mask is no array of numbers with two axes, or the margin no finite number.
    """
    (margin,) = finite_numbers((margin_px,), 1, "A margin must be a number of pixels")
    found = _mask(mask)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    if not rows.size:
        return None
    y0, y1 = _grown(int(rows[0]), int(rows[-1]), margin, found.shape[0] - 1)
    x0, x1 = _grown(int(columns[0]), int(columns[-1]), margin, found.shape[1] - 1)
    return y0, x0, y1, x1


def point_from_mask(mask: ArrayLike) -> Point | None:
    """Return the pixel (y, x) of a mask (H, W) that lies deepest inside, or None when the mask is empty.

    Depth is the distance to the nearest pixel outside, and everything beyond the image is outside. Of several
    equally deep pixels it is the one nearest to the object's centre of mass, then the first in array order.
    """
    from scipy.ndimage import distance_transform_edt

    found = _mask(mask)
    box = box_from_mask(found)
    if box is None:
        return None
    y0, x0, y1, x1 = (int(side) for side in box)
    part = np.pad(found[y0 : y1 + 1, x0 : x1 + 1], 1)
    depth = distance_transform_edt(part)
    deepest = np.argwhere(depth == depth.max())
    centre = np.argwhere(part).mean(axis=0)
    y, x = deepest[np.argmin(((deepest - centre) ** 2).sum(axis=1))]
    return float(y + y0 - 1), float(x + x0 - 1)


def points_from_mask(mask: ArrayLike, n: int, seed: int) -> tuple[Point, ...]:
    """Draw `n` different pixels (y, x) of a mask (H, W) at random; all of them when it has no more than `n`.

    The same mask, `n` and `seed` give the same points. Raises PromptError when `n` is negative.
    """
    pixels = np.argwhere(_mask(mask))
    chosen = np.random.default_rng(seed).permutation(len(pixels))[: whole_number(n, "A number of points", 0)]
    return tuple((float(y), float(x)) for y, x in pixels[chosen])


def box_from_recist(
    y0: float,
    x0: float,
    y1: float,
    x1: float,
    *,
    short_to_long: float = 0.7,
    spacing: tuple[float, float] = (1.0, 1.0),
    margin_px: float = 0.0,
) -> Box:
    """Return the box around the ellipse whose long axis is a RECIST line from (y0, x0) to (y1, x1).

    Parameters
    ----------
    y0, x0, y1, x1 : float
        The ends of the line, in pixels.
    short_to_long : float
        How long the lesion's short diameter is taken to be, as a fraction of the line, above 0 up to 1.
        Where the short diameter was measured too, give their ratio. On 600 organs and lesions in CT and MR
        slices, whose boxes this rule was compared with, the overlap hardly changed from 0.5 to 0.75.
    spacing : tuple of 2 floats
        Pixel size (y, x) in mm: on pixels that are not square the ellipse is one in the patient, not on the
        grid.
    margin_px : float
        How far to move every side outwards.

    Returns
    -------
    tuple of 4 floats
        (y0, x0, y1, x1); may reach beyond the image: see `SlicePrompts.clipped`.

    Raises
    ------
    PromptError
        When the line has no length, or a number is out of range.
    """
    ay, ax, by, bx = finite_numbers((y0, x0, y1, x1), 4, "A RECIST line needs four numbers (y0, x0, y1, x1)")
    (margin,) = finite_numbers((margin_px,), 1, "A margin must be a number of pixels")
    if not 0 < short_to_long <= 1:
        raise PromptError(f"The short-to-long ratio must be above 0 and at most 1, not {short_to_long}.")
    if not all(0 < size < math.inf for size in spacing):
        raise PromptError(f"The pixel size must be two numbers above 0, not {spacing}.")
    half_y, half_x = (by - ay) * spacing[0] / 2, (bx - ax) * spacing[1] / 2
    if half_y == half_x == 0:
        raise PromptError("A RECIST line needs two different ends.")
    # The short half axis is the long one turned by 90 degrees, so their components trade places.
    reach_y = math.hypot(half_y, short_to_long * half_x) / spacing[0] + margin
    reach_x = math.hypot(half_x, short_to_long * half_y) / spacing[1] + margin
    y, x = (ay + by) / 2, (ax + bx) / 2
    return y - reach_y, x - reach_x, y + reach_y, x + reach_x


def _mask(mask: ArrayLike) -> NDArray[np.bool_]:
    found = np.asarray(mask)
    if found.ndim != 2 or found.dtype.kind not in "biuf":
        raise PromptError(f"A slice's mask needs two axes of numbers, not {found.dtype} of {found.shape}.")
    return found != 0


def _grown(first: int, last: int, margin_px: float, limit: int) -> tuple[float, float]:
    margin = max(margin_px, (first - last) / 2)
    return max(first - margin, 0.0), min(last + margin, float(limit))
