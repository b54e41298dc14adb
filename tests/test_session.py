"""If these fail, somebody's labels or prompts are lost or changed."""

import numpy as np
import pytest

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.predictor import Prediction
from napari_medsam.prompts import PromptError, SliceIndex, SlicePrompts
from napari_medsam.propagation import CLEARED, PROPAGATED, SliceMask, StopRules
from napari_medsam.session import ACCEPTED, CORRECTED, Session
from napari_medsam.windowing import Window

SHAPE = (9, 24, 30)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
BOX = SlicePrompts((4, 5, 15, 20))
ALWAYS = StopRules(min_dice=0)
"""The volume is noise: these tests are not about where an object ends."""


class BoxFiller:
    """A predictor whose mask is the box that was drawn last, on whichever slice it is asked."""

    supported_prompts = frozenset({"box"})

    def __init__(self):
        self.key, self.images, self.predicted = None, [], []

    def set_slice(self, image, key=None):
        self.images.append(image)
        self.key, self.shape = key, image.shape[:2]

    def predict(self, prompts, mask_input=None, multimask_output=False):
        self.drawn = [round(v) for v in prompts.box]
        return self.predict_many([prompts])[0]

    def predict_many(self, prompts, mask_inputs=None):
        self.predicted.append(self.key)
        y0, x0, y1, x1 = self.drawn
        mask = np.zeros(self.shape, bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
        return [Prediction(mask[None], np.float32([0.8]), np.where(mask, 9.0, -9.0)[None])] * len(prompts)


@pytest.fixture
def session():
    voxels = np.random.default_rng(0).uniform(0, 100, SHAPE).astype(np.float32)
    voxels.flags.writeable = False
    volume = Volume(voxels, Geometry(SHAPE, (3.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY), "MR", "", ())
    return Session(volume, BoxFiller(), window=Window(0.0, float(voxels.max()), "all"))


def box_mask(shape=SHAPE[1:]):
    mask = np.zeros(shape, bool)
    mask[4:16, 5:21] = True
    return mask


def test_computing_writes_nothing(session):
    session.add_prompts(1, SliceIndex(0, 4), BOX, "liver")
    part = session.segment(SliceIndex(0, 4), 1)
    list(session.propagate(0, 1, rules=ALWAYS))
    assert np.array_equal(part.mask, box_mask())
    assert (part.label, part.reason) == (1, "prompt")
    assert not session.labels.any()


def test_writing_replaces_the_object_and_keeps_its_neighbours(session):
    session.labels[4, 10, 10] = 2
    session.labels[4, 0, 0] = 1
    session.write(SliceMask(SliceIndex(0, 4), 1, box_mask(), 0.8, "prompt"))
    expected = np.where(box_mask(), 1, 0)
    expected[10, 10] = 2
    assert np.array_equal(session.labels[4], expected)
    assert not session.labels[[3, 5]].any()


def test_the_slice_where_an_object_was_found_to_end_is_left_alone(session):
    session.labels[4] = 1
    session.write(SliceMask(SliceIndex(0, 4), 1, np.zeros(SHAPE[1:], bool), 0.1, "gone", stopped=True))
    assert (session.labels[4] == 1).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_axis_can_be_segmented_along(session, axis):
    session.add_prompts(3, SliceIndex(axis, 2), SlicePrompts((1, 1, 6, 7)))
    for part in session.propagate(axis, 3, rules=ALWAYS):
        session.write(part)
    assert (np.moveaxis(session.labels, axis, 0)[:, 1:7, 1:8] == 3).all()
    assert (session.labels == 3).sum() == SHAPE[axis] * 6 * 7


def test_two_prompted_slices_share_the_slices_between_them(session):
    for index in (1, 6):
        session.add_prompts(1, SliceIndex(0, index), BOX)
    done = [p.where.index for p in session.propagate(0, 1, rules=ALWAYS)]
    assert sorted(done) == list(range(9))
    assert done[:2] == [1, 6]
    assert done.count(1) == done.count(6) == 1


def test_a_range_keeps_to_its_slices(session):
    session.add_prompts(1, SliceIndex(0, 4), BOX)
    assert sorted(p.where.index for p in session.propagate(0, 1, 3, 6)) == [3, 4, 5, 6]


@pytest.mark.parametrize(("first", "last"), [(-1, 4), (0, 9), (5, 3)])
def test_a_range_that_does_not_exist_is_refused(session, first, last):
    session.add_prompts(1, SliceIndex(0, 4), BOX)
    with pytest.raises(PromptError, match="0 to 8"):
        list(session.propagate(0, 1, first, last))


def test_prompts_can_be_changed_and_taken_away(session):
    where = SliceIndex(0, 4)
    session.add_prompts(1, where, BOX, "liver")
    session.add_prompts(1, where, SlicePrompts((0, 0, 3, 3)))
    assert session.objects[1].name == "liver"
    assert session.objects[1].slices[where].box == (0, 0, 3, 3)
    session.add_prompts(1, where, SlicePrompts())
    assert session.objects[1].slices == {}
    with pytest.raises(PromptError, match="Object 1 has no prompts on slice 4 of axis 0"):
        session.segment(where, 1)


def test_prompts_outside_the_volume_are_refused_and_leave_the_rest(session):
    session.add_prompts(1, SliceIndex(0, 4), BOX)
    with pytest.raises(PromptError, match="no slice 9"):
        session.add_prompts(1, SliceIndex(0, 9), BOX)
    assert list(session.objects[1].slices) == [SliceIndex(0, 4)]


def test_a_slice_is_encoded_once_for_all_objects_and_windowed(session):
    for label in (1, 2):
        session.add_prompts(label, SliceIndex(0, 4), BOX)
        session.segment(SliceIndex(0, 4), label)
    (image,) = session.predictor.images
    voxels = session.volume.array
    np.testing.assert_allclose(image, voxels[4] / voxels.max(), rtol=1e-5)


def test_an_existing_label_map_is_shared_not_copied(session):
    labels = np.zeros(SHAPE, np.uint16)
    other = Session(session.volume, BoxFiller(), labels=labels)
    other.write(SliceMask(SliceIndex(0, 4), 5, box_mask(), 0.8, "prompt"))
    assert (labels[4] == 5).sum() == box_mask().sum()


@pytest.mark.parametrize("labels", [np.zeros((1, 2, 3), np.uint16), np.zeros(SHAPE, np.uint8)])
def test_a_label_map_that_does_not_fit_is_refused(session, labels):
    with pytest.raises(PromptError, match=r"uint16 of shape \(9, 24, 30\)"):
        Session(session.volume, BoxFiller(), labels=labels)


def test_slices_are_encoded_ahead_from_the_one_looked_at_outwards_and_only_when_asked(session):
    seen = []

    def encode_ahead(images, goes_on):
        for done, image in enumerate(images, start=1):
            seen.append(image)
            yield done

    session.predictor.encode_ahead = encode_ahead
    work = session.encode_ahead(SliceIndex(0, 6))
    assert next(work) == SliceIndex(0, 6)
    np.testing.assert_array_equal(seen, [session.image(SliceIndex(0, 6))])
    assert [where.index for where in work] == [7, 5, 8, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(seen[1], session.image(SliceIndex(0, 7)))
    with pytest.raises(PromptError, match="no slice 9 along axis 0"):
        next(session.encode_ahead(SliceIndex(0, 9)))


# --- key slices, redo and review ---------------------------------------------------------------------------

HAND = np.zeros(SHAPE[1:], bool)
HAND[6:12, 8:16] = True


def carry(session, label=1, axis=0, rules=ALWAYS, **how):
    for part in session.propagate(axis, label, rules=rules, **how):
        session.write(part)


def correct(session, index, mask=HAND, label=1, kind=CORRECTED):
    """Paint on a slice, as a brush does, and mark it."""
    session.labels[index][session.labels[index] == label] = 0
    session.labels[index][mask] = label
    session.mark(label, SliceIndex(0, index), kind)


@pytest.fixture
def carried(session):
    session.add_prompts(1, SliceIndex(0, 4), BOX)
    carry(session)
    return session


@pytest.mark.parametrize("kind", [CORRECTED, ACCEPTED])
def test_a_slice_done_by_hand_is_not_written_on(carried, kind):
    correct(carried, 6, kind=kind)
    carry(carried)
    assert np.array_equal(carried.labels[6] == 1, HAND)


def test_a_prompted_slice_keeps_its_mask_while_others_are_carried(carried):
    """Another reading of a point, once chosen, would be lost if the prompts were answered anew."""
    chosen = SliceMask(SliceIndex(0, 4), 1, HAND, 0.6, "prompt")
    carried.write(chosen)
    carry(carried)
    assert np.array_equal(carried.labels[4] == 1, HAND)
    carried.write(SliceMask(SliceIndex(1, 8), 1, np.ones((9, 30), bool), 0.9, PROPAGATED))
    assert np.array_equal(carried.labels[4] == 1, HAND)
    assert (carried.labels[3, 8] == 1).all()


def test_changed_prompts_are_answered_anew(carried):
    carried.add_prompts(1, SliceIndex(0, 4), SlicePrompts((4, 5, 15, 18)))
    carry(carried)
    assert (carried.labels[4, 4:16, 5:19] == 1).all()
    assert not carried.labels[4, :, 19:].any()


def test_redo_reaches_to_the_neighbouring_key_slices_and_no_further(carried):
    for index in (1, 7):
        correct(carried, index, box_mask())
    before = carried.labels.copy()
    correct(carried, 2)
    redone = list(carried.recompute(SliceIndex(0, 2), 1, ALWAYS))
    assert sorted(part.where.index for part in redone) == [1, 2, 3, 4]
    for part in redone:
        carried.write(part)
    assert np.array_equal(carried.labels[2] == 1, HAND)
    assert np.array_equal(carried.labels[[0, 1, 4, 5, 6, 7, 8]], before[[0, 1, 4, 5, 6, 7, 8]])


def test_redo_without_neighbours_goes_to_both_ends(carried):
    assert sorted(part.where.index for part in carried.recompute(SliceIndex(0, 4), 1, ALWAYS)) == list(
        range(9)
    )


def test_an_object_that_ends_earlier_now_leaves_nothing_behind(carried):
    """The user erases the object on slice 6: slices 7 and 8 of the run before must not stay."""
    correct(carried, 6, np.zeros(SHAPE[1:], bool))
    parts = list(carried.recompute(SliceIndex(0, 6), 1, ALWAYS))
    assert sorted(part.where.index for part in parts if part.reason == CLEARED) == [7, 8]
    for part in parts:
        carried.write(part)
    assert (carried.labels == 1).any((1, 2)).tolist() == [True] * 6 + [False] * 3
    assert [report.where.index for report in carried.review(1, 0).shown] == [0, 1, 2, 3, 4, 5]


def test_what_was_there_before_the_session_is_not_cleared(session):
    session.labels[8, 0, 0] = 1
    session.add_prompts(1, SliceIndex(0, 4), BOX)
    carry(session, first=3, last=5)
    carry(session, rules=StopRules(min_dice=1.0))
    assert session.labels[8, 0, 0] == 1
    assert (session.labels == 1).any((1, 2)).tolist() == [False] * 4 + [True] + [False] * 3 + [True]


def test_several_objects_are_carried_with_one_pass_a_slice(session):
    for label, box in ((1, BOX), (2, SlicePrompts((4, 5, 15, 20)))):
        session.add_prompts(label, SliceIndex(0, 4), box)
    session.predictor.predicted.clear()
    parts = list(session.propagate(0, (1, 2), rules=ALWAYS))
    assert len(session.predictor.predicted) == 2 + 8
    assert sorted((part.label, part.where.index) for part in parts) == [
        (label, index) for label in (1, 2) for index in range(9)
    ]


def test_the_review_shows_every_slice_with_its_score_and_counts_what_wants_a_look(carried):
    review = carried.review(1, 0)
    assert [report.where.index for report in review.slices] == list(range(9))
    assert review.slices[4].dice == pytest.approx(2 * 0.8 / 1.8)
    weak = SliceMask(SliceIndex(0, 7), 1, HAND, 0.01, PROPAGATED, doubt="the edge is faint")
    carried.write(weak)
    weakest = carried.review(1, 0).weakest
    assert (weakest.where.index, weakest.doubt) == (7, "the edge is faint")
    assert SliceIndex(0, 7) in [report.where for report in carried.review(1, 0).worth_a_look()]
    correct(carried, 7)
    assert carried.review(1, 0).weakest.where.index != 7
    assert SliceIndex(0, 7) not in [report.where for report in carried.review(1, 0).worth_a_look()]


def test_a_slice_that_was_emptied_since_is_not_in_the_review(carried):
    carried.labels[2] = 0
    assert SliceIndex(0, 2) not in [report.where for report in carried.review(1, 0).slices]
