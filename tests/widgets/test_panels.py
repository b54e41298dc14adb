"""The sections of the panel say how things are, and do what their buttons say."""

from __future__ import annotations

import numpy as np
import pytest
from bright_segmenter import bright_segmenter
from hand import needs_display
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QInputDialog, QMessageBox, QPushButton

from napari_medsam.models import download
from napari_medsam.volume import Geometry, Volume
from napari_medsam.widgets.compare_panel import ComparePanel
from napari_medsam.widgets.model_panel import ModelPanel
from napari_medsam.widgets.object_list import ObjectList
from napari_medsam.widgets.panels import PropagationPanel, WindowPanel
from napari_medsam.windowing import PRESETS, Window

pytestmark = [pytest.mark.canvas, needs_display]
SHAPE = (8, 30, 40)


@pytest.fixture
def segmenter(qtbot):
    """A bright block of 10 x 20 pixels on slices 2 to 5 of a CT."""
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[2:6, 10:20, 10:30] = 1000
    volume = Volume(voxels, Geometry(SHAPE, (10.0, 1.0, 1.0)), "CT", "", ())
    made = bright_segmenter(volume, 3, (8, 8, 22, 32))
    assert made.layers.census.voxels(1) == 200
    return made


def show(qtbot, panel):
    qtbot.addWidget(panel)
    panel.show()
    panel.refresh()
    return panel


def test_the_window_of_the_model_follows_buttons_only(segmenter, qtbot):
    """A brighter screen must not silently change the next mask."""
    panel = show(qtbot, WindowPanel(segmenter))
    session, image = segmenter.layers.session, segmenter.layers.image
    panel.buttons["bone"].click()
    assert session.window == PRESETS["bone"]
    assert tuple(image.contrast_limits) == (-500.0, 1300.0)
    image.contrast_limits = (0, 50)
    panel.refresh()
    assert session.window == PRESETS["bone"]
    assert "<b>Bone</b>, -500 to 1300" in panel.text.text()
    panel.buttons["displayed"].click()
    assert session.window == Window(0.0, 50.0, "as displayed")
    panel.buttons["percentile"].click()
    assert (session.window.lower, session.window.upper) == (-1000.0, 1000.0)


def test_dice_with_a_reference_follows_every_change(segmenter, qtbot):
    """Half of the reference is Dice 2/3; the brush moves the number at once."""
    reference = np.zeros(SHAPE, np.uint8)
    reference[3, 10:20, 10:20] = 4
    reference[5, 10:20, 10:20] = 4
    reference[4, 10:20, 10:20] = 9
    segmenter.viewer.add_labels(reference, name="truth", scale=(10, 1, 1))
    panel = show(qtbot, ComparePanel(segmenter))
    panel.choice.setCurrentText("truth")
    assert panel.text.text() == "Dice with label 4 of the reference, on this slice: 0.667"
    assert panel.whole.text() == "In the whole volume, with label 4: 0.500"
    segmenter.layers.labels.data_setitem(np.nonzero(segmenter.layers.session.labels * (reference == 0)), 0)
    panel.refresh()
    assert panel.text.text() == "Dice with label 4 of the reference, on this slice: 1.000"
    assert panel.whole.text() == "In the whole volume, with label 4: 0.667"


def test_dice_of_the_volume_is_counted_again_only_after_a_change(segmenter, qtbot, monkeypatch):
    """Scrolling must not count a large volume anew on every slice; painting on the reference must."""
    truth = segmenter.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="truth", scale=(10, 1, 1))
    panel = show(qtbot, ComparePanel(segmenter))
    panel.choice.setCurrentText("truth")
    assert panel.text.text() == "The object and the reference share no pixel on this slice."
    assert panel.whole.text() == "In the whole volume they share no voxel."
    submit, counted = segmenter.runner.submit, []
    monkeypatch.setattr(
        segmenter.runner, "submit", lambda *args, **how: counted.append(args[0]) or submit(*args, **how)
    )
    segmenter.viewer.dims.set_current_step(0, 4)
    panel.refresh()
    assert panel.text.text() == "The object and the reference share no pixel on this slice."
    assert counted == []
    truth.data_setitem(np.nonzero(segmenter.layers.session.labels), 2)
    panel.refresh()
    assert panel.whole.text() == "In the whole volume, with label 2: 1.000"
    assert counted == ["compare"]


