"""``--report``: a table with a line for every slice of every object, and a picture of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_medsam.cli.arguments import ArgumentError, label_text
from napari_medsam.formats.bids import sidecar_path
from napari_medsam.formats.common import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

    from napari_medsam.propagation import Review, SliceReport

COLUMNS = (
    "label",
    "name",
    "axis",
    "slice",
    "estimated_dice",
    "wants_look",
    "key",
    "ended",
    "reason",
    "doubt",
)
SUFFIXES = (".csv", ".json")

BAR_PX, STRIP_PX, TEXT_PX, GAP_PX = 8, 60, 14, 12
BACKGROUND, FOREGROUND = (16, 17, 20), (232, 234, 237)
SURE, DOUBTFUL, KEY, END = (84, 190, 120), (235, 110, 60), (90, 169, 255), (232, 234, 237)
TICK_SLICES = 10


def check_report(path: Path | None, output: Path) -> None:
    """Refuse a report that could not be written, before anything takes long.

    Raises
    ------
    ArgumentError
        When the name does not say which kind of table is wanted, the folder is not there, or what belongs to
        the label map `output` is written under that name.
    """
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(f"--report {path} must end in .csv or .json: a picture .png is put beside it.")
    if not path.parent.is_dir():
        raise ArgumentError(f"--report {path}: there is no folder {path.parent}.")
    if path.absolute() == sidecar_path(output.absolute(), ".json"):
        raise ArgumentError(f"--report {path}: the description of {output} goes there; give another name.")


def write_report(path: Path, reviews: Mapping[int, Review], names: Mapping[int, str]) -> Path:
    """Write the table, and the picture beside it.

    Parameters
    ----------
    path
        Ends in .csv or .json.
    reviews
        By label.
    names
        Of labels, "" for none.

    Returns
    -------
    Path
        The picture.
    """
    rows = [_row(report, names[label]) for label, review in reviews.items() for report in review.slices]
    picture = path.with_suffix(".png")
    with replacing(path, path.suffix) as unfinished, replacing(picture, ".png") as drawn:
        draw_reviews(reviews, names).save(drawn, optimize=True)
        _write_table(rows, unfinished)
    return picture


def _write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix.lower() == ".json":
            json.dump(rows, file, indent=2)
        else:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(rows)


def draw_reviews(reviews: Mapping[int, Review], names: Mapping[int, str]) -> Image:
    """Draw a strip for each object: a bar for each slice, as high as the estimated Dice.

    What wants a look is orange, key slices are blue, and a slice before which the object was found to have
    ended is a hollow bar.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT_PX)
    titles = [f"{label_text(label, names)}: {review.summary()}" for label, review in reviews.items()]
    shown = [report.where.index for review in reviews.values() for report in review.slices]
    first, last = min(shown, default=0), max(shown, default=0)
    width = (
        max((last - first + 1) * BAR_PX, *(int(font.getlength(title)) for title in titles), 40) + 2 * GAP_PX
    )
    height = len(reviews) * (STRIP_PX + 2 * TEXT_PX + 2 * GAP_PX) + GAP_PX
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    top = GAP_PX
    for title, review in zip(titles, reviews.values(), strict=True):
        pen.text((GAP_PX, top), title, fill=FOREGROUND, font=font)
        foot = top + TEXT_PX + GAP_PX + STRIP_PX
        for report in review.slices:
            left = GAP_PX + (report.where.index - first) * BAR_PX
            bar = (left, foot - max(2, round(report.dice * STRIP_PX)), left + BAR_PX - 2, foot)
            if report.stopped:
                pen.rectangle(bar, outline=END)
            else:
                pen.rectangle(bar, fill=_colour(report))
        for index in range(-(-first // TICK_SLICES) * TICK_SLICES, last + 1, TICK_SLICES):
            left = GAP_PX + (index - first) * BAR_PX
            pen.text((left, foot + 2), str(index), fill=FOREGROUND, font=font)
        top = foot + TEXT_PX + GAP_PX
    return canvas


def ends(reviews: Sequence[Review]) -> list[str]:
    """Say of every end where and why."""
    return [
        f"slice {report.where.index}: {report.reason}"
        for review in reviews
        for report in review.ends
        if not report.is_by_hand
    ]


def _colour(report: SliceReport) -> tuple[int, int, int]:
    if report.is_key:
        return KEY
    return DOUBTFUL if report.wants_look else SURE


def _row(report: SliceReport, name: str) -> dict[str, Any]:
    values = (
        report.label,
        name,
        report.where.axis,
        report.where.index,
        round(report.dice, 3),
        report.wants_look,
        report.is_key,
        report.stopped,
        report.reason,
        report.doubt,
    )
    return dict(zip(COLUMNS, values, strict=True))
