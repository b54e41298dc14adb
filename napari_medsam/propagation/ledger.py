"""What is known of every object's slices: which are key slices, and what came of the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_medsam.propagation.review import Review, SliceReport
from napari_medsam.propagation.values import CLEARED, PROMPT, Mask, SliceMask

if TYPE_CHECKING:
    from napari_medsam.prompts import SliceIndex

T = TypeVar("T")


class Ledger:
    """Key slices and reports, by object.

    Parameters
    ----------
    changed
        Told of every change: ``"key"`` or ``"report"``, the label, the slice, and the value before and after.

    Attributes
    ----------
    key_slices : dict of int to dict
        For each label, which of its slices are `CORRECTED` or `ACCEPTED`.
    reports : dict of int to dict
        For each label, what is known of the slices that were written.
    """

    def __init__(
        self, changed: Callable[[str, int, SliceIndex, object, object], None] = lambda *change: None
    ) -> None:
        self._changed = changed
        self.key_slices: dict[int, dict[SliceIndex, str]] = {}
        self.reports: dict[int, dict[SliceIndex, SliceReport]] = {}

    def mark(self, label: int, where: SliceIndex, kind: str | None) -> None:
        """Make a slice a key slice of an object, or none any more (None)."""
        self._set("key", self.key_slices.setdefault(label, {}), label, where, kind)

    def note(self, part: SliceMask) -> None:
        """Remember score and reason of a mask that was written."""
        known = self.reports.get(part.label, {}).get(part.where)
        if part.reason == PROMPT and not part.mask.any():
            # The prompts were taken away, or the model found nothing: there is no answer to keep.
            self.report(part.label, part.where, None)
        elif SliceReport.of(part).is_carried and self.answer(part.label, part.where):
            # Nothing that is carried is written there.
            return
        elif part.reason != CLEARED:
            self.report(part.label, part.where, SliceReport.of(part))
        elif known is not None and not known.stopped:
            self.report(part.label, part.where, None)

    def report(self, label: int, where: SliceIndex, known: SliceReport | None) -> None:
        """Put what is known of a mask in place of what was known before; None to forget it."""
        self._set("report", self.reports.setdefault(label, {}), label, where, known)

    def forget(self, label: int) -> None:
        """Forget an object."""
        for where in [*self.key_slices.get(label, {})]:
            self.mark(label, where, None)
        for where in [*self.reports.get(label, {})]:
            self.report(label, where, None)
        self.key_slices.pop(label, None)
        self.reports.pop(label, None)

    def clear(self) -> None:
        """Forget everything, and tell nobody."""
        self.key_slices.clear()
        self.reports.clear()

    def _set(
        self, kind: str, kept: dict[SliceIndex, T], label: int, where: SliceIndex, value: T | None
    ) -> None:
        before = kept.get(where)
        if value is None:
            kept.pop(where, None)
        else:
            kept[where] = value
        if before != value:
            self._changed(kind, label, where, before, value)

    def review(
        self,
        label: int,
        axis: int,
        labels: NDArray[np.uint16],
        pixels: Mapping[SliceIndex, int] | None = None,
    ) -> Review:
        """Collect what is known along an axis; slices that show nothing of the object any more are left out.

        Parameters
        ----------
        label, axis
            The object and the array axis.
        labels : numpy.ndarray of uint16
            (z, y, x).
        pixels
            How many of the object's pixels lie on each slice that shows it, where somebody has counted them;
            they are counted when None.
        """
        found = {r.where: r for r in list(self.reports.get(label, {}).values()) if r.where.axis == axis}
        keys = {w: kind for w, kind in list(self.key_slices.get(label, {}).items()) if w.axis == axis}
        if pixels is None:
            pixels = {w: int(np.count_nonzero(w.take(labels) == label)) for w in found.keys() | keys.keys()}
        for where, kind in keys.items():
            found[where] = SliceReport(where, label, 1.0, kind, stopped=not pixels.get(where))
        kept = (r for w, r in found.items() if r.stopped or r.is_by_hand or pixels.get(w))
        return Review(kept, pixels)

    def carried(self, label: int, axis: int, first: int, last: int) -> list[SliceReport]:
        """Slices of a range to which an object was carried from others."""
        return [
            report
            for report in list(self.reports.get(label, {}).values())
            if report.is_carried and report.where.axis == axis and first <= report.where.index <= last
        ]

    def answer(self, label: int, where: SliceIndex) -> SliceReport | None:
        """Return what came of the prompts on a slice; None when they were not answered yet."""
        report = self.reports.get(label, {}).get(where)
        return report if report is not None and report.reason == PROMPT else None

    def prompted(self, label: int) -> list[SliceIndex]:
        """Slices on which an object's prompts were answered."""
        return [r.where for r in list(self.reports.get(label, {}).values()) if r.reason == PROMPT]

    def merged(
        self, part: SliceMask, plane: NDArray[np.uint16], may_lose: Collection[int] | None = None
    ) -> NDArray[np.uint16]:
        """Return the labels (H, W) of a slice as they will be once a mask is written; `plane` is kept.

        The object's old pixels go, but not those on its key slices: what is carried changes no slice that was
        prompted, of whichever axis, and the answer to prompts no other one.

        Parameters
        ----------
        part
            The mask.
        plane
            The slice's labels now.
        may_lose
            Objects that lose pixels to the mask, except on their key slices; every other pixel is kept. No
            object loses any when None.
        """
        label, where = part.label, part.where
        is_carried = SliceReport.of(part).is_carried
        prompted = self.prompted(label) if is_carried or part.reason == PROMPT else []
        if not is_carried:
            prompted = [each for each in prompted if each != where]
        plane = plane.copy()
        free = ~self.key_pixels(label, where, plane.shape, prompted)
        if part.stopped:
            return plane
        plane[free & (plane == label)] = 0
        taken = plane != 0
        if may_lose is not None:
            taken = np.zeros_like(taken)
            for other in set(may_lose) - {label}:
                known = self.prompted(other) if is_carried else ()
                taken |= self.key_pixels(other, where, plane.shape, known) & (plane == other)
        plane[part.mask & free & ~taken] = label
        return plane

    def key_pixels(
        self, label: int, where: SliceIndex, shape: Sequence[int], prompted: Iterable[SliceIndex] = ()
    ) -> Mask:
        """Say which pixels of a slice lie on an object's key slices, of whichever axis.

        Parameters
        ----------
        label
            The object.
        where, shape
            The slice and its shape (H, W).
        prompted
            Slices that count besides those that were corrected or accepted.
        """
        found = np.zeros(tuple(shape), bool)
        for key in (*self.key_slices.get(label, ()), *prompted):
            if key == where:
                found[...] = True
            elif key.axis != where.axis:
                side = key.axis - (key.axis > where.axis)
                found[(slice(None),) * side + (key.index,)] = True
        return found
