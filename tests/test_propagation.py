"""If these fail, a mask is carried to slices where there is no object, or stops without saying why."""

import numpy as np
import pytest

from napari_medsam.predictor import Prediction
from napari_medsam.prompts import SliceIndex
from napari_medsam.propagation import SliceMask, StopRules, carried_box, propagate


def disc(radius, center=(20, 20)):
    y, x = np.mgrid[:40, :40]
    return (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2


class Stack:
    """Predicts what a stack of masks holds, and keeps what it was asked."""

    def __init__(self, masks, scores=None):
        self.masks, self.scores = masks, scores or [0.9] * len(masks)
        self.asked = []

    def __call__(self, where, prompts, previous):
        self.asked.append((where, prompts, previous))
        mask = self.masks[where.index]
        return Prediction(mask[None], np.float32([self.scores[where.index]]), np.where(mask, 5.0, -5.0)[None])

    def start(self, index):
        return SliceMask(SliceIndex(0, index), 7, self.masks[index], 0.9, "prompt")


def sphere(n=21, radius=9):
    middle = n // 2
    inside = [radius**2 - (z - middle) ** 2 for z in range(n)]
    return [disc(np.sqrt(r)) if r >= 0 else np.zeros((40, 40), bool) for r in inside]


def test_a_sphere_is_carried_to_both_its_ends():
    stack = Stack(sphere())
    found = list(propagate(stack, stack.start(10), 0, 20))
    kept = {p.where.index: p for p in found if not p.stopped}
    assert sorted(kept) == [z for z in range(2, 19) if z != 10]
    assert all(np.array_equal(kept[z].mask, stack.masks[z]) and kept[z].label == 7 for z in kept)
    assert [p.where.index for p in found if p.stopped] == [19, 1]


def test_each_slice_is_prompted_with_the_mask_before_it_and_its_box():
    stack = Stack(sphere())
    list(propagate(stack, stack.start(10), 8, 12))
    assert [w.index for w, _, _ in stack.asked] == [11, 12, 9, 8]
    for (_, prompts, previous), before in zip(stack.asked, (10, 11, 10, 9), strict=True):
        assert np.array_equal(previous, stack.masks[before])
        assert prompts.box == carried_box(stack.masks[before])


def test_the_range_is_never_left():
    stack = Stack([disc(8)] * 20)
    found = list(propagate(stack, stack.start(5), 3, 9))
    assert sorted(p.where.index for p in found) == [3, 4, 6, 7, 8, 9]
    assert not any(p.stopped for p in found)


@pytest.mark.parametrize(
    ("mask", "score", "sentence"),
    [
        (np.zeros((40, 40), bool), 0.9, "no more than 0 px"),
        (disc(8), 0.1, "estimated quality fell to 0.10"),
        (disc(18), 0.9, "area jumped from 197 to 1009"),
        (disc(3), 0.9, "area jumped from 197 to 29"),
        (disc(8, (32, 32)), 0.9, "overlap with the previous slice is 0.0"),
    ],
)
def test_every_stop_says_why(mask, score, sentence):
    stack = Stack([disc(8), disc(8), mask, disc(8)], [0.9, 0.9, score, 0.9])
    *_, last = propagate(stack, stack.start(0), 0, 3)
    assert last.stopped
    assert last.where.index == 2
    assert not last.mask.any()
    assert sentence in last.reason


def test_nothing_is_carried_from_an_empty_mask():
    stack = Stack([np.zeros((40, 40), bool)] * 3)
    assert list(propagate(stack, stack.start(1), 0, 2)) == []


def test_rules_can_be_set():
    stack = Stack([disc(8)] * 3, [0.9, 0.1, 0.9])
    assert len(list(propagate(stack, stack.start(0), 0, 2, StopRules(min_score=0.05)))) == 2


def test_the_carried_box_leaves_room_on_every_side():
    mask = np.zeros((100, 100), bool)
    mask[20:71, 30:41] = True
    assert carried_box(mask) == (20 - 4, 30 - 1.6, 70 + 4, 40 + 1.6)


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty mask"):
        carried_box(np.zeros((4, 4), bool))
