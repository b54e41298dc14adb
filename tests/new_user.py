"""The way of docs/tutorial/dicom-to-slicer.md, step by step, with real mouse and key events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QWidget,
)

from napari_medsam.metrics import recist_mm
from napari_medsam.prompts import box_from_mask
from napari_medsam.widgets.parts import Fold
from napari_medsam.widgets.segment import SegmentWidget

if TYPE_CHECKING:
    from hand import Hand

    from napari_medsam.phantom import Phantom

LEFT = Qt.MouseButton.LeftButton
RIGHT_KIDNEY, LEFT_KIDNEY = 3, 4
POLL_MS, LOOK_MS = 50, 400


class NewUser:
    """Somebody with the tutorial in one hand.

    Parameters
    ----------
    hand
        The other one, at a window.
    phantom
        The patient, whose organs the user knows how to find.
    shoot
        Called with the name of each picture of the tutorial when it is to be taken.
    """

    def __init__(
        self, hand: Hand, phantom: Phantom, shoot: Callable[[str], object] = lambda name: None
    ) -> None:
        self.hand, self.phantom, self.shoot = hand, phantom, shoot
        QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)

    @property
    def dock(self) -> SegmentWidget:
        """The panel."""
        (found,) = self.hand.window.findChildren(SegmentWidget)
        return found

    def open_folder(self, folder: Path) -> None:
        """Choose File > Open Folder..., the folder, and MedSAM where napari asks who shall read it."""
        menu = next(each for each in self.hand.window.menuBar().actions() if _plain(each) == "File")
        action = next(each for each in menu.menu().actions() if _plain(each) == "Open Folder...")

        def choose_reader(dialog: QDialog) -> None:
            (ours,) = [each for each in dialog.findChildren(QRadioButton) if each.text() == "MedSAM"]
            ours.click()
            box = dialog.findChild(QDialogButtonBox)
            QTest.mouseClick(box.button(QDialogButtonBox.StandardButton.Ok), LEFT)

        self._then("", lambda dialog: _type_path(dialog, folder))
        self._then("Choose reader", choose_reader)
        action.trigger()
        self.hand.until(lambda: len(self.hand.viewer.layers) == 1)
        self.hand.wait(200)

    def scroll_to(self, index: int) -> None:
        """Press the arrow keys until a slice is on screen."""
        while (step := index - self.hand.viewer.dims.current_step[0]) != 0:
            self.hand.key(Qt.Key.Key_Right if step > 0 else Qt.Key.Key_Left)

    def box(self, label: int) -> None:
        """Scroll to the slice that shows an organ best, press B and drag a box around it."""
        mask = self._best(label)
        self.hand.key(Qt.Key.Key_B)
        y0, x0, y1, x1 = box_from_mask(mask, 2) or ()
        self._drag((y0, x0), (y1, x1))

    def line(self, label: int) -> None:
        """Scroll to the slice that shows an organ best, press L and drag along its longest diameter."""
        mask = self._best(label)
        self.hand.key(Qt.Key.Key_L)
        assert self.dock.segmenter.layers.tool == "line"
        start, end = recist_mm(mask, (1.0, 1.0)).endpoints[0]
        self._drag(start, end)

    def name(self, typed: str) -> None:
        """Type the beginning of an organ's name under Anatomy and press Return."""
        panel: Any = self.open_section("Anatomy")
        self.hand.window.activateWindow()
        self.hand.canvas.setFocus()
        self.hand.wait(50)
        self.click(panel.search)
        QTest.keyClicks(panel.search, typed)
        self.hand.wait()
        QTest.keyClick(panel.search, Qt.Key.Key_Return)
        self.hand.wait(50)
        assert self.hand.canvas.hasFocus(), "the keys do not belong to the canvas"

    def propagate(self) -> None:
        """Click Both ways."""
        panel: Any = self.dock.panels["Propagate"]
        self.click(panel.both)
        self.wait()

    def open_section(self, title: str) -> QWidget:
        """Click a section's heading unless it is open, and scroll there."""
        (fold,) = [each for each in self.dock.findChildren(Fold) if each.heading.text() == title]
        if not fold.heading.isChecked():
            self.click(fold.heading)
        self.hand.wait(50)
        return fold.content

    def close_section(self, title: str) -> None:
        """Click the heading of an open section."""
        (fold,) = [each for each in self.dock.findChildren(Fold) if each.heading.text() == title]
        if fold.heading.isChecked():
            self.click(fold.heading)

    def save(self, button: QPushButton, path: Path, kind: str = "") -> None:
        """Click a button, choose a kind of file where there are several, type a path, press Return."""

        def answer(dialog: QDialog) -> None:
            for box in dialog.findChildren(QComboBox) if kind else ():
                index = box.findText(kind)
                if index >= 0:
                    box.setCurrentIndex(index)
                    box.textActivated.emit(kind)
            _type_path(dialog, path)

        self._then("", answer)
        self.click(button)
        self.wait()

    def click(self, widget: QWidget) -> None:
        """Click with the left button."""
        QTest.mouseClick(widget, LEFT)
        self.hand.wait(50)

    def wait(self) -> None:
        """Until nothing is computed or written any more."""
        self.hand.until(lambda: not self.dock.worker.is_busy)
        self.hand.wait(100)

    def _best(self, label: int) -> Any:
        where = self.phantom.labels == label
        index = int(where.sum((1, 2)).argmax())
        self.scroll_to(index)
        return where[index]

    def _drag(self, start: Any, end: Any) -> None:
        image = self.hand.viewer.layers[0]
        self.hand.wait(50)
        self.hand.drag(self.hand.at(*start, image), self.hand.at(*end, image))
        self.hand.wait(50)
        self.wait()

    def _then(self, title: str, act: Callable[[QDialog], None]) -> None:
        """Answer the next dialog of a title once it is there; "" for a dialog about files."""

        def look() -> None:
            dialog = QApplication.activeModalWidget()
            fits = isinstance(dialog, QFileDialog) if not title else _titled(dialog, title)
            if fits and dialog.isVisible():
                # A person looks before they type, and Qt lists the folder meanwhile.
                QTimer.singleShot(LOOK_MS, lambda: act(dialog))
            else:
                QTimer.singleShot(POLL_MS, look)

        QTimer.singleShot(POLL_MS, look)


