"""Prompts: slices, boxes and points, and the file in which they are kept."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jsonschema import Draft202012Validator
from numpy.typing import NDArray

import napari_medsam
from napari_medsam.geometry import Geometry
from napari_medsam.prompts import (
    PROMPTS_SCHEMA_VERSION,
    ObjectPrompts,
    PromptError,
    SliceIndex,
    SlicePrompts,
    box_from_mask,
    box_from_recist,
    point_from_mask,
    points_from_mask,
    prompts_from_json,
    prompts_to_json,
)

# A busy machine is no defect.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCHEMA = json.loads(Path(napari_medsam.__file__).with_name("prompts.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
GEOMETRY = Geometry((26, 166, 164), (5.0, 0.79, 0.79), (-120.5, -98.0, 310.0))

coordinates = st.floats(-1e6, 1e6)
points = st.tuples(coordinates, coordinates)
slice_prompts = st.builds(
    lambda box, marks: SlicePrompts(box, tuple(p for p, _ in marks), tuple(label for _, label in marks)),
    st.none() | st.tuples(coordinates, coordinates, coordinates, coordinates),
    st.lists(st.tuples(points, st.sampled_from([0, 1])), max_size=3),
)
slice_indices = st.builds(SliceIndex, st.integers(0, 2), st.integers(0, 2**31 - 1))
names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=200)
objects = st.lists(
    st.builds(
        ObjectPrompts,
        st.integers(1, 65535),
        names,
        st.dictionaries(slice_indices, slice_prompts, max_size=3),
    ),
    max_size=3,
    unique_by=lambda thing: thing.label,
)


# --- slices ---


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


# --- boxes and points ---


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


# --- prompts from masks ---


def test_box_goes_around_the_outermost_pixels() -> None:
    mask = np.zeros((10, 20), bool)
    mask[3, 5] = mask[6, 12] = True
    assert box_from_mask(mask) == (3, 5, 6, 12)
    assert box_from_mask(mask, 2) == (1, 3, 8, 14)
    assert box_from_mask(mask, 100) == (0, 0, 9, 19)
    assert box_from_mask(mask, -1) == (4, 6, 5, 11)
    assert box_from_mask(mask, -3) == (4.5, 8, 4.5, 9)
    assert box_from_mask(np.zeros((3, 4))) is None


@pytest.mark.parametrize("mask", [np.ones(3), np.ones((2, 3, 4)), np.full((2, 2), "x")])
def test_mask_that_is_no_slice_is_refused(mask: NDArray) -> None:
    for make in (box_from_mask, point_from_mask, lambda m: points_from_mask(m, 1, 0)):
        with pytest.raises(PromptError, match="two axes of numbers"):
            make(mask)


def test_margin_that_is_no_number_is_refused() -> None:
    with pytest.raises(PromptError, match="margin"):
        box_from_mask(np.ones((2, 2)), math.nan)


def test_innermost_point_lies_in_the_thick_part_not_at_the_centre_of_mass() -> None:
    mask = np.zeros((20, 40), bool)
    mask[9:10, :] = True
    mask[3:16, 2:15] = True
    assert point_from_mask(mask) == (9, 8)


def test_innermost_point_of_a_bar_is_its_middle() -> None:
    mask = np.zeros((9, 31), bool)
    mask[3:6, 2:29] = True
    assert point_from_mask(mask) == (4, 15)


def test_object_cut_by_the_border_is_marked_away_from_the_border() -> None:
    assert point_from_mask(np.ones((5, 7), bool)) == (2, 3)


@unhurried
@given(arrays(bool, (7, 9)))
def test_every_mask_gives_a_point_inside_it_or_none(mask: NDArray) -> None:
    found = point_from_mask(mask)
    if found is None:
        assert not mask.any()
    else:
        assert mask[int(found[0]), int(found[1])]


@unhurried
@given(arrays(bool, (7, 9)), st.integers(0, 80), st.integers(0, 5))
def test_random_points_are_different_pixels_of_the_mask_and_repeatable(
    mask: NDArray, n: int, seed: int
) -> None:
    found = points_from_mask(mask, n, seed)
    assert len(set(found)) == len(found) == min(n, np.count_nonzero(mask))
    assert all(mask[int(y), int(x)] for y, x in found)
    assert found == points_from_mask(mask, n, seed)


def test_another_seed_draws_other_points() -> None:
    mask = np.ones((50, 50), bool)
    assert points_from_mask(mask, 5, 0) != points_from_mask(mask, 5, 1)


def test_negative_number_of_points_is_refused() -> None:
    with pytest.raises(PromptError, match="number of points"):
        points_from_mask(np.ones((2, 2)), -1, 0)


def test_recist_line_becomes_the_box_around_its_ellipse() -> None:
    assert box_from_recist(10, 20, 10, 40, short_to_long=0.5) == (5, 20, 15, 40)
    assert box_from_recist(20, 10, 40, 10, short_to_long=0.5, margin_px=1) == (19, 4, 41, 16)
    assert box_from_recist(0, 0, 10, 10, short_to_long=1) == pytest.approx(
        (5 - 50**0.5, 5 - 50**0.5, 5 + 50**0.5, 5 + 50**0.5)
    )


def test_recist_line_on_flat_pixels_is_an_ellipse_in_the_patient() -> None:
    assert box_from_recist(10, 20, 10, 40, short_to_long=0.5, spacing=(2.0, 1.0)) == (7.5, 20, 12.5, 40)


@unhurried
@given(points, points, st.floats(0.01, 1))
def test_recist_box_holds_its_line_whichever_end_comes_first(
    a: tuple[float, float], b: tuple[float, float], ratio: float
) -> None:
    if math.dist(a, b) < 1e-3:
        return
    y0, x0, y1, x1 = box_from_recist(*a, *b, short_to_long=ratio)
    slack = 1e-6
    for y, x in (a, b):
        assert y0 - slack <= y <= y1 + slack
        assert x0 - slack <= x <= x1 + slack
    assert box_from_recist(*b, *a, short_to_long=ratio) == pytest.approx((y0, x0, y1, x1))


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ((1, 1, 1, 1), {}),
        ((1, 1, 1, math.nan), {}),
        ((1, 1, 1, 5), {"short_to_long": 0}),
        ((1, 1, 1, 5), {"short_to_long": 1.5}),
        ((1, 1, 1, 5), {"short_to_long": math.nan}),
        ((1, 1, 1, 5), {"spacing": (0, 1)}),
        ((1, 1, 1, 5), {"spacing": (1, math.nan)}),
        ((1, 1, 1, 5), {"margin_px": math.inf}),
    ],
)
def test_recist_line_without_a_size_is_refused(line: Any, options: Any) -> None:
    with pytest.raises(PromptError, match=r"^[A-Z].*\.$"):
        box_from_recist(*line, **options)


# --- the file ---


def example_document() -> dict[str, Any]:
    """Parse the example that the reference page shows."""
    page = Path(__file__).parent.parent / "docs" / "reference" / "prompts-json.md"
    (text,) = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    document: dict[str, Any] = json.loads(text)
    return document


@unhurried
@given(objects)
@example([])
@example([ObjectPrompts(1, "", {SliceIndex(0, 0): SlicePrompts()})])
def test_reading_gives_back_what_was_written_to_the_last_bit(things: list[ObjectPrompts]) -> None:
    text = prompts_to_json(things, None)
    VALIDATOR.validate(json.loads(text))
    assert prompts_from_json(text) == things
    assert prompts_from_json(text.encode()) == things
    assert prompts_to_json(prompts_from_json(text), None) == text


@unhurried
@given(
    st.tuples(*[st.integers(1, 600)] * 3),
    st.tuples(*[st.floats(1e-3, 50)] * 3),
    st.tuples(*[st.floats(-1e4, 1e4)] * 3),
    st.floats(0, 2 * math.pi),
)
def test_prompts_fit_the_grid_that_they_were_drawn_on(
    shape: Any, spacing: Any, origin: Any, angle: float
) -> None:
    c, s = math.cos(angle), math.sin(angle)
    geometry = Geometry(shape, spacing, origin, (c, -s, 0, s, c, 0, 0, 0, 1))
    things = [ObjectPrompts(2, "x", {SliceIndex(1, shape[1] - 1): SlicePrompts((1, 2, 3, 4))})]
    text = prompts_to_json(things, geometry)
    VALIDATOR.validate(json.loads(text))
    assert prompts_from_json(text, geometry) == things
    assert prompts_from_json(text) == things


def test_file_is_laid_out_as_the_reference_page_shows_it() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "prompts-json.md").read_text(
        encoding="utf-8"
    )
    thing = ObjectPrompts(
        1,
        "spleen",
        {
            SliceIndex(0, 18): SlicePrompts(None, ((70, 88), (52, 101)), (1, 0)),
            SliceIndex(0, 12): SlicePrompts((40, 61.5, 97, 120)),
        },
    )
    assert prompts_to_json([thing], GEOMETRY) in page


def test_schema_is_a_schema_and_of_the_version_that_is_written() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == PROMPTS_SCHEMA_VERSION
    VALIDATOR.validate(example_document())


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Geometry((27, 166, 164), GEOMETRY.spacing, GEOMETRY.origin), "27, 166, 164"),
        (Geometry(GEOMETRY.shape, (5.0, 0.79, 0.8), GEOMETRY.origin), "spacing"),
        (Geometry(GEOMETRY.shape, GEOMETRY.spacing, (-120.5, -98.0, 315.0)), "5 mm"),
        (
            Geometry(GEOMETRY.shape, GEOMETRY.spacing, GEOMETRY.origin, (-1, 0, 0, 0, -1, 0, 0, 0, 1)),
            "direction",
        ),
    ],
    ids=["shape", "spacing", "origin", "direction"],
)
def test_prompts_of_another_grid_are_refused_with_the_difference(other: Geometry, difference: str) -> None:
    """A box from another scan would silently segment the wrong place."""
    text = prompts_to_json([ObjectPrompts(1, "", {})], GEOMETRY)
    with pytest.raises(PromptError, match=f"another grid than this image's: .*{difference}"):
        prompts_from_json(text, other)


def test_prompts_without_a_geometry_fit_every_image_that_has_their_slices() -> None:
    things = [ObjectPrompts(1, "", {SliceIndex(0, 25): SlicePrompts()})]
    text = prompts_to_json(things, None)
    assert prompts_from_json(text, GEOMETRY) == things
    with pytest.raises(PromptError, match="no slice 25 along axis 0"):
        prompts_from_json(text, Geometry((25, 166, 164)))


def test_slice_outside_the_stored_grid_is_neither_written_nor_read() -> None:
    things = [ObjectPrompts(1, "", {SliceIndex(0, 26): SlicePrompts()})]
    with pytest.raises(PromptError, match="no slice 26 along axis 0"):
        prompts_to_json(things, GEOMETRY)
    document = example_document()
    document["objects"][0]["slices"][0]["index"] = 26
    with pytest.raises(PromptError, match="no slice 26 along axis 0"):
        prompts_from_json(json.dumps(document))


def test_two_objects_of_one_label_are_neither_written_nor_read() -> None:
    document = example_document()
    document["objects"].append({"label": 1, "slices": []})
    with pytest.raises(PromptError, match="Label 1 is given to two objects"):
        prompts_from_json(json.dumps(document))
    with pytest.raises(PromptError, match="Label 1 is given to two objects"):
        prompts_to_json([ObjectPrompts(1, "a"), ObjectPrompts(1, "b")], None)


def test_slice_given_twice_is_refused() -> None:
    document = example_document()
    document["objects"][0]["slices"].append({"axis": 0, "index": 12})
    with pytest.raises(PromptError, match=r"objects\[0\]\.slices\[2\] repeats slice 12 along axis 0"):
        prompts_from_json(json.dumps(document))


def test_newer_version_asks_for_an_update() -> None:
    document = {**example_document(), "version": 2, "new": 1}
    with pytest.raises(PromptError, match="version 2, and this napari-medsam reads version 1: update"):
        prompts_from_json(json.dumps(document))


def test_what_may_be_left_out_may_also_be_null() -> None:
    text = """{"format": "napari-medsam prompts", "version": 1, "geometry": null,
               "objects": [{"label": 1.0, "slices": [{"axis": 0, "index": 3, "box": null}]}]}"""
    VALIDATOR.validate(json.loads(text))
    assert prompts_from_json("\ufeff" + text) == [ObjectPrompts(1, "", {SliceIndex(0, 3): SlicePrompts()})]


def _set(*path: str | int, to: Any) -> Any:
    """Make a function that puts a value at a path of the example document."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


