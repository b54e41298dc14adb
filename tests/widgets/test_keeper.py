"""Where Save writes: never over another image's labels, and where the user said."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from bright_model import BrightModel
from hand import needs_display
from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex
from napari_medsam.volume import Geometry, Volume, read_labels
from napari_medsam.widgets import saving
from napari_medsam.widgets.contrib import image_layer, mr_brain_sample
from napari_medsam.widgets.keeper import Keeper
from napari_medsam.widgets.planes import box_corners
from napari_medsam.widgets.saving import save_session

pytestmark = [pytest.mark.canvas, needs_display]
SHAPE = (4, 20, 30)


@pytest.fixture
def keeper(qtbot):
    made = Keeper(ViewerModel())
    made.segmenter.model.replace("bright", SlicePredictor(BrightModel()))
    yield made
    made.worker.stop()


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the user was asked to replace, a new place each time."""
    suggestions = []

    def ask(parent, title, suggestion, kinds, usual):
        suggestions.append(suggestion)
        return str(tmp_path / f"chosen{len(suggestions)}.nii.gz"), ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    return suggestions


def add_scan(keeper, qtbot, source, index):
    """Add an image that came from a file, and segment its bright block on one slice."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[:, 5:15, 10:20] = 1
    data, attributes, _ = image_layer(Volume(voxels, Geometry(SHAPE), "MR", str(source), ()), "scan")
    keeper.viewer.add_layer(Image(data, **attributes))
    keeper.viewer.dims.set_point(0, index)
    keeper.segmenter.draw_box()
    layers = keeper.segmenter.layers
    layers.box_layer().add_rectangles([box_corners(SliceIndex(0, index), (3, 8, 17, 22), 3)])
    wait(keeper, qtbot)
    assert layers.census.slices(1) == [index]
    return layers


def wait(keeper, qtbot):
    qtbot.waitUntil(lambda: not keeper.worker.is_busy, timeout=30_000)
    qtbot.wait(50)


def slices_in(path):
    return np.flatnonzero(read_labels(path).array.any((1, 2))).tolist()


def test_a_sample_comes_from_no_file_so_save_asks_where(keeper, qtbot, asked):
    """Not five files in whatever folder napari was started from."""
    (data, attributes, _), *_ = mr_brain_sample()
    keeper.viewer.add_layer(Image(data, **attributes))
    keeper.segmenter.draw_box()
    assert keeper.save()
    assert asked == ["MR brain phantom_seg.nii.gz"]
    wait(keeper, qtbot)


def test_save_goes_on_where_as_has_put_it(keeper, qtbot, asked, tmp_path):
    """Whoever chose a place once finds the later work there, too, and not in two files."""
    layers = add_scan(keeper, qtbot, tmp_path / "scan.nii.gz", 1)
    assert keeper.save(elsewhere=True)
    wait(keeper, qtbot)
    assert asked == [str(tmp_path / "scan_seg.nii.gz")]
    assert slices_in(tmp_path / "chosen1.nii.gz") == [1]
    assert keeper.segmenter.unsaved == []
    layers.session.labels[2] = layers.session.labels[1]
    assert keeper.save()
    wait(keeper, qtbot)
    assert len(asked) == 1
    assert slices_in(tmp_path / "chosen1.nii.gz") == [1, 2]
    assert (tmp_path / "chosen1.prompts.json").exists()
    assert not (tmp_path / "scan_seg.nii.gz").exists()


def test_two_images_with_one_default_place_do_not_overwrite_each_other(
    keeper, qtbot, asked, tmp_path, monkeypatch
):
    """Not even while the first is still being written, as when the window is closed with both unsaved."""
    first = add_scan(keeper, qtbot, tmp_path / "scan.nii", 1)
    second = add_scan(keeper, qtbot, tmp_path / "scan.nii.gz", 2)
    entered, go_on = threading.Event(), threading.Event()

    def slow(state, path, *looks):
        if state.volume is first.session.volume:
            entered.set()
            assert go_on.wait(30)
        return save_session(state, path, *looks)

    monkeypatch.setattr(saving, "save_session", slow)
    assert keeper.save(first)
    assert entered.wait(30)
    assert keeper.save(second)
    go_on.set()
    wait(keeper, qtbot)
    assert asked == [str(tmp_path / "scan_seg.nii.gz")]
    assert slices_in(tmp_path / "scan_seg.nii.gz") == [1]
    assert slices_in(tmp_path / "chosen1.nii.gz") == [2]
    for layers in (first, second):
        assert keeper.save(layers)
        wait(keeper, qtbot)
    assert len(asked) == 1
    assert slices_in(tmp_path / "scan_seg.nii.gz") == [1]


def test_a_file_that_another_program_has_changed_is_not_replaced_unasked(
    keeper, qtbot, asked, tmp_path, monkeypatch
):
    layers = add_scan(keeper, qtbot, tmp_path / "scan.nii", 1)
    target, questions = tmp_path / "scan_seg.nii.gz", []
    assert keeper.save()
    wait(keeper, qtbot)
    answer = QMessageBox.StandardButton.No
    monkeypatch.setattr(QMessageBox, "question", lambda *told: questions.append(told[2]) or answer)
    assert keeper.save()
    wait(keeper, qtbot)
    assert questions == []
    target.write_bytes(b"somebody else's")
    layers.unsaved = True
    assert not keeper.save()
    assert questions == [f"'{target}' was changed by another program since it was saved here. Replace it?"]
    assert (target.read_bytes(), layers.unsaved) == (b"somebody else's", True)
    answer = QMessageBox.StandardButton.Yes
    assert keeper.save()
    wait(keeper, qtbot)
    assert (read_labels(target).array[1] == 1).sum() == 100
    assert asked == []
