"""The dock as a whole: it follows what happens, wherever it is."""

from __future__ import annotations

import pytest
from hand import needs_display
from napari.components import ViewerModel
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow

from napari_medsam.widgets.model_loading import ModelLoading
from napari_medsam.widgets.segment import REFRESH_MS, SegmentWidget

pytestmark = [pytest.mark.canvas, needs_display]


@pytest.fixture
def window(qtbot):
    made = QMainWindow()
    qtbot.addWidget(made)
    made.show()
    return made


@pytest.fixture
def dock(qtbot, window, monkeypatch):
    monkeypatch.setattr(ModelLoading, "warm_up", lambda loading: None)
    made = SegmentWidget(ViewerModel())
    around = QDockWidget(window)
    around.setWidget(made)
    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, around)
    qtbot.waitUntil(lambda: made.keeper.parent() is not None)
    yield made
    made.worker.stop()


def test_a_floating_dock_still_belongs_to_the_window_of_the_image(dock, window, qtbot):
    """Closed while it floats, it must neither take the work with it nor ask about saving."""
    around = dock.parentWidget()
    around.setFloating(True)
    qtbot.waitUntil(lambda: dock.isVisible() and dock.window() is around)
    assert dock.keeper.parent() is window


def test_the_dock_keeps_up_with_changes_that_do_not_end(dock, qtbot, monkeypatch):
    """Sizes are told while an object is carried through 500 slices, not only afterwards."""
    shown = []
    monkeypatch.setattr(dock.objects, "refresh", lambda: shown.append(1))
    changes = QTimer(dock, interval=REFRESH_MS // 10)
    changes.timeout.connect(dock.segmenter.changed.emit)
    changes.start()
    qtbot.waitUntil(lambda: len(shown) > 1, timeout=30 * REFRESH_MS)
