"""The steps that were done, to go back and forth in; session files; and what a crash has left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QFileDialog,
    QFrame,
    QGridLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMessageBox,
    QWidget,
)

from napari_medsam.session_file import SUFFIX, session_path
from napari_medsam.widgets.parts import Panel, button, main_window, note
from napari_medsam.widgets.saving import default_path

if TYPE_CHECKING:
    from napari_medsam.widgets.past import Offer
    from napari_medsam.widgets.segmenter import Segmenter

KIND = f"Session of napari-medsam (*{SUFFIX})"
BEGINNING = "As it was opened"
ROWS_SHOWN = 6


class HistoryPanel(Panel):
    """Lists what was done on the image at hand; a click takes back, or does again, up to there.

    Parameters
    ----------
    segmenter
        Whose steps.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self._shown: tuple[list[str], int, int] | None = None
        self.steps = QListWidget()
        self.steps.setUniformItemSizes(True)
        self.steps.setFixedHeight(ROWS_SHOWN * 22)
        self.steps.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.steps.setToolTip("Click on a step: what came after it is taken back, or done again up to it")
        self.steps.itemClicked.connect(self._clicked)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.steps, 0, 0, 1, 2)
        tip = "Write all that was done to a file: to go on with, or to make the labels again"
        layout.addWidget(button("Save session...", tip, self._save), 1, 0)
        layout.addWidget(button("Open session...", "Go on with a session of this image", self._open), 1, 1)

    def refresh(self) -> None:
        """Show the steps, those that were taken back in grey."""
        layers, steps = self.segmenter.layers, self.segmenter.past.steps
        journal = None if layers is None else layers.session.journal
        now = (steps, journal.position, journal.oldest) if journal else ([], 0, 0)
        if now == self._shown:
            return
        self._shown = now
        _, position, oldest = now
        self.steps.clear()
        for number, text in enumerate([BEGINNING, *steps]):
            if number < oldest:
                continue
            item = QListWidgetItem(BEGINNING if number == oldest else text)
            item.setData(Qt.ItemDataRole.UserRole, number)
            if number > position:
                item.setForeground(self.palette().color(self.palette().ColorRole.PlaceholderText))
            self.steps.addItem(item)
        self.steps.setCurrentRow(position - oldest)
        self.steps.scrollToItem(self.steps.currentItem())

    def _clicked(self, item: QListWidgetItem) -> None:
        self.segmenter.past.go_to(item.data(Qt.ItemDataRole.UserRole))

    def _save(self) -> None:
        suggestion = self._suggestion()
        if suggestion is None:
            return
        chosen, _ = QFileDialog.getSaveFileName(main_window(self), "Save the session", suggestion, KIND)
        if chosen:
            path = Path(chosen)
            self.segmenter.past.save(path if path.name.endswith(SUFFIX) else session_path(path))

    def _open(self) -> None:
        suggestion = self._suggestion()
        if suggestion is None:
            return
        chosen, _ = QFileDialog.getOpenFileName(main_window(self), "Open a session", suggestion, KIND)
        if chosen:
            self.segmenter.past.open(Path(chosen))

    def _suggestion(self) -> str | None:
        layers = self.segmenter.layers
        if layers is None:
            return None
        path = default_path(layers.session)
        return f"{layers.image.name}{SUFFIX}" if path is None else str(session_path(path))


class OfferBar(QFrame):
    """Offers what a crash has left of work on the image at hand.

    Parameters
    ----------
    segmenter
        Who knows of it.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self._shown: Offer | None = None
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.picture, self.text = QLabel(), note()
        past = segmenter.past
        layout = QGridLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addWidget(self.picture, 0, 0, 1, 3, Qt.AlignmentFlag.AlignHCenter)
        layout.addWidget(self.text, 1, 0, 1, 3)
        layout.addWidget(button("Restore", "Go on with it, with all its steps", past.restore), 2, 0)
        layout.addWidget(button("Later", "Leave it for the next time", past.put_off), 2, 1)
        layout.addWidget(button("Delete", "Delete it for good", self._delete), 2, 2)
        past.offered.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the offer, or nothing."""
        offer = self.segmenter.past.offer
        if offer is not None and offer is not self._shown:
            height, width, _ = offer.picture.shape
            image = QImage(offer.picture.data, width, height, 3 * width, QImage.Format.Format_RGB888)
            self.picture.setPixmap(QPixmap.fromImage(image))
            self.text.setText(offer.text)
        self._shown = offer
        self.setVisible(offer is not None)

    def _delete(self) -> None:
        buttons = QMessageBox.StandardButton
        text = "Delete the work that a crash has left? It cannot be brought back."
        parent: QWidget = main_window(self)
        if QMessageBox.question(parent, "Delete the work", text, buttons.Yes | buttons.No) == buttons.Yes:
            self.segmenter.past.discard()
