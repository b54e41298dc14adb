"""Labels, objects and key slices, every change of which is recorded and can be taken back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.journal.changes import (
    KEY,
    OBJECT,
    REPORT,
    Action,
    Change,
    Do,
    FactChange,
    PartWritten,
    Step,
    VoxelChange,
)
from napari_medsam.journal.journal import Journal
from napari_medsam.prompts import ObjectPrompts, SliceIndex
from napari_medsam.propagation import CORRECTED, Ledger

if TYPE_CHECKING:
    from napari_medsam.prompts import SlicePrompts
    from napari_medsam.propagation import SliceReport
    from napari_medsam.terminology import Term


class RecordedState:
    """What is true of a segmentation; whatever changes it goes through here.

    Parameters
    ----------
    labels : numpy.ndarray of uint16
        (z, y, x), shared, not copied; what it holds already cannot be taken back.

    Attributes
    ----------
    labels
        The label map.
    objects : dict of int to ObjectPrompts
        By label; to be changed by `set_object`.
    ledger : Ledger
        What is known of every object's slices: key slices, and reports on the others.
    journal : Journal
        What was done.
    """

    def __init__(self, labels: NDArray[np.uint16]) -> None:
        self.labels = labels
        self.objects: dict[int, ObjectPrompts] = {}
        self.journal = Journal()
        self.ledger = Ledger(self._record_fact)
        self._action: Action | None = None

    @contextmanager
    def doing(self, action: Action) -> Iterator[None]:
        """Let what is changed meanwhile belong to one action."""
        outer, self._action = self._action, action
        try:
            yield
        finally:
            self._action = outer

    @contextmanager
    def within(self, kind: Do, label: int = 0, where: SliceIndex | None = None) -> Iterator[None]:
        """Let what is changed meanwhile belong to the action under way, or else to one of this kind."""
        with self.doing(self._action or self.journal.action(kind, label, where)):
            yield

    @property
    def key_slices(self) -> dict[int, dict[SliceIndex, str]]:
        """For each label, which of its slices are `CORRECTED` or `ACCEPTED`.

        What is carried from slice to slice never changes the object there.
        """
        return self.ledger.key_slices

    def add_object(self, name: str = "") -> int:
        """Make room for one more object and return its label, one more than the largest there is.

        Raises
        ------
        PromptError
            When there are 65535 objects already, or the name cannot be written to a file.
        """
        label = max(self.objects, default=0) + 1
        with self.within(Do.ADD, label):
            self.set_object(label, ObjectPrompts(label, name))
        return label

    def rename(self, label: int, name: str, term: Term | None = None) -> None:
        """Give an object a name, "" for none, and what it is in codes; those of an older name go.

        Raises
        ------
        PromptError
            When the name is too long or holds control characters.
        """
        with self.within(Do.RENAME, label):
            self.set_object(label, replace(self.objects[label], name=name, term=term))

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
        with self.within(Do.REMOVE, label):
            for index in range(len(self.labels)) if slices is None else slices:
                where = SliceIndex(0, index)
                plane = where.take(self.labels)
                if not (plane == label).any():
                    continue
                self.set_plane(where, np.where(plane == label, np.uint16(into), plane))
                if into and where not in self.key_slices.get(into, {}):
                    self.ledger.mark(into, where, CORRECTED)
            self.set_object(label, None)
            self.ledger.forget(label)

    def mark(self, label: int, where: SliceIndex, kind: str | None) -> None:
        """Make a slice a key slice of an object, `CORRECTED` or `ACCEPTED`, or none any more (None)."""
        with self.within(Do.MARK, label, where):
            self.ledger.mark(label, where, kind)

    def add_prompts(self, label: int, where: SliceIndex, prompts: SlicePrompts, name: str = "") -> None:
        """Set the prompts of one object on one slice; empty prompts take them away.

        Raises
        ------
        PromptError
            When the label or the slice is out of range.
        """
        where.checked(self.labels.shape)
        known = self.objects.get(label, ObjectPrompts(label, name))
        slices = {k: v for k, v in known.slices.items() if k != where}
        if not prompts.is_empty:
            slices[where] = prompts
        with self.within(Do.PROMPT, label, where):
            if known.slices.get(where) != prompts:
                self.ledger.report(label, where, None)
            self.set_object(label, replace(known, name=name or known.name, slices=slices))

    def set_object(self, label: int, thing: ObjectPrompts | None) -> None:
        """Put an object in place of what was known under its label; None takes it away."""
        before = self.objects.get(label)
        if before != thing:
            self._place(label, thing)
            self._record(FactChange(OBJECT, label, None, before, thing))

    def set_plane(self, where: SliceIndex, after: NDArray[np.uint16]) -> None:
        """Put labels (H, W) on a slice."""
        plane = where.take(self.labels)
        before = plane.copy()
        plane[...] = after
        self.painted(where, before, after)

    def painted(self, where: SliceIndex, before: NDArray[np.uint16], after: NDArray[np.uint16]) -> None:
        """Record that a slice, (H, W), has changed, whoever wrote it into the label map."""
        side = where.axis
        change = VoxelChange.between(
            np.expand_dims(before, side),
            np.expand_dims(after, side),
            tuple(where.index if axis == side else 0 for axis in range(3)),  # type: ignore[arg-type]
        )
        if change is not None:
            self._record(change)

    def replaced(self, before: NDArray[np.uint16], after: NDArray[np.uint16]) -> None:
        """Record that the label map, (z, y, x), has changed on any slices."""
        with self.within(Do.CHANGE):
            for index in range(len(before)):
                change = VoxelChange.between(before[index][None], after[index][None], (index, 0, 0))
                if change is not None:
                    self._record(change)

    def adopt(self, labels: NDArray[np.uint16], objects: Iterable[ObjectPrompts]) -> None:
        """Go on with another label map and its objects; what was done before cannot be taken back.

        Parameters
        ----------
        labels
            (z, y, x), shared, not copied.
        objects
            All that it holds.
        """
        with self.doing(self.journal.action(Do.ADOPT)):
            self.replaced(self.labels, labels)
            for label in [*self.objects]:
                self.set_object(label, None)
            for label in {*self.ledger.key_slices, *self.ledger.reports}:
                self.ledger.forget(label)
            for thing in objects:
                self.set_object(thing.label, thing)
        self.labels = labels
        self.journal.close()

    def written(self) -> None:
        """Record that a mask that was computed is in the label map."""
        self._record(PartWritten())

    def undo(self) -> Step | None:
        """Take the last step back, and return it; None when there is none to take back."""
        step = self.journal.back()
        for change in reversed(step.changes if step else []):
            self._apply(change, forward=False)
        return step

    def redo(self) -> Step | None:
        """Do again what was taken back last, and return it; None when nothing was."""
        step = self.journal.forward()
        for change in step.changes if step else []:
            self._apply(change, forward=True)
        return step

    def take_over(
        self,
        labels: NDArray[np.uint16],
        steps: Sequence[Step],
        position: int,
        oldest: int,
        reports: Iterable[SliceReport] = (),
    ) -> None:
        """Put the work of an earlier session in place of this one's, with its past.

        Parameters
        ----------
        labels
            (z, y, x) as they were at the end; copied.
        steps
            All that was done.
        position, oldest
            How many steps are done, and as far back as one can go.
        reports
            What is known of slices, as long as no step says otherwise.
        """
        self.labels[...] = labels
        self.objects.clear()
        self.ledger.clear()
        self.journal = Journal(self.journal.limit_bytes)
        self.journal.resume(steps, position, oldest)
        for report in reports:
            self.ledger.reports.setdefault(report.label, {})[report.where] = report
        for step in steps[:position]:
            for change in step.changes:
                if isinstance(change, FactChange):
                    self._apply(change, forward=True)

    def do_again(self, change: FactChange | VoxelChange) -> None:
        """Change what was changed in another session on the same image."""
        if isinstance(change, VoxelChange):
            before = self.labels[change.region].copy()
            self._apply(change, forward=True)
            found = VoxelChange.between(before, self.labels[change.region], change.start)
            if found is not None:
                self._record(found)
        elif change.kind == OBJECT:
            self.set_object(change.label, change.after)  # type: ignore[arg-type]
        elif change.where is not None:
            put = self.ledger.mark if change.kind == KEY else self.ledger.report
            put(change.label, change.where, change.after)  # type: ignore[arg-type]

    def _record(self, change: Change) -> None:
        self.journal.record(self._action or self.journal.action(Do.CHANGE), change)

    def _record_fact(self, kind: str, label: int, where: SliceIndex, before: object, after: object) -> None:
        self._record(FactChange(kind, label, where, before, after))  # type: ignore[arg-type]

    def _apply(self, change: Change, *, forward: bool) -> None:
        if isinstance(change, VoxelChange):
            change.put(self.labels, forward=forward)
        elif isinstance(change, FactChange):
            value = change.after if forward else change.before
            if change.kind == OBJECT:
                self._place(change.label, value)  # type: ignore[arg-type]
            else:
                kept = {KEY: self.ledger.key_slices, REPORT: self.ledger.reports}[change.kind]
                here = kept.setdefault(change.label, {})  # type: ignore[attr-defined]
                here.pop(change.where, None)
                if value is not None:
                    here[change.where] = value

    def _place(self, label: int, thing: ObjectPrompts | None) -> None:
        if thing is None:
            self.objects.pop(label, None)
            return
        comes_back = label not in self.objects and label < next(reversed(self.objects), 0)
        in_order = comes_back and [*self.objects] == sorted(self.objects)
        self.objects[label] = thing
        if in_order:
            # An object that comes back takes its old place.
            kept = sorted(self.objects.items())
            self.objects.clear()
            self.objects.update(kept)
