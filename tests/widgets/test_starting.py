"""A label layer as the starting point: what it holds goes on, in its place, with names and colours."""

from __future__ import annotations

import numpy as np
import pytest
from bright_model import BrightModel
from direct_runner import DirectRunner
from hand import needs_display
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QPushButton

from napari_medsam.export import Segmentation, read_segmentation
from napari_medsam.predictor import SlicePredictor
from napari_medsam.volume import Geometry, Volume
from napari_medsam.widgets.compare_panel import ComparePanel
from napari_medsam.widgets.contrib import image_layer, write_slicer
from napari_medsam.widgets.label_files import colours_of, layers_of, names_of
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.shared_model import SharedModel

pytestmark = [pytest.mark.canvas, needs_display]
SHAPE = (6, 20, 30)
GRID = Geometry(SHAPE, (3.0, 0.7, 0.8), (-20.5, 33.25, 801.125))
COLOURS = {1: (200, 10, 30), 4: (12, 34, 56)}


@pytest.fixture
def segmenter(qtbot):
    """A scan of nothing, on a grid of its own."""
    data, attributes, _ = image_layer(Volume(np.zeros(SHAPE, np.float32), GRID, "MR", "", ()), "scan")
    viewer = ViewerModel()
    viewer.add_layer(Image(data, **attributes))
    model = SharedModel("bright")
    model.replace("bright", SlicePredictor(BrightModel()))
    return Segmenter(viewer, DirectRunner(), model)


@pytest.fixture
def panel(segmenter, qtbot):
    made = ComparePanel(segmenter)
    qtbot.addWidget(made)
    made.show()
    return made


def blocks():
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:10, 3:9] = 1
    labels[2:5, 12:18, 20:28] = 4
    return labels


def add(segmenter, labels, geometry):
    named = Segmentation.from_labels(labels, geometry, names={1: "liver"}, colors=COLOURS)
    ((data, attributes, _),) = layers_of(named, "mask")
    return segmenter.viewer.add_layer(Labels(data, **attributes))


def adopt(panel, answer=None):
    """Choose the layer and click the button; answer the question that comes by clicking a button of it."""
    panel.refresh()
    panel.choice.setCurrentText("mask")
    (button,) = [each for each in panel.findChildren(QPushButton) if each.text() == "Edit this layer instead"]
    asked = []

    def reply():
        dialog = QApplication.activeModalWidget()
        asked.append(dialog.text())
        (chosen,) = [each for each in dialog.buttons() if each.text().replace("&", "") == answer]
        QTest.mouseClick(chosen, Qt.MouseButton.LeftButton)

    if answer:
        QTimer.singleShot(100, reply)
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    return asked


def test_names_and_colours_of_a_mask_are_gone_on_with(segmenter, panel, tmp_path):
    """The result of another program, opened, corrected and saved: its liver is the liver still."""
    layer = add(segmenter, blocks(), GRID)
    assert adopt(panel) == []
    layers = segmenter.layers
    assert layers.labels is layer
    assert [(label, layers.name(label)) for label in layers.session.objects] == [
        (1, "liver"),
        (4, "Object 4"),
    ]
    segmenter.new_object("spleen")
    layers.labels.data_setitem((np.array([0]), np.array([0]), np.array([0])), 5)
    assert names_of(layer.features) == {1: "liver", 5: "spleen"}
    assert layers.masks.palette.colours() == {**COLOURS, 5: colours_of(layer.colormap, [5])[5]}
    assert segmenter.save(tmp_path / "out.seg.nrrd")
    saved = read_segmentation(tmp_path / "out.seg.nrrd")
    assert [(each.label, each.name) for each in saved.segments] == [
        (1, "liver"),
        (4, "label 4"),
        (5, "spleen"),
    ]
    assert [each.color for each in saved.segments[:2]] == list(COLOURS.values())


