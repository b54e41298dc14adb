"""Prompts of the accuracy benchmark: a model must be measured on what somebody could have given."""

from __future__ import annotations

import numpy as np
from accuracy_prompts import (
    Target,
    clicks,
    corrected,
    looser_box,
    middle_line,
    scribble,
    scribbled_over,
    sloppy_box,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label as parts_of

from napari_medsam.prompts import BACKGROUND, FOREGROUND, SlicePrompts

MASKS = arrays(bool, st.tuples(st.integers(2, 40), st.integers(2, 40))).filter(np.any)


def target(mask, label=1, index=0, seed=2024) -> Target:
    return Target("case", label, index, np.asarray(mask, bool), seed)


def square() -> np.ndarray:
    """Rows 10 to 19, columns 20 to 29."""
    mask = np.zeros((40, 48), bool)
    mask[10:20, 20:30] = True
    return mask


def pixel(point) -> tuple[int, int]:
    return int(point[0]), int(point[1])


@given(MASKS, st.integers(0, 30), st.sampled_from([256, 1024]), st.integers(0, 2**32 - 1))
def test_looser_boxes_hold_the_object(mask, most, long_side, seed):
    y0, x0, y1, x1 = looser_box(target(mask, seed=seed), most, long_side).box
    ty0, tx0, ty1, tx1 = target(mask).box
    limit = round(most * max(mask.shape) / long_side)
    assert 0 <= ty0 - y0 <= limit
    assert 0 <= tx0 - x0 <= limit
    assert 0 <= y1 - ty1 <= limit
    assert 0 <= x1 - tx1 <= limit


def test_looser_boxes_are_those_of_the_one_box_protocol():
    """Scores can be compared with those of other programs only while the boxes are the same ones."""
    mask = np.zeros((512, 400), bool)
    mask[100:151, 200:301] = True
    drawn = np.random.default_rng([2024, 3853951596]).integers(0, 6, 4)
    assert drawn.tolist() == [4, 5, 2, 1]
    found = looser_box(Target("ct_spleen", 5, 12, mask, 2024), 5, 256)
    assert found.box == (100 - 10, 200 - 8, 150 + 2, 300 + 4)


@given(MASKS, st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 2**32 - 1))
def test_sloppy_boxes_are_off_by_no_more_than_their_share(mask, share, seed):
    y0, x0, y1, x1 = target(mask).box
    height, width = y1 - y0 + 1, x1 - x0 + 1
    off = np.abs(np.subtract(sloppy_box(target(mask, seed=seed), share).box, target(mask).box))
    # Where a box of one pixel is turned inside out, its sides change places.
    turned = np.array([y1 - y0, x1 - x0] * 2)
    assert (off <= share * np.array([height, width] * 2) + np.where(turned < 2, turned, 0) + 1e-9).all()


def test_sloppy_boxes_move_inwards_and_outwards():
    moves = [
        np.subtract(sloppy_box(target(square(), index=i), 0.3).box, target(square()).box) for i in range(50)
    ]
    assert np.min(moves) < -2
    assert np.max(moves) > 2


@given(MASKS, st.integers(1, 5))
def test_clicks_lie_in_the_object_and_are_different(mask, count):
    prompts = clicks(target(mask), count)
    places = {pixel(point) for point in prompts.points}
    assert len(places) == min(count, mask.sum())
    assert all(mask[place] for place in places)
    assert set(prompts.labels) == {FOREGROUND}


def test_the_first_click_is_in_the_middle_of_the_largest_part_and_the_next_ones_elsewhere():
    mask = np.zeros((40, 60), bool)
    mask[5:34, 5:8] = True  # The largest part is not the deepest.
    mask[15:22, 40:47] = True
    points = [pixel(point) for point in clicks(target(mask), 3).points]
    assert points[:2] == [(19, 6), (18, 43)]
    assert np.hypot(points[2][0] - 18, points[2][1] - 43) >= 2


@given(st.data(), MASKS)
def test_a_correction_is_one_click_into_an_error_and_says_what_is_right(data, truth):
    mask = data.draw(arrays(bool, truth.shape))
    before = SlicePrompts((0, 0, 1, 1))
    prompts = corrected(before, mask, target(truth))
    if (mask == truth).all():
        assert prompts == before
        return
    assert prompts.box == before.box
    (point,), (label,) = prompts.points, prompts.labels
    assert mask[pixel(point)] != truth[pixel(point)]
    assert label == (FOREGROUND if truth[pixel(point)] else BACKGROUND)
    eight = np.ones((3, 3))
    sizes = [np.bincount(parts_of(e, eight)[0].ravel())[1:] for e in (truth & ~mask, mask & ~truth)]
    missed, taken = (parts_of(e, eight)[0] for e in (truth & ~mask, mask & ~truth))
    mine = missed if truth[pixel(point)] else taken
    assert (mine == mine[pixel(point)]).sum() == max(np.concatenate(sizes))


def test_a_correction_goes_to_the_middle_of_what_was_taken_too_much():
    mask = square()
    mask[0:7, 0:7] = True
    prompts = corrected(SlicePrompts(), mask, target(square()))
    assert prompts == SlicePrompts(None, ((3, 3),), (BACKGROUND,))


def test_a_scribble_follows_the_middle_of_a_bent_object_from_near_one_end_to_near_the_other():
    y, x = np.mgrid[:60, :60]
    radius = np.hypot(y - 59, x - 30)
    arc = (radius > 16) & (radius < 26)
    line = middle_line(arc)
    away = np.abs(np.hypot(*(line - (59, 30)).T) - 21)
    assert away.max() < 2.5
    ends = np.array(sorted(line[[0, -1]].tolist(), key=lambda place: place[1]))
    np.testing.assert_allclose(ends, [(57, 9), (57, 51)], atol=4)
    assert len(scribble(target(arc)).points) == 8


@given(st.data(), MASKS)
def test_scribbles_lie_on_one_part_of_what_they_speak_of(data, truth):
    mask = data.draw(arrays(bool, truth.shape))
    eight = np.ones((3, 3))
    first = scribble(target(truth))
    assert set(first.labels) == {FOREGROUND}
    parts = parts_of(truth, eight)[0]
    assert len({parts[pixel(point)] for point in first.points} - {0}) == 1
    both = scribbled_over(first, mask, target(truth))
    if (mask == truth).all():
        assert both == first
        return
    added = both.points[len(first.points) :]
    assert both.points[: len(first.points)] == first.points
    (label,) = set(both.labels[len(first.points) :])
    assert 1 <= len(added) <= 8
    assert all((truth & ~mask if label == FOREGROUND else mask & ~truth)[pixel(point)] for point in added)


def test_the_same_seed_gives_the_same_prompts_and_another_one_others():
    def drawn(**change):
        one = target(square(), **change)
        return [looser_box(one, 20, 48), sloppy_box(one, 0.2), clicks(one, 3)]

    assert drawn() == drawn()
    for change in ({"seed": 1}, {"label": 2}, {"index": 1}):
        assert [a == b for a, b in zip(drawn(), drawn(**change), strict=True)] == [False, False, True]
