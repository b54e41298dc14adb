"""``napari-medsam evaluate``: score a label map against a reference on the same grid."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from napari_medsam.cli.arguments import ArgumentError, LabelNames, label_text, parse_names
from napari_medsam.cli.console import print_json, print_table, reported, say
from napari_medsam.measurements import volume_text

if TYPE_CHECKING:
    from napari_medsam.measurements import LabelScore

EXAMPLES = """
**Examples**

```
napari-medsam evaluate reference.nii.gz result.nii.gz

napari-medsam evaluate reference.nii.gz result.nii.gz --label 1=liver --label 2=spleen

napari-medsam evaluate reference.nii.gz result.nii.gz --tolerance-mm 1 --json
```
"""


@reported
def evaluate(
    reference: Annotated[Path, typer.Argument(help="Label file taken as the truth.")],
    segmentation: Annotated[Path, typer.Argument(help="Label file to score, on the same grid.")],
    label: LabelNames = None,
    tolerance_mm: Annotated[
        float, typer.Option(min=0.0, help="Distance up to which surface Dice calls two surfaces the same.")
    ] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON, and nothing else.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Score every label of SEGMENTATION against REFERENCE: Dice, IoU, HD95, surface Dice and volumes.

    Both must be on the same grid. Labels of the same name belong together, else those of the same number; one
    that only one of the files has counts as missed (Dice 0).
    """
    from napari_medsam.export import read_segmentation
    from napari_medsam.measurements import compare_segments

    names = parse_names(label or [])
    truth, result = (read_segmentation(path).named(names).flattened() for path in (reference, segmentation))
    difference = truth.geometry.difference(result.geometry)
    if difference:
        raise ArgumentError(f"{reference} and {segmentation} are not on the same grid: {difference}")
    for note in (*truth.notes, *result.notes):
        say(note)
    scores = compare_segments(truth, result, tolerance_mm=tolerance_mm)
    if as_json:
        print_json(
            {
                "tolerance_mm": tolerance_mm,
                "labels": [asdict(score) for score in scores],
                "mean": _means(scores),
            }
        )
    else:
        _print_table(scores, tolerance_mm)


def _means(scores: list[LabelScore]) -> dict[str, float]:
    """Mean over the labels of what it makes sense to average; empty without labels."""
    keys = ("dice", "iou", "hd95_mm", "surface_dice")
    return {key: float(np.mean([getattr(score, key) for score in scores])) for key in keys} if scores else {}


def _print_table(scores: list[LabelScore], tolerance_mm: float) -> None:
    table = Table("label", caption=f"surface Dice within {tolerance_mm:g} mm")
    for heading in ("Dice", "IoU", "HD95 mm", "surface Dice", "ref. mL", "seg. mL"):
        table.add_column(heading, justify="right")
    for score in scores:
        overlaps = [f"{value:.3f}" for value in (score.dice, score.iou)]
        volumes = map(volume_text, (score.reference_ml, score.segmentation_ml))
        name = label_text(score.label, {score.label: score.name})
        table.add_row(name, *overlaps, f"{score.hd95_mm:.1f}", f"{score.surface_dice:.3f}", *volumes)
    mean = _means(scores)
    if len(scores) > 1:
        table.add_section()
        cells = [
            f"{mean['dice']:.3f}",
            f"{mean['iou']:.3f}",
            f"{mean['hd95_mm']:.1f}",
            f"{mean['surface_dice']:.3f}",
        ]
        table.add_row("mean", *cells, "", "")
    print_table(table)
