"""The image that a command reads, and the label map it writes: their options on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_medsam.cli.arguments import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_medsam.prompts import ObjectPrompts
    from napari_medsam.volume import Geometry

PANEL = "Which part of the image"
OUTPUT_HELP = (
    "Label map to write: .nii.gz or .nii (with names), .seg.nrrd (3D Slicer), .dcm (DICOM SEG of a DICOM "
    "series), .nrrd, .mha or .mhd."
)
_NIFTI = (".nii.gz", ".nii")
_DICOM = ".dcm"
_OUTPUT_SUFFIXES = (*_NIFTI, ".nrrd", ".mha", ".mhd", _DICOM)

Image = Annotated[
    Path, typer.Argument(help="NIfTI, NRRD, MetaImage or DICOM file, a picture, or a DICOM folder.")
]
Series = Annotated[
    str | None,
    typer.Option(
        metavar="UID", help="Which series, in a DICOM folder that holds several.", rich_help_panel=PANEL
    ),
]
TimePoint = Annotated[
    int | None,
    typer.Option(metavar="N", help="Which time point of a 4D image, from 0.", rich_help_panel=PANEL),
]


def check_output(output: Path, image: Path, series: str | None) -> None:
    """Refuse a label map's file before the work starts, where that can be told.

    Raises
    ------
    ArgumentError
        When its suffix is of another kind, its folder does not exist, or it is the image itself.
    VolumeError
        When it is a DICOM segmentation, and the image no DICOM series or the extra ``dicom`` not there; or
        when it is NIfTI, and another program's table or description would have to make room.
    """
    if not output.name.lower().endswith(_OUTPUT_SUFFIXES):
        raise ArgumentError(f"--output {output} must end in one of {', '.join(_OUTPUT_SUFFIXES)}.")
    if not output.absolute().parent.is_dir():
        raise ArgumentError(f"--output {output} lies in no folder that exists; make it, or give another.")
    check_not_read(f"--output {output}", output, image)
    if output.name.lower().endswith(_NIFTI):
        from napari_medsam.formats.bids import free_sidecars
        from napari_medsam.formats.common import told

        with told(output, "written"):
            free_sidecars(output)
    if output.suffix.lower() == _DICOM:
        from napari_medsam.export import series_files
        from napari_medsam.formats.dicom_objects import dicom_library

        dicom_library("highdicom")
        series_files(image, series)


def check_not_read(typed: str, output: Path, *read: Path | None) -> None:
    """Refuse to write over what a command reads.

    Parameters
    ----------
    typed
        The option with its value, for the message.
    output
        What is to be written.
    read
        Files and folders that are read, None for those not given.

    Raises
    ------
    ArgumentError
        When one of them is the output.
    """
    for path in read:
        if path is not None and output.exists() and path.exists() and output.samefile(path):
            raise ArgumentError(f"{typed} is {path} itself, which is read here; give another name.")


def write_output(
    output: Path,
    labels: NDArray[np.unsignedinteger],
    geometry: Geometry,
    objects: Iterable[ObjectPrompts],
    image: Path,
    series: str | None,
) -> None:
    """Write a label map (z, y, x) with its objects' names and codes, as ``napari-medsam export`` does.

    Raises
    ------
    VolumeError, SegmentationError
        When it cannot be written; an older file stays as it was.
    """
    from napari_medsam.export import segmentation_of_objects, series_files, write_segmentation

    write_segmentation(
        segmentation_of_objects(labels, geometry, objects),
        output,
        series=series_files(image, series) if output.suffix.lower() == _DICOM else (),
        sources=[image.name],
    )
