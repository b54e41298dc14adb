"""The dock: what to do next on top, tools, objects, and folding sections; saving below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QPalette, QShowEvent
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_medsam.session import ACCEPTED
from napari_medsam.widgets import past
from napari_medsam.widgets.actions import register_actions
from napari_medsam.widgets.anatomy_panel import AnatomyPanel
from napari_medsam.widgets.compare_panel import ComparePanel
from napari_medsam.widgets.history_panel import HistoryPanel, OfferBar
from napari_medsam.widgets.keeper import Keeper
from napari_medsam.widgets.measure_panel import MeasurePanel
from napari_medsam.widgets.messages import NO_IMAGE
from napari_medsam.widgets.model_loading import MODEL
from napari_medsam.widgets.model_panel import ModelPanel
from napari_medsam.widgets.object_list import ObjectList
from napari_medsam.widgets.panels import CorrectionPanel, PropagationPanel, WindowPanel
from napari_medsam.widgets.parts import ICON_PX, Fold, Panel, button, drawn_icon, main_window, note
from napari_medsam.widgets.review import ReviewPanel
from napari_medsam.widgets.segmenter import CORRECT, SAVE

if TYPE_CHECKING:
    import napari

OPEN = ("Propagate", "Review")
LEAST_WIDTH_PX = 270

REFRESH_MS = 150
"""After the first change: sooner, it would take from the model what it computes the mask with."""

TOOLS = {
    "box": ("Box", "Drag a box around one object (B; Shift+B on a layer that is not the plugin's)"),
    "line": ("Line", "Drag along an object's longest diameter, as RECIST measures it: the box follows (L)"),
    "points": (
        "Points",
        "Left click in the object, right click or Ctrl+click outside of it; drag to scribble (N)",
    ),
    "edit": ("Edit", "Move or resize prompts; Delete takes the selected one away"),
    "paint": ("Brush", "Paint the object; the slice then is a key slice"),
    "erase": ("Eraser", "Erase; the slice then is a key slice"),
    "fill": ("Fill", "Fill an area; the slice then is a key slice"),
}
PROMPT_TOOLS = 4
RUNNING = {
    MODEL: "Loading the model...",
    SAVE: "Saving...",
    CORRECT: "Correcting...",
    past.OPEN: "Opening the session...",
    past.SAVE: "Saving the session...",
}


class SegmentWidget(QWidget):
    """The dock widget of the plugin.

    Parameters
    ----------
    napari_viewer
        The viewer that it is docked to.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        register_actions()
        self.keeper = Keeper.of(napari_viewer)
        self.worker, self.segmenter = self.keeper.worker, self.keeper.segmenter
        self._running = self._score = ""
        self._scored: object = None
        self.setMinimumWidth(LEAST_WIDTH_PX)

        self.hint = note()
        self.hint.setTextFormat(Qt.TextFormat.RichText)
        self.status = note()
        self.offer = OfferBar(self.segmenter)
        self.objects = ObjectList(self.segmenter)
        self.panels: dict[str, Panel] = {
            "Propagate": PropagationPanel(self.segmenter),
            "Review": ReviewPanel(self.segmenter),
            "Correct": CorrectionPanel(self.segmenter),
            "Anatomy": AnatomyPanel(self.segmenter),
            "Measure": MeasurePanel(self.segmenter),
            "History": HistoryPanel(self.segmenter),
            "Window": WindowPanel(self.segmenter),
            "Model": ModelPanel(self.segmenter),
            "Compare and adopt": ComparePanel(self.segmenter),
        }
        self.candidates = QWidget()
        self._build()

        # Many things change at once; the dock is brought up to date once for all of them.
        self._due = QTimer(self, singleShot=True, interval=REFRESH_MS)
        self._due.timeout.connect(self.refresh)
        self.segmenter.changed.connect(self._later)
        self.segmenter.ahead.changed.connect(self._later)
        self.segmenter.prompting.found.connect(self._found)
        self.segmenter.progressed.connect(self._progressed)
        self.segmenter.prompting.candidates_changed.connect(self._show_candidates)
        napari_viewer.layers.events.inserted.connect(self._later)
        napari_viewer.layers.events.removed.connect(self._later)
        napari_viewer.layers.selection.events.active.connect(self._later)
        self._show_candidates()
        self.refresh()

    def refresh(self) -> None:
        """Show how things are."""
        self.hint.setText(self._next_step())
        self.objects.refresh()
        self.offer.refresh()
        for panel in self.panels.values():
            if panel.is_wanted:
                panel.refresh()
        self._show_tool()
        layers = self.segmenter.layers
        marked = None if layers is None else layers.key_kind
        self.accept.setText("Unlock slice  (A)" if marked == ACCEPTED else "Accept slice  (A)")
        key = f"This slice is {marked}: propagation leaves it alone." if marked else ""
        score = self._score if self._scored == self._at() else ""
        told = self._running, score, key, self.segmenter.ahead.text
        self.status.setText("  ".join(text for text in told if text))
        self.status.setVisible(bool(self.status.text()))
        self.save_button.setEnabled(bool(self.segmenter.unsaved))

    def showEvent(self, event: QShowEvent) -> None:
        """Hand over to the window, once it is known, what outlives the dock."""
        super().showEvent(event)
        if self.window() is not self:
            self.keeper.belong_to(main_window(self))

    def changeEvent(self, event: QEvent) -> None:
        """Draw the icons again in the colours of a new theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange) and hasattr(self, "tools"):
            self._paint_icons()

    def _build(self) -> None:
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(6, 4, 6, 4)
        column.setSpacing(8)
        column.addWidget(self.offer)
        column.addWidget(self.hint)
        column.addLayout(self._tool_row())
        column.addWidget(self.candidates)
        self._candidate_row = QHBoxLayout(self.candidates)
        self._candidate_row.setContentsMargins(0, 0, 0, 0)
        self.candidates.hide()
        column.addWidget(self.objects)
        column.addWidget(self.status)
        scroll = QScrollArea()
        for title, panel in self.panels.items():
            fold = Fold(title, panel, is_open=title in OPEN)
            # What was opened is to be seen, once it has its size.
            fold.heading.clicked.connect(
                partial(QTimer.singleShot, 0, partial(scroll.ensureWidgetVisible, fold))
            )
            column.addWidget(fold)
        column.addStretch()
        scroll.setWidget(inner)
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        self.save_button = button("Save  (Ctrl+Shift+S)", "Write the labels beside the image", self._save)
        tip = "Choose place and format: NIfTI, 3D Slicer, DICOM SEG, ITK-SNAP, nnU-Net"
        self.save_as_button = button("As...", tip, self._save_as)
        self.accept = button("Accept slice  (A)", "Lock the object on this slice, or unlock it", self._accept)
        undo = button("Undo", "Take back the last step, whatever it was (Ctrl+Z)", self.segmenter.past.undo)
        redo = button("Redo", "Do again what was taken back (Ctrl+Shift+Z)", self.segmenter.past.redo)
        below = QGridLayout()
        below.setContentsMargins(6, 0, 6, 4)
        for each, place in (
            (self.accept, (0, 0, 1, 2)),
            (undo, (0, 2)),
            (redo, (0, 3)),
            (self.save_button, (1, 0, 1, 3)),
            (self.save_as_button, (1, 3)),
        ):
            below.addWidget(each, *place)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll)
        layout.addLayout(below)

    def _tool_row(self) -> QGridLayout:
        runs = {
            "box": self.segmenter.draw_box,
            "line": self.segmenter.draw_line,
            "points": self.segmenter.place_points,
            "edit": self.segmenter.edit_prompts,
        }
        row = QGridLayout()
        row.setSpacing(4)
        self.tools: dict[str, QPushButton] = {}
        for n, (kind, (text, tip)) in enumerate(TOOLS.items()):
            tool = button(text, tip, runs.get(kind) or partial(self.segmenter.edit_labels, kind))
            tool.setIconSize(QSize(ICON_PX, ICON_PX))
            tool.setCheckable(True)
            # Whether it is down follows from what the mouse does on the canvas, not from the click.
            tool.clicked.connect(self._show_tool)
            self.tools[kind] = tool
            # Four prompts above three that paint, both as wide as the dock.
            place = (0, 3 * n, 1, 3) if n < PROMPT_TOOLS else (1, 4 * (n - PROMPT_TOOLS), 1, 4)
            row.addWidget(tool, *place)
        self._paint_icons()
        return row

    def _show_tool(self, checked: bool = False) -> None:
        layers = self.segmenter.layers
        used = "" if layers is None else layers.tool
        for kind, tool in self.tools.items():
            tool.setChecked(kind == used)

    def _paint_icons(self) -> None:
        for kind, tool in self.tools.items():
            tool.setIcon(drawn_icon(kind, tool.palette().color(QPalette.ColorRole.ButtonText)))

    def _next_step(self) -> str:
        layers = self.segmenter.layers
        if layers is None:
            return NO_IMAGE
        name = escape(layers.name(layers.label))
        where = f" on <b>{escape(layers.image.name)}</b>"
        if not layers.census.voxels(layers.label):
            return (
                f"<b>{name}</b>{where}: press <b>B</b> and drag a box around it, or <b>L</b> and drag along "
                "its longest diameter."
            )
        return (
            f"<b>{name}</b>{where}: correct it with points (<b>N</b>) or the brush, carry it through the "
            "volume with Propagate, or press <b>M</b> for the next object."
        )

    def _later(self, event: object = None) -> None:
        # Put off by each change, it would wait for the end of a propagation, or of scrolling.
        if not self._due.isActive():
            self._due.start()

    def _found(self, score: float) -> None:
        self._score = f"The model expects an overlap of {score:.0%} with the object." if score else ""
        self._scored = self._at()
        self._later()

    def _at(self) -> object:
        """What is at hand: the image, the object and the slice."""
        layers = self.segmenter.layers
        return layers and (layers, layers.label, layers.where)

    def _progressed(self, what: str, done: int, total: int) -> None:
        self._running = RUNNING.get(what, "")
        self._later()

    def _save(self) -> None:
        self.keeper.save()

    def _save_as(self) -> None:
        self.keeper.save(elsewhere=True)

    def _accept(self) -> None:
        self.segmenter.accept()

    def _chooser(self, number: int) -> Callable[[object], None]:
        # napari asks every function that a key is bound to for its name, which a partial has not.
        def choose(layer: object) -> None:
            self.segmenter.prompting.choose(number)

        return choose

    def _show_candidates(self) -> None:
        row = self._candidate_row
        while row.count():
            item = row.takeAt(0)
            gone = None if item is None else item.widget()
            if gone is not None:
                gone.deleteLater()
        found = self.segmenter.prompting.candidates
        layers = self.segmenter.layers
        if found:
            row.addWidget(note("Meant:"))
        for n in range(len(found)):
            tip = f"Take reading {n + 1} of this point (key {n + 1})"
            row.addWidget(button(str(n + 1), tip, partial(self.segmenter.prompting.choose, n)))
        if layers is not None and layers.points is not None:
            for n in range(3):
                # Only while there is something to choose do the digits lose their meaning in napari.
                layers.points.bind_key(
                    str(n + 1), self._chooser(n) if n < len(found) else None, overwrite=True
                )
        self.candidates.setVisible(bool(found))
