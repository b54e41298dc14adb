"""Segmentations from and to one file each, the format told by the name's ending."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_medsam import __version__
from napari_medsam.export.grids import placed_on
from napari_medsam.formats import bids, caret, itksnap
from napari_medsam.formats.common import replacing, same_voxels, told, unchanged
from napari_medsam.formats.dicom_header import looks_like_dicom, read_dicom_header
from napari_medsam.formats.dicom_objects import header_of
from napari_medsam.formats.dicom_seg import read_dicom_seg, write_dicom_seg
from napari_medsam.formats.nifti import read_extensions, write_nifti
from napari_medsam.formats.rtstruct import read_rtstruct
from napari_medsam.formats.slicer import is_slicer, read_slicer, write_slicer
from napari_medsam.geometry import Geometry, GeometryError, VolumeError
from napari_medsam.segments import Color, Segmentation, SegmentationError
from napari_medsam.volume import read_labels, write_labels

if TYPE_CHECKING:
    from napari_medsam.terminology import Term

__all__ = ["SUFFIXES", "read_if_labels", "read_segmentation", "write_segmentation"]

SUFFIXES = {
    ".nii.gz": "NIfTI with names and colours in its header, and BIDS's .tsv and .json beside it",
    ".nii": "the same, not compressed",
    ".seg.nrrd": "3D Slicer segmentation with names, colours, codes and overlaps",
    ".dcm": "DICOM Segmentation of a DICOM series, with codes and overlaps",
    ".txt": "ITK-SNAP label description: names and colours, no voxels",
    ".nrrd": "voxels only",
    ".mha": "voxels only",
    ".mhd": "voxels only",
}
"""What `write_segmentation` writes, by ending."""

_NIFTI = (".nii.gz", ".nii")
_STEM = re.compile(r"(\.nii|\.seg)?\.[^.]*$", re.IGNORECASE)
_LIKE_LABELS = re.compile(r"(^|[-_. ])(d?seg|segmentation|labels?|mask)$", re.IGNORECASE)


def read_segmentation(
    path: str | Path, *, geometry: Geometry | None = None, names_from: str | Path | None = None
) -> Segmentation:
    """Read labels with whatever the file says of their names, colours and codes.

    Parameters
    ----------
    path
        A 3D Slicer segmentation (.seg.nrrd), a DICOM segmentation or structure set, or any file that
        `napari_medsam.volume.read_labels` reads. For NIfTI, names come from the header and from a .tsv table
        beside the file.
    geometry
        The grid of the image; needed for structure sets, which hold contours instead of voxels.
    names_from
        A table (.tsv) or ITK-SNAP label description (.txt) with names and colours, which go before others.

    Returns
    -------
    Segmentation
        On its own grid: see `napari_medsam.export.placed_on`.

    Raises
    ------
    VolumeError, GeometryError, SegmentationError
        When the file cannot be read; one sentence.
    """
    path = Path(path)
    found = _read(path, geometry)
    if names_from is None:
        return found
    with told(Path(names_from), "read"):
        return _renamed(found, _table(Path(names_from)))


def read_if_labels(path: str | Path, *, geometry: Geometry | None = None) -> Segmentation | None:
    """Read a file when it says that it holds labels, not an image.

    That say 3D Slicer's and DICOM's segmentations, structure sets, and NIfTI files with names of labels in
    the header. If the voxels are whole numbers from 0 up, names of labels in a table beside a NIfTI file say
    so too, and a file's name that ends like ``_seg``, ``_dseg``, ``_labels`` or ``_mask``.

    Parameters
    ----------
    path, geometry
        As for `read_segmentation`.

    Returns
    -------
    Segmentation or None
        None for an image, or what may be one.

    Raises
    ------
    VolumeError, GeometryError, SegmentationError
        When it holds labels, but cannot be read.
    """
    path = Path(path)
    with told(path, "read"):
        says_so = _says_labels(path)
        is_nifti = path.name.lower().endswith(_NIFTI) and path.is_file()
        is_named = not says_so and is_nifti and _nifti_table(path, [])
    if says_so:
        return read_segmentation(path, geometry=geometry)
    if not is_named and _LIKE_LABELS.search(_STEM.sub("", path.name)) is None:
        return None
    try:
        return read_segmentation(path)
    except (VolumeError, GeometryError, SegmentationError):
        return None


def write_segmentation(
    segmentation: Segmentation,
    path: str | Path,
    *,
    series: Sequence[Path] = (),
    sources: Sequence[str] = (),
) -> list[Path]:
    """Write a segmentation, complete and read back, or not at all.

    Parameters
    ----------
    segmentation
        Formats for one label map refuse overlapping segments: see `Segmentation.flattened`.
    path
        Where to; the ending, one of `SUFFIXES`, tells the format.
    series
        The files of the DICOM series the labels lie on, needed for DICOM: see `series_files`.
    sources
        Paths of the images the labels were made on, for the description beside a NIfTI file.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    VolumeError, GeometryError, SegmentationError
        When it cannot be written; an older file stays as it was.
    """
    path = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    with told(path, "written"):
        if suffix is None:
            raise VolumeError(f"its name ends in none of {', '.join(SUFFIXES)}, expected one of these.")
        if suffix in _NIFTI:
            return _write_nifti(segmentation, path, suffix, sources)
        if suffix == ".seg.nrrd":
            with replacing(path, suffix) as temporary:
                write_slicer(segmentation, temporary)
                _check(read_slicer(temporary), segmentation)
            return [path]
        if suffix == ".dcm":
            if not series:
                raise VolumeError("a DICOM segmentation refers to a DICOM series, expected the files of one.")
            if path.exists() and any(map(path.samefile, series)):
                raise VolumeError("it is an image of the series itself, expected another name.")
            with replacing(path, suffix) as temporary:
                write_dicom_seg(segmentation, temporary, series, __version__)
                _check_masks(read_dicom_seg(temporary), segmentation)
            return [path]
        if suffix == ".txt":
            with replacing(path, suffix) as temporary:
                text = itksnap.description_text(segmentation.flattened("first").segments)
                temporary.write_text(text, encoding="utf-8")
            return [path]
    return [write_labels(segmentation.flattened().labels, segmentation.geometry, path)]


def _says_labels(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix.lower() == ".nrrd":
        return is_slicer(path)
    if path.name.lower().endswith(_NIFTI):
        return bool(_header_table(path))
    return looks_like_dicom(path) and read_dicom_header(path) is None


def _read(path: Path, geometry: Geometry | None) -> Segmentation:
    with told(path, "read"), unchanged(path):
        if path.is_file() and path.suffix.lower() == ".nrrd" and is_slicer(path):
            return read_slicer(path)
        if path.is_file() and looks_like_dicom(path):
            modality = header_of(path).get("Modality")
            if modality == "SEG":
                return read_dicom_seg(path)
            if modality == "RTSTRUCT":
                if geometry is None:
                    raise VolumeError("it holds contours, not voxels, expected the image to fill them in on.")
                return read_rtstruct(path, geometry)
    volume = read_labels(path)
    names: dict[int, str] = {}
    colors: dict[int, Color] = {}
    terms: dict[int, Term] = {}
    notes = list(volume.notes)
    if path.name.lower().endswith(_NIFTI):
        with told(path, "read"):
            table = _nifti_table(path, notes)
        for label, row in table.items():
            names[label] = row.name
            if row.color is not None:
                colors[label] = row.color
            if row.term is not None:
                terms[label] = row.term
    return Segmentation.from_labels(
        volume.array,
        volume.geometry,
        names=names,
        colors=colors,
        terms=terms,
        source=str(path),
        notes=tuple(notes),
    )


def _header_table(path: Path) -> dict[int, bids.LabelRow]:
    """What a NIfTI file's header says of the labels."""
    found = [
        caret.parse_label_table(content) for code, content in read_extensions(path) if code in caret.ECODES
    ]
    return {
        label: bids.LabelRow(name, color, None)
        for table in found
        for label, (name, color) in (table or {}).items()
    }