def test_renaming_an_object_renames_it_in_the_layer(segmenter, panel):
    """napari's own File > Save reads the layer, not the panel."""
    layer = add(segmenter, blocks(), GRID)
    adopt(panel)
    segmenter.layers.rename(4, "kidney")
    assert names_of(layer.features) == {1: "liver", 4: "kidney"}
    segmenter.remove(1)
    assert names_of(layer.features) == {4: "kidney"}


def test_hidden_objects_keep_their_colours(segmenter, panel, tmp_path):
    """Out of sight, and yet what they are in the file."""
    add(segmenter, blocks(), GRID)
    adopt(panel)
    masks = segmenter.layers.masks
    masks.show(1, is_shown=False)
    layer = segmenter.layers.labels
    assert layer.get_color(1)[3] == 0
    assert layer.get_color(4)[3] == 1
    assert masks.palette.colours() == COLOURS
    write_slicer(str(tmp_path / "out.seg.nrrd"), [layer.as_layer_data_tuple()])
    saved = read_segmentation(tmp_path / "out.seg.nrrd")
    assert {each.label: each.color for each in saved.segments} == COLOURS
    masks.show(1, is_shown=True)
    assert colours_of(segmenter.layers.labels.colormap, [1, 4]) == COLOURS


def test_a_mask_of_a_part_is_put_in_its_place(segmenter, panel):
    """Voxel by voxel, and without a question: nothing is resampled."""
    start = (GRID.affine @ (2, 1, 1, 1))[:3]
    part = Geometry((4, 18, 27), GRID.spacing, tuple(start), GRID.direction)
    layer = add(segmenter, blocks()[1:5, 1:19, 2:29], part)
    assert adopt(panel) == []
    np.testing.assert_array_equal(segmenter.layers.session.labels, blocks())
    assert segmenter.layers.labels is not layer
    assert segmenter.layers.labels.name == "scan segmentation"
    assert segmenter.layers.masks.palette.colours() == COLOURS
    assert layer.data.shape == part.shape


def moved(segmenter):
    """The blocks, 10 mm further up."""
    x, y, z = GRID.origin
    return add(segmenter, blocks(), Geometry(SHAPE, GRID.spacing, (x, y, z + 10), GRID.direction))


def test_another_grid_is_refused_with_the_distance(segmenter, panel):
    """Somebody else's mask must not end up a centimetre beside the organ."""
    moved(segmenter)
    (question,) = adopt(panel, "Cancel")
    assert "10 mm" in question
    assert not segmenter.layers.session.labels.any()
    assert segmenter.layers.labels is None


@pytest.mark.parametrize(("answer", "rounds"), [("Resample (nearest)", round), ("Resample (linear)", None)])
def test_another_grid_is_resampled_when_the_way_is_chosen(segmenter, panel, answer, rounds):
    """10 mm are 3 and a third slices of 3 mm: the nearest one is 3 up."""
    moved(segmenter)
    assert len(adopt(panel, answer)) == 1
    found = segmenter.layers.session.labels
    expected = np.zeros_like(blocks())
    expected[3:] = blocks()[:3]
    np.testing.assert_array_equal(found, expected)
    assert segmenter.layers.census.labels == [1, 4]


def test_a_mask_beyond_the_image_is_told(segmenter, panel, monkeypatch):
    said = []
    monkeypatch.setattr("napari_medsam.widgets.messages.show_warning", said.append)
    far = Geometry(SHAPE, GRID.spacing, (1000.0, 0.0, 0.5), GRID.direction)
    add(segmenter, blocks(), far)
    assert len(adopt(panel, "Resample (nearest)")) == 1
    (sentence,) = said
    assert "wholly beyond the image" in sentence
    assert segmenter.layers.labels is None


def test_the_mouse_finds_names_and_no_complaints(segmenter, panel):
    """napari shows a label's name beside its number, and on the background nothing."""
    layer = add(segmenter, blocks(), GRID)
    adopt(panel)
    said = [layer.get_status(place, world=False)["value"] for place in ((2, 3, 4), (3, 14, 22), (0, 0, 0))]
    assert said == ["1; name: liver", "4", "0"]