SLICE = ("objects", 0, "slices", 0)
POINT = ("objects", 0, "slices", 1, "points", 0)


@pytest.mark.parametrize(
    "change",
    [
        _set("format", to="napari"),
        _set("format", to=None),
        _set("version", to=True),
        _set("version", to="1"),
        _set("version", to=0),
        _set("extra", to=1),
        _set("objects", to={}),
        _set("objects", to=None),
        _set("objects", 0, to=[]),
        _set("objects", 0, to={}),
        _set("objects", 0, "label", to=0),
        _set("objects", 0, "label", to=65536),
        _set("objects", 0, "label", to=True),
        _set("objects", 0, "label", to=1.5),
        _set("objects", 0, "label", to="1"),
        _set("objects", 0, "name", to=3),
        _set("objects", 0, "name", to="a\nb"),
        _set("objects", 0, "name", to="x" * 201),
        _set("objects", 0, "colour", to="red"),
        _set("objects", 0, "slices", to={"0": {}}),
        _set(*SLICE, to=[0, 12]),
        _set(*SLICE, "axis", to=3),
        _set(*SLICE, "axis", to=-1),
        _set(*SLICE, "axis", to="z"),
        _set(*SLICE, "axis", to=False),
        _set(*SLICE, "index", to=-1),
        _set(*SLICE, "index", to=0.5),
        _set(*SLICE, "index", to=10**40),
        _set(*SLICE, "index", to=None),
        _set(*SLICE, "bbox", to=[1, 2, 3, 4]),
        _set(*SLICE, "box", to=[1, 2, 3]),
        _set(*SLICE, "box", to=[1, 2, 3, 4, 5]),
        _set(*SLICE, "box", to=[1, 2, 3, "4"]),
        _set(*SLICE, "box", to=[1, 2, 3, True]),
        _set(*SLICE, "box", to=[1, 2, 3, None]),
        _set(*SLICE, "box", to=[1, 2, 3, 1e7]),
        _set(*SLICE, "box", to=[1, 2, 3, 10**400]),
        _set(*SLICE, "box", to=[[1, 2], [3, 4]]),
        _set(*SLICE, "box", to={"y0": 1}),
        _set(*SLICE, "box", to="1234"),
        _set(*SLICE, "points", to=None),
        _set(*SLICE, "points", to=[[1, 2]]),
        _set(*POINT, "at", to=[1]),
        _set(*POINT, "at", to=[1, 2, 3]),
        _set(*POINT, "at", to="12"),
        _set(*POINT, "at", to=[1, -1e7]),
        _set(*POINT, "kind", to=1),
        _set(*POINT, "kind", to="Foreground"),
        _set(*POINT, "kind", to=["foreground"]),
        _set(*POINT, to={"at": [1, 2]}),
        _set(*POINT, to={"kind": "foreground"}),
        _set("geometry", to=[]),
        _set("geometry", to={}),
        _set("geometry", "shape", to=[26, 166]),
        _set("geometry", "shape", to=[26, 166, 0]),
        _set("geometry", "shape", to=[26, 166, 1.5]),
        _set("geometry", "shape", to=[26, 166, True]),
        _set("geometry", "shape", to="abc"),
        _set("geometry", "spacing_mm", to=[5, 0.79, 0]),
        _set("geometry", "spacing_mm", to=[5, 0.79, -1]),
        _set("geometry", "spacing_mm", to=[5, 0.79, "1"]),
        _set("geometry", "spacing_mm", to=5),
        _set("geometry", "origin_mm", to=[0, 0]),
        _set("geometry", "origin_mm", to=[0, 0, 1e300]),
        _set("geometry", "direction", to=[1, 0, 0]),
        _set("geometry", "direction", to=[7, 0, 0, 0, 1, 0, 0, 0, 1]),
        _set("geometry", "unit", to="mm"),
    ],
)
def test_damaged_document_is_refused_in_one_sentence_and_by_the_schema(change: Any) -> None:
    document = example_document()
    change(document)
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(PromptError, match=r"^[^\n]{10,400}\.$"):
        prompts_from_json(json.dumps(document))


