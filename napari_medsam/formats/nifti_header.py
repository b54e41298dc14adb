"""The header of a NIfTI file: where the voxels lie in the file, and where in the patient.

Fields and their meaning: https://nifti.nimh.nih.gov/nifti-1 and https://nifti.nimh.nih.gov/nifti-2.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_medsam.formats.common import WORTH_A_NOTE_MM, placed
from napari_medsam.geometry import TOLERANCE_MM, Geometry, GeometryError, VolumeError

__all__ = ["Layout", "build_header", "extensions_in", "geometry_of", "layout_of", "read_header"]

_FIELDS: dict[int, dict[str, tuple[str, int]]] = {
    348: {
        "sizeof_hdr": ("i4", 0),
        "dim": ("8i2", 40),
        "datatype": ("i2", 70),
        "bitpix": ("i2", 72),
        "pixdim": ("8f4", 76),
        "vox_offset": ("f4", 108),
        "scl_slope": ("f4", 112),
        "scl_inter": ("f4", 116),
        "xyzt_units": ("u1", 123),
        "qform_code": ("i2", 252),
        "sform_code": ("i2", 254),
        "quatern": ("3f4", 256),
        "qoffset": ("3f4", 268),
        "srow": ("(3,4)f4", 280),
        "magic": ("S4", 344),
    },
    540: {
        "sizeof_hdr": ("i4", 0),
        "magic": ("S8", 4),
        "datatype": ("i2", 12),
        "dim": ("8i8", 16),
        "pixdim": ("8f8", 104),
        "vox_offset": ("i8", 168),
        "scl_slope": ("f8", 176),
        "scl_inter": ("f8", 184),
        "qform_code": ("i4", 344),
        "sform_code": ("i4", 348),
        "quatern": ("3f8", 352),
        "qoffset": ("3f8", 376),
        "srow": ("(3,4)f8", 400),
        "xyzt_units": ("i4", 500),
    },
}
"""Type and offset of the fields used here, by header size: 348 bytes in NIfTI-1, 540 in NIfTI-2."""

_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_COLOUR_CHANNELS = {128: 3, 2304: 4}
_MAX_BYTES = 2**50
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SAME_FORM = 1e-4
"""A qform and an sform whose elements in mm differ by no more than this say the same."""


@dataclass(frozen=True)
class Layout:
    """Where the voxels lie in the file.

    Parameters
    ----------
    shape : (3,) int
        Voxels of one volume along (z, y, x).
    volumes
        How many volumes follow each other.
    channels
        Colours of a voxel, 1 when it is a plain number.
    planar
        Whether each colour is a whole volume, rather than the colours of a voxel lying side by side.
    dtype
        Type of one number, in the byte order of the file.
    offset
        First byte of the first volume.
    """

    shape: tuple[int, int, int]
    volumes: int
    channels: int
    planar: bool
    dtype: np.dtype
    offset: int

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume with all its colours."""
        return prod(self.shape) * self.channels * self.dtype.itemsize

    @property
    def end(self) -> int:
        """First byte after the last volume."""
        return self.offset + self.volumes * self.volume_bytes


def read_header(stream: BufferedIOBase) -> np.void:
    """Read the header at the start of a stream, of either version and byte order, as a record of numbers.

    Raises
    ------
    VolumeError
        When the stream does not start with one.
    """
    data = stream.read(348)
    for size, magic in ((348, b"n+1"), (540, b"n+2")):
        for dtype in (_header_dtype(size, "<"), _header_dtype(size, ">")):
            if np.frombuffer(data[:4].ljust(4), dtype["sizeof_hdr"])[0] != size:
                continue
            data += stream.read(size - 348)
            header = np.frombuffer(data.ljust(size, b"\0"), dtype)[0]
            if header["magic"][:3] == magic and len(data) == size:
                return header
            if header["magic"][:3] in (b"ni1", b"ni2"):
                raise VolumeError(
                    "this is half of a .hdr/.img pair, expected a single .nii or .nii.gz; convert it."
                )
    raise VolumeError("the content is not NIfTI, expected a file that starts with a NIfTI header.")


