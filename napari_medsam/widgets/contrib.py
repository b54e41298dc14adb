"""What the napari manifest offers: readers, a label writer and sample data.

Thin adapters between napari's layer tuples and `napari_medsam.volume`. A layer is shown with the voxel
spacing in mm as its ``scale`` and nothing more, so that slices stay on the voxel grid; where the volume lies
in the patient travels in ``layer.metadata["napari_medsam"]``, from which labels get it when they are saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam import phantom
from napari_medsam.volume import (
    Geometry,
    GeometryError,
    Volume,
    VolumeError,
    list_series,
    read_volume,
    write_labels,
)
from napari_medsam.widgets.actions import register_actions
from napari_medsam.windowing import default_window

LayerData = tuple[NDArray, dict[str, Any], str]
"""Voxels, constructor arguments and type of one layer, as napari's plugins exchange them."""

METADATA_KEY = "napari_medsam"
"""Where a layer's metadata keeps what this plugin knows of it."""


def layer_metadata(volume: Volume) -> dict[str, Any]:
    """What a layer has to remember of the volume it shows.

    Parameters
    ----------
    volume : Volume
        The volume that the layer shows.

    Returns
    -------
    dict
        For ``layer.metadata``; plain values under `METADATA_KEY`: ``shape`` (z, y, x), ``spacing`` in mm
        (z, y, x), ``origin`` in mm (LPS, ITK order), ``direction`` (9 cosines, ITK row-major), ``modality``,
        ``source``, ``notes``.
    """
    remembered = {**asdict(volume.geometry), "modality": volume.modality, "source": volume.source}
    return {METADATA_KEY: {**remembered, "notes": list(volume.notes)}}


def layer_geometry(metadata: dict[str, Any]) -> Geometry | None:
    """Where the voxels of a layer lie in the patient.

    Parameters
    ----------
    metadata : dict
        ``layer.metadata`` of any layer.

    Returns
    -------
    Geometry or None
        None when the layer did not come from this plugin.

    Raises
    ------
    GeometryError
        When the metadata is there, but not complete or not valid.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        return Geometry(**{field.name: metadata[METADATA_KEY][field.name] for field in fields(Geometry)})
    except (KeyError, TypeError) as error:
        raise GeometryError(
            f"The layer's metadata[{METADATA_KEY!r}] needs shape, spacing, origin and direction, but lacks "
            f"{error}; open the image again."
        ) from error


def image_layer(volume: Volume, name: str) -> LayerData:
    """Turn a volume into an image layer, shown with the window that suits its modality.

    Parameters
    ----------
    volume : Volume
        Gray (z, y, x) or RGB (z, y, x, 3).
    name : str
        Name of the layer.

    Returns
    -------
    LayerData
        The voxels themselves, not a copy.
    """
    attributes = {**_placement(volume), "name": name}
    if volume.array.ndim == 4:
        attributes["rgb"] = True
    else:
        window = default_window(volume)
        attributes["contrast_limits"] = (window.lower, window.upper)
        # What a model is to see must not follow the contrast on screen, and takes a second to find again.
        attributes["metadata"][METADATA_KEY]["window"] = (window.lower, window.upper, window.name)
    return volume.array, attributes, "image"


def labels_layer(labels: NDArray, volume: Volume, name: str) -> LayerData:
    """Turn labels into a layer that lies on the grid of a volume, and remembers where that is.

    Parameters
    ----------
    labels : (z, y, x) integers
        Labels of the volume's voxels.
    volume : Volume
        The image that they belong to.
    name : str
        Name of the layer.

    Returns
    -------
    LayerData
        The labels themselves, not a copy.
    """
    return labels, {**_placement(volume), "name": name}, "labels"


def get_file_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Offer napari a reader for one medical image file.

    Parameters
    ----------
    path : str or sequence of str
        A file, or the files of a stack.

    Returns
    -------
    callable or None
        None for a stack: two scans are two volumes, on grids of their own.
    """
    return _read_file if isinstance(path, str) else None


