"""Corrections of an object that are already drawn: larger, smaller, filled, smooth, in one piece, in between.

They work slice by slice, since slices are often thick; only "in one piece" looks at the volume as a whole.
Like everything that computes, they change nothing: what they yield is for `Session.write`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.postprocess import fill_holes, interpolate_slices, largest_component, smooth_contour
from napari_medsam.prompts import PromptError, SliceIndex

if TYPE_CHECKING:
    from napari_medsam.propagation import SliceMask

Mask = NDArray[np.bool_]

SMOOTHING_RADIUS_PX = 2.0


def _grow(mask: Mask) -> Mask:
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask)


def _shrink(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion

    return binary_erosion(mask, border_value=1)


def _smooth(mask: Mask) -> Mask:
    return smooth_contour(mask, SMOOTHING_RADIUS_PX)


OPERATIONS: Mapping[str, Callable[[Mask], Mask]] = MappingProxyType(
    {
        "grow": _grow,
        "shrink": _shrink,
        "fill_holes": fill_holes,
        "keep_largest": largest_component,
        "smooth": _smooth,
    }
)
"""From a mask (H, W) to the corrected one, by name; growing and shrinking go one pixel at a time."""


def correct(
    labels: NDArray[np.uint16], label: int, operation: str, where: SliceIndex, *, whole: bool
) -> Iterator[SliceMask]:
    """Correct an object on one slice, or on all that lie along the same axis.

    Parameters
    ----------
    labels : numpy.ndarray of uint16
        (z, y, x), read only.
    label
        The object.
    operation
        Key of `OPERATIONS`.
    where
        The slice, or any slice of the axis when `whole`.
    whole
        Every slice that has the object; "keep_largest" then keeps the largest part of the volume.

    Yields
    ------
    SliceMask
        One for each slice that changes.
    """
    kept = None
    if whole and operation == "keep_largest":
        kept = largest_component(labels == label)
    for index in _occupied(labels, label, where.axis) if whole else [where.index]:
        here = SliceIndex(where.axis, index)
        before = here.take(labels) == label
        after = OPERATIONS[operation](before) if kept is None else here.take(kept)
        if (before != after).any():
            yield _part(here, label, after)


def interpolate(
    labels: NDArray[np.uint16], label: int, where: SliceIndex, *, whole: bool
) -> Iterator[SliceMask]:
    """Fill the slices between two that have an object, where it has none.

    Parameters
    ----------
    labels : numpy.ndarray of uint16
        (z, y, x), read only.
    label
        The object.
    where
        A slice in the gap, or any slice of the axis when `whole`.
    whole
        Fill every gap.

    Yields
    ------
    SliceMask
        One for each slice that was filled.

    Raises
    ------
    PromptError
        When there is no gap to fill.
    """
    occupied = _occupied(labels, label, where.axis)
    gaps = [(a, b) for a, b in pairwise(occupied) if b > a + 1]
    if not whole:
        gaps = [(a, b) for a, b in gaps if a < where.index < b]
    if not gaps:
        raise PromptError(
            f"Object {label} has no gap to fill here: draw it on two slices with empty ones between, and go "
            "to one of these."
        )
    for first, last in gaps:
        ends = [SliceIndex(where.axis, index).take(labels) == label for index in (first, last)]
        for n, mask in enumerate(interpolate_slices(ends[0], ends[1], last - first - 1), start=1):
            if mask.any():
                yield _part(SliceIndex(where.axis, first + n), label, mask)


def _part(where: SliceIndex, label: int, mask: Mask) -> SliceMask:
    from napari_medsam.propagation import SliceMask

    return SliceMask(where, label, mask, 1.0, "corrected")


def _occupied(labels: NDArray[np.uint16], label: int, axis: int) -> list[int]:
    return [
        index for index in range(labels.shape[axis]) if (SliceIndex(axis, index).take(labels) == label).any()
    ]
