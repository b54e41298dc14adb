"""The table of measurements: right, up to date, and the same in the clipboard and in files."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from bright_model import BrightModel
from direct_runner import DirectRunner
from hand import needs_display
from napari.components import ViewerModel
from napari.layers import Image, Shapes
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

from napari_medsam.measurements import measure_labels, measurements_to_csv
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex
from napari_medsam.volume import Geometry, Volume
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.diameters import diameter_layer
from napari_medsam.widgets.measure_panel import MeasurePanel
from napari_medsam.widgets.planes import box_corners
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.shared_model import SharedModel
from napari_medsam.widgets.worker import Worker

pytestmark = [pytest.mark.canvas, needs_display]
SHAPE = (8, 30, 40)
GRID = Geometry(SHAPE, (10.0, 0.5, 2.0), (5.0, 6.0, 7.0))


def scan():
    """A CT with a block of 1000 HU, 10 x 20 pixels on slices 2 to 5, half of it 500 HU on slice 3."""
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[2:6, 10:20, 10:30] = 1000
    voxels[3, 10:20, 10:20] = 500
    return Volume(voxels, GRID, "CT", "", ())


@pytest.fixture
def segmenter(qtbot):
    return segmented(DirectRunner())


def segmented(runner):
    data, attributes, _ = image_layer(scan(), "scan")
    viewer = ViewerModel()
    viewer.add_layer(Image(data, **attributes))
    viewer.dims.set_current_step(0, 3)
    model = SharedModel("bright")
    model.replace("bright", SlicePredictor(BrightModel()))
    return Segmenter(viewer, runner, model)


def draw(segmenter):
    segmenter.draw_box()
    segmenter.layers.boxes.add_rectangles([box_corners(SliceIndex(0, 3), (8, 8, 22, 32), 3)])


@pytest.fixture
def panel(segmenter, qtbot):
    made = MeasurePanel(segmenter)
    qtbot.addWidget(made)
    made.show()
    draw(segmenter)
    segmenter.layers.rename(1, "liver")
    made.refresh()
    return made


def table(panel):
    """The table as shown: by column, the text of each row."""
    widget = panel.table
    headings = [widget.horizontalHeaderItem(n).text() for n in range(widget.columnCount())]
    rows = range(widget.rowCount())
    return {name: [widget.item(row, n).text() for row in rows] for n, name in enumerate(headings)}


def click(widget):
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def test_numbers_of_an_object(panel):
    """200 voxels of 10 x 0.5 x 2 mm are 2 mL; 5 mm high and 40 mm wide on its slice."""
    assert panel.table.verticalHeaderItem(0).text() == "liver"
    found = table(panel)
    assert {name: found[name] for name in ("mL", "voxels", "slices", "mean HU", "SD HU", "median HU")} == {
        "mL": ["2.00"],
        "voxels": ["200"],
        "slices": ["3–3"],
        "mean HU": ["750"],
        "SD HU": ["250"],
        "median HU": ["750"],
    }
    (measured,) = measure_labels(panel.segmenter.layers.session.labels, GRID, image=scan())
    diameters = measured.recist.long.length_mm, measured.recist.short.length_mm
    assert found["RECIST mm"] == ["{:.1f} × {:.1f}".format(*diameters)]
    assert measured.recist.long.length_mm == pytest.approx(np.hypot(40, 5), abs=2)
    assert found["sphericity"] == [f"{measured.sphericity:.2f}"]
    assert "Dice" not in found


def test_numbers_follow_the_brush_and_the_name(panel):
    """A table that lags behind the mask would be copied into a report."""
    layers = panel.segmenter.layers
    layers.viewer.dims.set_current_step(0, 4)
    layers.labels.data_setitem((np.array([4, 4]), np.array([12, 12]), np.array([12, 13])), 1)
    panel.refresh()
    assert table(panel)["voxels"] == ["202"]
    assert table(panel)["slices"] == ["3–4"]
    layers.rename(1, "tumour")
    panel.refresh()
    assert panel.table.verticalHeaderItem(0).text() == "tumour"


def test_nothing_is_measured_twice_nor_unseen(panel, monkeypatch):
    """Scrolling through a large volume must not measure it on every slice."""
    submitted = []
    monkeypatch.setattr(panel.segmenter.runner, "submit", lambda *args, **options: submitted.append(args[0]))
    panel.segmenter.viewer.dims.set_current_step(0, 5)
    panel.refresh()
    assert submitted == []
    panel.segmenter.layers.labels.data_setitem((np.array([5]), np.array([12]), np.array([12])), 1)
    panel.hide()
    panel.refresh()
    assert submitted == []
    panel.show()
    panel.refresh()
    assert submitted == ["measure"]


def test_against_a_reference_each_object_finds_its_counterpart(panel):
    """Other programs number organs their own way: label 5 is the liver there."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[3, 10:20, 10:20] = 5
    truth[3, 0:2, 0:2] = 1
    panel.segmenter.viewer.add_labels(truth, name="truth", scale=GRID.spacing)
    panel.refresh()
    panel.choice.setCurrentText("truth")
    found = table(panel)
    assert {name: found[name] for name in ("reference", "Dice", "IoU", "difference mL")} == {
        "reference": ["5"],
        "Dice": ["0.667"],
        "IoU": ["0.500"],
        "difference mL": ["+1.00"],
    }
    assert float(found["HD95 mm"][0]) > 0
    assert 0 < float(found["surface Dice"][0]) < 1


