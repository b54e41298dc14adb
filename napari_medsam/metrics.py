"""How far two masks agree, and how large one is: Dice, IoU, surface distances, volume, RECIST diameters.

Masks are arrays of (y, x) or (z, y, x) in which everything but zero is the object; spacing is in mm, in the
same order. The surface of a mask is the set of the faces between a pixel of the mask and one outside it
(edges in 2D); beyond the array everything is outside. Each face stands for its own area in mm² (length in
mm in 2D) at its centre. So thick slices weigh what they measure, and two masks that differ by whole voxels
differ by whole voxel sizes. It counts a slanted surface as its staircase, on both masks alike. A single
slice belongs in here as (y, x): as (1, y, x) it would have a top and a bottom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam.geometry import occupied_region

Line = tuple[tuple[float, float], tuple[float, float]]

_STEPS_PER_PIXEL = 8
_MOST_SAMPLES = 1_000_000


class MetricError(ValueError):
    """Masks or a spacing that cannot be measured; the message is one sentence for the user."""


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Dice coefficient of two masks: twice the overlap over the sum of the sizes.

    Parameters
    ----------
    a, b : array_like
        Of one shape, with any number of axes.

    Returns
    -------
    float
        0 to 1; 1 when both masks are empty, 0 when one is.

    Raises
    ------
    MetricError
        When the shapes differ.
    """
    first, second = _pair(a, b)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 1.0


def iou(a: ArrayLike, b: ArrayLike) -> float:
    """Return the intersection over union (Jaccard index) of two masks.

    Parameters
    ----------
    a, b : array_like
        Of one shape, with any number of axes.

    Returns
    -------
    float
        0 to 1; 1 when both masks are empty, 0 when one is.

    Raises
    ------
    MetricError
        When the shapes differ.
    """
    first, second = _pair(a, b)
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def hd95_mm(a: ArrayLike, b: ArrayLike, spacing: Sequence[float]) -> float:
    """Return the 95th percentile of the Hausdorff distance between two masks' surfaces, in mm.

    From every face of one surface the distance to the nearest face of the other is taken, centre to centre;
    the directed distance is the smallest one that holds for at least 95 % of the surface's area. The result
    is the larger of the two directions.

    Parameters
    ----------
    a, b : array_like
        (y, x) or (z, y, x), of one shape.
    spacing : sequence of floats
        Voxel size in mm, one number for each axis.

    Returns
    -------
    float
        0 when both masks are empty, infinity when one is.

    Raises
    ------
    MetricError
        When the shapes differ, or the spacing is not one number above 0 for each axis.
    """
    first, second = _pair(a, b)
    sizes = _checked_spacing(spacing, first.ndim)
    if not first.any() or not second.any():
        return 0.0 if first.any() == second.any() else math.inf
    (from_a, area_a), (from_b, area_b) = _surface_distances(first, second, sizes)
    return max(_weighted_percentile(from_a, area_a, 0.95), _weighted_percentile(from_b, area_b, 0.95))


def surface_dice(a: ArrayLike, b: ArrayLike, spacing: Sequence[float], tolerance_mm: float) -> float:
    """Return the part of both surfaces that lies within a tolerance of the other one.

    The surface Dice of Nikolov et al. 2018 (https://arxiv.org/abs/1809.04430), with the faces described at
    the top of this module as surface elements: the area of either surface whose distance to the other is at
    most `tolerance_mm`, over the area of both.

    Parameters
    ----------
    a, b : array_like
        (y, x) or (z, y, x), of one shape.
    spacing : sequence of floats
        Voxel size in mm, one number for each axis.
    tolerance_mm : float
        What distance does not matter, from 0 up.

    Returns
    -------
    float
        0 to 1; 1 when both masks are empty, 0 when one is.

    Raises
    ------
    MetricError
        When the shapes differ, the spacing is not one number above 0 for each axis, or the tolerance is
        negative.
    """
    first, second = _pair(a, b)
    sizes = _checked_spacing(spacing, first.ndim)
    if not tolerance_mm >= 0:
        raise MetricError(f"The tolerance must be a number of mm from 0 up, not {tolerance_mm}.")
    if not first.any() or not second.any():
        return 1.0 if first.any() == second.any() else 0.0
    (from_a, area_a), (from_b, area_b) = _surface_distances(first, second, sizes)
    # Distances are sums of squares of rounded numbers: one that is meant to equal the tolerance must pass.
    limit = tolerance_mm * (1 + 1e-9)
    within = area_a[from_a <= limit].sum() + area_b[from_b <= limit].sum()
    return float(within / (area_a.sum() + area_b.sum()))


