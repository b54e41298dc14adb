"""A journal as a file that only grows: one line a change, so that what is on disk is never changed again.

Each line is a checksum (CRC-32, eight hexadecimal digits), a space, and a JSON object. A line that is cut off
or damaged, as after a crash or a full disk, ends what can be read; everything before it is good.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHECKSUM = 9
LONGEST_LINE = 1 << 31
"""More than any slice takes; a log with such a line was not written by this program."""


def log_line(value: dict[str, Any]) -> bytes:
    """Write a JSON object as one line of a log."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return f"{zlib.crc32(content):08x} ".encode() + content + b"\n"


def read_log(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Read the lines of a log as far as they are whole.

    Yields
    ------
    tuple of dict and int
        The JSON object, and where in the file its line ends.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    end = 0
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            content = line[_CHECKSUM:-1]
            if line[-1:] != b"\n" or line[:_CHECKSUM] != f"{zlib.crc32(content):08x} ".encode():
                return
            try:
                value = json.loads(content)
            except (ValueError, RecursionError):
                return
            if not isinstance(value, dict):
                return
            end += len(line)
            yield value, end
