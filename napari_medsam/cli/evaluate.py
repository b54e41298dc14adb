"""``napari-medsam evaluate``: score a label map against a reference on the same grid."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from napari_medsam.cli.arguments import ArgumentError, label_text, parse_names
from napari_medsam.cli.console import print_json, reported

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
**Examples**

```
napari-medsam evaluate reference.nii.gz result.nii.gz

napari-medsam evaluate reference.nii.gz result.nii.gz --label 1=liver --label 2=spleen

napari-medsam evaluate reference.nii.gz result.nii.gz --tolerance-mm 1 --json
```
"""


@dataclass(frozen=True)
class LabelScore:
    """How well one label of a segmentation agrees with the reference.

    Attributes
    ----------
    label, name
        Number and name ("" without one).
    dice, iou, surface_dice : float
        Overlaps, 0 to 1.
    hd95_mm : float
        95th percentile of the distances between the surfaces; infinite where one of the two is empty.
    reference_ml, segmentation_ml : float
        Volumes.
    """

    label: int
    name: str
    dice: float
    iou: float
    hd95_mm: float
    surface_dice: float
    reference_ml: float
    segmentation_ml: float


@reported
def evaluate(
    reference: Annotated[Path, typer.Argument(help="Label map taken as the truth.")],
    segmentation: Annotated[Path, typer.Argument(help="Label map to score, on the same grid.")],
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBER=NAME", help="Name of a label, for the table. Repeatable."),
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option(min=0.0, help="Distance up to which surface Dice calls two surfaces the same.")
    ] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON, and nothing else.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Score every label of SEGMENTATION against REFERENCE: Dice, IoU, HD95, surface Dice and volumes.

    Both label maps must be on the same grid; a label that only one of them has counts as missed (Dice 0).
    """
    from napari_medsam.volume import read_labels

    names = parse_names(label or [])
    truth, result = read_labels(reference), read_labels(segmentation)
    difference = truth.geometry.difference(result.geometry)
    if difference:
        raise ArgumentError(f"{reference} and {segmentation} are not on the same grid: {difference}")
    scores = score_labels(truth.array, result.array, truth.geometry.spacing, tolerance_mm, names)
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


def score_labels(
    reference: NDArray,
    segmentation: NDArray,
    spacing: tuple[float, float, float],
    tolerance_mm: float,
    names: Mapping[int, str],
) -> list[LabelScore]:
    """Score every label that occurs in either of two label maps of one shape (z, y, x), in ascending order.

    Parameters
    ----------
    reference, segmentation : NDArray
        (z, y, x) of integers, 0 is background.
    spacing : tuple of float
        mm (z, y, x).
    tolerance_mm : float
        For the surface Dice.
    names : Mapping[int, str]
        Names of labels, where there are any.
    """
    from napari_medsam.metrics import dice, hd95_mm, iou, surface_dice, volume_ml

    # A lone slice has an outline only; taken as a volume it would have a top and a bottom, too.
    flat = next((axis for axis, count in enumerate(reference.shape) if count == 1), None)
    sizes = [size for axis, size in enumerate(spacing) if axis != flat]
    scores = []
    for label in sorted({*np.unique(reference).tolist(), *np.unique(segmentation).tolist()} - {0}):
        truth, result = reference == label, segmentation == label
        surfaces = (truth, result) if flat is None else (truth.take(0, flat), result.take(0, flat))
        scores.append(
            LabelScore(
                label=label,
                name=names.get(label, ""),
                dice=dice(truth, result),
                iou=iou(truth, result),
                hd95_mm=hd95_mm(*surfaces, sizes),
                surface_dice=surface_dice(*surfaces, sizes, tolerance_mm),
                reference_ml=volume_ml(truth, spacing),
                segmentation_ml=volume_ml(result, spacing),
            )
        )
    return scores


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
        volumes = [f"{value:.2f}" for value in (score.reference_ml, score.segmentation_ml)]
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
    Console().print(table)
