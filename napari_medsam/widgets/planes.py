"""Between napari's coordinates and ours: an image layer as a volume, the slice on screen, shapes as prompts.

A 2D image is a volume of one slice. Everything here works on data coordinates, which are voxels; scale and
units are napari's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam.prompts import Box, Point, SliceIndex, box_from_recist
from napari_medsam.volume import Geometry, GeometryError, Volume, VolumeError
from napari_medsam.widgets.metadata import METADATA_KEY, layer_geometry
from napari_medsam.windowing import Window, WindowError, default_window

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

LEAST_BOX_PX = 1.0
"""A box with both sides shorter than this was a click, not a drag."""

UNKNOWN_SIZE = "No voxel size is known for this image: 1 mm is assumed, so volumes in mL mean nothing."
_SAMPLE_VOXELS = 1 << 21


def volume_of(layer: Image) -> Volume:
    """Take an image layer for a volume.

    Parameters
    ----------
    layer
        Gray (y, x) or (z, y, x), or RGB with colours last.

    Returns
    -------
    Volume
        With the place in the patient that the file gave, or else the layer's scale. `Volume.notes` ends with
        `UNKNOWN_SIZE` where neither says how large a voxel is.

    Raises
    ------
    VolumeError
        When the layer is no such image.
    """
    if layer.multiscale:
        raise VolumeError(f"'{layer.name}' is a pyramid of resolutions: open one resolution of it instead.")
    if layer.ndim not in (2, 3):
        raise VolumeError(
            f"'{layer.name}' has {layer.ndim} dimensions, expected 2 or 3: split it first (right click on "
            "the layer, Split Stack), then choose one of its parts."
        )
    array = np.asarray(layer.data)
    if layer.rgb:
        array = _colours(array)
    elif array.dtype == bool:
        array = array.astype(np.uint8)
    array = array if layer.ndim == 3 else array[None]
    kept = layer.metadata.get(METADATA_KEY, {})
    geometry = layer_geometry(layer.metadata)
    if geometry is not None and geometry.shape == array.shape[:3]:
        return Volume(
            array, geometry, kept.get("modality", ""), kept.get("source", ""), kept.get("notes", ())
        )
    spacing = spacing_mm(layer)
    geometry = Geometry(array.shape[:3], spacing or (1.0, 1.0, 1.0))
    return Volume(array, geometry, notes=() if spacing else (UNKNOWN_SIZE,))


def spacing_mm(layer: Image) -> tuple[float, float, float] | None:
    """Voxel size (z, y, x) that a layer's scale and units tell; None where they tell nothing.

    A layer in pixels whose scale is 1 throughout was never told how large its voxels are.
    """
    scale = [abs(float(step)) for step in layer.scale]
    try:
        factors = [float((1 * unit).to("mm").magnitude) for unit in layer.units]
    except Exception:  # noqa: BLE001 (pint's errors share no base class that pint exports)
        if all(step == 1 for step in scale):
            return None
        factors = [1.0] * len(scale)
    found = [step * factor for step, factor in zip(scale, factors, strict=True)]
    z, y, x = found if len(found) == 3 else (1.0, *found)
    try:
        Geometry((1, 1, 1), (z, y, x))
    except GeometryError:
        return None
    return z, y, x


def window_of(layer: Image, volume: Volume) -> Window:
    """Return the window that the reader chose for an image, or else the one that suits its voxels."""
    chosen = layer.metadata.get(METADATA_KEY, {}).get("window")
    if chosen:
        return Window(*chosen)
    try:
        # Percentiles of all voxels of a large volume would hold up the window for a second.
        step = max(1, round((volume.array.size / _SAMPLE_VOXELS) ** 0.5))
        array = volume.array[:, ::step, ::step]
        geometry = Geometry(array.shape[:3])
        return default_window(Volume(array, geometry, volume.modality))
    except WindowError:
        return Window(0.0, 1.0, "percentile")


def displayed_slice(viewer: ViewerModel, layer: Image, shape: Sequence[int]) -> SliceIndex | None:
    """Which slice of a layer is on screen.

    Parameters
    ----------
    viewer
        May have more dimensions than the layer.
    layer
        Of two or three dimensions.
    shape
        (z, y, x) of its volume.

    Returns
    -------
    SliceIndex or None
        None in 3D, or when the point on screen lies outside the layer.
    """
    if viewer.dims.ndisplay != 2:
        return None
    if layer.ndim == 2:
        return SliceIndex(0, 0)
    offset = viewer.dims.ndim - layer.ndim
    hidden = [axis - offset for axis in viewer.dims.not_displayed if axis >= offset]
    if len(hidden) != 1:
        return None
    (axis,) = hidden
    index = round(float(layer.world_to_data(viewer.dims.point)[axis]))
    return SliceIndex(axis, index) if 0 <= index < shape[axis] else None


def show_slice(viewer: ViewerModel, layer: Image, where: SliceIndex) -> None:
    """Turn the viewer to a slice of a layer, and to the plane it lies in."""
    viewer.dims.ndisplay = 2
    if layer.ndim == 2:
        return
    offset = viewer.dims.ndim - layer.ndim
    axis = where.axis + offset
    if axis in viewer.dims.displayed:
        others = [a for a in range(offset, viewer.dims.ndim) if a != axis]
        viewer.dims.order = (*range(offset), axis, *others)
    place = [float(step) for step in layer.world_to_data(viewer.dims.point)]
    place[where.axis] = where.index
    viewer.dims.set_point(axis, layer.data_to_world(place)[where.axis])


def crossings(slices: Iterable[SliceIndex], where: SliceIndex, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Say which pixels of a slice lie on others.

    Parameters
    ----------
    slices
        The others, along any axis; the slice itself is on itself altogether.
    where, shape
        The slice and its shape (H, W).
    """
    found = np.zeros(tuple(shape), bool)
    for each in slices:
        if each == where:
            found[...] = True
        elif each.axis != where.axis:
            side = each.axis - (each.axis > where.axis)
            found[(slice(None),) * side + (each.index,)] = True
    return found


