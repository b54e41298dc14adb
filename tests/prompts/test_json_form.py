"""The prompts file: exact, bound to its grid, and refused in one sentence when it is damaged."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import napari_medsam
from napari_medsam.geometry import Geometry
from napari_medsam.prompts import (
    PROMPTS_SCHEMA_VERSION,
    ObjectPrompts,
    PromptError,
    SliceIndex,
    SlicePrompts,
    prompts_from_json,
    prompts_to_json,
)
from napari_medsam.terminology import find_terms

# A busy machine is no defect.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "prompts-json.md"
SCHEMA = json.loads(Path(napari_medsam.__file__).with_name("prompts.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
GEOMETRY = Geometry((26, 166, 164), (5.0, 0.79, 0.79), (-120.5, -98.0, 310.0))

TERMS = [*find_terms("", 1000), replace(find_terms("cyst")[0], region=find_terms("kidney")[0].type)]

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
        st.none() | st.sampled_from(TERMS),
    ),
    max_size=3,
    unique_by=lambda thing: thing.label,
)


def example_document() -> dict[str, Any]:
    """Parse the example that the reference page shows."""
    (text,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
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
    page = PAGE.read_text(encoding="utf-8")
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


CODE = "SCT:78961009:Spleen"
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
        _set("objects", 0, "anatomy", to="spleen"),
        _set("objects", 0, "anatomy", to={}),
        _set("objects", 0, "anatomy", to={"type": CODE}),
        _set("objects", 0, "anatomy", to={"category": CODE, "type": "SCT:78961009"}),
        _set("objects", 0, "anatomy", to={"category": CODE, "type": 78961009}),
        _set("objects", 0, "anatomy", to={"category": CODE, "type": CODE, "side": CODE}),
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
