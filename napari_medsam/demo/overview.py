"""One picture of a case: the boxes, the masks on an axial and a coronal slice, and the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.windowing import Window, apply_window

if TYPE_CHECKING:
    from PIL.Image import Image

    from napari_medsam.prompts import Box, ObjectPrompts
    from napari_medsam.volume import Volume

AXIAL, CORONAL = 0, 1
PX_PER_MM = 1.45
TINT = 0.35
MARGIN_MM = 22.0
GAP_PX = 16
TEXT_PX = 15
LEGEND_WIDTH_PX = 250
BACKGROUND, FOREGROUND = (16, 17, 20), (232, 234, 237)
COLOURS = (
    (255, 159, 67),
    (162, 113, 255),
    (84, 214, 120),
    (46, 178, 158),
    (90, 169, 255),
    (88, 120, 230),
    (255, 99, 112),
    (255, 64, 64),
    (64, 140, 255),
    (240, 226, 132),
    (255, 120, 214),
    (196, 150, 90),
    (158, 220, 60),
    (255, 255, 255),
)
"""Of labels 1, 2, ...; used again from the start after the last."""


def draw_overview(
    volume: Volume,
    labels: NDArray,
    objects: Sequence[ObjectPrompts],
    dice: Mapping[int, float],
    *,
    window: Window,
) -> Image:
    """Draw boxes, masks and scores of one case side by side.

    Parameters
    ----------
    volume : Volume
        Gray image (z, y, x).
    labels : NDArray
        (z, y, x) of integers on its grid.
    objects : sequence of ObjectPrompts
        What was segmented, with boxes on axial slices; listed in ascending order of label.
    dice : Mapping[int, float]
        3D Dice of every label.
    window : Window
        What becomes black and white.

    Returns
    -------
    PIL.Image.Image
        RGB, millimetres to the same scale in both directions.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    font = ImageFont.load_default(TEXT_PX)
    boxes = {
        thing.label: drawn.box
        for thing in objects
        for where, drawn in thing.slices.items()
        if where.axis == AXIAL and drawn.box is not None
    }
    axial = _View(volume, labels, AXIAL, _busiest(labels, AXIAL))
    coronal = _View(volume, labels, CORONAL, _busiest(labels, CORONAL))
    panels = [
        ("one box an organ", axial.with_boxes(window, boxes)),
        ("its mask", axial.with_masks(window)),
        # The array counts upwards to the head, pictures count downwards.
        ("carried through the slices", ImageOps.flip(coronal.with_masks(window))),
    ]
    line_px = TEXT_PX + 6
    top = 2 * GAP_PX + TEXT_PX
    height = top + max(max(panel.height for _, panel in panels), len(objects) * line_px) + GAP_PX
    width = sum(panel.width + GAP_PX for _, panel in panels) + LEGEND_WIDTH_PX + 2 * GAP_PX
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    left = GAP_PX
    for title, panel in panels:
        pen.text((left, GAP_PX), title, fill=FOREGROUND, font=font)
        canvas.paste(panel, (left, top))
        left += panel.width + GAP_PX
    right = left + LEGEND_WIDTH_PX
    pen.text((left, GAP_PX), "organ", fill=FOREGROUND, font=font)
    pen.text((right, GAP_PX), "3D Dice", fill=FOREGROUND, font=font, anchor="ra")
    for number, thing in enumerate(sorted(objects, key=lambda thing: thing.label)):
        y = top + number * line_px
        pen.rectangle((left, y + 3, left + TEXT_PX - 4, y + TEXT_PX - 1), fill=_colour(thing.label))
        pen.text((left + TEXT_PX + 6, y), thing.name.replace("_", " "), fill=FOREGROUND, font=font)
        pen.text((right, y), f"{dice[thing.label]:.2f}", fill=FOREGROUND, font=font, anchor="ra")
    return canvas


class _View:
    """A slice cut down to the part with labels, at a fixed number of picture pixels a mm."""

    def __init__(self, volume: Volume, labels: NDArray, axis: int, index: int) -> None:
        first, second = (k for k in range(3) if k != axis)
        spacing = volume.geometry.spacing
        rows = _extent(np.any(labels, axis=(axis, second)), spacing[first])
        columns = _extent(np.any(labels, axis=(axis, first)), spacing[second])
        self.corner = rows.start, columns.start
        self.intensities = np.take(volume.array, index, axis)[rows, columns]
        self.labels = np.take(labels, index, axis)[rows, columns]
        self.scale = spacing[first] * PX_PER_MM, spacing[second] * PX_PER_MM
        height, width = self.labels.shape
        self.size_px = round(width * self.scale[1]), round(height * self.scale[0])

    def gray(self, window: Window) -> Image:
        """The windowed slice."""
        from PIL import Image

        bright = np.rint(255 * apply_window(self.intensities, window)).astype(np.uint8)
        return Image.fromarray(bright).resize(self.size_px, Image.Resampling.BICUBIC).convert("RGB")

    def with_masks(self, window: Window) -> Image:
        """The windowed slice under tinted and outlined masks."""
        from PIL import Image

        pixels = np.asarray(self.gray(window), np.float32).copy()
        for label in np.unique(self.labels[self.labels > 0]).tolist():
            small = Image.fromarray(np.where(self.labels == label, np.uint8(255), np.uint8(0)))
            mask = np.asarray(small.resize(self.size_px, Image.Resampling.BILINEAR)) > 127
            pixels[mask] += TINT * (np.asarray(_colour(label), np.float32) - pixels[mask])
            pixels[mask & ~_eroded(mask)] = _colour(label)
        return Image.fromarray(np.rint(pixels).astype(np.uint8))

    def with_boxes(self, window: Window, boxes: Mapping[int, Box]) -> Image:
        """The windowed slice with the boxes of the labels that it shows."""
        from PIL import ImageDraw

        picture = self.gray(window)
        pen = ImageDraw.Draw(picture)
        for label, (y0, x0, y1, x1) in boxes.items():
            if (self.labels == label).any():
                # The corners are centres of pixels that belong to the box.
                top, bottom = (y0 - self.corner[0]) * self.scale[0], (y1 + 1 - self.corner[0]) * self.scale[0]
                left, right = (x0 - self.corner[1]) * self.scale[1], (x1 + 1 - self.corner[1]) * self.scale[1]
                pen.rectangle((left, top, right, bottom), outline=_colour(label), width=2)
        return picture


def _extent(occupied: NDArray[np.bool_], step_mm: float) -> slice:
    """From the first to the last index that is occupied, and some millimetres more."""
    found = np.flatnonzero(occupied) if occupied.any() else np.arange(occupied.size)
    margin = round(MARGIN_MM / step_mm)
    return slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + margin + 1, occupied.size))


def _busiest(labels: NDArray, axis: int) -> int:
    """Index of the slice that shows the most labels, of those the one where they are largest."""
    slices = np.moveaxis(labels, axis, 0)
    return max(range(len(slices)), key=lambda k: (np.unique(slices[k]).size, np.count_nonzero(slices[k])))


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner


def _colour(label: int) -> tuple[int, int, int]:
    return COLOURS[(label - 1) % len(COLOURS)]
