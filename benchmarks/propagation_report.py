"""Tables and the curve of a finished run of `propagation.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

OURS, RANDOM, BOUND = "ours", "random", "a box on every slice"
CURVE_PX = (640, 400)
MARGIN_PX = 56
INK, PAPER, BLUE, GREY = (30, 32, 36), (255, 255, 255), (40, 110, 220), (150, 150, 150)

Row = Mapping[str, object]


def print_tables(rows: Sequence[dict], curve: Path | None) -> None:
    """Print everything as Markdown.

    Parameters
    ----------
    rows
        Of one run.
    curve
        Where to draw the curve of corrections, PNG; nowhere when None.
    """
    cases = sorted({row["case"] for row in rows})
    development = set(cases[::2])
    print_methods(rows, development)
    print_cases(rows, cases)
    for name, chosen in (
        ("all", set(cases)),
        ("development half", development),
        ("held-out half", set(cases) - development),
    ):
        print_scores(name, [row for row in rows if row["method"] == OURS and row["case"] in chosen])
    for name, lines in (("what is pointed at first", OURS), ("random", RANDOM)):
        means = curve_of(rows, lines)
        print(f"corrections, {name}: " + ", ".join(f"{value:.3f}" for value in means))
    if curve:
        draw(rows, curve)


def macro(rows: Sequence[Row], value: Callable[[Row], float]) -> float:
    """Mean over labels, then over cases."""
    cases = {row["case"] for row in rows}
    return float(np.mean([np.mean([value(r) for r in rows if r["case"] == c]) for c in cases or {None}]))


def print_methods(rows: Sequence[Row], development: set[str]) -> None:
    """A line for each method: 3D Dice by modality and half, against the bound, ends, time."""
    head = ["method", "3D Dice", "CT", "MR", "development half", "held-out half", "of the bound"]
    print("| " + " | ".join([*head, "ends off by, slices", "s an object"]) + " |")
    print("|---|---|---|---|---|---|---|---|---|")
    bound = macro([r for r in rows if r["method"] == BOUND], lambda r: r["dice"])
    for method in dict.fromkeys(row["method"] for row in rows):
        if method == RANDOM:
            continue
        mine = [row for row in rows if row["method"] == method]
        parts = [
            mine,
            [r for r in mine if str(r["modality"]).startswith("CT")],
            [r for r in mine if str(r["modality"]).startswith("MR")],
            [r for r in mine if r["case"] in development],
            [r for r in mine if r["case"] not in development],
        ]
        scores = [macro(part, lambda r: r["dice"]) if part else float("nan") for part in parts]
        ends = macro(mine, lambda r: r["ends"])
        seconds = np.mean([row["seconds"] for row in mine])
        cells = [f"{s:.3f}" for s in scores] + [f"{scores[0] / bound:.2f}", f"{ends:.1f}", f"{seconds:.2f}"]
        print(f"| {method} | " + " | ".join(cells) + " |")
    print()


def print_cases(rows: Sequence[Row], cases: Sequence[str]) -> None:
    """3D Dice of every method on every case."""
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m != RANDOM]
    print("| case | labels | " + " | ".join(methods) + " |\n|---|---|" + "---|" * len(methods))
    for case in cases:
        mine = [row for row in rows if row["case"] == case]
        cells = []
        for method in methods:
            found = [row["dice"] for row in mine if row["method"] == method]
            cells.append(f"{np.mean(found):.3f}" if found else "-")
        print(f"| {case} | {len({row['label'] for row in mine})} | " + " | ".join(cells) + " |")
    print()


def print_scores(name: str, rows: Sequence[Row]) -> None:
    """How well the estimated Dice ranks the slices that were carried, all objects together."""
    pairs = np.array([score[:3] for row in rows for score in row["scores"]], float)
    if len(pairs) < 10:
        return
    estimated, true, looks = pairs.T
    worst = np.argsort(true, kind="stable")[: len(true) // 10]
    order = np.argsort(estimated, kind="stable")
    found = [np.isin(worst, order[: round(share * len(true))]).mean() for share in (0.1, 0.2, 0.3)]
    after = [row["curve"][-1] for row in rows]
    print(
        f"scores, {name}: {len(true)} slices, rank correlation {spearmanr(estimated, true)[0]:.3f}, mean "
        f"absolute error {np.abs(estimated - true).mean():.3f}; of the worst tenth, "
        f"{found[0]:.0%} are in the lowest tenth, {found[1]:.0%} in the lowest fifth, {found[2]:.0%} in the "
        f"lowest three tenths, and {looks[worst].mean():.0%} want a look ({looks.mean():.0%} of all do); "
        f"3D Dice after {len(rows[0]['curve']) - 1} corrections {np.mean(after):.3f}, macro "
        f"{macro(rows, lambda r: r['curve'][-1]):.3f}"
    )


def curve_of(rows: Sequence[Row], method: str) -> list[float]:
    """Macro 3D Dice after 0, 1, 2, ... corrections, on the labels that both policies were run on."""
    both = {(r["case"], r["label"]) for r in rows if r["method"] == RANDOM}
    mine = [r for r in rows if r["method"] == method and (r["case"], r["label"]) in both]
    if not mine:
        return []
    length = min(len(row["curve"]) for row in mine)
    return [macro(mine, lambda row, n=n: row["curve"][n]) for n in range(length)]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw both curves."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(14)
    canvas = Image.new("RGB", CURVE_PX, PAPER)
    pen = ImageDraw.Draw(canvas)
    curves = [(OURS, BLUE, "the slice pointed at"), (RANDOM, GREY, "a random slice")]
    means = {method: curve_of(rows, method) for method, _, _ in curves}
    longest = max(map(len, means.values()))
    low = np.floor(min(min(values) for values in means.values()) * 10) / 10
    width, height = CURVE_PX[0] - 2 * MARGIN_PX, CURVE_PX[1] - 2 * MARGIN_PX

    def at(n: int, value: float) -> tuple[float, float]:
        return MARGIN_PX + n * width / (longest - 1), MARGIN_PX + height * (1 - (value - low) / (1 - low))

    for tenth in np.arange(low, 1.01, 0.1):
        pen.line([at(0, tenth), at(longest - 1, tenth)], fill=(225, 225, 225))
        pen.text((8, at(0, tenth)[1] - 8), f"{tenth:.1f}", fill=INK, font=font)
    for n in range(longest):
        pen.text((at(n, low)[0] - 4, at(n, low)[1] + 6), str(n), fill=INK, font=font)
    pen.text((MARGIN_PX, 12), "3D Dice (macro) against slices corrected", fill=INK, font=font)
    for row, (method, colour, text) in enumerate(curves):
        pen.line([at(n, value) for n, value in enumerate(means[method])], fill=colour, width=3)
        pen.text((CURVE_PX[0] - 220, CURVE_PX[1] - MARGIN_PX - 50 + 20 * row), text, fill=colour, font=font)
    canvas.save(path, optimize=True)
