"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd), read and written by ITK; and ITK without its noise."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.formats.common import (
    GZIP_LEVEL,
    check_size,
    chosen_volume,
    colours_to_rgb,
    no_stderr,
    placed,
    printable,
)
from napari_medsam.formats.data_files import held_bytes
from napari_medsam.geometry import Geometry, Volume, VolumeError

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

__all__ = ["ItkImage", "itk_name", "quiet_itk", "read_all", "read_itk", "write_itk"]

_MODALITIES = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR", "MET_MOD_US": "US"}


@dataclass(frozen=True)
class ItkImage:
    """Everything a file holds.

    Attributes
    ----------
    voxels : (time, z, y, x, channels)
        Of the file's own type.
    geometry
        The grid of one volume.
    modality
        As MetaImage says it, "" where the file does not.
    notes
        What had to be decided, one sentence each.
    """

    voxels: NDArray
    geometry: Geometry
    modality: str
    notes: tuple[str, ...]


def read_all(path: Path) -> ItkImage:
    """Read every volume and channel of an NRRD or MetaImage file.

    Raises
    ------
    VolumeError, GeometryError
        When the file is damaged or of an unsupported kind.
    """
    from SimpleITK import GetArrayFromImage, GetPixelIDValueAsString, ImageFileReader

    notes: list[str] = []
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    held = held_bytes(path, nrrd)  # before ITK opens what the header names
    reader = ImageFileReader()
    reader.SetFileName(itk_name(path))
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
    with quiet_itk():
        reader.ReadImageInformation()
        kind = GetPixelIDValueAsString(reader.GetPixelID())
    bits = re.search(r"(\d+)-bit (?:un)?(?:signed integer|float)", kind)
    if bits is None or kind.startswith("complex"):
        raise VolumeError(
            f"the voxels are of type '{kind}', expected real numbers or 8-bit RGB; convert the file."
        )
    channels = reader.GetNumberOfComponents()
    check_size(prod(reader.GetSize()) * channels * int(bits[1]) / 8, held)
    geometry = _geometry(reader, notes)
    with quiet_itk():
        voxels = GetArrayFromImage(reader.Execute()).reshape(-1, *geometry.shape, channels)
        modality = reader.GetMetaData("Modality") if reader.HasMetaDataKey("Modality") else ""
    return ItkImage(voxels, geometry, modality, tuple(notes))


def read_itk(path: Path, time_point: int | None = None) -> Volume:
    """Read an NRRD or MetaImage file.

    Parameters
    ----------
    path
        A .nrrd, .nhdr, .mha or .mhd file.
    time_point
        Which volume of a 4D file to read, counted from 0.

    Returns
    -------
    Volume
        Voxels of the file's own type; colours as RGB.

    Raises
    ------
    VolumeError, GeometryError
        When the file is damaged, of an unsupported kind, or 4D and no time point was given.
    """
    found = read_all(path)
    notes = list(found.notes)
    channels = found.voxels.shape[-1]
    coloured = found.voxels.dtype == np.uint8 and channels in (3, 4)
    index = chosen_volume(len(found.voxels) * (1 if coloured else channels), time_point, notes)
    if coloured:
        array = colours_to_rgb(found.voxels[index], notes)
        return Volume(array, found.geometry, "RGB", str(path), tuple(notes))
    moment, channel = divmod(index, channels)
    array = np.ascontiguousarray(found.voxels[moment, ..., channel])
    return Volume(array, found.geometry, _MODALITIES.get(found.modality, ""), str(path), tuple(notes))


def write_itk(labels: NDArray[np.unsignedinteger], geometry: Geometry, path: Path) -> None:
    """Write labels as a compressed .nrrd or .mha file.

    Parameters
    ----------
    labels : (z, y, x) unsigned integers
        What to write.
    geometry
        The grid of `labels`.
    path
        Where to; the suffix chooses the format.

    Raises
    ------
    VolumeError
        When ITK cannot write there.
    """
    from SimpleITK import GetImageFromArray, WriteImage

    image = GetImageFromArray(labels)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    with quiet_itk():
        WriteImage(image, itk_name(path), useCompression=True, compressionLevel=GZIP_LEVEL)


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's warnings off the terminal, and turn its errors into a `VolumeError` of one sentence.

    MetaIO and OpenJPEG write to standard error past ITK's own switch; hence `no_stderr`.
    """
    from SimpleITK import ProcessObject

    with no_stderr():
        shown = ProcessObject.GetGlobalWarningDisplay()
        ProcessObject.SetGlobalWarningDisplay(False)
        try:
            yield
        except RuntimeError as error:
            raise VolumeError(
                f"ITK fails ({_gist(str(error))}), expected a file it can read or write."
            ) from None
        finally:
            ProcessObject.SetGlobalWarningDisplay(shown)


def itk_name(path: Path) -> str:
    """A path as ITK takes it, which ends the process when given one that is not UTF-8.

    Raises
    ------
    VolumeError
        When it is not, as names from old archives may be.
    """
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise VolumeError(
            "its path has bytes that are not UTF-8, expected UTF-8; rename the file or its folder."
        ) from None
    return name


def _gist(message: str) -> str:
    """Last line of an ITK error that says something, without ITK's prefixes and addresses."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and "Reason: " not in line]
    gist = re.sub(r"(?:(?:ITK|sitk::) ?ERROR: )?(?:\w+\(0x[0-9a-f]+\): )?", "", (lines or [""])[-1], count=1)
    return printable(gist).rstrip(".") or "no reason given"


def _geometry(reader: "ImageFileReader", notes: list[str]) -> Geometry:
    """Geometry of the file the reader looked at; a 2D image becomes one slice at z = 0, time is left out."""
    n_axes = reader.GetDimension()
    if n_axes < 2:
        raise VolumeError(f"the image has {n_axes} axis, expected 2 to 4.")
    n_space = min(n_axes, 3)
    direction = np.reshape(reader.GetDirection(), (n_axes, n_axes))[:n_space, :n_space]
    affine = np.eye(4)
    affine[:n_space, :n_space] = direction * reader.GetSpacing()[:n_space]
    affine[:n_space, 3] = reader.GetOrigin()[:n_space]
    x, y, z = (*reader.GetSize(), 1)[:3]
    return placed((z, y, x), affine, notes)
