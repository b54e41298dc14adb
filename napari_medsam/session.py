"""A segmentation in progress: the volume, its label map, the objects and their prompts.

Every front end, graphical or not, talks to a `Session`; it knows neither Qt nor napari. Computing and writing
are separate, so that a thread may compute while only one place ever writes. Importing this module does not
load torch: a window may show a session before the model is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.journal import Do, RecordedState
from napari_medsam.metrics import iou
from napari_medsam.prompts import PromptError, SliceIndex, SlicePrompts
from napari_medsam.propagation import (
    ACCEPTED,
    CLEARED,
    CORRECTED,
    PROMPT,
    Predictor,
    Review,
    SliceMask,
    StopRules,
    propagate,
    vote,
)
from napari_medsam.windowing import Window, apply_window, default_window

if TYPE_CHECKING:
    from napari_medsam.predictor import Prediction
    from napari_medsam.volume import Volume

__all__ = ["ACCEPTED", "CORRECTED", "Session"]

SAME_MASK_IOU = 0.9
"""Candidates that overlap more than this are one answer to a person."""


class Session(RecordedState):
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
    model_name
        What the predictor asks, as for `napari_medsam.models.zoo.load_model`; the journal says so of every
        mask.

    Attributes
    ----------
    objects : dict of int to ObjectPrompts
        By label, in the order in which they were made.
    ledger : Ledger
        What is known of every object's slices: key slices, and reports on the others.
    journal : Journal
        All that was done; see `doing`, `undo` and `redo`.
    protect_others : bool
        Whether writing an object leaves the pixels of other objects alone. When not, it takes them, but never
        on their key slices.

    Raises
    ------
    PromptError
        When the label map has another shape or type.
    """

    def __init__(
        self,
        volume: Volume,
        predictor: Predictor,
        *,
        window: Window | None = None,
        labels: NDArray[np.uint16] | None = None,
        model_name: str = "",
    ) -> None:
        shape = volume.geometry.shape
        if labels is not None and (labels.shape != shape or labels.dtype != np.uint16):
            raise PromptError(
                f"A label map for this volume must be uint16 of shape {shape}, "
                f"not {labels.dtype} of {labels.shape}."
            )
        self.volume = volume
        self.predictor = predictor
        self.model_name = model_name
        self.window = window or default_window(volume)
        super().__init__(np.zeros(shape, np.uint16))
        self.protect_others = True
        if labels is not None:
            self.adopt(labels, ())

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
        return SliceMask(where, label, found.masks[0], float(found.scores[0]), PROMPT)

    def candidates(self, where: SliceIndex, label: int) -> tuple[SliceMask, ...]:
        """Compute what an object's prompts on a slice may mean, the likeliest first; nothing is written.

        Returns
        -------
        tuple of SliceMask
            At least one; no two of them overlap by more than `SAME_MASK_IOU`.

        Raises
        ------
        PromptError
            When there are no prompts, or they do not say where the object is.
        """
        first = self.segment(where, label)
        found = self.predictor.predict(self.objects[label].slices[where], None, multimask_output=True)
        kept = [first]
        for mask, score in zip(found.masks, found.scores, strict=True):
            if mask.any() and all(iou(mask, other.mask) <= SAME_MASK_IOU for other in kept):
                kept.append(SliceMask(where, label, mask, float(score), PROMPT))
        return tuple(kept)

    def propagate(
        self,
        axis: int,
        label: int | Iterable[int],
        first: int | None = None,
        last: int | None = None,
        rules: StopRules | None = None,
    ) -> Iterator[SliceMask]:
        """Compute objects on all slices along an axis, from every slice that is known of them.

        Such key slices are those that have prompts, were corrected or accepted. They come first, with the
        mask that they have; where prompts were not answered yet, with the model's answer. Between two of them
        an object is carried from both sides.

        Parameters
        ----------
        axis
            Array axis, 0 to 2.
        label
            The object, or several that are carried together: one pass of the model for each slice, and
            pixels that several want go to one of them.
        first, last
            Slices to stay within, inclusive; all when None.
        rules
            When an object counts as ended.

        Yields
        ------
        SliceMask
            At most one per object and slice in the order of work; nothing is written. In the end come empty
            masks for slices to which an earlier run had carried an object that now ends before them.

        Raises
        ------
        PromptError
            When an object has neither prompts nor key slices on this axis within the range.
        """
        first, last = self._range(axis, first, last)
        labels = [label] if isinstance(label, int) else list(label)
        known = {each: self._starts(axis, each, first, last) for each in labels}
        stale = [r for each in labels for r in self.ledger.carried(each, axis, first, last)]
        starts, shown = [], set()
        for each, slices in known.items():
            for where in slices:
                starts.append(self._start(where, each))
                yield starts[-1]
        for part in propagate(self, starts, first, last, self.volume.geometry.spacing, rules):
            if not part.stopped:
                shown.add((part.label, part.where))
            yield part
        for report in stale:
            if (report.label, report.where) not in shown and report.where not in known[report.label]:
                nothing = np.zeros(report.where.take(self.labels).shape, bool)
                yield SliceMask(report.where, report.label, nothing, 1.0, CLEARED)

    def propagate_in_planes(
        self,
        axis: int,
        label: int,
        first: int | None = None,
        last: int | None = None,
        rules: StopRules | None = None,
    ) -> Iterator[SliceMask]:
        """Compute an object along all axes, and keep what at least two of them agree on; see `propagate`.

        Key slices of `axis` are where it starts. Nothing is yielded before all axes are done.
        """
        parts = list(self.propagate(axis, label, first, last, rules))
        yield from vote(self, parts, self.labels.shape, self.volume.geometry.spacing, rules)

    def recompute(self, where: SliceIndex, label: int, rules: StopRules | None = None) -> Iterator[SliceMask]:
        """Compute again what hangs on one slice, after its mask or its prompts changed.

        That is the slices up to the neighbouring key slices on both sides, or to where the object ends.
        Parameters, yields and errors are those of `propagate`.
        """
        keys = {index for each in self._given(where.axis, label) if (index := each.index) != where.index}
        first = max((index for index in keys if index < where.index), default=None)
        last = min((index for index in keys if index > where.index), default=None)
        return self.propagate(where.axis, label, first, last, rules)

    def review(self, label: int, axis: int, pixels: Mapping[SliceIndex, int] | None = None) -> Review:
        """Say what is known of an object's slices along an axis, and which of them want a look.

        Slices whose voxels were taken back or deleted since are left out. Pixels are counted, unless somebody
        has done so and says in `pixels` how many lie on each slice that shows the object.
        """
        return self.ledger.review(label, axis, self.labels, pixels)

    def write(self, part: SliceMask) -> None:
        """Put a mask into the label map, see `merged`, and what is known of it into the reports."""
        with self.within(Do.CHANGE, part.label, part.where):
            self.set_plane(part.where, self.merged(part))
            self.ledger.note(part)
            self.written()

    def merged(self, part: SliceMask) -> NDArray[np.uint16]:
        """Return the labels (H, W) of a slice as they will be once a mask is written; see `Ledger.merged`."""
        others = None if self.protect_others else self.objects.keys() | self.key_slices.keys()
        return self.ledger.merged(part, part.where.take(self.labels), others)

    def image(self, where: SliceIndex) -> NDArray[np.float32]:
        """Return a slice as the model sees it: (H, W) or (H, W, 3), windowed to [0, 1]."""
        return apply_window(where.take(self.volume.array), self.window)

    def encode_ahead(
        self, where: SliceIndex, goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[SliceIndex]:
        """Prepare the slices along an axis, from one outwards, so that a prompt on them is answered at once.

        Parameters
        ----------
        where
            The slice that is looked at; it comes first.
        goes_on
            Where it says no, the slice that is being prepared is given up, and there are no more.

        Yields
        ------
        SliceIndex
            Each slice when it is ready; none where there is nothing to prepare. To stop, stop asking.

        Raises
        ------
        PromptError
            When there is no such slice.
        """
        where.checked(self.volume.geometry.shape)
        count = self.volume.geometry.shape[where.axis]
        nearest = sorted(range(count), key=lambda index: (abs(index - where.index), index < where.index))
        order = [SliceIndex(where.axis, index) for index in nearest]
        for done in self.predictor.encode_ahead((self.image(each) for each in order), goes_on):
            yield order[done - 1]

    def predict(
        self, where: SliceIndex, prompts: SlicePrompts, previous: NDArray[np.bool_] | None
    ) -> Prediction:
        """Predict on a slice from prompts and, if there is one, the mask of a neighbouring slice."""
        self._set_slice(where)
        return self.predictor.predict(prompts, previous)

    @property
    def supported_prompts(self) -> frozenset[str]:
        """Which of ``"box"``, ``"point"`` and ``"mask"`` the model was trained with."""
        return self.predictor.supported_prompts

    def predict_many(
        self,
        where: SliceIndex,
        prompts: Sequence[SlicePrompts],
        previous: Sequence[NDArray[np.bool_] | None],
    ) -> list[Prediction]:
        """Predict several objects on a slice in one pass; see `predict`."""
        self._set_slice(where)
        return self.predictor.predict_many(prompts, previous)

    def _set_slice(self, where: SliceIndex) -> None:
        key = (self.volume, self.window, where)
        if key != self.predictor.key:
            self.predictor.set_slice(self.image(where), key)

    def _given(self, axis: int, label: int) -> set[SliceIndex]:
        """Slices of an axis with prompts or marks."""
        known = self.objects.get(label)
        given = {*self.key_slices.get(label, {}), *(known.slices if known else ())}
        return {where for where in given if where.axis == axis}

    def _starts(self, axis: int, label: int, first: int, last: int) -> list[SliceIndex]:
        found = sorted(where for where in self._given(axis, label) if first <= where.index <= last)
        if not found:
            raise PromptError(
                f"Object {label} has no prompts on slices {first} to {last} of axis {axis}: "
                "nothing to carry on."
            )
        return found

    def _start(self, where: SliceIndex, label: int) -> SliceMask:
        """Return a key slice's mask as it is; the model's answer where prompts were not answered yet."""
        kind, score = self.key_slices.get(label, {}).get(where), 1.0
        if kind is None:
            answer = self.ledger.answer(label, where)
            if answer is None:
                return self.segment(where, label)
            kind, score = answer.reason, answer.score
        return SliceMask(where, label, where.take(self.labels) == label, score, kind)

    def _range(self, axis: int, first: int | None, last: int | None) -> tuple[int, int]:
        end = self.volume.geometry.shape[SliceIndex(axis, 0).axis] - 1
        first, last = 0 if first is None else first, end if last is None else last
        if not 0 <= first <= last <= end:
            raise PromptError(f"Slices {first} to {last} do not exist along axis {axis}: it has 0 to {end}.")
        return first, last