def _nifti_table(path: Path, notes: list[str]) -> dict[int, bids.LabelRow]:
    """What the header, and the table beside the file, say of the labels."""
    rows = _header_table(path)
    beside = bids.sidecar_path(path, ".tsv")
    if not beside.is_file():
        return rows
    try:
        with told(beside, "read"):
            table = bids.parse_table(beside)
    except ValueError as error:
        # A table that is none must not keep anybody from the voxels.
        notes.append(str(error))
        return rows
    for label, row in table.items():
        own = rows.get(label)
        # Names in the header went with the voxels wherever those were copied, the table may be older.
        if own is None or own.name == row.name:
            rows[label] = row
    return rows


def _table(path: Path) -> dict[int, bids.LabelRow]:
    if path.suffix.lower() == ".tsv":
        return bids.parse_table(path)
    found = itksnap.parse_description(path)
    return {label: bids.LabelRow(name, color, None) for label, (name, color) in found.items()}


def _renamed(segmentation: Segmentation, table: dict[int, bids.LabelRow]) -> Segmentation:
    segments = []
    for segment in segmentation.segments:
        row = table.get(segment.label)
        if row is not None:
            segment = replace(segment, name=row.name or segment.name, color=row.color or segment.color)
            segment = replace(segment, term=row.term or segment.term)
        segments.append(segment)
    return replace(segmentation, segments=tuple(segments))


def _write_nifti(segmentation: Segmentation, path: Path, suffix: str, sources: Sequence[str]) -> list[Path]:
    flat = segmentation.flattened()
    table, description = bids.free_sidecars(path)
    with ExitStack() as files:
        # The label map takes its place last: with it there, the others are.
        voxels = files.enter_context(replacing(path, suffix))
        names = [(caret.ECODES[0], caret.build_label_table(flat.segments))]
        write_nifti(flat.labels, flat.geometry, voxels, names)
        _check(_read(voxels, None), flat)
        for beside, text in (
            (table, bids.table_text(flat.segments)),
            (description, bids.description_text(sources, __version__, overlaps=flat is not segmentation)),
        ):
            temporary = files.enter_context(replacing(beside, beside.suffix))
            temporary.write_text(text, encoding="utf-8")
    return [path, table, description]


def _check_masks(written: Segmentation, meant: Segmentation) -> None:
    """Compare voxels where segments were numbered anew and those without a voxel left out."""
    found = placed_on(written, meant.geometry)
    masks = [mask for mask in map(meant.mask, meant.segments) if mask.any()]
    if len(masks) != len(found.segments) or not all(
        np.array_equal(found.mask(segment), mask) for segment, mask in zip(found.segments, masks, strict=True)
    ):
        raise VolumeError("what was read back differs, expected the same voxels; is the series complete?")


def _check(written: Segmentation, meant: Segmentation) -> None:
    """Compare what was read back with what was to be written."""
    difference = meant.geometry.difference(written.geometry).rstrip(".")
    if len(written.layers) != len(meant.layers) or not all(map(same_voxels, written.layers, meant.layers)):
        difference = difference or "other voxels"
    named = [
        {(each.layer, each.label): (each.name, each.color) for each in one.segments}
        for one in (written, meant)
    ]
    if named[0] != named[1]:
        difference = difference or "other names or colours"
    if difference:
        raise VolumeError(f"what was read back differs ({difference}), expected the same; try another disk.")