def walk(user: NewUser, folder: Path, target: Path) -> None:
    """Take all steps of the tutorial.

    Parameters
    ----------
    user
        Who does.
    folder
        With the DICOM series.
    target
        An existing folder for ``organs.seg.nrrd`` and ``organs.csv``.
    """
    user.open_folder(folder)
    user.box(RIGHT_KIDNEY)
    user.propagate()
    user.name("kid r")
    user.shoot("dicom-first")
    user.hand.key(Qt.Key.Key_M)
    user.line(LEFT_KIDNEY)
    user.propagate()
    user.name("kid l")
    for title in ("Propagate", "Review", "Anatomy"):
        user.close_section(title)
    measure: Any = user.open_section("Measure")
    user.hand.until(measure.copy.isEnabled)
    user.click(measure.draw)
    place = measure.table.visualItemRect(measure.table.item(1, 0)).center()
    QTest.mouseClick(measure.table.viewport(), LEFT, pos=place)
    user.shoot("dicom-measure")
    user.save(measure.csv, target / "organs.csv")
    user.save(user.dock.save_as_button, target / "organs", "3D Slicer segmentation (*.seg.nrrd)")
    user.hand.until(lambda: (target / "organs.seg.nrrd").exists() and not user.dock.segmenter.unsaved)


def _plain(action: Any) -> str:
    return str(action.text()).replace("&", "")


def _titled(dialog: Any, title: str) -> bool:
    return isinstance(dialog, QDialog) and dialog.windowTitle() == title


def _type_path(dialog: QDialog, path: Path) -> None:
    line = dialog.findChild(QLineEdit, "fileNameEdit")
    # Qt completes what is typed, and a half-typed folder that exists would be entered on Return.
    line.setCompleter(None)
    line.selectAll()
    QTest.keyClicks(line, str(path))
    QTest.keyClick(line, Qt.Key.Key_Return)
