"""If these fail, a mask is carried to slices where there is no object, or stops without saying why."""

import numpy as np
import pytest

from napari_medsam.postprocess import count_parts
from napari_medsam.predictor import Prediction
from napari_medsam.prompts import SliceIndex
from napari_medsam.propagation import (
    BOTH_SIDES,
    BY_VOTE,
    CORRECTED,
    INTERPOLATED,
    PROMPT,
    PROPAGATED,
    SliceMask,
    StopRules,
    propagate,
    vote,
)
from napari_medsam.propagation.quality import MOST_DRIFT, estimated_dice

EMPTY = np.zeros((40, 40), bool)
SPACING = (3.0, 1.0, 1.0)


def disc(radius, center=(20, 20)):
    y, x = np.mgrid[:40, :40]
    return (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2


def picture(mask):
    """Bright where the mask is, with a little texture so that no histogram is one spike."""
    noise = np.random.default_rng(int(mask.sum())).uniform(-0.05, 0.05, mask.shape)
    return (np.where(mask, 0.7, 0.3) + noise).astype(np.float32)


class Stack:
    """Predicts what lies in the prompt's box of a stack of masks, and keeps what it was asked."""

    def __init__(self, masks, scores=None, images=None, supported=("box",)):
        self.masks = masks
        self.scores = scores or [0.9] * len(masks)
        self.images = images or [picture(mask) for mask in masks]
        self.supported_prompts = frozenset(supported)
        self.asked = []

    def image(self, where):
        return self.images[where.index]

    def predict_many(self, where, prompts, previous):
        self.asked.append((where.index, list(prompts), list(previous)))
        found = []
        for each in prompts:
            y0, x0, y1, x1 = (round(side) for side in each.clipped((40, 40)).box)
            mask = np.zeros((40, 40), bool)
            mask[y0 : y1 + 1, x0 : x1 + 1] = self.masks[where.index][y0 : y1 + 1, x0 : x1 + 1]
            score = np.float32([self.scores[where.index]])
            found.append(Prediction(mask[None], score, np.where(mask, 2.5, -2.5)[None]))
        return found

    def start(self, index, mask=None, label=7, score=0.9, reason=PROMPT):
        return SliceMask(
            SliceIndex(0, index), label, self.masks[index] if mask is None else mask, score, reason
        )


def carried(stack, starts, spacing=SPACING, rules=None, first=0, last=None):
    starts = [stack.start(s) if isinstance(s, int) else s for s in starts]
    last = len(stack.masks) - 1 if last is None else last
    return list(propagate(stack, starts, first, last, spacing, rules))


def kept(parts, label=7):
    return {p.where.index: p for p in parts if not p.stopped and p.label == label}


def sphere(n=21, radius=9):
    middle = n // 2
    inside = [radius**2 - (z - middle) ** 2 for z in range(n)]
    return [disc(np.sqrt(r)) if r > 4 else EMPTY for r in inside]


def test_a_sphere_is_carried_to_both_its_ends():
    stack = Stack(sphere())
    found = carried(stack, [10])
    masks = kept(found)
    shown = [z for z, mask in enumerate(stack.masks) if mask.any()]
    assert sorted(masks) == [z for z in shown if z != 10]
    assert all(np.array_equal(masks[z].mask, stack.masks[z]) for z in masks)
    assert {(p.label, p.reason) for p in masks.values()} == {(7, PROPAGATED)}
    assert sorted(p.where.index for p in found if p.stopped) == [shown[0] - 1, shown[-1] + 1]


def test_each_slice_is_prompted_with_the_box_of_the_mask_before_it():
    stack = Stack(sphere())
    carried(stack, [10], first=8, last=12)
    assert [index for index, _, _ in stack.asked] == [11, 12, 9, 8]
    radius = [9, int(np.sqrt(80)), 9, int(np.sqrt(80))]
    for (_, (prompts,), (previous,)), r in zip(stack.asked, radius, strict=True):
        # One pixel, 6 % of the side, and 0.2 mm for each of the 3 mm between slices.
        margin = 1 + 0.06 * 2 * r + 0.6
        np.testing.assert_allclose(prompts.box, (20 - r - margin,) * 2 + (20 + r + margin,) * 2)
        assert previous is None


@pytest.mark.parametrize(
    ("supported", "asks"), [(("box",), False), (("box", "mask"), True)], ids=["box only", "masks too"]
)
def test_a_model_that_takes_masks_is_shown_the_mask_before(supported, asks):
    """From the box alone a spinal cord grew by a tenth a slice, until nothing was left of its shape."""
    stack = Stack([disc(8)] * 3, supported=supported)
    carried(stack, [0], last=1)
    ((_, _, (previous,)),) = stack.asked
    assert (previous is not None) == asks
    assert previous is None or np.array_equal(previous, disc(8))


def test_the_range_is_never_left():
    found = carried(Stack([disc(8)] * 20), [5], first=3, last=9)
    assert sorted(p.where.index for p in found) == [3, 4, 6, 7, 8, 9]
    assert not any(p.stopped for p in found)


def test_a_tube_is_followed_to_the_end_of_the_volume():
    found = carried(Stack([disc(6)] * 40), [0], spacing=(1.0, 1.0, 1.0))
    assert sorted(kept(found)) == list(range(1, 40))


@pytest.mark.parametrize(
    ("before", "mask", "score", "sentence"),
    [
        (8, EMPTY, 0.9, "no more than 0 px of the object were found"),
        (8, disc(8), 0.0, "the estimated Dice of this slice alone fell to 0."),
        (4, disc(19), 0.9, "the area jumped from 49 to"),
        (8, disc(3), 0.9, "the area jumped from 197 to 29 px"),
    ],
    ids=["gone", "unsure", "leak", "collapse"],
)
def test_every_stop_says_why(before, mask, score, sentence):
    dull = np.full((40, 40), 0.5, np.float32)
    images = [picture(disc(before))] * 2 + [dull if score == 0 else picture(mask)]
    stack = Stack([disc(before)] * 2 + [mask], [0.9, 0.9, score], images)
    *_, last = carried(stack, [0], spacing=(12.0, 1.0, 1.0))
    assert last.stopped
    assert last.where.index == 2
    assert not last.mask.any()
    assert sentence in last.reason


def test_a_stop_for_want_of_quality_names_the_weakest_evidence():
    dull = np.full((40, 40), 0.5, np.float32)
    stack = Stack([disc(8)] * 3, images=[picture(disc(8)), picture(disc(8)), dull])
    clear, faint = (p.score for p in carried(stack, [0], rules=StopRules(min_dice=0)))
    *_, last = carried(stack, [0], rules=StopRules(min_dice=(clear + faint) / 2))
    assert (last.where.index, last.stopped) == (2, True)
    assert last.score == pytest.approx(1 - faint)
    assert last.reason.startswith(f"the estimated Dice of this slice alone fell to {faint:.2f}: ")
    assert any(words in last.reason for words in ("brightness inside", "surroundings", "edge is faint"))


def test_a_leak_into_something_darker_is_cut_off_at_the_edge():
    """The model's mask spills over, the picture shows where the object ends."""
    shown = [picture(disc(8))] * 2
    stack = Stack([disc(8), disc(8) | disc(6, (20, 27))], images=shown)
    part = kept(carried(stack, [0]))[1]
    # The leak reaches column 33, the object column 28.
    assert np.nonzero(part.mask)[1].max() <= 29
    assert part.mask[disc(7)].all()


def test_an_outline_moves_no_further_between_slices_than_an_object_can():
    stack = Stack([disc(4), np.ones((40, 40), bool)], images=[np.full((40, 40), 0.5, np.float32)] * 2)
    rules = StopRules(max_change=99, min_dice=0, min_agreement=0)
    part = kept(carried(stack, [0], spacing=(1.0, 1.0, 0.5), rules=rules))[1]
    y, x = np.nonzero(part.mask)
    # 1.5 mm for each mm between slices: two pixels of 1 mm, three of 0.5 mm.
    assert y.min() >= 14
    assert y.max() <= 26
    assert x.min() >= 13
    assert x.max() <= 27
    assert part.mask.sum() > disc(4).sum()


def test_nothing_is_carried_from_an_empty_mask():
    assert carried(Stack([EMPTY] * 3), [1]) == []


def test_the_score_falls_where_the_object_fades_and_says_so():
    images = [np.where(disc(8), 0.3 + 0.4 * k, 0.3).astype(np.float32) for k in (1, 0.95, 0.5)]
    stack = Stack([disc(8)] * 3, images=images)
    clear, faint = (p.score for p in carried(stack, [0], rules=StopRules(min_dice=0)))
    assert faint < clear - 0.1
    *_, last = carried(stack, [0], rules=StopRules(min_dice=0))
    assert last.doubt


def test_a_mask_that_changes_on_its_way_is_believed_less_than_one_that_stays():
    """Slice by slice nothing is wrong with it; but each step carries on the errors of those before."""
    steady = carried(Stack([disc(8)] * 7), [0])
    moving = carried(Stack([disc(8, (20, 20 + k)) for k in range(7)]), [0])
    assert [part.evidence.drift for part in steady] == [0] * 6
    drifts = [part.evidence.drift for part in moving]
    assert len(drifts) == 6
    assert drifts == sorted(drifts)
    assert 0 < drifts[0] < drifts[-1] <= MOST_DRIFT
    assert moving[-1].score < estimated_dice(moving[-1].evidence.here)
    assert moving[-1].score < steady[-1].score


def test_how_far_a_mask_has_come_does_not_end_an_object():
    stack = Stack([disc(8, (20, 12 + 2 * k)) for k in range(9)])
    *_, last = carried(stack, [0], rules=StopRules(min_dice=0))
    here = estimated_dice(last.evidence.here)
    assert last.score < here
    *_, again = carried(stack, [0], rules=StopRules(min_dice=(last.score + here) / 2))
    assert again.where == last.where
    assert not again.stopped


# --- several parts, several objects ------------------------------------------------------------------------

TWINS = disc(5, (10, 10)) | disc(5, (28, 28))


def test_an_object_of_two_regions_is_carried_with_a_box_for_each():
    """Both kidneys under one label: one box around the two would be mostly bowel."""
    stack = Stack([TWINS] * 4)
    found = kept(carried(stack, [0]))
    assert all(np.array_equal(found[z].mask, TWINS) for z in (1, 2, 3))
    assert [len(prompts) for _, prompts, _ in stack.asked] == [2, 2, 2]


def spots(*centers):
    return np.logical_or.reduce([disc(3, center) for center in centers])


def test_lesions_that_touch_none_of_the_slice_before_are_found():
    """Lesions come and go from slice to slice: followed one by one, only those of the key slice are found."""
    a, b, c, d, new, dark = (8, 8), (8, 20), (8, 32), (30, 8), (30, 30), (20, 20)
    masks = [spots(a, b, c, d), spots(a), spots(a, new, c, dark)]
    images = [picture(spots(a, b, c, d)), picture(spots(a)), picture(spots(a, new, c))]
    masks = kept(carried(Stack(masks, images=images), [0]))
    assert np.array_equal(masks[1].mask, spots(a))
    assert np.array_equal(masks[2].mask, spots(a, new, c))


def test_many_new_parts_at_once_do_not_end_an_object_that_goes_on_without_them():
    a, b, c, d = (8, 8), (8, 20), (8, 32), (30, 8)
    many = spots(a, b, c, d, (20, 8), (20, 20), (20, 32), (32, 20), (32, 32))
    found = kept(carried(Stack([spots(a, b, c, d), spots(a), many]), [0]))
    assert np.array_equal(found[2].mask, spots(a))


def test_many_small_lesions_are_no_crumbs():
    """Each is less than a fiftieth of all: none would be left on the next slice."""
    many = np.zeros((40, 40), bool)
    for y in range(2, 38, 5):
        many[y : y + 3, 2:37] = np.arange(35) % 5 < 3
    stack = Stack([many] * 3)
    assert count_parts(kept(carried(stack, [0]))[2].mask) == count_parts(many) == 56


def test_a_lesion_between_two_key_slices_without_it_is_kept():
    """Somebody corrects a slice, and what was found of the lesions around it is gone."""
    around, new = spots((8, 8), (8, 20), (8, 32), (30, 8)), spots((30, 30))
    stack = Stack([around, around | new, around | new, around | new, around])
    found = kept(carried(stack, [0, 4]))
    assert {part.reason for part in found.values()} == {BOTH_SIDES}
    assert all(np.array_equal(found[z].mask, around | new) for z in (1, 2, 3))


def test_an_object_of_two_parts_gets_no_parts_that_it_does_not_touch():
    """Its neighbours may be as bright as it is."""
    large, small = disc(8, (12, 12)), disc(3, (30, 12))
    stack = Stack([large | small, large | small | disc(3, (12, 30)) | disc(3, (30, 30))])
    assert np.array_equal(kept(carried(stack, [0]))[1].mask, large | small)


def test_a_branch_is_followed_from_where_it_leaves():
    forks = [disc(6), disc(5, (20, 15)) | disc(5, (20, 25)), disc(4, (20, 13)) | disc(4, (20, 27))]
    forks += [disc(4, (20, 10)) | disc(4, (20, 30))] * 2
    stack = Stack(forks)
    found = kept(carried(stack, [0]))
    assert sorted(found) == [1, 2, 3, 4]
    assert np.array_equal(found[4].mask, forks[4])


def two_objects():
    left, right = disc(6, (12, 12)), disc(6, (27, 27))
    return Stack([left | right] * 5), [(1, left), (2, right)]


def test_several_objects_are_asked_for_in_one_pass_and_get_what_each_gets_alone():
    stack, objects = two_objects()
    starts = [stack.start(2, mask, label) for label, mask in objects]
    together = carried(stack, starts)
    assert [len(prompts) for _, prompts, _ in stack.asked] == [2] * 4
    for start in starts:
        alone = kept(carried(stack, [start]), start.label)
        both = kept(together, start.label)
        assert sorted(alone) == sorted(both) == [0, 1, 3, 4]
        assert all(np.array_equal(alone[z].mask, both[z].mask) for z in alone)
        assert [alone[z].score for z in alone] == [both[z].score for z in alone]


def test_a_pixel_that_two_objects_want_goes_to_the_surer_one():
    both = disc(7, (20, 14)) | disc(7, (20, 26))
    stack = Stack([both] * 2, images=[picture(both)] * 2)
    surer, other = disc(7, (20, 14)), disc(9, (20, 26))
    starts = [stack.start(0, surer, 1, 1.0), stack.start(0, other, 2, 0.3)]
    found = carried(stack, starts)
    masks = {p.label: p for p in found}
    assert masks[1].score > masks[2].score
    assert not (masks[1].mask & masks[2].mask).any()
    alone = kept(carried(stack, [starts[0]]), 1)[1]
    assert np.array_equal(masks[1].mask, alone.mask)


def test_what_lies_within_another_object_keeps_its_pixels():
    """A lesion in a liver, both drawn: the liver is the surer of the two, and must not swallow the lesion."""
    images = [(np.where(disc(12), 0.5, 0.2) + np.where(disc(4), 0.4, 0)).astype(np.float32)] * 2
    stack = Stack([disc(12)] * 2, images=images)
    starts = [stack.start(0, disc(12), 1, 1.0), stack.start(0, disc(4), 2, 0.5)]
    masks = {p.label: p.mask for p in carried(stack, starts)}
    assert masks[2][disc(3)].all()
    assert not masks[1][masks[2]].any()


# --- between key slices ------------------------------------------------------------------------------------


def test_between_two_key_slices_both_sides_are_heard():
    stack = Stack([disc(8)] * 7)
    found = carried(stack, [1, 5])
    assert {p.where.index: p.reason for p in found} == {
        0: PROPAGATED,
        2: BOTH_SIDES,
        3: BOTH_SIDES,
        4: BOTH_SIDES,
        6: PROPAGATED,
    }
    assert all(np.array_equal(p.mask, disc(8)) for p in found)


def test_the_nearer_key_slice_counts_more():
    """The picture shows nothing: the masks come from the two sides alone."""
    small, large = disc(5), disc(9)
    flat = [np.full((40, 40), 0.5, np.float32)] * 9

    class Echo(Stack):
        def predict_many(self, where, prompts, previous):
            found = []
            for each in prompts:
                y0, _, y1, _ = each.box
                mask = disc((y1 - y0) / 2 / 1.06 - 1.1)
                found.append(Prediction(mask[None], np.float32([0.9]), np.where(mask, 2.5, -2.5)[None]))
            return found

    stack = Echo([small] * 9, images=flat)
    starts = [stack.start(0, small), stack.start(8, large)]
    found = kept(carried(stack, starts, spacing=(0.5, 1.0, 1.0), rules=StopRules(min_dice=0)))
    areas = [int(found[z].mask.sum()) for z in range(1, 8)]
    assert areas == sorted(areas)
    assert areas[0] < areas[3] < areas[6]
    assert "differ" in found[4].doubt


def test_two_close_key_slices_tell_the_shape_between_them_even_where_the_model_errs():
    """After two corrections three slices apart, what lies between them needs no third."""
    leaking = disc(7) | disc(6, (20, 29))
    flat = [np.full((40, 40), 0.5, np.float32)] * 4
    stack = Stack([disc(7), leaking, leaking, disc(7)], [0.3] * 4, flat)
    starts = [stack.start(z, disc(7), score=1.0, reason=CORRECTED) for z in (0, 3)]
    found = kept(carried(stack, starts, rules=StopRules(min_dice=0)))
    alone = kept(carried(stack, starts[:1], rules=StopRules(min_dice=0)))
    assert alone[1].mask[20, 29]
    assert not any(found[z].mask[20, 29] for z in (1, 2))
    assert all(found[z].score > alone[z].score for z in (1, 2))


def test_a_gap_that_the_model_cannot_cross_is_blended():
    masks = [disc(6)] * 2 + [EMPTY] * 3 + [disc(6)] * 2
    stack = Stack(masks, images=[picture(mask) for mask in masks])
    found = kept(carried(stack, [0, 6]))
    assert [found[z].reason for z in range(1, 6)] == [BOTH_SIDES, *[INTERPOLATED] * 3, BOTH_SIDES]
    assert all(np.array_equal(found[z].mask, disc(6)) for z in range(1, 6))
    assert max(found[z].score for z in (2, 3, 4)) < min(found[z].score for z in (1, 5))


def test_nothing_is_carried_past_a_key_slice_without_the_object():
    """Somebody erased the object on slice 4: it does not come back beyond."""
    stack = Stack([disc(8)] * 9)
    found = carried(stack, [1, stack.start(4, EMPTY, score=1.0, reason=CORRECTED)])
    assert sorted(kept(found)) == [0, 2, 3]
    both = carried(stack, [1, stack.start(4, EMPTY, score=1.0, reason=CORRECTED), 7])
    assert sorted(kept(both)) == [0, 2, 3, 5, 6, 8]


def test_key_slices_are_not_yielded():
    stack = Stack([disc(8)] * 9)
    assert not {1, 4, 7} & {p.where.index for p in carried(stack, [1, 4, 7])}


def test_any_axis_can_be_carried_along():
    stack = Stack([disc(8)] * 3)
    start = SliceMask(SliceIndex(2, 0), 7, disc(8), 0.9, PROMPT)
    found = list(propagate(stack, [start], 0, 2, (1.0, 1.0, 3.0)))
    assert [p.where for p in found] == [SliceIndex(2, 1), SliceIndex(2, 2)]


class Block:
    """A bright ball in a volume, which can be asked about on any axis."""

    supported_prompts = frozenset({"box"})

    def __init__(self):
        z, y, x = np.mgrid[:40, :40, :40]
        self.ball = (z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 <= 9**2
        self.stack = {}

    def on(self, where):
        masks = list(np.moveaxis(self.ball, where.axis, 0))
        return self.stack.setdefault(where.axis, Stack(masks))

    def image(self, where):
        return self.on(where).image(where)

    def predict_many(self, where, prompts, previous):
        return self.on(where).predict_many(where, prompts, previous)


def test_two_of_three_planes_take_back_what_one_of_them_made_up():
    block = Block()
    made_up = SliceMask(SliceIndex(0, 20), 7, block.ball[20] | disc(3, (4, 4)), 0.9, PROPAGATED)
    start = SliceMask(SliceIndex(0, 19), 7, block.ball[19], 0.9, PROMPT)
    rest = [p for p in propagate(block, [start], 0, 39, (1.0,) * 3) if p.where.index != 20]
    parts = {p.where.index: p for p in vote(block, [start, made_up, *rest], (40,) * 3, (1.0,) * 3)}
    assert np.array_equal(parts[20].mask, block.ball[20])
    assert (parts[20].reason, parts[19].reason) == (BY_VOTE, PROMPT)
    same = 2 * block.ball[20].sum() / (block.ball[20].sum() + made_up.mask.sum())
    assert parts[20].score == pytest.approx((0.9 + same) / 2)
    assert np.array_equal(parts[19].mask, block.ball[19])
