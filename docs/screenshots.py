"""Make the pictures of the documentation again: ``python docs/screenshots.py``.

Run it after a change that shows, with the default model; commit what has changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QPointF, Qt
from qtpy.QtWidgets import QApplication

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_series import write_series
from hand import Hand
from new_user import NewUser, walk

from napari_medsam.demo import run_demo
from napari_medsam.models.zoo import load_model
from napari_medsam.phantom import ct_torso
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, box_from_mask
from napari_medsam.widgets.parts import Fold
from napari_medsam.widgets.planes import box_corners

IMAGES = Path(__file__).parent / "images"
MAX_BYTES = 400_000
SIZES = (1280, 800), (1440, 900)
TALL_PX = 1180
LIVER, SPLEEN = 1, 2


def overview() -> Path:
    """Take the overview picture of the demo, seed 0."""
    target = IMAGES / "overview.png"
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(Path(folder), SlicePredictor(load_model()))
        shutil.copyfile(result.picture, target)
    return target


def windows(folder: Path, theme: str, size: tuple[int, int]) -> list[Path]:
    """Take the window at the start, after a box on the liver, and with all sections open.

    Parameters
    ----------
    folder
        Gets ``start-THEME.png``, ``segment-THEME.png`` and ``sections-THEME.png``.
    theme
        ``dark`` or ``light``.
    size
        Width and height of the window in pixels.
    """
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    viewer.window.resize(*size)
    dock = viewer.window.add_plugin_dock_widget("napari-medsam", "Segment")[1]
    _wait(dock)
    pictures = [_shoot(viewer, folder / f"start-{theme}.png")]
    image, reference = viewer.open_sample("napari-medsam", "ct_torso")
    reference.visible = False
    viewer.layers.selection.active = image
    viewer.dims.set_current_step(0, 32)
    segmenter = dock.segmenter
    _box(dock, reference.data[32] == LIVER)
    segmenter.layers.rename(1, "liver")
    segmenter.propagate(24, 40)
    _wait(dock)
    pictures.append(_shoot(viewer, folder / f"segment-{theme}.png"))
    segmenter.new_object("spleen")
    _box(dock, reference.data[32] == SPLEEN)
    segmenter.accept()
    # Wider than tall is what screens are, but here everything is to be seen at once.
    viewer.window.resize(size[0], TALL_PX)
    for fold in dock.findChildren(Fold):
        fold.heading.setChecked(True)
    _wait(dock)
    pictures.append(_shoot(viewer, folder / f"sections-{theme}.png"))
    for each in segmenter.unsaved:
        each.unsaved = False
    dock.worker.stop()
    viewer.close()
    return pictures


def scribbled(folder: Path, theme: str, size: tuple[int, int]) -> list[Path]:
    """Take what a scribble through the spleen finds: ``scribble-THEME.png``."""
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    viewer.window.resize(*size)
    image, reference = viewer.open_sample("napari-medsam", "ct_torso")
    reference.visible = False
    viewer.layers.selection.active = image
    viewer.dims.set_current_step(0, 32)
    dock = viewer.window.add_plugin_dock_widget("napari-medsam", "Segment")[1]
    _wait(dock)
    hand = Hand(viewer)
    hand.key(Qt.Key.Key_N)
    hand.wait()
    spleen = reference.data[32] == SPLEEN
    rows = np.flatnonzero(spleen.any(1))
    inner = rows[len(rows) // 6 : -len(rows) // 6]
    hand.draw([QPointF(hand.at(y, np.flatnonzero(spleen[y]).mean(), image)) for y in inner])
    _wait(dock)
    picture = _shoot(viewer, folder / f"scribble-{theme}.png")
    for each in dock.segmenter.unsaved:
        each.unsaved = False
    dock.worker.stop()
    viewer.close()
    return [picture]


def recovered(folder: Path, theme: str, size: tuple[int, int]) -> list[Path]:
    """Take what is offered after a crash, and the history of the work once it is back.

    Parameters
    ----------
    folder
        Gets ``recovered-THEME.png`` and ``history-THEME.png``.
    theme
        ``dark`` or ``light``.
    size
        Width and height of the window in pixels.
    """
    pictures = []
    for is_back in (False, True):
        viewer = napari.Viewer(show=True)
        viewer.theme = theme
        viewer.window.resize(*size)
        dock = viewer.window.add_plugin_dock_widget("napari-medsam", "Segment")[1]
        image, reference = viewer.open_sample("napari-medsam", "ct_torso")
        reference.visible = False
        viewer.layers.selection.active = image
        viewer.dims.set_current_step(0, 32)
        _wait(dock)
        segmenter = dock.segmenter
        if is_back:
            pictures.append(_shoot(viewer, folder / f"recovered-{theme}.png"))
            segmenter.past.restore()
            segmenter.correct("smooth", whole=True)
            _wait(dock)
            segmenter.past.undo()
            fold = next(each for each in dock.findChildren(Fold) if each.content is dock.panels["History"])
            fold.heading.click()
            _wait(dock)
            pictures.append(_shoot(viewer, folder / f"history-{theme}.png"))
        else:
            _box(dock, reference.data[32] == LIVER)
            segmenter.layers.rename(1, "liver")
            segmenter.propagate(24, 40)
            _wait(dock)
            # As a crash would leave it.
            segmenter.past.forget(segmenter.layers, keep=True)
        for each in segmenter.unsaved:
            each.unsaved = False
        dock.worker.stop()
        viewer.close()
    return pictures


def tutorial(folder: Path, size: tuple[int, int]) -> list[Path]:
    """Take the way of the tutorial from a DICOM folder to 3D Slicer, with the phantom as the patient.

    Parameters
    ----------
    folder
        Gets the pictures, the series and the results.
    size
        Width and height of the window in pixels.
    """
    phantom = ct_torso(0)
    write_series(folder / "ct", phantom.volume.geometry, phantom.volume.array)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*size)
    pictures: list[Path] = []

    def shoot(name: str) -> None:
        user.hand.wait(300)
        pictures.append(_shoot(viewer, folder / f"{name}.png"))

    user = NewUser(Hand(viewer), phantom, shoot)
    user.hand.wait(200)
    walk(user, folder / "ct", folder)
    user.dock.worker.stop()
    viewer.close()
    return pictures


def _box(dock: Any, mask: Any) -> None:
    dock.segmenter.draw_box()
    box = box_corners(SliceIndex(0, 32), box_from_mask(mask, 2), 3)
    dock.segmenter.layers.box_layer().add_rectangles([box])
    _wait(dock)


def _shoot(viewer: napari.Viewer, target: Path) -> Path:
    viewer.screenshot(str(target), canvas_only=False, flash=False)
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
    with tempfile.TemporaryDirectory() as folder:
        # Not among the work of whoever runs this.
        os.environ["NAPARI_MEDSAM_RECOVERY"] = folder
        _make()


def _make() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--look", type=Path, help="all windows of SIZES in both themes into this folder only")
    look = parser.parse_args().look
    if look:
        for size in SIZES:
            folder = look / "x".join(map(str, size))
            folder.mkdir(parents=True, exist_ok=True)
            for theme in ("dark", "light"):
                windows(folder, theme, size)
                recovered(folder, theme, size)
                scribbled(folder, theme, size)
            tutorial(folder, size)
        return
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found = [p for theme in ("dark", "light") for p in windows(Path(folder), theme, SIZES[0])]
        shown = [p for p in found if p.stem in ("segment-dark", "segment-light", "sections-dark")]
        shown += recovered(Path(folder), "dark", SIZES[0])
        shown += scribbled(Path(folder), "dark", SIZES[0])
        shown += tutorial(Path(folder), SIZES[0])
        pictures = [Path(shutil.copyfile(p, IMAGES / p.name)) for p in shown]
    pictures.append(overview())
    for picture in pictures:
        size = picture.stat().st_size
        if size > MAX_BYTES:
            sys.exit(f"{picture} has {size} bytes, expected at most {MAX_BYTES}: make it smaller.")
        sys.stdout.write(f"{picture} {size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
