"""A segmentation in progress: the volume, its label map, the objects and their prompts.

Every front end, graphical or not, talks to a `Session`; it knows neither Qt nor napari. Computing and writing
are separate, so that a thread may compute while only one place ever writes.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from napari_medsam.predictor import Prediction, SlicePredictor
from napari_medsam.prompts import ObjectPrompts, PromptError, SliceIndex, SlicePrompts
from napari_medsam.propagation import SliceMask, StopRules, propagate
from napari_medsam.volume import Volume
from napari_medsam.windowing import Window, apply_window, default_window


class Session:
    """One volume being segmented.

    Parameters
    ----------
    volume
        Never changed.
    predictor
        The model to ask.
    window
        Which intensities the model sees; `default_window` when None.
    labels : numpy.ndarray of uint16, optional
        (z, y, x) label map to go on with; shared, not copied. Empty when None.

    Raises
    ------
    PromptError
        When the label map has another shape or type.
    """

    def __init__(
        self,
        volume: Volume,
        predictor: SlicePredictor,
        *,
        window: Window | None = None,
        labels: NDArray[np.uint16] | None = None,
    ) -> None:
        shape = volume.geometry.shape
        if labels is not None and (labels.shape != shape or labels.dtype != np.uint16):
            raise PromptError(
                f"A label map for this volume must be uint16 of shape {shape}, "
                f"not {labels.dtype} of {labels.shape}."
            )
        self.volume = volume
        self.predictor = predictor
        self.window = window or default_window(volume)
        self.labels = np.zeros(shape, np.uint16) if labels is None else labels
        self.objects: dict[int, ObjectPrompts] = {}

    def add_prompts(self, label: int, where: SliceIndex, prompts: SlicePrompts, name: str = "") -> None:
        """Set the prompts of one object on one slice; empty prompts take them away.

        Raises
        ------
        PromptError
            When the label or the slice is out of range.
        """
        where.checked(self.volume.geometry.shape)
        known = self.objects.get(label, ObjectPrompts(label, name))
        slices = {k: v for k, v in known.slices.items() if k != where}
        if not prompts.is_empty:
            slices[where] = prompts
        self.objects[label] = ObjectPrompts(label, name or known.name, slices)

    def segment(self, where: SliceIndex, label: int) -> SliceMask:
        """Compute one object's mask on a slice that has prompts for it; nothing is written.

        Raises
        ------
        PromptError
            When there are none, or they do not say where the object is.
        """
        known = self.objects.get(label)
        if known is None or where not in known.slices:
            raise PromptError(f"Object {label} has no prompts on slice {where.index} of axis {where.axis}.")
        found = self.predict(where, known.slices[where], None)
        return SliceMask(where, label, found.masks[0], float(found.scores[0]), "prompt")

    def propagate(
        self,
        axis: int,
        label: int,
        first: int | None = None,
        last: int | None = None,
        rules: StopRules | None = None,
    ) -> Iterator[SliceMask]:
        """Compute one object on all slices along an axis, from every slice that has prompts for it.

        Between two such slices the object is carried from both, each to the middle.

        Parameters
        ----------
        axis
            Array axis, 0 to 2.
        label
            The object.
        first, last
            Slices to stay within, inclusive; all when None.
        rules
            When an object counts as ended.

        Yields
        ------
        SliceMask
            One per slice in the order of work; nothing is written.

        Raises
        ------
        PromptError
            When the object has no prompts on this axis, or none within the range.
        """
        first, last = self._range(axis, first, last)
        known = self.objects.get(label)
        keys = sorted(w.index for w in known.slices if w.axis == axis) if known else []
        keys = [k for k in keys if first <= k <= last]
        if not keys:
            raise PromptError(
                f"Object {label} has no prompts on slices {first} to {last} of axis {axis}: "
                "nothing to carry on."
            )
        # Half way between two such slices, each side is carried from its own; no slice is computed twice.
        middles = [(a + b) // 2 for a, b in pairwise(keys)]
        for key, lowest, highest in zip(
            keys, [first, *(m + 1 for m in middles)], [*middles, last], strict=True
        ):
            start = self.segment(SliceIndex(axis, key), label)
            yield start
            yield from propagate(self, start, lowest, highest, self.volume.geometry.spacing, rules)

    def write(self, part: SliceMask) -> None:
        """Put a mask into the label map; the object's old pixels on the slice go, other objects are kept."""
        if part.stopped:
            return
        plane = part.where.take(self.labels)
        plane[plane == part.label] = 0
        plane[part.mask & (plane == 0)] = part.label

    def image(self, where: SliceIndex) -> NDArray[np.float32]:
        """Return a slice as the model sees it: (H, W) or (H, W, 3), windowed to [0, 1]."""
        return apply_window(where.take(self.volume.array), self.window)

    def predict(
        self, where: SliceIndex, prompts: SlicePrompts, previous: NDArray[np.bool_] | None
    ) -> Prediction:
        """Predict on a slice from prompts and, if there is one, the mask of a neighbouring slice."""
        key = (self.volume, self.window, where)
        if key != self.predictor.key:
            self.predictor.set_slice(self.image(where), key)
        return self.predictor.predict(prompts, previous)

    def _range(self, axis: int, first: int | None, last: int | None) -> tuple[int, int]:
        end = self.volume.geometry.shape[SliceIndex(axis, 0).axis] - 1
        first, last = 0 if first is None else first, end if last is None else last
        if not 0 <= first <= last <= end:
            raise PromptError(f"Slices {first} to {last} do not exist along axis {axis}: it has 0 to {end}.")
        return first, last
