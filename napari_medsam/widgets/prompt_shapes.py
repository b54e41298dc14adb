"""One object's prompts as a napari Shapes and a napari Points layer, there and back.

Blue discs are in the object, orange crosses outside of it: colours that people with any of the common colour
blindnesses tell apart, and shapes for all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points, Shapes

from napari_medsam.prompts import BACKGROUND, FOREGROUND, Box, Point, SliceIndex, SlicePrompts
from napari_medsam.widgets.planes import box_corners, box_on_slice, line_on_slice, point_on_slice, point_place

if TYPE_CHECKING:
    from napari.layers import Image

BOX_COLOUR = "#f0e442"
KIND, AXIS = "kind", "axis"
RIGHT_BUTTON = 2
TRAIL = 2
"""Kind of the points that show where a drag went so far."""
POINT_COLOURS = {FOREGROUND: "#56b4e9", BACKGROUND: "#e69f00", TRAIL: "white"}
POINT_SYMBOLS = {FOREGROUND: "disc", BACKGROUND: "cross", TRAIL: "disc"}


@dataclass(frozen=True)
class PromptView:
    """The two layers, as far as they exist, the axis across the screen, and mm a voxel (z, y, x)."""

    boxes: Shapes | None
    points: Points | None
    axis: int
    spacing: tuple[float, float, float]


def new_boxes(image: Image, placement: Mapping[str, Any]) -> Shapes:
    """Make a layer to draw boxes in, thin lines without filling."""
    return Shapes(
        ndim=image.ndim,
        edge_color=BOX_COLOUR,
        face_color="transparent",
        edge_width=line_width(image),
        opacity=0.9,
        **placement,
    )


def new_points(image: Image, placement: Mapping[str, Any]) -> Points:
    """Make a layer to place points in."""
    return Points(
        ndim=image.ndim,
        features={KIND: np.zeros(0, int), AXIS: np.zeros(0, int)},
        feature_defaults={KIND: FOREGROUND, AXIS: 0},
        size=6 * line_width(image),
        canvas_size_limits=(10, 24),
        border_color="black",
        **placement,
    )


def note_button(layer: Points, event: Any, axis: int) -> None:
    """Before a point is placed: the right button, or Control, means outside of the object."""
    outside = event.button == RIGHT_BUTTON or "Control" in event.modifiers
    layer.feature_defaults = {KIND: BACKGROUND if outside else FOREGROUND, AXIS: axis}


def has_trail(layer: Points) -> bool:
    """Whether a drag has left its trail; one that another press interrupted does."""
    return TRAIL in set(layer.features[KIND])


def read_prompts(view: PromptView) -> tuple[dict[SliceIndex, SlicePrompts], bool]:
    """Read what the layers show.

    Returns
    -------
    dict of SliceIndex to SlicePrompts
        On each slice the box that was drawn last, and all points.
    bool
        Whether the layers show exactly that; else they hold lines, replaced boxes or mere clicks, too.
    """
    found: dict[SliceIndex, SlicePrompts] = {}
    tidy = True
    shapes = () if view.boxes is None else zip(view.boxes.data, view.boxes.shape_type, strict=True)
    for corners, kind in shapes:
        is_line = kind == "line"
        read = (
            line_on_slice(corners, view.axis, view.spacing) if is_line else box_on_slice(corners, view.axis)
        )
        if read is None or is_line or read[0] in found:
            tidy = False
        if read is not None:
            found[read[0]] = SlicePrompts(read[1])
    if view.points is not None:
        kinds, axes = view.points.features[KIND], view.points.features[AXIS]
        for place, kind, axis in zip(view.points.data, kinds, axes, strict=True):
            at = point_on_slice(place, int(axis))
            if at is None or kind == TRAIL:
                tidy = False
                continue
            found[at[0]] = found.get(at[0], SlicePrompts()).with_point(at[1], int(kind))
        paint_points(view.points)
    return found, tidy


def show_prompts(view: PromptView, slices: Mapping[SliceIndex, SlicePrompts]) -> None:
    """Replace what the layers show."""
    if view.boxes is not None:
        boxes = [(where, each.box) for where, each in slices.items() if each.box is not None]
        _set_boxes(view.boxes, boxes)
    if view.points is not None:
        points = [
            (where, point, kind)
            for where, each in slices.items()
            for point, kind in zip(each.points, each.labels, strict=True)
        ]
        _set_points(view.points, points)


def _set_boxes(layer: Shapes, boxes: list[tuple[SliceIndex, Box]]) -> None:
    layer.selected_data = set()
    layer.data = []
    if boxes:
        layer.add_rectangles([box_corners(where, box, layer.ndim) for where, box in boxes])
        layer.selected_data = set()


def _set_points(layer: Points, points: list[tuple[SliceIndex, Point, int]]) -> None:
    layer.selected_data = set()
    places = [point_place(where, point, layer.ndim) for where, point, _ in points]
    layer.data = np.array(places).reshape(len(places), layer.ndim)
    layer.features = {
        KIND: np.array([kind for _, _, kind in points], int),
        AXIS: np.array([where.axis for where, _, _ in points], int),
    }
    paint_points(layer)


def paint_points(layer: Points) -> None:
    """Give every point the colour and the symbol of its kind."""
    kinds = [int(kind) for kind in layer.features[KIND]]
    if kinds:
        layer.face_color = [POINT_COLOURS[kind] for kind in kinds]
        layer.symbol = [POINT_SYMBOLS[kind] for kind in kinds]


def line_width(image: Image) -> float:
    """Two pixels of a screen, about, when the image fills it."""
    shape = image.data.shape[: image.ndim]
    return max(1.0, max(shape) / 300)
