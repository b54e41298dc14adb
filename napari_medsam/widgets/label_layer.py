"""A session's label map as a napari layer: writes masks into it, and notices what somebody paints there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap, label_colormap
from numpy.typing import NDArray
from psygnal import Signal

from napari_medsam.prompts import ObjectPrompts, SliceIndex, SlicePrompts
from napari_medsam.session import ACCEPTED, CORRECTED, Session
from napari_medsam.widgets.census import Census
from napari_medsam.widgets.label_files import (
    colours_of,
    completed,
    keep_terms,
    label_map_of,
    named_features,
    names_of,
    terms_of,
)
from napari_medsam.widgets.own_doing import OwnDoing
from napari_medsam.widgets.planes import crossings

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_medsam.propagation import SliceMask
    from napari_medsam.segments import Color

UNDONE = "Undo changed slice {}, which is not on screen."
LOCKED = "Slice {} is accepted, so it stays as it is: press A to unlock it."
CROSSES = "What lies on accepted slices stays as it is: unlock them (A) first."
NOT_THROUGH = "Some slices are accepted, so paint on one slice at a time, in 2D, or unlock them (A) first."
FLAT = 2
PAINTING = {"paint", "erase", "fill", "polygon"}


class LabelLayer:
    """Keeps the labels of a session, a napari layer of them, and their count in agreement.

    Parameters
    ----------
    session
        Whose labels.
    ndim
        2 or 3, of the image.
    where
        Tells the slice on screen; None in 3D.

    Attributes
    ----------
    layer : Labels or None
        None before there is anything to show, and after somebody deleted it.
    census
        Voxels of every label on every slice.
    hidden
        Labels that are not shown.
    edited : Signal(set)
        Voxels of these labels have changed, whoever did it.
    chosen : Signal(int)
        The user chose a label in napari's controls.
    said : Signal(str)
        One sentence for the user.
    """

    edited = Signal(set)
    chosen = Signal(int)
    said = Signal(str)

    def __init__(self, session: Session, ndim: int, where: Callable[[], SliceIndex | None]) -> None:
        self.session, self.ndim, self.where = session, ndim, where
        self.layer: Labels | None = None
        self.census = Census(len(session.labels))
        self.hidden: set[int] = set()
        self._palette = label_colormap()
        self._ours = OwnDoing()
        self._about_to_paint = self._in_stroke = self._is_recoloured = False
        self._seen: tuple[SliceIndex, NDArray[np.uint16]] | None = None
        self._edited_slices: set[SliceIndex | None] = set()
        """Slices that napari's undo may change; None for edits through all slices."""

    def make(self, label: int, **placement: Any) -> Labels:
        """Make the layer, to be added to a viewer."""
        array = self.session.labels if self.ndim == 3 else self.session.labels[0]
        layer = Labels(array, **placement, opacity=0.5)
        self._take(layer, label)
        return layer

    def adopt(self, layer: Labels, label: int) -> None:
        """Go on with a layer of the user's own; what it holds is kept, each label an object.

        Raises
        ------
        PromptError
            When its shape is another than the image's, or it holds values that cannot be kept.
        """
        found = label_map_of(layer, self.session.volume.geometry.shape)
        census = Census(len(found), found)
        names, terms = names_of(layer.features), terms_of(layer.metadata)
        objects = [ObjectPrompts(n, names.get(n, ""), term=terms.get(n)) for n in census.labels]
        self.leave()
        if not (isinstance(layer.data, np.ndarray) and np.shares_memory(found, layer.data)):
            layer.data = found if layer.ndim == 3 else found[0]
        self.session.labels = found
        self.session.objects.clear()
        self.session.objects.update((each.label, each) for each in objects)
        self.session.key_slices.clear()
        self.session.ledger.reports.clear()
        self.hidden.clear()
        self.census = census
        self._take(layer, label)
        self.forget_undo()

    def leave(self) -> None:
        """Follow the layer no more; it stays the user's."""
        if self.layer is not None:
            for event, follow in self._followed(self.layer):
                event.disconnect(follow)
            self.layer.mouse_drag_callbacks.remove(self._stroke)
            if self._is_recoloured:
                self.layer.colormap = self._palette
            self.layer = None

    def select(self, label: int) -> None:
        """Let the brush paint an object."""
        with self._ours:
            if self.layer is not None:
                self.layer.selected_label = label
        self.describe()

    def colour(self, label: int) -> tuple[float, ...]:
        """RGBA of an object, hidden or not, from 0 to 1."""
        return tuple(self._palette.map(label))

    def colours(self) -> dict[int, Color]:
        """Red, green, blue of all objects, from 0 to 255."""
        return colours_of(self._palette, list(self.session.objects))

    def describe(self) -> None:
        """Let the layer know the objects' names and codes: napari's own Save writes them."""
        self._colour()
        if self.layer is not None:
            objects = self.session.objects.values()
            names = {each.label: each.name for each in objects}
            self.layer.features = named_features(self.layer.features, names)
            keep_terms(self.layer.metadata, {each.label: each.term for each in objects})

    def show(self, label: int, is_shown: bool) -> None:
        """Show or hide an object; its voxels stay."""
        if is_shown == (label in self.hidden):
            self.hidden ^= {label}
            self._colour()

    def remove(self, label: int, into: int = 0) -> None:
        """Delete an object, or merge it into another one."""
        self.notice()
        self.session.remove_object(label, self.census.slices(label), into)
        self.census.moved(label, into)
        self.hidden.discard(label)
        self.describe()
        self.forget_undo()
        self.refresh()
        self._look()
        self.edited.emit({label, into} - {0})

    def forget_undo(self) -> None:
        """Let nothing that was done so far be undone: an accepted slice, an object that is gone."""
        self._edited_slices.clear()
        if self.layer is not None:
            mode = self.layer.mode
            # napari forgets the history of a layer that cannot be edited.
            self.layer.editable = False
            self.layer.editable = True
            self.layer.mode = mode

    def refresh(self) -> None:
        """Let the screen show what the array holds."""
        with self._ours:
            if self.layer is not None:
                self.layer.refresh()

    def put(self, part: SliceMask) -> None:
        """Write a mask; on the slice on screen it becomes one step of napari's undo.

        In 3D nothing is shown before `refresh`: each time, the whole volume would have to be drawn again.
        """
        seen = self.where()
        is_shown = seen is not None and (seen.axis != part.where.axis or seen == part.where)
        if is_shown:
            self.notice()
        plane = part.where.take(self.session.labels)
        before, after = plane.copy(), self.session.merged(part)
        self.session.note(part)
        rows, columns = np.nonzero(before != after)
        if not rows.size:
            return
        if self.layer is not None and part.where == seen:
            places = [rows, columns]
            if self.ndim == 3:
                places.insert(part.where.axis, np.full(rows.shape, part.where.index))
            with self._ours:
                self.layer.data_setitem(tuple(places), after[rows, columns])
            self._edited_slices.add(part.where)
        else:
            plane[...] = after
            if is_shown:
                self.refresh()
        touched = self.census.changed(part.where, before, after)
        if is_shown:
            self._look()
        self.edited.emit(touched)

    def notice(self, by_hand: bool = False) -> bool:
        """Find out what has changed since the last look, and return whether anything has.

        napari's brush, bucket and undo write into the array themselves, and undo does not even say so. What
        was painted makes a key slice; what undo brought back does not.
        """
        by_hand = by_hand or self._in_stroke
        if by_hand and (self._seen is None or (self.layer and self.layer.n_edit_dimensions > FLAT)):
            self._edited_slices.add(None)
            return bool(self._recount(by_hand=True))
        if self._seen is None:
            return False
        where, before = self._seen
        plane = where.take(self.session.labels)
        if by_hand:
            self._keep_accepted(where, before, plane)
        after = plane.copy()
        touched = self.census.changed(where, before, after)
        self._seen = where, after
        if by_hand and touched:
            self._edited_slices.add(where)
        self._tell({label: [where] for label in touched}, by_hand)
        return bool(touched)

    def _keep_accepted(self, where: SliceIndex, before: NDArray, plane: NDArray) -> None:
        """Take back what somebody painted over or into an object where it is accepted."""
        if not self._any_accepted:
            return
        locked = np.zeros(plane.shape, bool)
        for label, marks in self.session.key_slices.items():
            accepted = [each for each, kind in marks.items() if kind == ACCEPTED]
            locked |= ((plane == label) | (before == label)) & crossings(accepted, where, plane.shape)
        locked &= plane != before
        if locked.any():
            plane[locked] = before[locked]
            self.refresh()
            here = any(marks.get(where) == ACCEPTED for marks in self.session.key_slices.values())
            self.said.emit(LOCKED.format(where.index) if here else CROSSES)

    def keep_flat(self, event: Any = None) -> None:
        """Refuse a brush through all slices as long as one is accepted: what it did there cannot be told."""
        if self._any_accepted and self.layer is not None and self.layer.n_edit_dimensions > FLAT:
            self.layer.n_edit_dimensions = FLAT
            self.said.emit(NOT_THROUGH)

    @property
    def _any_accepted(self) -> bool:
        return any(ACCEPTED in marks.values() for marks in self.session.key_slices.values())

    def _followed(self, layer: Labels) -> tuple[tuple[Any, Callable[[Any], None]], ...]:
        return (
            (layer.events.paint, self._on_paint),
            (layer.events.labels_update, self._on_painted),
            (layer.events.set_data, self._on_shown),
            (layer.events.selected_label, self._on_selected_label),
            (layer.events.preserve_labels, self._on_preserve),
            (layer.events.colormap, self._on_colormap),
            (layer.events.mode, self._on_mode),
            (layer.events.n_edit_dimensions, self.keep_flat),
        )

    def _take(self, layer: Labels, label: int) -> None:
        self.layer = layer
        self._palette = layer.colormap
        layer.selected_label = label
        layer.preserve_labels = self.session.protect_others
        for event, follow in self._followed(layer):
            event.connect(follow)
        layer.mouse_drag_callbacks.insert(0, self._stroke)
        self.describe()
        self._look()

    def _colour(self) -> None:
        self._palette, is_new = completed(self._palette, self.session.objects)
        if self.layer is None or not (self.hidden or self._is_recoloured or is_new):
            return
        wanted: Any = self._palette
        if self.hidden:
            colours: dict[int | None, tuple[float, ...]] = {None: (0, 0, 0, 0)}
            colours |= {each: self.colour(each) for each in self.session.objects}
            # They keep their colours, for those who save the layer.
            colours |= {each: (*self.colour(each)[:3], 0.0) for each in self.hidden}
            wanted = DirectLabelColormap(color_dict=colours)
        self._is_recoloured = bool(self.hidden)
        with self._ours:
            self.layer.colormap = wanted

    def _stroke(self, layer: Layer, event: Any) -> Iterator[None]:
        """Know that the mouse paints: what propagation writes meanwhile must not hide that."""
        if self.where() is None and self._any_accepted and str(layer.mode) in PAINTING:
            layer.mode = "pan_zoom"
            self.said.emit(NOT_THROUGH)
            return
        self._in_stroke = True
        yield
        while event.type == "mouse_move":
            yield
        self._in_stroke = False

    def _on_selected_label(self, event: Any = None) -> None:
        if not self._ours and self.layer is not None and self.layer.selected_label:
            self.chosen.emit(int(self.layer.selected_label))

    def _on_preserve(self, event: Any = None) -> None:
        if self.layer is not None:
            self.session.protect_others = bool(self.layer.preserve_labels)
            self.edited.emit(set())

    def _on_colormap(self, event: Any = None) -> None:
        if not self._ours and self.layer is not None:
            self._palette = self.layer.colormap
            self._colour()
            self.edited.emit(set())

    def _on_mode(self, event: Any = None) -> None:
        self.edited.emit(set())

    def _on_paint(self, event: Any = None) -> None:
        if not self._ours and not self.notice(by_hand=True):
            # Outside of a stroke of the mouse, napari tells before it paints.
            self._about_to_paint = True

    def _on_painted(self, event: Any = None) -> None:
        if self._about_to_paint and not self._ours:
            self._about_to_paint = False
            self.notice(by_hand=True)

    def _on_shown(self, event: Any = None) -> None:
        if self._ours:
            return
        if self._edited_slices and (self._seen is None or self._seen[0] == self.where()):
            # Nobody has scrolled, or it is the 3D view: an undo, or something that changes no voxel.
            self._notice_undo()
        else:
            self.notice()
        self._look()

    def _look(self) -> None:
        """Remember the labels of the slice on screen, to know afterwards what somebody changed there."""
        where = self.where()
        self._seen = None if where is None else (where, where.take(self.session.labels).copy())

    def _recount(self, by_hand: bool, indices: Iterable[int] | None = None) -> dict[int, list[SliceIndex]]:
        """Count slices along axis 0 again, all if None, after an edit that was not on the screen alone."""
        depth = len(self.session.labels)
        wrong = self.census.recount(self.session.labels, range(depth) if indices is None else indices)
        touched = {label: [SliceIndex(0, index) for index in slices] for label, slices in wrong.items()}
        self._look()
        self._tell(touched, by_hand)
        return touched

    def _notice_undo(self) -> None:
        """Find out what undo or redo has done: napari goes back through slices that are not on screen."""
        seen_elsewhere = self._edited_slices - {self._seen[0]} if self._seen else self._edited_slices
        if None in seen_elsewhere or any(each.axis for each in seen_elsewhere if each):
            touched = self._recount(by_hand=False)
        elif self.notice():
            return
        else:
            indices = [each.index for each in seen_elsewhere if each]
            touched = self._recount(by_hand=False, indices=indices)
        slices = sorted({where.index for found in touched.values() for where in found})
        where = self.where()
        if slices and (where is None or where.axis or where.index not in slices):
            self.said.emit(UNDONE.format(", ".join(map(str, slices[:5]))))

    def _tell(self, touched: dict[int, list[SliceIndex]], by_hand: bool) -> None:
        if not touched:
            return
        for label, slices in touched.items():
            if label not in self.session.objects:
                self.session.add_prompts(label, slices[0], SlicePrompts())
                self.describe()
            for where in slices if by_hand else ():
                if self.session.key_slices.get(label, {}).get(where) != ACCEPTED:
                    self.session.mark(label, where, CORRECTED)
        self.edited.emit(set(touched))
