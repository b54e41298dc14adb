"""Tidying masks: the largest part, holes, crumbs, smoother outlines, and the slices between two drawn ones.

Everything takes a boolean mask (y, x) or (z, y, x), leaves it as it is and returns a new one. Sizes count
pixels (voxels in 3D), and distances are on the pixel grid: a stack of thick slices has voxels that are not
cubes, and what is a small part or a smooth outline there is better judged slice by slice. Parts hang
together across corners and edges as well as faces (8 neighbours in 2D, 26 in 3D); what surrounds them hangs
together across faces only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam.geometry import occupied_region

CRUMB_SHARE = 0.02

Mask = NDArray[np.bool_]


class PostprocessError(ValueError):
    """A mask or a setting that cannot be used; the message is one sentence for the user."""


def largest_component(mask: ArrayLike, seeds: Sequence[Sequence[float]] | None = None) -> Mask:
    """Keep the largest part of a mask, or the parts that were pointed at.

    Parameters
    ----------
    mask : array_like of bool
        (y, x) or (z, y, x).
    seeds : sequence of points, optional
        Pixel coordinates, one number for each axis, rounded to the nearest pixel. Every part with a seed in
        it is kept; when no part has one, the largest is, as without seeds. Seeds outside the image are
        passed over.

    Returns
    -------
    numpy.ndarray of bool
        Of the mask's shape; empty when the mask is. Of equally large parts the first in array order is kept.

    Raises
    ------
    PostprocessError
        When the mask is not boolean with two or three axes, or a seed has another number of
        coordinates or one that is not finite.
    """
    found = _checked(mask)
    wanted = [_seed_pixel(seed, found.ndim) for seed in seeds or ()]
    kept = np.zeros_like(found)
    region = _bounding_box(found)
    if region is None:
        return kept
    parts, sizes = _parts(found[region])
    seeded = {int(parts[pixel]) for pixel in _within(wanted, region)} - {0}
    kept[region] = np.isin(parts, sorted(seeded)) if seeded else parts == 1 + int(np.argmax(sizes[1:]))
    return kept


def count_parts(mask: ArrayLike) -> int:
    """Say how many parts a mask has; crumbs do not count, see `least_part`.

    Parameters
    ----------
    mask : array_like of bool
        (y, x) or (z, y, x).

    Raises
    ------
    PostprocessError
        When the mask is not boolean with two or three axes.
    """
    found = _checked(mask)
    region = _bounding_box(found)
    if region is None:
        return 0
    sizes = _parts(found[region])[1][1:]
    return int((sizes >= least_part(sizes)).sum())


def least_part(sizes: NDArray[np.int64]) -> float:
    """Return the size from which on a part is no crumb, given the sizes of all parts, at least one.

    It is `CRUMB_SHARE` of all, but at most half of the largest part: many small lesions are no crumbs.
    """
    return min(CRUMB_SHARE * float(sizes.sum()), float(sizes.max()) / 2)


def fill_holes(mask: ArrayLike, max_area_px: float | None = None) -> Mask:
    """Fill background that the mask encloses.

    Parameters
    ----------
    mask : array_like of bool
        (y, x) or (z, y, x). In 3D a hole is a closed cavity: a tunnel that is open at its ends stays.
    max_area_px : float, optional
        Leave larger holes as they are; None fills all of them.

    Returns
    -------
    numpy.ndarray of bool
        Of the mask's shape. Background that reaches the border of the image is no hole.

    Raises
    ------
    PostprocessError
        When the mask is not boolean with two or three axes, or the area is negative or NaN.
    """
    from scipy.ndimage import binary_fill_holes, label

    found = _checked(mask)
    if max_area_px is not None:
        _check_size(max_area_px, "The largest area of a hole")
    filled = found.copy()
    region = _bounding_box(found)
    if region is None:
        return filled
    part = found[region]
    holes = binary_fill_holes(part) & ~part
    if max_area_px is not None:
        numbered, _ = label(holes)
        holes &= np.bincount(numbered.ravel())[numbered] <= max_area_px
    filled[region] |= holes
    return filled


def remove_small_parts(mask: ArrayLike, min_size_px: float) -> Mask:
    """Drop the parts of a mask that have fewer than `min_size_px` pixels.

    Parameters
    ----------
    mask : array_like of bool
        (y, x) or (z, y, x).
    min_size_px : float
        The smallest size that is kept.

    Returns
    -------
    numpy.ndarray of bool
        Of the mask's shape; empty when every part was too small.

    Raises
    ------
    PostprocessError
        When the mask is not boolean with two or three axes, or the size is negative or NaN.
    """
    found = _checked(mask)
    _check_size(min_size_px, "The smallest size of a part")
    kept = np.zeros_like(found)
    region = _bounding_box(found)
    if region is None:
        return kept
    parts, sizes = _parts(found[region])
    large = sizes >= min_size_px
    large[0] = False
    kept[region] = large[parts]
    return kept


def smooth_contour(mask: ArrayLike, radius_px: float | Sequence[float]) -> Mask:
    """Round off corners and spikes narrower than about `radius_px` while the mask keeps its size.

    The mask is blurred with a Gaussian whose standard deviation is half the radius, and as many of the
    highest values are kept as the mask had pixels. A fixed threshold of one half would shrink small and
    thin objects, and with them every volume and diameter measured afterwards.

    Parameters
    ----------
    mask : array_like of bool
        (y, x) or (z, y, x).
    radius_px : float or sequence of floats
        One radius, or one for each axis: on thick slices, (0, r, r) smooths within them only. 0 changes
        nothing.

    Returns
    -------
    numpy.ndarray of bool
        Of the mask's shape and size; pixels that are equal by symmetry are kept together, and so the size
        can be a few pixels larger. Empty only when the mask is. An object that the border of the image cuts
        off is taken to go on beyond it.

    Raises
    ------
    PostprocessError
        When the mask is not boolean with two or three axes, or a radius is negative or not finite.
    """
    from scipy.ndimage import gaussian_filter

    found = _checked(mask)
    radii = _per_axis(radius_px, found.ndim, "The smoothing radius")
    region = _bounding_box(found, margin=[math.ceil(2 * radius) for radius in radii])
    smooth = np.zeros_like(found)
    if region is None:
        return smooth
    part = found[region]
    blurred = gaussian_filter(part.astype(np.float64), [radius / 2 for radius in radii], mode="nearest")
    # Rounding errors would otherwise tell apart what is equal by symmetry.
    blurred = (blurred / blurred.max()).round(9)
    rank = blurred.size - np.count_nonzero(part)
    smooth[region] = (blurred >= np.partition(blurred, rank, axis=None)[rank]) & (blurred > 0)
    return smooth


def interpolate_slices(
    first: ArrayLike, last: ArrayLike, n: int, spacing: tuple[float, float] = (1.0, 1.0)
) -> Mask:
    """Guess the `n` slices between two masks of one object, by blending their signed distances.

    Shape-based interpolation (Raya and Udupa, IEEE Trans. Med. Imaging 9(1), 1990): each mask becomes the
    distance to its outline, positive inside; the slices between are blends of the two, cut at zero. Where
    the two masks do not overlap, as in a vessel that runs obliquely, a blend would vanish halfway; then
    both are first moved to where the object's centre of mass would be.

    Parameters
    ----------
    first, last : array_like of bool
        (H, W), the two slices at the ends; they are not part of the result.
    n : int
        Number of slices between them, evenly spaced.
    spacing : tuple of 2 floats
        Pixel size (y, x); only the ratio matters.

    Returns
    -------
    numpy.ndarray of bool
        (n, H, W), from `first` to `last`. All empty when either mask is empty: nothing says where an object
        that is on one slice only comes to its end.

    Raises
    ------
    PostprocessError
        When the masks are not boolean with two axes and one shape, `n` is negative or a pixel size is not
        above 0.
    """
    start, end = _checked(first), _checked(last)
    if start.ndim != 2 or start.shape != end.shape:
        raise PostprocessError(
            f"Two slices of one shape are needed to interpolate between, not {start.shape} and {end.shape}."
        )
    if n < 0:
        raise PostprocessError(f"The number of slices to interpolate must not be negative, and {n} is.")
    sizes = _per_axis(spacing, 2, "The pixel size")
    if min(sizes) == 0:
        raise PostprocessError(f"The pixel size must be above 0, not {spacing}.")
    between = np.zeros((n, *start.shape), bool)
    if n == 0 or not start.any() or not end.any():
        return between
    region = _bounding_box(start | end, margin=[1, 1])
    a, b = start[region], end[region]
    distance_a, distance_b = _signed_distance(a, sizes), _signed_distance(b, sizes)
    move = np.zeros(2) if (a & b).any() else np.argwhere(b).mean(axis=0) - np.argwhere(a).mean(axis=0)
    for i in range(n):
        t = (i + 1) / (n + 1)
        moved_a, moved_b = _moved(distance_a, t * move), _moved(distance_b, (t - 1) * move)
        # What comes to zero but for rounding is outside, from whichever end one looks.
        between[i][region] = ((1 - t) * moved_a + t * moved_b).round(9) > 0
    return between


def _checked(mask: ArrayLike) -> Mask:
    found = np.asarray(mask)
    if found.dtype != np.bool_ or found.ndim not in (2, 3):
        raise PostprocessError(
            f"A mask must be boolean with two or three axes, not {found.dtype} of shape {found.shape}."
        )
    return found


def _check_size(size: float, what: str) -> None:
    if not size >= 0:
        raise PostprocessError(f"{what} must be a number of pixels from 0 up, not {size}.")


def _per_axis(value: float | Sequence[float], ndim: int, what: str) -> tuple[float, ...]:
    values = tuple(float(v) for v in value) if isinstance(value, Sequence) else (float(value),) * ndim
    if len(values) != ndim or not all(0 <= v < math.inf for v in values):
        raise PostprocessError(
            f"{what} must be one number from 0 up, or one for each of {ndim} axes, not {value}."
        )
    return values


def _seed_pixel(seed: Sequence[float], ndim: int) -> tuple[int, ...]:
    if len(seed) != ndim or not all(math.isfinite(coordinate) for coordinate in seed):
        raise PostprocessError(f"A seed in this mask needs {ndim} finite coordinates, not {tuple(seed)}.")
    return tuple(round(coordinate) for coordinate in seed)


def _within(pixels: Sequence[tuple[int, ...]], region: tuple[slice, ...]) -> Iterator[tuple[int, ...]]:
    """Yield those pixels that lie in a region, counted from its first corner."""
    for pixel in pixels:
        if all(side.start <= p < side.stop for p, side in zip(pixel, region, strict=True)):
            yield tuple(p - side.start for p, side in zip(pixel, region, strict=True))


def _bounding_box(mask: Mask, margin: Sequence[int] | None = None) -> tuple[slice, ...] | None:
    """Return slices around what is true, so that work grows with the object and not with the image."""
    region = occupied_region(mask)
    if region is None or margin is None:
        return region
    sides = zip(region, margin, strict=True)
    return tuple(slice(max(side.start - more, 0), side.stop + more) for side, more in sides)


def _parts(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the parts from 1; return the numbers and each one's size, background at 0."""
    from scipy.ndimage import label

    parts, _ = label(mask, structure=np.ones((3,) * mask.ndim))
    return parts, np.bincount(parts.ravel())


def _signed_distance(mask: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(mask, 1)
    inside = distance_transform_edt(padded, sampling=spacing)
    outside = distance_transform_edt(~padded, sampling=spacing)
    return (inside - outside)[1:-1, 1:-1]


def _moved(distance: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import shift

    if not by.any():
        return distance
    # Far from every outline: nothing enters from beyond the border.
    return shift(distance, by, order=1, cval=-float(sum(distance.shape)))