@pytest.mark.parametrize(
    "path", [("geometry", "shape"), ("objects",), ("objects", 0, "label"), (*SLICE, "axis")]
)
def test_missing_field_is_named(path: tuple[str | int, ...]) -> None:
    document: Any = example_document()
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(PromptError, match=f'has no "{path[-1]}"'):
        prompts_from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1"),
        ('{\n"format": "napari-medsam prompts",\n}', "line 3, column 1"),
        ("[]", "not a prompts file"),
        ("null", "not a prompts file"),
        ("{}", "not a prompts file"),
        ('{"format": NaN}', "finite numbers, not NaN"),
        ('{"format": -Infinity}', "finite numbers, not -Infinity"),
        ('{"format": 1' + "0" * 5000 + "}", "thousands of digits"),
        ("[" * 200_000, "nested"),
        ('{"format": ' * 200_000, "nested"),
        ('{"a": 1, "a": 2}', "same key twice"),
        (b"\xff\xfe{\x00}\x00", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"),
    ],
)
def test_text_that_is_no_prompts_file_is_refused_with_the_reason(text: str | bytes, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        prompts_from_json(text)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 4000])
def test_number_beyond_every_float_is_refused(number: str) -> None:
    text = json.dumps(example_document()).replace("61.5", number)
    with pytest.raises(PromptError, match=r"objects\[0\]\.slices\[0\]: A box needs four numbers"):
        prompts_from_json(text)


@pytest.mark.parametrize(
    "direction",
    [[1, 0, 0, 0, 1, 0, 0, 0, 0], [0] * 9, [1, 0.5, 0, 0, 1, 0, 0, 0, 1]],
    ids=["flat", "zero", "sheared"],
)
def test_grid_that_no_image_can_have_is_refused(direction: list[float]) -> None:
    document = example_document()
    document["geometry"]["direction"] = direction
    with pytest.raises(PromptError, match=r"geometry: direction .* is not orthonormal"):
        prompts_from_json(json.dumps(document))


@unhurried
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists), st.data())
def test_any_value_anywhere_is_read_or_refused_but_never_a_crash(value: Any, data: st.DataObject) -> None:
    document = example_document()
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    text = json.dumps(document)
    message, things = "", None
    try:
        things = prompts_from_json(text)
    except PromptError as error:
        message = str(error)
    assert "\n" not in message
    if things is not None:
        assert VALIDATOR.is_valid(json.loads(text))
        assert prompts_from_json(prompts_to_json(things, None)) == things
