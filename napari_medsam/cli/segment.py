"""``napari-medsam segment``: from an image and prompts to a label map on the image's grid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from napari_medsam.cli.arguments import ArgumentError, build_objects, label_text, parse_axis, parse_range
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
from napari_medsam.cli.review_report import check_report, ends, write_report
from napari_medsam.measurements import volume_text

if TYPE_CHECKING:
    from napari_medsam.prompts import ObjectPrompts, SliceIndex
    from napari_medsam.propagation import Review
    from napari_medsam.session import Session
    from napari_medsam.volume import Geometry

EXAMPLES = """
**Examples**

One box on slice 40, carried through the neighbouring slices:

```
napari-medsam segment ct.nii.gz --box 40,120,80,210,170 -o liver.nii.gz
```

Two objects: the first box is for label 1, the second for label 2:

```
napari-medsam segment ct.nii.gz -o organs.nii.gz \\
    --box 40,120,80,210,170 --label 1=liver \\
    --box 35,90,200,150,260 --label 2=spleen
```

Several boxes for one object: all of them say whose they are, by number or name:

```
napari-medsam segment ct.nii.gz -o organs.nii.gz \\
    --box liver@40,120,80,210,170 --box liver@55,118,90,200,160 \\
    --box spleen@35,90,200,150,260
```

A box, and points in the object (+) and outside it (-):

```
napari-medsam segment mr.nii.gz -o lesion.nii.gz \\
    --box 12,60,70,110,130 --point 12,85,100,+ --point 12,70,120,-
```

A DICOM folder, a box on a sagittal slice, slices 20 to 60, a lung window:

```
napari-medsam segment dicom/ -o nodule.nii.gz --axis sagittal \\
    --box 41,10,60,30,90 --range 20:60 --window 1500/-600
```

A table that says how sure every slice is, where the object ends and why, and its picture:

