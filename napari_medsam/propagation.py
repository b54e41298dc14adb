"""Carry a mask from its slice to the neighbouring slices until the object ends.

The first form: the box of the previous mask plus a margin, and the previous mask itself, prompt the next
slice, in both directions, as MedSAM's volume script does with boxes alone (bowang-lab/MedSAM). Every stop
has a reason.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_medsam.predictor import Prediction
from napari_medsam.prompts import SliceIndex, SlicePrompts, box_from_mask

MARGIN_SHARE = 0.06
MARGIN_PX = 1.0


@dataclass(frozen=True, eq=False)
class SliceMask:
    """One object's mask on one slice, and how it came about.

    Attributes
    ----------
    where
        The slice.
    label
        The object's value in the label map.
    mask : numpy.ndarray of bool
        (H, W); empty where the object was found to have ended.
    score
        Estimated IoU in [0, 1].
    reason
        ``"prompt"``, ``"propagated"``, or why the object was found to end here.
    stopped
        True on the slice after the object's last, which is not to be written.
    """

    where: SliceIndex
    label: int
    mask: NDArray[np.bool_]
    score: float
    reason: str
    stopped: bool = False


@dataclass(frozen=True)
class StopRules:
    """When an object counts as ended.

    Attributes
    ----------
    min_score
        Least estimated IoU of a mask that is still believed.
    max_change
        Largest ratio of areas, either way, between neighbouring slices.
    min_overlap
        Least IoU of neighbouring masks.
    min_area_px
        Least area in pixels.
    """

    min_score: float = 0.4
    max_change: float = 2.5
    min_overlap: float = 0.15
    min_area_px: int = 6

    def reason_to_stop(self, previous: NDArray[np.bool_], mask: NDArray[np.bool_], score: float) -> str:
        """Say why the object ends between two neighbouring slices; empty when it goes on."""
        before, area = int(previous.sum()), int(mask.sum())
        if area < self.min_area_px:
            return f"no more than {area} px of the object were found"
        if score < self.min_score:
            return f"the estimated quality fell to {score:.2f}"
        if max(before, area) > self.max_change * min(before, area):
            return f"the area jumped from {before} to {area} px"
        overlap = int((previous & mask).sum()) / int((previous | mask).sum())
        if overlap < self.min_overlap:
            return f"the mask moved away: its overlap with the previous slice is {overlap:.2f}"
        return ""


PredictSlice = Callable[[SliceIndex, SlicePrompts, NDArray[np.bool_]], Prediction]
"""Predicts on a slice from prompts and the mask of the slice before."""


def propagate(
    predict: PredictSlice, start: SliceMask, first: int, last: int, rules: StopRules | None = None
) -> Iterator[SliceMask]:
    """Carry a mask towards `last`, then towards `first`.

    Parameters
    ----------
    predict
        Predicts on a slice.
    start
        Where to begin; not yielded again.
    first, last
        Slices of the start's axis to stay within, inclusive.
    rules
        When to stop.

    Yields
    ------
    SliceMask
        One per slice in the order of work. The last one of a direction has ``stopped`` set and an empty mask
        when the object ended before the range did.
    """
    rules = rules or StopRules()
    for step, end in ((1, last), (-1, first)):
        yield from _one_way(predict, start, step, end, rules)


def _one_way(
    predict: PredictSlice, start: SliceMask, step: int, end: int, rules: StopRules
) -> Iterator[SliceMask]:
    previous, where = start.mask, start.where
    while (end - where.index) * step > 0 and previous.any():
        where = where.shifted(step)
        found = predict(where, SlicePrompts(box=carried_box(previous)), previous)
        mask, score = found.masks[0], float(found.scores[0])
        reason = rules.reason_to_stop(previous, mask, score)
        if reason:
            yield SliceMask(where, start.label, np.zeros_like(mask), score, reason, stopped=True)
            return
        yield SliceMask(where, start.label, mask, score, "propagated")
        previous = mask


def carried_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Box (y0, x0, y1, x1) of a mask, not empty, grown by `MARGIN_PX` and `MARGIN_SHARE` of its side."""
    box = box_from_mask(mask)
    if box is None:
        raise ValueError("An empty mask has no box to carry on.")
    y0, x0, y1, x1 = box
    dy, dx = MARGIN_PX + MARGIN_SHARE * (y1 - y0), MARGIN_PX + MARGIN_SHARE * (x1 - x0)
    return y0 - dy, x0 - dx, y1 + dy, x1 + dx
