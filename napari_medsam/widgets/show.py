"""``python -m napari_medsam.widgets.show IMAGE LABELS``: open an image and its label map in napari."""

from __future__ import annotations

import sys
from pathlib import Path

import napari
from napari.layers import Layer

from napari_medsam.volume import read_labels, read_volume
from napari_medsam.widgets.contrib import image_layer, layer_metadata


def show(image: str | Path, labels: str | Path) -> napari.Viewer:
    """Open an image and the label map on its grid in a new viewer.

    Parameters
    ----------
    image, labels : path
        Files that `read_volume` and `read_labels` take.

    Returns
    -------
    napari.Viewer
        With one image and one labels layer.

    Raises
    ------
    VolumeError, GeometryError
        When one of them cannot be read.
    """
    volume, found = read_volume(image), read_labels(labels)
    placement = {"scale": found.geometry.spacing, "units": ("mm",) * 3, "metadata": layer_metadata(found)}
    viewer = napari.Viewer()
    viewer.add_layer(Layer.create(*image_layer(volume, Path(image).name)))
    viewer.add_layer(Layer.create(found.array.copy(), {**placement, "name": Path(labels).name}, "labels"))
    middle = found.geometry.shape[0] // 2
    viewer.dims.set_current_step(0, middle)
    return viewer


if __name__ == "__main__":
    show(*sys.argv[1:3])
    napari.run()
