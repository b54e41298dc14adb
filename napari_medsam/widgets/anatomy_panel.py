"""What the current object is in codes: searched for and picked, for DICOM and 3D Slicer."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QListWidget, QListWidgetItem

from napari_medsam.terminology import find_terms, term_for
from napari_medsam.widgets.parts import Panel, VisitedLine, button, note

if TYPE_CHECKING:
    from napari_medsam.terminology import Term
    from napari_medsam.widgets.segmenter import Segmenter

SHOWN = 6
NO_CODE = "<b>{}</b> has no code: files that need one call it tissue. Search for what it is."
CODED = "<b>{}</b> is coded as <b>{}</b> ({} {}){}."
BY_NAME = ", by its name"


class AnatomyPanel(Panel):
    """A search in the table of anatomical terms, by the beginnings of words.

    Parameters
    ----------
    segmenter
        Whose current object gets the term.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.text = note()
        self.text.setTextFormat(Qt.TextFormat.RichText)
        self.search = VisitedLine()
        self.search.setPlaceholderText("Search: kid l")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._find)
        self.search.returnPressed.connect(self._pick_first)
        self.found = QListWidget()
        self.found.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.found.itemClicked.connect(self._pick)
        self.found.hide()
        tip = "Take the code from the object's name, if that is one that the table knows"
        self.by_name = button("By name", tip, self._forget)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.text, 0, 0, 1, 3)
        layout.addWidget(self.search, 1, 0, 1, 2)
        layout.addWidget(self.by_name, 1, 2)
        layout.addWidget(self.found, 2, 0, 1, 3)
        for column in range(3):
            layout.setColumnStretch(column, 1)

    def refresh(self) -> None:
        """Say what the current object is."""
        layers = self.segmenter.layers
        for each in (self.search, self.by_name, self.text):
            each.setEnabled(layers is not None)
        if layers is None:
            self.text.setText("")
            return
        thing, name = layers.session.objects[layers.label], escape(layers.name(layers.label))
        self.by_name.setEnabled(thing.term is not None)
        term = thing.term or term_for(thing.name)
        if term is None:
            self.text.setText(NO_CODE.format(name))
        else:
            how = BY_NAME if thing.term is None else ""
            code = escape(term.name), escape(term.type.scheme), escape(term.type.value)
            self.text.setText(CODED.format(name, *code, how))

    def _find(self, text: str) -> None:
        found = find_terms(text, SHOWN) if text.strip() else []
        self.found.clear()
        for term in found:
            item = QListWidgetItem(term.name)
            item.setData(Qt.ItemDataRole.UserRole, term)
            self.found.addItem(item)
        self.found.setVisible(bool(found))
        self.found.setFixedHeight((self.found.sizeHintForRow(0) if found else 0) * len(found) + 6)

    def _pick_first(self) -> None:
        if self.found.count():
            self._pick(self.found.item(0))

    def _pick(self, item: QListWidgetItem) -> None:
        layers, term = self.segmenter.layers, item.data(Qt.ItemDataRole.UserRole)
        if layers is None:
            return
        thing = layers.session.objects[layers.label]
        # A name of the user's own stays; one that the last pick gave does not.
        named_so = thing.term is not None and thing.name == thing.term.name
        self._take(term.name if named_so or not thing.name else thing.name, term)
        self.search.clear()
        self.search.leave()

    def _forget(self) -> None:
        layers = self.segmenter.layers
        if layers is not None:
            self._take(layers.session.objects[layers.label].name, None)

    def _take(self, name: str, term: Term | None) -> None:
        layers = self.segmenter.layers
        if layers is not None:
            layers.rename(layers.label, name, term)
            self.segmenter.changed.emit()
            self.refresh()