```
napari-medsam segment ct.nii.gz --box 40,120,80,210,170 -o liver.nii.gz --report liver.csv
```
"""

_PROMPTS = "What to segment"
_NOT, _ALONG_ONE, _ALONG_ALL = "not", "along one axis", "along all axes"


@dataclass(frozen=True)
class Found:
    """What one object became.

    Attributes
    ----------
    label, name
        Number and name ("" without one).
    voxels, volume_ml
        Its size in the label map.
    slices : tuple of int or None
        First and last slice it is on, along the axis of its prompts; None when nothing was found.
    weakest_slice : int or None
        Slice with the lowest score, mostly one before an end. None when nothing was found.
    weakest_score : float or None
        The estimated Dice there, 0 to 1.
    look : str
        How many slices want a look, in words.
    ends : list of str
        The slices before which the object was found to have ended, and why.
    """

    label: int
    name: str
    voxels: int
    volume_ml: float
    slices: tuple[int, int] | None
    weakest_slice: int | None
    weakest_score: float | None
    look: str
    ends: list[str]


@reported
def segment(
    image: Image,
    output: Annotated[Path, typer.Option("--output", "-o", help=OUTPUT_HELP)],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BOX",
            help="[LABEL@]Z,Y0,X0,Y1,X1 in voxels: a slice, then two corners (inclusive) in array order. "
            "Repeatable: the k-th box is for label k, unless all boxes say LABEL@, a number or a name.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINT",
            help="[LABEL@]Z,Y,X, then ,+ for a point in the object (the default) or ,- for one outside. "
            "Repeatable.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBER=NAME",
            help="Name of a label, such as 1=liver. Repeatable.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS",
            help="What Z counts along: array axis 0 (the default), 1 or 2, or the one across the axial, "
            "coronal or sagittal plane. Y and X count along the two other axes in array order.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts as JSON, in place of the four options above.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="FIRST:LAST",
            help="Stay within these slices, inclusive.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    no_propagate: Annotated[
        bool,
        typer.Option(
            "--no-propagate",
            help="Segment the slices that have prompts, and no others.",
            rich_help_panel=_PROMPTS,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table of all slices with their scores and reasons, .csv or .json; a picture of it, .png, "
            "is put beside it.",
        ),
    ] = None,
    three_planes: Annotated[
        bool,
        typer.Option(
            "--three-planes",
            help="Carry each object along all three axes and keep what two of them agree on: slower, and for "
            "voxels that are about as thick as wide.",
            rich_help_panel=_PROMPTS,
        ),
    ] = False,
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
    """Segment objects from boxes and points, and write a label map on the image's grid.

    Where objects that are carried through the slices meet, voxels go to the one that is surer there, and an
    object within another one keeps its own. Where their prompts meet, voxels go to the lower label (with
    --prompts: to the first in the file). OUTPUT is written in the end, as a whole, or not at all.
    """
    check_output(output, image, series)
    check_report(report, output)
    from napari_medsam.session import Session
    from napari_medsam.session_file import Snapshot, session_path, session_to_json, session_written
    from napari_medsam.volume import read_volume
    from napari_medsam.windowing import guess_modality, parse_window

    started = time.perf_counter()
    volume = read_volume(image, series=series, time_point=time_point)
    objects = _objects(volume.geometry, prompts, box or [], point or [], label or [], axis)
    ranges = [parse_range(slices, volume.geometry.shape[_axis_of(thing)]) for thing in objects]
    chosen = parse_window(window, volume)
    predictor = load_predictor(model, device, precision, engine, no_cache=no_cache)
    session = Session(volume, predictor, window=chosen, model_name=model)
    if three_planes and no_propagate:
        raise ArgumentError("--three-planes carries objects, --no-propagate does not: give either of them.")
    carry = _ALONG_ALL if three_planes else (_NOT if no_propagate else _ALONG_ONE)
    _run(session, objects, ranges, carry)
    reviews = {thing.label: session.review(thing.label, _axis_of(thing)) for thing in objects}
    found = [_found(session, thing, reviews[thing.label]) for thing in objects]
    made = session_path(output)
    with session_written(session_to_json(Snapshot.of(session)), made):
        write_output(output, session.labels, volume.geometry, session.objects.values(), image, series)
    picture = write_report(report, reviews, {each.label: each.name for each in found}) if report else None
    seconds = time.perf_counter() - started

    if as_json:
        print_json(
            {
                "output": str(output),
                "shape": volume.geometry.shape,
                "spacing_mm": volume.geometry.spacing,
                "modality": guess_modality(volume),
                "window": asdict(chosen),
                "notes": volume.notes,
                "labels": [asdict(each) for each in found],
                "report": report and [str(report), str(picture)],
                "session": str(made),
                "seconds": round(seconds, 3),
            }
        )
        return
    for note in volume.notes:
        say(note)
    _print_table(found)
    if report:
        say(f"Wrote {report} and {picture}.")
    say(f"How it was made is in {made}: napari-medsam replay makes it again.")
    say(
        f"Wrote {output} in {seconds:.1f} s; {guess_modality(volume)} seen through the window "
        f"{chosen.name} ({chosen.lower:g} to {chosen.upper:g})."
    )


def _objects(
    geometry: Geometry,
    prompts: Path | None,
    boxes: Sequence[str],
    points: Sequence[str],
    labels: Sequence[str],
    axis: str | None,
) -> list[ObjectPrompts]:
    """Objects from the command line or from a file, each with prompts on one axis only."""
    if prompts is None:
        return build_objects(boxes, points, labels, parse_axis(axis or "0", geometry), geometry)
    from napari_medsam.prompts import prompts_from_json

    if boxes or points or labels or axis:
        raise ArgumentError(
            "--prompts FILE takes the place of --box, --point, --label and --axis: give either of them."
        )
    objects = [thing for thing in prompts_from_json(prompts.read_bytes(), geometry) if thing.slices]
    if not objects:
        raise ArgumentError(f"--prompts {prompts} holds no prompts: draw some first.")
    for thing in objects:
        if len({where.axis for where in thing.slices}) > 1:
            raise ArgumentError(
                f"--prompts {prompts} has prompts along several axes for label {thing.label}: an object is "
                "carried along one axis, so keep those of one."
            )
    return objects


def _axis_of(thing: ObjectPrompts) -> int:
    return next(iter(thing.slices)).axis


def _run(
    session: Session, objects: Sequence[ObjectPrompts], ranges: Sequence[tuple[int, int]], carry: str
) -> None:
    """Segment every object and write it into the session's labels; those of one axis are carried together."""
    from napari_medsam import tasks

    groups: dict[int, list[ObjectPrompts]] = {}
    spans = {}
    asked = {}
    for thing, span in zip(objects, ranges, strict=True):
        for where, drawn in thing.slices.items():
            asked[thing.label, where] = tasks.prompt(session, thing.label, where)
            with session.doing(asked[thing.label, where]):
                session.add_prompts(thing.label, where, drawn)
        session.rename(thing.label, thing.name, thing.term)
        groups.setdefault(_axis_of(thing), []).append(thing)
        spans[_axis_of(thing)] = span
    with progress_bar() as bar:
        for axis, group in groups.items():
            first, last = spans[axis]
            names = ", ".join(thing.name or f"label {thing.label}" for thing in group)
            task = bar.add_task(names, total=len(group) * (last - first + 1))
            if carry == _NOT:
                actions = [asked[each] for thing in group for each in _within(thing, first, last)]
            elif carry == _ALONG_ALL:
                actions = [tasks.carry(session, axis, [t.label], first, last, planes=True) for t in group]
            else:
                actions = [tasks.carry(session, axis, [thing.label for thing in group], first, last)]
            for action in actions:
                for _ in tasks.run(session, action):
                    bar.advance(task)
            bar.update(task, total=bar.tasks[task].completed)


