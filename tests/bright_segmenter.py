"""A segmenter whose user has drawn one box, in a viewer without a window; the model is `BrightModel`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bright_model import BrightModel
from direct_runner import DirectRunner
from napari.components import ViewerModel
from napari.layers import Image

from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import Box, SliceIndex
from napari_medsam.widgets.contrib import image_layer
from napari_medsam.widgets.planes import box_corners
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.shared_model import SharedModel

if TYPE_CHECKING:
    from napari_medsam.volume import Volume


def bright_segmenter(volume: Volume, index: int, box: Box, viewer: ViewerModel | None = None) -> Segmenter:
    """Show a volume as layer "scan", and draw a box on a slice of axis 0."""
    viewer = ViewerModel() if viewer is None else viewer
    data, attributes, _ = image_layer(volume, "scan")
    viewer.add_layer(Image(data, **attributes))
    viewer.dims.set_current_step(0, index)
    model = SharedModel("bright")
    model.replace("bright", SlicePredictor(BrightModel()))
    made = Segmenter(viewer, DirectRunner(), model)
    made.draw_box()
    made.layers.boxes.add_rectangles([box_corners(SliceIndex(0, index), box, 3)])
    return made
