"""Where voxels lie in the patient: `Geometry`, and `Volume`, an array together with its geometry.

Both are values: validated when built, never changed afterwards. World coordinates are millimetres in LPS (x
to the patient's left, y to posterior, z to superior), the convention of DICOM and ITK; arrays are (z, y,
x).
"""

from dataclasses import dataclass
from itertools import permutations, product
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Geometry", "GeometryError", "Volume", "VolumeError", "occupied_region"]

TOLERANCE_MM = 1e-3
"""Grids whose corners lie closer than this are the same grid."""

ORTHONORMAL_TOLERANCE = 1e-4
"""Largest element of ``direction.T @ direction - 1`` that counts as orthonormal; the limit of ITK's NIfTI "
"reader."""

SHEAR_TOLERANCE = 2e-3
"""Deviation up to which a file's direction is taken for a rounded rotation and not for a shear (0.1 "
"degrees)."""

SPACING_RANGE_MM = (1e-6, 1e6)
MAX_ORIGIN_MM = 1e9
"""Spacing or an origin outside of these is a damaged header, not an image."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class GeometryError(ValueError):
    """Shape, spacing, origin or direction that no image can have, or that does not fit another image."""


class VolumeError(ValueError):
    """A file or an array that cannot be read, written or used as a volume."""


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume in the patient.

    Parameters
    ----------
    shape : (3,) int
        Voxels along (z, y, x), each at least 1.
    spacing : (3,) float
        Distance between voxel centres in mm along (z, y, x), each positive.
    origin : (3,) float
        Centre of voxel (0, 0, 0) in mm, LPS, in ITK order (x, y, z).
    direction : (9,) float
        Direction cosines as ITK gives them: a 3 x 3 matrix, row by row, whose columns are the unit vectors
        of the x, y and z index in LPS. Left-handed axes are allowed, sheared ones are not.

    Raises
    ------
    GeometryError
        When a value is missing, not finite, not positive where it must be, or the axes are not orthonormal.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    def __post_init__(self) -> None:
        shape = _numbers(self.shape, "shape", 3)
        if any(n < 1 or n != int(n) for n in shape):
            raise GeometryError(
                f"shape is {_text(shape)}, expected three whole numbers of at least 1 (z, y, x)."
            )
        spacing = _numbers(self.spacing, "spacing", 3)
        low, high = SPACING_RANGE_MM
        if not all(low <= step <= high for step in spacing):
            raise GeometryError(
                f"spacing is {_text(spacing)} mm, expected three positive numbers of {low:g} to {high:g} (z, "
                "y, x)."
            )
        origin = _numbers(self.origin, "origin", 3)
        if any(abs(place) > MAX_ORIGIN_MM for place in origin):
            raise GeometryError(
                f"origin is {_text(origin)} mm, expected at most {MAX_ORIGIN_MM:g} either way."
            )
        direction = _numbers(self.direction, "direction", 9)
        skew = _skew(np.reshape(direction, (3, 3)))
        if skew > ORTHONORMAL_TOLERANCE:
            raise GeometryError(
                f"direction {_text(direction)} is not orthonormal (off by {skew:.2g}), expected "
                "perpendicular unit vectors; resample sheared images onto a straight grid first."
            )
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "spacing", spacing)
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "direction", direction)

    @classmethod
    def from_affine(cls, shape: tuple[int, int, int], affine: ArrayLike) -> "Geometry":
        """Build a geometry from a (4, 4) matrix that maps voxel index (x, y, z, 1) to LPS mm.

        Directions that miss orthonormality by no more than a header's rounding are straightened: without
        that, ITK would refuse the label file written on such a grid.

        Raises
        ------
        GeometryError
            When the matrix is singular, not finite or sheared.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise GeometryError(f"the affine is {_text(matrix.ravel())}, expected 4 x 4 finite numbers.")
        spacing = np.hypot(np.hypot(*matrix[:2, :3]), matrix[2, :3])
        if not (spacing > 0).all():
            raise GeometryError(
                f"the affine gives a spacing of {_text(spacing[::-1])} mm, expected positive numbers."
            )
        direction = matrix[:3, :3] / spacing
        if ORTHONORMAL_TOLERANCE / 2 < _skew(direction) <= SHEAR_TOLERANCE:
            left, _, right = np.linalg.svd(direction)
            direction = left @ right
        return cls(shape, tuple(spacing[::-1]), tuple(matrix[:3, 3]), tuple(direction.ravel()))

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) matrix from voxel index (x, y, z, 1), in ITK order, to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing[::-1]
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(np.prod(self.spacing)) / 1000.0

    def distance_mm(self, affine: NDArray[np.float64]) -> float:
        """Largest distance in mm between the places this grid and another affine give to the same voxel."""
        index = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in self.shape[::-1]))])
        return float(np.linalg.norm(index @ (self.affine - affine)[:3].T, axis=1).max())

    def anatomical_axis(self, plane: str) -> int:
        """Array axis along which slices of an anatomical plane are stacked.

        Each plane gets an axis of its own, however oblique the grid: of the six ways to pair planes with
        axes the one that fits the patient's axes best.

        Parameters
        ----------
        plane
            "axial" (slices stacked superior-inferior), "coronal" (anterior-posterior) or "sagittal"
            (left-right).

        Returns
        -------
        int
            0, 1 or 2, counted in (z, y, x).

        Raises
        ------
        GeometryError
            When the plane is none of the three.
        """
        world_axis = {"sagittal": 0, "coronal": 1, "axial": 2}
        if plane not in world_axis:
            raise GeometryError(f"plane is {plane!r}, expected 'axial', 'coronal' or 'sagittal'.")
        cosines = np.abs(np.reshape(self.direction, (3, 3)))
        pairing = max(
            permutations(range(3)), key=lambda index_axis: cosines[range(3), index_axis].sum().round(6)
        )
        return 2 - pairing[world_axis[plane]]

    def difference(self, other: "Geometry") -> str:
        """Say how another grid differs from this one.

        Returns
        -------
        str
            "" when both have the same shape and no voxel lies more than 1e-3 mm apart; else one sentence.
        """
        if self.shape != other.shape:
            return f"The shapes (z, y, x) differ: {self.shape} against {other.shape}."
        apart_mm = self.distance_mm(other.affine)
        if apart_mm <= TOLERANCE_MM:
            return ""
        return (
            f"The grids lie up to {apart_mm:.3g} mm apart: spacing {_text(self.spacing)} against "
            f"{_text(other.spacing)} mm, origin {_text(self.origin)} against {_text(other.origin)} mm, "
            f"direction {_text(self.direction)} against {_text(other.direction)}."
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """An image with its place in the patient.

    Parameters
    ----------
    array : (z, y, x) real numbers or (z, y, x, 3) uint8
        Intensities after rescale (HU for CT) or RGB; kept as a read-only view, without a copy.
    geometry
        The grid of `array`.
    modality
        "CT", "MR", "PT", "US", "XR", "RGB", or "" when the file does not say.
    source
        The path the volume was read from, "" for volumes made in memory.
    notes
        What had to be decided while reading, one sentence each.

    Raises
    ------
    VolumeError
        When the array is neither of the two kinds, or its shape is not the geometry's.
    """

    array: NDArray
    geometry: Geometry
    modality: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        rgb = array.ndim == 4 and array.shape[3] == 3 and array.dtype == np.uint8
        if not rgb and (array.ndim != 3 or array.dtype.kind not in "iuf"):
            raise VolumeError(
                f"the array has shape {array.shape} and type {array.dtype}, expected (z, y, x) real numbers "
                "or (z, y, x, 3) uint8."
            )
        if array.shape[:3] != self.geometry.shape:
            raise VolumeError(
                f"the array has shape {array.shape[:3]}, expected the geometry's {self.geometry.shape} (z, "
                "y, x)."
            )
        view = array.view()
        view.flags.writeable = False
        object.__setattr__(self, "array", view)
        object.__setattr__(self, "notes", tuple(self.notes))


def occupied_region(array: NDArray) -> tuple[slice, ...] | None:
    """Return the smallest block, a slice for each axis, that holds all but 0 (or False); None without any."""
    region: list[slice] = []
    for axis in range(array.ndim):
        others = tuple(other for other in range(array.ndim) if other != axis)
        where = np.flatnonzero(array[tuple(region)].any(axis=others))
        if not where.size:
            return None
        region.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(region)


def _skew(direction: NDArray[np.float64]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        skew = np.abs(direction.T @ direction - np.eye(3)).max()
    return float(skew) if np.isfinite(skew) else np.inf


def _numbers(values: ArrayLike, name: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(v) for v in np.ravel(values))
    except (TypeError, ValueError):
        raise GeometryError(f"{name} is {values!r}, expected {count} numbers.") from None
    if len(numbers) != count or not all(map(isfinite, numbers)):
        raise GeometryError(f"{name} is {_text(numbers)}, expected {count} finite numbers.")
    return numbers


def _text(values: ArrayLike) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in np.ravel(values)) + ")"
