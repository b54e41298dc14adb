"""Geometry of masks on one slice, in mm: boxes to carry on, parts, distances, how far an outline may move."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.postprocess import count_parts, least_part
from napari_medsam.prompts import box_from_mask

if TYPE_CHECKING:
    from napari_medsam.propagation.values import Mask

MARGIN_SHARE = 0.06
MARGIN_PX = 1.0
MARGIN_PER_MM = 0.2
"""Millimetres by which a carried box grows for each mm between slices, besides the two above."""
MOST_PARTS = 6
SCATTERED_PARTS = 4

Box = tuple[float, float, float, float]
Region = tuple[slice, slice]


def carried_box(mask: Mask, slice_mm: float = 0.0, pixel_mm: Sequence[float] = (1.0, 1.0)) -> Box:
    """Box (y0, x0, y1, x1) of a mask that is not empty, with room for what changes in `slice_mm`.

    Parameters
    ----------
    mask : numpy.ndarray of bool
        (H, W).
    slice_mm
        Distance to the slice that the box is for.
    pixel_mm
        Pixel size (y, x).

    Raises
    ------
    ValueError
        When the mask is empty.
    """
    box = box_from_mask(mask)
    if box is None:
        raise ValueError("An empty mask has no box to carry on.")
    y0, x0, y1, x1 = box
    dy, dx = (
        MARGIN_PX + MARGIN_SHARE * side + MARGIN_PER_MM * slice_mm / mm
        for side, mm in zip((y1 - y0, x1 - x0), pixel_mm, strict=True)
    )
    return y0 - dy, x0 - dx, y1 + dy, x1 + dx


def parts(mask: Mask, slice_mm: float = 0.0, pixel_mm: Sequence[float] = (1.0, 1.0)) -> list[Mask]:
    """Take apart what one box cannot stand for: at most `MOST_PARTS` masks (H, W), the largest first.

    Parts whose carried boxes overlap stay together, for a model would see both in either box. Crumbs are left
    out.
    """
    from scipy.ndimage import label

    numbered, count = label(mask, structure=np.ones((3, 3)))
    if count < 2:
        return [mask]
    sizes = np.bincount(numbered.ravel())[1:]
    least = least_part(sizes)
    large = [int(n) + 1 for n in np.argsort(-sizes, kind="stable") if sizes[n] >= least]
    groups = [numbered == n for n in large[:MOST_PARTS]]
    while near := _first_overlap([carried_box(group, slice_mm, pixel_mm) for group in groups]):
        groups[near[0]] = groups[near[0]] | groups.pop(near[1])
    return groups


def is_scattered(mask: Mask) -> bool:
    """Whether an object has so many parts on a key slice, as lesions do, that others come and go."""
    return count_parts(mask) >= SCATTERED_PARTS


def reach_px(steepest: float, slice_mm: float, pixel_mm: Sequence[float]) -> tuple[int, int]:
    """Pixels (y, x), at least 1, that an outline may move in `slice_mm` at `steepest` mm for each mm."""
    y, x = (max(1, ceil(steepest * slice_mm / mm)) for mm in pixel_mm)
    return y, x


def grown(mask: Mask, reach: Sequence[int]) -> Mask:
    """Dilate by a rectangle of `reach` pixels (y, x) to each side."""
    from scipy.ndimage import maximum_filter1d

    out = maximum_filter1d(mask.view(np.uint8), 2 * reach[0] + 1, axis=0, mode="constant")
    return maximum_filter1d(out, 2 * reach[1] + 1, axis=1, mode="constant").view(np.bool_)


def around(mask: Mask, margin: Sequence[int]) -> Region:
    """Rows and columns of a mask that is not empty, and `margin` pixels (y, x) more within the slice."""
    found = []
    for axis, more in ((1, margin[0]), (0, margin[1])):
        line = np.flatnonzero(mask.any(axis=axis))
        found.append(slice(max(int(line[0]) - more, 0), int(line[-1]) + 1 + more))
    return found[0], found[1]


def signed_distance_mm(mask: Mask, pixel_mm: Sequence[float]) -> NDArray[np.float32]:
    """Distance (H, W) to the outline, above 0 inside; far outside everywhere when the mask is empty."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return np.full(mask.shape, -1e3, np.float32)
    padded = np.pad(mask, 1)
    inside = distance_transform_edt(padded, sampling=pixel_mm)
    outside = distance_transform_edt(~padded, sampling=pixel_mm)
    return (inside - outside)[1:-1, 1:-1].astype(np.float32)


def touching(mask: Mask, seed: Mask) -> Mask:
    """Keep the parts of a mask that hang together with `seed`, without crumbs."""
    from scipy.ndimage import label

    numbered, count = label(mask, structure=np.ones((3, 3)))
    if not count:
        return mask
    sizes = np.bincount(numbered.ravel())
    kept = sizes >= least_part(sizes[1:])
    meets = np.zeros(count + 1, bool)
    meets[numbered[seed & mask]] = True
    kept &= meets
    kept[0] = False
    return kept[numbered]


def apart(
    mask: Mask, others: Mask, likeness: NDArray[np.float32], least_px: int, least_likeness: float
) -> Mask:
    """Keep the parts of a mask, (H, W), that share no pixel with `others` and look like the object.

    Each has at least `least_px` pixels, whose mean `likeness`, (H, W), is above `least_likeness`.
    """
    from scipy.ndimage import label

    numbered, _ = label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(numbered.ravel())
    kept = np.bincount(numbered.ravel(), weights=likeness.ravel()) > least_likeness * sizes
    kept &= sizes >= least_px
    kept[numbered[others]] = False
    kept[0] = False
    return kept[numbered]


def whole(region: Region, part: NDArray, shape: Sequence[int]) -> Mask:
    """Put a mask of a region back on an empty slice of `shape`."""
    mask = np.zeros(tuple(shape), bool)
    mask[region] = part
    return mask


def _first_overlap(boxes: Sequence[Box]) -> tuple[int, int] | None:
    """Return the numbers of the first two boxes that overlap."""
    for (i, a), (j, b) in combinations(enumerate(boxes), 2):
        if a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]:
            return i, j
    return None
