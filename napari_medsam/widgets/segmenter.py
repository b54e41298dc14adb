"""What the dock and the keys can do: prompts to masks, objects, propagation, correction, saving. No Qt.

Computing goes to a `Runner`, and every result is written here, in the GUI thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_warning
from psygnal import Signal

from napari_medsam.correction import correct, interpolate
from napari_medsam.prompts import PromptError, SliceIndex, SlicePrompts
from napari_medsam.session import ACCEPTED, CORRECTED, Session
from napari_medsam.volume import GeometryError, VolumeError
from napari_medsam.widgets import planes
from napari_medsam.widgets.actions import bind_prompt_keys
from napari_medsam.widgets.layers import SessionLayers
from napari_medsam.widgets.saving import default_path, save_session
from napari_medsam.widgets.shared_model import SharedModel, load_predictor

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_medsam.propagation import SliceMask
    from napari_medsam.widgets.worker import Runner
    from napari_medsam.windowing import Window

NO_IMAGE = "Open an image first: drop a file or a DICOM folder here, or choose File > Open Sample > MedSAM."
NOT_IN_3D = "Prompts need a slice on screen: leave the 3D view (Ctrl+Y)."
PROPAGATE, CORRECT, SAVE, MODEL = "propagate", "correct", "save", "model"
POINT = "point"


class Segmenter:
    """Segments the images of one viewer.

    Parameters
    ----------
    viewer
        With or without a window.
    runner
        Who computes.

    Attributes
    ----------
    changed : Signal()
        Something that a front end shows may have changed: the image, objects, sizes, key slices.
    progressed : Signal(str, int, int)
        What is running, how much of it is done, and of how much; ``("", 0, 0)`` when it has ended.
    found : Signal(float)
        A mask was written; the model's estimate of its IoU.
    candidates_changed : Signal()
        There are other readings of a point to choose from, or there are none any more.
    saved : Signal(Path)
        A label map was written.
    save_requested : Signal()
        The user wants to save; a front end may have to ask where to.
    """

    changed = Signal()
    progressed = Signal(str, int, int)
    found = Signal(float)
    candidates_changed = Signal()
    saved = Signal(Path)
    save_requested = Signal()

    def __init__(self, viewer: ViewerModel, runner: Runner, model: SharedModel | None = None) -> None:
        self.viewer, self.runner = viewer, runner
        self.model = model or SharedModel()
        self.layers: SessionLayers | None = None
        self.candidates: tuple[SliceMask, ...] = ()
        self._all: list[SessionLayers] = []
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.current_step.connect(self._on_slice)
        viewer.dims.events.order.connect(self._on_slice)
        for layer in [viewer.layers.selection.active, *viewer.layers]:
            if self.layers is None and isinstance(layer, Image):
                self.choose(layer)

    @property
    def unsaved(self) -> list[SessionLayers]:
        """Sessions with work that is in no file."""
        return [each for each in self._all if each.unsaved]

    def choose(self, image: Image) -> None:
        """Make an image the one to segment; one that cannot be is named and left."""
        known = next((each for each in self._all if each.image == image), None)
        if known is None:
            try:
                volume = planes.volume_of(image)
                window = planes.window_of(image, volume)
                known = SessionLayers(self.viewer, image, Session(volume, self.model, window=window))
            except (VolumeError, GeometryError) as error:
                show_warning(str(error))
                return
            known.prompted.connect(self._on_prompted)
            known.edited.connect(lambda labels: self.changed.emit())
            known.selected.connect(lambda label: self._on_slice())
            known.said.connect(show_warning)
            self._all.append(known)
            if planes.UNKNOWN_SIZE in volume.notes:
                show_warning(planes.UNKNOWN_SIZE)
        self.layers = known
        self._drop_candidates()
        self.changed.emit()

    def draw_box(self) -> None:
        """Get ready for dragging a box."""
        layers = self._ready("box")
        if layers is not None:
            layer = layers.box_layer()
            bind_prompt_keys(layer, self)
            self.viewer.layers.selection.active = layer
            layer.mode = "add_rectangle"
            self.changed.emit()

    def place_points(self) -> None:
        """Get ready for clicking points."""
        layers = self._ready(POINT)
        if layers is not None:
            layer = layers.point_layer()
            bind_prompt_keys(layer, self)
            self.viewer.layers.selection.active = layer
            layer.mode = "add"
            self.changed.emit()

    def edit_labels(self, mode: str) -> None:
        """Take napari's brush (``paint``), eraser (``erase``) or bucket (``fill``) for the current object."""
        layers = self._ready()
        if layers is not None:
            layer = layers.label_layer()
            self.viewer.layers.selection.active = layer
            layer.selected_label = layers.label
            layer.mode = mode
            self.changed.emit()

    def edit_prompts(self) -> None:
        """Get ready for moving and resizing prompts: of the kind that the slice on screen has."""
        layers = self._ready()
        if layers is None:
            return
        known, where = layers.session.objects[layers.label].slices, layers.where
        here = known.get(where, SlicePrompts()) if where else SlicePrompts()
        only_points = here.box is None and here.points
        layer = layers.point_layer() if only_points else layers.box_layer()
        self.viewer.layers.selection.active = layer
        layer.mode = "select"
        self.changed.emit()

    def new_object(self, name: str = "") -> None:
        """Begin the next object."""
        layers = self._ready()
        if layers is not None:
            layers.select(layers.session.add_object(name))

    def walk(self, step: int) -> None:
        """Go to the next object (1) or the one before (-1), in the order of the list, round and round."""
        layers = self.layers
        if layers is not None:
            known = list(layers.session.objects)
            layers.go_to(known[(known.index(layers.label) + step) % len(known)])

    def accept(self) -> None:
        """Lock the current object on the slice on screen, or unlock it when it is locked."""
        layers = self._ready()
        where = None if layers is None else layers.where
        if layers is None or where is None:
            return
        marked = layers.session.key_slices.get(layers.label, {}).get(where)
        layers.session.mark(layers.label, where, None if marked == ACCEPTED else ACCEPTED)
        layers.unsaved = True
        self.changed.emit()

    def undo(self) -> None:
        """Take back the last change of the mask on the slice on screen."""
        if self.layers is not None:
            self.layers.undo()

    def propagate(self, first: int, last: int) -> None:
        """Carry the current object through slices `first` to `last` along the axis across the screen."""
        layers = self._ready()
        if layers is None or layers.where is None:
            return
        axis, label = layers.where.axis, layers.label
        done = 0

        def receive(part: SliceMask) -> None:
            nonlocal done
            done += 1
            layers.put(part)
            self.progressed.emit(PROPAGATE, done, last - first + 1)

        self.progressed.emit(PROPAGATE, 0, last - first + 1)
        self.runner.submit(
            PROPAGATE,
            lambda: layers.session.propagate(axis, label, first, last),
            receive,
            self._end,
            urgent=False,
        )

    def stop(self) -> None:
        """Stop what is running after the slice that it is at; what was found stays."""
        running = [self.runner.cancel(key) for key in (PROPAGATE, CORRECT)]
        if any(running):
            self.progressed.emit("", 0, 0)

    def correct(self, operation: str, *, whole: bool) -> None:
        """Apply one of `napari_medsam.correction.OPERATIONS`, or "interpolate", to the current object."""
        layers = self._ready()
        where = None if layers is None else layers.where
        if layers is None or where is None:
            return
        label, labels = layers.label, layers.session.labels

        def work() -> Iterator[SliceMask]:
            if operation == "interpolate":
                return interpolate(labels, label, where, whole=whole)
            return correct(labels, label, operation, where, whole=whole)

        def receive(part: SliceMask) -> None:
            marked = layers.session.key_slices.get(label, {}).get(part.where)
            if marked == CORRECTED:
                # What was corrected before may be corrected again; what was accepted may not.
                layers.session.mark(label, part.where, None)
            layers.put(part)
            if marked == CORRECTED or (not whole and marked is None):
                layers.session.mark(label, part.where, CORRECTED)
            self.changed.emit()

        self.runner.submit(CORRECT, work, receive, self._end)

    def choose_candidate(self, number: int) -> None:
        """Take another reading of the last point, counted from 0."""
        layers = self.layers
        if layers is None or number >= len(self.candidates):
            return
        part = self.candidates[number]
        layers.session.mark(part.label, part.where, None)
        layers.put(part)
        if number:
            # The prompts alone would not give this mask again.
            layers.session.mark(part.label, part.where, CORRECTED)
        self.found.emit(part.score)
        self.changed.emit()

    def set_window(self, window: Window) -> None:
        """Let the model see other intensities, and predict the slice on screen again."""
        layers = self.layers
        if layers is None:
            return
        layers.session.window = window
        self.changed.emit()
        where = layers.where
        if where is None or layers.session.key_slices.get(layers.label, {}).get(where):
            return
        if where in layers.session.objects[layers.label].slices:
            self._on_prompted(layers.label, where)

    def use_model(self, name: str) -> None:
        """Load another model and use it from now on; the old one stays when that fails."""

        def work() -> Iterator[Any]:
            yield load_predictor(name)

        def receive(predictor: Any) -> None:
            self.model.replace(name, predictor)
            self.changed.emit()

        self.progressed.emit(MODEL, 0, 0)
        self.runner.submit(MODEL, work, receive, self._end)

    def warm_up(self) -> None:
        """Load the model before it is needed."""

        def work() -> Iterator[Any]:
            yield self.model.predictor

        self.runner.submit(MODEL, work, lambda predictor: self.changed.emit(), self._end, urgent=False)

    def use_labels(self, layer: Labels) -> None:
        """Go on with a label layer of the user's own."""
        if self.layers is not None:
            try:
                self.layers.use_labels(layer)
            except PromptError as error:
                show_warning(str(error))

    def save(self, path: Path | None = None, layers: SessionLayers | None = None) -> bool:
        """Write the label map, and names and prompts beside it, without holding up the window.

        Parameters
        ----------
        path
            Where to; beside the image when None.
        layers
            Which session; the current one when None.

        Returns
        -------
        bool
            False when there is nothing to save, or no place that follows from the image.
        """
        layers = layers or self.layers
        if layers is None:
            return False
        target = path or default_path(layers.session)
        if target is None:
            return False
        session = layers.session
        # What is changed while the file is being written is unsaved again.
        layers.unsaved = False

        def end(error: Exception | None) -> None:
            if error is not None:
                layers.unsaved = True
            self._end(error)

        self.progressed.emit(SAVE, 0, 0)
        self.runner.submit(
            (SAVE, id(layers)), lambda: iter([save_session(session, target)]), self._on_saved, end
        )
        return True

    def close(self) -> None:
        """Follow the viewer no more."""
        events = self.viewer.layers.selection.events.active, self.viewer.layers.events.removed
        for event, callback in zip(events, (self._on_active, self._on_removed), strict=True):
            event.disconnect(callback)
        self.viewer.dims.events.current_step.disconnect(self._on_slice)
        self.viewer.dims.events.order.disconnect(self._on_slice)
        for each in self._all:
            each.close()

    def tell(self, error: Exception | None) -> None:
        """Show what went wrong, if anything did."""
        _tell(error)

    def takes(self, kind: str) -> bool:
        """Whether the model was trained with a kind of prompt; True while nobody knows yet."""
        from napari_medsam.models.specs import MODELS

        spec = MODELS.get(self.model.name)
        if self.model.device:
            return kind in self.model.predictor.supported_prompts
        return spec is None or kind in spec.supported_prompts

    def _ready(self, kind: str = "") -> SessionLayers | None:
        """Return the session, or say why there is nothing to do."""
        if self.layers is None:
            show_warning(NO_IMAGE)
            return None
        if self.layers.where is None:
            show_warning(NOT_IN_3D)
            return None
        if kind and not self.takes(kind):
            show_warning(
                f"The model {self.model.name} was trained without {kind}s: choose another one under Model."
            )
            return None
        return self.layers

    def _on_prompted(self, label: int, where: SliceIndex) -> None:
        layers = self.layers
        assert layers is not None
        self._drop_candidates()
        session = layers.session
        session.mark(label, where, None)
        prompts = session.objects[label].slices.get(where)
        if prompts is None:
            layers.put(_nothing(session, label, where))
            return
        single = prompts.box is None and len(prompts.points) == 1

        def work() -> Iterator[Any]:
            yield session.segment(where, label)
            if single:
                yield session.candidates(where, label)

        def receive(result: Any) -> None:
            known = session.objects.get(label)
            if known is None or known.slices.get(where) != prompts:
                return
            if isinstance(result, tuple):
                self.candidates = result if len(result) > 1 else ()
                self.candidates_changed.emit()
                return
            layers.put(result)
            self.found.emit(result.score)

        self.runner.submit((id(layers), label, where), work, receive, self._end_prompt)

    def _end_prompt(self, error: Exception | None) -> None:
        self.tell(error)
        self.changed.emit()

    def _end(self, error: Exception | None) -> None:
        self.progressed.emit("", 0, 0)
        self._end_prompt(error)

    def _on_saved(self, path: Path) -> None:
        self.saved.emit(path)

    def _on_slice(self, event: Any = None) -> None:
        self._drop_candidates()
        self.changed.emit()

    def _drop_candidates(self) -> None:
        if self.candidates:
            self.candidates = ()
            self.candidates_changed.emit()

    def _on_active(self, event: Any = None) -> None:
        active = self.viewer.layers.selection.active
        if active is None:
            return
        owner = next((each for each in self._all if each.owns(active)), None)
        if owner is not None:
            self.choose(owner.image)
        elif isinstance(active, Image):
            self.choose(active)

    def _on_removed(self, event: Any) -> None:
        gone = next((each for each in self._all if each.image == event.value), None)
        if gone is None:
            return
        if not gone.unsaved:
            self._all.remove(gone)
            gone.close()
        if self.layers is gone:
            self.layers = None
            self._on_active()
        self.changed.emit()


def _nothing(session: Session, label: int, where: SliceIndex) -> SliceMask:
    import numpy as np

    from napari_medsam.propagation import SliceMask

    return SliceMask(where, label, np.zeros(where.take(session.labels).shape, bool), 1.0, "prompt")


def _tell(error: Exception | None) -> None:
    """Show what went wrong: one sentence for what a user can mend, and what to do about all else."""
    if isinstance(error, ValueError | OSError):
        show_warning(str(error))
    elif isinstance(error, MemoryError):
        show_error("There is not enough memory: close other volumes, or choose a smaller model.")
    elif error is not None:
        show_error(
            f"This is a bug in napari-medsam ({type(error).__name__}: {error}). Your labels are as they "
            "were; save them, and please report it."
        )
