"""The JSON form of prompts, described by ``prompts.schema.json`` and by ``docs/reference/prompts-json.md``.

Reading checks by hand what the schema says, because a schema's own errors are no help to a radiologist, and
what it cannot say: that labels and slices occur once, and that the prompts belong to the image at hand.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

from napari_medsam.geometry import Geometry, GeometryError
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
_LINE_WIDTH = 100


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
        document["geometry"] = {
            "shape": [int(n) for n in geometry.shape],
            "spacing_mm": [float(mm) for mm in geometry.spacing],
            "origin_mm": [float(mm) for mm in geometry.origin],
            "direction": [float(cosine) for cosine in geometry.direction],
        }
    document["objects"] = [
        {
            "label": thing.label,
            "name": thing.name,
            **({} if thing.term is None else {"anatomy": thing.term.codes()}),
            "slices": [_slice_to_json(where, thing.slices[where]) for where in sorted(thing.slices)],
        }
        for thing in objects
    ]
    return _laid_out(document, 0) + "\n"


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
        grid = _geometry_from_json(document["geometry"])
        difference = geometry.difference(grid) if geometry is not None else ""
        if difference:
            raise PromptError(f"These prompts were drawn on another grid than this image's: {difference}")
    objects = [
        _object_from_json(entry, f"objects[{i}]")
        for i, entry in enumerate(_list(document["objects"], "objects"))
    ]
    _check_objects(objects, None if grid is None else grid.shape)
    return objects


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


def _laid_out(value: Any, indent: int, before: int = 0) -> str:
    """Write whatever fits on one line on one line, after `before` characters of it, and break up the rest."""
    short = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if indent + before + len(short) <= _LINE_WIDTH or not isinstance(value, dict | list):
        return short
    inner = indent + 2
    if isinstance(value, dict):
        keys = [f"{json.dumps(key)}: " for key in value]
        parts = [
            key + _laid_out(item, inner, len(key)) for key, item in zip(keys, value.values(), strict=True)
        ]
    else:
        parts = [_laid_out(item, inner) for item in value]
    body = (",\n" + " " * inner).join(parts)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{' ' * inner}{body}\n{' ' * indent}{closing}"


def _document(text: str | bytes) -> dict[str, Any]:
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        # Editors on Windows put a byte order mark in front.
        parsed = json.loads(
            plain.removeprefix("\ufeff"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise PromptError("A prompts file must be UTF-8 text, which this one is not.") from None
    except json.JSONDecodeError as error:
        raise PromptError(
            f"A prompts file must be JSON, and line {error.lineno}, column {error.colno} is not: {error.msg}."
        ) from None
    except RecursionError:
        raise PromptError("A prompts file must not be nested as deeply as this one.") from None
    except PromptError:
        raise
    except ValueError:
        # The interpreter refuses to convert integers of thousands of digits.
        raise PromptError("A prompts file must not hold numbers of thousands of digits.") from None
    if not isinstance(parsed, dict) or parsed.get("format") != _FORMAT:
        raise PromptError(f'This is not a prompts file: it must be a JSON object with "format": "{_FORMAT}".')
    version = parsed.get("version")
    if isinstance(version, bool) or version != PROMPTS_SCHEMA_VERSION:
        raise PromptError(
            f"This prompts file has version {reprlib.repr(version)}, and this napari-medsam reads version "
            f"{PROMPTS_SCHEMA_VERSION}: update napari-medsam if the file is newer."
        )
    return _fields(parsed, "The document", {"format", "version", "objects"}, {"geometry"})


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PromptError("A prompts file must not give the same key twice in one place.")
    return found


def _refuse_constant(name: str) -> None:
    raise PromptError(f"A prompts file must hold finite numbers, not {name}.")


def _fields(value: Any, where: str, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PromptError(f"{where} must be a JSON object, not {reprlib.repr(value)}.")
    for key in sorted(required - value.keys()):
        raise PromptError(f'{where} has no "{key}".')
    for key in sorted(value.keys() - required - optional):
        known = ", ".join(sorted(required | optional))
        raise PromptError(f"{where} has the unknown key {reprlib.repr(key)}: known are {known}.")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise PromptError(f"{where} must be a list, not {reprlib.repr(value)}.")
    return value


def _object_from_json(value: Any, where: str) -> ObjectPrompts:
    entry = _fields(value, where, {"label", "slices"}, {"name", "anatomy"})
    slices: dict[SliceIndex, SlicePrompts] = {}
    for i, part in enumerate(_list(entry["slices"], f"{where}.slices")):
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
    codes = _fields(entry["anatomy"], f"{where}.anatomy", {"category", "type"}, {"modifier", "region"})
    for key, text in codes.items():
        if not isinstance(text, str) or Code.from_text(text) is None:
            raise PromptError(
                f"{where}.anatomy.{key} must be a code like SCT:64033007:Kidney, not {reprlib.repr(text)}."
            )
    return Term.from_codes(codes)


def _slice_from_json(value: Any, where: str) -> tuple[SliceIndex, SlicePrompts]:
    entry = _fields(value, where, {"axis", "index"}, {"box", "points"})
    points, labels = [], []
    for i, part in enumerate(_list(entry.get("points", []), f"{where}.points")):
        here = f"{where}.points[{i}]"
        point = _fields(part, here, {"at", "kind"}, set())
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


def _geometry_from_json(value: Any) -> Geometry:
    entry = _fields(value, "geometry", {"shape", "spacing_mm", "origin_mm", "direction"}, set())
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
