"""How others carry a mask through a volume, with the same model, as yardsticks for `propagation.py`.

Written anew from what the programs do: the first form of this package, MedSAM's volume script
(bowang-lab/MedSAM) and micro-sam's `segment_mask_in_volume` (computational-cell-analytics/micro-sam).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.prompts import FOREGROUND, SliceIndex, SlicePrompts, box_from_mask, point_from_mask
from napari_medsam.propagation.shapes import grown

if TYPE_CHECKING:
    from napari_medsam.predictor import Prediction
    from napari_medsam.session import Session

Mask = NDArray[np.bool_]
Step = Callable[[int, Mask], "Mask | None"]
MICRO_SAM_IOU = 0.5
MICRO_SAM_EXTENSION = 0.05
MEDSAM_MARGIN_AT_256 = 5.0


class Stack:
    """A volume's slices along axis 0, asked one at a time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.depth, *shape = session.labels.shape
        self.shape = (shape[0], shape[1])
        self.spacing = session.volume.geometry.spacing

    def ask(self, index: int, prompts: SlicePrompts, mask: Mask | None = None) -> Prediction:
        """Predict on a slice."""
        return self.session.predict(SliceIndex(0, index), prompts, mask)

    def grey(self, index: int) -> NDArray[np.float32]:
        """The windowed slice."""
        image = self.session.image(SliceIndex(0, index))
        return image if image.ndim == 2 else image.mean(2)

    def carried(self, z: int, start: Mask, step: Step) -> NDArray[np.bool_]:
        """Call `step` with each next slice and the mask before it, both ways, until it says None."""
        out = np.zeros((self.depth, *self.shape), bool)
        out[z] = start
        for order in (range(z + 1, self.depth), range(z - 1, -1, -1)):
            before = start
            for index in order:
                mask = step(index, before)
                if mask is None:
                    break
                out[index] = before = mask
        return out


def first_form(stack: Stack, z: int, start: Mask) -> NDArray[np.bool_]:
    """Box with a margin and mask, believed as far as fixed rules allow: this package before issue 5."""
    slice_mm, *pixel_mm = stack.spacing
    reach = [max(1, ceil(1.5 * slice_mm / mm)) for mm in pixel_mm]
    radius_mm = sqrt(int(start.sum()) * pixel_mm[0] * pixel_mm[1] / pi)
    values = stack.grey(z)[start]
    mean, spread = float(values.mean()), max(float(values.std()), 0.04)

    def step(index: int, before: Mask) -> Mask | None:
        y0, x0, y1, x1 = box_from_mask(before) or (0, 0, 0, 0)
        dy, dx = 1 + 0.06 * (y1 - y0), 1 + 0.06 * (x1 - x0)
        found = stack.ask(index, SlicePrompts((y0 - dy, x0 - dx, y1 + dy, x1 + dx)), before)
        mask = found.masks[0] & grown(before, reach)
        old, area = int(before.sum()), int(mask.sum())
        wanted = min(0.3 + 0.15 * max(0.0, abs(index - z) * slice_mm / radius_mm - 1), 0.7)
        if area < 6 or found.scores[0] < wanted or max(old, area) > 2.5 * min(old, area):
            return None
        shift = abs(float(stack.grey(index)[mask].mean()) - mean) / spread
        return None if _iou(before, mask) < 0.15 or shift > 1.5 else mask

    return stack.carried(z, start, step)


def medsam(stack: Stack, z: int, start: Mask) -> NDArray[np.bool_]:
    """The box of the mask before with a fixed margin; the last box goes on where the mask is empty."""
    margin = MEDSAM_MARGIN_AT_256 * max(stack.shape) / 256
    last = [SlicePrompts()]

    def step(index: int, before: Mask) -> Mask:
        box = box_from_mask(before, margin)
        if box is not None:
            last[0] = SlicePrompts(box)
        return stack.ask(index, last[0]).masks[0]

    return stack.carried(z, start, step)


def micro_sam(mode: str) -> Callable[[Stack, int, Mask], NDArray[np.bool_]]:
    """Return micro-sam's rule in the mode ``"single_point"``, ``"mask"`` or ``"box"``."""

    def carry(stack: Stack, z: int, start: Mask) -> NDArray[np.bool_]:
        def step(index: int, before: Mask) -> Mask | None:
            box = box_from_mask(before)
            if box is None:
                return None
            y0, x0, y1, x1 = box
            dy, dx = MICRO_SAM_EXTENSION * (y1 - y0), MICRO_SAM_EXTENSION * (x1 - x0)
            prompts = SlicePrompts((y0 - dy, x0 - dx, y1 + dy, x1 + dx))
            if mode == "single_point":
                point = point_from_mask(before)
                prompts = SlicePrompts(points=(point or (0.0, 0.0),), labels=(FOREGROUND,))
            mask = stack.ask(index, prompts, before if mode == "mask" else None).masks[0]
            return mask if _iou(before, mask) >= MICRO_SAM_IOU else None

        return stack.carried(z, start, step)

    return carry


RULES = {
    "first form": first_form,
    "MedSAM's": medsam,
    "micro-sam's, point": micro_sam("single_point"),
    "micro-sam's, mask": micro_sam("mask"),
    "micro-sam's, box": micro_sam("box"),
}


def boxes_everywhere(stack: Stack, boxes: Iterator[tuple[int, SlicePrompts]]) -> NDArray[np.bool_]:
    """The bound: somebody draws a box on every slice."""
    out = np.zeros((stack.depth, *stack.shape), bool)
    for index, prompts in boxes:
        out[index] = stack.ask(index, prompts).masks[0]
    return out


def _iou(a: Mask, b: Mask) -> float:
    return int((a & b).sum()) / max(1, int((a | b).sum()))
