"""From prompts to masks: asks the model, writes its answer, keeps the other readings of a point."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_medsam import tasks
from napari_medsam.session import CORRECTED
from napari_medsam.widgets.messages import tell

if TYPE_CHECKING:
    from napari_medsam.journal import Action
    from napari_medsam.propagation import SliceMask
    from napari_medsam.widgets.layers import SessionLayers
    from napari_medsam.widgets.runner import Runner


COVERED = "The mask lies on other objects, which are protected: see Correct > Protect other objects."


class Prompting:
    """Predicts the slices whose prompts have changed; for each of them the newest request wins.

    Parameters
    ----------
    runner
        Who computes.

    Attributes
    ----------
    candidates : tuple of SliceMask
        What the last point may mean, the likeliest first; empty unless there is a choice.
    asked : Signal()
        The model is about to be asked.
    found : Signal(float)
        A mask was written; the model's estimate of its IoU.
    candidates_changed : Signal()
        There is a choice, or there is none any more.
    ended : Signal()
        A request was answered, or failed.
    """

    asked = Signal()
    found = Signal(float)
    candidates_changed = Signal()
    ended = Signal()

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.candidates: tuple[SliceMask, ...] = ()
        self._layers: SessionLayers | None = None
        self._asked: set[Hashable] = set()

    def predict(self, layers: SessionLayers, action: Action) -> None:
        """Answer the prompts that an action is about; where there are none any more, the mask goes."""
        self.drop()
        session, label, where = layers.session, action.label, action.where
        assert where is not None
        with session.doing(action):
            session.mark(label, where, None)
        key = (id(layers), label, where)
        prompts = session.objects[label].slices.get(where)
        if prompts is None:
            self.runner.cancel(key)
            with session.doing(action):
                layers.put(next(tasks.parts_of(session, action)))
            return
        single = prompts.box is None and len(prompts.points) == 1

        def work() -> Iterator[Any]:
            yield from tasks.parts_of(session, action)
            if single:
                yield session.candidates(where, label)

        def receive(result: Any) -> None:
            known = session.objects.get(label)
            if known is None or known.slices.get(where) != prompts:
                return
            if not isinstance(result, tuple):
                with session.doing(action):
                    layers.put(result)
                if result.mask.any() and not (where.take(session.labels) == label).any():
                    layers.said.emit(COVERED)
                self.found.emit(result.score)
            elif len(result) > 1 and layers.where == where:
                self._layers, self.candidates = layers, result
                self.candidates_changed.emit()

        self.asked.emit()
        self._asked.add(key)
        self.runner.submit(key, work, receive, self._end)

    def give_up(self) -> None:
        """Let nothing that was asked for be written any more."""
        self.drop()
        while self._asked:
            if self.runner.cancel(self._asked.pop()):
                self.ended.emit()

    def choose(self, number: int) -> None:
        """Take another reading of the last point, counted from 0."""
        layers = self._layers
        if layers is None or number >= len(self.candidates):
            return
        part = self.candidates[number]
        session = layers.session
        with session.doing(tasks.reading(session, part.label, part.where, number)):
            session.mark(part.label, part.where, None)
            layers.put(part)
            if number:
                # The prompts alone would not give this mask again.
                session.mark(part.label, part.where, CORRECTED)
        self.found.emit(part.score)
        self.ended.emit()

    def drop(self) -> None:
        """Offer no choice any more."""
        if self.candidates:
            self.candidates = ()
            self.candidates_changed.emit()

    def _end(self, error: Exception | None) -> None:
        tell(error)
        self.ended.emit()
