"""Dice with a reference label layer: of the slice on screen at once, of the whole volume a moment later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qtpy.QtWidgets import QMessageBox, QVBoxLayout

from napari_medsam.export import GridError, Resampling
from napari_medsam.prompts import SliceIndex
from napari_medsam.widgets.messages import tell
from napari_medsam.widgets.parts import Panel, button, note
from napari_medsam.widgets.reference import ReferenceChoice, volume_of
from napari_medsam.widgets.runner import Priority

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_medsam.widgets.layers import SessionLayers
    from napari_medsam.widgets.segmenter import Segmenter

CHOOSE = "Choose a reference label layer."
HERE = "Dice with label {} of the reference, on this slice: {:.3f}"
APART_HERE = "The object and the reference share no pixel on this slice."
WHOLE = "In the whole volume, with label {}: {:.3f}"
APART = "In the whole volume they share no voxel."
COUNTING = "In the whole volume: being counted..."
COMPARE = "compare"
REST_S = 0.2
SLICES_AT_ONCE = 16


@dataclass(frozen=True)
class Agreement:
    """The reference's label that overlaps most with an object, and the Dice coefficient with it."""

    label: int
    dice: float


def agreement(planes: Sequence[tuple[NDArray, ArrayLike]], label: int) -> Iterator[Agreement | None]:
    """Compare an object with a reference, slice by slice.

    Parameters
    ----------
    planes
        Of each slice the labels (H, W), and those of the reference, 0 for background.
    label
        The object.

    Yields
    ------
    Agreement or None
        None after every `SLICES_AT_ONCE` slices, for others to have their turn; at last the result, None
        where object and reference share no pixel.
    """
    size = other_size = 0
    overlaps: Counter[int] = Counter()
    for n, (mine, other) in enumerate(planes, start=1):
        inside = mine == label
        size += int(np.count_nonzero(inside))
        found, counts = np.unique(np.asarray(other)[inside], return_counts=True)
        overlaps.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if n % SLICES_AT_ONCE == 0:
            yield None
    del overlaps[0]
    if not overlaps:
        yield None
        return
    ((best, overlap),) = overlaps.most_common(1)
    for n, (_, other) in enumerate(planes, start=1):
        other_size += int(np.count_nonzero(np.asarray(other) == best))
        if n % SLICES_AT_ONCE == 0:
            yield None
    yield Agreement(best, 2 * overlap / (size + other_size))


class ComparePanel(Panel):
    """Dice of the current object with a reference label layer.

    Parameters
    ----------
    segmenter
        Whose object.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.choice = ReferenceChoice(segmenter)
        self.choice.currentIndexChanged.connect(lambda index: self.refresh())
        self.text, self.whole = note(CHOOSE), note()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for each in (self.choice, self.text, self.whole):
            layout.addWidget(each)
        layout.addWidget(
            button("Edit this layer instead", "Go on with its labels; they are kept", self._adopt)
        )
        self._counted: object = None

    def refresh(self) -> None:
        """List the label layers there are and, when shown, say how well they agree."""
        self.choice.refresh()
        if self.isVisible():
            self._compare()

    def _compare(self) -> None:
        layers, reference = self.segmenter.layers, self.choice.layer
        where = None if layers is None else layers.where
        problem = CHOOSE if layers is None or where is None or reference is None else ""
        if layers is not None:
            problem = problem or self.choice.problem(layers)
        self.whole.setVisible(not problem)
        if problem or layers is None or where is None or reference is None:
            self.text.setText(problem)
            return
        *_, here = agreement([_pair(layers, reference, where)], layers.label)
        self.text.setText(HERE.format(here.label, here.dice) if here else APART_HERE)
        self._count(layers, reference)

    def _count(self, layers: SessionLayers, reference: Labels) -> None:
        """Count the whole volume in the worker, unless nothing has changed since."""
        labels, label = layers.session.labels, layers.label
        counted = id(labels), label, layers.edits, id(reference), self.choice.edits
        if counted == self._counted:
            return
        self._counted = counted
        self.whole.setText(COUNTING)
        found: list[Agreement | None] = []

        def work() -> Iterator[Agreement | None]:
            slices = (SliceIndex(0, index) for index in range(len(labels)))
            return agreement([_pair(layers, reference, each) for each in slices], label)

        def end(error: Exception | None) -> None:
            tell(error)
            result = None if error else found[-1]
            self.whole.setText(WHOLE.format(result.label, result.dice) if result else APART)

        self.segmenter.runner.submit(COMPARE, work, found.append, end, priority=Priority.IDLE, delay_s=REST_S)

    def _adopt(self) -> None:
        reference = self.choice.layer
        if reference is None:
            return
        try:
            self.segmenter.use_labels(reference)
        except GridError as error:
            how = self._ask_how(str(error))
            if how is not None:
                try:
                    self.segmenter.use_labels(reference, how)
                except GridError as problem:
                    tell(problem)

    def _ask_how(self, problem: str) -> Resampling | None:
        """Ask how to resample labels that lie on another grid; None when the user does not want to."""
        question = QMessageBox(QMessageBox.Icon.Question, "Another grid", problem, parent=self)
        ways: dict[Any, Resampling] = {
            question.addButton(f"Resample ({how})", QMessageBox.ButtonRole.AcceptRole): how
            for how in get_args(Resampling)
        }
        question.setDefaultButton(question.addButton(QMessageBox.StandardButton.Cancel))
        question.exec()
        return ways.get(question.clickedButton())


def _pair(layers: SessionLayers, reference: Labels, where: SliceIndex) -> tuple[NDArray, ArrayLike]:
    return where.take(layers.session.labels), where.take(volume_of(reference))
