"""The review: one bar for each slice of the current object, and the way to those that want a look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QEvent, QLineF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QToolTip, QWidget

from napari_medsam.widgets.parts import Panel, button, note

if TYPE_CHECKING:
    from napari_medsam.propagation import SliceReport
    from napari_medsam.widgets.segmenter import Segmenter

HEIGHT_PX = 52
MARK_PX = 7
"""Room above the bars for what marks key slices."""

NOTHING = "Propagate an object: each of its slices then gets a bar here, the weaker the shorter."
LEVELS = (0.4, 0.7, 1.0)
COLOURS = ("#d55e00", "#f0e442", "#56b4e9")
"""Estimated Dice and its colour, which people with any of the common colour blindnesses tell apart."""


def colour_of(dice: float) -> QColor:
    """Return the colour of an estimated Dice, blended from `COLOURS`."""
    known = [QColor(each) for each in COLOURS]
    channels = [[getattr(each, name)() for each in known] for name in ("red", "green", "blue")]
    return QColor(*(round(float(np.interp(dice, LEVELS, each))) for each in channels))


class Strip(QWidget):
    """One bar for each slice: as high and of such a colour as its mask is thought to be good.

    A disc above a bar marks a key slice, a cross the end of the object, a frame the slice on screen.

    Attributes
    ----------
    jumped : Signal(int)
        The user clicked this slice.
    """

    jumped = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.reports: dict[int, SliceReport] = {}
        self.current: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """As wide as the dock lets it be."""
        return QSize(200, HEIGHT_PX)

    def show_reports(self, reports: Sequence[SliceReport], current: int | None) -> None:
        """Show these slices of one axis, and mark the one on screen."""
        self.reports, self.current = {each.where.index: each for each in reports}, current
        self.update()

    @property
    def range(self) -> tuple[int, int]:
        """First slice shown, and how many."""
        first = min(self.reports, default=0)
        return first, max(self.reports, default=0) - first + 1

    def index_at(self, x: float) -> int:
        """Return the slice whose bar is at `x` pixels from the left, or is nearest to it."""
        first, count = self.range
        return first + min(count - 1, max(0, int(x * count / max(1, self.width()))))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the bars, the weakest last: where several share a pixel, it is the one to be seen."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().windowText().color()
        for report in sorted(self.reports.values(), key=lambda each: -each.dice):
            self._draw(painter, report, text)
        if self.current is not None and self.reports:
            first, count = self.range
            if first <= self.current < first + count:
                painter.setPen(QPen(text, 1.5))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawRect(self._column(self.current).adjusted(-1, 1, 1, -1))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to the slice under the mouse."""
        self._jump(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Scroll along with the mouse while its button is down."""
        self._jump(event)

    def event(self, event: QEvent) -> bool:
        """Say what is known of the slice that the mouse rests on."""
        if isinstance(event, QHelpEvent):
            report = self.reports.get(self.index_at(event.pos().x()))
            QToolTip.showText(event.globalPos(), describe(report) if report else "", self)
            return True
        return super().event(event)

    def _jump(self, event: QMouseEvent) -> None:
        if self.reports:
            self.jumped.emit(self.index_at(event.position().x()))

    def _column(self, index: int) -> QRectF:
        first, count = self.range
        width = self.width() / count
        return QRectF((index - first) * width, 0, max(1.0, width), self.height())

    def _draw(self, painter: QPainter, report: SliceReport, text: QColor) -> None:
        column = self._column(report.where.index)
        middle = column.center().x()
        if report.stopped:
            painter.setPen(QPen(text if report.wants_look else Qt.GlobalColor.gray, 1.5))
            low = column.bottom() - MARK_PX
            for rise in (-3, 3):
                painter.drawLine(QLineF(middle - 3, low - rise, middle + 3, low + rise))
            return
        height = (column.height() - MARK_PX) * min(1.0, max(0.08, report.dice))
        gap = 1.0 if column.width() >= 4 else 0.0
        bar = QRectF(column.left(), column.bottom() - height, column.width() - gap, height)
        painter.fillRect(bar, colour_of(report.dice))
        if report.is_key:
            painter.setPen(QPen(text, 1))
            painter.setBrush(text if report.is_by_hand else Qt.BrushStyle.NoBrush)
            painter.drawEllipse(QRectF(middle - 2.5, 0.5, 5, 5))


def describe(report: SliceReport) -> str:
    """Say in a few words what is known of a slice."""
    place = f"Slice {report.where.index}: "
    if report.is_by_hand:
        return f"{place}{report.reason}{', without the object' if report.stopped else ''}"
    if report.stopped:
        return f"{place}the object ends before it; {report.reason}"
    doubt = f"; {report.doubt}" if report.doubt else ""
    return f"{place}estimated Dice {report.dice:.2f}, {report.reason}{doubt}"


class ReviewPanel(Panel):
    """Leads to the slices of the current object that want a look.

    Parameters
    ----------
    segmenter
        Whose object.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.summary, self.text = note(), note()
        self.strip = Strip()
        self.strip.jumped.connect(segmenter.reviewing.jump)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for row, each in enumerate((self.summary, self.strip, self.text)):
            layout.addWidget(each, row, 0, 1, 2)
        tip = "Go where a correction should mend most, then to the next such slice; Shift+J goes back"
        self.next = button("Next  (J)", tip, lambda: segmenter.reviewing.walk(1))
        tip = "Carry the object anew between the key slices beside this one"
        self.redo = button("Redo here", tip, segmenter.reviewing.redo)
        layout.addWidget(self.next, 3, 0)
        layout.addWidget(self.redo, 3, 1)

    def refresh(self) -> None:
        """Show how things are."""
        layers = self.segmenter.layers
        where = None if layers is None else layers.where
        review = self.segmenter.reviewing.review
        known = () if review is None or where is None else review.slices
        self.strip.show_reports(known, where.index if where else None)
        self.strip.setVisible(bool(known))
        self.text.setVisible(bool(known))
        self.summary.setText(f"{review.summary().capitalize()}." if review and known else NOTHING)
        here = self.strip.reports.get(where.index) if where else None
        self.text.setText(f"{describe(here)}." if here else "")
        for each in (self.next, self.redo):
            each.setEnabled(bool(known))
