"""Tables and plots of what `accuracy.py` measured.

Means are macro: over slices, then labels, then cases, so that no case counts more for having many slices.
Only "connected", as in the one-box protocol, is a mean over slices; so are the errors of the predicted IoU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accuracy_plots import Plot
from accuracy_prompts import BOX, BOX_2, CLICK, NEEDS, SHARES, SHOWN, TIGHT, sloppy

if TYPE_CHECKING:
    from accuracy import Row

GROUPS = ("CT volumes", "MR volumes", "other volumes", "single slices", "RGB")
AREAS_PX = (25, 50, 100, 200, 500, 1000, 2000, 5000)
BINS = 10
SIZED = (BOX, BOX_2, CLICK)
"""Kinds of prompt that are shown by case and by size."""

Rows = Sequence["Row"]
SLOPPY = {share: sloppy(share) for share in (0.0, *SHARES)}


def write_report(rows: Rows, folder: Path) -> None:
    """Write ``accuracy.md`` and the plots ``accuracy_*.svg``."""
    names = list(dict.fromkeys(row.model for row in rows))
    parts = [
        ("By kind of prompt", kinds_table(rows, names)),
        ("By case", cases_table(rows, names)),
        ("By how far off the box is", sloppiness_table(rows, names)),
        ("By size of the object", sizes_table(rows, names)),
        ("Predicted IoU, by kind of prompt", scores_table(rows, names)),
        ("Predicted IoU, by its value", bins_table(rows, names)),
    ]
    title = f"# Accuracy\n\n{counted(rows)}, see `docs/reference/accuracy.md`.\n"
    text = "\n".join(f"\n## {heading}\n\n{table}" for heading, table in parts)
    (folder / "accuracy.md").write_text(title + text + "\n", encoding="utf-8")
    for name, plot in plots(rows, names).items():
        plot.write(folder / f"accuracy_{name}.svg")


def counted(rows: Rows) -> str:
    """Say how much was measured."""
    slices = {(row.case, row.label, row.slice) for row in rows}
    labels, cases = {key[:2] for key in slices}, {key[0] for key in slices}
    return f"{len(cases)} cases, {len(labels)} labels, {len(slices)} slices with one object each"


def macro(rows: Iterable[Row]) -> float:
    """Mean Dice over slices, then labels, then cases; NaN of nothing."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else float("nan")

    labels: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        labels.setdefault((row.case, row.label), []).append(row.dice)
    cases: dict[str, list[float]] = {}
    for (case, _), found in labels.items():
        cases.setdefault(case, []).append(mean(found))
    return mean([mean(found) for found in cases.values()])


def connected(rows: Rows) -> float:
    """Mean Dice over the slices whose object is one part; NaN without any."""
    found = [row.dice for row in rows if row.connected]
    return float(np.mean(found)) if found else float("nan")


def kinds_table(rows: Rows, names: Sequence[str]) -> str:
    """Dice of every model from every kind of prompt; "-" where a model does not take it."""
    groups = [group for group in GROUPS if any(row.group == group for row in rows)]
    lines = []
    for kind in (kind for kind in NEEDS if kind not in SLOPPY.values() or kind == TIGHT):
        for name in names:
            mine = [row for row in rows if (row.model, row.kind) == (name, kind)]
            parts = [macro(row for row in mine if row.group == group) for group in groups]
            lines.append([kind, name, *map(number, [macro(mine), connected(mine), *parts])])
    return table(["prompt", "model", "macro", "connected", *groups], lines)


def cases_table(rows: Rows, names: Sequence[str]) -> str:
    """Dice of every case, mean over slices, then labels."""
    columns = [(name, kind) for name in names for kind in SIZED]
    lines = []
    for case, found in groupby(sorted(rows, key=lambda row: row.case), lambda row: row.case):
        mine = list(found)
        cells = [macro(r for r in mine if (r.model, r.kind) == column) for column in columns]
        slices = {(row.label, row.slice) for row in mine}
        labels = {label for label, _ in slices}
        lines.append([case, f"{len(labels)}", f"{len(slices)}", *map(number, cells)])
    return table(["case", "labels", "slices", *map(", ".join, columns)], lines)


def sloppiness_table(rows: Rows, names: Sequence[str]) -> str:
    """Macro Dice against the share of its side by which each side of the box may be off."""
    lines = [
        [name, *(number(macro(r for r in rows if (r.model, r.kind) == (name, k))) for k in SLOPPY.values())]
        for name in names
    ]
    return table(["model", *(f"{share:.0%}" for share in SLOPPY)], lines)


def sizes_table(rows: Rows, names: Sequence[str]) -> str:
    """Macro Dice by area of the object."""
    columns = [(name, kind) for name in names for kind in SIZED]
    lines = []
    for text, inside in areas():
        mine = [row for row in rows if inside(row.area)]
        cells = [macro(r for r in mine if (r.model, r.kind) == column) for column in columns]
        slices = {(row.case, row.label, row.slice) for row in mine}
        cases = {case for case, _, _ in slices}
        lines.append([text, f"{len(slices)}", f"{len(cases)}", *map(number, cells)])
    return table(["area, px", "slices", "cases", *map(", ".join, columns)], lines)


