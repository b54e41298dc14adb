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

    def __init__(self, masks, scores=None, images=None):
        self.masks, self.scores = masks, scores or [0.9] * len(masks)
        self.images = images or [np.full((40, 40), 0.5, np.float32)] * len(masks)
        self.asked = []

    def image(self, where):
        return self.images[where.index]

    def predict(self, where, prompts, previous):
        self.asked.append((where, prompts, previous))
        mask = self.masks[where.index]
        return Prediction(mask[None], np.float32([self.scores[where.index]]), np.where(mask, 5.0, -5.0)[None])

    def start(self, index):
        return SliceMask(SliceIndex(0, index), 7, self.masks[index], 0.9, "prompt")


def carried(stack, start, first, last, spacing=(1.0, 1.0, 1.0), rules=None):
    return list(propagate(stack, stack.start(start), first, last, spacing, rules))


def sphere(n=21, radius=9):
    middle = n // 2
    inside = [radius**2 - (z - middle) ** 2 for z in range(n)]
    return [disc(np.sqrt(r)) if r >= 0 else np.zeros((40, 40), bool) for r in inside]


def test_a_sphere_is_carried_to_both_its_ends():
    stack = Stack(sphere())
    found = carried(stack, 10, 0, 20, (3.0, 1.0, 1.0))
    kept = {p.where.index: p for p in found if not p.stopped}
    assert sorted(kept) == [z for z in range(2, 19) if z != 10]
    assert all(np.array_equal(kept[z].mask, stack.masks[z]) and kept[z].label == 7 for z in kept)
    assert [p.where.index for p in found if p.stopped] == [19, 1]


def test_each_slice_is_prompted_with_the_mask_before_it_and_its_box():
    stack = Stack(sphere())
    carried(stack, 10, 8, 12)
    assert [w.index for w, _, _ in stack.asked] == [11, 12, 9, 8]
    for (_, prompts, previous), before in zip(stack.asked, (10, 11, 10, 9), strict=True):
        assert np.array_equal(previous, stack.masks[before])
        assert prompts.box == carried_box(stack.masks[before])


def test_the_range_is_never_left():
    stack = Stack([disc(8)] * 20)
    found = carried(stack, 5, 3, 9)
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
    *_, last = carried(stack, 0, 0, 3, (12.0, 1.0, 1.0))
    assert last.stopped
    assert last.where.index == 2
    assert not last.mask.any()
    assert sentence in last.reason


def test_nothing_is_carried_from_an_empty_mask():
    stack = Stack([np.zeros((40, 40), bool)] * 3)
    assert carried(stack, 1, 0, 2) == []


def test_rules_can_be_set():
    stack = Stack([disc(8)] * 3, [0.9, 0.1, 0.9])
    assert len(carried(stack, 0, 0, 2, rules=StopRules(min_score=0.05))) == 2


def test_an_outline_moves_no_further_between_slices_than_an_object_can():
    stack = Stack([disc(4), disc(19)])
    (part,) = carried(stack, 0, 0, 1, (1.0, 1.0, 0.5), StopRules(max_change=99))
    y, x = np.nonzero(part.mask)
    # 1.5 mm for each mm between slices: two pixels of 1 mm, three of 0.5 mm.
    assert (y.min(), y.max()) == (14, 26)
    assert (x.min(), x.max()) == (13, 27)


def test_far_from_the_prompt_more_certainty_is_asked_for():
    stack = Stack([disc(5)] * 30, [0.55] * 30)
    found = carried(stack, 0, 0, 29)
    assert found[-1].stopped
    # 0.3 up to one radius (5.1 mm) away, 0.15 more at each further radius: 0.55 does up to 2.7 radii.
    assert found[-1].where.index == 14
    assert "asked for so far away" in found[-1].reason


def test_a_long_tube_is_followed_to_the_end_of_the_volume():
    found = carried(Stack([disc(5)] * 60, [0.72] * 60), 0, 0, 59)
    assert [p.where.index for p in found if not p.stopped] == list(range(1, 60))


def test_another_brightness_ends_the_object():
    images = [np.full((40, 40), v, np.float32) for v in (0.5, 0.52, 0.7)]
    found = carried(Stack([disc(8)] * 3, images=images), 0, 0, 2)
    assert [p.stopped for p in found] == [False, True]
    assert "brightness moved by 5.0 standard deviations" in found[-1].reason


def test_the_carried_box_leaves_room_on_every_side():
    mask = np.zeros((100, 100), bool)
    mask[20:71, 30:41] = True
    assert carried_box(mask) == (20 - 4, 30 - 1.6, 70 + 4, 40 + 1.6)


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty mask"):
        carried_box(np.zeros((4, 4), bool))
