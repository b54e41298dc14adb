"""RECIST diameters as lines with their length in mm, on the slices that they were measured on. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes

from napari_medsam.widgets.metadata import METADATA_KEY
from napari_medsam.widgets.prompt_shapes import line_width

if TYPE_CHECKING:
    from napari_medsam.measurements import Measurement
    from napari_medsam.widgets.layers import SessionLayers

ROLE, DIAMETERS = "role", "diameters"
LENGTH = "length"
COLOUR = "white"
"""To be seen on the masks, of whatever colour they are."""


def diameter_layer(layers: SessionLayers) -> Shapes | None:
    """Return the layer with an image's diameters; None before it was asked for, and after its deletion."""
    wanted = DIAMETERS, layers.image.unique_id
    for layer in layers.viewer.layers:
        if layer.metadata.get(METADATA_KEY, {}).get(ROLE) == wanted:
            return layer
    return None


def show_diameters(layers: SessionLayers, measured: Sequence[Measurement]) -> None:
    """Draw the longest and the short diameter of each object; the layer is made if need be."""
    layer = diameter_layer(layers)
    if layer is None:
        placement = layers.placement("diameters")
        placement["metadata"][METADATA_KEY][ROLE] = DIAMETERS, layers.image.unique_id
        text = {"string": f"{{{LENGTH}}}", "size": 11, "color": COLOUR, "anchor": "upper_left"}
        layer = Shapes(ndim=layers.image.ndim, features={LENGTH: []}, text=text, **placement)
        layers.add(layer)
    layer.selected_data = set()
    layer.data = []
    lines = [line for each in measured for line in (each.recist.long, each.recist.short)]
    if not lines:
        return
    ends = [np.array(line.voxels)[:, -layers.image.ndim :] for line in lines]
    layer.add_lines(ends, edge_width=line_width(layers.image), edge_color=COLOUR)
    layer.features = {LENGTH: [f"{line.length_mm:.1f} mm" for line in lines]}
    layer.selected_data = set()
