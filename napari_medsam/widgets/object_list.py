"""The list of objects: colour, name, volume, slices; new, delete, merge, rename, hide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHeaderView,
    QInputDialog,
    QMessageBox,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_medsam.measurements import volume_text
from napari_medsam.widgets.parts import button, colour_icon
from napari_medsam.widgets.planes import UNKNOWN_SIZE

if TYPE_CHECKING:
    from napari_medsam.widgets.segmenter import Segmenter

NAME, VOLUME, SLICES = range(3)
ROWS_SHOWN = 4


class ObjectList(QWidget):
    """Shows the objects of the image at hand; a click goes to one, a double click renames it.

    Parameters
    ----------
    segmenter
        Whose objects.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self._labels: list[int] = []
        self._filling = False
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["Object", "mL", "Slices"])
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        for column in (VOLUME, SLICES):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setShowGrid(False)
        self.table.setFixedHeight(header.sizeHint().height() + ROWS_SHOWN * 26)
        self.table.setToolTip("Click: go to the object and its prompts. Double click: rename. Tick: show.")
        self.table.cellClicked.connect(self._clicked)
        self.table.itemChanged.connect(self._changed)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table, 0, 0, 1, 3)
        layout.addWidget(button("New  (M)", "Begin the next object", segmenter.new_object), 1, 0)
        layout.addWidget(button("Merge...", "Give its voxels to another object", self._merge), 1, 1)
        layout.addWidget(button("Delete", "Delete the object, its prompts and voxels", self._delete), 1, 2)

    def refresh(self) -> None:
        """Show how things are."""
        layers = self.segmenter.layers
        objects = {} if layers is None else layers.session.objects
        is_size_known = layers is None or UNKNOWN_SIZE not in layers.session.volume.notes
        header = self.table.horizontalHeaderItem(VOLUME)
        assert header is not None
        header.setText("mL" if is_size_known else "mL ?")
        header.setToolTip("" if is_size_known else UNKNOWN_SIZE)
        self._filling = True
        self._labels = list(objects)
        self.table.setRowCount(len(objects))
        for row, label in enumerate(objects):
            assert layers is not None
            voxels = layers.census.voxels(label)
            size = volume_text(voxels * layers.session.volume.geometry.voxel_volume_ml)
            texts = layers.name(label), size, str(len(layers.census.slices(label)))
            name, *_ = (self._cell(row, column, text) for column, text in enumerate(texts))
            name.setIcon(colour_icon(layers.masks.palette.colour(label)))
            shown = Qt.CheckState.Unchecked if label in layers.masks.palette.hidden else Qt.CheckState.Checked
            name.setCheckState(shown)
            if label == layers.label:
                self.table.selectRow(row)
        self._filling = False

    def _cell(self, row: int, column: int, text: str) -> QTableWidgetItem:
        item = self.table.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            self.table.setItem(row, column, item)
            if column != NAME:
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if item.text() != text:
            item.setText(text)
        return item

    def _clicked(self, row: int, column: int) -> None:
        if self.segmenter.layers is not None and row < len(self._labels):
            self.segmenter.layers.go_to(self._labels[row])

    def _changed(self, item: QTableWidgetItem) -> None:
        layers = self.segmenter.layers
        if self._filling or layers is None or item.column() != NAME:
            return
        label = self._labels[item.row()]
        layers.masks.show(label, item.checkState() == Qt.CheckState.Checked)
        if item.text() != layers.name(label):
            layers.rename(label, item.text())
        self.segmenter.changed.emit()

    def _delete(self) -> None:
        layers = self.segmenter.layers
        if layers is None:
            return
        label, slices = layers.label, len(layers.census.slices(layers.label))
        if slices:
            where = "1 slice" if slices == 1 else f"{slices} slices"
            text = f"Delete '{layers.name(label)}', drawn on {where}? Ctrl+Z takes it back."
            if QMessageBox.question(self, "Delete object", text) != QMessageBox.StandardButton.Yes:
                return
        self.segmenter.remove(label)

    def _merge(self) -> None:
        layers = self.segmenter.layers
        others = [] if layers is None else [label for label in self._labels if label != layers.label]
        if layers is None or not others:
            return
        names = [f"{label}: {layers.name(label)}" for label in others]
        chosen, agreed = QInputDialog.getItem(self, "Merge", "Merge into", names, 0, False)
        if agreed:
            self.segmenter.remove(layers.label, into=others[names.index(chosen)])
