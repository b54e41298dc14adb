"""Carry a mask from its slice to the neighbouring slices until the object ends.

The first form: the box of the previous mask plus a margin, and the previous mask itself, prompt the next
slice, in both directions, as MedSAM's volume script does with boxes alone (bowang-lab/MedSAM). What the model
returns is believed only as far as an object can change between two slices, and every stop has a reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, pi, sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_medsam.predictor import Prediction
from napari_medsam.prompts import SliceIndex, SlicePrompts, box_from_mask

MARGIN_SHARE = 0.06
MARGIN_PX = 1.0

Mask = NDArray[np.bool_]


class SliceSource(Protocol):
    """Where propagation gets slices and predictions from."""

    def image(self, where: SliceIndex) -> NDArray[np.float32]:
        """Return the slice, (H, W) or (H, W, 3), windowed to [0, 1]."""
        ...

    def predict(self, where: SliceIndex, prompts: SlicePrompts, previous: Mask | None) -> Prediction:
        """Predict on the slice from prompts and the mask of the slice before."""
        ...


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
    mask: Mask
    score: float
    reason: str
    stopped: bool = False


@dataclass(frozen=True)
class StopRules:
    """How an object may change from slice to slice, and when it counts as ended.

    Attributes
    ----------
    steepest
        Millimetres by which an outline may move outwards for each millimetre between slices.
    min_score
        Least estimated IoU of a mask that is still believed near the prompt.
    far_score
        How much more is asked for at each further object radius from the prompt: most objects are about as
        deep as they are wide, and one that goes on for longer must show it.
    most_score
        What is asked for at most, however far away: vessels and the spine do go on.
    max_change
        Largest ratio of areas, either way, between neighbouring slices.
    min_overlap
        Least IoU of neighbouring masks.
    max_shift
        Largest change of the mean brightness since the prompt, in standard deviations of the object's own.
    min_area_px
        Least area in pixels.
    """

    steepest: float = 1.5
    min_score: float = 0.3
    far_score: float = 0.15
    most_score: float = 0.7
    max_change: float = 2.5
    min_overlap: float = 0.15
    max_shift: float = 1.5
    min_area_px: int = 6


def propagate(
    source: SliceSource,
    start: SliceMask,
    first: int,
    last: int,
    spacing: Sequence[float],
    rules: StopRules | None = None,
) -> Iterator[SliceMask]:
    """Carry a mask towards `last`, then towards `first`.

    Parameters
    ----------
    source
        Where slices and predictions come from.
    start
        Where to begin; not yielded again.
    first, last
        Slices of the start's axis to stay within, inclusive.
    spacing
        mm (z, y, x) of the volume.
    rules
        When to stop.

    Yields
    ------
    SliceMask
        One per slice in the order of work. The last one of a direction has ``stopped`` set and an empty mask
        when the object ended before the range did.
    """
    if not start.mask.any():
        return
    carrier = _Carrier(source, start, spacing, rules or StopRules())
    for step, end in ((1, last), (-1, first)):
        yield from carrier.carry(step, end)


class _Carrier:
    """What is known of the object at its start, and how to go from there."""

    def __init__(
        self, source: SliceSource, start: SliceMask, spacing: Sequence[float], rules: StopRules
    ) -> None:
        self.source, self.start, self.rules = source, start, rules
        axis = start.where.axis
        self.slice_mm = float(spacing[axis])
        pixel_mm = [float(s) for k, s in enumerate(spacing) if k != axis]
        self.reach_px = [max(1, ceil(rules.steepest * self.slice_mm / mm)) for mm in pixel_mm]
        self.radius_mm = sqrt(start.mask.sum() * pixel_mm[0] * pixel_mm[1] / pi)
        values = _grey(source.image(start.where))[start.mask]
        self.brightness, self.spread = float(values.mean()), max(float(values.std()), 0.04)

    def carry(self, step: int, end: int) -> Iterator[SliceMask]:
        previous, where, label = self.start.mask, self.start.where, self.start.label
        while (end - where.index) * step > 0:
            where = where.shifted(step)
            found = self.source.predict(where, SlicePrompts(box=carried_box(previous)), previous)
            mask, score = found.masks[0] & _grown(previous, self.reach_px), float(found.scores[0])
            reason = self._reason_to_stop(where, previous, mask, score)
            if reason:
                yield SliceMask(where, label, np.zeros_like(mask), score, reason, stopped=True)
                return
            yield SliceMask(where, label, mask, score, "propagated")
            previous = mask

    def _reason_to_stop(self, where: SliceIndex, previous: Mask, mask: Mask, score: float) -> str:
        """Say why the object ends before this slice; empty when it goes on."""
        rules = self.rules
        before, area = int(previous.sum()), int(mask.sum())
        if area < rules.min_area_px:
            return f"no more than {area} px of the object were found"
        radii = abs(where.index - self.start.where.index) * self.slice_mm / self.radius_mm
        wanted = min(rules.min_score + rules.far_score * max(0.0, radii - 1), rules.most_score)
        if score < wanted:
            return f"the estimated quality fell to {score:.2f}, below the {wanted:.2f} asked for so far away"
        if max(before, area) > rules.max_change * min(before, area):
            return f"the area jumped from {before} to {area} px"
        overlap = int((previous & mask).sum()) / int((previous | mask).sum())
        if overlap < rules.min_overlap:
            return f"the mask moved away: its overlap with the previous slice is {overlap:.2f}"
        shift = abs(float(_grey(self.source.image(where))[mask].mean()) - self.brightness) / self.spread
        if shift > rules.max_shift:
            return f"the brightness moved by {shift:.1f} standard deviations from that of the prompted slice"
        return ""


def carried_box(mask: Mask) -> tuple[float, float, float, float]:
    """Box (y0, x0, y1, x1) of a mask, not empty, grown by `MARGIN_PX` and `MARGIN_SHARE` of its side."""
    box = box_from_mask(mask)
    if box is None:
        raise ValueError("An empty mask has no box to carry on.")
    y0, x0, y1, x1 = box
    dy, dx = MARGIN_PX + MARGIN_SHARE * (y1 - y0), MARGIN_PX + MARGIN_SHARE * (x1 - x0)
    return y0 - dy, x0 - dx, y1 + dy, x1 + dx


def _grown(mask: Mask, reach_px: Sequence[int]) -> Mask:
    """Dilate by a rectangle of `reach_px` (y, x) to each side."""
    from scipy.ndimage import maximum_filter1d

    grown = maximum_filter1d(mask.view(np.uint8), 2 * reach_px[0] + 1, axis=0, mode="constant")
    return maximum_filter1d(grown, 2 * reach_px[1] + 1, axis=1, mode="constant").view(np.bool_)


def _grey(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image if image.ndim == 2 else image.mean(2)
