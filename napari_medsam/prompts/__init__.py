"""What a user points at: a slice, a box, points; and the JSON form in which that is kept.

Arrays are (z, y, x). A slice's own two axes are the remaining array axes in array order, written (y, x)
whichever they are. Pixel centres lie on integers and box corners are inclusive: the box (2, 3, 2, 3) is one
pixel.
"""

from napari_medsam.prompts.from_masks import box_from_mask, box_from_recist, point_from_mask, points_from_mask
from napari_medsam.prompts.json_form import PROMPTS_SCHEMA_VERSION, prompts_from_json, prompts_to_json
from napari_medsam.prompts.scribbles import scribble_points
from napari_medsam.prompts.values import (
    BACKGROUND,
    FOREGROUND,
    LARGEST_LABEL,
    Box,
    ObjectPrompts,
    Point,
    PromptError,
    SliceIndex,
    SlicePrompts,
)

__all__ = [
    "BACKGROUND",
    "FOREGROUND",
    "LARGEST_LABEL",
    "PROMPTS_SCHEMA_VERSION",
    "Box",
    "ObjectPrompts",
    "Point",
    "PromptError",
    "SliceIndex",
    "SlicePrompts",
    "box_from_mask",
    "box_from_recist",
    "point_from_mask",
    "points_from_mask",
    "prompts_from_json",
    "prompts_to_json",
    "scribble_points",
]
