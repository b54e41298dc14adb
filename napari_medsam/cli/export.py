"""``napari-medsam export``: labels for other programs, with names, colours and codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_medsam.cli.arguments import ArgumentError, LabelNames, parse_names
from napari_medsam.cli.console import AsJson, Debug, print_json, reported, say
from napari_medsam.cli.image_options import Series, TimePoint, check_not_read

if TYPE_CHECKING:
    from napari_medsam.export import NnunetCase, Segmentation
    from napari_medsam.volume import Volume

EXAMPLES = """
**Examples**

For 3D Slicer, names from the label map itself or from the command line:

```
napari-medsam export organs.nii.gz -o organs.seg.nrrd --label 1=liver --label 2=spleen
```

For ITK-SNAP, a label map and the names beside it:

```
napari-medsam export organs.seg.nrrd -o organs.nii.gz -o organs.txt
```

DICOM, for the archive, and back:

```
napari-medsam export organs.nii.gz --image dicom_folder -o organs.dcm

napari-medsam export plan.dcm --image dicom_folder -o plan.nii.gz
```

A training set for nnU-Net, the first image for the first labels and so on:

```
napari-medsam export a_seg.nii.gz b_seg.nii.gz --image a.nii.gz --image b.nii.gz -o Dataset001_Organs
```
"""


class Overlap(str, Enum):
    """Who gets a voxel that several segments claim."""

    FIRST = "first"
    LAST = "last"


class Resample(str, Enum):
    """How labels on another grid than the image's are resampled."""

    NEAREST = "nearest"
    LINEAR = "linear"


@reported
def export(
    labels: Annotated[
        list[Path],
        typer.Argument(
            help="Label map, 3D Slicer or DICOM segmentation, or DICOM structure set; for nnU-Net several."
        ),
    ],
    output: Annotated[
        list[Path],
        typer.Option(
            "--output",
            "-o",
            help="What to write, told by its ending: .nii.gz or .nii, .seg.nrrd (3D Slicer), .dcm (DICOM "
            "SEG), .txt (ITK-SNAP names), .nrrd, .mha or .mhd; or a folder Dataset123_Name (nnU-Net). "
            "Repeatable.",
        ),
    ],
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="Image or DICOM folder the labels belong to: needed for DICOM and nnU-Net. The result lies "
            "on its grid. Once for each of LABELS."
        ),
    ] = None,
    label: LabelNames = None,
    names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names and colours: a .tsv table or ITK-SNAP's descriptions."),
    ] = None,
    overlap: Annotated[
        Overlap | None, typer.Option(help="Who gets voxels that several segments claim, in a label map.")
    ] = None,
    resample: Annotated[
        Resample | None,
        typer.Option(help="Resample labels that lie on another grid than the image; refused without this."),
    ] = None,
    series: Series = None,
    time_point: TimePoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write LABELS for another program, with their names, colours and codes."""
    from napari_medsam.export import is_nnunet, series_files, write_nnunet, write_segmentation

    images: Sequence[Path | None] = image or [None] * len(labels)
    if len(images) != len(labels):
        raise ArgumentError(f"There are {len(labels)} label files and {len(images)} images; pair them.")
    for each in output:
        # Labels may be written over: that is how they get their names.
        check_not_read(f"-o {each}", each, names, *images)
    sets = [each for each in output if is_nnunet(each)]
    if len(labels) > 1 and len(sets) < len(output):
        raise ArgumentError("Several label files make a training set only: give -o Dataset123_Name.")

    def read(path: Path, scan: Path | None) -> tuple[Segmentation, Volume | None]:
        return _read(path, scan, names, parse_names(label or []), resample, series, time_point)

    written: list[Path] = []
    for folder in sets:
        write_nnunet(_cases(labels, images, read, overlap), folder)
        written.append(folder)
    files = [each for each in output if each not in sets]
    if files:
        segmentation, scan = read(labels[0], images[0])
        for note in (*segmentation.notes, *(() if scan is None else scan.notes)):
            say(note)
        for path in files:
            dicom = path.suffix.lower() == ".dcm"
            if dicom and images[0] is None:
                raise ArgumentError(f"-o {path} refers to a DICOM series: give its folder with --image.")
            if overlap is not None and not path.name.lower().endswith((".dcm", ".seg.nrrd")):
                chosen = segmentation.flattened(overlap.value)
            else:
                chosen = segmentation
            with _how_made(labels[0], path, is_resampled=resample is not None) as made:
                written += write_segmentation(
                    chosen,
                    path,
                    series=series_files(images[0], series) if dicom and images[0] is not None else (),
                    sources=[str(each.name) for each in images if each is not None],
                )
            written += made
    if as_json:
        print_json({"written": [str(path) for path in written]})
    else:
        say(f"Wrote {', '.join(map(str, written))}.")


def _read(
    path: Path,
    image: Path | None,
    names_from: Path | None,
    names: dict[int, str],
    resample: Resample | None,
    series: str | None,
    time_point: int | None,
) -> tuple[Segmentation, Volume | None]:
    """Labels with their names, on the grid of their image where one was given."""
    from napari_medsam.export import image_of, placed_on, read_segmentation

    scan = None if image is None else image_of(path, image, series=series, time_point=time_point)
    found = read_segmentation(path, geometry=None if scan is None else scan.geometry, names_from=names_from)
    unknown = set(names) - set(found.numbers)
    if unknown:
        raise ArgumentError(f"--label {min(unknown)}={names[min(unknown)]} names a label that {path} lacks.")
    found = found.named(names)
    if scan is not None:
        found = placed_on(found, scan.geometry, resample=None if resample is None else resample.value)
    return found, scan


@contextmanager
def _how_made(labels: Path, output: Path, *, is_resampled: bool) -> Iterator[list[Path]]:
    """Let the session file beside the labels go with them, once they are written."""
    from napari_medsam.journal import JournalError
    from napari_medsam.session_file import read_document, session_path, session_written

    source, target = session_path(labels), session_path(output)
    # Other voxels than the session's were not made by it.
    if is_resampled or source == target or not source.is_file():
        yield []
        return
    try:
        document = read_document(source)
    except JournalError as error:
        raise JournalError(f"'{source}' cannot go with the labels, so move it away: {error}") from None
    with session_written(document, target):
        yield [target]


def _cases(
    labels: Sequence[Path],
    images: Sequence[Path | None],
    read: Callable[[Path, Path | None], tuple[Segmentation, Volume | None]],
    overlap: Overlap | None,
) -> Iterator[NnunetCase]:
    from napari_medsam.export import NnunetCase

    names = [path.name.partition(".")[0] for path in labels]
    if len(set(names)) < len(names):
        # One folder for each case, with files of the same names.
        names = [path.absolute().parent.name for path in labels]
    for name, path, image in zip(names, labels, images, strict=True):
        segmentation, scan = read(path, image)
        if scan is None:
            raise ArgumentError(f"A training set needs the image of {path}: give it with --image.")
        if overlap is not None:
            segmentation = segmentation.flattened(overlap.value)
        yield NnunetCase(name, scan, segmentation)
