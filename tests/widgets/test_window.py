"""The plugin in a real window, driven by real mouse and keyboard events."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from dataclasses import replace

import napari
import numpy as np
import pytest
from hand import Hand, needs_display
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QMessageBox
from scan_steps import SHAPE, click, drag_box, open_scan, propagate

from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.session import CORRECTED
from napari_medsam.volume import read_labels
from napari_medsam.widgets.actions import PLUGIN, WIDGET

pytestmark = [
    pytest.mark.canvas,
    needs_display,
    # Third parties' own, on the way to a window.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_prompt_and_mask_are_shown_in_one_frame(hand, scan):
    """Frames in between would take the cores that the mask is computed with."""
    image, dock = open_scan(hand, scan)
    paints = []
    prompting = dock.segmenter.prompting
    prompting.asked.connect(lambda: paints.append(hand.window.updatesEnabled()))
    prompting.found.connect(lambda score: paints.append(hand.window.updatesEnabled()))
    drag_box(hand, dock, image, scan[2])
    assert paints == [False, True]


def test_a_recist_line_is_dragged_and_becomes_a_box(hand, scan):
    """L, a drag along the longest diameter, and the mask is there; the next box needs its own key."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    hand.viewer.layers.selection.active = image
    hand.key(Qt.Key.Key_L)
    assert dock.segmenter.layers.tool == "line"
    middle = (box[0] + box[2]) // 2
    hand.drag(hand.at(middle, box[1], image), hand.at(middle, box[3], image))
    layers = dock.segmenter.layers
    hand.until(lambda: not dock.worker.is_busy and layers.census.voxels(1) > 0)
    drawn = layers.session.objects[1].slices[SliceIndex(0, index)].box
    reach = 0.7 * (drawn[3] - drawn[1]) / 2
    assert np.allclose(drawn, (middle - reach, box[1], middle + reach, box[3]), atol=1.5)
    assert layers.boxes.shape_type == ["rectangle"]
    hand.wait(100)
    assert dock.tools["line"].isChecked()
    assert not dock.tools["box"].isChecked()
    click(hand, dock.tools["box"])
    assert layers.tool == "box"


COMPARE = """
import sys
import numpy as np
from napari.components import ViewerModel
from npe2 import PluginManager
PluginManager.instance().discover()
ours, theirs = (ViewerModel().open(path, plugin="napari-medsam")[0] for path in sys.argv[1:])
where = [layer.metadata["napari_medsam"] for layer in (ours, theirs)]
same = {key: where[0][key] == where[1][key] for key in ("shape", "spacing", "origin", "direction")}
print(int((ours.data == 1).sum()), int((ours.data == 2).sum()), np.array_equal(ours.data, theirs.data), same)
"""


