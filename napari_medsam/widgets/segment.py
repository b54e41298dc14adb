"""The dock: what to do next on top, tools, objects, and folding sections; saving below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QCloseEvent, QPalette, QShowEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QMessageBox,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_medsam.session import ACCEPTED
from napari_medsam.widgets.actions import register_actions
from napari_medsam.widgets.model_panel import ModelPanel
from napari_medsam.widgets.object_list import ObjectList
from napari_medsam.widgets.panels import (
    ComparePanel,
    CorrectionPanel,
    PropagationPanel,
    WindowPanel,
)
from napari_medsam.widgets.parts import ICON_PX, Fold, Panel, button, drawn_icon, note
from napari_medsam.widgets.saving import default_path
from napari_medsam.widgets.segmenter import CORRECT, MODEL, NO_IMAGE, SAVE, Segmenter
from napari_medsam.widgets.worker import Worker

if TYPE_CHECKING:
    import napari

LEAST_WIDTH_PX = 270
REFRESH_MS = 30
TOOLS = {
    "box": ("Box", "Drag a box around one object (B; Shift+B on a labels layer)"),
    "points": ("Points", "Left click in the object, right click or Ctrl+click outside of it (N)"),
    "edit": ("Edit", "Move or resize prompts; Delete takes the selected one away"),
    "paint": ("Brush", "Paint the object; the slice then is a key slice"),
    "erase": ("Eraser", "Erase; the slice then is a key slice"),
    "fill": ("Fill", "Fill an area; the slice then is a key slice"),
}
RUNNING = {MODEL: "Loading the model...", SAVE: "Saving...", CORRECT: "Correcting..."}


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
        self.worker = Worker(self)
        self.segmenter = Segmenter(napari_viewer, self.worker)
        self._running = self._score = ""
        self._window: QWidget | None = None
        self.setMinimumWidth(LEAST_WIDTH_PX)

        self.hint = note()
        self.hint.setTextFormat(Qt.TextFormat.RichText)
        self.status = note()
        self.objects = ObjectList(self.segmenter)
        self.panels: dict[str, Panel] = {
            "Propagate": PropagationPanel(self.segmenter),
            "Correct": CorrectionPanel(self.segmenter),
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
        self.segmenter.found.connect(self._found)
        self.segmenter.progressed.connect(self._progressed)
        self.segmenter.candidates_changed.connect(self._show_candidates)
        self.segmenter.saved.connect(lambda path: show_info(f"Saved {path}"))
        self.segmenter.save_requested.connect(self.save)
        napari_viewer.layers.events.inserted.connect(self._later)
        napari_viewer.layers.events.removed.connect(self._later)
        napari_viewer.layers.selection.events.active.connect(self._later)
        self._viewer = napari_viewer
        self.segmenter.warm_up()
        self.refresh()

    def refresh(self) -> None:
        """Show how things are."""
        self.hint.setText(self._next_step())
        self.objects.refresh()
        for panel in self.panels.values():
            panel.refresh()
        layers = self.segmenter.layers
        where = None if layers is None else layers.where
        marked = (
            ""
            if layers is None or where is None
            else layers.session.key_slices.get(layers.label, {}).get(where)
        )
        self.accept.setText("Unlock slice  (A)" if marked == ACCEPTED else "Accept slice  (A)")
        key = f"This slice is {marked}: propagation leaves it alone." if marked else ""
        self.status.setText("  ".join(text for text in (self._running, self._score, key) if text))
        self.status.setVisible(bool(self.status.text()))
        self.save_button.setEnabled(bool(self.segmenter.unsaved))

    def save(self) -> bool:
        """Save the current image's labels, asking for a place where none follows from the image."""
        layers = self.segmenter.layers
        if layers is None:
            return False
        target = default_path(layers.session)
        asked = target is None or (target.exists() and target not in self._ours)
        if asked:
            suggestion = str(target or f"{layers.image.name}_seg.nii.gz")
            kinds = "Label maps (*.nii.gz *.nii *.nrrd *.mha)"
            chosen, _ = QFileDialog.getSaveFileName(self, "Save the label map", suggestion, kinds)
            if not chosen:
                return False
            target = Path(chosen)
        assert target is not None
        self._ours.add(target)
        return self.segmenter.save(target)

    def showEvent(self, event: QShowEvent) -> None:
        """Ask the window, once it is known, to be told before it closes."""
        super().showEvent(event)
        if self._window is not self.window():
            self._window = self.window()
            self._window.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Before the window closes, ask about work that is in no file."""
        if event.type() == QEvent.Type.Close and isinstance(event, QCloseEvent) and self.segmenter.unsaved:
            buttons = QMessageBox.StandardButton
            answer = QMessageBox.question(
                self,
                "Unsaved segmentation",
                "There are labels that are in no file yet. Save them before closing?",
                buttons.Save | buttons.Discard | buttons.Cancel,
                buttons.Save,
            )
            if answer == buttons.Save:
                self.save()
            if answer != buttons.Discard:
                # Saving goes on beside the window, which can be closed once it is done.
                event.ignore()
                return True
        elif event.type() == QEvent.Type.Close:
            self.worker.stop()
        return super().eventFilter(watched, event)

    def changeEvent(self, event: QEvent) -> None:
        """Draw the icons again in the colours of a new theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange) and hasattr(self, "tools"):
            self._paint_icons()

    def _build(self) -> None:
        self._ours: set[Path] = set()
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(6, 4, 6, 4)
        column.setSpacing(8)
        column.addWidget(self.hint)
        column.addLayout(self._tool_row())
        column.addWidget(self.candidates)
        self._candidate_row = QHBoxLayout(self.candidates)
        self._candidate_row.setContentsMargins(0, 0, 0, 0)
        self.candidates.hide()
        column.addWidget(self.objects)
        column.addWidget(self.status)
        for title, panel in self.panels.items():
            column.addWidget(Fold(title, panel, is_open=title == "Propagate"))
        column.addStretch()
        scroll = QScrollArea()
        scroll.setWidget(inner)
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        self.save_button = button("Save  (Ctrl+Shift+S)", "Write the label map beside the image", self.save)
        self.accept = button("Accept slice  (A)", "Lock the object on this slice, or unlock it", self._accept)
        undo = button("Undo", "Take back the last change of the mask on this slice (Ctrl+Z)", self._undo)
        below = QGridLayout()
        below.setContentsMargins(6, 0, 6, 4)
        below.addWidget(self.accept, 0, 0)
        below.addWidget(undo, 0, 1)
        below.addWidget(self.save_button, 1, 0, 1, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll)
        layout.addLayout(below)

    def _tool_row(self) -> QGridLayout:
        runs = {
            "box": self.segmenter.draw_box,
            "points": self.segmenter.place_points,
            "edit": self.segmenter.edit_prompts,
        }
        row = QGridLayout()
        row.setSpacing(4)
        self.tools: dict[str, QToolButton] = {}
        for n, (kind, (text, tip)) in enumerate(TOOLS.items()):
            tool = QToolButton()
            tool.setText(text)
            tool.setToolTip(tip)
            tool.setIconSize(QSize(ICON_PX, ICON_PX))
            tool.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            tool.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            tool.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            run = runs.get(kind) or partial(self.segmenter.edit_labels, kind)
            tool.clicked.connect(partial(_without_state, run))
            self.tools[kind] = tool
            row.addWidget(tool, n // 3, n % 3)
        self._paint_icons()
        return row

    def _paint_icons(self) -> None:
        for kind, tool in self.tools.items():
            tool.setIcon(drawn_icon(kind, tool.palette().color(QPalette.ColorRole.ButtonText)))

    def _next_step(self) -> str:
        layers = self.segmenter.layers
        if layers is None:
            return NO_IMAGE
        name = layers.session.objects[layers.label].name or f"Object {layers.label}"
        where = f" on <b>{layers.image.name}</b>"
        if not layers.census.voxels(layers.label):
            return f"<b>{name}</b>{where}: press <b>B</b> and drag a box around it."
        return (
            f"<b>{name}</b>{where}: correct it with points (<b>N</b>) or the brush, carry it through the "
            "volume with Propagate, or press <b>M</b> for the next object."
        )

    def _later(self, event: object = None) -> None:
        self._due.start()

    def _found(self, score: float) -> None:
        self._score = f"The model expects an overlap of {score:.0%} with the object." if score else ""
        self._due.start()

    def _progressed(self, what: str, done: int, total: int) -> None:
        self._running = RUNNING.get(what, "")
        self._due.start()

    def _accept(self) -> None:
        self.segmenter.accept()

    def _undo(self) -> None:
        self.segmenter.undo()

    def _choose(self, number: int, layer: object) -> None:
        self.segmenter.choose_candidate(number)

    def _show_candidates(self) -> None:
        row = self._candidate_row
        while row.count():
            item = row.takeAt(0)
            gone = None if item is None else item.widget()
            if gone is not None:
                gone.deleteLater()
        found = self.segmenter.candidates
        layers = self.segmenter.layers
        if found:
            row.addWidget(note("Meant:"))
        for n in range(len(found)):
            tip = f"Take reading {n + 1} of this point (key {n + 1})"
            row.addWidget(button(str(n + 1), tip, partial(self.segmenter.choose_candidate, n)))
        if layers is not None and layers.points is not None:
            for n in range(3):
                # Only while there is something to choose do the digits lose their meaning in napari.
                run = partial(self._choose, n) if n < len(found) else None
                layers.points.bind_key(str(n + 1), run, overwrite=True)
        self.candidates.setVisible(bool(found))


def _without_state(run: Callable[[], object], checked: bool = False) -> None:
    """Call what a click means; whether the button is down is no matter."""
    run()
