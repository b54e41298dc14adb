"""Make the pictures of the documentation again: ``python docs/screenshots.py``.

Run it after a change that shows, with the default model; commit what has changed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QApplication

from napari_medsam.demo import run_demo
from napari_medsam.models.zoo import load_model
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, box_from_mask
from napari_medsam.widgets.planes import box_corners

IMAGES = Path(__file__).parent / "images"
MAX_BYTES = 400_000


def overview() -> Path:
    """Take the overview picture of the demo, seed 0."""
    target = IMAGES / "overview.png"
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(Path(folder), SlicePredictor(load_model()))
        shutil.copyfile(result.picture, target)
    return target


def window(target: Path, theme: str, size: tuple[int, int]) -> Path:
    """Take the window of the plugin after a box on the liver of the sample CT was carried through it."""
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    viewer.window.resize(*size)
    image, reference = viewer.open_sample("napari-medsam", "ct_torso")
    reference.visible = False
    viewer.layers.selection.active = image
    dock = viewer.window.add_plugin_dock_widget("napari-medsam", "Segment")[1]
    mask = reference.data[32] == 1
    segmenter = dock.segmenter
    segmenter.draw_box()
    segmenter.layers.box_layer().add_rectangles([box_corners(SliceIndex(0, 32), box_from_mask(mask, 2), 3)])
    segmenter.layers.session.rename(1, "liver")
    viewer.dims.set_current_step(0, 32)
    _wait(dock)
    segmenter.propagate(24, 40)
    _wait(dock)
    viewer.screenshot(str(target), canvas_only=False, flash=False)
    for each in segmenter.unsaved:
        each.unsaved = False
    dock.worker.stop()
    viewer.close()
    return target


def _wait(dock: Any) -> None:
    # With pauses: in PySide6 6.12.0 every call of processEvents gives back one None too many.
    while dock.worker.is_busy:
        QApplication.processEvents()
        time.sleep(0.01)
    for _ in range(50):
        QApplication.processEvents()
        time.sleep(0.01)


def main() -> None:
    """Make every picture, and refuse one that would weigh on the repository."""
    IMAGES.mkdir(exist_ok=True)
    pictures = [
        window(IMAGES / "segment-dark.png", "dark", (1280, 800)),
        window(IMAGES / "segment-light.png", "light", (1280, 800)),
        overview(),
    ]
    for picture in pictures:
        size = picture.stat().st_size
        if size > MAX_BYTES:
            sys.exit(f"{picture} has {size} bytes, expected at most {MAX_BYTES}: make it smaller.")
        sys.stdout.write(f"{picture} {size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