def layout_of(header: np.void) -> Layout:
    """Work out where the voxels lie.

    Raises
    ------
    VolumeError
        When the header's sizes or voxel type make no sense or are not supported.
    """
    n_axes = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : max(n_axes, 0) + 1]]
    if not 2 <= n_axes <= 7 or min(sizes) < 1:
        raise VolumeError(
            f"the header's dim is {header['dim'].tolist()}, expected 2 to 7 axes of 1 or more voxels."
        )
    x, y, z, *more = [*sizes, 1][: max(n_axes, 3)]
    code = int(header["datatype"])
    if code not in _TYPES and code not in _COLOUR_CHANNELS:
        raise VolumeError(
            f"the voxels are of NIfTI type {code}, expected real numbers or 8-bit RGB; convert the file."
        )
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _MAX_BYTES or prod(sizes) > _MAX_BYTES:
        raise VolumeError(
            f"the header asks for {prod(sizes):g} voxels at byte {offset:g}, more than a file can hold."
        )
    planar = code == 2 and more == [1, 3]
    return Layout(
        shape=(z, y, x),
        volumes=1 if planar else prod(more),
        channels=3 if planar else _COLOUR_CHANNELS.get(code, 1),
        planar=planar,
        dtype=np.dtype(_TYPES.get(code, "u1")).newbyteorder(header.dtype["datatype"].byteorder),
        offset=max(int(offset), header.dtype.itemsize + 4),
    )


def geometry_of(header: np.void, shape: tuple[int, int, int], notes: list[str]) -> Geometry:
    """Work out where the voxels lie in the patient, in LPS.

    Which of the header's two orientations counts is ITK's choice, so that a scan lies here where it lies in
    3D Slicer and ITK-SNAP: the sform when it is a scanner's (code 1), when the two agree or when there is no
    qform; else the qform. One that is sheared or has no positive spacing gives way to the other.

    Parameters
    ----------
    header
        From `read_header`.
    shape
        Voxels of one volume along (z, y, x).
    notes
        Receives a sentence when the header left a choice.

    Raises
    ------
    GeometryError
        When no usable orientation and spacing is there.
    """
    affines: dict[str, NDArray[np.float64]] = {}
    forms: dict[str, Geometry] = {}
    problem: GeometryError | None = None
    for name, affine in (("sform", _sform), ("qform", _qform)):
        if header[f"{name}_code"] <= 0:
            continue
        try:
            affines[name] = _RAS_TO_LPS @ affine(header, shape)
            forms[name] = Geometry.from_affine(shape, affines[name])
        except GeometryError as error:
            problem = error
    if not forms and problem is not None:
        raise problem
    if not forms:
        notes.append(
            "The header gives no orientation: x, y, z were taken for left, posterior, superior, as ITK does."
        )
        return Geometry.from_affine(shape, np.diag([*_zooms(header, shape), 1.0]))
    if len(forms) == 1:
        used = next(iter(forms))
        if problem is not None:
            notes.append(
                f"Only the header's {used} could be used, its other orientation is invalid: {problem}"
            )
        return placed(shape, affines[used], notes)
    same = np.abs(affines["sform"] - affines["qform"]).max() <= _SAME_FORM
    straight = forms["sform"].distance_mm(affines["sform"]) <= TOLERANCE_MM
    used = "sform" if straight and (same or header["sform_code"] == 1) else "qform"
    apart_mm = forms["sform"].distance_mm(affines["qform"])
    if apart_mm > WORTH_A_NOTE_MM:
        notes.append(
            f"The header's qform and sform lie up to {apart_mm:.3g} mm apart: the {used} was used, as in ITK."
        )
    return placed(shape, affines[used], notes)


