"""Where a session's work goes: labels with names and colours in the format of choice, prompts beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari_medsam.export import NnunetCase, is_nnunet, segmentation_of_objects, write_nnunet
from napari_medsam.formats.common import replacing, told
from napari_medsam.prompts import prompts_to_json
from napari_medsam.session_file import Snapshot, session_path, session_to_json, session_written
from napari_medsam.widgets.label_files import (
    DICOM,
    DICOM_ENDINGS,
    ENDINGS,
    ITKSNAP,
    check_target,
    stem,
    write,
)

if TYPE_CHECKING:
    from napari_medsam.segments import Color
    from napari_medsam.session import Session
    from napari_medsam.widgets.layers import SessionLayers
    from napari_medsam.widgets.runner import Runner

SUFFIX = "_seg.nii.gz"
PROMPTS_SUFFIX = ".prompts.json"
NIFTI, NNUNET = ".nii.gz", "Dataset"
KINDS = {
    NIFTI: "NIfTI with names and colours (*.nii.gz *.nii)",
    ".seg.nrrd": "3D Slicer segmentation (*.seg.nrrd)",
    DICOM: "DICOM segmentation (*.dcm)",
    ITKSNAP: "ITK-SNAP: names and colours, and a label map beside them (*.txt)",
    ".nrrd": "NRRD, voxels only (*.nrrd)",
    ".mha": "MetaImage, voxels only (*.mha)",
    NNUNET: "nnU-Net training set of this case, a new folder (Dataset*)",
}
"""What the question where to save offers: how the name ends, and what to call it."""


def default_path(session: Session) -> Path | None:
    """Return where the label map goes unless somebody says otherwise; None for an image from no file."""
    source = session.volume.source
    return Path(source).parent / f"{stem(Path(source))}{SUFFIX}" if source else None


def prompts_path(path: Path) -> Path:
    """Return where names and prompts go that belong to a label map."""
    return path.parent / f"{stem(path)}{PROMPTS_SUFFIX}"


def kinds_for(session: Session) -> dict[str, str]:
    """Return those of `KINDS` that this session's image allows for."""
    source = Path(session.volume.source)
    is_dicom = bool(session.volume.source) and (source.is_dir() or source.suffix.lower() in DICOM_ENDINGS)
    return {ending: kind for ending, kind in KINDS.items() if is_dicom or ending != DICOM}


def path_of_kind(path: Path, ending: str, *, is_chosen: bool) -> Path:
    """Return a path whose name says its kind.

    Parameters
    ----------
    path
        What was typed, with or without an ending.
    ending
        One of `KINDS`.
    is_chosen
        Whether somebody chose this kind: then another ending that was typed makes room for it.
    """
    is_said = path.name.lower().endswith(ENDINGS) or is_nnunet(path)
    if is_said and not is_chosen:
        return path
    if ending == NNUNET:
        return path if is_nnunet(path) else path.parent / f"{NNUNET}001_{_plain(stem(path))}"
    if path.name.lower().endswith(ending) and (ending != ".nrrd" or not path.name.endswith(".seg.nrrd")):
        return path
    return path.parent / f"{stem(path) if is_said else path.name}{ending}"


def save_layers(
    layers: SessionLayers,
    path: Path,
    runner: Runner,
    receive: Callable[[Path], None],
    end: Callable[[Exception | None], None],
) -> None:
    """Write a session's labels with names and prompts beside them, without holding up the window.

    Parameters
    ----------
    layers
        Of the session; what is changed while the file is being written is unsaved again.
    path
        Where to.
    runner, receive, end
        Who writes, and who is told the path and how it ended; see `Runner.submit`.
    """
    state = Snapshot.of(layers.session)
    work = partial(save_session, state, path, layers.masks.palette.colours(), layers.series)
    layers.unsaved = False

    def ended(error: Exception | None) -> None:
        layers.unsaved = layers.unsaved or error is not None
        end(error)

    runner.submit(("save", id(layers)), lambda: iter([work()]), receive, ended)


def save_session(
    state: Snapshot,
    path: Path,
    colours: Mapping[int, Color] | None = None,
    series: str | None = None,
) -> Path:
    """Write labels, names and colours; beside them the prompts, and how the labels were made.

    The prompts are as ``napari-medsam segment --prompts`` takes them, the rest as ``napari-medsam replay``
    does.

    Parameters
    ----------
    state
        Of the session.
    path
        Its ending tells the format, as for `napari_medsam.export.write_segmentation`; a folder called
        Dataset123_Name becomes a training set for nnU-Net.
    colours
        Of labels, as they are on screen.
    series
        UID of the DICOM series that the image is, where its folder holds several.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    VolumeError, SegmentationError
        When a file cannot be written; an older one is left as it was then.
    """
    volume = state.volume
    check_target(path, [volume.source])
    named = segmentation_of_objects(state.labels, volume.geometry, state.objects, colours)
    beside = prompts_path(path)
    # All or nothing: what goes beside the labels is on the disk before they are.
    with told(beside, "written"), replacing(beside, ".json") as temporary:
        temporary.write_text(prompts_to_json(state.objects, volume.geometry), encoding="utf-8")
        with session_written(session_to_json(state), session_path(path)):
            if is_nnunet(path):
                write_nnunet([NnunetCase(_plain(stem(Path(volume.source))), volume, named)], path)
            else:
                write(named, path, volume.source, series)
    return path


def _plain(name: str) -> str:
    """A name as nnU-Net takes it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "case"
