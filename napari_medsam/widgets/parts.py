"""Small Qt pieces that the dock is made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap
from qtpy.QtWidgets import (
    QApplication,
    QLabel,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

ICON_PX = 16


def button(text: str, tip: str, run: Callable[[], object]) -> QPushButton:
    """Return a push button that says what it does when the mouse rests on it."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.clicked.connect(lambda checked=False: run())
    # The keys belong to the canvas, also after a click here.
    made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    # A narrow dock shortens the buttons rather than growing beyond a laptop's screen.
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    made.setMinimumWidth(30)
    return made


def note(text: str = "") -> QLabel:
    """Return a line of text that wraps."""
    made = QLabel(text)
    made.setWordWrap(True)
    made.setMinimumWidth(10)
    return made


def main_window(widget: QWidget) -> QWidget:
    """Return the window that a widget is part of, also while its dock floats in a window of its own."""
    found = widget.window()
    while (above := found.parentWidget()) is not None:
        found = above.window()
    return found


class VisitedLine(QLineEdit):
    """A line to type in that gives the keyboard back to where it was: the keys belong to the canvas."""

    def __init__(self) -> None:
        super().__init__()
        self._before: QWidget | None = None
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        application.focusChanged.connect(self._on_focus)

    def leave(self) -> None:
        """Give the keyboard back."""
        if not self.hasFocus():
            return
        self.clearFocus()
        # What had it may be gone by now.
        with suppress(RuntimeError):
            if self._before is not None:
                self._before.setFocus()

    def _on_focus(self, old: QWidget | None, now: QWidget | None) -> None:
        if now is self and old is not None:
            self._before = old


class Panel(QWidget):
    """A section of the dock that shows how things are when it is told to."""

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to show: nobody sees a folded section."""
        return not self.isHidden()

    @abstractmethod
    def refresh(self) -> None:
        """Show how things are."""


class Fold(QWidget):
    """A section under a heading that shows and hides it.

    Parameters
    ----------
    title
        The heading.
    content
        What is shown and hidden; told to refresh when it is shown.
    is_open
        How to begin.
    """

    def __init__(self, title: str, content: Panel, *, is_open: bool = False) -> None:
        super().__init__()
        self.heading = QToolButton()
        self.heading.setText(title)
        self.heading.setCheckable(True)
        self.heading.setChecked(is_open)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.heading.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.heading.setStyleSheet("QToolButton { border: none; font-weight: bold; text-align: left; }")
        self.content = content
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.heading)
        layout.addWidget(content)
        self.heading.toggled.connect(self._turn)
        self._turn(is_open)

    def _turn(self, is_open: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow
        self.heading.setArrowType(arrow)
        self.content.setVisible(is_open)
        if is_open:
            self.content.refresh()


def may_replace(
    parent: QWidget | None, title: str, paths: Iterable[Path], reason: str = "is there already"
) -> bool:
    """Ask before files that are there are replaced, where no dialog has asked; True without any."""
    there = next((path for path in paths if path.exists()), None)
    if there is None:
        return True
    buttons = QMessageBox.StandardButton
    text = f"'{there}' {reason}. Replace it?"
    return QMessageBox.question(parent, title, text, buttons.Yes | buttons.No) == buttons.Yes


def drawn_icon(kind: str, colour: QColor) -> QIcon:
    """Draw an icon in a theme's text colour: "box", "line", "points", "edit", "paint", "erase" or "fill"."""
    pixmap = QPixmap(2 * ICON_PX, 2 * ICON_PX)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(colour, 3))
    if kind == "box":
        painter.drawRect(4, 7, 24, 18)
    elif kind == "line":
        painter.drawLine(5, 25, 27, 7)
        for x, y in ((5, 25), (27, 7)):
            painter.drawLine(x - 3, y - 4, x + 3, y + 4)
    elif kind == "points":
        painter.setBrush(colour)
        painter.drawEllipse(4, 10, 9, 9)
        painter.drawLine(20, 15, 30, 15)
        painter.drawLine(25, 10, 25, 20)
    elif kind == "edit":
        painter.setBrush(colour)
        painter.drawPolygon(_points((8, 3), (8, 25), (14, 19), (24, 19)))
    elif kind == "paint":
        painter.drawLine(27, 4, 14, 18)
        painter.setBrush(colour)
        painter.drawEllipse(5, 17, 10, 10)
    elif kind == "erase":
        painter.drawPolygon(_points((4, 20), (18, 5), (28, 14), (14, 28)))
        painter.drawLine(9, 14, 20, 23)
    elif kind == "fill":
        painter.drawRect(5, 5, 22, 22)
        painter.fillRect(5, 15, 22, 12, colour)
    painter.end()
    return QIcon(pixmap)


def colour_icon(rgba: tuple[float, ...]) -> QIcon:
    """Return a filled square of a colour, components from 0 to 1."""
    pixmap = QPixmap(ICON_PX, ICON_PX)
    pixmap.fill(QColor.fromRgbF(*(min(1.0, max(0.0, float(c))) for c in rgba[:3])))
    return QIcon(pixmap)


def _points(*places: tuple[int, int]) -> list:
    from qtpy.QtCore import QPoint

    return [QPoint(x, y) for x, y in places]
