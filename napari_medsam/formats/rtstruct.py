"""DICOM structure sets (RTSTRUCT): contours of radiotherapy, filled in on the slices of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.formats.dicom_objects import header_of, understood
from napari_medsam.geometry import Geometry, VolumeError
from napari_medsam.segments import LONGEST_NAME, Color, Segment, Segmentation, default_color
from napari_medsam.terminology import term_for

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["read_rtstruct"]

_TILTED = 0.5
"""Contours that climb by more than this part of a slice are not drawn on one."""


def read_rtstruct(path: Path, geometry: Geometry) -> Segmentation:
    """Read a structure set as labels on the grid of the image it was drawn on.

    A voxel belongs to a structure when its centre lies inside the contour. Contours inside contours on one
    slice are holes. Each contour counts on its nearest slice; slices between two contours stay empty, as no
    standard says what lies there.

    Parameters
    ----------
    path
        The structure set.
    geometry
        The grid to fill it in on.

    Raises
    ------
    VolumeError, SegmentationError
        When it is no structure set, is damaged, or its contours are not drawn on this image's slices.
    """
    header = header_of(path)
    if header.get("Modality") != "RTSTRUCT":
        raise VolumeError("it is no DICOM structure set, expected one of modality RTSTRUCT.")
    with understood():
        names = {
            int(item.ROINumber): str(item.get("ROIName") or "") for item in header.StructureSetROISequence
        }
        rois = [item for item in header.ROIContourSequence if item.get("ContourSequence")]
        outside: list[int] = []
        found = Segmentation.from_masks(
            (_filled(roi, geometry, outside) for roi in rois),
            geometry,
            lambda n, label, layer: _segment(rois[n], names, label, layer),
            source=str(path),
        )
    if not found.segments:
        raise VolumeError("the structure set has no contours, expected some.")
    if not found.layers.any():
        raise VolumeError(
            f"none of its {len(outside)} contours lies on the image, expected the image it was drawn on."
        )
    if not outside:
        return found
    note = f"{len(outside)} contours lie beyond the image's slices and were left out."
    return Segmentation(found.layers, geometry, found.segments, found.source, (note,))


def _filled(roi: Dataset, geometry: Geometry, outside: list[int]) -> NDArray[np.bool_]:
    from skimage.draw import polygon

    mask = np.zeros(geometry.shape, bool)
    to_index = np.linalg.inv(geometry.affine)
    for contour in roi.ContourSequence:
        if contour.get("ContourGeometricType") not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
            continue
        points = np.asarray(contour.ContourData, np.float64).reshape(-1, 3)
        x, y, z = (np.column_stack([points, np.ones(len(points))]) @ to_index.T)[:, :3].T
        if not np.isfinite(z).all() or np.ptp(z) > _TILTED:
            raise VolumeError(
                f"a contour climbs by {np.ptp(z):.2g} slices, expected contours drawn on the image's slices."
            )
        index = round(float(z.mean()))
        if not 0 <= index < geometry.shape[0]:
            outside.append(index)
            continue
        rows, columns = polygon(y, x, geometry.shape[1:])
        mask[index, rows, columns] ^= True
    return mask


def _segment(roi: Dataset, names: dict[int, str], label: int, layer: int) -> Segment:
    name = names.get(int(roi.ReferencedROINumber), "").strip()[:LONGEST_NAME] or f"structure {label}"
    return Segment(label, name, _color(roi) or default_color(label), term_for(name), layer)


def _color(roi: Dataset) -> Color | None:
    parts = roi.get("ROIDisplayColor")
    if parts is None or len(parts) != 3 or not all(0 <= int(part) <= 255 for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])
