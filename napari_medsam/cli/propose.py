"""``napari-medsam propose``: masks of everything on one slice, without a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from napari_medsam.cli.arguments import ArgumentError, parse_axis
from napari_medsam.cli.console import AsJson, Debug, print_json, print_table, progress_bar, reported, say
from napari_medsam.cli.image_options import (
    OUTPUT_HELP,
    Image,
    Series,
    TimePoint,
    check_output,
    write_output,
)
from napari_medsam.cli.model_options import Device, Engine, Model, NoCache, Precision, Window, load_predictor

if TYPE_CHECKING:
    from napari_medsam.automatic import Proposal
    from napari_medsam.prompts import SliceIndex
    from napari_medsam.volume import Geometry

EXAMPLES = """
**Examples**

What is there on slice 30? Then the box of one proposal is carried through the volume:

```
napari-medsam propose ct.nii.gz --slice 30 -o proposals.nii.gz
napari-medsam segment ct.nii.gz --box 30,120,80,210,170 -o object.nii.gz
```
"""
_SEARCH = "What to look for"


@reported
def propose(
    image: Image,
    index: Annotated[
        int, typer.Option("--slice", metavar="Z", min=0, help="Slice to search, counted along --axis from 0.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=OUTPUT_HELP),
    ] = None,
    axis: Annotated[
        str,
        typer.Option(
            metavar="AXIS",
            help="What --slice counts along: array axis 0, 1 or 2, or the one across the axial, coronal or "
            "sagittal plane.",
        ),
    ] = "0",
    grid: Annotated[
        int,
        typer.Option(
            min=1,
            max=128,
            help="Points along each side of the slice that are asked: more find smaller objects, and take "
            "longer.",
            rich_help_panel=_SEARCH,
        ),
    ] = 16,
    min_score: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The model's own estimate of the IoU, at least (SAM's authors: 0.88).",
            rich_help_panel=_SEARCH,
        ),
    ] = 0.8,
    min_stability: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="IoU of the masks at a lower and a higher threshold, at least (SAM's authors: 0.95).",
            rich_help_panel=_SEARCH,
        ),
    ] = 0.8,
    window: Window = "auto",
    model: Model = "default",
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    no_cache: NoCache = False,
    series: Series = None,
    time_point: TimePoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Propose masks of everything on one slice, without any prompt: a grid of points is asked.

    They are numbered from 1, best first. In OUTPUT the smaller one lies on top where two overlap; a session
    file beside it says how it was made. The boxes shown can be given to 'napari-medsam segment --box'.
    """
    if output is not None:
        check_output(output, image, series)
    from napari_medsam import tasks
    from napari_medsam.prompts import SliceIndex
    from napari_medsam.session import Session
    from napari_medsam.session_file import Snapshot, session_path, session_to_json, session_written
    from napari_medsam.volume import read_volume
    from napari_medsam.windowing import parse_window

    volume = read_volume(image, series=series, time_point=time_point)
    where = SliceIndex(parse_axis(axis, volume.geometry), index).checked(volume.geometry.shape)
    predictor = load_predictor(model, device, precision, engine, no_cache=no_cache)
    if "point" not in predictor.supported_prompts:
        raise ArgumentError(
            f"--model {model} was trained without points, which this command asks: "
            "'napari-medsam models list' shows which models take points."
        )
    session = Session(volume, predictor, window=parse_window(window, volume), model_name=model)
    # A smaller object takes the pixels of the larger one that it lies in.
    session.protect_others = False
    action = tasks.propose(session, where, grid, min_score, min_stability)
    found: tuple[Proposal, ...] = ()
    with progress_bar("points") as bar:
        task = bar.add_task("search", total=grid**2)
        for step in tasks.search(session, action):
            bar.update(task, completed=step.done)
            found = step.found
    rows = [_described(n, each, where, volume.geometry) for n, each in enumerate(found, start=1)]
    if output is not None:
        with session.doing(action):
            for _ in found:
                session.add_object()
            for part in tasks.masks_of(found, where):
                session.write(part)
        with session_written(session_to_json(Snapshot.of(session)), session_path(output)):
            write_output(output, session.labels, volume.geometry, session.objects.values(), image, series)
    if as_json:
        print_json({"output": output and str(output), "axis": where.axis, "proposals": rows})
        return
    _print_table(rows)
    say(f"Proposals on slice {index}: {len(rows)}." + (f" Wrote {output}." if output else ""))


def _described(label: int, each: Proposal, where: SliceIndex, geometry: Geometry) -> dict[str, Any]:
    height_mm, width_mm = (s for axis, s in enumerate(geometry.spacing) if axis != where.axis)
    return {
        "label": label,
        "score": each.score,
        "stability": each.stability,
        "area_mm2": int(each.mask.sum()) * height_mm * width_mm,
        "box": [where.index, *(int(edge) for edge in each.box)],
    }


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("label", "box (Z,Y0,X0,Y1,X1)")
    for heading in ("mm²", "score", "stability"):
        table.add_column(heading, justify="right")
    for row in rows:
        box = ",".join(str(edge) for edge in row["box"])
        numbers = f"{row['area_mm2']:.0f}", f"{row['score']:.2f}", f"{row['stability']:.2f}"
        table.add_row(str(row["label"]), box, *numbers)
    print_table(table)
