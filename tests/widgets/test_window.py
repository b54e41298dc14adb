"""The plugin in a real window, driven by real mouse and keyboard events."""

from __future__ import annotations

import os
import subprocess
import sys

import napari
import numpy as np
import pytest
from hand import Hand
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from napari_medsam.phantom import ct_torso
from napari_medsam.prompts import SliceIndex
from napari_medsam.session import CORRECTED
from napari_medsam.volume import read_labels
from napari_medsam.widgets.actions import PLUGIN, WIDGET

pytestmark = [
    pytest.mark.canvas,
    pytest.mark.skipif(
        sys.platform.startswith("linux")
        and (not os.environ.get("DISPLAY") or os.environ.get("QT_QPA_PLATFORM") == "offscreen"),
        reason="a window with OpenGL needs a display: run under xvfb-run",
    ),
    # Third parties' own, on the way to a window.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SHAPE = (24, 96, 96)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A phantom as a file, and the box around its liver on one slice."""
    import SimpleITK as sitk

    phantom = ct_torso(0, SHAPE)
    image = sitk.GetImageFromArray(phantom.volume.array)
    image.SetSpacing(phantom.volume.geometry.spacing[::-1])
    path = tmp_path_factory.mktemp("case") / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    liver = next(label for label, name in phantom.names.items() if name == "liver")
    index = int((phantom.labels == liver).sum((1, 2)).argmax())
    rows, columns = np.nonzero(phantom.labels[index] == liver)
    return path, index, (rows.min() - 2, columns.min() - 2, rows.max() + 2, columns.max() + 2)


@pytest.fixture
def hand(qtbot):
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 800)
    made = Hand(viewer)
    made.docks = []
    made.wait()
    yield made
    for dock in made.docks:
        made.until(lambda dock=dock: not dock.worker.is_busy)
        for each in dock.segmenter.unsaved:
            each.unsaved = False
        dock.worker.stop()
    viewer.close()


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
    layers = dock.segmenter.layers
    before = len(layers.session.objects[layers.label].slices)
    hand.drag(hand.at(box[0], box[1], image), hand.at(box[2], box[3], image))
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    assert len(layers.session.objects[layers.label].slices) >= max(1, before)
    hand.until(lambda: layers.census.voxels(layers.label) > 0)


def test_from_file_to_saved_label_map_that_the_command_line_repeats(hand, scan):
    """Open, B, drag, propagate, save; another process gets the same voxels from the saved prompts."""
    path, index, box = scan
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, box)
    layers = dock.segmenter.layers
    (where,) = layers.session.objects[1].slices
    assert where == SliceIndex(0, index)
    assert np.allclose(layers.session.objects[1].slices[where].box, box, atol=1.5)
    dock.segmenter.propagate(0, SHAPE[0] - 1)
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    assert len(layers.census.slices(1)) > 3
    hand.key(Qt.Key.Key_S, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    saved = path.parent / "scan_seg.nii.gz"
    hand.until(lambda: not dock.worker.is_busy and saved.exists())
    hand.wait()
    assert dock.segmenter.unsaved == []
    repeated = path.parent / "repeated.nii.gz"
    prompts = path.parent / "scan_seg.prompts.json"
    command = ["-m", "napari_medsam.cli", "segment", path, "--prompts", prompts, "-o", repeated]
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    np.testing.assert_array_equal(read_labels(saved).array, read_labels(repeated).array)
    assert read_labels(saved).geometry.difference(read_labels(repeated).geometry) == ""


def test_points_undo_and_corrections_with_mouse_and_keys(hand, scan):
    """Right click means outside, Ctrl+Z takes back, the brush makes a key slice."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, box)
    layers = dock.segmenter.layers
    first = layers.census.voxels(1)
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert layers.census.voxels(1) == 0
    hand.key(Qt.Key.Key_N)
    y, x = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    hand.click(hand.at(y, x, image))
    hand.click(hand.at(y + 6, x + 6, image), Qt.MouseButton.RightButton)
    hand.until(lambda: not dock.worker.is_busy)
    prompts = layers.session.objects[1].slices[SliceIndex(0, index)]
    assert prompts.labels == (1, 0)
    assert np.allclose(prompts.points[0], (y, x), atol=1)
    assert first > 0
    hand.until(lambda: layers.census.voxels(1) > 0)
    dock.segmenter.edit_labels("paint")
    layers.labels.brush_size = 3
    hand.drag(hand.at(3, 3, image), hand.at(3, 12, image))
    assert layers.session.labels[index, 3, 8] == 1
    assert layers.session.key_slices[1] == {SliceIndex(0, index): CORRECTED}


def test_another_plane_and_a_resized_box(hand, scan):
    """The roll button changes the plane; a moved corner predicts again."""
    _, _, box = scan
    image, dock = open_scan(hand, scan)
    hand.key(Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier)
    axis = hand.viewer.dims.not_displayed[0]
    assert axis != 0
    hand.viewer.dims.set_current_step(axis, int((box[0] + box[2]) // 2))
    hand.viewer.reset_view()
    hand.wait()
    order = hand.viewer.dims.displayed
    shape = [SHAPE[a] for a in order]
    hand.drag(hand.at(shape[0] * 0.2, shape[1] * 0.2, image), hand.at(shape[0] * 0.8, shape[1] * 0.8, image))
    hand.until(lambda: not dock.worker.is_busy)
    (where,) = dock.segmenter.layers.session.objects[1].slices
    assert where.axis == axis


@pytest.mark.parametrize(("answer", "closes"), [("Discard", True), ("Cancel", False)])
def test_unsaved_work_is_asked_about_on_close(hand, scan, monkeypatch, answer, closes):
    """Closing the window by mistake must not cost an afternoon."""
    from qtpy.QtGui import QCloseEvent

    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    asked = []
    button = getattr(QMessageBox.StandardButton, answer)
    monkeypatch.setattr(QMessageBox, "question", lambda *args: asked.append(1) or button)
    event = QCloseEvent()
    assert dock.keeper.eventFilter(dock.window(), event) is not closes
    assert asked == [1]