def volume_ml(mask: ArrayLike, spacing: Sequence[float]) -> float:
    """Return the volume of a mask in mL: the number of its voxels times the volume of one.

    Parameters
    ----------
    mask : array_like
        (z, y, x).
    spacing : sequence of 3 floats
        Voxel size in mm.

    Returns
    -------
    float
        0 when the mask is empty.

    Raises
    ------
    MetricError
        When the mask has not three axes, or the spacing is not three numbers above 0.
    """
    found = np.asarray(mask)
    if found.ndim != 3:
        raise MetricError(f"A volume needs a mask of three axes (z, y, x), not one of shape {found.shape}.")
    return np.count_nonzero(found) * math.prod(_checked_spacing(spacing, 3)) / 1000.0


@dataclass(frozen=True)
class RecistDiameters:
    """The two diameters of a lesion on one slice.

    Attributes
    ----------
    long_mm, short_mm : float
        Length of the longest diameter, and of the longest one perpendicular to it.
    endpoints : tuple of lines
        The long line and then the short line, each ((y0, x0), (y1, x1)) in pixels, as napari draws them;
        nothing when the mask was empty.
    """

    long_mm: float
    short_mm: float
    endpoints: tuple[Line, ...]


def recist_mm(mask2d: ArrayLike, spacing: Sequence[float]) -> RecistDiameters:
    """Measure a lesion on one slice as RECIST 1.1 does: longest diameter, and longest perpendicular one.

    Only the largest part of the mask counts (8 neighbours; of equal ones the first in array order). The
    long diameter is the largest distance between two points of its convex hull, drawn around the middles of
    the pixels' outer edges, so that a bar n pixels long measures n pixels; it may cross a notch. On random
    ellipses of 3 to 30 px half axis this is 0.2 to 0.6 px too long on average; pixel corners would be 0.7
    to 1.0 px too long, pixel centres 0.3 to 0.7 px too short. The short diameter is the longest unbroken
    run inside the mask along a line perpendicular to the long one, sampled at an eighth of a pixel (coarser
    on lesions of more than about a hundred pixels), and cut to the length of the long one where a staircase
    would make it longer.

    Parameters
    ----------
    mask2d : array_like
        (y, x).
    spacing : sequence of 2 floats
        Pixel size (y, x) in mm.

    Returns
    -------
    RecistDiameters
        Zeros and no lines when the mask is empty.

    Raises
    ------
    MetricError
        When the mask has not two axes, or the spacing is not two numbers above 0.
    """
    found, sizes = _checked_slice(mask2d, spacing)
    if not found.any():
        return RecistDiameters(0.0, 0.0, ())
    lesion = _largest_part(found)
    a, b = _longest_diameter(lesion, sizes)
    c, d = _perpendicular_diameter(lesion, sizes, a, b)
    lines = tuple(
        ((float(p[0]), float(p[1])), (float(q[0]), float(q[1])))
        for p, q in ((a / sizes, b / sizes), (c / sizes, d / sizes))
    )
    return RecistDiameters(float(np.hypot(*(b - a))), float(np.hypot(*(d - c))), lines)


def long_diameter_mm(mask2d: ArrayLike, spacing: Sequence[float]) -> float:
    """Return the long diameter of `recist_mm` alone, in a fraction of the time.

    Parameters
    ----------
    mask2d : array_like
        (y, x).
    spacing : sequence of 2 floats
        Pixel size (y, x) in mm.

    Returns
    -------
    float
        0 when the mask is empty.

    Raises
    ------
    MetricError
        When the mask has not two axes, or the spacing is not two numbers above 0.
    """
    found, sizes = _checked_slice(mask2d, spacing)
    if not found.any():
        return 0.0
    a, b = _longest_diameter(_largest_part(found), sizes)
    return float(np.hypot(*(b - a)))