def get_folder_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Offer napari a reader for a folder of DICOM slices: one image layer for each series.

    Parameters
    ----------
    path : str or sequence of str
        A folder, or several.

    Returns
    -------
    callable or None
        None where the folder holds no DICOM series, so that napari asks the next plugin.

    Raises
    ------
    VolumeError
        When one of the folder's DICOM files is damaged.
    """
    return _read_folder if isinstance(path, str) and list_series(path) else None


def write_labels_layer(path: str, data: ArrayLike, attributes: dict[str, Any]) -> list[str]:
    """Write a labels layer as a label map that lies exactly on its image.

    Parameters
    ----------
    path : str
        File to write; its ending (``.nii.gz``, ``.nrrd``) tells the format.
    data : array_like
        Integer labels (z, y, x), 0 for background.
    attributes : dict
        The layer's attributes, as napari hands them to a writer.

    Returns
    -------
    list of str
        The file that was written.

    Raises
    ------
    GeometryError
        When neither the layer nor an image of the same shape in the viewer says where the labels lie; nothing
        is written then.
    """
    labels = np.asarray(data)
    geometry = layer_geometry(attributes.get("metadata", {}))
    if geometry is None:
        geometry = _geometry_of_matching_image(attributes.get("name", "labels"), labels.shape)
    return [str(write_labels(labels, geometry, path))]


def ct_torso_sample() -> list[LayerData]:
    """Sample data: a synthetic CT of a torso, and the labels of its organs."""
    return _phantom_layers(phantom.ct_torso(), "CT torso phantom")


def mr_brain_sample() -> list[LayerData]:
    """Sample data: a synthetic MR of a head, and the labels of its parts."""
    return _phantom_layers(phantom.mr_brain(), "MR brain phantom")


def _placement(volume: Volume) -> dict[str, Any]:
    """Attributes of every layer that lies on the volume's grid."""
    return {"scale": volume.geometry.spacing, "units": ("mm",) * 3, "metadata": layer_metadata(volume)}


def _read_file(path: str) -> list[LayerData]:
    # Whoever drops a file on napari cannot choose a time point: the note tells them which one they see.
    register_actions()
    volume = read_volume(path, time_point=0)
    _warn(volume.notes)
    return [image_layer(volume, Path(path).name.removesuffix(".gz").rpartition(".")[0])]


def _read_folder(path: str) -> list[LayerData]:
    """Read every series that can be read; one that cannot must not cost the user the others."""
    register_actions()
    layers: list[LayerData] = []
    notes: list[str] = []
    problems: list[str] = []
    for series in list_series(path):
        try:
            volume = read_volume(path, series=series.uid, time_point=0)
        except (VolumeError, GeometryError) as error:
            problems.append(str(error))
        else:
            notes.extend(volume.notes)
            layer = image_layer(volume, series.description or Path(path).name)
            layer[1]["metadata"][METADATA_KEY]["series"] = series.uid
            layers.append(layer)
    if not layers:
        raise VolumeError(" ".join(problems))
    _warn([*problems, *notes])
    return layers


def _warn(sentences: Sequence[str]) -> None:
    """Show in napari what the user has to know about what was read."""
    if sentences:
        from napari.utils.notifications import show_warning

        show_warning(" ".join(sentences))


def _phantom_layers(sample: phantom.Phantom, name: str) -> list[LayerData]:
    register_actions()
    labels, attributes, kind = labels_layer(sample.labels, sample.volume, f"{name} labels")
    organs = {"index": list(sample.names), "name": list(sample.names.values())}
    return [image_layer(sample.volume, name), (labels, {**attributes, "features": organs}, kind)]


def _geometry_of_matching_image(name: str, shape: tuple[int, ...]) -> Geometry:
    """Where labels lie that were drawn on an image, and were not made by this plugin.

    napari's own "new labels" button copies the scale of the images, but not their metadata.
    """
    import napari

    viewer = napari.current_viewer()
    layers = [] if viewer is None else viewer.layers
    known = [found for layer in layers if (found := layer_geometry(layer.metadata)) is not None]
    fitting = [geometry for geometry in known if geometry.shape == shape]
    if not fitting:
        raise GeometryError(
            f"Labels layer {name!r} of shape {shape} lies on no image that this plugin opened, so its place "
            "in the patient is unknown; open the image it was drawn on with napari-medsam and save again."
        )
    if difference := next(filter(None, map(fitting[0].difference, fitting[1:])), ""):
        raise GeometryError(
            f"Labels layer {name!r} fits several images that lie in different places ({difference}); "
            "close those it was not drawn on and save again."
        )
    return fitting[0]
