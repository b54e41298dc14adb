"""What was done on an image: back and forth in it, kept on disk, found again after a crash. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import label_colormap
from napari.utils.notifications import show_info, show_warning
from numpy.typing import NDArray
from psygnal import Signal

from napari_medsam.journal import Do
from napari_medsam.prompts import SliceIndex
from napari_medsam.recovery import Autosave, Leftover, leftovers
from napari_medsam.session_file import (
    Snapshot,
    content_from_json,
    read_document,
    session_to_json,
    write_session,
)
from napari_medsam.widgets import planes
from napari_medsam.widgets.messages import tell
from napari_medsam.widgets.palette import N_COLOURS
from napari_medsam.widgets.runner import Priority
from napari_medsam.windowing import apply_window

if TYPE_CHECKING:
    from pathlib import Path

    from napari_medsam.journal import Step
    from napari_medsam.session import Session
    from napari_medsam.session_file import SessionContent
    from napari_medsam.widgets.layers import SessionLayers
    from napari_medsam.widgets.segmenter import Segmenter

NOTHING_BEFORE = "There is nothing to take back."
NOTHING_AFTER = "There is nothing to do again."
NOT_KEPT = "Work in progress cannot be kept on disk ({}): save it by yourself. It is tried again."
PICTURE_PX = 140
OPEN, SAVE = "open session", "save session"

_TITLES = {
    Do.PROMPT: "prompts",
    Do.READING: "another reading",
    Do.CARRY: "carried",
    Do.RECOMPUTE: "carried anew",
    Do.CORRECT: "corrected",
    Do.PROPOSE: "proposed",
    Do.PAINT: "painted",
    Do.ADOPT: "labels taken over",
    Do.MARK: "accepted or unlocked",
    Do.RENAME: "named",
    Do.REMOVE: "deleted or merged",
    Do.ADD: "new object",
    Do.CHANGE: "changed by another program",
}


@dataclass(frozen=True, eq=False)
class Offer:
    """Work on an image that a crash has left.

    Attributes
    ----------
    leftover
        The work.
    picture : numpy.ndarray of uint8
        (H, W, 3), the slice that has most of it.
    """

    leftover: Leftover
    picture: NDArray[np.uint8]

    @property
    def text(self) -> str:
        """When it was done and what it is."""
        content = self.leftover.content
        slices = np.count_nonzero(content.labels.any(axis=(1, 2)))
        return (
            f"Unfinished work on this image, from {self.leftover.ended:%d %B %Y, %H:%M}: "
            f"{self.leftover.position} steps, {slices} slices with labels."
        )


class Past:
    """Goes back and forth in what was done on the image at hand, and keeps it from being lost.

    Parameters
    ----------
    segmenter
        Whose images.
    folder
        Where work in progress is kept, see `napari_medsam.recovery.recovery_folder`; nowhere when None.

    Attributes
    ----------
    offered : Signal()
        Work that a crash has left was found, or is offered no more.
    """

    offered = Signal()

    def __init__(self, segmenter: Segmenter, folder: Path | None) -> None:
        self.segmenter, self.folder = segmenter, folder
        self._kept: dict[int, Autosave] = {}
        self._offers: dict[int, Offer] = {}

    @property
    def steps(self) -> list[str]:
        """What was done on the image at hand, the oldest first, with what was taken back."""
        layers = self.segmenter.layers
        if layers is None:
            return []
        return [_title(layers, step) for step in layers.session.journal.steps]

    @property
    def offer(self) -> Offer | None:
        """What a crash has left of work on the image at hand."""
        return self._offers.get(id(self.segmenter.layers))

    def undo(self) -> None:
        """Take back the last step, whatever it was; what is being carried or corrected is given up."""
        self._travel(lambda layers: _step(layers, -1), NOTHING_BEFORE)

    def redo(self) -> None:
        """Do again what was taken back last."""
        self._travel(lambda layers: _step(layers, 1), NOTHING_AFTER)

    def go_to(self, position: int) -> None:
        """Take back, or do again, until so many steps are done."""

        def go(layers: SessionLayers) -> bool:
            steps = position - layers.session.journal.position
            return all(_step(layers, steps) for _ in range(abs(steps)))

        self._travel(go, NOTHING_BEFORE)

    def follow(self, layers: SessionLayers) -> None:
        """Keep what is done on an image, and look for what a crash has left of earlier work on it."""
        folder, session = self.folder, layers.session
        if folder is None:
            return
        self._kept[id(layers)] = self._autosave(layers)

        def work() -> Iterator[Offer]:
            for leftover in leftovers(folder, session.volume, layers.image.name):
                yield Offer(leftover, _picture(session, leftover))
                return

        def receive(offer: Offer) -> None:
            self._offers[id(layers)] = offer
            self.offered.emit()

        self.segmenter.runner.submit(_search(layers), work, receive, tell, priority=Priority.IDLE)

    def restore(self) -> None:
        """Go on with what a crash has left; what was done since stays on disk, to be found again."""
        layers, offer = self.segmenter.layers, self.offer
        if layers is None or offer is None:
            return
        self._stop()
        self._leave(layers)
        offer.leftover.take_over(layers.session)
        self._kept[id(layers)] = self._autosave(layers, leftover=offer.leftover)
        self._forget_offer(layers)
        _show_restored(layers)
        self.segmenter.changed.emit()

    def discard(self) -> None:
        """Delete what a crash has left of work on the image at hand."""
        layers, offer = self.segmenter.layers, self.offer
        if layers is not None and offer is not None:
            offer.leftover.discard()
            self._forget_offer(layers)

    def put_off(self) -> None:
        """Leave what a crash has left for another time."""
        layers, offer = self.segmenter.layers, self.offer
        if layers is not None and offer is not None:
            offer.leftover.release()
            self._forget_offer(layers)

    def save(self, path: Path) -> None:
        """Write a session file."""
        layers = self.segmenter.layers
        if layers is None:
            return
        state = Snapshot.of(layers.session)

        def work() -> Iterator[Path]:
            yield write_session(session_to_json(state), path)

        self.segmenter.progressed.emit(SAVE, 0, 0)
        self.segmenter.runner.submit(SAVE, work, self.segmenter.saved.emit, self.segmenter.end)

    def open(self, path: Path) -> None:
        """Go on with a session file; what was done so far stays on disk, to be found again."""
        layers = self.segmenter.layers
        if layers is None:
            return

        def work() -> Iterator[tuple[dict[str, Any], SessionContent]]:
            document = read_document(path)
            yield document, content_from_json(document, layers.session.volume)

        def receive(found: tuple[dict[str, Any], SessionContent]) -> None:
            document, content = found
            self._stop()
            self._leave(layers)
            content.take_over(layers.session)
            if self.folder is not None:
                self._kept[id(layers)] = self._autosave(layers, document=document)
            _show_restored(layers)

        self.segmenter.progressed.emit(OPEN, 0, 0)
        self.segmenter.runner.submit(OPEN, work, receive, self.segmenter.end)

    def saved(self, layers: SessionLayers) -> None:
        """Take note that all that was done is in a file of the user's."""
        kept = self._kept.get(id(layers))
        if kept is not None and not layers.unsaved:
            kept.saved()

    def forget(self, layers: SessionLayers, *, keep: bool = False) -> None:
        """Follow an image no more; what is on disk goes unless it is to be kept."""
        kept = self._kept.pop(id(layers), None)
        if kept is not None:
            kept.close(keep=keep)
        self.segmenter.runner.cancel(_search(layers))
        offer = self._offers.pop(id(layers), None)
        if offer is not None:
            offer.leftover.release()

    def _autosave(self, layers: SessionLayers, **begin: Any) -> Autosave:
        assert self.folder is not None

        def failed(reason: str) -> None:
            # In the thread that writes: the window is told through its own.
            key = ("autosave", id(layers))
            told = partial(iter, [NOT_KEPT.format(reason)])
            self.segmenter.runner.submit(key, told, show_warning, lambda error: None)

        return Autosave(layers.session, self.folder, layers.image.name, failed, **begin)

    def _leave(self, layers: SessionLayers) -> None:
        """Close what is kept of the work at hand; if there is any, it is found again another time."""
        kept = self._kept.pop(id(layers), None)
        if kept is not None:
            kept.close(keep=kept.has_begun and layers.unsaved)

    def _forget_offer(self, layers: SessionLayers) -> None:
        del self._offers[id(layers)]
        self.offered.emit()

    def _stop(self) -> None:
        self.segmenter.stop()
        self.segmenter.prompting.give_up()

    def _travel(self, go: Callable[[SessionLayers], bool], nothing: str) -> None:
        layers = self.segmenter.layers
        if layers is not None:
            self.segmenter.stop()
            self.segmenter.prompting.drop()
            if not go(layers):
                show_info(nothing)
            self.segmenter.changed.emit()


