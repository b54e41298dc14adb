"""The JSON form of prompts, described by ``prompts.schema.json`` and by ``docs/reference/prompts-json.md``.

Reading checks by hand what the schema says, because a schema's own errors are no help to a radiologist, and
what it cannot say: that labels and slices occur once, and that the prompts belong to the image at hand.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

from napari_medsam.geometry import Geometry, GeometryError
from napari_medsam.prompts.json_text import check_version, fields, laid_out, listed, parsed
from napari_medsam.prompts.values import (
    BACKGROUND,
    FOREGROUND,
    ObjectPrompts,
    PromptError,
    SliceIndex,
    SlicePrompts,
    finite_numbers,
    whole_number,
)
from napari_medsam.terminology import Code, Term

PROMPTS_SCHEMA_VERSION = 1
_FORMAT = "napari-medsam prompts"
_KINDS = {"foreground": FOREGROUND, "background": BACKGROUND}
_KIND_NAMES = {label: kind for kind, label in _KINDS.items()}
# A thousand kilometres: what a grid may be like is for `Geometry` to say, as long as its arithmetic cannot
# overflow.
_LARGEST_MM = 1e9


def prompts_to_json(objects: Sequence[ObjectPrompts], geometry: Geometry | None) -> str:
    """Write prompts as text that a person can read, diff and edit.

    Parameters
    ----------
    objects : sequence of ObjectPrompts
        In the order in which they are to be read again. Slices are written in order of axis and index.
    geometry : Geometry or None
        The grid that the prompts were drawn on, by which reading can refuse them on another one.

    Returns
    -------
    str
        JSON with a final line break; `prompts_from_json` gives back equal objects, to the last bit.

    Raises
    ------
    PromptError
        When two objects have one label, or a slice lies outside the geometry.
    """
    _check_objects(objects, None if geometry is None else geometry.shape)
    document: dict[str, Any] = {"format": _FORMAT, "version": PROMPTS_SCHEMA_VERSION}
    if geometry is not None:
        document["geometry"] = geometry_to_json(geometry)
    document["objects"] = [object_to_json(thing) for thing in objects]
    return laid_out(document, 0) + "\n"


def prompts_from_json(text: str | bytes, geometry: Geometry | None = None) -> list[ObjectPrompts]:
    """Read prompts that `prompts_to_json`, or a person, has written.

    Parameters
    ----------
    text : str or bytes
        The whole document; bytes are read as UTF-8.
    geometry : Geometry, optional
        The grid of the image that the prompts are to be used on. A document without a geometry fits any
        image that has its slices.

    Returns
    -------
    list of ObjectPrompts
        In the document's order.

    Raises
    ------
    PromptError
        When the text is not such a document, or was drawn on another grid: one sentence that says where and
        why.
    """
    document = _document(text)
    grid = geometry
    if document.get("geometry") is not None:
        grid = geometry_from_json(document["geometry"])
        difference = geometry.difference(grid) if geometry is not None else ""
        if difference:
            raise PromptError(f"These prompts were drawn on another grid than this image's: {difference}")
    objects = [
        object_from_json(entry, f"objects[{i}]")
        for i, entry in enumerate(listed(document["objects"], "objects"))
    ]
    _check_objects(objects, None if grid is None else grid.shape)
    return objects


def object_to_json(thing: ObjectPrompts) -> dict[str, Any]:
    """Say an object as JSON values, slices in order of axis and index."""
    return {
        "label": thing.label,
        "name": thing.name,
        **({} if thing.term is None else {"anatomy": thing.term.codes()}),
        "slices": [_slice_to_json(where, thing.slices[where]) for where in sorted(thing.slices)],
    }


def geometry_to_json(geometry: Geometry) -> dict[str, Any]:
    """Say a grid as JSON values."""
    return {
        "shape": [int(n) for n in geometry.shape],
        "spacing_mm": [float(mm) for mm in geometry.spacing],
        "origin_mm": [float(mm) for mm in geometry.origin],
        "direction": [float(cosine) for cosine in geometry.direction],
    }


def _slice_to_json(where: SliceIndex, prompts: SlicePrompts) -> dict[str, Any]:
    entry: dict[str, Any] = {"axis": where.axis, "index": where.index}
    if prompts.box is not None:
        entry["box"] = list(prompts.box)
    if prompts.points:
        entry["points"] = [
            {"at": list(point), "kind": _KIND_NAMES[label]}
            for point, label in zip(prompts.points, prompts.labels, strict=True)
        ]
    return entry


def _document(text: str | bytes) -> dict[str, Any]:
    document = parsed(text, "A prompts file")
    if document.get("format") != _FORMAT:
        raise PromptError(f'This is not a prompts file: it must be a JSON object with "format": "{_FORMAT}".')
    check_version(document, PROMPTS_SCHEMA_VERSION, "prompts file")
    return fields(document, "The document", {"format", "version", "objects"}, {"geometry"})


def object_from_json(value: Any, where: str) -> ObjectPrompts:
    """Read what `object_to_json` wrote; `where` it stands is said in errors (`PromptError`)."""
    entry = fields(value, where, {"label", "slices"}, {"name", "anatomy"})
    slices: dict[SliceIndex, SlicePrompts] = {}
    for i, part in enumerate(listed(entry["slices"], f"{where}.slices")):
        index, prompts = _slice_from_json(part, f"{where}.slices[{i}]")
        if index in slices:
            raise PromptError(
                f"{where}.slices[{i}] repeats slice {index.index} along axis {index.axis}: give it once."
            )
        slices[index] = prompts
    try:
        return ObjectPrompts(entry["label"], entry.get("name", ""), slices, _term_from_json(entry, where))
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None


def _term_from_json(entry: dict[str, Any], where: str) -> Term | None:
    if "anatomy" not in entry:
        return None
    codes = fields(entry["anatomy"], f"{where}.anatomy", {"category", "type"}, {"modifier", "region"})
    for key, text in codes.items():
        if not isinstance(text, str) or Code.from_text(text) is None:
            raise PromptError(
                f"{where}.anatomy.{key} must be a code like SCT:64033007:Kidney, not {reprlib.repr(text)}."
            )
    return Term.from_codes(codes)


def _slice_from_json(value: Any, where: str) -> tuple[SliceIndex, SlicePrompts]:
    entry = fields(value, where, {"axis", "index"}, {"box", "points"})
    points, labels = [], []
    for i, part in enumerate(listed(entry.get("points", []), f"{where}.points")):
        here = f"{where}.points[{i}]"
        point = fields(part, here, {"at", "kind"}, set())
        kind = point["kind"]
        if not isinstance(kind, str) or kind not in _KINDS:
            raise PromptError(f"{here}.kind must be one of {', '.join(_KINDS)}, not {reprlib.repr(kind)}.")
        points.append(point["at"])
        labels.append(_KINDS[kind])
    try:
        index = SliceIndex(entry["axis"], entry["index"])
        return index, SlicePrompts(entry.get("box"), tuple(points), tuple(labels))
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None


def _check_objects(objects: Iterable[ObjectPrompts], shape: Sequence[int] | None) -> None:
    seen: set[int] = set()
    for thing in objects:
        if thing.label in seen:
            raise PromptError(f"Label {thing.label} is given to two objects: give each object its own label.")
        seen.add(thing.label)
        if shape is not None:
            for where in thing.slices:
                where.checked(shape)


def geometry_from_json(value: Any) -> Geometry:
    """Read what `geometry_to_json` wrote; PromptError when it is no grid."""
    entry = fields(value, "geometry", {"shape", "spacing_mm", "origin_mm", "direction"}, set())
    z, y, x = (whole_number(n, "Each number of geometry.shape", 1) for n in _three(entry["shape"]))
    dz, dy, dx = finite_numbers(
        entry["spacing_mm"], 3, "geometry.spacing_mm must be three numbers", _LARGEST_MM
    )
    ox, oy, oz = finite_numbers(
        entry["origin_mm"], 3, "geometry.origin_mm must be three numbers", _LARGEST_MM
    )
    direction = finite_numbers(entry["direction"], 9, "geometry.direction must be nine numbers", _LARGEST_MM)
    try:
        return Geometry((z, y, x), (dz, dy, dx), (ox, oy, oz), direction)
    except GeometryError as error:
        raise PromptError(f"geometry: {error}") from None


def _three(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) != 3:
        raise PromptError(f"geometry.shape must be three numbers (z, y, x), not {reprlib.repr(value)}.")
    return value
