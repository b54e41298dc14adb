"""What somebody does with the scan of the fixture ``scan``, with real mouse and key events."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_medsam.widgets.actions import PLUGIN, WIDGET

SHAPE = (24, 96, 96)


def open_scan(hand, scan):
    """Open the file, go to the slice, press B."""
    path, index, _ = scan
    (image,) = hand.viewer.open(path, plugin=PLUGIN)
    hand.viewer.dims.set_current_step(0, index)
    hand.key(Qt.Key.Key_B)
    dock = hand.viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)[1]
    hand.docks.append(dock)
    hand.wait()
    hand.viewer.reset_view()
    hand.wait()
    return image, dock


def drag_box(hand, dock, image, box):
    """Drag a box, and wait for its mask."""
    layers = dock.segmenter.layers
    before = len(layers.session.objects[layers.label].slices)
    hand.drag(hand.at(box[0], box[1], image), hand.at(box[2], box[3], image))
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    assert len(layers.session.objects[layers.label].slices) >= max(1, before)
    hand.until(lambda: layers.census.voxels(layers.label) > 0)


def propagate(hand, dock):
    """Carry the object through all slices."""
    dock.segmenter.propagate(0, SHAPE[0] - 1)
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()


def click(hand, widget):
    """Click on a button."""
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)
    hand.wait()
