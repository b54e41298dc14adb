"""How far two label maps on one grid agree, label by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.metrics import dice, hd95_mm, iou, surface_dice, volume_ml

if TYPE_CHECKING:
    from napari_medsam.segments import Segmentation

__all__ = ["LabelScore", "compare_labels", "compare_masks", "compare_segments"]


@dataclass(frozen=True)
class LabelScore:
    """How well one label of a segmentation agrees with the reference.

    Attributes
    ----------
    label, name
        Number and name ("" without one).
    dice, iou, surface_dice : float
        Overlaps, 0 to 1.
    hd95_mm : float
        95th percentile of the distances between the surfaces; infinite where one of the two is empty.
    reference_ml, segmentation_ml, volume_difference_ml : float
        Volumes, and the segmentation's minus the reference's.
    reference_label : int
        Which label of the reference this is about; 0 where it has none for it.
    """

    label: int
    name: str
    dice: float
    iou: float
    hd95_mm: float
    surface_dice: float
    reference_ml: float
    segmentation_ml: float
    volume_difference_ml: float
    reference_label: int


def compare_labels(
    reference: NDArray,
    segmentation: NDArray,
    spacing: tuple[float, float, float],
    *,
    tolerance_mm: float = 2.0,
    names: Mapping[int, str] | None = None,
) -> list[LabelScore]:
    """Score every label that occurs in either of two label maps of one shape (z, y, x), in ascending order.

    Parameters
    ----------
    reference, segmentation : (z, y, x) integers
        0 is background.
    spacing : tuple of float
        mm (z, y, x).
    tolerance_mm : float
        For the surface Dice.
    names
        Names of labels, where there are any.

    Raises
    ------
    MetricError
        When the shapes differ, or the tolerance is negative.
    """
    names = names or {}
    return [
        compare_masks(
            reference == label,
            segmentation == label,
            spacing,
            label,
            names.get(label, ""),
            tolerance_mm=tolerance_mm,
        )
        for label in sorted({*np.unique(reference).tolist(), *np.unique(segmentation).tolist()} - {0})
    ]


def compare_segments(
    reference: Segmentation, segmentation: Segmentation, *, tolerance_mm: float = 2.0
) -> list[LabelScore]:
    """Score segments against those of the same name; see `compare_labels`.

    Programs number as they like, and DICOM has to. Where the reference has no such name, the segment of the
    same number is the counterpart, unless that is the counterpart of another one by its name.

    Parameters
    ----------
    reference, segmentation
        On one grid, one layer each. A segment that only the reference has keeps its label if that is free
        here, and gets the next free one if not.
    tolerance_mm
        For the surface Dice.

    Raises
    ------
    SegmentationError
        When there is more than one layer.
    MetricError
        When the shapes differ, or the tolerance is negative.
    """
    own = {segment.name.casefold(): segment.label for segment in segmentation.segments}
    numbers = {segment.label: own.get(segment.name.casefold()) for segment in reference.segments}
    taken = set(numbers.values())
    free = count(1 + max([0, *own.values(), *numbers]))
    meant = {label: n or (next(free) if label in taken else label) for label, n in numbers.items()}
    truth = np.zeros(reference.labels.shape, np.uint32)
    for label, number in meant.items():
        truth[reference.labels == label] = number
    names = {meant[each.label]: each.name for each in reference.segments}
    names |= {each.label: each.name for each in segmentation.segments}
    labels = {number: label for label, number in meant.items()}
    found = compare_labels(
        truth, segmentation.labels, segmentation.geometry.spacing, tolerance_mm=tolerance_mm, names=names
    )
    return [replace(score, reference_label=labels.get(score.label, 0)) for score in found]


def compare_masks(
    truth: NDArray[np.bool_],
    result: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    label: int,
    name: str = "",
    *,
    reference_label: int | None = None,
    tolerance_mm: float = 2.0,
) -> LabelScore:
    """Score one object against its mask in the reference, both (z, y, x); see `compare_labels`.

    The reference's label is the object's own where none is given.
    """
    # A lone slice has an outline only; taken as a volume it would have a top and a bottom, too.
    flat = next((axis for axis, count in enumerate(truth.shape) if count == 1), None)
    sizes = [size for axis, size in enumerate(spacing) if axis != flat]
    surfaces: tuple[NDArray, NDArray] = (truth, result)
    if flat is not None:
        surfaces = truth.squeeze(flat), result.squeeze(flat)
    reference_ml, segmentation_ml = volume_ml(truth, spacing), volume_ml(result, spacing)
    return LabelScore(
        label=label,
        name=name,
        dice=dice(truth, result),
        iou=iou(truth, result),
        hd95_mm=hd95_mm(*surfaces, sizes),
        surface_dice=surface_dice(*surfaces, sizes, tolerance_mm),
        reference_ml=reference_ml,
        segmentation_ml=segmentation_ml,
        volume_difference_ml=segmentation_ml - reference_ml,
        reference_label=label if reference_label is None else reference_label,
    )