def box_on_slice(corners: ArrayLike, axis: int) -> tuple[SliceIndex, Box] | None:
    """Read a shape as the box around it.

    Parameters
    ----------
    corners : (N, 2) or (N, 3)
        Vertices in data coordinates.
    axis
        The axis across the screen, taken where the shape is flat along several.

    Returns
    -------
    tuple of SliceIndex and Box, or None
        None for a shape that lies in no slice, and for a mere click.
    """
    found = _on_slice(corners, axis)
    if found is None:
        return None
    where, flat = found
    return where, (*flat.min(0).tolist(), *flat.max(0).tolist())


def line_on_slice(
    ends: ArrayLike, axis: int, spacing: tuple[float, float, float]
) -> tuple[SliceIndex, Box] | None:
    """Read a line as a RECIST diameter, and return the box of the object that it measures.

    Parameters
    ----------
    ends : (2, 2) or (2, 3)
        In data coordinates.
    axis
        As for `box_on_slice`.
    spacing
        mm (z, y, x).

    Returns
    -------
    tuple of SliceIndex and Box, or None
        As from `box_on_slice`.
    """
    found = _on_slice(ends, axis)
    if found is None:
        return None
    where, ((y0, x0), (y1, x1)) = found
    y_mm, x_mm = (size for a, size in enumerate(spacing) if a != where.axis)
    return where, box_from_recist(y0, x0, y1, x1, spacing=(y_mm, x_mm))


def _on_slice(places: ArrayLike, axis: int) -> tuple[SliceIndex, NDArray[np.float64]] | None:
    """Vertices of a shape as (y, x) on the slice that it lies in; None for none, and for a mere click."""
    found = _three(places)
    extent = found.max(0) - found.min(0)
    flat = [a for a in range(3) if extent[a] < 1e-3]
    if not flat:
        return None
    axis = axis if axis in flat else flat[0]
    index = round(float(found[0, axis]))
    if index < 0 or np.delete(extent, axis).max() < LEAST_BOX_PX:
        return None
    return SliceIndex(axis, index), np.delete(found, axis, axis=1)


def is_outside(box: Box, shape: Sequence[int]) -> bool:
    """Whether a box lies beside a slice of `shape` (H, W) altogether."""
    y0, x0, y1, x1 = box
    return y1 < 0 or x1 < 0 or y0 > shape[0] - 1 or x0 > shape[1] - 1


def is_beside(point: Point, shape: Sequence[int]) -> bool:
    """Whether a point (y, x) lies on no pixel of a slice of `shape` (H, W)."""
    # A pixel reaches half of its size beyond its centre.
    return any(not -0.5 <= at < size - 0.5 for at, size in zip(point, shape, strict=True))


def box_corners(where: SliceIndex, box: Box, ndim: int) -> NDArray[np.float64]:
    """Return the four corners (4, ndim) of a box, in data coordinates."""
    y0, x0, y1, x1 = box
    flat = np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])
    return flat if ndim == 2 else np.insert(flat, where.axis, where.index, axis=1)


def point_on_slice(place: ArrayLike, axis: int) -> tuple[SliceIndex, Point] | None:
    """Read a point (2,) or (3,) as one on the slice of an axis that it is nearest to; None outside."""
    found = _three(np.reshape(place, (1, -1)))[0]
    index = round(float(found[axis]))
    y, x = (float(found[a]) for a in range(3) if a != axis)
    return (SliceIndex(axis, index), (y, x)) if index >= 0 else None


def places_on_slice(
    path: NDArray[np.float64], where: SliceIndex, shape: Sequence[int]
) -> NDArray[np.float64]:
    """Those of places (n, 2) or (n, 3) that lie on a slice of a volume of `shape`, not beside it."""
    flat = np.delete(_three(path), where.axis, axis=1)
    sides = [size for axis, size in enumerate(shape) if axis != where.axis]
    return path[[not is_beside((y, x), sides) for y, x in flat]]


def point_place(where: SliceIndex, point: Point, ndim: int) -> NDArray[np.float64]:
    """Return the data coordinates (ndim,) of a point (y, x) on a slice."""
    return np.array(point) if ndim == 2 else np.insert(np.array(point), where.axis, where.index)


def _three(places: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(places, np.float64)
    return found if found.shape[1] == 3 else np.insert(found, 0, 0.0, axis=1)


def _colours(array: NDArray) -> NDArray[np.uint8]:
    """RGB or RGBA of any type as uint8 RGB; napari shows floats from 0 to 1."""
    colours = array[..., :3]
    if colours.dtype.kind == "f":
        return (np.clip(colours, 0, 1) * 255).round().astype(np.uint8)
    if colours.dtype.itemsize > 1:
        return (colours // 257).astype(np.uint8)
    return colours.astype(np.uint8)
