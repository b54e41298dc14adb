"""The grid a phantom is painted on: shapes as level functions, partial volume, texture and noise.

Positions here are millimetres from the middle of the volume, ordered (z, y, x) like the array: z grows to the
patient's head, y to the back, x to the left. A *level* is positive inside a shape and zero on its surface;
its unit does not matter, because the share of a voxel inside follows from the level and its change across
that voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_medsam.volume import Geometry, Volume

Point = tuple[float, float, float]
Region = tuple[slice, slice, slice]
Level = NDArray[np.floating]

EVERYWHERE: Region = (slice(None), slice(None), slice(None))
MIN_SIZE_PX = 16


class PhantomError(ValueError):
    """A phantom was asked for that cannot be made."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic image with its true labels.

    Attributes
    ----------
    volume : Volume
        The image, (z, y, x); int16 HU for CT, uint16 for MR.
    labels : NDArray
        (z, y, x) uint8 on the same grid, 0 is background; read-only.
    names : Mapping[int, str]
        Name of every label.
    """

    volume: Volume
    labels: NDArray[np.uint8]
    names: Mapping[int, str]


class Scene:
    """An image and its labels while they are painted.

    Parameters
    ----------
    shape : tuple of int
        Voxels (z, y, x).
    field_of_view_mm : tuple of float
        Size of the whole grid (z, y, x); with the shape it gives the spacing.
    seed : int
        Everything random comes from `rng`, seeded with it.
    background : float
        Intensity before anything is painted.
    wobble_mm : float
        Amplitude of the smooth deformation that keeps shapes from being exact ellipsoids.

    Raises
    ------
    PhantomError
        When the shape is not three whole numbers of at least 16, or the seed is negative.
    """

    def __init__(
        self, shape: Sequence[int], field_of_view_mm: Point, *, seed: int, background: float, wobble_mm: float
    ) -> None:
        if len(shape) != 3 or any(int(size) != size or size < MIN_SIZE_PX for size in shape):
            raise PhantomError(
                f"A phantom needs three sizes (z, y, x) of at least {MIN_SIZE_PX} voxels, "
                f"got {tuple(shape)}; give larger ones."
            )
        if seed < 0:
            raise PhantomError(f"A phantom's seed must be 0 or more, got {seed}; give another one.")
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        steps = [size / count for size, count in zip(field_of_view_mm, self.shape, strict=True)]
        self.spacing: Point = (steps[0], steps[1], steps[2])
        self.axes = [
            ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
            for count, step in zip(self.shape, self.spacing, strict=True)
        ]
        self.wobble_mm = wobble_mm
        grids = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.where = [grid + wobble_mm * self.waves((90.0, 200.0), count=3) for grid in grids]
        self.image = np.full(self.shape, background, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)

    def waves(self, wavelengths_mm: tuple[float, float], count: int) -> NDArray[np.float32]:
        """Smooth random field of about unit standard deviation, the sum of `count` plane waves."""
        total = np.zeros(self.shape, np.float32)
        for _ in range(count):
            heading = self.rng.standard_normal(3)
            heading *= 2 * np.pi / self.rng.uniform(*wavelengths_mm) / np.linalg.norm(heading)
            z_part, y_part, x_part = (rate * axis for rate, axis in zip(heading, self.axes, strict=True))
            # A plane wave splits into products along the axes: two sines a row instead of one a voxel.
            plane = (z_part[:, None] + y_part + self.rng.uniform(0, 2 * np.pi))[..., None].astype(np.float32)
            row = x_part.astype(np.float32)
            total += np.cos(plane) * np.cos(row)
            total -= np.sin(plane) * np.sin(row)
        return total * np.float32(np.sqrt(2 / count))

    def varied(self, centre: Point, radii: Point, move_mm: float = 4.0) -> tuple[Point, Point]:
        """The same organ in another person: moved by up to `move_mm`, its radii scaled by up to 8 %."""
        z, y, x = np.add(centre, self.rng.uniform(-move_mm, move_mm, 3)).tolist()
        rz, ry, rx = np.multiply(radii, self.rng.uniform(0.92, 1.08, 3)).tolist()
        return (z, y, x), (rz, ry, rx)

    def region(self, centre: Point, reach_mm: Point) -> Region:
        """Voxels that a shape within `reach_mm` of `centre` can touch."""
        bounds = []
        for axis, middle, half, step in zip(self.axes, centre, reach_mm, self.spacing, strict=True):
            margin = half + 3 * self.wobble_mm + 2 * step
            first, last = np.searchsorted(axis, (middle - margin, middle + margin))
            bounds.append(slice(int(first), int(last)))
        return bounds[0], bounds[1], bounds[2]

    def ellipsoid(
        self, centre: Point, radii: Point, region: Region = EVERYWHERE, power: float = 2.0
    ) -> Level:
        """Level of an ellipsoid, boxier for a power above 2: 1 in its middle, 0 on its surface."""
        level: Level = np.ones((), np.float32)
        for grid, middle, radius in zip(self.where, centre, radii, strict=True):
            distance = np.abs(grid[region] - np.float32(middle)) / np.float32(radius)
            level = level - (distance * distance if power == 2.0 else distance ** np.float32(power))
        return level

    def tube(self, start: Point, end: Point, radius_mm: float, region: Region = EVERYWHERE) -> Level:
        """Level of a rounded tube from `start` to `end`, in mm."""
        step = np.subtract(end, start).astype(np.float32)
        offsets = [grid[region] - np.float32(first) for grid, first in zip(self.where, start, strict=True)]
        along = (offsets[0] * step[0] + offsets[1] * step[1] + offsets[2] * step[2]) / (step @ step)
        along = np.clip(along, 0.0, 1.0)
        squared = np.zeros_like(along)
        for offset, part in zip(offsets, step, strict=True):
            squared += (offset - along * part) ** 2
        return np.float32(radius_mm) - np.sqrt(squared)

    def paint(
        self, level: Level, value: float | NDArray, region: Region = EVERYWHERE, label: int | None = None
    ) -> None:
        """Blend `value` in where `level` is positive.

        Voxels that are mostly inside take `label`; without one they keep the label they have.
        """
        if level.size == 0:
            return
        inside = _coverage(level)
        part = self.image[region]
        part += inside * (value - part)
        if label is not None:
            self.labels[region][inside > 0.5] = label

    def paint_ellipsoid(
        self, centre: Point, radii: Point, value: float, label: int | None = None, within: Level | None = None
    ) -> None:
        """Paint an ellipsoid, cut off by the level `within` (of the whole grid) where one is given."""
        region = self.region(centre, radii)
        level = self.ellipsoid(centre, radii, region)
        self.paint(level if within is None else np.minimum(level, within[region]), value, region, label)

    def paint_path(
        self,
        points: Sequence[Point],
        radius_mm: float,
        value: float,
        label: int | None = None,
        within: Level | None = None,
    ) -> None:
        """Paint a tube through the points, cut off by the level `within` where one is given."""
        for start, end in itertools.pairwise(points):
            z, y, x = np.add(start, end) / 2
            rz, ry, rx = np.abs(np.subtract(end, start)) / 2 + radius_mm
            region = self.region((z, y, x), (rz, ry, rx))
            level = self.tube(start, end, radius_mm, region)
            self.paint(level if within is None else np.minimum(level, within[region]), value, region, label)

    def blurred_in_plane(self) -> NDArray[np.float32]:
        """The image as the in-plane point spread of a scanner shows it."""
        image = self.image.copy()
        image[:, 1:-1] = 0.7 * self.image[:, 1:-1] + 0.15 * (self.image[:, :-2] + self.image[:, 2:])
        rows = image.copy()
        image[:, :, 1:-1] = 0.7 * rows[:, :, 1:-1] + 0.15 * (rows[:, :, :-2] + rows[:, :, 2:])
        return image

    def phantom(self, voxels: NDArray, modality: str, names: Mapping[int, str]) -> Phantom:
        """Place the finished voxels in a slightly tilted patient space, the middle of the grid at 0 mm."""
        direction = _tilt(pitch_degrees=4.0, yaw_degrees=-3.0)
        half_size_mm = np.multiply(self.spacing, np.subtract(self.shape, 1))[::-1] / 2
        x, y, z = (-direction @ half_size_mm).tolist()
        geometry = Geometry(
            shape=self.shape,
            spacing=self.spacing,
            origin=(x, y, z),
            direction=tuple(direction.ravel().tolist()),
        )
        voxels.setflags(write=False)
        self.labels.setflags(write=False)
        volume = Volume(
            array=voxels,
            geometry=geometry,
            modality=modality,
            notes=("Synthetic phantom: no patient was scanned.",),
        )
        return Phantom(volume=volume, labels=self.labels, names=dict(names))


def _coverage(level: Level) -> Level:
    """Share of every voxel where the level is positive, for a surface that is flat across one voxel."""
    extent = np.full(level.shape, 1e-6, np.float32)
    for axis, count in enumerate(level.shape):
        if count > 1:
            extent += np.abs(np.gradient(level, axis=axis))
    return np.clip(0.5 + level / extent, 0.0, 1.0)


def _tilt(pitch_degrees: float, yaw_degrees: float) -> NDArray[np.float64]:
    """Direction cosines (columns: the x, y, z index axes) turned about the patient's x axis, then z."""
    pitch, yaw = np.deg2rad((pitch_degrees, yaw_degrees))
    about_x = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    about_z = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_x)
