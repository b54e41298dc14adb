"""JSON as text: laid out for people, and read with errors that people understand."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from napari_medsam.prompts.values import PromptError

_LINE_WIDTH = 100


def laid_out(value: Any, indent: int, before: int = 0) -> str:
    """Write JSON values; whatever fits on one line, after `before` characters of it, stands on one line."""
    short = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if indent + before + len(short) <= _LINE_WIDTH or not isinstance(value, dict | list):
        return short
    inner = indent + 2
    if isinstance(value, dict):
        keys = [f"{json.dumps(key)}: " for key in value]
        parts = [
            key + laid_out(item, inner, len(key)) for key, item in zip(keys, value.values(), strict=True)
        ]
    else:
        parts = [laid_out(item, inner) for item in value]
    body = (",\n" + " " * inner).join(parts)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{' ' * inner}{body}\n{' ' * indent}{closing}"


def parsed(text: str | bytes, what: str) -> dict[str, Any]:
    """Read a JSON object, strictly: no key twice, finite numbers only.

    Parameters
    ----------
    text : str or bytes
        The whole document; bytes are read as UTF-8.
    what
        Begins the sentences of errors: "A prompts file".

    Raises
    ------
    PromptError
        When the text is no such document: one sentence that says where and why.
    """

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise PromptError(f"{what} must not give the same key twice in one place.")
        return found

    def refuse_constant(name: str) -> None:
        raise PromptError(f"{what} must hold finite numbers, not {name}.")

    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        # Editors on Windows put a byte order mark in front.
        document = json.loads(
            plain.removeprefix("\ufeff"), object_pairs_hook=unique_keys, parse_constant=refuse_constant
        )
    except UnicodeDecodeError:
        raise PromptError(f"{what} must be UTF-8 text, which this one is not.") from None
    except json.JSONDecodeError as error:
        raise PromptError(
            f"{what} must be JSON, and line {error.lineno}, column {error.colno} is not: {error.msg}."
        ) from None
    except RecursionError:
        raise PromptError(f"{what} must not be nested as deeply as this one.") from None
    except PromptError:
        raise
    except ValueError:
        # The interpreter refuses to convert integers of thousands of digits.
        raise PromptError(f"{what} must not hold numbers of thousands of digits.") from None
    return document if isinstance(document, dict) else {}


def check_version(document: dict[str, Any], known: int, what: str) -> None:
    """Refuse a document of another version than the known one (`PromptError`)."""
    version = document.get("version")
    if isinstance(version, bool) or version != known:
        raise PromptError(
            f"This {what} has version {reprlib.repr(version)}, and this napari-medsam reads version "
            f"{known}: update napari-medsam if the file is newer."
        )


def fields(value: Any, where: str, required: set[str], optional: set[str]) -> dict[str, Any]:
    """Return a JSON object that has all required keys and no unknown ones, else raise `PromptError`."""
    if not isinstance(value, dict):
        raise PromptError(f"{where} must be a JSON object, not {reprlib.repr(value)}.")
    for key in sorted(required - value.keys()):
        raise PromptError(f'{where} has no "{key}".')
    for key in sorted(value.keys() - required - optional):
        known = ", ".join(sorted(required | optional))
        raise PromptError(f"{where} has the unknown key {reprlib.repr(key)}: known are {known}.")
    return value


def listed(value: Any, where: str) -> list[Any]:
    """Return a JSON list, else raise `PromptError`."""
    if not isinstance(value, list):
        raise PromptError(f"{where} must be a list, not {reprlib.repr(value)}.")
    return value
