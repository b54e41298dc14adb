"""The image that a command reads, and the label map it writes: their options on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_medsam.cli.arguments import ArgumentError

PANEL = "Which part of the image"
_OUTPUT_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")

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


def check_output(output: Path, image: Path) -> None:
    """Refuse a label map's file before the work starts, where that can be told.

    Raises
    ------
    ArgumentError
        When its suffix is of another kind, its folder does not exist, or it is the image itself.
    """
    if not output.name.lower().endswith(_OUTPUT_SUFFIXES):
        raise ArgumentError(f"--output {output} must end in one of {', '.join(_OUTPUT_SUFFIXES)}.")
    if not output.absolute().parent.is_dir():
        raise ArgumentError(f"--output {output} lies in no folder that exists; make it, or give another.")
    if output.exists() and image.exists() and output.samefile(image):
        raise ArgumentError(f"--output {output} is the image itself; give the label map another name.")
