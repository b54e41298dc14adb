"""Automatic proposals: every object once, none twice, and the search can be watched and stopped."""

import numpy as np
import pytest
import torch

from napari_medsam.automatic import ProposalFilters, best_apart, grid, propose_masks, stability_score
from napari_medsam.predictor import PredictorError, SlicePredictor

SHAPE = (40, 60)


class Squares:
    """Answers a point with the square it lies in: well, blurred, and badly; else with nothing."""

    image_size = 64
    family = "grey"
    supported_prompts = frozenset({"point"})
    squares = ((2, 2, 11, 11), (20, 30, 35, 55))

    def encode_image(self, image):
        return image

    def decode(self, embedding, point_coords, point_labels, boxes, mask_input, multimask_output):
        masks = torch.full((len(point_coords), 3, *SHAPE), -5.0)
        scores = torch.tensor([[0.95, 0.9, 0.3]]).repeat(len(point_coords), 1)
        for i, (x, y) in enumerate(point_coords[:, 0].tolist()):
            for y0, x0, y1, x1 in self.squares:
                if y0 <= y <= y1 and x0 <= x <= x1:
                    masks[i, :, y0 : y1 + 1, x0 : x1 + 1] = 5.0
                    masks[i, 1, y0 : y1 + 1, x0 : x1 + 1] = 0.5
        return masks, scores


@pytest.fixture
def predictor():
    predictor = SlicePredictor(Squares())
    predictor.set_slice(np.zeros(SHAPE, np.float32))
    return predictor


def test_every_object_is_proposed_once(predictor):
    *_, last = propose_masks(predictor, SHAPE, points_per_side=12)
    assert sorted(proposal.box for proposal in last.found) == sorted(Squares.squares)
    for proposal in last.found:
        y0, x0, y1, x1 = (int(edge) for edge in proposal.box)
        assert proposal.mask.sum() == (y1 - y0 + 1) * (x1 - x0 + 1)
        assert proposal.mask[y0 : y1 + 1, x0 : x1 + 1].all()
        assert proposal.score == pytest.approx(0.95)
        assert proposal.stability == 1.0
        assert y0 <= proposal.point[0] <= y1


def test_progress_counts_points_and_found_ones_never_get_fewer_here(predictor):
    steps = list(propose_masks(predictor, SHAPE, points_per_side=5, points_per_batch=10))
    assert [(step.done, step.total) for step in steps] == [(10, 25), (20, 25), (25, 25)]
    assert [len(step.found) for step in steps] == sorted(len(step.found) for step in steps)


def test_the_size_of_batches_changes_nothing(predictor):
    boxes = []
    for size in (1, 7, 1000):
        *_, last = propose_masks(predictor, SHAPE, 6, size)
        boxes.append([proposal.box for proposal in last.found])
    assert boxes[0] == boxes[1] == boxes[2]


class Chain(Squares):
    """Three points, three boxes in a row, each alike the next: the second beats the first, the third both."""

    columns = ((0, 29), (5, 34), (10, 39))

    def decode(self, embedding, point_coords, point_labels, boxes, mask_input, multimask_output):
        masks = torch.full((len(point_coords), 3, 3, 60), -5.0)
        scores = torch.zeros(len(point_coords), 3)
        for i, y in enumerate(point_coords[:, 0, 1].tolist()):
            first, last = self.columns[int(y)]
            masks[i, 0, :, first : last + 1] = 5.0
            scores[i, 0] = (0.9, 0.93, 0.96)[int(y)]
        return masks, scores


@pytest.mark.parametrize("size", [1, 3, 9])
def test_what_lost_against_a_loser_is_proposed(size):
    """As in SAM's own code, whose filter runs once, over all points; else small batches lose objects."""
    predictor = SlicePredictor(Chain())
    predictor.set_slice(np.zeros((3, 60), np.float32))
    rules = ProposalFilters(max_overlap=0.6)
    *_, last = propose_masks(predictor, (3, 60), 3, size, rules)
    assert [proposal.box for proposal in last.found] == [(0, 10, 2, 39), (0, 0, 2, 29)]
    assert [int(proposal.mask.sum()) for proposal in last.found] == [90, 90]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (ProposalFilters(min_score=0.96), 0),
        (ProposalFilters(min_area_px=101), 1),
        (ProposalFilters(min_area_px=417), 0),
        (ProposalFilters(min_stability=0.0, max_overlap=1.0, min_score=0.91), 2),
    ],
)
def test_filters_keep_what_they_say(predictor, filters, count):
    *_, last = propose_masks(predictor, SHAPE, 3, filters=filters)
    assert len({proposal.box for proposal in last.found}) == count


def test_a_blurred_mask_is_not_stable():
    logits = np.array([[-3, -0.5, 0.5, 3]], np.float32)
    assert stability_score(logits, 1.0) == pytest.approx(1 / 3)
    assert stability_score(logits - 10, 1.0) == 0.0


def test_points_lie_in_the_middles_of_equal_parts():
    assert grid((4, 8), 2) == [(0.5, 1.5), (0.5, 5.5), (2.5, 1.5), (2.5, 5.5)]
    assert grid((3, 3), 1) == [(1.0, 1.0)]


def test_of_two_alike_the_better_stays(predictor):
    *_, last = propose_masks(predictor, SHAPE, 12, filters=ProposalFilters(min_stability=0, max_overlap=1.0))
    assert len(last.found) > 2
    scores = [proposal.score for proposal in best_apart(last.found, 0.7)]
    assert scores == pytest.approx([0.95, 0.95])


def test_a_grid_without_points_or_a_predictor_without_a_slice_is_refused(predictor):
    with pytest.raises(ValueError, match="has no point"):
        next(propose_masks(predictor, SHAPE, 0))
    with pytest.raises(PredictorError, match="set_slice"):
        next(propose_masks(SlicePredictor(Squares()), SHAPE))
