"""The picture of a model's worst answers: whoever chooses a model by it must see the worst, where it lies."""

from __future__ import annotations

import numpy as np
from accuracy import Case
from accuracy_failures import COLUMNS, FOUND, GAP_PX, PANEL_PX, TRUE, answers, sheet, worst
from bright_model import BrightModel

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.predictor import SlicePredictor

GEOMETRY = Geometry((3, 60, 80), (5.0, 1.0, 1.0))


def test_the_label_that_the_model_misses_comes_first_with_both_outlines():
    """Label 1 is bright and found; of label 2 only the bright half is."""
    labels = np.zeros((3, 60, 80), np.uint8)
    labels[:, 10:30, 10:30] = 1
    labels[:, 35:55, 40:60] = 2
    image = np.where(labels == 1, 1000.0, 0.0).astype(np.float32)
    image[:, 35:55, 50:60] = 1000
    case = Case(
        "a",
        Volume(image, GEOMETRY, "MR", "", ()),
        Volume(labels, GEOMETRY, "other", "", ()),
        {"labels": {"2": "half_bright"}},
    )
    shown = worst(list(answers(case, SlicePredictor(BrightModel()), 0)), 2)
    assert [answer.target.label for answer in shown] == [2, 1]
    assert shown[1].dice == 1.0
    assert 0.5 < shown[0].dice < 0.9
    pixels = np.asarray(shown[0].draw())[:PANEL_PX]
    true_at, found_at = (np.argwhere((pixels == colour).all(2)) for colour in (TRUE, FOUND))
    assert true_at[:, 1].max() < found_at[:, 1].max()
    assert true_at[:, 1].min() < PANEL_PX / 2 - 20 < found_at[:, 1].min()
    assert sheet(shown * COLUMNS).width == COLUMNS * (PANEL_PX + GAP_PX) + GAP_PX
