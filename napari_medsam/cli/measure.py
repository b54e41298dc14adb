"""``napari-medsam measure``: volume, intensities, surface and RECIST diameters of every label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_medsam.cli.arguments import ArgumentError, LabelNames, label_text, parse_axis, parse_names
from napari_medsam.cli.console import AsJson, Debug, print_table, reported, say
from napari_medsam.cli.image_options import Series, TimePoint, check_not_read
from napari_medsam.measurements import volume_text

if TYPE_CHECKING:
    from napari_medsam.measurements import LabelScore, Measurement

EXAMPLES = """
**Examples**

```
napari-medsam measure liver.nii.gz

napari-medsam measure organs.nii.gz --image ct.nii.gz --csv organs.csv

napari-medsam measure lesions.seg.nrrd --image dicom_folder --axis axial --json

napari-medsam measure result.nii.gz --reference truth.nii.gz --tolerance-mm 1
```
"""


@reported
def measure(
    labels: Annotated[Path, typer.Argument(help="Label map, or 3D Slicer or DICOM segmentation.")],
    image: Annotated[
        Path | None,
        typer.Option(help="Image or DICOM folder on the same grid, for the intensities (HU for CT)."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Label map on the same grid to compare with: Dice, IoU, HD95, surface Dice, mL."),
    ] = None,
    label: LabelNames = None,
    axis: Annotated[
        str,
        typer.Option(
            metavar="AXIS",
            help="Diameters are measured on the slices across array axis 0 (the default), 1 or 2, or on the "
            "axial, coronal or sagittal ones.",
        ),
    ] = "0",
    tolerance_mm: Annotated[
        float, typer.Option(min=0.0, help="Distance up to which surface Dice calls two surfaces the same.")
    ] = 2.0,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write everything to this file, as CSV.")
    ] = None,
    series: Series = None,
    time_point: TimePoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure every label of LABELS, and compare them with a reference where there is one."""
    from napari_medsam.export import image_of, placed_on, read_segmentation
    from napari_medsam.formats.common import replacing
    from napari_medsam.measurements import (
        compare_segments,
        measure_segments,
        measurements_to_csv,
        measurements_to_json,
    )
    from napari_medsam.windowing import guess_modality

    if csv is not None:
        check_not_read(f"--csv {csv}", csv, labels, image, reference)
    scan = None if image is None else image_of(labels, image, series=series, time_point=time_point)
    found = read_segmentation(labels, geometry=None if scan is None else scan.geometry)
    truth = None if reference is None else read_segmentation(reference, geometry=found.geometry).flattened()
    if scan is not None:
        found = placed_on(found, scan.geometry)
        truth = None if truth is None else placed_on(truth, scan.geometry)
    found = found.named(parse_names(label or []))
    measured = measure_segments(found, image=scan, axis=parse_axis(axis, found.geometry))
    scores: list[LabelScore] = []
    if truth is not None:
        if difference := found.geometry.difference(truth.geometry):
            raise ArgumentError(
                f"{labels} and {reference} are not on the same grid (give --image where one is a part of "
                f"the other): {difference}"
            )
        scores = compare_segments(truth, found.flattened(), tolerance_mm=tolerance_mm)
    for each in (found, truth, scan):
        for note in () if each is None else each.notes:
            say(note)
    if csv is not None:
        with replacing(csv, ".csv") as temporary:
            temporary.write_text(measurements_to_csv(measured, scores), encoding="utf-8", newline="")
    unit = "HU" if scan is not None and guess_modality(scan) == "CT" else ""
    if as_json:
        typer.echo(measurements_to_json(measured, scores, unit=unit, tolerance_mm=tolerance_mm), nl=False)
        return
    _print_measurements(measured, unit)
    if scores:
        _print_scores(scores, tolerance_mm)


def _print_measurements(measured: list[Measurement], unit: str) -> None:
    table = Table(
        "label", "slices", caption="--csv and --json have more: voxels, sphericity, ends of diameters"
    )
    for heading in ("mL", "surface cm²", "RECIST mm"):
        table.add_column(heading, justify="right")
    if any(each.intensities is not None for each in measured):
        table.add_column(f"mean ± SD {unit}".strip(), justify="right")
    for each in measured:
        recist, values = each.recist, each.intensities
        cells = [
            volume_text(each.volume_ml),
            "" if each.surface_mm2 is None else f"{each.surface_mm2 / 100:.1f}",
            f"{recist.long.length_mm:.1f} x {recist.short.length_mm:.1f}",
        ]
        if values is not None:
            cells.append(f"{values.mean:.1f} ± {values.sd:.1f}")
        name = label_text(each.label, {each.label: each.name})
        table.add_row(name, f"{each.slices[0]} to {each.slices[1]}", *cells)
    print_table(table)


def _print_scores(scores: list[LabelScore], tolerance_mm: float) -> None:
    table = Table("against the reference", caption=f"surface Dice within {tolerance_mm:g} mm")
    for heading in ("Dice", "IoU", "HD95 mm", "surface Dice", "ref. mL", "difference mL"):
        table.add_column(heading, justify="right")
    for score in scores:
        table.add_row(
            label_text(score.label, {score.label: score.name}),
            f"{score.dice:.3f}",
            f"{score.iou:.3f}",
            f"{score.hd95_mm:.1f}",
            f"{score.surface_dice:.3f}",
            volume_text(score.reference_ml),
            f"{score.volume_difference_ml:+.2f}",
        )
    print_table(table)
