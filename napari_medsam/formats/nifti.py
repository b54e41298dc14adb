"""NIfTI files, .nii and .nii.gz.

Read and written here rather than through ITK, for four facts measured with SimpleITK 2.5.7:

- ITK drops the third dimension of a 2D image's place (a coronal slice cannot be read at all), and does not
say which
  of the header's two orientations, qform and sform, it used.
- It writes every orientation into the qform too, a quaternion in float32: up to 0.6 mm off at the far corner
of a
  slightly tilted 512 x 512 x 300 scan, for software that reads the qform.
- Asked for x.nii.gz, it reads the voxels of an x.nii that lies beside it.
- It believes the header's sizes and allocates what a damaged one asks for.
"""

import gzip
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_medsam.formats.common import (
    DEFLATE_RATIO,
    GZIP_LEVEL,
    check_size,
    chosen_volume,
    colours_to_rgb,
    is_gzip,
)
from napari_medsam.formats.nifti_header import (
    Layout,
    build_header,
    extensions_in,
    geometry_of,
    layout_of,
    read_header,
)
from napari_medsam.geometry import Geometry, Volume, VolumeError

__all__ = ["read_extensions", "read_nifti", "write_nifti"]

_READ_PAST_END = 2**20
_MOST_EXTENSION_BYTES = 2**24


# Signalling NaNs of a damaged header are dealt with as values; numpy need not warn of them too.
@np.errstate(over="ignore", invalid="ignore")
def read_nifti(path: Path, time_point: int | None = None) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file.

    Parameters
    ----------
    path
        A .nii or .nii.gz file; whether it is compressed is seen from its content.
    time_point
        Which volume of a 4D file to read, counted from 0.

    Returns
    -------
    Volume
        Voxels keep their type unless the header scales them; scaled ones are float32, or float64 when they
        are stored with 32 bits or more. NIfTI knows no modality.

    Raises
    ------
    VolumeError, GeometryError
        When the file is damaged, of an unsupported kind, or 4D and no time point was given.
    """
    notes: list[str] = []
    compressed = is_gzip(path)
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            header = read_header(stream)
            layout = layout_of(header)
            check_size(layout.end, path.stat().st_size * (DEFLATE_RATIO if compressed else 1))
            index = chosen_volume(layout.volumes, time_point, notes)
            geometry = geometry_of(header, layout.shape, notes)
            voxels = _read_voxels(stream, layout, index, header)
            stream.seek(layout.end)
            # Reading past the end is what makes gzip compare its checksum.
            if stream.read(_READ_PAST_END):
                notes.append("The file goes on after the voxels its header declares; the rest was left out.")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"the file is damaged or cut short ({error}), expected a whole NIfTI file."
        ) from None
    array = voxels if layout.channels == 1 else colours_to_rgb(voxels, notes)
    return Volume(array, geometry, "RGB" if array.ndim == 4 else "", str(path), tuple(notes))


def read_extensions(path: Path) -> list[tuple[int, bytes]]:
    """Read what stands between header and voxels: code and content of each header extension.

    At most 16 MB of them; what is damaged ends the list.

    Raises
    ------
    VolumeError
        When the file is no NIfTI file.
    """
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as stream:
            header = read_header(stream)
            size = layout_of(header).offset - header.dtype.itemsize
            return extensions_in(stream.read(min(size, _MOST_EXTENSION_BYTES)), header)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"the file is damaged or cut short ({error}), expected a whole NIfTI file."
        ) from None


def write_nifti(
    labels: NDArray[np.unsignedinteger],
    geometry: Geometry,
    path: Path,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> None:
    """Write labels as a new NIfTI-1 file, gzipped when the name ends in .gz.

    Parameters
    ----------
    labels : (z, y, x) unsigned integers
        What to write.
    geometry
        The grid of `labels`.
    path
        A file that does not exist yet.
    extensions
        Code and content of each header extension.

    Raises
    ------
    VolumeError
        When an axis is longer than NIfTI-1 can say.
    """
    header = build_header(geometry, labels.dtype, extensions)
    voxels = np.ascontiguousarray(labels, dtype=labels.dtype.newbyteorder("<"))
    with ExitStack() as files:
        stream: BufferedIOBase = files.enter_context(path.open("xb"))
        if path.suffix == ".gz":
            # No name and no time in the gzip header: the same labels give the same bytes.
            stream = files.enter_context(gzip.GzipFile("", "wb", GZIP_LEVEL, stream, mtime=0))
        stream.write(header)
        stream.write(voxels.data)


def _read_voxels(stream: BufferedIOBase, layout: Layout, index: int, header: np.void) -> NDArray:
    """Read volume `index` as (z, y, x), or (z, y, x, channels) for colours, in native byte order and scaled.

    A slice at a time: the volume that is returned, and one slice, is all the memory that is needed.
    """
    dtype = layout.dtype.newbyteorder("=")
    scale = _scale(header) if layout.channels == 1 else None
    if scale is not None:
        dtype = np.dtype(np.float64 if dtype.itemsize >= 4 else np.float32)
    colours = (layout.channels,) * (layout.channels > 1)
    voxels = np.empty((*layout.shape, *colours), dtype)
    # Where each colour is a whole volume, they follow each other.
    planes = [voxels[..., n] for n in range(layout.channels)] if layout.planar else [voxels]
    stream.seek(layout.offset + index * layout.volume_bytes)
    buffer = np.empty(planes[0][0].size, layout.dtype)
    left = layout.volume_bytes
    for target in (plane for part in planes for plane in part):
        left = _fill(stream, buffer, left)
        plane = buffer.reshape(target.shape)
        target[...] = plane if scale is None else plane.astype(np.float64) * scale[0] + scale[1]
    return voxels


def _fill(stream: BufferedIOBase, buffer: NDArray, left: int) -> int:
    """Fill a buffer, and return how many bytes are left of those that the file still has to hold."""
    octets = buffer.view(np.uint8).data
    done = 0
    while done < len(octets):
        count = stream.readinto(octets[done:])
        if not count:
            raise EOFError(f"{left - done} bytes are missing")
        done += count
    return left - done


def _scale(header: np.void) -> tuple[float, float] | None:
    """scl_slope and scl_inter; None where they change nothing, as a slope of 0 or NaN does."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope) or (slope, inter) == (1.0, 0.0):
        return None
    if not np.isfinite(inter):
        raise VolumeError(
            f"the header's scl_inter is {inter}, expected a finite number beside scl_slope {slope:g}."
        )
    return slope, inter
