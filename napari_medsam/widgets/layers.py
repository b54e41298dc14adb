"""A session as napari layers: boxes and points of one object at a time, and the labels of all.

The session holds what is true; the layers show it and take what the user does. A layer that the user deletes
is made again when it is needed, renaming and reordering change nothing, and a duplicate is the user's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Points, Shapes
from napari.utils.colormaps import DirectLabelColormap, label_colormap
from numpy.typing import NDArray
from psygnal import Signal

from napari_medsam.prompts import PromptError, SliceIndex, SlicePrompts
from napari_medsam.session import ACCEPTED, CORRECTED, Session
from napari_medsam.widgets import planes
from napari_medsam.widgets.census import Census
from napari_medsam.widgets.contrib import layer_metadata
from napari_medsam.widgets.prompt_shapes import (
    PromptView,
    new_boxes,
    new_points,
    note_button,
    read_prompts,
    show_prompts,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_medsam.propagation import SliceMask

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
    prompted : Signal(int, SliceIndex)
        The prompts of an object have changed on a slice.
    edited : Signal(set)
        Voxels of these labels have changed, whoever did it.
    selected : Signal(int)
        Another object is the current one.
    said : Signal(str)
        One sentence for the user.
    """

    prompted = Signal(int, SliceIndex)
    edited = Signal(set)
    selected = Signal(int)
    said = Signal(str)

    def __init__(self, viewer: ViewerModel, image: Image, session: Session) -> None:
        self.viewer, self.image, self.session = viewer, image, session
        self.census = Census(len(session.labels))
        self.boxes: Shapes | None = None
        self.points: Points | None = None
        self.labels: Labels | None = None
        self.unsaved = False
        self.hidden: set[int] = set()
        self.label = next(iter(session.objects), None) or session.add_object()
        self._palette = label_colormap()
        self._silent = self._about_to_paint = False
        self._seen: tuple[SliceIndex, NDArray[np.uint16]] | None = None
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def where(self) -> SliceIndex | None:
        """The slice on screen; None in 3D."""
        return planes.displayed_slice(self.viewer, self.image, self.session.volume.geometry.shape)

    def owns(self, layer: Layer) -> bool:
        """Whether a layer belongs to this session, its image included."""
        return any(layer == mine for mine in (self.image, self.boxes, self.points, self.labels))

    def box_layer(self) -> Shapes:
        """Return the layer to draw boxes in, made if there is none."""
        if self.boxes is None:
            self.boxes = new_boxes(self.image, self._placement("boxes"))
            self._add(self.boxes)
            self.boxes.events.data.connect(self._on_prompts)
            self._show_prompts()
        return self.boxes

    def point_layer(self) -> Points:
        """Return the layer to place points in, made if there is none."""
        if self.points is None:
            self.points = new_points(self.image, self._placement("points"))
            self._add(self.points)
            self.points.mouse_drag_callbacks.insert(0, self._on_press)
            self.points.events.data.connect(self._on_prompts)
            self._show_prompts()
        return self.points

    def label_layer(self) -> Labels:
        """Return the layer with the labels, made if there is none."""
        if self.labels is None:
            array = self.session.labels if self.image.ndim == 3 else self.session.labels[0]
            layer = Labels(array, **self._placement("segmentation"), opacity=0.5)
            self._add(layer, above=self.image)
            self._take(layer)
        assert self.labels is not None
        return self.labels

    def use_labels(self, layer: Labels) -> None:
        """Go on with a label layer of the user's own; what it holds is kept, each label an object.

        Raises
        ------
        PromptError
            When its shape is another than the image's, or it holds values that cannot be kept.
        """
        shape = self.session.volume.geometry.shape
        array = np.asarray(layer.data)
        found = array if array.ndim == 3 else array[None]
        if found.shape != shape:
            raise PromptError(
                f"'{layer.name}' has the shape {found.shape}, expected that of the image, {shape}: choose a "
                "label layer that was drawn on this image."
            )
        if found.dtype != np.uint16:
            if found.min() < 0 or found.max() > np.iinfo(np.uint16).max:
                raise PromptError(
                    f"'{layer.name}' holds values from {found.min()} to {found.max()}, expected 0 to 65535: "
                    "renumber its labels first."
                )
            found = found.astype(np.uint16)
        if self.labels is not None:
            self._leave(self.labels)
        if found is not array:
            layer.data = found if array.ndim == 3 else found[0]
        self.session.labels = found
        self.session.objects.clear()
        self.session.key_slices.clear()
        self.census = Census(len(found), found)
        names = _names(layer)
        for label in self.census.labels:
            self.session.add_prompts(label, SliceIndex(0, 0), SlicePrompts(), names.get(label, ""))
        self._take(layer)
        self.select(next(iter(self.session.objects), None) or self.session.add_object())
        self.edited.emit(set(self.session.objects))

    def select(self, label: int) -> None:
        """Make an object the current one: its prompts are shown, the brush paints it."""
        if label not in self.session.objects:
            self.session.add_prompts(label, SliceIndex(0, 0), SlicePrompts())
        self.label = label
        with self._silence():
            if self.labels is not None:
                self.labels.selected_label = label
        self._show_prompts()
        self.selected.emit(label)

    def colour(self, label: int) -> tuple[float, ...]:
        """RGBA of an object, hidden or not, from 0 to 1."""
        return tuple(self._palette.map(label))

    def show(self, label: int, is_shown: bool) -> None:
        """Show or hide an object; its voxels stay."""
        if is_shown == (label not in self.hidden):
            return
        self.hidden ^= {label}
        layer = self.label_layer()
        if not self.hidden:
            layer.colormap = self._palette
            return
        colours: dict[int | None, tuple[float, ...]] = {None: (0, 0, 0, 0)}
        colours |= {each: self.colour(each) for each in self.session.objects.keys() - self.hidden}
        layer.colormap = DirectLabelColormap(color_dict=colours)

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
        self._notice(by_hand=False)
        self.session.remove_object(label, self.census.slices(label), into)
        self.census.moved(label, into)
        if self.labels is not None:
            with self._silence():
                self.labels.refresh()
        self._look()
        self.select(into or next(iter(self.session.objects), None) or self.session.add_object())
        self.unsaved = True
        self.edited.emit({label, into} - {0})

    def put(self, part: SliceMask) -> None:
        """Write a mask; on the slice on screen it becomes one step of napari's undo."""
        self._notice(by_hand=False)
        plane = part.where.take(self.session.labels)
        before, after = plane.copy(), self.session.merged(part)
        rows, columns = np.nonzero(before != after)
        if not rows.size:
            return
        layer, seen = self.label_layer(), self.where
        if part.where == seen:
            places = [rows, columns]
            if self.image.ndim == 3:
                places.insert(part.where.axis, np.full(rows.shape, part.where.index))
            with self._silence():
                layer.data_setitem(tuple(places), after[rows, columns])
        else:
            plane[...] = after
            if seen is None or seen.axis != part.where.axis:
                with self._silence():
                    layer.refresh()
        touched = self.census.changed(part.where, before, after)
        self._look()
        self.unsaved = True
        self.edited.emit(touched)

    def undo(self) -> None:
        """Take back the last change of the mask on the slice on screen, as napari's label layers do."""
        if self.labels is not None:
            self.labels.undo()

    def close(self) -> None:
        """Leave the layers to the user: nothing is followed any more."""
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for layer in (self.boxes, self.points):
            if layer is not None:
                layer.events.data.disconnect(self._on_prompts)
        if self.labels is not None:
            self._leave(self.labels)

    def _placement(self, what: str) -> dict[str, Any]:
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
            "metadata": layer_metadata(self.session.volume),
        }

    def _add(self, layer: Layer, above: Layer | None = None) -> None:
        """Add a layer without taking the user away from the one they work in."""
        active = self.viewer.layers.selection.active
        self.viewer.add_layer(layer)
        if above is not None and above in self.viewer.layers:
            self.viewer.layers.move(len(self.viewer.layers) - 1, self.viewer.layers.index(above) + 1)
        if active is not None:
            self.viewer.layers.selection.active = active

    def _take(self, layer: Labels) -> None:
        self.labels = layer
        self._palette = layer.colormap
        layer.selected_label = self.label
        layer.preserve_labels = self.session.protect_others
        layer.events.paint.connect(self._on_paint)
        layer.events.labels_update.connect(self._on_painted)
        layer.events.set_data.connect(self._on_shown)
        layer.events.selected_label.connect(self._on_selected_label)
        layer.events.preserve_labels.connect(self._on_preserve)
        self._look()

    def _leave(self, layer: Labels) -> None:
        layer.events.paint.disconnect(self._on_paint)
        layer.events.labels_update.disconnect(self._on_painted)
        layer.events.set_data.disconnect(self._on_shown)
        layer.events.selected_label.disconnect(self._on_selected_label)
        layer.events.preserve_labels.disconnect(self._on_preserve)
        self.labels = None

    @contextmanager
    def _silence(self) -> Iterator[None]:
        """Mark what happens to the layers as our own doing."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    def _view(self) -> PromptView:
        where = self.where
        return PromptView(self.boxes, self.points, where.axis if where else 0)

    def _show_prompts(self) -> None:
        with self._silence():
            show_prompts(self._view(), self.session.objects[self.label].slices)

    def _on_press(self, layer: Points, event: Any) -> None:
        where = self.where
        note_button(layer, event, where.axis if where else 0)

    def _on_prompts(self, event: Any) -> None:
        if self._silent or str(event.action).lower().rpartition(".")[2] not in DONE:
            return
        known = self.session.objects[self.label].slices
        found, tidy = read_prompts(self._view())
        changed = [w for w in {**known, **found} if known.get(w) != found.get(w)]
        locked = [w for w in changed if self.session.key_slices.get(self.label, {}).get(w) == ACCEPTED]
        if locked:
            tidy = False
            self.said.emit(
                f"Slice {locked[0].index} is accepted, so it stays as it is: press A to unlock it."
            )
        wanted = [w for w in changed if w not in locked]
        for where in list(wanted):
            try:
                self.session.add_prompts(self.label, where, found.get(where, SlicePrompts()))
            except PromptError as error:
                wanted.remove(where)
                tidy = False
                self.said.emit(str(error))
        if not tidy:
            self._show_prompts()
        self.unsaved = self.unsaved or bool(wanted)
        for where in wanted:
            self.prompted.emit(self.label, where)

    def _on_selected_label(self, event: Any = None) -> None:
        label = 0 if self.labels is None else int(self.labels.selected_label)
        if not self._silent and label not in (0, self.label):
            self.select(label)

    def _on_preserve(self, event: Any = None) -> None:
        if self.labels is not None:
            self.session.protect_others = bool(self.labels.preserve_labels)
            self.edited.emit(set())

    def _on_paint(self, event: Any = None) -> None:
        if not self._silent and not self._notice(by_hand=True):
            # Outside of a stroke of the mouse, napari tells before it paints.
            self._about_to_paint = True

    def _on_painted(self, event: Any = None) -> None:
        if self._about_to_paint and not self._silent:
            self._about_to_paint = False
            self._notice(by_hand=True)

    def _on_shown(self, event: Any = None) -> None:
        if not self._silent:
            self._notice(by_hand=False)
            self._look()

    def _on_removed(self, event: Any) -> None:
        for name in ("boxes", "points"):
            if event.value == getattr(self, name):
                setattr(self, name, None)
        if event.value == self.labels and self.labels is not None:
            self._leave(self.labels)

    def _look(self) -> None:
        """Remember the labels of the slice on screen, to know afterwards what somebody changed there."""
        where = self.where
        self._seen = None if where is None else (where, where.take(self.session.labels).copy())

    def _notice(self, by_hand: bool) -> bool:
        """Find out what has changed since the last look, and return whether anything has.

        napari's brush, bucket and undo write into the array themselves, and undo does not even say so. What
        was painted makes a key slice; what undo brought back does not.
        """
        if by_hand and (self._seen is None or (self.labels and self.labels.n_edit_dimensions == 3)):
            return self._recount()
        if self._seen is None:
            return False
        where, before = self._seen
        after = where.take(self.session.labels).copy()
        touched = self.census.changed(where, before, after)
        self._seen = where, after
        self._edited({label: [where] for label in touched}, by_hand)
        return bool(touched)

    def _recount(self) -> bool:
        """Count everything again, after an edit that went through slices."""
        before, after = self.census, Census(len(self.session.labels), self.session.labels)
        touched = {}
        for label in {*before.labels, *after.labels}:
            old, new = before.counts(label), after.counts(label)
            if (old != new).any():
                touched[label] = [SliceIndex(0, int(index)) for index in np.flatnonzero(old != new)]
        self.census = after
        self._look()
        self._edited(touched, by_hand=True)
        return bool(touched)

    def _edited(self, touched: dict[int, list[SliceIndex]], by_hand: bool) -> None:
        if not touched:
            return
        for label, slices in touched.items():
            if label not in self.session.objects:
                self.session.add_prompts(label, slices[0], SlicePrompts())
            for where in slices if by_hand else ():
                if self.session.key_slices.get(label, {}).get(where) != ACCEPTED:
                    self.session.mark(label, where, CORRECTED)
        self.unsaved = True
        self.edited.emit(set(touched))


def _names(layer: Labels) -> dict[int, str]:
    """Names of labels, where a layer's features have them as our readers write them."""
    table = layer.features
    if "index" not in table or "name" not in table:
        return {}
    return {int(index): str(name) for index, name in zip(table["index"], table["name"], strict=True)}
