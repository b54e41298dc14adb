"""Keys, as napari actions: they stand in napari's list of shortcuts, where a user may change them.

A key is bound for a kind of layer only where napari leaves it free there, and a key for all layers is heard
only where the layer at hand has no use for it. On the plugin's own layers B and A are ours (see
`bind_prompt_keys`): moving shapes behind one another and selecting all of them, which they mean to napari, is
of no use on a layer with one box, and "preserve labels" stands in the panel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.components import ViewerModel
from napari.layers import Image, Labels, Points, Shapes
from napari.settings import get_settings
from napari.utils.action_manager import action_manager

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_medsam.widgets.segmenter import Segmenter

PLUGIN, WIDGET = "napari-medsam", "Segment"


def _box(segmenter: Segmenter) -> None:
    segmenter.draw_box()


def _line(segmenter: Segmenter) -> None:
    segmenter.draw_line()


def _points(segmenter: Segmenter) -> None:
    segmenter.place_points()


def _object(segmenter: Segmenter) -> None:
    segmenter.new_object()


def _accept(segmenter: Segmenter) -> None:
    segmenter.accept()


def _next(segmenter: Segmenter) -> None:
    segmenter.walk(1)


def _previous(segmenter: Segmenter) -> None:
    segmenter.walk(-1)


def _worth(segmenter: Segmenter) -> None:
    segmenter.reviewing.walk(1)


def _worth_before(segmenter: Segmenter) -> None:
    segmenter.reviewing.walk(-1)


def _undo(segmenter: Segmenter) -> None:
    segmenter.past.undo()


def _redo(segmenter: Segmenter) -> None:
    segmenter.past.redo()


def _save(segmenter: Segmenter) -> None:
    segmenter.save_requested.emit()


ACTIONS: tuple[tuple[str, str, Callable[[Segmenter], None], dict[type, str]], ...] = (
    ("box", "MedSAM: draw a box around an object", _box, {Image: "B", Points: "B", ViewerModel: "B"}),
    ("box_on_any_layer", "MedSAM: draw a box, whatever layer", _box, {ViewerModel: "Shift+B"}),
    ("line", "MedSAM: draw an object's longest diameter", _line, {Image: "L", Points: "L"}),
    ("points", "MedSAM: place points in and outside of an object", _points, {ViewerModel: "N"}),
    ("new_object", "MedSAM: begin the next object", _object, {Image: "M", Points: "M", Shapes: "M"}),
    ("accept", "MedSAM: accept the object on this slice, or unlock it", _accept, {Image: "A", Labels: "A"}),
    ("next_object", "MedSAM: go to the next object", _next, {ViewerModel: "Down"}),
    ("previous_object", "MedSAM: go to the object before", _previous, {ViewerModel: "Up"}),
    ("weakest", "MedSAM: go to the next slice to look at", _worth, {ViewerModel: "J"}),
    ("weakest_before", "MedSAM: go back to the slice before", _worth_before, {ViewerModel: "Shift+J"}),
    ("undo", "MedSAM: take back the last step, whatever it was", _undo, {Image: "Ctrl+Z"}),
    ("redo", "MedSAM: do again what was taken back", _redo, {Image: "Ctrl+Shift+Z"}),
    ("save", "MedSAM: save the label map beside the image", _save, {ViewerModel: "Ctrl+Shift+S"}),
)
"""Name, description, what is done, and the key for each kind of layer (`ViewerModel`: whichever, or none)."""


def register_actions() -> None:
    """Make the actions known to napari, with the keys that the user chose or else ours."""
    chosen = get_settings().shortcuts.shortcuts
    for name, description, run, keys in ACTIONS:
        for provider, key in keys.items():
            identifier = f"{PLUGIN}:{name}_{provider.__name__.lower()}"
            action_manager.register_action(identifier, _command(run, identifier), description, provider)
            if identifier not in chosen:
                action_manager.bind_shortcut(identifier, key)


def bind_prompt_keys(layer: Layer, segmenter: Segmenter) -> None:
    """Give one of the plugin's own layers its keys: box, line, accept, undo and redo."""
    keys = {
        "B": segmenter.draw_box,
        "A": segmenter.accept,
        "Control-Z": segmenter.past.undo,
        "Control-Shift-Z": segmenter.past.redo,
    }
    if isinstance(layer, Shapes):
        keys["L"] = segmenter.draw_line
    for key, run in keys.items():
        layer.bind_key(key, lambda _, run=run: run(), overwrite=True)


def _command(run: Callable[[Segmenter], None], name: str) -> Callable[[Any], None]:
    def command(provider: Any) -> None:
        segmenter = _segmenter()
        if segmenter is not None:
            run(segmenter)

    # napari tells actions apart by the names of their functions.
    command.__name__ = name.replace(":", "_").replace("-", "_")
    return command


def _segmenter() -> Segmenter | None:
    """Return the segmenter of the window at hand, opening its dock if need be."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return None
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    found: Segmenter = dock.segmenter
    return found
