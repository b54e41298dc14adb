"""Slices, boxes and points: validated when they are built, so that nothing later has to ask."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_medsam.prompts import ObjectPrompts, PromptError, SliceIndex, SlicePrompts

# A busy machine is no defect.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
coordinates = st.floats(-1e6, 1e6)
points = st.tuples(coordinates, coordinates)
slice_prompts = st.builds(
    lambda box, marks: SlicePrompts(box, tuple(p for p, _ in marks), tuple(label for _, label in marks)),
    st.none() | st.tuples(coordinates, coordinates, coordinates, coordinates),
    st.lists(st.tuples(points, st.sampled_from([0, 1])), max_size=3),
)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slice_along_any_axis_keeps_the_other_two_in_array_order(axis: int) -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    taken = SliceIndex(axis, 1).take(array)
    np.testing.assert_array_equal(taken, np.take(array, 1, axis=axis))
    assert np.shares_memory(taken, array)


def test_colour_slice_keeps_its_channels() -> None:
    assert SliceIndex(1, 2).take(np.zeros((4, 5, 6, 3), np.uint8)).shape == (4, 6, 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_writing_a_mask_changes_its_pixels_and_nothing_else(axis: int) -> None:
    labels = np.full((2, 3, 4), 7, np.uint16)
    expected = labels.copy()
    where = SliceIndex(axis, 1)
    mask = np.zeros(where.take(labels).shape, bool)
    mask[0, 1] = True
    np.moveaxis(expected, axis, 0)[1, 0, 1] = 300
    where.put(labels, mask, 300)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("mask", "value"),
    [
        (np.ones((3, 3), bool), 1),
        (np.ones((3, 4), np.uint8), 1),
        (np.ones((3, 4), bool), 256),
        (np.ones((3, 4), bool), -1),
    ],
    ids=["other shape", "not boolean", "too large", "negative"],
)
def test_mask_or_label_that_does_not_fit_writes_nothing(mask: NDArray, value: int) -> None:
    labels = np.full((2, 3, 4), 7, np.uint8)
    with pytest.raises(PromptError, match=r"^[A-Z].*\.$"):
        SliceIndex(0, 0).put(labels, mask, value)
    assert (labels == 7).all()


@pytest.mark.parametrize(
    ("axis", "index"),
    [(-1, 0), (3, 0), (0, -1), (0, 1.5), (True, 0), (0, True), ("0", 0), (0, None), (0, math.nan)],
)
def test_slice_that_numpy_would_misread_is_refused(axis: Any, index: Any) -> None:
    """Index -1 would be the last slice: a propagation that runs off the volume must not wrap around."""
    with pytest.raises(PromptError, match="whole number"):
        SliceIndex(axis, index)


def test_numpy_integers_name_the_same_slice() -> None:
    where = SliceIndex(np.int64(1), np.uint16(5))  # type: ignore[arg-type]
    assert where == SliceIndex(1, 5)
    assert {where: "x"}[SliceIndex(1, 5)] == "x"
    assert type(where.index) is int


def test_slice_outside_the_image_is_refused_with_the_slices_there_are() -> None:
    assert SliceIndex(1, 2).checked((5, 3, 4)) == SliceIndex(1, 2)
    with pytest.raises(
        PromptError, match=r"no slice 3 along axis 1: the image has 3 slices there, 0 to 2\.$"
    ):
        SliceIndex(1, 3).checked((5, 3, 4))
    with pytest.raises(PromptError, match="no slice 3 along axis 1"):
        SliceIndex(1, 3).take(np.zeros((5, 3, 4)))
    with pytest.raises(PromptError, match="three axes"):
        SliceIndex(2, 0).take(np.zeros((5, 3)))


def test_neighbours_are_counted_along_the_same_axis() -> None:
    assert SliceIndex(2, 5).shifted(-5) == SliceIndex(2, 0)
    with pytest.raises(PromptError, match="index"):
        SliceIndex(2, 5).shifted(-6)


def test_box_drawn_from_any_corner_is_the_same_box() -> None:
    expected = SlicePrompts((1, 2, 5, 9))
    assert SlicePrompts((5, 9, 1, 2)) == SlicePrompts((1, 9, 5, 2)) == SlicePrompts((5, 2, 1, 9)) == expected
    assert SlicePrompts(np.array([5, 9, 1, 2])) == expected  # type: ignore[arg-type]
    assert expected.box == (1.0, 2.0, 5.0, 9.0)


@pytest.mark.parametrize(
    "box",
    [
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        (1, 2, 3, math.nan),
        (1, 2, 3, math.inf),
        (1, 2, 3, 1e7),
        (1, 2, 3, 10**400),
        (1, 2, 3, True),
        (1, 2, 3, "4"),
        (1, 2, 3, None),
        "1234",
        5,
        {},
    ],
)
def test_box_that_no_slice_can_hold_is_refused(box: Any) -> None:
    with pytest.raises(PromptError, match="A box needs four numbers"):
        SlicePrompts(box)


@pytest.mark.parametrize(
    ("marks", "labels"),
    [
        (((1, 2, 3),), (1,)),
        (((1, math.nan),), (1,)),
        ((1, 2), (1,)),
        (((1, 2),), ()),
        (((1, 2),), (1, 0)),
        (((1, 2),), (2,)),
        (((1, 2),), (-1,)),
        (((1, 2),), (True,)),
        (((1, 2),), ("1",)),
    ],
)
def test_points_that_do_not_fit_their_labels_are_refused(marks: Any, labels: Any) -> None:
    with pytest.raises(PromptError, match="point"):
        SlicePrompts(None, marks, labels)


def test_prompts_grow_without_changing_what_was_there() -> None:
    empty = SlicePrompts()
    boxed = empty.with_box((4, 4, 1, 1))
    marked = boxed.with_point((2.5, 3)).with_point((0, 0), 0)
    assert empty.is_empty
    assert not boxed.is_empty
    assert boxed == SlicePrompts((1, 1, 4, 4))
    assert marked == SlicePrompts((1, 1, 4, 4), ((2.5, 3), (0, 0)), (1, 0))
    assert not marked.with_box(None).is_empty


def test_prompts_drawn_past_the_edge_are_cut_at_the_outermost_pixels() -> None:
    """napari shows the first pixel from -0.5: a box drawn around the whole image must not be lost."""
    drawn = SlicePrompts((-0.5, -20, 9.5, 19.5), ((-0.4, 19.4), (9.5, 0), (-0.6, 5), (5, 20)), (1, 0, 1, 1))
    assert drawn.clipped((10, 20)) == SlicePrompts((0, 0, 9, 19), ((0, 19), (9, 0)), (1, 0))


@pytest.mark.parametrize("box", [(-9, 0, -1, 5), (0, -9, 5, -0.6), (10, 0, 12, 5), (0, 20, 5, 22)])
def test_box_beside_the_image_is_no_box(box: tuple[float, float, float, float]) -> None:
    assert SlicePrompts(box).clipped((10, 20)).is_empty


@unhurried
@given(slice_prompts, st.integers(1, 50), st.integers(1, 50))
def test_clipped_prompts_index_the_slice_and_clip_to_themselves(
    prompts: SlicePrompts, height: int, width: int
) -> None:
    clipped = prompts.clipped((height, width))
    slice_ = np.zeros((height, width))
    for y, x in (*clipped.points, *((clipped.box[:2], clipped.box[2:]) if clipped.box else ())):
        assert slice_[round(y), round(x)] == 0
    assert clipped.clipped((height, width)) == clipped


@pytest.mark.parametrize(
    ("label", "name", "message"),
    [
        (0, "", "label"),
        (65536, "", "label"),
        (1.5, "", "label"),
        (True, "", "label"),
        (1, "x" * 201, "200 characters"),
        (1, None, "text"),
        (1, "two\nlines", "control characters"),
        (1, "\x1b[31mred", "control characters"),
        (1, "\ud800", "control characters"),
    ],
)
def test_object_that_no_file_could_name_is_refused(label: Any, name: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ObjectPrompts(label, name)


def test_object_prompts_travel_to_other_processes_and_are_not_shared() -> None:
    slices = {SliceIndex(0, 1): SlicePrompts((1, 2, 3, 4))}
    thing = ObjectPrompts(3, "Leber – links", slices)
    slices.clear()
    assert pickle.loads(pickle.dumps(thing)) == thing == copy.deepcopy(thing)  # noqa: S301
    assert len(thing.slices) == 1
