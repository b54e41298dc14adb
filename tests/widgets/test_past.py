"""Undo, history, recovery and session files in a real window: if these fail, work is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hand import needs_display
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog, QMessageBox, QPushButton
from scan_steps import SHAPE, click, drag_box, open_scan, propagate

from napari_medsam.models.zoo import load_model
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex
from napari_medsam.recovery import leftovers, recovery_folder
from napari_medsam.replay import difference, replay
from napari_medsam.session import Session
from napari_medsam.session_file import content_from_json, read_document
from napari_medsam.volume import read_volume
from napari_medsam.widgets.history_panel import BEGINNING
from napari_medsam.widgets.past import NOTHING_AFTER, NOTHING_BEFORE

pytestmark = [
    pytest.mark.canvas,
    needs_display,
    # Third parties' own, on the way to a window.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


def undo(hand):
    hand.key(Qt.Key.Key_Z, CONTROL)


def redo(hand):
    hand.key(Qt.Key.Key_Z, CONTROL | SHIFT)


def stroke(hand, dock, image, index):
    """Paint a line with the brush on another slice."""
    hand.viewer.dims.set_current_step(0, index)
    dock.segmenter.edit_labels("paint")
    dock.segmenter.layers.labels.brush_size = 3
    hand.drag(hand.at(3, 3, image), hand.at(3, 12, image))


def test_keys_take_back_brush_propagation_and_box_on_whichever_slice(hand, scan):
    """And do them again; the view turns to what changes, whichever layer has the keys."""
    image, dock = open_scan(hand, scan)
    layers, states = dock.segmenter.layers, []
    labels = layers.session.labels
    drag_box(hand, dock, image, scan[2])
    states.append(labels.copy())
    propagate(hand, dock)
    states.append(labels.copy())
    stroke(hand, dock, image, 2)
    states.append(labels.copy())
    assert states[2][2, 3, 8] == 1
    hand.viewer.dims.set_current_step(0, 20)
    undo(hand)
    np.testing.assert_array_equal(labels, states[1])
    assert layers.where == SliceIndex(0, 2)
    hand.viewer.layers.selection.active = layers.boxes
    undo(hand)
    np.testing.assert_array_equal(labels, states[0])
    hand.viewer.layers.selection.active = image
    undo(hand)
    assert not labels.any()
    assert len(layers.boxes.data) == 0
    assert layers.census.voxels(1) == 0
    for state in states:
        redo(hand)
        np.testing.assert_array_equal(labels, state)
    assert len(layers.boxes.data) == 1
    assert layers.census.voxels(1) == (labels == 1).sum()
    assert layers.session.key_slices[1] == {SliceIndex(0, 2): "corrected"}


def test_undo_while_an_object_is_carried_stops_that_and_takes_it_back(hand, scan):
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    layers = dock.segmenter.layers
    before, written = layers.session.labels.copy(), []
    layers.edited.connect(lambda labels: written.append(labels))
    dock.segmenter.propagate(0, SHAPE[0] - 1)
    hand.until(lambda: len(written) > 3)
    undo(hand)
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait(300)
    np.testing.assert_array_equal(layers.session.labels, before)
    assert dock.panels["Propagate"].bar.isHidden()


def test_a_box_whose_mask_is_still_computed_is_taken_back_with_it(hand, scan):
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    layers, box = dock.segmenter.layers, scan[2]
    before = layers.session.labels.copy()
    hand.key(Qt.Key.Key_M)
    hand.key(Qt.Key.Key_B)
    hand.drag(hand.at(box[0] - 9, box[1], image), hand.at(box[2], box[3], image))
    undo(hand)
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait(300)
    np.testing.assert_array_equal(layers.session.labels, before)
    assert layers.session.objects[2].slices == {}


def test_the_history_lists_steps_and_a_click_goes_there(hand, scan):
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    first = dock.segmenter.layers.session.labels.copy()
    propagate(hand, dock)
    stroke(hand, dock, image, 2)
    last = dock.segmenter.layers.session.labels.copy()
    panel = dock.panels["History"]
    panel.show()
    panel.refresh()
    rows = [panel.steps.item(n).text() for n in range(panel.steps.count())]
    prompted = f"Object 1: prompts, slice {scan[1]}"
    assert rows == [BEGINNING, prompted, "Object 1: carried", "Object 1: painted, slice 2"]
    assert panel.steps.currentRow() == 3

    def choose(row):
        place = panel.steps.visualItemRect(panel.steps.item(row)).center()
        QTest.mouseClick(panel.steps.viewport(), Qt.MouseButton.LeftButton, pos=place)
        hand.wait()
        panel.refresh()
        assert panel.steps.currentRow() == row

    labels = dock.segmenter.layers.session.labels
    choose(1)
    np.testing.assert_array_equal(labels, first)
    choose(3)
    np.testing.assert_array_equal(labels, last)
    choose(0)
    assert not labels.any()


def test_where_there_is_nothing_to_take_back_that_is_said(hand, scan, monkeypatch):
    said = []
    monkeypatch.setattr("napari_medsam.widgets.past.show_info", said.append)
    open_scan(hand, scan)
    undo(hand)
    redo(hand)
    assert said == [NOTHING_BEFORE, NOTHING_AFTER]


def pressed(panel, text):
    return next(each for each in panel.findChildren(QPushButton) if each.text().startswith(text))


def test_what_was_done_here_is_made_again_without_a_window(hand, scan, tmp_path, monkeypatch):
    """A session that was saved by a click, with boxes, a propagation, a stroke and corrections in it."""
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    propagate(hand, dock)
    stroke(hand, dock, image, 2)
    dock.segmenter.correct("smooth", whole=True)
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    dock.segmenter.reviewing.redo()
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    target = tmp_path / "mine.session.json"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *asked: (str(tmp_path / "mine"), ""))
    click(hand, pressed(dock.panels["History"], "Save session"))
    hand.until(lambda: target.exists() and not dock.worker.is_busy)
    volume = read_volume(scan[0])
    content = content_from_json(read_document(target), volume)
    np.testing.assert_array_equal(content.labels, dock.segmenter.layers.session.labels)
    again = Session(volume, SlicePredictor(load_model()), model_name="default")
    for _ in replay(again, content.steps):
        pass
    assert difference(again, content).voxels == 0
    assert again.objects == dock.segmenter.layers.session.objects


def test_a_session_file_is_gone_on_with(hand, scan, tmp_path, monkeypatch):
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    labels = dock.segmenter.layers.session.labels
    kept, target = labels.copy(), tmp_path / "mine.session.json"
    dock.segmenter.past.save(target)
    hand.until(lambda: target.exists() and not dock.worker.is_busy)
    undo(hand)
    stroke(hand, dock, image, 2)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *asked: (str(target), ""))
    click(hand, pressed(dock.panels["History"], "Open session"))
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    np.testing.assert_array_equal(labels, kept)
    assert len(dock.segmenter.layers.boxes.data) == 1
    assert dock.segmenter.layers.census.voxels(1) == (kept == 1).sum()
    # The stroke that made room for it is still there to be found.
    volume = dock.segmenter.layers.session.volume
    (found,) = leftovers(recovery_folder(), volume, image.name)
    assert found.content.labels[2, 3, 8] == 1
    found.release()


def test_a_session_of_another_image_is_refused_and_changes_nothing(hand, scan, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("napari_medsam.widgets.messages.show_warning", said.append)
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    before = dock.segmenter.layers.session.labels.copy()
    (tmp_path / "odd.session.json").write_text("{}")
    dock.segmenter.past.open(tmp_path / "odd.session.json")
    hand.until(lambda: not dock.worker.is_busy)
    hand.wait()
    assert len(said) == 1
    assert "not a session file" in said[0]
    np.testing.assert_array_equal(dock.segmenter.layers.session.labels, before)


@pytest.fixture
def killed(scan, tmp_path):
    """The labels of somebody's work that ended by SIGKILL."""
    if os.name != "posix":
        pytest.skip("there is no such signal here")
    target = tmp_path / "labels.npy"
    script = Path(__file__).parents[1] / "killed_session.py"
    arguments = [scan[0], scan[1], *scan[2], target]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *map(str, arguments)], check=False, timeout=120
    )
    assert run.returncode == -9
    return np.load(target)


