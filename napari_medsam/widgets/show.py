"""``python -m napari_medsam.widgets.show IMAGE LABELS``: open an image and its label map in napari."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import napari
from napari.layers import Layer

from napari_medsam.export import read_segmentation
from napari_medsam.volume import read_volume
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.label_files import layers_of

if TYPE_CHECKING:
    from napari.components import ViewerModel


def add_case(viewer: ViewerModel, image: str | Path, labels: str | Path) -> None:
    """Add an image and the label map on its grid to a viewer, and go to the middle slice.

    Parameters
    ----------
    viewer : ViewerModel
        A napari viewer, with or without a window.
    image, labels : path
        Files that `read_volume` and `read_segmentation` take.

    Raises
    ------
    VolumeError, GeometryError
        When one of them cannot be read; nothing is added then.
    """
    volume, found = read_volume(image), read_segmentation(labels)
    viewer.add_layer(Layer.create(*image_layer(volume, Path(image).name)))
    for each in layers_of(found, Path(labels).name):
        viewer.add_layer(Layer.create(*each))
    viewer.dims.set_current_step(0, found.geometry.shape[0] // 2)


if __name__ == "__main__":
    window = napari.Viewer()
    add_case(window, *sys.argv[1:3])
    napari.run()
