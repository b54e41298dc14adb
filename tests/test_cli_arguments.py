"""The little language of ``--box``, ``--point`` and their labels."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medsam.cli.arguments import (
    ArgumentError,
    build_objects,
    parse_axis,
    parse_box,
    parse_point,
    parse_range,
)
from napari_medsam.prompts import LARGEST_LABEL, SliceIndex
from napari_medsam.volume import Geometry

GRID = Geometry((50, 60, 70))
numbers = st.floats(-1e4, 1e4, allow_nan=False).map(lambda value: round(value, 3))
indices = st.integers(0, 999)
owners = (
    st.none()
    | st.integers(1, LARGEST_LABEL).map(str)
    | st.sampled_from(["liver", "left kidney", "Milz", "a@b"])
)


def written(owner: str | None, *values: object) -> str:
    return ("" if owner is None else f"{owner}@") + ",".join(str(value) for value in values)


@given(owner=owners, index=indices, corners=st.tuples(numbers, numbers, numbers, numbers))
def test_any_box_is_read_as_it_was_written(
    owner: str | None, index: int, corners: tuple[float, float, float, float]
) -> None:
    """No number, sign or name on the way from the command line to the box gets lost or swapped."""
    box = parse_box(written(owner, index, *corners))
    assert (box.owner, box.index, box.numbers, box.is_box) == (owner, index, corners, True)


@given(owner=owners, index=indices, place=st.tuples(numbers, numbers), sign=st.sampled_from(["", ",+", ",-"]))
def test_any_point_is_read_as_it_was_written(
    owner: str | None, index: int, place: tuple[float, float], sign: str
) -> None:
    """A negative coordinate is not taken for a negative point, nor the other way round."""
    point = parse_point(written(owner, index, *place) + sign)
    assert (point.owner, point.index, point.numbers, point.is_box) == (owner, index, place, False)
    assert point.positive is (sign != ",-")


@given(text=st.text(max_size=30))
def test_no_text_breaks_the_parsers(text: str) -> None:
    """Whatever is typed is understood, or refused with the error for bad input: no traceback."""
    for parse in (parse_box, parse_point, lambda t: parse_axis(t, GRID), lambda t: parse_range(t, 50)):
        with suppress(ArgumentError):
            parse(text)


@given(first=st.integers(0, 49), more=st.integers(0, 49))
def test_ranges_are_inclusive_and_either_end_may_be_left_out(first: int, more: int) -> None:
    """The slices a user names are the slices that are segmented."""
    last = min(first + more, 49)
    assert parse_range(f"{first}:{last}", 50) == (first, last)
    assert parse_range(f"{first}:", 50) == (first, 49)
    assert parse_range(f":{last}", 50) == (0, last)
    assert parse_range(None, 50) == (0, 49)


def test_planes_follow_the_direction_of_the_image() -> None:
    """On a sagittally acquired scan "axial" is not array axis 0."""
    sagittal = Geometry(
        (20, 256, 256), (4.0, 1.0, 1.0), direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    )
    assert [parse_axis(plane, sagittal) for plane in ("sagittal", "axial", "coronal")] == [0, 1, 2]
    assert [parse_axis(plane, GRID) for plane in ("axial", "Coronal", " sagittal ")] == [0, 1, 2]


def labels_of(boxes: list[str], points: list[str] = [], labels: list[str] = []) -> dict[int, str]:  # noqa: B006
    return {thing.label: thing.name for thing in build_objects(boxes, points, labels, 0, GRID)}


BOX = "5,10,10,20,20"


def test_boxes_without_a_label_count_from_one() -> None:
    """The simple form stays simple: first box, label 1."""
    assert labels_of([BOX, BOX, BOX]) == {1: "", 2: "", 3: ""}
    assert labels_of([BOX, BOX], labels=["2=spleen"]) == {1: "", 2: "spleen"}


def test_new_names_take_the_numbers_that_are_free() -> None:
    """A name never ends up on a number that another box or --label uses."""
    assert labels_of([f"liver@{BOX}", f"2@{BOX}", f"spleen@{BOX}"]) == {1: "liver", 2: "", 3: "spleen"}
    assert labels_of([f"liver@{BOX}", f"aorta@{BOX}"], labels=["1=aorta"]) == {1: "aorta", 2: "liver"}


def test_points_without_a_label_go_to_the_only_one() -> None:
    """A correcting click on a single object needs no label, with several it has to say which."""
    assert labels_of([f"4@{BOX}"], ["5,15,15,-"]) == {4: ""}
    assert labels_of([], ["5,15,15", "6,15,15"]) == {1: ""}
    assert labels_of([BOX, BOX], ["2@5,15,15,-"]) == {1: "", 2: ""}
    with pytest.raises(ArgumentError, match=r"labels \[1, 2\]"):
        labels_of([BOX, BOX], ["5,15,15,-"])


def test_box_and_points_of_one_slice_become_one_prompt() -> None:
    """The model sees the box together with the clicks that correct it, in the order typed."""
    [thing] = build_objects([BOX], ["5,11,12,-", "5,13,14", "7,1,2"], [], 1, GRID)
    together = thing.slices[SliceIndex(1, 5)]
    assert together.box == (10, 10, 20, 20)
    assert together.points == ((11, 12), (13, 14))
    assert together.labels == (0, 1)
    assert thing.slices[SliceIndex(1, 7)].box is None


def test_slice_numbers_may_be_left_out_only_where_there_is_one_slice() -> None:
    """On a volume, a forgotten slice number is an error and not slice 0."""
    flat = Geometry((1, 60, 70))
    [thing] = build_objects(["10,10,20,20"], ["15,15,-"], [], 0, flat)
    assert list(thing.slices) == [SliceIndex(0, 0)]
    with pytest.raises(ArgumentError, match="was not understood"):
        build_objects(["10,10,20,20"], [], [], 0, GRID)