def test_work_of_a_killed_napari_is_offered_and_goes_on(killed, hand, scan):
    _, dock = open_scan(hand, scan)
    hand.until(lambda: dock.segmenter.past.offer is not None)
    hand.until(dock.offer.isVisible)
    slices = np.count_nonzero(killed.any(axis=(1, 2)))
    assert f"{slices} slices with labels" in dock.offer.text.text()
    assert not dock.offer.picture.pixmap().isNull()
    click(hand, pressed(dock.offer, "Restore"))
    layers = dock.segmenter.layers
    np.testing.assert_array_equal(layers.session.labels, killed)
    assert layers.name(1) == "liver"
    assert len(layers.boxes.data) == 1
    assert not dock.offer.isVisible()
    assert dock.segmenter.unsaved == [layers]
    redo(hand)
    assert layers.session.labels[scan[1], 3, 8] == 1
    undo(hand)
    np.testing.assert_array_equal(layers.session.labels, killed)


def test_work_that_is_put_off_is_offered_again_and_deleted_when_wanted(killed, hand, scan, monkeypatch):
    image, dock = open_scan(hand, scan)
    hand.until(dock.offer.isVisible)
    click(hand, pressed(dock.offer, "Later"))
    assert not dock.offer.isVisible()
    volume = dock.segmenter.layers.session.volume
    (found,) = leftovers(recovery_folder(), volume, image.name)
    found.release()
    hand.viewer.layers.remove(image)
    open_scan(hand, scan)
    hand.until(dock.offer.isVisible)
    monkeypatch.setattr(QMessageBox, "question", lambda *asked: QMessageBox.StandardButton.Yes)
    click(hand, pressed(dock.offer, "Delete"))
    assert list(leftovers(recovery_folder(), volume, image.name)) == []


def test_that_earlier_work_could_not_be_looked_for_is_said(hand, scan, monkeypatch):
    """Else nobody would know that there may be some."""
    said = []

    def broken(*of):
        raise ValueError("The log of earlier work cannot be read.")

    monkeypatch.setattr("napari_medsam.widgets.messages.show_warning", said.append)
    monkeypatch.setattr("napari_medsam.widgets.past.leftovers", broken)
    open_scan(hand, scan)
    hand.until(lambda: said)
    assert said == ["The log of earlier work cannot be read."]


def test_closing_leaves_nothing_behind_once_the_work_is_saved(hand, scan, tmp_path):
    image, dock = open_scan(hand, scan)
    drag_box(hand, dock, image, scan[2])
    hand.until(lambda: any(recovery_folder().glob("*/work.log")))
    dock.segmenter.save(tmp_path / "seg.nii.gz")
    hand.until(lambda: not dock.worker.is_busy and not dock.segmenter.unsaved)
    hand.viewer.close()
    assert list(recovery_folder().iterdir()) == []
    assert (tmp_path / "seg.session.json").exists()