def _search(layers: SessionLayers) -> tuple[str, int]:
    """Name the search for what a crash has left of work on an image."""
    return "leftovers", id(layers)


def _step(layers: SessionLayers, direction: int) -> bool:
    """Take a step back (-1), or do it again (1), and turn to it; return whether there was one."""
    layers.masks.notice()
    session = layers.session
    step = session.undo() if direction < 0 else session.redo()
    if step is None:
        return False
    layers.masks.moved(step)
    if layers.census.labels:
        # The user may have deleted it.
        layers.label_layer()
    of_step = step.action.label in session.objects
    layers.select(step.action.label if of_step else layers.any_object())
    layers.unsaved = True
    _turn_to(layers, step)
    return True


def _turn_to(layers: SessionLayers, step: Step) -> None:
    where, shown = step.action.where, layers.where
    changed = sorted({each.start[0] for each in step.voxels})
    if where is None and changed:
        where = SliceIndex(0, changed[len(changed) // 2])
    is_seen = shown is None or (shown.index in changed if shown.axis == 0 else bool(changed))
    if where is not None and where != shown and not is_seen:
        planes.show_slice(layers.viewer, layers.image, where)


def _show_restored(layers: SessionLayers) -> None:
    """Show a session whose content was put in place as a whole."""
    layers.masks.restored()
    if layers.census.labels:
        layers.label_layer()
    if not layers.session.objects:
        layers.any_object()
        layers.session.journal.close()
    layers.select(next(iter(layers.session.objects)))
    if any(thing.slices for thing in layers.session.objects.values()):
        layers.prompt_layer()
    layers.unsaved = True


def _title(layers: SessionLayers, step: Step) -> str:
    action = step.action
    known = layers.session.objects
    name = layers.name(action.label) if action.label in known else f"Object {action.label}"
    where = f", slice {action.where.index}" if action.where is not None else ""
    if action.kind == Do.CORRECT:
        return f"{name}: {str(action.details.get('operation')).replace('_', ' ')}{where}"
    return f"{name if action.label else 'Labels'}: {_TITLES[action.kind]}{where}"


def _picture(session: Session, leftover: Leftover) -> NDArray[np.uint8]:
    """Draw the slice with most labels, small."""
    labels = leftover.content.labels
    index = int(np.count_nonzero(labels, axis=(1, 2)).argmax())
    step = max(1, round(max(labels.shape[1:]) / PICTURE_PX))
    plane = labels[index, ::step, ::step]
    where = SliceIndex(0, index)
    seen = apply_window(where.take(session.volume.array)[::step, ::step], session.window)
    colours = np.repeat(seen[..., None], 3, axis=2) if seen.ndim == 2 else seen.copy()
    palette = label_colormap(N_COLOURS)
    for label in np.unique(plane[plane > 0]):
        here = plane == label
        colours[here] = 0.5 * colours[here] + 0.5 * np.asarray(palette.map(int(label)))[:3]
    return np.ascontiguousarray(np.round(255 * colours).astype(np.uint8))