def areas() -> list[tuple[str, Callable[[int], bool]]]:
    """Bins of area: how each is called, and whether an area lies in it."""
    bins = [
        (f"{low} to {high - 1}", lambda area, low=low, high=high: low <= area < high)
        for low, high in pairwise(AREAS_PX)
    ]
    return [*bins, (f"{AREAS_PX[-1]} and more", lambda area: area >= AREAS_PX[-1])]


def scores_table(rows: Rows, names: Sequence[str]) -> str:
    """How far the predicted IoU is off, and how well it ranks masks."""
    lines = []
    for kind, inside in [*by_prompt(rows).items(), *((k, lambda row, k=k: row.kind == k) for k in NEEDS)]:
        for name in names:
            mine = [row for row in rows if row.model == name and inside(row)]
            predicted, true = (np.array([getattr(r, f) for r in mine]) for f in ("predicted_iou", "iou"))
            error, bias = (
                (np.abs(predicted - true).mean(), (predicted - true).mean()) if mine else (np.nan, np.nan)
            )
            cells = [number(error), number(bias), number(rank_correlation(predicted, true))]
            lines.append([kind, name, str(len(mine)), *cells])
    head = ["prompt", "model", "masks", "mean absolute error", "predicted - true", "rank correlation"]
    return table(head, lines)


def by_prompt(rows: Rows) -> dict[str, Callable[[Row], bool]]:
    """All prompts with a box and all of clicks alone, as users give them: without the mask shown."""
    plain = {kind for kind in NEEDS if not kind.endswith(SHOWN)}
    boxed = {kind for kind in plain if "box" in NEEDS[kind]}
    clicked = {kind for kind in plain - boxed if "click" in kind}
    return {"boxes": lambda row: row.kind in boxed, "clicks": lambda row: row.kind in clicked}


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; NaN where one of both does not vary."""
    from scipy.stats import spearmanr

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b)[0])


def bins_table(rows: Rows, names: Sequence[str]) -> str:
    """Mean true IoU by predicted IoU."""
    columns = [(name, group) for name in names for group in by_prompt(rows)]
    found = {column: calibration(rows, *column) for column in columns}
    lines = []
    for at in range(BINS):
        cells = []
        for column in columns:
            count, predicted, true = found[column][at]
            cells += [str(count), number(predicted), number(true)]
        lines.append([f"{at / BINS:.1f} to {(at + 1) / BINS:.1f}", *cells])
    head = [f"{name}, {g}: {what}" for name, g in columns for what in ("masks", "predicted", "true")]
    return table(["predicted IoU", *head], lines)


def calibration(rows: Rows, name: str, group: str) -> list[tuple[int, float, float]]:
    """For each tenth of the predicted IoU: how many masks, mean predicted and mean true IoU."""
    inside = by_prompt(rows)[group]
    mine = [row for row in rows if row.model == name and inside(row)]
    places = [min(int(row.predicted_iou * BINS), BINS - 1) for row in mine]
    found = []
    for at in range(BINS):
        both = [(r.predicted_iou, r.iou) for r, place in zip(mine, places, strict=True) if place == at]
        means = np.mean(both, axis=0) if both else (np.nan, np.nan)
        found.append((len(both), float(means[0]), float(means[1])))
    return found


def plots(rows: Rows, names: Sequence[str]) -> dict[str, Plot]:
    """The curves, by what they are called in the names of their files."""

    def line(name: str, kinds: Iterable[tuple[float, str]]) -> list[tuple[float, float]]:
        points = [(x, macro(r for r in rows if (r.model, r.kind) == (name, kind))) for x, kind in kinds]
        return [(x, y) for x, y in points if y == y]

    sizes = {}
    for name in names:
        for kind in SIZED:
            mine = [row for row in rows if (row.model, row.kind) == (name, kind)]
            values = [macro(r for r in mine if inside(r.area)) for _, inside in areas()]
            sizes[f"{name}, {kind}"] = [(x, y) for x, y in enumerate(values) if y == y]
    shares = {name: line(name, SLOPPY.items()) for name in names}
    scores = {
        f"{name}, {group}": [(p, t) for count, p, t in calibration(rows, name, group) if count]
        for name in names
        for group in by_prompt(rows)
    }
    tenths = {tenth / 10: f"{tenth / 10:.1f}" for tenth in range(0, 11, 2)}
    return {
        "sloppiness": Plot(
            "Dice (macro) against how far the sides of the box are off",
            "each side in or out by up to this share of the box",
            {share: f"{share:.0%}" for share in SLOPPY},
            shares,
        ),
        "size": Plot(
            "Dice (macro) against the size of the object",
            "area on the slice in pixels, from",
            {at: str(area) for at, area in enumerate(AREAS_PX)},
            sizes,
        ),
        "calibration": Plot(
            "True IoU against predicted IoU, means of tenths", "predicted IoU", tenths, scores, diagonal=True
        ),
    }


def number(value: float) -> str:
    """Three decimals; "-" for NaN."""
    # Adding 0 takes the sign from a zero.
    return "-" if value != value else f"{round(value, 3) + 0:.3f}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = "|" + "---|" * len(head)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(li) + " |" for li in lines)])
