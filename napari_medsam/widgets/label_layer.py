"""A session's label map as a napari layer: writes masks into it, and notices what somebody paints there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from psygnal import Signal

from napari_medsam.journal import Do
from napari_medsam.prompts import ObjectPrompts, SliceIndex
from napari_medsam.session import ACCEPTED, CORRECTED, Session
from napari_medsam.widgets.census import Census
from napari_medsam.widgets.label_files import keep_terms, label_map_of, named_features, names_of, terms_of
from napari_medsam.widgets.open_sessions import remember
from napari_medsam.widgets.own_doing import OwnDoing
from napari_medsam.widgets.palette import Palette
from napari_medsam.widgets.planes import crossings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from napari.layers import Layer

    from napari_medsam.journal import Step
    from napari_medsam.propagation import SliceMask

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
    palette
        Colours of the objects, and which are hidden.
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
        self.palette = Palette(session)
        self._ours = OwnDoing()
        self._about_to_paint = self._in_stroke = False
        self._seen: tuple[SliceIndex, NDArray[np.uint16]] | None = None

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
        objects = [ObjectPrompts(n, names.get(n, ""), term=terms.get(n)) for n in census.labels or [1]]
        self.leave()
        if not (isinstance(layer.data, np.ndarray) and np.shares_memory(found, layer.data)):
            layer.data = found if layer.ndim == 3 else found[0]
        self.session.adopt(found, objects)
        self.palette.hidden.clear()
        self.census = census
        self._take(layer, label)
        self.forget_undo()

    def leave(self) -> None:
        """Follow the layer no more; it stays the user's."""
        if self.layer is not None:
            for event, follow in self._followed(self.layer):
                event.disconnect(follow)
            self.layer.mouse_drag_callbacks.remove(self._stroke)
            self.palette.leave(self.layer)
            self.layer = None

    def select(self, label: int) -> None:
        """Let the brush paint an object."""
        with self._ours:
            if self.layer is not None:
                self.layer.selected_label = label
        self.describe()

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
        if is_shown == (label in self.palette.hidden):
            self.palette.hidden ^= {label}
            self._colour()

    def remove(self, label: int, into: int = 0) -> None:
        """Delete an object, or merge it into another one."""
        self.notice()
        self.session.remove_object(label, self.census.slices(label), into)
        self.census.moved(label, into)
        self.palette.hidden.discard(label)
        self.describe()
        self.refresh()
        self._look()
        self.edited.emit({label, into} - {0})

    def moved(self, step: Step) -> None:
        """Show what was taken back, or done again."""
        indices = {
            z for each in step.voxels for z in range(*each.region[0].indices(len(self.session.labels)))
        }
        touched = self.census.recount(self.session.labels, sorted(indices))
        self._show_moved({step.action.label, *touched} - {0})

    def restored(self) -> None:
        """Show labels that were put in place as a whole."""
        self.census = Census(len(self.session.labels), self.session.labels)
        self.palette.hidden.clear()
        self._show_moved(set(self.session.objects))

    def forget_undo(self) -> None:
        """Let napari's own undo, which knows one slice and no prompts, find nothing: the session's has it."""
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
        """Write a mask.

        In 3D nothing is shown before `refresh`: each time, the whole volume would have to be drawn again.
        """
        seen = self.where()
        is_shown = seen is not None and (seen.axis != part.where.axis or seen == part.where)
        if is_shown:
            self.notice()
        plane = part.where.take(self.session.labels)
        before = plane.copy()
        self.session.write(part)
        touched = self.census.changed(part.where, before, plane)
        if not touched:
            return
        if is_shown:
            self.refresh()
            self._look()
        self.edited.emit(touched)

    def notice(self, by_hand: bool = False) -> bool:
        """Find out what has changed since the last look, and return whether anything has.

        napari's brush and bucket, and other plugins, write into the array themselves. What was painted makes
        a key slice; what came otherwise does not.
        """
        by_hand = by_hand or self._in_stroke
        if by_hand and self._is_everywhere:
            return self._notice_everywhere()
        if self._seen is None:
            return False
        where, before = self._seen
        plane = where.take(self.session.labels)
        if by_hand:
            self._keep_accepted(where, before, plane)
        after = plane.copy()
        touched = self.census.changed(where, before, after)
        self._seen = where, after
        if touched:
            with self._step(by_hand, where):
                self.session.painted(where, before, after)
                self._tell({label: [where] for label in touched}, by_hand)
        return bool(touched)

    @property
    def _is_everywhere(self) -> bool:
        """Whether a stroke may change slices that are not on screen."""
        return self._seen is None or (self.layer is not None and self.layer.n_edit_dimensions > FLAT)

    def _notice_everywhere(self) -> bool:
        """Find out what a stroke through all slices, or in the 3D view, has changed."""
        labels, layer = self.session.labels, self.layer
        assert layer is not None
        after = labels.copy()
        with self._ours:
            # napari does not say in a way that plugins can read what it changed, but it can take it back.
            layer.undo()
            before = labels.copy()
            layer.redo()
        wrong = self.census.recount(labels, np.flatnonzero((before != after).any(axis=(1, 2))).tolist())
        touched = {label: [SliceIndex(0, index) for index in slices] for label, slices in wrong.items()}
        self._look()
        with self._step(True, None):
            self.session.replaced(before, after)
            self._tell(touched, by_hand=True)
        return bool(touched)

    def _step(self, by_hand: bool, where: SliceIndex | None) -> AbstractContextManager[None]:
        label = 0 if self.layer is None else int(self.layer.selected_label)
        return self.session.doing(
            self.session.journal.action(Do.PAINT if by_hand else Do.CHANGE, label, where)
        )

    def _show_moved(self, touched: set[int]) -> None:
        self.palette.hidden &= set(self.session.objects)
        self.describe()
        self.refresh()
        self._look()
        self.edited.emit(touched)

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
        remember(self.session)
        self.palette.choose(layer.colormap)
        layer.selected_label = label
        layer.preserve_labels = self.session.protect_others
        for event, follow in self._followed(layer):
            event.connect(follow)
        layer.mouse_drag_callbacks.insert(0, self._stroke)
        self.describe()
        self._look()

    def _colour(self) -> None:
        with self._ours:
            self.palette.put_on(self.layer)

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
            self.palette.choose(self.layer.colormap)
            self._colour()
            self.edited.emit(set())

    def _on_mode(self, event: Any = None) -> None:
        self.edited.emit(set())

    def _on_paint(self, event: Any = None) -> None:
        if self._ours:
            return
        # Outside of a stroke of the mouse, napari tells before it paints.
        self._about_to_paint = not self.notice(by_hand=True)
        if not self._about_to_paint or not self._is_everywhere:
            self.forget_undo()

    def _on_painted(self, event: Any = None) -> None:
        if self._about_to_paint and not self._ours:
            self._about_to_paint = False
            self.notice(by_hand=True)
            self.forget_undo()

    def _on_shown(self, event: Any = None) -> None:
        if not self._ours:
            self.notice()
            self._look()

    def _look(self) -> None:
        """Remember the labels of the slice on screen, to know afterwards what somebody changed there."""
        where = self.where()
        self._seen = None if where is None else (where, where.take(self.session.labels).copy())

    def _tell(self, touched: dict[int, list[SliceIndex]], by_hand: bool) -> None:
        if not touched:
            return
        for label, slices in touched.items():
            if label not in self.session.objects:
                self.session.set_object(label, ObjectPrompts(label))
                self.describe()
            for where in slices if by_hand else ():
                if self.session.key_slices.get(label, {}).get(where) != ACCEPTED:
                    self.session.mark(label, where, CORRECTED)
        self.edited.emit(set(touched))
