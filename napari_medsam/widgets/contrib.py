"""What the napari manifest offers: readers, writers of labels and sample data.

Thin adapters between napari's layer tuples and `napari_medsam.volume`. A layer is shown with the voxel
spacing in mm as its ``scale`` and nothing more, so that slices stay on the voxel grid; where the volume lies
in the patient travels in ``layer.metadata["napari_medsam"]``, from which labels get it when they are saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari_medsam import phantom
from napari_medsam.segments import Segmentation
from napari_medsam.volume import GeometryError, Volume, VolumeError, list_series, read_volume
from napari_medsam.widgets.actions import register_actions
from napari_medsam.widgets.label_files import DICOM, ITKSNAP, layers_of, read_layers, save_layers, stem
from napari_medsam.widgets.metadata import METADATA_KEY, LayerData, layer_metadata
from napari_medsam.windowing import default_window

Writer = Callable[[str, Sequence[LayerData]], list[str]]
write_nifti: Writer = partial(save_layers, ".nii.gz")
write_slicer: Writer = partial(save_layers, ".seg.nrrd")
write_dicom: Writer = partial(save_layers, DICOM)
write_itksnap: Writer = partial(save_layers, ITKSNAP)
write_voxels: Writer = partial(save_layers, ".nrrd")


def image_layer(volume: Volume, name: str, series: str | None = None) -> LayerData:
    """Turn a volume into an image layer, shown with the window that suits its modality.

    Parameters
    ----------
    volume : Volume
        Gray (z, y, x) or RGB (z, y, x, 3).
    name : str
        Name of the layer.
    series : str, optional
        UID of the DICOM series, for a volume from a folder of several.

    Returns
    -------
    LayerData
        The voxels themselves, not a copy.
    """
    attributes: dict[str, Any] = {
        "name": name,
        "scale": volume.geometry.spacing,
        "units": ("mm",) * 3,
        "metadata": layer_metadata(volume, series),
    }
    if volume.array.ndim == 4:
        attributes["rgb"] = True
    else:
        window = default_window(volume)
        attributes["contrast_limits"] = (window.lower, window.upper)
        # What a model is to see must not follow the contrast on screen, and takes a second to find again.
        attributes["metadata"][METADATA_KEY]["window"] = (window.lower, window.upper, window.name)
    return volume.array, attributes, "image"


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


def ct_torso_sample() -> list[LayerData]:
    """Sample data: a synthetic CT of a torso, and the labels of its organs."""
    return _phantom_layers(phantom.ct_torso(), "CT torso phantom")


def mr_brain_sample() -> list[LayerData]:
    """Sample data: a synthetic MR of a head, and the labels of its parts."""
    return _phantom_layers(phantom.mr_brain(), "MR brain phantom")


def _read_file(path: str) -> list[LayerData]:
    # Whoever drops a file on napari cannot choose a time point: the note tells them which one they see.
    register_actions()
    labels = read_layers(path)
    if labels is not None:
        _warn(labels[1])
        return labels[0]
    volume = read_volume(path, time_point=0)
    _warn(volume.notes)
    return [image_layer(volume, stem(Path(path)))]


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
            layers.append(image_layer(volume, series.description or Path(path).name, series.uid))
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
    labels = Segmentation.from_labels(sample.labels, sample.volume.geometry, names=sample.names)
    return [image_layer(sample.volume, name), *layers_of(labels, f"{name} labels")]
