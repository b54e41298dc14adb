"""ITK-SNAP's label description file: names and colours, one line each.

A line holds the label, red, green, blue (0 to 255), opacity (0 to 1), whether it is visible in slices and as
a mesh, and the name in double quotes; lines that begin with # are comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from napari_medsam.segments import Color, Segment, SegmentationError

__all__ = ["description_text", "parse_description"]

_LINE = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.eE+-]+\s+\d+\s+\d+\s+"(.*)"\s*')
_MOST_BYTES = 2**24
_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
"""


def description_text(segments: Iterable[Segment]) -> str:
    """Build the file's content; a double quote in a name becomes a single one."""
    lines = [(0, (0, 0, 0), 0, "Clear Label")]
    lines += [(each.label, each.color, 1, each.name.replace('"', "'")) for each in segments]
    rows = (
        f'{label:5d} {red:5d} {green:4d} {blue:4d} {shown:8d} {shown:2d} {shown:2d}    "{name}"\n'
        for label, (red, green, blue), shown, name in lines
    )
    return _HEAD + "".join(rows)


def parse_description(path: Path) -> dict[int, tuple[str, Color]]:
    """Read names and colours by label.

    Raises
    ------
    SegmentationError
        When a line is anything else, or a number is out of range.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise SegmentationError(f"'{path}' has {path.stat().st_size} bytes, too many for names of labels.")
    found: dict[int, tuple[str, Color]] = {}
    for number, line in enumerate(
        path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1
    ):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SegmentationError(
                f"'{path}' line {number} is no label, expected its number, three colours, three settings and "
                "its name in double quotes, as ITK-SNAP writes them."
            )
        label, red, green, blue = (int(text[:12]) for text in match.groups()[:4])
        if label and match[5].strip():
            segment = Segment(label, match[5], (red, green, blue))
            found[label] = segment.name, segment.color
    return found