def test_a_reference_of_another_shape_is_told_and_the_numbers_stay(panel):
    panel.segmenter.viewer.add_labels(np.zeros((2, 3, 4), np.uint8), name="small")
    panel.refresh()
    panel.choice.setCurrentText("small")
    assert panel.text.text() == "'small' has the shape (2, 3, 4), expected (8, 30, 40)."
    assert table(panel)["voxels"] == ["200"]


def test_copy_gives_what_a_spreadsheet_takes(panel):
    """All numbers, not only those that fit into the panel."""
    click(panel.copy)
    rows = list(csv.DictReader(io.StringIO(QApplication.clipboard().text()), delimiter="\t"))
    assert len(rows) == 1
    assert (rows[0]["name"], rows[0]["voxels"], rows[0]["recist_slice"]) == ("liver", "200", "3")
    assert float(rows[0]["mean"]) == 750.0


def test_files_are_those_of_the_command_line(panel, tmp_path, monkeypatch):
    """One format for who clicks and who types."""
    chosen = iter([str(tmp_path / "numbers"), str(tmp_path / "numbers.json")])
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (next(chosen), ""))
    click(panel.csv)
    click(panel.json)
    measured = measure_labels(panel.segmenter.layers.session.labels, GRID, image=scan(), names={1: "liver"})
    assert (tmp_path / "numbers.csv").read_bytes().decode() == measurements_to_csv(measured)
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert (found["intensity_unit"], found["labels"][0]["voxels"]) == ("HU", 200)


def test_a_table_is_not_replaced_unasked(panel, tmp_path, monkeypatch):
    """Qt's dialog asks about the name as it was typed, without the ending."""
    (tmp_path / "numbers.csv").write_text("the first patient's")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(tmp_path / "numbers"), ""))
    asked = []
    monkeypatch.setattr(
        QMessageBox, "question", lambda *args: asked.append(args[2]) or QMessageBox.StandardButton.No
    )
    click(panel.csv)
    assert asked == [f"'{tmp_path / 'numbers.csv'}' is there already. Replace it?"]
    assert (tmp_path / "numbers.csv").read_text() == "the first patient's"


def test_a_file_that_cannot_be_written_is_one_sentence(panel, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("napari_medsam.widgets.messages.show_warning", said.append)
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *args: (str(tmp_path / "no" / "numbers.csv"), "")
    )
    click(panel.csv)
    (sentence,) = said
    assert sentence.startswith(f"'{tmp_path / 'no' / 'numbers.csv'}' cannot be written: No such file")


def test_diameters_are_drawn_where_they_were_measured(panel):
    """With their length, on their slice; the tool in hand stays in hand."""
    viewer = panel.segmenter.viewer
    active = viewer.layers.selection.active
    click(panel.draw)
    layer = diameter_layer(panel.segmenter.layers)
    assert viewer.layers.selection.active is active
    recist = panel.rows[0].found.recist
    for drawn, line in zip(layer.data, (recist.long, recist.short), strict=True):
        np.testing.assert_allclose(drawn, line.voxels)
        assert (drawn[:, 0] == 3).all()
    assert layer.shape_type == ["line", "line"]
    assert list(layer.text.values) == [f"{line.length_mm:.1f} mm" for line in (recist.long, recist.short)]
    np.testing.assert_allclose(layer.scale, GRID.spacing)