def _checked_slice(
    mask2d: ArrayLike, spacing: Sequence[float]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    found = np.asarray(mask2d) != 0
    if found.ndim != 2:
        raise MetricError(f"RECIST diameters need a mask of two axes (y, x), not one of shape {found.shape}.")
    return found, np.array(_checked_spacing(spacing, 2))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    first, second = np.asarray(a) != 0, np.asarray(b) != 0
    if first.shape != second.shape:
        raise MetricError(f"Two masks of one shape are needed, not {first.shape} and {second.shape}.")
    return first, second


def _checked_spacing(spacing: Sequence[float], ndim: int) -> tuple[float, ...]:
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != ndim or not all(0 < size < math.inf for size in sizes):
        raise MetricError(f"The spacing must be {ndim} numbers of mm above 0, not {sizes}.")
    return sizes


def _faces(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Mark, for each axis, the faces across it between inside and outside; face i comes before pixel i."""
    found = []
    for axis in range(mask.ndim):
        padded = np.moveaxis(np.pad(mask, [(int(i == axis),) * 2 for i in range(mask.ndim)]), axis, 0)
        found.append(np.moveaxis(padded[1:] != padded[:-1], 0, axis))
    return found


def _centres_mm(
    faces: Sequence[NDArray[np.bool_]], sizes: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    found = []
    for axis, marked in enumerate(faces):
        index = np.argwhere(marked).astype(np.float64)
        index[:, axis] -= 0.5
        found.append(index * sizes)
    return np.concatenate(found)


def _surface_distances(
    a: NDArray[np.bool_], b: NDArray[np.bool_], sizes: Sequence[float]
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return distances to the other surface (mm) and areas of all faces of `a`, and the same of `b`."""
    from scipy.spatial import cKDTree

    region = occupied_region(a | b)
    faces_a, faces_b = _faces(a[region]), _faces(b[region])
    results = []
    for mine, other in ((faces_a, faces_b), (faces_b, faces_a)):
        # Most faces of two good masks coincide: only the others need a search.
        lone = [m & ~o for m, o in zip(mine, other, strict=True)]
        tree = cKDTree(_centres_mm(other, sizes), balanced_tree=False, compact_nodes=False)
        distances = [tree.query(_centres_mm(lone, sizes))[0]]
        areas = []
        for axis, marked in enumerate(lone):
            areas.append(np.full(np.count_nonzero(marked), math.prod(sizes) / sizes[axis]))
        for axis, (m, o) in enumerate(zip(mine, other, strict=True)):
            shared = np.count_nonzero(m & o)
            distances.append(np.zeros(shared))
            areas.append(np.full(shared, math.prod(sizes) / sizes[axis]))
        results.append((np.concatenate(distances), np.concatenate(areas)))
    return results[0], results[1]


def _weighted_percentile(values: NDArray[np.float64], weights: NDArray[np.float64], fraction: float) -> float:
    """Return the smallest value that at least `fraction` of the weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, fraction * reached[-1] * (1 - 1e-12))])


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    parts, _ = label(mask, structure=np.ones((3, 3)))
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _longest_diameter(
    lesion: NDArray[np.bool_], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends (y, x) in mm of the longest line between two middles of outer edges."""
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist, squareform

    points = _centres_mm(_faces(lesion), sizes)
    corners = points[ConvexHull(points).vertices]
    distances = squareform(pdist(corners))
    i, j = np.unravel_index(np.argmax(distances), distances.shape)
    return corners[i], corners[j]


def _perpendicular_diameter(
    lesion: NDArray[np.bool_], sizes: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends (y, x) in mm of the longest run inside the lesion along lines perpendicular to a-b."""
    along = (b - a) / np.hypot(*(b - a))
    across = np.array([-along[1], along[0]])
    frame = np.stack([along, across])
    reach = np.abs(frame) @ sizes / 2
    centres = (np.argwhere(lesion) * sizes) @ frame.T
    low, high = centres.min(axis=0) - reach, centres.max(axis=0) + reach
    step = max(sizes.min() / _STEPS_PER_PIXEL, math.sqrt(np.prod(high - low) / _MOST_SAMPLES))
    s, w = (low[i] + step * (np.arange(math.ceil((high[i] - low[i]) / step)) + 0.5) for i in (0, 1))
    pixels = np.rint((s[:, None, None] * along + w[:, None] * across) / sizes).astype(int)
    within = ((pixels >= 0) & (pixels < lesion.shape)).all(axis=-1)
    inside = within & lesion[tuple(np.moveaxis(np.where(within[..., None], pixels, 0), -1, 0))]
    order = np.arange(len(w))
    runs = order - np.maximum.accumulate(np.where(inside, -1, order), axis=1)
    longest = runs.max(axis=1)
    ties = np.flatnonzero(longest == longest.max())
    # A bar is as wide everywhere: in its middle is where one would measure.
    line = ties[np.abs(s[ties] - (a + b) @ along / 2).argmin()]
    end = runs[line].argmax()
    length = runs[line, end] * step
    middle = s[line] * along + (w[end] + (step - length) / 2) * across
    half = min(length, np.hypot(*(b - a))) / 2 * across
    return middle - half, middle + half
