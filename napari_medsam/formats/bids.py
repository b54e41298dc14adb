"""What BIDS puts beside a segmentation: its lookup table (.tsv) and its description (.json).

https://bids-specification.readthedocs.io, "Derivatives, imaging": the table has the columns index, name and
color, the description says what the segmentation was made from. Codes, for which BIDS has no place, stand in
further columns of the table: every program that reads the table keeps working.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_medsam.formats.common import printable
from napari_medsam.geometry import VolumeError
from napari_medsam.segments import LONGEST_NAME, Color, Segment, SegmentationError
from napari_medsam.terminology import Term

__all__ = ["LabelRow", "description_text", "free_sidecars", "parse_table", "sidecar_path", "table_text"]

_COLUMNS = ("index", "name", "color")
_CODES = ("category", "type", "modifier", "region")
_MISSING = "n/a"
_MOST_BYTES = 2**24
_MAX_LABEL = 2**32 - 1
_OURS = "Segmentation made interactively with napari-medsam."


@dataclass(frozen=True)
class LabelRow:
    """What the table says of one label; None where it does not."""

    name: str
    color: Color | None
    term: Term | None


def sidecar_path(path: Path, suffix: str) -> Path:
    """Where a table or description goes that belongs to a .nii or .nii.gz file."""
    return path.with_name(re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE) + suffix)


def free_sidecars(path: Path) -> tuple[Path, Path]:
    """Where table and description of a .nii or .nii.gz file go.

    Raises
    ------
    VolumeError
        When one of them is there and was not written here.
    """
    table, description = (sidecar_path(path, suffix) for suffix in (".tsv", ".json"))
    for beside in (table, description):
        if beside.exists() and not _is_ours(beside):
            raise VolumeError(f"'{beside.name}' beside it belongs to something else; choose another name.")
    return table, description


def table_text(segments: Iterable[Segment]) -> str:
    """Build the lookup table."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow([*_COLUMNS, *_CODES])
    for segment in segments:
        color = "#" + "".join(f"{part:02x}" for part in segment.color)
        codes = segment.term.codes() if segment.term is not None else {}
        row = [segment.label, segment.name, color, *(codes.get(kind, _MISSING) for kind in _CODES)]
        table.writerow(row)
    return text.getvalue()


def parse_table(path: Path) -> dict[int, LabelRow]:
    """Read a lookup table, ours or another program's, by label.

    Raises
    ------
    SegmentationError
        When it is no such table.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise SegmentationError(f"'{path}' has {path.stat().st_size} bytes, too many for a table of labels.")
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), delimiter="\t"))
        found = {int(row["index"]): _row(row) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error):
        raise SegmentationError(
            f"'{path}' is no table of labels, expected tab-separated columns index, name and color."
        ) from None
    return {label: row for label, row in found.items() if 0 < label <= _MAX_LABEL}


def description_text(sources: Sequence[str], version: str, *, overlaps: bool = False) -> str:
    """Build the description.

    Parameters
    ----------
    sources
        Paths of the images the segmentation was made on.
    version
        Of this program.
    overlaps
        Whether segments overlapped before they became one label map.
    """
    description = {
        "Description": _OURS,
        "Type": "ROI",
        "Sources": list(sources),
        "GeneratedBy": [{"Name": "napari-medsam", "Version": version}],
        "LabelsOverlapped": overlaps,
    }
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def _is_ours(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(4096)
    return start.startswith("\t".join([*_COLUMNS, *_CODES]).encode()) or _OURS.encode() in start


def _row(row: dict[str, str | None]) -> LabelRow:
    name = (row["name"] or "").strip()
    color = re.fullmatch("#?" + 3 * "([0-9a-fA-F]{2})", (row.get("color") or "").strip())
    return LabelRow(
        "" if name == _MISSING else printable(name, LONGEST_NAME),
        None if color is None else (int(color[1], 16), int(color[2], 16), int(color[3], 16)),
        Term.from_codes(row),
    )
