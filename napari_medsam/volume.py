"""Reading images and writing label maps, whatever the format.

Here arrays, (z, y, x), meet files, which count (x, y, z). What a format looks like is the business of
`napari_medsam.formats`; what a volume is, of `napari_medsam.geometry`, whose names can be imported from here.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam.formats import dicom
from napari_medsam.formats.common import replacing, same_voxels, told, unchanged
from napari_medsam.formats.dicom import DicomSeries
from napari_medsam.formats.dicom_header import looks_like_dicom
from napari_medsam.formats.itk import read_itk, write_itk
from napari_medsam.formats.nifti import read_nifti, write_nifti
from napari_medsam.formats.picture import read_picture
from napari_medsam.geometry import Geometry, GeometryError, Volume, VolumeError

__all__ = [
    "DicomSeries",
    "Geometry",
    "GeometryError",
    "Volume",
    "VolumeError",
    "list_series",
    "read_labels",
    "read_volume",
    "voxel_digest",
    "write_labels",
]

_READERS: dict[str, Callable[[Path, int | None], Volume]] = {
    **dict.fromkeys((".nii.gz", ".nii"), read_nifti),
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), read_itk),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), read_picture),
    **dict.fromkeys((".dcm", ".ima"), dicom.read_dicom_file),
}
_WRITERS: dict[str, Callable[[NDArray[np.unsignedinteger], Geometry, Path], None]] = {
    **dict.fromkeys((".nii.gz", ".nii"), write_nifti),
    **dict.fromkeys((".nrrd", ".mha", ".mhd"), write_itk),
}
_MAX_LABEL = np.iinfo(np.uint32).max


def read_volume(path: str | Path, *, series: str | None = None, time_point: int | None = None) -> Volume:
    """Read an image.

    Parameters
    ----------
    path
        A NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd) or DICOM file, a picture (.png,
        .jpg, .tif, .bmp; one slice with pixels of 1 mm), or a folder that holds a DICOM series.
    series
        UID or description of the DICOM series to read; needed when a folder holds several.
    time_point
        Which volume to read where a file or series holds several, counted from 0; needed then.

    Returns
    -------
    Volume
        Intensities after the file's rescale (HU for CT). `Volume.notes` tells what had to be decided.

    Raises
    ------
    VolumeError
        When the file is missing, damaged, of an unsupported kind, or leaves a choice that was not made.
    GeometryError
        When the file says something impossible about where its voxels lie.
    """
    path = Path(path)
    with told(path, "read"):
        volume = _read(path, series, time_point)
        if volume.array.dtype.kind == "f":
            # One slice at a time: the volume may fill the memory.
            n_odd = sum(plane.size - np.count_nonzero(np.isfinite(plane)) for plane in volume.array)
            if n_odd:
                note = f"{n_odd} voxels are not finite numbers (NaN or infinite); they were kept."
                volume = replace(volume, notes=(*volume.notes, note))
    return volume


def list_series(folder: str | Path) -> list[DicomSeries]:
    """List the DICOM image series in a folder, in the order of their first files' names.

    Files that are not DICOM, or hold no image, are passed over; subfolders are not searched.

    Raises
    ------
    VolumeError
        When there is no such folder or one of its DICOM files is damaged.
    """
    with told(Path(folder), "searched for DICOM series"):
        return dicom.list_series(Path(folder))


def read_labels(path: str | Path) -> Volume:
    """Read a label map.

    Parameters
    ----------
    path
        Any file `read_volume` reads without further choices; numbers may be stored as floats when whole.

    Returns
    -------
    Volume
        Its array, (z, y, x), has the smallest unsigned integer type that holds the largest label.

    Raises
    ------
    VolumeError, GeometryError
        When the file cannot be read, or holds anything but whole numbers of 0 to 4294967295.
    """
    volume = read_volume(path)
    with told(Path(path), "read as labels"):
        if volume.array.ndim != 3:
            raise VolumeError("it holds colours, expected whole numbers.")
        return replace(volume, array=_smallest(volume.array))


def write_labels(labels: ArrayLike, geometry: Geometry, path: str | Path) -> Path:
    """Write a label map so that it is complete and right, or not there at all.

    The labels go to a temporary file in the same folder, which is flushed to disk, read back and compared
    voxel by voxel and corner by corner, and only then renamed. Whatever goes wrong before that leaves an
    older file as it was.

    Parameters
    ----------
    labels : (z, y, x) integers or booleans
        Labels from 0 to 4294967295; stored in the smallest unsigned type that holds the largest.
    geometry
        The grid of the labels, that of the image they belong to.
    path
        Where to: .nii, .nii.gz, .nrrd, .mha or .mhd (one file, voxels included).

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    VolumeError
        When the labels are not such numbers or not of the geometry's shape, the suffix is another, or the
        file cannot be written.
    """
    path = Path(path)
    with told(path, "written"):
        suffix = _suffix(path, _WRITERS)
        if suffix is None:
            raise VolumeError(f"its name ends in none of {', '.join(_WRITERS)}, expected one of these.")
        array = np.asarray(labels)
        if array.shape != geometry.shape:
            raise VolumeError(
                f"the labels have shape {array.shape}, expected the geometry's {geometry.shape}."
            )
        if array.dtype.kind not in "bui":
            raise VolumeError(f"the labels are of type {array.dtype}, expected integers.")
        _write_safely(_smallest(array), geometry, path, suffix)
    return path


def voxel_digest(volume: Volume) -> str:
    """Say which voxels a volume has, wherever they came from.

    Returns
    -------
    str
        ``sha256:`` and the digest of type, shape and voxels in C order, the low byte first.
    """
    array = volume.array
    plain = array.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{plain.str} {array.shape} ".encode())
    for plane in array:
        # One slice at a time: the volume may be larger than the memory.
        digest.update(np.ascontiguousarray(plane, plain).data)
    return f"sha256:{digest.hexdigest()}"


def _read(path: Path, series: str | None, time_point: int | None) -> Volume:
    if not path.exists():
        raise VolumeError("it does not exist, expected an image file or a folder with a DICOM series.")
    if path.is_dir():
        return dicom.read_dicom_folder(path, series, time_point)
    if series is not None:
        raise VolumeError(
            f"the series '{series}' was asked for, expected a folder then; leave it out for a file."
        )
    if not path.is_file():
        raise VolumeError("it is a device or a pipe, expected an image file or a folder.")
    with unchanged(path):
        return _read_file(path, time_point)


def _read_file(path: Path, time_point: int | None) -> Volume:
    suffix = _suffix(path, _READERS)
    if suffix is not None:
        return _READERS[suffix](path, time_point)
    if looks_like_dicom(path):
        return dicom.read_dicom_file(path, time_point)
    raise VolumeError(
        f"its type is unknown, expected DICOM or a name that ends in one of {', '.join(_READERS)}."
    )


def _write_safely(labels: NDArray[np.unsignedinteger], geometry: Geometry, path: Path, suffix: str) -> None:
    # Voxels inside an .mhd are as valid as beside it, and two files could not be replaced at once.
    with replacing(path, ".mha" if suffix == ".mhd" else suffix) as temporary:
        _WRITERS[suffix](labels, geometry, temporary)
        written = read_labels(temporary)
        difference = geometry.difference(written.geometry)
        if difference or not same_voxels(written.array, labels):
            reason = difference.rstrip(".") or "other voxels"
            raise VolumeError(
                f"what was read back differs ({reason}), expected the same; use .nrrd, or another disk."
            )


def _smallest(labels: NDArray) -> NDArray[np.unsignedinteger]:
    """Labels in the smallest unsigned type; VolumeError unless all are whole numbers in range."""
    low, high = labels.min(), labels.max()
    if not 0 <= low <= high <= _MAX_LABEL:
        raise VolumeError(f"the labels go from {low} to {high}, expected whole numbers of 0 to {_MAX_LABEL}.")
    if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
        raise VolumeError(
            f"not all labels of {low:g} to {high:g} are whole numbers, expected a label map, not an image."
        )
    return labels.astype(np.min_scalar_type(int(high)), copy=False)


def _suffix(path: Path, known: Iterable[str]) -> str | None:
    return next((suffix for suffix in known if path.name.lower().endswith(suffix)), None)