def test_from_file_to_saved_label_map_that_the_command_line_repeats(hand, scan):
    """Two objects, propagated and saved; fresh processes get the same voxels from the saved prompts."""
    path, index, box = scan
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, box)
    layers = dock.segmenter.layers
    (where,) = layers.session.objects[1].slices
    assert where == SliceIndex(0, index)
    assert np.allclose(layers.session.objects[1].slices[where].box, box, atol=1.5)
    propagate(hand, dock)
    assert len(layers.census.slices(1)) > 3
    hand.key(Qt.Key.Key_M)
    drag_box(hand, dock, image, (box[0], box[3] + 4, box[2], box[3] + 30))
    propagate(hand, dock)
    hand.key(Qt.Key.Key_S, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    saved = path.parent / "scan_seg.nii.gz"
    hand.until(lambda: not dock.worker.is_busy and saved.exists())
    hand.wait()
    assert dock.segmenter.unsaved == []
    repeated = path.parent / "repeated.nii.gz"
    prompts = path.parent / "scan_seg.prompts.json"
    in_fresh_process("-m", "napari_medsam.cli", "segment", path, "--prompts", prompts, "-o", repeated)
    first, second = layers.census.voxels(1), layers.census.voxels(2)
    same = "{'shape': True, 'spacing': True, 'origin': True, 'direction': True}"
    assert in_fresh_process("-c", COMPARE, saved, repeated) == f"{first} {second} True {same}"


def in_fresh_process(*arguments):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_the_edit_tool_moves_and_deletes_a_box(hand, scan):
    """A box that is a little off is moved, not drawn again; Delete takes it and its mask away."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, box)
    layers = dock.segmenter.layers
    before, mask = (
        layers.session.objects[1].slices[SliceIndex(0, index)].box,
        layers.session.labels[index].copy(),
    )
    click(hand, dock.tools["edit"])
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    hand.drag(hand.at(*middle, image), hand.at(middle[0] + 8, middle[1] + 5, image))
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    after = layers.session.objects[1].slices[SliceIndex(0, index)].box
    assert np.allclose(np.subtract(after, before), (8, 5, 8, 5), atol=1)
    assert not np.array_equal(layers.session.labels[index], mask)
    hand.key(Qt.Key.Key_Delete)
    assert layers.session.objects[1].slices == {}
    assert not layers.session.labels.any()


def test_stop_ends_propagation_and_keeps_what_was_found(hand, scan):
    """Whoever sees it go wrong does not wait for the end."""
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    layers, panel = dock.segmenter.layers, dock.panels["Propagate"]
    written = []
    layers.edited.connect(lambda labels: len(written) == 2 or written.append(click(hand, panel.stop)))
    click(hand, panel.both)
    hand.until(lambda: written)
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait(200)
    assert len(layers.census.slices(1)) == 2
    assert panel.bar.isHidden()


def test_a_correction_and_its_undo(hand, scan):
    """Grow makes a key slice and one step of undo."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, box)
    layers = dock.segmenter.layers
    before = layers.census.voxels(1)
    dock.segmenter.correct("grow", whole=False)
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    assert layers.census.voxels(1) > before
    assert layers.session.key_slices[1] == {SliceIndex(0, index): CORRECTED}
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert layers.census.voxels(1) == before


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


def test_a_drag_in_point_mode_scribbles_and_is_taken_back_as_one(hand, scan):
    """A line through an object says more than a click, and one through what is too much takes it away."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    layers = dock.segmenter.layers
    here = SliceIndex(0, index)
    hand.until(lambda: not dock.worker.is_busy)
    hand.key(Qt.Key.Key_N)
    camera = getattr(hand.viewer, "scene", hand.viewer).camera
    view = (tuple(camera.center), camera.zoom)
    y, middle = (box[0] + box[2]) // 2, (box[1] + box[3]) / 2
    half = (box[3] - box[1]) // 4
    on_the_way = []
    hand.drag(
        hand.at(y, middle - half, image),
        hand.at(y, middle + half, image),
        before_release=lambda: on_the_way.append((len(layers.points.data), layers.session.objects[1].slices)),
    )
    hand.until(lambda: not dock.worker.is_busy and layers.census.voxels(1) > 0)
    points = layers.session.objects[1].slices[here]
    assert points.labels == (1,) * len(points.points)
    assert 2 < len(points.points) <= 8
    ends = sorted(points.points, key=lambda point: point[1])
    np.testing.assert_allclose(ends[0], (y, middle - half), atol=1)
    np.testing.assert_allclose(ends[-1], (y, middle + half), atol=1)
    assert len(layers.points.data) == len(points.points)
    assert on_the_way == [(8, {})], "the line is seen while it is drawn, and asks for nothing yet"
    hand.drag(hand.at(2, 2, image), hand.at(2, 30, image), button=Qt.MouseButton.RightButton)
    hand.until(lambda: not dock.worker.is_busy)
    both = layers.session.objects[1].slices[here]
    assert set(both.labels[len(points.labels) :]) == {0}
    assert both.points[: len(points.points)] == points.points
    assert (tuple(camera.center), camera.zoom) == view
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert layers.session.objects[1].slices[here] == points
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert layers.session.objects[1].slices == {}
    assert len(layers.points.data) == layers.census.voxels(1) == 0


@pytest.fixture
def scribbling(hand, scan):
    """The window in point mode, places on a circle, and what prompts an object has."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    hand.until(lambda: not dock.worker.is_busy)
    hand.key(Qt.Key.Key_N)
    y, x = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    turns = np.linspace(0, 2 * np.pi, 25)
    circle = [QPointF(hand.at(y + 15 * np.sin(t), x + 15 * np.cos(t), image)) for t in turns]

    def prompts(label=1):
        hand.until(lambda: not dock.worker.is_busy)
        here = dock.segmenter.layers.session.objects[label].slices.get(SliceIndex(0, index), SlicePrompts())
        return len(here.points), here.labels

    return dock.segmenter.layers, circle, prompts


def test_a_closed_loop_is_one_scribble(hand, scribbling):
    """Napari takes a release where the button was pressed for a click, and places a point as well."""
    layers, circle, prompts = scribbling
    hand.draw(circle)
    assert prompts() == (8, (1,) * 8)
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert prompts() == (0, ())
    assert len(layers.points.data) == 0


def test_a_drag_that_another_tool_interrupts_leaves_nothing_behind(hand, scribbling):
    """Its trail became 34 points with the next click, and the mouse went on drawing without a button."""
    layers, circle, prompts = scribbling
    hand.draw(circle[:9], before_release=lambda: hand.key(Qt.Key.Key_B))
    hand.key(Qt.Key.Key_N)
    for place in circle[9:15]:
        hand.move(place, Qt.MouseButton.NoButton)
    assert layers.points.mouse_pan
    hand.click(circle[20].toPoint())
    assert prompts() == (1, (1,))
    assert len(layers.points.data) == 1


def test_a_second_button_or_delete_in_the_middle_of_a_drag_makes_no_points_of_its_trail(hand, scribbling):
    layers, circle, prompts = scribbling
    right = Qt.MouseButton.RightButton
    hand.draw(circle[:9], before_release=lambda: hand.click(circle[8].toPoint(), right))
    assert prompts() == (1, (0,))
    assert len(layers.points.data) == 1
    hand.draw(circle[:9], before_release=lambda: hand.key(Qt.Key.Key_Delete))
    assert prompts() == (9, (0, *(1,) * 8))
    assert len(layers.points.data) == 9


def test_another_object_does_not_get_the_scribble_that_was_begun_for_one(hand, scribbling):
    layers, circle, prompts = scribbling
    other = layers.session.add_object()
    hand.draw(circle[:9], before_release=lambda: layers.select(other))
    assert prompts(1) == prompts(other) == (0, ())
    assert len(layers.points.data) == 0


def test_the_digits_take_another_reading_of_a_point(hand, scan, monkeypatch):
    """Key 2 takes the second mask; while there is a choice, all other keys go on working."""
    _, _, box = scan
    image, dock = open_scan(hand, scan)
    layers = dock.segmenter.layers
    candidates = layers.session.candidates

    def two(where, label):
        first = candidates(where, label)[0]
        other = np.zeros_like(first.mask)
        other[:2, :3] = True
        return first, replace(first, mask=other)

    monkeypatch.setattr(layers.session, "candidates", two)
    hand.until(lambda: not dock.worker.is_busy)
    hand.key(Qt.Key.Key_N)
    hand.click(hand.at((box[0] + box[2]) // 2, (box[1] + box[3]) // 2, image))
    hand.until(lambda: len(dock.segmenter.prompting.candidates) == 2)
    hand.wait()
    hand.key(Qt.Key.Key_2)
    assert layers.census.voxels(1) == 6
    hand.key(Qt.Key.Key_M)
    assert list(layers.session.objects) == [1, 2]


def test_another_plane_writes_into_the_same_labels(hand, scan):
    """The roll button changes the plane; a box there is one along another axis."""
    _, _, box = scan
    image, dock = open_scan(hand, scan)
    hand.key(Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier)
    axis = hand.viewer.dims.not_displayed[0]
    assert axis != 0
    hand.viewer.dims.set_current_step(axis, int((box[0] + box[2]) // 2))
    hand.viewer.reset_view()
    hand.wait()
    shape = [SHAPE[a] for a in hand.viewer.dims.displayed]
    start, end = ((share * shape[0], share * shape[1]) for share in (0.2, 0.8))
    hand.drag(hand.at(*start, image), hand.at(*end, image))
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    layers = dock.segmenter.layers
    (where,) = layers.session.objects[1].slices
    assert where.axis == axis
    assert layers.session.labels.any()
    assert set(np.unique(np.nonzero(layers.session.labels)[axis])) == {where.index}


def test_the_estimate_is_shown_on_its_own_slice_only(hand, scan):
    """77 % on a slice that nobody has asked about would be believed."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, box)
    hand.until(lambda: "expects an overlap" in dock.status.text())
    hand.viewer.dims.set_current_step(0, index + 1)
    hand.until(lambda: "expects an overlap" not in dock.status.text())
    hand.viewer.dims.set_current_step(0, index)
    hand.until(lambda: "expects an overlap" in dock.status.text())


def test_b_draws_a_box_whatever_of_ours_is_selected(hand, scan):
    """After the brush, and with nothing selected at all, the next box must not take another key."""
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    layers = dock.segmenter.layers
    for selected in (layers.labels, layers.boxes, image, None):
        hand.viewer.layers.selection.clear()
        hand.viewer.layers.selection.active = selected
        hand.wait()
        assert layers.tool != "box"
        hand.key(Qt.Key.Key_B)
        assert layers.tool == "box"
        layers.boxes.mode = "pan_zoom"
    assert layers.labels.preserve_labels


def test_what_is_painted_while_propagation_passes_is_neither_lost_nor_overwritten(hand, scan):
    """The mouse is down on the very slice that is written meanwhile."""
    _, index, box = scan
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, box)
    layers = dock.segmenter.layers
    hand.viewer.dims.set_current_step(0, index + 1)
    dock.segmenter.edit_labels("paint")
    layers.labels.brush_size = 3
    hand.wait(100)
    done = []
    dock.segmenter.progressed.connect(lambda what, n, of: done.append(n))
    dock.segmenter.propagate(0, SHAPE[0] - 1)
    hand.drag(
        hand.at(3, 3, image), hand.at(3, 12, image), before_release=lambda: hand.until(lambda: 0 in done[1:])
    )
    assert layers.session.key_slices[1] == {SliceIndex(0, index + 1): CORRECTED}
    painted = layers.session.labels[index + 1]
    assert painted[3, 3:13].all()
    assert not painted[6:].any()
    assert layers.session.labels[index + 2].any()


@pytest.mark.parametrize(("answer", "closes"), [("Discard", True), ("Cancel", False)])
def test_unsaved_work_is_asked_about_on_close(hand, scan, monkeypatch, answer, closes):
    """Closing the window by mistake must not cost an afternoon."""
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    asked = []
    button = getattr(QMessageBox.StandardButton, answer)
    monkeypatch.setattr(QMessageBox, "question", lambda *args: asked.append(1) or button)
    assert dock.keeper.eventFilter(dock.window(), QCloseEvent()) is not closes
    assert asked == [1]


def test_saving_on_close_saves_every_image_and_then_closes(qapp, scan, monkeypatch, tmp_path):
    """Two volumes, one of them deleted from the list: neither is lost, and nobody clicks twice."""
    viewer = napari.Viewer(show=True)
    hand = Hand(viewer)
    hand.docks = []
    files = [tmp_path / name for name in ("one.nii.gz", "two.nii.gz")]
    for file in files:
        shutil.copyfile(scan[0], file)
        image, dock = open_scan(hand, (file, *scan[1:]))
        drag_box(hand, dock, image, scan[2])
    viewer.layers.remove(image)
    hand.wait()
    monkeypatch.setattr(QMessageBox, "question", lambda *args: QMessageBox.StandardButton.Save)
    hand.window.close()
    # Older napari deletes the window, newer only hides it.
    hand.until(lambda: not any(w.inherits("QMainWindow") and w.isVisible() for w in qapp.topLevelWidgets()))
    for name in ("one", "two"):
        assert read_labels(tmp_path / f"{name}_seg.nii.gz").array.any()


def test_a_closed_panel_opens_again_with_the_same_work(hand, scan):
    """The panel is closed to see more of the image, not to throw the objects away."""
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    layers = dock.segmenter.layers
    hand.viewer.window.remove_dock_widget(dock)
    del dock
    hand.docks.clear()
    gc.collect()
    hand.wait(100)
    hand.viewer.layers.selection.active = image
    hand.key(Qt.Key.Key_M)
    again = hand.viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)[1]
    hand.docks.append(again)
    hand.wait(100)
    assert again.segmenter.layers is layers
    assert list(layers.session.objects) == [1, 2]
    assert again.objects.table.rowCount() == 2
    assert again.segmenter.unsaved == [layers]