def _within(thing: ObjectPrompts, first: int, last: int) -> list[tuple[int, SliceIndex]]:
    """What is to be answered of an object's prompts: those of the range."""
    inside = [(thing.label, where) for where in sorted(thing.slices) if first <= where.index <= last]
    if not inside:
        raise ArgumentError(
            f"Label {thing.label} has no prompts on the slices of --range, {first} to {last}."
        )
    return inside


def _found(session: Session, thing: ObjectPrompts, review: Review) -> Found:
    mask = session.labels == thing.label
    axis = _axis_of(thing)
    occupied = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
    weakest = review.weakest
    voxels = int(np.count_nonzero(mask))
    return Found(
        label=thing.label,
        name=thing.name,
        voxels=voxels,
        volume_ml=voxels * session.volume.geometry.voxel_volume_ml,
        slices=(int(occupied[0]), int(occupied[-1])) if occupied.size else None,
        weakest_slice=None if weakest is None else weakest.where.index,
        weakest_score=None if weakest is None else weakest.dice,
        look=review.summary(),
        ends=ends([review]),
    )


def _print_table(found: Sequence[Found]) -> None:
    table = Table("label", "slices")
    for heading in ("voxels", "mL", "weakest slice", "estimated Dice"):
        table.add_column(heading, justify="right")
    for each in found:
        name = label_text(each.label, {each.label: each.name})
        span = f"{each.slices[0]} to {each.slices[1]}" if each.slices else "nothing found"
        size = [str(each.voxels), volume_text(each.volume_ml)]
        score = "" if each.weakest_score is None else f"{each.weakest_score:.2f}"
        weakest = "" if each.weakest_slice is None else str(each.weakest_slice)
        table.add_row(name, span, *size, weakest, score)
    print_table(table)
    for each in found:
        name = label_text(each.label, {each.label: each.name})
        say(f"{name}: {each.look}.")
        for end in each.ends:
            say(f"{name} ends before {end}.")
