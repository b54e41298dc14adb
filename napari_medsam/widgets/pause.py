"""The window rests while a mask is computed, and shows prompt and mask in one frame.

Without a graphics card a frame of napari takes as long as the default model takes for its answer, on the same
cores: two frames between mouse and mask made the mask come later by their whole time. The canvas alone is not
enough: whatever else is painted makes Qt put the whole window together again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QDockWidget

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

LONGEST_MS = 200
"""How long a window rests at most: what comes later is waited for in a window that lives."""


class Pause(QObject):
    """Holds back what a window paints, for a moment.

    Parameters
    ----------
    parent
        What it lives as long as.
    """

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._window: QWidget | None = None
        self._limit = QTimer(self, singleShot=True, interval=LONGEST_MS)
        self._limit.timeout.connect(self.end)

    def begin(self, window: QWidget) -> None:
        """Paint nothing in a window until `end`, or for `LONGEST_MS`."""
        self.end()
        self._window = window
        window.setUpdatesEnabled(False)
        self._limit.start()

    def end(self) -> None:
        """Paint what has changed."""
        self._limit.stop()
        if self._window is not None:
            # A dock that was taken out of the window meanwhile went on resting.
            for part in (self._window, *self._window.findChildren(QDockWidget)):
                part.setUpdatesEnabled(True)
        self._window = None