def build_header(geometry: Geometry, dtype: np.dtype, extensions: Sequence[tuple[int, bytes]] = ()) -> bytes:
    """Build what precedes the voxels of a NIfTI-1 file: 352 bytes, and header extensions.

    The sform always holds the geometry. The qform holds it too, except where a float32 quaternion would be
    more than 1e-3 mm off; then its code is 0 and readers go by the sform.

    Parameters
    ----------
    geometry
        Where the voxels lie.
    dtype
        Their type, one that NIfTI has.
    extensions
        Code and content of each header extension.

    Raises
    ------
    VolumeError
        When an axis is longer than NIfTI-1 can say.
    """
    if max(geometry.shape) > np.iinfo(np.int16).max:
        raise VolumeError(
            f"the shape is {geometry.shape}, expected at most 32767 voxels an axis; use .nrrd or .mha."
        )
    header = np.zeros(1, _header_dtype(348, "<"))[0]
    header["sizeof_hdr"] = 348
    header["magic"] = b"n+1"
    header["dim"] = (3, *geometry.shape[::-1], 1, 1, 1, 1)
    header["datatype"] = next(code for code, name in _TYPES.items() if np.dtype(name) == dtype)
    header["bitpix"] = 8 * dtype.itemsize
    tail = b"".join(_extension(code, content) for code, content in extensions)
    header["vox_offset"] = 352 + len(tail)
    header["scl_slope"] = 1
    header["xyzt_units"] = 2
    affine = _RAS_TO_LPS @ geometry.affine
    header["sform_code"] = 1
    header["srow"] = affine[:3]
    rotation = np.reshape(geometry.direction, (3, 3)) * [[-1], [-1], [1]]
    handedness = 1 if np.linalg.det(rotation) > 0 else -1
    header["pixdim"] = (handedness, *geometry.spacing[::-1], 0, 0, 0, 0)
    header["quatern"] = _quaternion(rotation * [1, 1, handedness])
    header["qoffset"] = affine[:3, 3]
    off_mm = geometry.distance_mm(_RAS_TO_LPS @ _qform(header, geometry.shape))
    header["qform_code"] = int(off_mm <= TOLERANCE_MM)
    return header.tobytes() + bytes([bool(tail), 0, 0, 0]) + tail


def extensions_in(data: bytes, header: np.void) -> list[tuple[int, bytes]]:
    """Code and content of each extension in the bytes between a header and its voxels."""
    found: list[tuple[int, bytes]] = []
    order = header.dtype["datatype"].byteorder
    at = 4
    while data[:1] not in (b"", b"\0") and len(data) >= at + 8:
        size, code = struct.unpack_from(f"{order}2i", data, at)
        if size < 8 or size > len(data) - at:
            break
        found.append((code, data[at + 8 : at + size]))
        at += size
    return found


def _extension(code: int, content: bytes) -> bytes:
    """One extension, filled up with spaces, which XML ignores, to the multiple of 16 bytes NIfTI asks for."""
    size = -(-(len(content) + 8) // 16) * 16
    return struct.pack("<2i", size, code) + content.ljust(size - 8)


def _header_dtype(size: int, order: Literal["<", ">"]) -> np.dtype:
    fields = _FIELDS[size]
    return np.dtype(
        {
            "names": list(fields),
            "formats": [np.dtype(kind).newbyteorder(order) for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": size,
        }
    )


def _zooms(header: np.void, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Spacing (x, y, z) in mm; 1 mm along an axis of one voxel for which the header gives none."""
    zooms = header["pixdim"][1:4].astype(np.float64)
    zooms[(zooms == 0) & (np.array(shape[::-1]) == 1)] = 1.0
    if not ((zooms > 0) & (zooms < np.inf)).all():
        raise GeometryError(
            f"the header's pixdim gives a spacing of {zooms[::-1].tolist()} mm (z, y, x), expected positive "
            "numbers."
        )
    return zooms * _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _sform(header: np.void, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """(4, 4) from voxel index (x, y, z, 1) to RAS mm."""
    affine = np.eye(4)
    affine[:3] = header["srow"].astype(np.float64) * _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    for axis in range(3):
        if shape[2 - axis] == 1 and not affine[:3, axis].any():
            normal = np.cross(affine[:3, axis - 2], affine[:3, axis - 1])
            affine[:3, axis] = normal / (np.linalg.norm(normal) or 1.0)
    return affine


def _qform(header: np.void, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """(4, 4) from voxel index (x, y, z, 1) to RAS mm."""
    vector = header["quatern"].astype(np.float64)
    length2 = float(vector @ vector) if np.abs(vector).max() < 2 else np.inf
    if not length2 < 1.01:
        raise GeometryError(f"the header's quaternion is {vector.tolist()}, expected a unit quaternion.")
    scalar = np.sqrt(max(1.0 - length2, 0.0))
    if scalar**2 < 1e-7:
        scalar, vector = 0.0, vector / np.sqrt(length2)
    b, c, d = vector
    cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    rotation = np.eye(3) + 2 * scalar * cross + 2 * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = rotation * _zooms(header, shape)
    if header["pixdim"][0] < 0:
        affine[:3, 2] *= -1
    affine[:3, 3] = header["qoffset"] * _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """(b, c, d) of a (3, 3) rotation, for a >= 0, after Bar-Itzhack 2000 (doi:10.2514/2.4654)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    quaternion = np.linalg.eigh(symmetric)[1][:, -1]
    return quaternion[1:] * (-1 if quaternion[0] < 0 else 1)
