"""The search for what an object is: typed, picked, and found again in what DICOM and 3D Slicer are given."""

from __future__ import annotations

import numpy as np
import pytest
from bright_model import BrightModel
from bright_segmenter import bright_segmenter
from dicom_series import write_series
from hand import needs_display
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from typer.testing import CliRunner

from napari_medsam.cli import app
from napari_medsam.export import read_segmentation
from napari_medsam.prompts import prompts_from_json
from napari_medsam.terminology import term_for
from napari_medsam.volume import Geometry, Volume
from napari_medsam.widgets.anatomy_panel import AnatomyPanel

pytestmark = [pytest.mark.canvas, needs_display]
SHAPE = (6, 20, 30)
GRID = Geometry(SHAPE, (3.0, 0.7, 0.8), (-20.5, 33.25, 801.125))
LEFT_KIDNEY = term_for("left kidney")


@pytest.fixture
def panel(qtbot, tmp_path):
    """An object on slice 2 of a scan from a DICOM folder."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[:, 5:15, 10:20] = 1
    scan = Volume(voxels, GRID, "MR", str(tmp_path / "ct"), ())
    made = AnatomyPanel(bright_segmenter(scan, 2, (3, 8, 17, 22)))
    qtbot.addWidget(made)
    made.show()
    made.refresh()
    return made


def search(panel, text):
    QTest.keyClicks(panel.search, text)
    return [panel.found.item(n).text() for n in range(panel.found.count())]


def thing(panel):
    return panel.segmenter.layers.session.objects[1]


def test_beginnings_of_words_find_an_organ_and_a_click_picks_it(panel):
    """Nobody types SNOMED numbers."""
    assert "<b>Object 1</b> has no code" in panel.text.text()
    found = search(panel, "kid l")
    assert found[0] == "Left kidney"
    place = panel.found.visualItemRect(panel.found.item(0)).center()
    QTest.mouseClick(panel.found.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert (thing(panel).name, thing(panel).term) == ("Left kidney", LEFT_KIDNEY)
    assert panel.text.text() == ("<b>Left kidney</b> is coded as <b>Left kidney</b> (SCT 64033007).")
    assert panel.search.text() == ""
    assert panel.found.isHidden()


def test_return_picks_the_first_and_a_name_of_ones_own_stays(panel):
    panel.segmenter.layers.rename(1, "lesion A")
    search(panel, "liver")
    QTest.keyClick(panel.search, Qt.Key.Key_Return)
    assert (thing(panel).name, thing(panel).term) == ("lesion A", term_for("liver"))


def test_a_second_pick_replaces_the_first_with_its_name(panel):
    for text in ("kid l", "spleen"):
        search(panel, text)
        QTest.keyClick(panel.search, Qt.Key.Key_Return)
    assert (thing(panel).name, thing(panel).term) == ("Spleen", term_for("spleen"))


def test_a_new_name_takes_the_old_code_away(panel):
    """An object that is no kidney any more must not reach the archive as one."""
    search(panel, "kid l")
    QTest.keyClick(panel.search, Qt.Key.Key_Return)
    panel.segmenter.layers.rename(1, "tumour, perhaps")
    panel.refresh()
    assert thing(panel).term is None
    assert "has no code" in panel.text.text()
    panel.segmenter.layers.rename(1, "Spleen")
    panel.refresh()
    assert panel.text.text() == "<b>Spleen</b> is coded as <b>Spleen</b> (SCT 78961009), by its name."


def test_by_name_takes_a_pick_back(panel):
    panel.segmenter.layers.rename(1, "spleen", LEFT_KIDNEY)
    panel.refresh()
    QTest.mouseClick(panel.by_name, Qt.MouseButton.LeftButton)
    assert (thing(panel).name, thing(panel).term) == ("spleen", None)
    assert not panel.by_name.isEnabled()


def test_what_nobody_knows_finds_nothing(panel):
    assert search(panel, "xyzzy") == []
    assert panel.found.isHidden()
    QTest.keyClick(panel.search, Qt.Key.Key_Return)
    assert thing(panel).term is None


@pytest.mark.parametrize("name", ["out.nii.gz", "out.seg.nrrd", "out.dcm"])
def test_a_picked_code_is_in_the_file(panel, tmp_path, name):
    """Whatever the object is called, a machine reads what it is."""
    if name.endswith(".dcm"):
        pytest.importorskip("highdicom")
        write_series(tmp_path / "ct", GRID)
    panel.segmenter.layers.rename(1, "lesion A", LEFT_KIDNEY)
    assert panel.segmenter.save(tmp_path / name)
    (segment,) = read_segmentation(tmp_path / name).segments
    assert (segment.name, segment.term) == ("lesion A", LEFT_KIDNEY)
    (kept,) = prompts_from_json((tmp_path / "out.prompts.json").read_bytes(), GRID)
    assert kept == thing(panel)


def test_naparis_own_save_writes_the_code_too(panel, tmp_path, npe2pm):
    panel.segmenter.layers.rename(1, "lesion A", LEFT_KIDNEY)
    from napari_medsam.widgets.contrib import write_slicer

    layer = panel.segmenter.layers.labels
    write_slicer(str(tmp_path / "out.seg.nrrd"), [layer.as_layer_data_tuple()])
    (segment,) = read_segmentation(tmp_path / "out.seg.nrrd").segments
    assert (segment.name, segment.term) == ("lesion A", LEFT_KIDNEY)


def test_the_command_line_repeats_it_with_the_code(panel, tmp_path, monkeypatch):
    """Prompts that were saved give the same segments again, in a loop over a hundred cases."""
    monkeypatch.setattr("napari_medsam.models.zoo.load_model", lambda name="default": BrightModel())
    write_series(tmp_path / "ct", GRID)
    panel.segmenter.layers.rename(1, "lesion A", LEFT_KIDNEY)
    panel.segmenter.save(tmp_path / "out.nii.gz")
    words = ["segment", tmp_path / "ct", "--prompts", tmp_path / "out.prompts.json", "--no-propagate"]
    words += ["-o", tmp_path / "again.seg.nrrd", "--window", "0:1"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    (segment,) = read_segmentation(tmp_path / "again.seg.nrrd").segments
    assert (segment.name, segment.term) == ("lesion A", LEFT_KIDNEY)
