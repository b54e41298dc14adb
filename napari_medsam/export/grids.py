"""A segmentation on the grid of an image: voxel by voxel where that works, resampled only on request."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_medsam.geometry import TOLERANCE_MM, Geometry

if TYPE_CHECKING:
    from napari_medsam.segments import Segmentation

__all__ = ["GridError", "Resampling", "placed_on"]

_SAME_COSINE = 1e-3
_ROUNDING = 0.05
"""Part of a voxel by which positions may differ that DICOM files give rounded, slice by slice."""

Resampling = Literal["nearest", "linear"]
"""How to resample labels: each voxel takes its nearest one's label, or that of the segment whose mask,
interpolated linearly, is largest there and at least one half (smoother where voxels become smaller)."""


class GridError(ValueError):
    """A mask that does not lie on the image's grid; the message says how far off it is."""


def placed_on(
    segmentation: Segmentation, geometry: Geometry, *, resample: Resampling | None = None
) -> Segmentation:
    """Put a segmentation on the grid of an image.

    One whose voxels are voxels of the image is put in its place as it is, even if it holds not all of them
    (3D Slicer and DICOM leave out empty borders and slices) or in another order of axes (converters of DICOM
    turn them).

    Parameters
    ----------
    segmentation
        A mask to start from.
    geometry
        The grid of the image.
    resample
        How to resample a mask whose voxels lie elsewhere; None refuses it.

    Returns
    -------
    Segmentation
        On `geometry`; its notes say what was done.

    Raises
    ------
    GridError
        When it lies on another grid and no way to resample was chosen, or wholly beyond the image.
    """
    own = segmentation.geometry
    if not geometry.difference(own):
        return replace(segmentation, geometry=geometry)
    turned, grid = _turned(segmentation.layers, own, geometry)
    offset = _offset(grid, geometry)
    if offset is not None:
        layers, done = _pasted(turned, geometry.shape, offset), "was put in its place"
    elif resample is None:
        raise GridError(
            f"The mask does not lie on the image's grid: {_apart(own, geometry)} Choose nearest or linear to "
            "resample it, or the image it was made on."
        )
    elif resample not in ("nearest", "linear"):
        raise GridError(f"Labels can be resampled by nearest or linear, not {resample}.")
    else:
        layers, done = _resampled(segmentation.layers, own, geometry, resample), f"was resampled ({resample})"
    if segmentation.layers.any() and not layers.any():
        raise GridError(f"The mask lies wholly beyond the image: {_apart(own, geometry)}")
    lost = np.count_nonzero(segmentation.layers) - np.count_nonzero(layers) if offset is not None else 0
    notes = [f"The mask lay on another grid and {done}: {_apart(own, geometry)}"]
    if lost:
        notes.append(f"{lost} labelled voxels of the mask lie beyond the image and were left out.")
    return replace(segmentation, layers=layers, geometry=geometry, notes=(*segmentation.notes, *notes))


def _apart(one: Geometry, other: Geometry) -> str:
    """How two grids differ, with the distance between their corners in mm."""
    difference = other.difference(one)
    if one.shape == other.shape:
        return difference
    distances_mm = [np.linalg.norm(_corners(one)[k] - _corners(other)[k]) for k in (0, -1)]
    return (
        f"{difference[:-1]} (image against mask), and their first voxels lie {distances_mm[0]:.3g} mm apart, "
        f"their last {distances_mm[1]:.3g} mm."
    )


def _corners(geometry: Geometry) -> NDArray[np.float64]:
    index = [(*corner, 1) for corner in product(*((0, n - 1) for n in geometry.shape[::-1]))]
    return (np.array(index) @ geometry.affine.T)[:, :3]


def _turned(layers: NDArray, own: Geometry, wanted: Geometry) -> tuple[NDArray, Geometry]:
    """Layers with the axes of another grid where only order and sign differ; else as they are."""
    cosines = np.reshape(wanted.direction, (3, 3)).T @ np.reshape(own.direction, (3, 3))
    signs = np.rint(cosines)
    if np.abs(cosines - signs).max() > _SAME_COSINE or np.linalg.matrix_rank(signs) < 3:
        return layers, own
    axes = np.abs(signs).argmax(axis=1)  # of each wanted axis (x, y, z), which one of its own it is
    backwards = signs.sum(axis=1) < 0
    first = np.zeros(4)
    first[axes[backwards]] = np.array(own.shape[::-1])[axes[backwards]] - 1
    first[3] = 1
    affine = own.affine.copy()
    affine[:3, :3] = own.affine[:3, axes] * np.where(backwards, -1, 1)
    affine[:3, 3] = (own.affine @ first)[:3]
    turned = np.transpose(layers, (0, *(3 - axes[::-1])))
    turned = np.flip(turned, tuple(3 - int(axis) for axis in np.flatnonzero(backwards)))
    x, y, z = (own.shape[2 - axis] for axis in axes)
    return turned, Geometry.from_affine((z, y, x), affine)


def _offset(own: Geometry, geometry: Geometry) -> tuple[int, ...] | None:
    """Which voxel (z, y, x) of the image the mask's first one is; None when voxels do not coincide."""
    start = (np.linalg.inv(geometry.affine) @ own.affine[:, 3])[:3]
    if np.abs(start).max() > np.iinfo(np.int32).max:
        return None
    x, y, z = (int(n) for n in np.rint(start))
    moved = geometry.affine.copy()
    moved[:3, 3] = geometry.affine[:3, :3] @ (x, y, z) + geometry.origin
    return (z, y, x) if own.distance_mm(moved) <= max(TOLERANCE_MM, _ROUNDING * min(own.spacing)) else None


def _pasted(layers: NDArray, shape: tuple[int, int, int], offset: tuple[int, ...]) -> NDArray:
    pasted = np.zeros((len(layers), *shape), layers.dtype)
    target, source = [], []
    for start, own, wanted in zip(offset, layers.shape[1:], shape, strict=True):
        first, last = max(start, 0), min(start + own, wanted)
        if first >= last:
            return pasted
        target.append(slice(first, last))
        source.append(slice(first - start, last - start))
    pasted[(slice(None), *target)] = layers[(slice(None), *source)]
    return pasted


def _resampled(layers: NDArray, own: Geometry, geometry: Geometry, how: Resampling) -> NDArray:
    from scipy.ndimage import affine_transform

    # From index to index, in ITK's order (x, y, z); both rows and columns turned round for arrays.
    matrix = np.linalg.inv(own.affine) @ geometry.affine
    turn = matrix[:3, :3][::-1, ::-1]
    shift = matrix[:3, 3][::-1]

    def moved(voxels: NDArray, order: int) -> NDArray:
        return affine_transform(voxels, turn, shift, geometry.shape, order=order, mode="grid-constant")

    if how == "nearest":
        return np.stack([moved(layer, 0) for layer in layers])
    result = np.zeros((len(layers), *geometry.shape), layers.dtype)
    for layer, target in zip(layers, result, strict=True):
        best = np.full(geometry.shape, 0.5, np.float32)
        for label in np.unique(layer[layer > 0]):
            share = moved((layer == label).astype(np.float32), 1)
            # A tie at one half goes to the object, as the voxel's centre lies on its border.
            better = (share > best) | ((share >= 0.5) & (target == 0))
            target[better] = label
            best[better] = share[better]
    return result
