"""Actions and changes as JSON values, strictly read."""

from __future__ import annotations

import base64
import reprlib
from collections.abc import Callable
from typing import Any

from napari_medsam.journal.changes import (
    KEY,
    OBJECT,
    REPORT,
    Action,
    Change,
    Do,
    FactChange,
    JournalError,
    PartWritten,
    VoxelChange,
)
from napari_medsam.prompts import PromptError, SliceIndex
from napari_medsam.prompts.json_form import object_from_json, object_to_json
from napari_medsam.prompts.json_text import fields, listed
from napari_medsam.prompts.values import finite_numbers, whole_number
from napari_medsam.propagation import ACCEPTED, CORRECTED, SliceReport

_KINDS = {kind.value: kind for kind in Do}
_LONGEST_TEXT = 1000


def slice_to_json(where: SliceIndex | None) -> list[int] | None:
    """Say a slice as [axis, index]."""
    return None if where is None else [where.axis, where.index]


def slice_from_json(value: Any, name: str) -> SliceIndex | None:
    """Read what `slice_to_json` wrote; PromptError when it is no slice."""
    if value is None:
        return None
    if len(listed(value, name)) != 2:
        raise PromptError(f"{name} must be [axis, index], not {reprlib.repr(value)}.")
    return SliceIndex(*value)


def action_to_json(action: Action) -> dict[str, Any]:
    """Say what was done."""
    return {
        "do": action.kind.value,
        "run": action.run,
        **({"label": action.label} if action.label else {}),
        **({} if action.where is None else {"slice": slice_to_json(action.where)}),
        **action.details,
    }


def action_from_json(value: Any, name: str) -> Action:
    """Read what `action_to_json` wrote; PromptError when it is no action."""
    if not isinstance(value, dict):
        raise PromptError(f"{name} must be a JSON object, not {reprlib.repr(value)}.")
    details = dict(value)
    kind = details.pop("do", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise PromptError(f"{name}.do must be one of {', '.join(sorted(_KINDS))}, not {reprlib.repr(kind)}.")
    run = whole_number(details.pop("run", None), f"{name}.run", 1)
    label = whole_number(details.pop("label", 0), f"{name}.label", 0, 65535)
    where = slice_from_json(details.pop("slice", None), f"{name}.slice")
    return Action(_KINDS[kind], run, label, where, details)


def change_to_json(change: Change) -> dict[str, Any]:
    """Say a change, with all it takes to take it back."""
    if isinstance(change, VoxelChange):
        return {
            "voxels": {
                "start": list(change.start),
                "shape": list(change.shape),
                "before": base64.b64encode(change.before).decode("ascii"),
                "after": base64.b64encode(change.after).decode("ascii"),
            }
        }
    if isinstance(change, PartWritten):
        return {"written": change.count}
    write = _WRITE[change.kind]
    return {
        "fact": change.kind,
        "label": change.label,
        **({} if change.where is None else {"slice": slice_to_json(change.where)}),
        "before": None if change.before is None else write(change.before),
        "after": None if change.after is None else write(change.after),
    }


def change_from_json(value: Any, name: str) -> Change:
    """Read what `change_to_json` wrote; PromptError or JournalError when it is no change."""
    if not isinstance(value, dict):
        raise PromptError(f"{name} must be a JSON object, not {reprlib.repr(value)}.")
    if "voxels" in value:
        part = fields(value["voxels"], f"{name}.voxels", {"start", "shape", "before", "after"}, set())
        start, shape = (_three(part[key], f"{name}.voxels.{key}") for key in ("start", "shape"))
        return VoxelChange(start, shape, _bytes(part["before"], name), _bytes(part["after"], name))
    if "written" in value:
        only = fields(value, name, {"written"}, set())
        return PartWritten(whole_number(only["written"], f"{name}.written", 1))
    fact = fields(value, name, {"fact", "label", "after"}, {"slice", "before"})
    if fact["fact"] not in _READ:
        raise PromptError(f"{name}.fact must be one of {', '.join(_READ)}, not {reprlib.repr(fact['fact'])}.")
    label = whole_number(fact["label"], f"{name}.label", 1, 65535)
    where = slice_from_json(fact.get("slice"), f"{name}.slice")
    if (where is None) != (fact["fact"] == OBJECT):
        raise PromptError(f"{name} must say its slice, unless it is about an object as a whole.")
    read = _READ[fact["fact"]]
    before, after = (
        None if fact.get(key) is None else read(fact[key], f"{name}.{key}", label, where)
        for key in ("before", "after")
    )
    return FactChange(fact["fact"], label, where, before, after)


def report_to_json(report: SliceReport) -> dict[str, Any]:
    """Say what is known of a slice."""
    return {
        "score": float(report.score),
        "reason": report.reason,
        **({"stopped": True} if report.stopped else {}),
        **({"doubt": report.doubt} if report.doubt else {}),
        **({"second_opinion": report.second_opinion} if report.second_opinion is not None else {}),
    }


def report_from_json(value: Any, name: str, label: int, where: SliceIndex | None) -> SliceReport:
    """Read what `report_to_json` wrote; PromptError when it is no report."""
    entry = fields(value, name, {"score", "reason"}, {"stopped", "doubt", "second_opinion"})
    (score,) = finite_numbers([entry["score"]], 1, f"{name}.score must be a number", 1.0)
    reason, doubt = (_text(entry.get(key, ""), f"{name}.{key}") for key in ("reason", "doubt"))
    second = None
    if "second_opinion" in entry:
        what = f"{name}.second_opinion must be a number"
        (second,) = finite_numbers([entry["second_opinion"]], 1, what, 1.0)
    assert where is not None
    return SliceReport(where, label, score, reason, entry.get("stopped") is True, doubt, second)


def _key_from_json(value: Any, name: str, label: int, where: SliceIndex | None) -> str:
    if value not in (CORRECTED, ACCEPTED):
        raise PromptError(f"{name} must be {CORRECTED} or {ACCEPTED}, not {reprlib.repr(value)}.")
    return str(value)


def _object_from_json(value: Any, name: str, label: int, where: SliceIndex | None) -> Any:
    found = object_from_json(value, name)
    if found.label != label:
        raise PromptError(f"{name} must be about object {label}, not {found.label}.")
    return found


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise PromptError(f"{name} must be a text of at most {_LONGEST_TEXT} characters.")
    return value


def _three(value: Any, name: str) -> tuple[int, int, int]:
    numbers = listed(value, name)
    if len(numbers) != 3:
        raise PromptError(f"{name} must be three numbers (z, y, x), not {reprlib.repr(value)}.")
    z, y, x = (whole_number(number, f"Each number of {name}", 0) for number in numbers)
    return z, y, x


def _bytes(value: Any, name: str) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except ValueError:
        raise JournalError(f"{name} holds labels that are damaged.") from None


_WRITE: dict[str, Callable[[Any], Any]] = {OBJECT: object_to_json, KEY: str, REPORT: report_to_json}
_READ: dict[str, Callable[..., Any]] = {
    OBJECT: _object_from_json,
    KEY: _key_from_json,
    REPORT: report_from_json,
}
