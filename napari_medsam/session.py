"""A segmentation in progress: the volume, its label map, the objects and their prompts.

Every front end, graphical or not, talks to a `Session`; it knows neither Qt nor napari. Computing and writing
are separate, so that a thread may compute while only one place ever writes. Importing this module does not
load torch: a window may show a session before the model is there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_medsam.prompts import ObjectPrompts, PromptError, SliceIndex, SlicePrompts
from napari_medsam.windowing import Window, apply_window, default_window

if TYPE_CHECKING:
    from napari_medsam.predictor import Prediction
    from napari_medsam.propagation import SliceMask, StopRules
    from napari_medsam.volume import Volume

CORRECTED, ACCEPTED = "corrected", "accepted"
"""Why a slice is a key slice: somebody changed the mask by hand, or said that it is right."""


SAME_MASK_IOU = 0.9
"""Candidates that overlap more than this are one answer to a person."""


class Predictor(Protocol):
    """What a session asks: a `SlicePredictor`, or what stands in for one."""

    @property
    def key(self) -> Hashable | None:
        """Name of the slice that is set."""
        ...

    def set_slice(self, image: NDArray, key: Hashable | None = None) -> None:
        """Set the slice that `predict` is about."""
        ...

    def predict(
        self, prompts: SlicePrompts, mask_input: NDArray | None = None, multimask_output: bool = False
    ) -> Prediction:
        """Segment what the prompts point at."""
        ...

    def encode_ahead(
        self, images: Iterable[NDArray], goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[int]:
        """Prepare slices that will be wanted soon, yielding how many are done."""
        ...


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

    Attributes
    ----------
    objects : dict of int to ObjectPrompts
        By label, in the order in which they were made.
    key_slices : dict of int to dict
        For each label, which of its slices are `CORRECTED` or `ACCEPTED`. What is carried from slice to slice
        never changes the object there.
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
        self.key_slices: dict[int, dict[SliceIndex, str]] = {}
        self.protect_others = True

    def add_object(self, name: str = "") -> int:
        """Make room for one more object and return its label, one more than the largest there is.

        Raises
        ------
        PromptError
            When there are 65535 objects already, or the name cannot be written to a file.
        """
        label = max(self.objects, default=0) + 1
        self.objects[label] = ObjectPrompts(label, name)
        return label

    def rename(self, label: int, name: str) -> None:
        """Give an object a name; "" for none.

        Raises
        ------
        PromptError
            When the name is too long or holds control characters.
        """
        self.objects[label] = replace(self.objects[label], name=name)

    def remove_object(self, label: int, slices: Iterable[int] | None = None, into: int = 0) -> None:
        """Take an object away, and its voxels with it.

        Parameters
        ----------
        label
            The object.
        slices
            Where along axis 0 its voxels are; all slices are searched when None.
        into
            Label that its voxels get: 0 for background, or another object that takes them over. Prompts are
            not taken over, for they describe the part, not the whole; the slices that the part lies on become
            key slices of the whole, so that carrying it on does not lose the part.
        """
        kept = self.key_slices.setdefault(into, {}) if into else {}
        for index in range(len(self.labels)) if slices is None else slices:
            plane = self.labels[index]
            found = plane == label
            if found.any():
                plane[found] = into
                kept.setdefault(SliceIndex(0, index), CORRECTED)
        self.objects.pop(label, None)
        self.key_slices.pop(label, None)

    def mark(self, label: int, where: SliceIndex, kind: str | None) -> None:
        """Make a slice a key slice of an object, `CORRECTED` or `ACCEPTED`, or none any more (None)."""
        marks = self.key_slices.setdefault(label, {})
        if kind is None:
            marks.pop(where, None)
        else:
            marks[where] = kind

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
        from napari_medsam.propagation import SliceMask

        known = self.objects.get(label)
        if known is None or where not in known.slices:
            raise PromptError(f"Object {label} has no prompts on slice {where.index} of axis {where.axis}.")
        found = self.predict(where, known.slices[where], None)
        return SliceMask(where, label, found.masks[0], float(found.scores[0]), "prompt")

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
        from napari_medsam.propagation import SliceMask

        first = self.segment(where, label)
        found = self.predictor.predict(self.objects[label].slices[where], None, multimask_output=True)
        kept = [first]
        for mask, score in zip(found.masks, found.scores, strict=True):
            if mask.any() and all(_iou(mask, other.mask) <= SAME_MASK_IOU for other in kept):
                kept.append(SliceMask(where, label, mask, float(score), "prompt"))
        return tuple(kept)

    def propagate(
        self,
        axis: int,
        label: int,
        first: int | None = None,
        last: int | None = None,
        rules: StopRules | None = None,
    ) -> Iterator[SliceMask]:
        """Compute one object on all slices along an axis, from every slice that has prompts for it.

        Key slices are starts too, with the mask that they have. Between two starts the object is carried from
        both, each to the middle.

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
            When the object has neither prompts nor key slices on this axis within the range.
        """
        from napari_medsam.propagation import propagate

        first, last = self._range(axis, first, last)
        known = self.objects.get(label)
        marks = self.key_slices.get(label, {})
        given = {*marks, *(known.slices if known else ())}
        starts = sorted(w.index for w in given if w.axis == axis and first <= w.index <= last)
        if not starts:
            raise PromptError(
                f"Object {label} has no prompts on slices {first} to {last} of axis {axis}: "
                "nothing to carry on."
            )
        # Half way between two such slices, each side is carried from its own; no slice is computed twice.
        middles = [(a + b) // 2 for a, b in pairwise(starts)]
        for index, lowest, highest in zip(
            starts, [first, *(m + 1 for m in middles)], [*middles, last], strict=True
        ):
            where = SliceIndex(axis, index)
            start = self._as_it_is(where, label) if where in marks else self.segment(where, label)
            yield start
            yield from propagate(self, start, lowest, highest, self.volume.geometry.spacing, rules)

    def write(self, part: SliceMask) -> None:
        """Put a mask into the label map; see `merged`."""
        part.where.take(self.labels)[...] = self.merged(part)

    def merged(self, part: SliceMask) -> NDArray[np.uint16]:
        """Return the labels (H, W) of a slice as they will be once a mask is written.

        The object's old pixels on the slice go. Other objects are kept when they are protected, and so are
        the object's own key slices.
        """
        plane = part.where.take(self.labels).copy()
        if part.stopped:
            return plane
        free = ~self._key_pixels(part.label, part.where)
        plane[free & (plane == part.label)] = 0
        taken = plane != 0
        if not self.protect_others:
            taken = np.zeros_like(taken)
            for other in self.key_slices.keys() - {part.label}:
                taken |= self._key_pixels(other, part.where) & (plane == other)
        plane[part.mask & free & ~taken] = part.label
        return plane

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
        key = (self.volume, self.window, where)
        if key != self.predictor.key:
            self.predictor.set_slice(self.image(where), key)
        return self.predictor.predict(prompts, previous)

    def _as_it_is(self, where: SliceIndex, label: int) -> SliceMask:
        from napari_medsam.propagation import SliceMask

        return SliceMask(where, label, where.take(self.labels) == label, 1.0, self.key_slices[label][where])

    def _key_pixels(self, label: int, where: SliceIndex) -> NDArray[np.bool_]:
        """Say which pixels of a slice lie on an object's key slices, of whichever axis."""
        found = np.zeros(where.take(self.labels).shape, bool)
        for key in self.key_slices.get(label, ()):
            if key == where:
                found[...] = True
            elif key.axis != where.axis:
                side = key.axis - (key.axis > where.axis)
                found[(slice(None),) * side + (key.index,)] = True
        return found

    def _range(self, axis: int, first: int | None, last: int | None) -> tuple[int, int]:
        end = self.volume.geometry.shape[SliceIndex(axis, 0).axis] - 1
        first, last = 0 if first is None else first, end if last is None else last
        if not 0 <= first <= last <= end:
            raise PromptError(f"Slices {first} to {last} do not exist along axis {axis}: it has 0 to {end}.")
        return first, last


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return int((a & b).sum()) / max(1, int((a | b).sum()))
