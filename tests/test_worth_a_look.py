"""If these fail, people correct slices that bring little, and overlook those that would bring much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medsam.prompts import SliceIndex
from napari_medsam.propagation import ACCEPTED, CORRECTED, PROMPT, PROPAGATED, Review, SliceReport


def report(index, score, reason=PROPAGATED, stopped=False):
    return SliceReport(SliceIndex(0, index), 1, score, reason, stopped)


def order(review):
    return [each.where.index for each in review.worth_a_look()]


def pixels(counts):
    return {SliceIndex(0, index): count for index, count in enumerate(counts)}


def test_the_middle_of_a_doubtful_stretch_comes_before_its_weakest_end():
    scores = [0.9] * 8 + [0.5, 0.5, 0.45, 0.4, 0.35]
    review = Review(map(report, range(13), scores))
    assert order(review)[0] == 10
    assert review.weakest.where.index == 12


def test_a_large_slice_comes_before_a_small_one_that_is_as_doubtful():
    review = Review([report(n, 0.5) for n in range(0, 40, 10)], {SliceIndex(0, n): 10 + n for n in range(40)})
    assert order(review) == [30, 20, 10, 0]


def test_beside_a_slice_that_was_corrected_little_is_left_to_mend():
    scores = [0.5] * 12
    before = Review(map(report, range(12), scores))
    first = order(before)[0]
    after = Review(report(n, 0.5) if n != first else report(n, 1.0, CORRECTED) for n in range(12))
    assert first not in order(after)
    assert abs(order(before)[1] - first) >= 3


def test_whether_an_object_really_ends_is_as_worth_a_look_as_the_slice_before_is_large():
    review = Review(
        [report(0, 0.95), report(1, 0.95), report(2, 0.3, "it ended", stopped=True)], pixels([50, 50])
    )
    assert order(review)[0] == 2


def test_slices_without_any_doubt_are_all_named_still():
    assert sorted(order(Review(report(n, 1.0) for n in range(5)))) == list(range(5))
    assert Review([]).worth_a_look() == []
    assert Review([]).weakest is None


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1), st.sampled_from([PROMPT, PROPAGATED, CORRECTED, ACCEPTED]), st.integers(0, 5000)
        ),
        max_size=30,
    )
)
def test_every_slice_is_named_once_but_those_done_by_hand(known):
    reports = [report(n, score, reason) for n, (score, reason, _) in enumerate(known)]
    review = Review(reports, pixels([count for *_, count in known]))
    assert sorted(order(review)) == [r.where.index for r in reports if not r.is_by_hand]


def test_a_walk_begins_where_most_is_mended_even_if_only_the_neighbours_are_in_doubt():
    review = Review(
        report(n, score) for n, score in enumerate([0.9, 0.9, 0.9, 0.1, 0.75, 0.1, 0.9, 0.9, 0.9])
    )
    assert not review.slices[4].wants_look
    walked, here = [], SliceIndex(0, 0)
    for _ in range(4):
        here = review.next_worth(here).where
        walked.append(here.index)
    assert walked[0] == order(review)[0]
    assert set(walked[:3]) <= {3, 4, 5}
    assert walked[3] in walked[:3]


def test_a_thousand_slices_are_ordered_too():
    """Each one once, although only the first are chosen one after the other."""
    review = Review(report(n, 0.3 + 0.5 * (n % 7) / 7) for n in range(1000))
    assert sorted(order(review)) == list(range(1000))


def test_a_walk_goes_round_what_wants_a_look():
    review = Review(report(n, score) for n, score in enumerate([0.9, 0.2, 0.9, 0.9, 0.9, 0.9, 0.4, 0.9]))
    here, visited = SliceIndex(0, 4), []
    for step in (1, 1, 1, -1):
        here = review.next_worth(here, step).where
        visited.append(here.index)
    assert visited == [1, 6, 1, 6]


@pytest.mark.parametrize("n", [1, 2])
def test_few_slices_are_no_special_case(n):
    assert sorted(order(Review(report(k, 0.5) for k in range(n)))) == list(range(n))


@pytest.mark.parametrize("reason", [PROMPT, PROPAGATED])
def test_a_model_that_thinks_less_than_nothing_of_its_mask_is_not_believed_at_all(reason):
    """SAM estimates IoU by regression, and session files are read from -1 up."""
    review = Review([report(0, -1.0, reason), report(1, -0.2, reason)])
    assert [each.dice for each in review.slices] == [0, 0]
    assert review.summary() == "2 of 2 slices want a look"