def test_the_list_names_sizes_renames_and_hides(segmenter, qtbot):
    """200 voxels of 10 mm3 are 2 mL."""
    table = show(qtbot, ObjectList(segmenter)).table
    assert [table.item(0, column).text() for column in range(3)] == ["Object 1", "2.00", "1"]
    table.item(0, 0).setText("liver")
    assert segmenter.layers.session.objects[1].name == "liver"
    table.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    assert segmenter.layers.masks.palette.hidden == {1}


def test_delete_asks_first_and_merge_asks_into_what(segmenter, qtbot, monkeypatch):
    """One wrong click must not cost an object."""
    objects = show(qtbot, ObjectList(segmenter))
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *args: answers.pop(0))
    buttons = {each.text(): each for each in objects.findChildren(QPushButton)}
    delete, merge = buttons["Delete"], buttons["Merge..."]
    delete.click()
    assert segmenter.layers.census.voxels(1) == 200
    segmenter.new_object("left half")
    objects.refresh()
    segmenter.layers.select(1)
    monkeypatch.setattr(QInputDialog, "getItem", lambda *args: ("2: left half", True))
    merge.click()
    assert (segmenter.layers.census.voxels(2), list(segmenter.layers.session.objects)) == (200, [2])
    delete.click()
    assert not segmenter.layers.session.labels.any()
    assert answers == []


@pytest.mark.parametrize(("name", "slices"), [("up", [3, 4, 5]), ("down", [2, 3]), ("both", [2, 3, 4, 5])])
def test_propagation_goes_where_the_button_says(segmenter, qtbot, name, slices):
    panel = show(qtbot, PropagationPanel(segmenter))
    assert (panel.first.value(), panel.last.value()) == (0, 7)
    getattr(panel, name).click()
    assert segmenter.layers.census.slices(1) == slices


def test_propagation_stays_within_the_range(segmenter, qtbot):
    panel = show(qtbot, PropagationPanel(segmenter))
    panel.last.setValue(4)
    panel.both.click()
    assert segmenter.layers.census.slices(1) == [2, 3, 4]


def test_a_model_is_described_and_fetched_only_when_asked(segmenter, qtbot, monkeypatch, tmp_path):
    """Hospitals want to know what is fetched, from where, and under which licence."""
    monkeypatch.setenv("NAPARI_MEDSAM_MODELS", str(tmp_path))
    panel = show(qtbot, ModelPanel(segmenter))
    panel.choice.setCurrentIndex(panel.choice.findData("sam_vit_b"))
    assert panel.choice.currentText() == "sam_vit_b  (375 MB to fetch)"
    for part in (
        "375 MB, not downloaded",
        "box and mask and point",
        "Licence: Apache-2.0",
        "In use: bright on cpu",
    ):
        assert part in panel.text.text()
    assert not panel.use.isEnabled()
    asked = []

    def fetch(spec, folder):
        asked.append((spec.name, panel.download.text()))
        yield 1_000_000, 2_000_000
        asked.append((panel.bar.value(), panel.bar.maximum(), panel.bar.isVisible()))
        (folder / spec.file).write_bytes(b"weights")

    monkeypatch.setattr(download, "download", fetch)
    panel.download.click()
    assert asked == [("sam_vit_b", "Download"), (1000, 2000, True)]
    assert panel.use.isEnabled()
    assert not panel.bar.isVisible()


def test_a_download_can_be_cancelled(segmenter, qtbot, monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_MEDSAM_MODELS", str(tmp_path))
    panel = show(qtbot, ModelPanel(segmenter))
    panel.choice.setCurrentIndex(panel.choice.findData("sam_vit_b"))
    cancelled = []
    monkeypatch.setattr(segmenter.runner, "submit", lambda *args, **options: None)
    monkeypatch.setattr(segmenter.runner, "cancel", lambda key: cancelled.append(key) or True)
    panel.download.click()
    assert panel.download.text() == "Cancel"
    panel.download.click()
    assert cancelled == ["download"]
    assert panel.download.text() == "Download"
