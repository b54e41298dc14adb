"""Measurements as a table for a spreadsheet, a file or the clipboard."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from napari_medsam.measurements.objects import PERCENTILES, Measurement

if TYPE_CHECKING:
    from napari_medsam.measurements.scores import LabelScore

__all__ = ["measurements_to_csv", "measurements_to_json", "volume_text"]

_SMALL_ML = 0.1


def volume_text(volume_ml: float) -> str:
    """Volume in mL for a person: two decimals, but of a small lesion two digits, which would be 0.00."""
    return f"{volume_ml:.2g}" if 0 < volume_ml < _SMALL_ML else f"{volume_ml:.2f}"


def measurements_to_csv(
    measurements: Iterable[Measurement], scores: Iterable[LabelScore] = (), *, delimiter: str = ","
) -> str:
    """Lay measurements out as a table with one row for each label, for a spreadsheet or the clipboard.

    Parameters
    ----------
    measurements
        From `measure_labels`.
    scores
        From `compare_labels`; a label that only the reference has gets a row of its own.
    delimiter
        Between cells; a tab for the clipboard.

    Returns
    -------
    str
        CSV (RFC 4180) with a heading; what does not exist is an empty cell.
    """
    rows: dict[int, dict[str, object]] = {}
    for measurement in measurements:
        rows[measurement.label] = _row(measurement)
    for score in scores:
        rows[score.label] = {**asdict(score), **rows.get(score.label, {})}
    headings = list(dict.fromkeys(heading for row in rows.values() for heading in row)) or ["label", "name"]
    text = io.StringIO()
    table = csv.DictWriter(text, headings, restval="", lineterminator="\r\n", delimiter=delimiter)
    table.writeheader()
    table.writerows(
        {key: _spreadsheet_safe(value) for key, value in rows[label].items()} for label in sorted(rows)
    )
    return text.getvalue()


def measurements_to_json(
    measurements: Iterable[Measurement],
    scores: Iterable[LabelScore] = (),
    *,
    unit: str = "",
    tolerance_mm: float = 2.0,
) -> str:
    """Write measurements as one JSON document.

    Parameters
    ----------
    measurements, scores
        As for `measurements_to_csv`.
    unit
        Of the intensities: HU for CT.
    tolerance_mm
        That of the surface Dice.

    Returns
    -------
    str
        A number that JSON cannot hold (an infinite distance) is null.
    """
    document = {
        "labels": [asdict(each) for each in measurements],
        "intensity_unit": unit,
        "tolerance_mm": tolerance_mm,
        "reference": [asdict(score) for score in scores],
    }
    finite = json.loads(json.dumps(document), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2) + "\n"


def _row(measurement: Measurement) -> dict[str, object]:
    """One object as flat cells, units in their headings."""
    recist, values = measurement.recist, measurement.intensities
    row: dict[str, object] = {
        "label": measurement.label,
        "name": measurement.name,
        "voxels": measurement.voxels,
        "volume_ml": measurement.volume_ml,
        "slice_axis": recist.axis,
        "first_slice": measurement.slices[0],
        "last_slice": measurement.slices[1],
        "surface_mm2": measurement.surface_mm2,
        "sphericity": measurement.sphericity,
        "recist_slice": recist.index,
        "recist_long_mm": recist.long.length_mm,
        "recist_short_mm": recist.short.length_mm,
    }
    for which, line in (("long", recist.long), ("short", recist.short)):
        for end, (voxel, place) in enumerate(zip(line.voxels, line.lps_mm, strict=True)):
            row |= {f"recist_{which}_{a}{end}": v for a, v in zip("zyx", voxel, strict=True)}
            row |= {f"recist_{which}_{a}{end}_lps_mm": v for a, v in zip("xyz", place, strict=True)}
    if values is not None:
        row |= {"mean": values.mean, "sd": values.sd, "minimum": values.minimum, "maximum": values.maximum}
        row |= {f"p{p}": value for p, value in zip(PERCENTILES, values.percentiles, strict=True)}
    return row


def _spreadsheet_safe(value: object) -> object:
    """A name that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
