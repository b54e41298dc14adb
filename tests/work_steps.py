"""What somebody does with a small bright block, without a window, and what a session knows afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from bright_model import BrightModel

from napari_medsam import tasks
from napari_medsam.geometry import Geometry, Volume
from napari_medsam.journal import Do
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.session import Session
from napari_medsam.windowing import Window

SHAPE = (6, 20, 30)
WINDOW = Window(0.0, 1.0, "all")


def make_volume(brightest: float = 1.0, source: str = "") -> Volume:
    """Block of 4 x 10 x 10 voxels that a `BrightModel` finds."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[1:5, 5:15, 10:20] = brightest
    return Volume(voxels, Geometry(SHAPE, (3.0, 1.0, 1.0)), "MR", source, ())


def make_session(volume: Volume, model_name: str, window: Window = WINDOW) -> Session:
    """Begin a session in which nothing is done yet."""
    return Session(volume, SlicePredictor(BrightModel()), window=window, model_name=model_name)


def box(session: Session, label: int, index: int, corners: tuple[int, ...] = (3, 8, 17, 22)) -> None:
    """Draw a box on a slice, and wait for its mask."""
    where = SliceIndex(0, index)
    action = tasks.prompt(session, label, where)
    with session.doing(action):
        session.add_prompts(label, where, SlicePrompts(corners))
    list(tasks.run(session, action))


def stroke(session: Session, index: int, value: int) -> None:
    """Paint on a slice by hand."""
    where = SliceIndex(0, index)
    plane = where.take(session.labels).copy()
    plane[2:4, 2 : 4 + index] = value
    with session.doing(session.journal.action(Do.PAINT, value, where)):
        session.set_plane(where, plane)
        session.ledger.mark(value, where, "corrected")


def facts(session: Session) -> tuple[Any, ...]:
    """Say what a session knows besides its labels: objects, key slices, reports."""
    marks = {label: dict(marks) for label, marks in session.key_slices.items() if marks}
    reports = {label: dict(known) for label, known in session.ledger.reports.items() if known}
    return dict(session.objects), marks, reports
