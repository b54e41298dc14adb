"""The plugin's keys: none of them is one of napari's, and a user finds and changes them beside those."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import napari
import pytest
from hand import needs_display
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QComboBox, QTableWidget

from napari_medsam.widgets import actions

NAPARI_ALONE = """
import json
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points, Shapes, Surface, Tracks, Vectors
from napari.utils.action_manager import action_manager
from napari.utils.shortcuts import default_shortcuts
for name, keys in default_shortcuts.items():
    for key in keys:
        action_manager.bind_shortcut(name, key)
providers = (ViewerModel, Image, Labels, Points, Shapes, Surface, Tracks, Vectors)
print(json.dumps({each.__name__: [str(key) for key in each.class_keymap] for each in providers}))
"""


@pytest.fixture(scope="module")
def taken():
    """What every key is for in napari without this plugin, by kind of layer."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NAPARI_ALONE], capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    assert "B" in found["Labels"]
    assert "Ctrl+E" in found["ViewerModel"]
    return {kind: set(keys) for kind, keys in found.items()}


OURS = [
    (name, provider.__name__, key) for name, _, _, keys in actions.ACTIONS for provider, key in keys.items()
]


@pytest.mark.parametrize(("name", "kind", "key"), OURS)
def test_no_key_of_naparis_gets_another_meaning(taken, name, kind, key):
    """Whoever knows napari's keys must not find that one of them draws a box."""
    # A key for all layers is heard only where the layer at hand has no use for it. B alone has another use
    # somewhere: on Labels and Shapes of the user's own it goes on meaning what it means to napari.
    others = taken if kind == "ViewerModel" and key != "B" else {kind, "ViewerModel"}
    assert [other for other in others if key in taken[other]] == []


@pytest.mark.canvas
@needs_display
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_keys_stand_in_the_list_of_shortcuts_and_in_no_menu(qtbot):
    """File > Preferences > Shortcuts is where a user looks for keys, and changes them."""
    from napari.utils.action_manager import action_manager

    viewer = napari.Viewer(show=True)
    actions.register_actions()
    window = next(w for w in QApplication.topLevelWidgets() if w.inherits("QMainWindow") and w.isVisible())
    in_menus = {action.shortcut().toString() for action in window.actions()} | {
        action.shortcut().toString() for bar in [window.menuBar()] for action in _all_actions(bar)
    }
    assert "Ctrl+O" in in_menus
    assert in_menus.isdisjoint({key for _, _, key in OURS})

    action_manager.trigger("napari:show_shortcuts")
    qtbot.waitUntil(lambda: bool(_shortcut_tables()), timeout=30_000)
    listed: dict[str, set[str]] = {}
    for table, kinds in _shortcut_tables():
        for n in range(kinds.count()):
            kinds.setCurrentIndex(n)
            rows = range(table.rowCount())
            texts = {
                table.item(r, c).text() for r in rows for c in range(table.columnCount()) if table.item(r, c)
            }
            listed[kinds.itemText(n)] = texts
    everywhere = set().union(*listed.values())
    assert {description for _, description, _, _ in actions.ACTIONS} <= everywhere
    assert "MedSAM: draw a box around an object" in listed["Image layer"]
    for dialog in QApplication.topLevelWidgets():
        if dialog.inherits("QDialog"):
            dialog.close()
    viewer.close()


def _all_actions(bar):
    for action in bar.actions():
        menu = action.menu()
        yield from _all_actions(menu) if menu else [action]


def _shortcut_tables():
    """Tables of shortcuts in the dialogs that are open, each with the choice of what they are for."""
    found = []
    for dialog in QApplication.topLevelWidgets():
        if dialog.inherits("QDialog"):
            for kinds in dialog.findChildren(QComboBox):
                if kinds.findText("Image layer", Qt.MatchFlag.MatchExactly) >= 0:
                    found += [(table, kinds) for table in kinds.parent().findChildren(QTableWidget)]
    return found


def test_a_key_that_the_user_changed_stays_changed(monkeypatch):
    """Opening the next file must not bring the old key back."""
    bound = []
    chosen = {"napari-medsam:box_image": ["Y"]}
    monkeypatch.setattr(
        actions, "get_settings", lambda: SimpleNamespace(shortcuts=SimpleNamespace(shortcuts=chosen))
    )
    monkeypatch.setattr(actions.action_manager, "bind_shortcut", lambda name, key: bound.append(name))
    actions.register_actions()
    assert "napari-medsam:box_image" not in bound
    assert "napari-medsam:box_points" in bound
