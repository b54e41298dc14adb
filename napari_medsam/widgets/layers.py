"""A session as napari layers: boxes and points of one object at a time, and the labels of all.

The session holds what is true; the layers show it and take what the user does. A layer that the user deletes
is made again when it is needed, renaming and reordering change nothing, and a duplicate is the user's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from psygnal import Signal

from napari_medsam import tasks
from napari_medsam.export import placed_on
from napari_medsam.journal import Action, Do
from napari_medsam.prompts import ObjectPrompts, PromptError, SliceIndex, SlicePrompts
from napari_medsam.session import ACCEPTED, CORRECTED, Session
from napari_medsam.widgets import planes
from napari_medsam.widgets.label_files import layers_of, segmentation_of
from napari_medsam.widgets.label_layer import LOCKED, LabelLayer
from napari_medsam.widgets.messages import NOT_IN_3D
from napari_medsam.widgets.metadata import METADATA_KEY, layer_geometry, layer_metadata
from napari_medsam.widgets.own_doing import OwnDoing
from napari_medsam.widgets.prompt_shapes import (
    PromptView,
    has_trail,
    new_boxes,
    new_points,
    note_button,
    read_prompts,
    show_prompts,
)
from napari_medsam.widgets.scribble import BUTTONS, add_scribble, follow

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari.components import ViewerModel
    from napari.layers import Image, Layer, Points, Shapes

    from napari_medsam.export import Resampling
    from napari_medsam.propagation import SliceMask
    from napari_medsam.terminology import Term
    from napari_medsam.widgets.census import Census

BESIDE = "The box lies beside '{}': drag it over the object."
POINT_BESIDE = "The point lies beside '{}': click on the image."
DONE = ("added", "changed", "removed")
"""What napari calls an edit of shapes or points once it is over."""


class SessionLayers:
    """Shows one image's session in a viewer, and tells what the user does to it.

    Parameters
    ----------
    viewer
        With or without a window.
    image
        The layer that is being segmented.
    session
        Of the image's volume.

    Attributes
    ----------
    edits : int
        How often voxels have changed.
    masks
        The label map and its layer.
    prompted : Signal(Action)
        The prompts of an object have changed on a slice: to be answered as part of this action.
    edited : Signal(set)
        Voxels of these labels have changed, whoever did it.
    selected : Signal(int)
        Another object is the current one.
    said : Signal(str)
        One sentence for the user.
    """

    prompted = Signal(Action)
    edited = Signal(set)
    selected = Signal(int)
    said = Signal(str)

    def __init__(self, viewer: ViewerModel, image: Image, session: Session) -> None:
        self.viewer, self.image, self.session = viewer, image, session
        self.masks = LabelLayer(session, image.ndim, lambda: self.where)
        self.masks.edited.connect(self._on_edited)
        self.masks.chosen.connect(self._on_chosen)
        self.masks.said.connect(self.said.emit)
        self.boxes: Shapes | None = None
        self.points: Points | None = None
        self.unsaved = False
        self.edits = self.label = 0
        self.label = self.any_object()
        # There is no session without an object.
        session.journal.close()
        self._ours = OwnDoing()
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def where(self) -> SliceIndex | None:
        """The slice on screen; None in 3D."""
        return planes.displayed_slice(self.viewer, self.image, self.session.volume.geometry.shape)

    @property
    def labels(self) -> Labels | None:
        """The layer with the labels, if there is one."""
        return self.masks.layer

    @property
    def series(self) -> str | None:
        """UID of the DICOM series that the image is; None where it came alone."""
        return self.image.metadata.get(METADATA_KEY, {}).get("series")

    @property
    def census(self) -> Census:
        """Voxels of every label on every slice."""
        return self.masks.census

    @property
    def key_kind(self) -> str | None:
        """Why the slice on screen is a key slice of the current object; None when it is none."""
        where = self.where
        return None if where is None else self.session.key_slices.get(self.label, {}).get(where)

    @property
    def tool(self) -> str:
        """What the mouse does on the canvas: one of `widgets.segment.TOOLS`, or "" for anything else."""
        active = self.viewer.layers.selection.active
        for layer, modes in (
            (
                self.boxes,
                {"add_rectangle": "box", "add_line": "line", "select": "edit", "direct": "edit"},
            ),
            (self.points, {"add": "points", "select": "edit"}),
            (self.labels, {mode: mode for mode in ("paint", "erase", "fill")}),
        ):
            if layer is not None and layer == active:
                return modes.get(str(layer.mode), "")
        return ""

    def owns(self, layer: Layer) -> bool:
        """Whether a layer belongs to this session, its image included."""
        return any(layer == mine for mine in (self.image, self.boxes, self.points, self.labels))

    def box_layer(self) -> Shapes:
        """Return the layer to draw boxes in, made if there is none."""
        if self.boxes is None:
            self.boxes = new_boxes(self.image, self.placement("boxes"))
            self.add(self.boxes)
            self.boxes.events.data.connect(self._on_prompts)
            self.boxes.events.mode.connect(self._on_mode)
            self._show_prompts()
        return self.boxes

    def point_layer(self) -> Points:
        """Return the layer to place points in, made if there is none."""
        if self.points is None:
            self.points = new_points(self.image, self.placement("points"))
            self.add(self.points)
            self.points.mouse_drag_callbacks.insert(0, self._on_press)
            self.points.events.data.connect(self._on_prompts)
            self.points.events.mode.connect(self._on_mode)
            self._show_prompts()
        return self.points

    def prompt_layer(self) -> Shapes | Points:
        """Return the layer with the prompts of the slice on screen: boxes, unless there are points only."""
        where = self.where
        here = None if where is None else self.session.objects[self.label].slices.get(where)
        only_points = here is not None and here.box is None
        return self.point_layer() if only_points else self.box_layer()

    def label_layer(self) -> Labels:
        """Return the layer with the labels, made if there is none."""
        if self.labels is None:
            layer = self.masks.make(self.label, **self.placement("segmentation"))
            self.add(layer, above=self.image)
        assert self.labels is not None
        return self.labels

    def use_labels(self, layer: Labels, resample: Resampling | None = None) -> None:
        """Go on with a label layer of the user's own; see `LabelLayer.adopt`.

        One on another grid stays as it is, and a layer of its voxels on the image's grid is made.

        Raises
        ------
        GridError
            When its voxels are not voxels of the image, and no way to resample it was chosen.
        PromptError, GeometryError, SegmentationError
            When it cannot be gone on with for other reasons.
        """
        own, theirs = layer_geometry(self.image.metadata), layer_geometry(layer.metadata)
        if own is None or theirs is None or not own.difference(theirs):
            self.masks.adopt(layer, self.label)
        else:
            placed = placed_on(segmentation_of([layer.as_layer_data_tuple()]), own, resample=resample)
            ((data, attributes, _),) = layers_of(placed, "")
            made = Labels(data, **{**attributes, **self.placement("segmentation")}, opacity=0.5)
            self.masks.adopt(made, self.label)
            self.add(made, above=self.image)
        self.select(self.any_object())
        self.edited.emit(set(self.session.objects))

    def select(self, label: int) -> None:
        """Make an object the current one: its prompts are shown, the brush paints it."""
        if label not in self.session.objects:
            with self.session.within(Do.ADD, label):
                self.session.set_object(label, ObjectPrompts(label))
        self.label = label
        self.masks.select(label)
        self._show_prompts()
        self.selected.emit(label)

    def go_to(self, label: int) -> None:
        """Select an object and turn to it: to its first prompt, or else to the middle of it."""
        self.select(label)
        known = self.session.objects[label].slices
        occupied = self.census.slices(label)
        where = self.where
        if known and where not in known:
            planes.show_slice(self.viewer, self.image, next(iter(known)))
        elif not known and occupied and (where is None or where.axis or where.index not in occupied):
            planes.show_slice(self.viewer, self.image, SliceIndex(0, occupied[len(occupied) // 2]))

    def remove(self, label: int, into: int = 0) -> None:
        """Delete an object, or merge it into another one."""
        # The object that takes its place goes with it again when that is taken back.
        with self.session.doing(self.session.journal.action(Do.REMOVE, label)):
            self.masks.remove(label, into)
            self.select(into or self.any_object())
        self.unsaved = True

    def name(self, label: int) -> str:
        """What to call an object, whether somebody named it or not."""
        return self.session.objects[label].name or f"Object {label}"

    def rename(self, label: int, name: str, term: Term | None = None) -> None:
        """Give an object a name, and what it is in codes; a name that cannot be is said."""
        try:
            self.session.rename(label, name, term)
        except PromptError as error:
            self.said.emit(str(error))
        else:
            self.masks.describe()
            self.unsaved = True

    def mark(self, where: SliceIndex, kind: str | None) -> None:
        """Make a slice a key slice of the current object, or none any more (None)."""
        self.session.mark(self.label, where, kind)
        if kind == ACCEPTED:
            self.masks.keep_flat()
        self.unsaved = True

    def put(self, part: SliceMask) -> None:
        """Write a mask."""
        if part.mask.any():
            # The user may have deleted it.
            self.label_layer()
        self.masks.put(part)

    def put_corrected(self, part: SliceMask, *, is_key: bool) -> None:
        """Write a corrected mask; its slice is a key slice afterwards if it was one, or shall be one."""
        marked = self.session.key_slices.get(part.label, {}).get(part.where)
        if marked == CORRECTED:
            # What was corrected before may be corrected again; what was accepted may not.
            self.session.mark(part.label, part.where, None)
        self.put(part)
        if marked == CORRECTED or (is_key and marked is None):
            self.session.mark(part.label, part.where, CORRECTED)

    def close(self) -> None:
        """Leave the layers to the user: nothing is followed any more."""
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for layer in (self.boxes, self.points):
            if layer is not None:
                layer.events.data.disconnect(self._on_prompts)
                layer.events.mode.disconnect(self._on_mode)
        if self.points is not None:
            self.points.mouse_drag_callbacks.remove(self._on_press)
        self.masks.leave()

    def placement(self, what: str) -> dict[str, Any]:
        """Attributes of a layer that lies on the image."""
        image = self.image
        return {
            "name": f"{image.name} {what}",
            "scale": image.scale,
            "translate": image.translate,
            "rotate": image.rotate,
            "shear": image.shear,
            "affine": image.affine,
            "units": image.units,
            "metadata": layer_metadata(self.session.volume, self.series),
        }

    def add(self, layer: Layer, above: Layer | None = None) -> None:
        """Add a layer without taking the user away from the one they work in."""
        active = self.viewer.layers.selection.active
        self.viewer.add_layer(layer)
        if above is not None and above in self.viewer.layers:
            self.viewer.layers.move(len(self.viewer.layers) - 1, self.viewer.layers.index(above) + 1)
        if active is not None:
            self.viewer.layers.selection.active = active

    def _view(self) -> PromptView:
        where = self.where
        spacing = self.session.volume.geometry.spacing
        return PromptView(self.boxes, self.points, where.axis if where else 0, spacing)

    def any_object(self) -> int:
        """Return an object's label, of the current one if there is one; there is no session without any."""
        known = self.session.objects
        return self.label if self.label in known else next(iter(known), 0) or self.session.add_object()

    def _show_prompts(self) -> None:
        with self._ours:
            show_prompts(self._view(), self.session.objects[self.label].slices)

    def _on_press(self, layer: Points, event: Any) -> Generator[None, None, None]:
        where = self.where
        if self.viewer.dims.ndisplay != 2 and str(layer.mode) == "add":
            # The point would lie on a slice that nobody chose, and change the mask there.
            layer.mode = "pan_zoom"
            self.said.emit(NOT_IN_3D)
            return
        if has_trail(layer):
            self._show_prompts()
        note_button(layer, event, where.axis if where else 0)
        if where is None or str(layer.mode) != "add" or event.button not in BUTTONS:
            return
        label, chosen = self.label, layer.feature_defaults.copy()
        scribble = yield from follow(layer, event, where, self.session.volume.geometry.shape, self._ours)
        if has_trail(layer):
            self._show_prompts()
        layer.feature_defaults = chosen
        if scribble is not None and self.label == label:
            add_scribble(layer, scribble, self._ours)

    def _on_prompts(self, event: Any) -> None:
        if self._ours or str(event.action).lower().rpartition(".")[2] not in DONE:
            return
        known = self.session.objects[self.label].slices
        found, tidy = read_prompts(self._view())
        changed = [w for w in {**known, **found} if known.get(w) != found.get(w)]
        locked = [w for w in changed if self.session.key_slices.get(self.label, {}).get(w) == ACCEPTED]
        if locked:
            tidy = False
            self.said.emit(LOCKED.format(locked[0].index))
        actions: list[Action] = []
        for where in [w for w in changed if w not in locked]:
            prompts = found.get(where, SlicePrompts())
            try:
                self._check(where, prompts)
                action = tasks.prompt(self.session, self.label, where)
                with self.session.doing(action):
                    self.session.add_prompts(self.label, where, prompts)
                actions.append(action)
            except PromptError as error:
                tidy = False
                self.said.emit(str(error))
        if not tidy:
            self._show_prompts()
        self.unsaved = self.unsaved or bool(actions)
        for action in actions:
            self.prompted.emit(action)

    def _check(self, where: SliceIndex, prompts: SlicePrompts) -> None:
        """Refuse a box or point beside the image; it would only spoil the mask of a good one."""
        where.checked(self.session.volume.geometry.shape)
        shape = where.take(self.session.labels).shape
        if prompts.box and planes.is_outside(prompts.box, shape):
            raise PromptError(BESIDE.format(self.image.name))
        if any(planes.is_beside(point, shape) for point in prompts.points):
            raise PromptError(POINT_BESIDE.format(self.image.name))

    def _on_mode(self, event: Any = None) -> None:
        self.edited.emit(set())

    def _on_chosen(self, label: int) -> None:
        if label != self.label:
            self.select(label)

    def _on_edited(self, labels: set[int]) -> None:
        self.unsaved = self.unsaved or bool(labels)
        self.edits += bool(labels)
        self.edited.emit(labels)

    def _on_removed(self, event: Any) -> None:
        # What a viewer hands to a plugin may be a stand-in that is equal to the layer, but not the same.
        for name in ("boxes", "points"):
            if event.value == getattr(self, name):
                setattr(self, name, None)
        if self.labels is not None and event.value == self.labels:
            self.masks.leave()
