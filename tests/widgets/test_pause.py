"""A window that rests shows the mask sooner; one that went on resting would look dead."""

from __future__ import annotations

import pytest
from hand import needs_display
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_medsam.widgets.pause import LONGEST_MS, Pause

pytestmark = [pytest.mark.canvas, needs_display]


@pytest.fixture
def windows(qtbot):
    made = QWidget(), QWidget()
    for window in made:
        qtbot.addWidget(window)
    return made


def test_a_window_paints_again_once_there_is_something_to_show(windows):
    pause = Pause(windows[0])
    pause.begin(windows[0])
    assert not windows[0].updatesEnabled()
    pause.end()
    assert windows[0].updatesEnabled()


def test_a_window_paints_again_when_no_answer_comes(windows, qtbot):
    pause = Pause(windows[0])
    pause.begin(windows[0])
    qtbot.waitUntil(windows[0].updatesEnabled, timeout=20 * LONGEST_MS)


def test_no_window_is_forgotten_for_another_one(windows):
    pause = Pause(windows[0])
    pause.begin(windows[0])
    pause.begin(windows[1])
    assert windows[0].updatesEnabled()
    assert not windows[1].updatesEnabled()


def test_a_dock_taken_out_of_a_resting_window_paints_again(qtbot):
    window, dock = QMainWindow(), QDockWidget()
    qtbot.addWidget(window)
    dock.setWidget(QWidget())
    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)
    window.show()
    pause = Pause(window)
    pause.begin(window)
    dock.setFloating(True)
    pause.end()
    assert dock.widget().updatesEnabled()
