"""A table of every object in numbers, and against a reference; for the clipboard, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QGridLayout,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
)

from napari_medsam.formats.common import replacing, told
from napari_medsam.measurements import (
    LabelScore,
    Measurement,
    Recist,
    compare_masks,
    each_measured,
    measurements_to_csv,
    measurements_to_json,
    volume_text,
)
from napari_medsam.prompts import SliceIndex
from napari_medsam.volume import VolumeError
from napari_medsam.widgets import planes
from napari_medsam.widgets.diameters import diameter_layer, show_diameters
from napari_medsam.widgets.label_files import stem
from napari_medsam.widgets.messages import tell
from napari_medsam.widgets.parts import Panel, button, colour_icon, may_replace, note
from napari_medsam.widgets.reference import ReferenceChoice, best_match, volume_of
from napari_medsam.widgets.runner import Priority
from napari_medsam.windowing import guess_modality

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_medsam.volume import Volume
    from napari_medsam.widgets.layers import SessionLayers
    from napari_medsam.widgets.segmenter import Segmenter

MEASURE = "measure"
REST_S = 0.5
ROWS_SHOWN, NAME_PX = 4, 90
NOTHING = "Nothing is segmented yet."
MEASURING = "Measuring..."
MEDIAN = 2
"""Which of `napari_medsam.measurements.PERCENTILES` is the median."""


@dataclass(frozen=True)
class Row:
    """One object: its own numbers, and those against the reference where there is one."""

    found: Measurement
    score: LabelScore | None


def _intensity(pick: Callable[[Any], float]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        if row.found.intensities is None:
            return ""
        value = pick(row.found.intensities)
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"

    return text


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _diameters(recist: Recist) -> str:
    return f"{recist.long.length_mm:.1f} × {recist.short.length_mm:.1f}"


OWN: dict[str, Callable[[Row], str]] = {
    "mL": lambda row: volume_text(row.found.volume_ml),
    "RECIST mm": lambda row: _diameters(row.found.recist),
    "slices": lambda row: f"{row.found.slices[0]}–{row.found.slices[1]}",
    "voxels": lambda row: f"{row.found.voxels}",
    "surface cm²": lambda row: _optional(row.found.surface_mm2 and row.found.surface_mm2 / 100, ".1f"),
    "sphericity": lambda row: _optional(row.found.sphericity, ".2f"),
}
INTENSITIES: dict[str, Callable[[Row], str]] = {
    "mean": _intensity(lambda values: values.mean),
    "SD": _intensity(lambda values: values.sd),
    "5 %": _intensity(lambda values: values.percentiles[0]),
    "median": _intensity(lambda values: values.percentiles[MEDIAN]),
    "95 %": _intensity(lambda values: values.percentiles[-1]),
}
SCORES: dict[str, Callable[[LabelScore], str]] = {
    "reference": lambda score: str(score.reference_label or "none"),
    "Dice": lambda score: f"{score.dice:.3f}",
    "IoU": lambda score: f"{score.iou:.3f}",
    "HD95 mm": lambda score: f"{score.hd95_mm:.1f}",
    "surface Dice": lambda score: f"{score.surface_dice:.3f}",
    "difference mL": lambda score: f"{score.volume_difference_ml:+.2f}",
}


def rows_of(
    labels: NDArray[np.uint16], volume: Volume, names: dict[int, str], axis: int, reference: Any
) -> Iterator[Row]:
    """Measure one object after another.

    Parameters
    ----------
    labels, volume, names, axis
        As for `napari_medsam.measurements.measure_labels`; `labels` may be painted on meanwhile.
    reference
        Labels of the same shape to compare with, or None.
    """
    labels = labels.copy()
    truth = None if reference is None else np.asarray(reference)
    for found in each_measured(labels, volume.geometry, image=volume, names=names, axis=axis):
        score = None
        if truth is not None:
            mask = labels == found.label
            match = best_match(mask, truth)
            score = compare_masks(
                (truth == match) & bool(match),
                mask,
                volume.geometry.spacing,
                found.label,
                found.name,
                reference_label=match,
            )
        yield Row(found, score)


class MeasurePanel(Panel):
    """The table, kept up to date in the background while it is shown.

    Parameters
    ----------
    segmenter
        Whose objects.

    Attributes
    ----------
    rows : list of Row
        What was measured last.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.rows: list[Row] = []
        self._measured: object = None
        self._unit = ""
        self.choice = ReferenceChoice(segmenter)
        self.choice.currentIndexChanged.connect(lambda index: self.refresh())
        self.text = note(NOTHING)
        self.table = QTableWidget()
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.table.cellClicked.connect(self._go_to)
        # Numbers need the width of a narrow dock more than long names do.
        self.table.verticalHeader().setMaximumWidth(NAME_PX)
        self.table.verticalHeader().setTextElideMode(Qt.TextElideMode.ElideRight)
        self.table.verticalHeader().sectionClicked.connect(lambda row: self._go_to(row, 0))
        tip = "Draw the RECIST diameters of all objects, on the slices where they were measured"
        self.draw = button("Draw diameters", tip, self._draw)
        tip = "All numbers to the clipboard, for a spreadsheet: tab-separated"
        self.copy = button("Copy", tip, self._copy)
        self.csv = button("CSV...", "Write all numbers to a table", lambda: self._write(".csv"))
        self.json = button("JSON...", "Write all numbers for a program", lambda: self._write(".json"))
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("Compare with"), 0, 0, 1, 2)
        layout.addWidget(self.choice, 0, 2, 1, 2)
        layout.addWidget(self.text, 1, 0, 1, 4)
        layout.addWidget(self.table, 2, 0, 1, 4)
        for n, each in enumerate((self.draw, self.copy, self.csv, self.json)):
            layout.addWidget(each, 3 + n // 2, 2 * (n % 2), 1, 2)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody looks: at the table, or at the diameters in the viewer."""
        layers = self.segmenter.layers
        return self.isVisible() or (layers is not None and diameter_layer(layers) is not None)

    def refresh(self) -> None:
        """Measure again when something has changed; nothing is measured while nobody looks."""
        self.choice.refresh()
        layers = self.segmenter.layers
        if not self.is_wanted:
            return
        if layers is None or not layers.census.labels:
            self.segmenter.runner.cancel(MEASURE)
            self._measured = None
            self._show([], NOTHING)
            self._redraw()
            return
        problem, where, reference = self.choice.problem(layers), layers.where, self.choice.layer
        axis = 0 if where is None else where.axis
        names = {label: layers.name(label) for label in layers.session.objects}
        against = None if problem or reference is None else (id(reference), self.choice.edits)
        wanted = (
            id(layers),
            id(layers.session.labels),
            layers.edits,
            axis,
            tuple(names.items()),
            against,
            problem,
        )
        if wanted != self._measured:
            self._measured = wanted
            chosen = None if against is None or reference is None else volume_of(reference)
            self._start(layers, names, axis, chosen, problem)

    def _start(
        self, layers: SessionLayers, names: dict[int, str], axis: int, reference: Any, problem: str
    ) -> None:
        session = layers.session
        rows: list[Row] = []
        self._enable(is_done=False)
        self.text.setText(MEASURING)

        def end(error: Exception | None) -> None:
            tell(error)
            if error is not None:
                # Half of a table looks like a whole one.
                rows.clear()
            if self.segmenter.layers is layers:
                self._unit = "HU" if guess_modality(session.volume) == "CT" else ""
                doubt = planes.UNKNOWN_SIZE if planes.UNKNOWN_SIZE in session.volume.notes else ""
                self._show(rows, str(error or problem or doubt) or ("" if rows else NOTHING))
                self._redraw()

        self.segmenter.runner.submit(
            MEASURE,
            lambda: rows_of(session.labels, session.volume, names, axis, reference),
            rows.append,
            end,
            priority=Priority.IDLE,
            delay_s=REST_S,
        )

    def _show(self, rows: list[Row], text: str) -> None:
        self.rows = rows
        self.text.setText(text)
        self.text.setVisible(bool(text))
        cells: dict[str, list[str]] = {name: [cell(row) for row in rows] for name, cell in OWN.items()}
        if any(row.found.intensities for row in rows):
            unit = f" {self._unit}" if self._unit else ""
            cells |= {f"{name}{unit}": [cell(row) for row in rows] for name, cell in INTENSITIES.items()}
        if any(row.score for row in rows):
            scores = [row.score for row in rows if row.score is not None]
            cells |= {name: [cell(score) for score in scores] for name, cell in SCORES.items()}
        self.table.setRowCount(len(rows))
        self.table.setColumnCount(len(cells))
        self.table.setHorizontalHeaderLabels(list(cells))
        layers = self.segmenter.layers
        for n, row in enumerate(rows):
            heading = QTableWidgetItem(row.found.name)
            if layers is not None:
                heading.setIcon(colour_icon(layers.masks.palette.colour(row.found.label)))
            self.table.setVerticalHeaderItem(n, heading)
        for column, texts in enumerate(cells.values()):
            for n, each in enumerate(texts):
                item = QTableWidgetItem(each)
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.table.setItem(n, column, item)
        self.table.resizeColumnsToContents()
        header, bar = self.table.horizontalHeader(), self.table.horizontalScrollBar()
        shown = min(len(rows), ROWS_SHOWN) * self.table.verticalHeader().defaultSectionSize()
        self.table.setFixedHeight(header.sizeHint().height() + shown + bar.sizeHint().height() + 4)
        self.table.setVisible(bool(rows))
        self._enable(is_done=bool(rows))

    def _enable(self, *, is_done: bool) -> None:
        """Numbers of what was there a moment ago are not to be copied."""
        for each in (self.table, self.draw, self.copy, self.csv, self.json):
            each.setEnabled(is_done)

    def _go_to(self, row: int, column: int) -> None:
        layers, found = self.segmenter.layers, self.rows[row].found
        if layers is not None and found.label in layers.session.objects:
            recist = found.recist
            layers.select(found.label)
            planes.show_slice(layers.viewer, layers.image, SliceIndex(recist.axis, recist.index))

    def _redraw(self) -> None:
        layers = self.segmenter.layers
        if layers is not None and diameter_layer(layers) is not None:
            self._draw()

    def _draw(self) -> None:
        layers = self.segmenter.layers
        if layers is not None:
            show_diameters(layers, [row.found for row in self.rows])

    def _parts(self) -> tuple[list[Measurement], list[LabelScore]]:
        return [row.found for row in self.rows], [row.score for row in self.rows if row.score is not None]

    def _copy(self) -> None:
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(measurements_to_csv(*self._parts(), delimiter="\t"))

    def _write(self, ending: str) -> None:
        layers = self.segmenter.layers
        if layers is None:
            return
        source = Path(layers.session.volume.source or layers.image.name)
        suggestion = source.parent / f"{stem(source)}_measurements{ending}"
        title, kind = f"Write the measurements of {layers.image.name}", f"Measurements (*{ending})"
        chosen, _ = QFileDialog.getSaveFileName(self, title, str(suggestion), kind)
        if not chosen:
            return
        path = Path(chosen if chosen.lower().endswith(ending) else chosen + ending)
        if path != Path(chosen) and not may_replace(self, title, [path]):
            return
        if ending == ".csv":
            text = measurements_to_csv(*self._parts())
        else:
            text = measurements_to_json(*self._parts(), unit=self._unit)
        try:
            with told(path, "written"), replacing(path, ending) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")
        except VolumeError as error:
            tell(error)
