"""A hand on keyboard and mouse: real Qt events to the canvas of a viewer, for tests and measurements."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QEventLoop, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

needs_display = pytest.mark.skipif(
    sys.platform.startswith("linux")
    and (not os.environ.get("DISPLAY") or os.environ.get("QT_QPA_PLATFORM") == "offscreen"),
    reason="a window with OpenGL needs a display: run under xvfb-run",
)
NO_KEY = Qt.KeyboardModifier.NoModifier
LEFT = Qt.MouseButton.LeftButton


class Hand:
    """Presses keys and moves the mouse over the canvas of a viewer with a window.

    Parameters
    ----------
    viewer
        The one whose window is the only one open.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self.viewer = viewer
        self.released = 0.0
        """When the mouse was last let go of, as `time.perf_counter` counts."""
        self.window: QWidget = next(
            w for w in QApplication.topLevelWidgets() if w.inherits("QMainWindow") and w.isVisible()
        )
        self.canvas: QWidget = max(
            (w for w in self.window.findChildren(QWidget) if type(w).__name__ == "CanvasBackendDesktop"),
            key=lambda w: w.width(),
        )

    def at(self, y: float, x: float, layer: Layer) -> QPoint:
        """Where on the canvas a pixel is: (y, x) are the axes on the screen, from top and left."""
        axes = self.viewer.dims.displayed[-2:]
        offset = self.viewer.dims.ndim - layer.ndim
        world = [layer.scale[a - offset] * place for a, place in zip(axes, (y, x), strict=True)]
        # Older napari has no scene, newer warns of the camera beside it.
        camera = getattr(self.viewer, "scene", self.viewer).camera
        centre = np.array(camera.center[-2:])
        size = np.array([self.canvas.height(), self.canvas.width()])
        place = (np.array(world) - centre) * camera.zoom + size / 2
        return QPoint(round(place[1]), round(place[0]))

    def key(self, key: Qt.Key, modifier: Qt.KeyboardModifier = NO_KEY) -> None:
        """Press and release a key over the canvas."""
        self.canvas.setFocus()
        QTest.keyClick(self.canvas, key, modifier)
        self.wait()

    def click(
        self, place: QPoint, button: Qt.MouseButton = LEFT, modifier: Qt.KeyboardModifier = NO_KEY
    ) -> None:
        """Press and release a button at one place."""
        QTest.mouseMove(self.canvas, place)
        QTest.mouseClick(self.canvas, button, modifier, place)
        self.wait()

    def drag(
        self,
        start: QPoint,
        end: QPoint,
        steps: int = 8,
        before_release: Callable[[], object] = lambda: None,
        button: Qt.MouseButton = LEFT,
    ) -> None:
        """Press a button, move, do something with it down, and release it."""
        shares = np.linspace(0, 1, steps + 1).tolist()
        way = [QPointF(start) + (QPointF(end) - QPointF(start)) * share for share in shares]
        self.draw(way, before_release, button)

    def draw(
        self,
        way: Sequence[QPointF],
        before_release: Callable[[], object] = lambda: None,
        button: Qt.MouseButton = LEFT,
    ) -> None:
        """Press a button at the first of several places, move to all others, and release it at the last."""
        start, end = way[0].toPoint(), way[-1].toPoint()
        QTest.mouseMove(self.canvas, start)
        QTest.mousePress(self.canvas, button, pos=start)
        for place in way[1:]:
            self.move(place, button)
        before_release()
        self.released = time.perf_counter()
        QTest.mouseRelease(self.canvas, button, pos=end)
        self.wait()

    def wait(self, milliseconds: int = 0) -> None:
        """Let the window do what it has to, for a while."""
        if not milliseconds:
            QApplication.processEvents()
            return
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait for a condition; `AssertionError`, with every thread's stack, when it never comes true."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end:
                stacks = [traceback.format_stack(frame) for frame in sys._current_frames().values()]
                raise AssertionError("what was waited for did not happen\n" + "\n".join(map("".join, stacks)))
            self.wait(5)

    def move(self, place: QPointF, button: Qt.MouseButton = LEFT) -> None:
        """Move the mouse with a button down: QTest moves it without."""
        where = QPointF(self.canvas.mapToGlobal(place.toPoint()))
        event = QMouseEvent(QEvent.Type.MouseMove, place, where, Qt.MouseButton.NoButton, button, NO_KEY)
        QApplication.sendEvent(self.canvas, event)
        self.wait()
