"""The review leads to the slices that want a look, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from bright_model import BrightModel
from direct_runner import DirectRunner
from hand import needs_display
from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex
from napari_medsam.propagation import SliceMask
from napari_medsam.volume import Geometry, Volume
from napari_medsam.widgets import reviewing
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.planes import box_corners
from napari_medsam.widgets.review import ReviewPanel, colour_of
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.shared_model import SharedModel
from napari_medsam.windowing import Window

SHAPE = (10, 30, 40)
SCORES = {2: 0.9, 3: 0.5, 4: 0.8, 5: 0.6}


@pytest.fixture
def segmenter():
    """A bright block on slices 2 to 5, nothing asked yet."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[2:6, 10:20, 10:30] = 1
    data, attributes, _ = image_layer(Volume(voxels, Geometry(SHAPE), "MR", "", ()), "scan")
    viewer = ViewerModel()
    viewer.add_layer(Image(data, **attributes))
    viewer.dims.set_point(0, 2)
    model = SharedModel("bright")
    model.replace("bright", SlicePredictor(BrightModel()))
    made = Segmenter(viewer, DirectRunner(), model)
    made.layers.session.window = Window(0.0, 1.0, "all")
    return made


@pytest.fixture
def carried(segmenter):
    """The object on slices 2 to 5 as if it had been carried there, some slices well and others not."""
    mask = np.zeros(SHAPE[1:], bool)
    mask[10:20, 10:30] = True
    for index, score in SCORES.items():
        doubt = "its edge is faint" if score < 0.7 else ""
        part = SliceMask(SliceIndex(0, index), 1, mask, score, "propagated", doubt=doubt)
        segmenter.layers.put(part)
    end = SliceMask(SliceIndex(0, 6), 1, np.zeros_like(mask), 0.95, "no pixel was found", stopped=True)
    segmenter.layers.put(end)
    return segmenter


def where(segmenter):
    return segmenter.layers.where.index


def test_j_leads_from_the_weakest_slice_to_the_next(carried):
    """Slices 3 (0.5) and 5 (0.6) want a look, and from a good one, 4, the way leads to the weakest first."""
    carried.viewer.dims.set_point(0, 4)
    visited = []
    for step in (1, 1, 1, -1):
        carried.reviewing.walk(step)
        visited.append(where(carried))
    assert visited == [3, 5, 3, 5]


def test_an_accepted_slice_is_not_looked_at_again(carried):
    carried.reviewing.jump(3)
    carried.accept()
    carried.reviewing.walk(1)
    assert where(carried) == 5
    assert carried.reviewing.review.summary() == "1 of 4 slices wants a look"
    carried.accept()
    visited = []
    for _ in range(4):
        carried.reviewing.walk(1)
        visited.append(where(carried))
    assert visited == [4, 2, 6, 4]


def test_when_nothing_is_left_it_is_said(segmenter, monkeypatch):
    said = []
    monkeypatch.setattr(reviewing, "show_info", said.append)
    segmenter.reviewing.walk(1)
    assert said == [reviewing.NOTHING_LEFT]
    assert where(segmenter) == 2


def test_what_was_undone_leaves_the_review(carried):
    """A bar for a slice that shows nothing would send people to an empty slice."""
    labels = carried.layers.labels
    places = np.nonzero(carried.layers.session.labels[3])
    carried.viewer.dims.set_point(0, 3)
    labels.data_setitem((np.full(len(places[0]), 3), *places), 0)
    carried.layers.session.mark(1, SliceIndex(0, 3), None)
    assert [each.where.index for each in carried.reviewing.review.shown] == [2, 4, 5]


def test_redo_carries_the_object_anew_from_the_slice_on_screen(segmenter):
    segmenter.draw_box()
    segmenter.layers.box_layer().add_rectangles([box_corners(SliceIndex(0, 2), (8, 8, 22, 32), 3)])
    assert segmenter.layers.census.slices(1) == [2]
    segmenter.reviewing.redo()
    assert segmenter.layers.census.slices(1) == [2, 3, 4, 5]


@pytest.fixture
def panel(carried, qtbot):
    made = ReviewPanel(carried)
    qtbot.addWidget(made)
    made.resize(200, 200)
    made.show()
    made.refresh()
    qtbot.waitExposed(made)
    return made


@pytest.mark.canvas
@needs_display
def test_the_strip_tells_what_is_known_of_the_slice_on_screen(panel, carried):
    assert panel.summary.text() == "2 of 4 slices want a look."
    carried.reviewing.jump(3)
    panel.refresh()
    assert panel.text.text() == "Slice 3: estimated Dice 0.50, propagated; its edge is faint."
    carried.accept()
    panel.refresh()
    assert panel.text.text() == "Slice 3: accepted."
    carried.reviewing.jump(6)
    panel.refresh()
    assert panel.text.text() == "Slice 6: the object ends before it; no pixel was found."


@pytest.mark.canvas
@needs_display
def test_a_click_on_a_bar_goes_to_its_slice(panel, carried):
    """Five columns: slices 2 to 6."""
    strip = panel.strip
    QTest.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(round(strip.width() * 0.7), 20))
    assert where(carried) == 5
    QTest.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(0, 20))
    assert where(carried) == 2


@pytest.mark.canvas
@needs_display
def test_a_weak_slice_has_a_short_bar_of_another_colour(panel):
    strip = panel.strip
    picture = strip.grab().toImage()
    column = strip.width() / 5

    def height_of(index):
        x = round((index - 2 + 0.5) * column)
        wanted = colour_of(SCORES[index]).rgb()
        return sum(picture.pixelColor(x, y).rgb() == wanted for y in range(strip.height()))

    heights = {index: height_of(index) for index in SCORES}
    assert heights[3] < heights[5] < heights[4] < heights[2]
    assert heights[3] == pytest.approx(0.5 * (strip.height() - 7), abs=1.5)
    assert len({colour_of(score).rgb() for score in SCORES.values()}) == 4