def test_drawn_diameters_follow_the_mask_until_they_are_deleted(panel):
    """The layer may go at any time, and does not come back by itself."""
    click(panel.draw)
    layers = panel.segmenter.layers
    layer = diameter_layer(layers)
    layers.labels.data_setitem(np.nonzero(layers.session.labels), 0)
    layers.viewer.dims.set_current_step(0, 4)
    layers.labels.data_setitem((np.full(6, 4), np.full(6, 12), np.arange(10, 16)), 1)
    panel.refresh()
    assert diameter_layer(layers) is layer
    assert next(iter(layer.text.values)) == f"{panel.rows[0].found.recist.long.length_mm:.1f} mm"
    assert (layer.data[0][:, 0] == 4).all()
    layers.viewer.layers.remove(layer)
    layers.labels.data_setitem((np.array([4]), np.array([13]), np.array([10])), 1)
    panel.refresh()
    assert not [x for x in layers.viewer.layers if isinstance(x, Shapes) and "diameters" in x.name]
    click(panel.draw)
    assert len(diameter_layer(layers).data) == 2


def test_diameters_of_what_is_gone_are_gone(panel):
    """A line across nothing is measured by the next one who looks."""
    click(panel.draw)
    layers = panel.segmenter.layers
    panel.segmenter.remove(1)
    panel.refresh()
    assert len(diameter_layer(layers).data) == 0


def test_drawn_diameters_follow_the_mask_while_the_table_is_folded(panel):
    """They are what is seen then, and what is believed."""
    click(panel.draw)
    layers = panel.segmenter.layers
    panel.hide()
    layers.labels.data_setitem((np.full(4, 3), np.full(4, 12), np.arange(30, 34)), 1)
    assert panel.is_wanted
    panel.refresh()
    (measured,) = measure_labels(layers.session.labels, GRID)
    np.testing.assert_allclose(diameter_layer(layers).data[0], measured.recist.long.voxels)
    layers.viewer.layers.remove(diameter_layer(layers))
    assert not panel.is_wanted


def test_a_reference_stays_chosen_under_another_name(panel):
    """Renaming a layer is tidying up; the numbers against it must not go away."""
    truth = panel.segmenter.viewer.add_labels(np.ones(SHAPE, np.uint8), name="truth", scale=GRID.spacing)
    panel.refresh()
    panel.choice.setCurrentText("truth")
    truth.name = "second reader"
    panel.refresh()
    assert panel.choice.currentText() == "second reader"
    assert "Dice" in table(panel)


def test_a_click_on_a_row_goes_to_its_diameters(panel):
    panel.segmenter.viewer.dims.set_current_step(0, 7)
    panel.segmenter.new_object()
    place = panel.table.visualItemRect(panel.table.item(0, 0)).center()
    QTest.mouseClick(panel.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert panel.segmenter.layers.label == 1
    assert panel.segmenter.layers.where == SliceIndex(0, 3)


def test_without_objects_there_is_nothing_to_copy(panel):
    panel.segmenter.remove(1)
    panel.refresh()
    assert panel.text.text() == "Nothing is segmented yet."
    assert not any(each.isEnabled() for each in (panel.copy, panel.csv, panel.json, panel.draw))


def test_measuring_happens_in_the_thread_and_old_numbers_cannot_be_copied(qtbot):
    """The window stays alive, and what is not up to date is grey."""
    worker = Worker()
    made = segmented(worker)
    shown = MeasurePanel(made)
    qtbot.addWidget(shown)
    shown.show()
    draw(made)
    qtbot.waitUntil(lambda: made.layers.census.voxels(1) == 200)
    shown.refresh()
    assert shown.text.text() == "Measuring..."
    assert not shown.copy.isEnabled()
    qtbot.waitUntil(shown.copy.isEnabled, timeout=30_000)
    assert table(shown)["voxels"] == ["200"]
    worker.stop()
