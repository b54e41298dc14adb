"""What the dock and the keys can do: prompts to masks, objects, propagation, correction, saving. No Qt.

Computing goes to a `Runner`, and every result is written here, in the GUI thread.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from napari.utils.notifications import show_warning
from psygnal import Signal

from napari_medsam import tasks
from napari_medsam.prompts import PromptError
from napari_medsam.segments import SegmentationError
from napari_medsam.session import ACCEPTED, Session
from napari_medsam.volume import GeometryError, VolumeError
from napari_medsam.widgets import planes
from napari_medsam.widgets.actions import bind_prompt_keys
from napari_medsam.widgets.ahead import Ahead
from napari_medsam.widgets.layers import SessionLayers
from napari_medsam.widgets.messages import NO_IMAGE, NOT_IN_3D, OUTSIDE, UNTRAINED, tell
from napari_medsam.widgets.model_loading import ModelLoading
from napari_medsam.widgets.past import Past
from napari_medsam.widgets.prompting import Prompting
from napari_medsam.widgets.reviewing import Reviewing
from napari_medsam.widgets.runner import Priority, Runner
from napari_medsam.widgets.saving import default_path, save_layers
from napari_medsam.widgets.shared_model import SharedModel

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_medsam.export import Resampling
    from napari_medsam.journal import Action
    from napari_medsam.propagation import SliceMask
    from napari_medsam.windowing import Window

PROPAGATE, CORRECT, SAVE = "propagate", "correct", "save"
POINT = "point"


class Segmenter:
    """Segments the images of one viewer.

    Parameters
    ----------
    viewer
        With or without a window.
    runner
        Who computes.
    model
        Who is asked; the default model when None.
    folder
        Where work in progress is kept; nowhere when None.

    Attributes
    ----------
    changed : Signal()
        Something that a front end shows may have changed: the image, objects, sizes, key slices.
    progressed : Signal(str, int, int)
        What is running, how much of it is done, and of how much; ``("", 0, 0)`` when it has ended.
    sessions
        Of all images that were segmented, with their layers.
    loading
        Loads the model, or another one.
    ahead
        Prepares slices that will be asked about.
    prompting
        Turns prompts into masks.
    reviewing
        Leads to the slices that want a look.
    past
        Goes back and forth in what was done, and keeps it from being lost.
    saved : Signal(Path)
        A label map was written.
    save_requested : Signal()
        The user wants to save; a front end may have to ask where to.
    """

    changed = Signal()
    progressed = Signal(str, int, int)
    saved = Signal(Path)
    save_requested = Signal()

    def __init__(
        self,
        viewer: ViewerModel,
        runner: Runner,
        model: SharedModel | None = None,
        folder: Path | None = None,
    ) -> None:
        self.viewer, self.runner = viewer, runner
        self.model = model or SharedModel()
        self.layers: SessionLayers | None = None
        self.loading = ModelLoading(self)
        self.prompting = Prompting(runner)
        self.prompting.ended.connect(self.changed.emit)
        self.ahead = Ahead(runner, self.model)
        self.reviewing = Reviewing(self)
        self.past = Past(self, folder)
        self.changed.connect(lambda: self.ahead.look(self.layers))
        self.sessions: list[SessionLayers] = []
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.current_step.connect(self._on_slice)
        viewer.dims.events.order.connect(self._on_slice)
        for layer in dict.fromkeys([viewer.layers.selection.active, *viewer.layers]):
            if self.layers is None and isinstance(layer, Image):
                self.choose(layer)

    @property
    def unsaved(self) -> list[SessionLayers]:
        """Sessions with work that is in no file."""
        return [each for each in self.sessions if each.unsaved]

    def choose(self, image: Image) -> None:
        """Make an image the one to segment; one that cannot be is named and left."""
        known = next((each for each in self.sessions if each.image == image), None)
        if known is None:
            try:
                volume = planes.volume_of(image)
                window = planes.window_of(image, volume)
                session = Session(volume, self.model, window=window, model_name=self.model.name)
                known = SessionLayers(self.viewer, image, session)
            except (VolumeError, GeometryError) as error:
                show_warning(str(error))
                return
            known.prompted.connect(partial(self.prompting.predict, known))
            known.edited.connect(lambda labels: self.changed.emit())
            known.selected.connect(lambda label: self._on_slice())
            known.said.connect(show_warning)
            self.sessions.append(known)
            self.past.follow(known)
            if planes.UNKNOWN_SIZE in volume.notes:
                show_warning(planes.UNKNOWN_SIZE)
        self.layers = known
        self.prompting.drop()
        self.changed.emit()

    def draw_box(self) -> None:
        """Get ready for dragging a box."""
        self._draw("box", "add_rectangle")

    def draw_line(self) -> None:
        """Get ready for dragging along an object's longest diameter; the line becomes its box."""
        self._draw("box", "add_line")

    def place_points(self) -> None:
        """Get ready for clicking points."""
        self._draw(POINT, "add")

    def edit_labels(self, mode: str) -> None:
        """Take napari's brush (``paint``), eraser (``erase``) or bucket (``fill``) for the current object."""
        layers = self._ready()
        if layers is not None:
            layer = layers.label_layer()
            layer.selected_label = layers.label
            self._take(layer, mode)

    def edit_prompts(self) -> None:
        """Get ready for moving and resizing prompts: of the kind that the slice on screen has."""
        layers = self._ready()
        if layers is not None:
            self._take(layers.prompt_layer(), "select")

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
        layers.mark(where, None if layers.key_kind == ACCEPTED else ACCEPTED)
        self.changed.emit()

    def remove(self, label: int, into: int = 0) -> None:
        """Delete an object, or merge it into another one; what is being computed for it is given up."""
        if self.layers is not None:
            self.stop()
            self.layers.remove(label, into)

    def propagate(self, first: int, last: int) -> None:
        """Carry the current object through slices `first` to `last` along the axis across the screen."""
        layers = self._ready()
        if layers is not None and layers.where is not None:
            action = tasks.carry(layers.session, layers.where.axis, [layers.label], first, last)
            self.carry(layers, action, last - first + 1)

    def carry(self, layers: SessionLayers, action: Action, total: int) -> None:
        """Write what is carried from slice to slice as it comes, and tell how much of `total` is done."""
        session, done = layers.session, 0

        def receive(part: SliceMask) -> None:
            nonlocal done
            done += 1
            self.progressed.emit(PROPAGATE, min(done, total), total)
            with session.doing(action):
                layers.put(part)

        self.progressed.emit(PROPAGATE, 0, total)
        work = partial(tasks.parts_of, session, action)
        self.runner.submit(PROPAGATE, work, receive, self.end, priority=Priority.BESIDE)

    def stop(self) -> None:
        """Stop what is running after the slice that it is at; what was found stays."""
        if sum(self.runner.cancel(key) for key in (PROPAGATE, CORRECT)):
            self.progressed.emit("", 0, 0)

    def correct(self, operation: str, *, whole: bool) -> None:
        """Apply one of `napari_medsam.correction.OPERATIONS`, or "interpolate", to the current object."""
        layers = self._ready()
        where = None if layers is None else layers.where
        if layers is None or where is None:
            return
        session = layers.session
        action = tasks.correction(session, layers.label, where, operation, whole=whole)

        def receive(part: SliceMask) -> None:
            with session.doing(action):
                layers.put_corrected(part, is_key=not whole)
            self.changed.emit()

        self.runner.submit(CORRECT, partial(tasks.parts_of, session, action), receive, self.end)

    def set_window(self, window: Window) -> None:
        """Let the model see other intensities, and predict the slice on screen again."""
        layers = self.layers
        if layers is None:
            return
        layers.session.window = window
        self.changed.emit()
        where = layers.where
        if where and where in layers.session.objects[layers.label].slices and not layers.key_kind:
            self.prompting.predict(layers, tasks.prompt(layers.session, layers.label, where))

    def use_labels(self, layer: Labels, resample: Resampling | None = None) -> None:
        """Go on with a label layer of the user's own.

        Raises
        ------
        GridError
            When it lies on another grid, and no way to resample it was chosen; nothing has changed then.
        """
        if self.layers is not None:
            self.stop()
            try:
                self.layers.use_labels(layer, resample)
            except (PromptError, GeometryError, SegmentationError) as error:
                show_warning(str(error))
            else:
                bind_prompt_keys(self.layers.label_layer(), self)

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
        target = path or (None if layers is None else default_path(layers.session))
        if layers is None or target is None:
            return False

        def receive(path: Path) -> None:
            self.past.saved(layers)
            self.saved.emit(path)

        self.progressed.emit(SAVE, 0, 0)
        save_layers(layers, target, self.runner, receive, self.end)
        return True

    def end(self, error: Exception | None) -> None:
        """Let the front end know that what was running has ended, or why it failed."""
        self.progressed.emit("", 0, 0)
        if self.layers is not None and self.layers.where is None:
            self.layers.masks.refresh()
        tell(error)
        self.changed.emit()

    def close(self) -> None:
        """Follow the viewer no more, and delete what was kept on disk: the work is saved, or not wanted."""
        self.ahead.look(None)
        events = self.viewer.layers.selection.events.active, self.viewer.layers.events.removed
        for event, callback in zip(events, (self._on_active, self._on_removed), strict=True):
            event.disconnect(callback)
        self.viewer.dims.events.current_step.disconnect(self._on_slice)
        self.viewer.dims.events.order.disconnect(self._on_slice)
        for each in self.sessions:
            self.past.forget(each)
            each.close()

    def _draw(self, kind: str, mode: str) -> None:
        layers = self._ready(kind)
        if layers is not None:
            # A layer takes napari a while to add: now, not when the first mask is waited for.
            layers.label_layer()
            self._take(layers.point_layer() if kind == POINT else layers.box_layer(), mode)

    def _take(self, layer: Layer, mode: str) -> None:
        """Let the mouse do something on one of the plugin's layers."""
        bind_prompt_keys(layer, self)
        self.viewer.layers.selection.active = layer
        layer.mode = mode
        self.changed.emit()

    def _ready(self, kind: str = "") -> SessionLayers | None:
        """Return the session, or say why there is nothing to do."""
        self._find_image()
        if self.layers is None:
            return None
        if self.layers.where is None:
            in_2d = self.viewer.dims.ndisplay == 2
            show_warning(OUTSIDE.format(self.layers.image.name) if in_2d else NOT_IN_3D)
            return None
        if kind and not self.model.takes(kind):
            show_warning(UNTRAINED.format(self.model.name, kind))
            return None
        return self.layers

    def _find_image(self) -> None:
        """Take the uppermost image that is shown, where none is chosen or the chosen one is out of sight."""
        known, active = self.layers, self.viewer.layers.selection.active
        if known is not None and (known.image.visible or (active is not None and known.owns(active))):
            return
        images = [layer for layer in reversed(self.viewer.layers) if isinstance(layer, Image)]
        if known is None and not images:
            show_warning(NO_IMAGE)
        for image in sorted(images, key=lambda image: not image.visible):
            if known is None or image.visible:
                self.choose(image)
            if self.layers is not known:
                return

    def _on_slice(self, event: Any = None) -> None:
        self.prompting.drop()
        self.changed.emit()

    def _on_active(self, event: Any = None) -> None:
        active = self.viewer.layers.selection.active
        if active is None:
            return
        owner = next((each for each in self.sessions if each.owns(active)), None)
        if owner is not None:
            if owner.labels is not None and owner.labels == active:
                bind_prompt_keys(active, self)
            self.choose(owner.image)
        elif isinstance(active, Image):
            self.choose(active)

    def _on_removed(self, event: Any) -> None:
        gone = next((each for each in self.sessions if each.image == event.value), None)
        if gone is None:
            return
        if not gone.unsaved:
            self.sessions.remove(gone)
            self.past.forget(gone)
            gone.close()
        if self.layers is gone:
            self.layers = None
            self._on_active()
        others = (layer for layer in self.viewer.layers if isinstance(layer, Image))
        while self.layers is None and (other := next(others, None)) is not None:
            self.choose(other)
        self.changed.emit()
