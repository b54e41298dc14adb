"""If these fail, an object that may be another one is called good on every slice, and nobody looks at it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medsam.predictor import Prediction
from napari_medsam.prompts import SliceIndex
from napari_medsam.propagation import (
    BOTH_SIDES,
    BY_VOTE,
    CORRECTED,
    INTERPOLATED,
    PROMPT,
    PROPAGATED,
    Review,
    SliceMask,
    SliceReport,
    propagate,
    vote,
)
from napari_medsam.propagation.quality import SECOND_TYPICAL

SHAPE = (40, 40)


def square(half):
    mask = np.zeros(SHAPE, bool)
    mask[20 - half : 21 + half, 20 - half : 21 + half] = True
    return mask


class Tube:
    """One mask on every slice, found from boxes; what clicks find is said for each slice."""

    def __init__(self, clicked, supported=("box", "point"), found=None):
        self.clicked, self.supported_prompts = clicked, frozenset(supported)
        self.found = square(6) if found is None else found
        self.clicks = {}

    def image(self, where):
        noise = np.random.default_rng(0).uniform(-0.05, 0.05, SHAPE)
        return (np.where(self.found, 0.7, 0.3) + noise).astype(np.float32)

    def predict_many(self, where, prompts, previous):
        found = []
        for each, mask_before in zip(prompts, previous, strict=True):
            if each.box is None:
                assert mask_before is None
                self.clicks.setdefault(where.index, []).append((each.points, each.labels))
            mask = self.found if each.box is not None else self.clicked[where.index]
            found.append(Prediction(mask[None], np.float32([0.9]), np.where(mask, 2.5, -2.5)[None]))
        return found


def carried(tube, *keys, last=12):
    starts = [SliceMask(SliceIndex(0, z), 1, tube.found, 0.9, PROMPT) for z in keys]
    return {p.where.index: p for p in propagate(tube, starts, 0, last, (1.0, 1.0, 1.0))}


def test_every_eighth_slice_through_the_key_slice_one_click_in_the_middle_is_asked():
    tube = Tube([square(6)] * 6 + [square(3)] + [square(6)] * 14)
    parts = carried(tube, 13, last=20)
    assert tube.clicks == {z: [(((20.0, 20.0),), (1,))] for z in (6, 14)}
    opinions = {z: part.second_opinion for z, part in parts.items()}
    assert opinions == {z: {6: 49 / 169, 14: 1.0}.get(z) for z in range(21) if z != 13}


def test_a_click_that_finds_nothing_is_an_opinion_too():
    assert carried(Tube([np.zeros(SHAPE, bool)] * 3), 0, last=2)[1].second_opinion == 0


def test_of_an_object_in_parts_the_largest_is_asked_about():
    """A click cannot find both kidneys of one label, and that is no reason for doubt."""
    large, both = square(6), square(6)
    both[30:34, 18:23] = True
    tube = Tube([large] * 3, found=both)
    assert carried(tube, 0, last=2)[1].mask[31, 20]
    assert carried(tube, 0, last=2)[1].second_opinion == 1


@pytest.mark.parametrize("supported", [("box",), ("box", "mask")])
def test_a_model_that_takes_no_points_is_not_asked(supported):
    tube = Tube([], supported)
    assert {part.second_opinion for part in carried(tube, 4).values()} == {None}
    assert not tube.clicks


def test_between_key_slices_nothing_is_asked_and_beyond_them_it_is():
    tube = Tube([square(6)] * 30)
    parts = carried(tube, 10, 20, last=29)
    assert {parts[z].reason for z in range(11, 20)} == {BOTH_SIDES}
    assert sorted(tube.clicks) == [3, 21, 29]


class Block:
    """A block in a cube, seen along any axis; remembers where it was clicked."""

    supported_prompts = frozenset({"box", "point"})

    def __init__(self):
        self.mask = np.zeros((24, 24, 24), bool)
        self.mask[6:18, 5:19, 7:17] = True
        self.noise = np.random.default_rng(0).uniform(-0.05, 0.05, self.mask.shape)
        self.clicked = []

    def image(self, where):
        return where.take(np.where(self.mask, 0.7, 0.3) + self.noise).astype(np.float32)

    def predict_many(self, where, prompts, previous):
        self.clicked += [where for each in prompts if each.box is None]
        mask = where.take(self.mask)
        answer = Prediction(mask[None], np.float32([0.9]), np.where(mask, 2.5, -2.5)[None])
        return [answer] * len(prompts)


def test_along_the_two_other_planes_nothing_is_asked():
    """What they find is a vote, and has no estimate of its own."""
    block = Block()
    start = SliceMask(SliceIndex(0, 8), 1, block.mask[8], 0.9, PROMPT)
    parts = [start, *propagate(block, [start], 0, 23, (1.0, 1.0, 1.0))]
    assert block.clicked == [SliceIndex(0, 9), SliceIndex(0, 17)]
    voted = list(vote(block, parts, block.mask.shape, (1.0, 1.0, 1.0)))
    assert {part.reason for part in voted if part.mask.any()} == {PROMPT, BY_VOTE}
    assert block.clicked == [SliceIndex(0, 9), SliceIndex(0, 17)]
    assert [part.where.index for part in voted if part.second_opinion is not None] == [9, 17]


def test_what_clicks_say_reaches_the_review():
    tube = Tube([square(2)] * 13)
    parts = carried(tube, 4)
    assert [z for z in parts if parts[z].second_opinion is not None] == [5]
    for report in Review(map(SliceReport.of, parts.values())).slices:
        opinion = (25 / 169 + 2 * 0.58) / 3
        odds = parts[report.where.index].score / (1 - parts[report.where.index].score)
        moved = odds * (opinion / (1 - opinion) / (0.58 / 0.42)) ** 1.5
        assert report.dice == pytest.approx(moved / (1 + moved))


def report(index, score=0.8, second=None, reason=PROPAGATED, stopped=False, doubt=""):
    return SliceReport(SliceIndex(0, index), 1, score, reason, stopped, doubt, second)


def test_an_object_that_clicks_do_not_find_wants_a_look_wherever_it_was_carried_from_one_side():
    kept = [report(0, 0.9, reason=PROMPT), report(4, 1.0, reason=CORRECTED), report(5, reason=BOTH_SIDES)]
    kept += [report(6, reason=INTERPOLATED), report(7, 0.9, reason="it ended", stopped=True)]
    moved = [report(1, second=0.1), report(2, doubt="the edge is faint"), report(3, second=0.2)]
    slices = {each.where.index: each for each in Review(kept + moved).slices}
    assert [each.where.index for each in slices.values() if each.wants_look] == [1, 2, 3]
    # 0.8 is 1.386 logits; (0.1 + 0.2 + 2 * 0.58) / 4 is 0.876 logits below 0.58, of which 1.5 count for each.
    assert [round(slices[z].dice, 3) for z in (1, 2, 3)] == [0.518] * 3
    assert [slices[each.where.index] for each in kept] == kept
    other = "one click into the object finds something else (IoU 0.15 on average)"
    assert [slices[z].doubt for z in (1, 2)] == [other, f"the edge is faint; {other}"]


def test_clicks_that_find_the_object_are_no_reason_for_doubt():
    found = Review([report(1, 0.6, 0.9), report(2, 0.6, doubt="the edge is faint")]).slices
    assert [each.doubt for each in found] == ["", "the edge is faint"]
    # 0.6 is 0.405 logits; (0.9 + 2 * 0.58) / 3 is 0.462 logits above 0.58, of which 1.5 count for each.
    assert [round(each.dice, 3) for each in found] == [0.75] * 2


def test_one_click_says_less_than_many_that_agree():
    estimates = [Review(report(n, 0.8, 0.2) for n in range(count)).slices[0].dice for count in (1, 2, 8, 64)]
    assert estimates == sorted(estimates, reverse=True)
    assert estimates[0] - estimates[-1] > 0.3


def test_which_slice_to_look_at_first_is_not_what_clicks_say():
    """They are about the object as a whole: the slice where most is mended stays the same."""
    scores = [0.9, 0.4, 0.85, 0.2, 0.6]
    without = Review(map(report, range(5), scores)).worth_a_look()
    for second in (0.0, 1.0):
        order = Review(report(n, s, second) for n, s in enumerate(scores)).worth_a_look()
        assert [each.where for each in order] == [each.where for each in without]


def test_without_second_opinions_estimates_stay_as_they_are():
    scores = [0.0, 0.3, 0.8, 1.0]
    assert [each.dice for each in Review(map(report, range(4), scores)).slices] == scores


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_better_opinions_never_lower_an_estimate_and_typical_ones_change_none(scores, low, high):
    low, high = sorted((low, high))

    def estimates(opinion):
        return [r.dice for r in Review(report(n, s, opinion) for n, s in enumerate(scores)).slices]

    assert all(0 <= a <= b <= 1 for a, b in zip(estimates(low), estimates(high), strict=True))
    np.testing.assert_allclose(estimates(SECOND_TYPICAL), scores, atol=1.1e-3)
