"""The folding sections of the dock: propagation, correction, the model's window."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSpinBox,
)

from napari_medsam.widgets.parts import Panel, button, note
from napari_medsam.widgets.segmenter import PROPAGATE
from napari_medsam.windowing import PRESETS, Window, percentile_window

if TYPE_CHECKING:
    from napari_medsam.widgets.segmenter import Segmenter

CORRECTIONS = {
    "grow": ("Grow", "One pixel larger, within slices"),
    "shrink": ("Shrink", "One pixel smaller, within slices"),
    "smooth": ("Smooth", "Round off the outline, within slices"),
    "fill_holes": ("Fill holes", "Fill what the object encloses, within slices"),
    "keep_largest": ("Keep largest", "Drop all parts but the largest"),
    "interpolate": ("Interpolate", "Fill empty slices between two that have the object"),
}


class PropagationPanel(Panel):
    """Carry the current object from slice to slice."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.first, self.last = QSpinBox(), QSpinBox()
        self._of: object = None
        for box, text in ((self.first, "from "), (self.last, "to ")):
            box.setPrefix(text)
            box.setToolTip("Stay within these slices, both included")
            # Otherwise the two of them are wider than a narrow dock with its scroll bar.
            box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.bar = QProgressBar()
        self.bar.setFormat("slice %v of %m")
        self.stop = button("Stop", "Stop after this slice; what was found stays", segmenter.stop)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.down = button("Down", "Carry on from this slice towards slice 0", lambda: self._run(-1))
        self.both = button("Both ways", "Carry on in both directions, from all prompts", lambda: self._run(0))
        self.up = button("Up", "Carry on from this slice towards the last", lambda: self._run(1))
        for column, each in enumerate((self.down, self.both, self.up)):
            layout.addWidget(each, 0, 2 * column, 1, 2)
        layout.addWidget(self.first, 1, 0, 1, 3)
        layout.addWidget(self.last, 1, 3, 1, 3)
        layout.addWidget(self.bar, 2, 0, 1, 4)
        layout.addWidget(self.stop, 2, 4, 1, 2)
        self._show(PROPAGATE, 0, 0)
        segmenter.progressed.connect(self._show)

    def refresh(self) -> None:
        """Show the range of the axis across the screen."""
        layers = self.segmenter.layers
        where = None if layers is None else layers.where
        if layers is None or where is None or self._of == (layers, where.axis):
            return
        self._of = layers, where.axis
        end = layers.session.volume.geometry.shape[where.axis] - 1
        for box, value in ((self.first, 0), (self.last, end)):
            box.setRange(0, end)
            box.setValue(value)

    def _run(self, direction: int) -> None:
        layers = self.segmenter.layers
        where = None if layers is None else layers.where
        here = 0 if where is None else where.index
        first = max(here, self.first.value()) if direction > 0 else self.first.value()
        last = min(here, self.last.value()) if direction < 0 else self.last.value()
        self.segmenter.propagate(first, last)

    def _show(self, what: str, done: int, total: int) -> None:
        running = what == PROPAGATE and total > 0
        self.bar.setVisible(running)
        self.stop.setVisible(running)
        self.bar.setMaximum(max(1, total))
        self.bar.setValue(done)


class CorrectionPanel(Panel):
    """Repair the current object."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.whole = QCheckBox("On all slices, not only on this one")
        self.protect = QCheckBox("Protect other objects")
        self.protect.setToolTip("Brush and model leave other objects alone; napari calls it preserve labels")
        self.protect.toggled.connect(self._protect)
        self.segmenter = segmenter
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for n, (operation, (text, tip)) in enumerate(CORRECTIONS.items()):
            layout.addWidget(button(text, tip, partial(self._run, operation)), n // 2, n % 2)
        layout.addWidget(self.whole, 3, 0, 1, 2)
        layout.addWidget(self.protect, 4, 0, 1, 2)

    def refresh(self) -> None:
        """Show how things are."""
        if self.segmenter.layers is not None:
            self.protect.setChecked(self.segmenter.layers.session.protect_others)

    def _run(self, operation: str) -> None:
        self.segmenter.correct(operation, whole=self.whole.isChecked())

    def _protect(self, is_on: bool) -> None:
        layers = self.segmenter.layers
        if layers is not None:
            layers.session.protect_others = is_on
            if layers.labels is not None:
                layers.labels.preserve_labels = is_on


class WindowPanel(Panel):
    """Which intensities the model sees."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.text = note()
        self.buttons: dict[str, QPushButton] = {}
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.text, 0, 0, 1, 2)
        for name, window in PRESETS.items():
            tip = f"{window.lower:g} to {window.upper:g} HU, for CT: screen and model use it"
            self.buttons[name] = button(_spoken(name), tip, partial(self._use, window))
        tip = "The middle 99 % of the image's values, for MR and all else: screen and model use it"
        self.buttons["percentile"] = button("Percentile", tip, self._percentile)
        tip = "Let the model see what the contrast on screen shows now"
        self.buttons["displayed"] = button("As displayed", tip, self._displayed)
        for n, each in enumerate(self.buttons.values()):
            layout.addWidget(each, 1 + n // 2, n % 2)

    def refresh(self) -> None:
        """Say which window it is."""
        layers = self.segmenter.layers
        is_grey = layers is not None and not layers.image.rgb
        is_mr = layers is not None and layers.session.volume.modality == "MR"
        for name, each in self.buttons.items():
            each.setEnabled(is_grey and not (is_mr and name in PRESETS))
        if layers is None:
            self.text.setText("Which intensities the model sees.")
        elif layers.image.rgb:
            self.text.setText("The model sees the colours as they are.")
        else:
            window = layers.session.window
            self.text.setText(
                f"The model sees <b>{_spoken(window.name)}</b>, {window.lower:.6g} to {window.upper:.6g}. "
                "The contrast on screen does not change that."
            )

    def _percentile(self) -> None:
        layers = self.segmenter.layers
        if layers is not None:
            # Every second slice tells the percentiles of a large volume just as well, and at once.
            self._use(percentile_window(layers.session.volume.array[::2, ::4, ::4]))

    def _use(self, window: Window) -> None:
        layers = self.segmenter.layers
        if layers is None:
            return
        low, high = layers.image.contrast_limits_range
        layers.image.contrast_limits_range = min(window.lower, low), max(window.upper, high)
        layers.image.contrast_limits = window.lower, window.upper
        self.segmenter.set_window(window)

    def _displayed(self) -> None:
        layers = self.segmenter.layers
        if layers is not None and not layers.image.rgb:
            lower, upper = layers.image.contrast_limits
            self.segmenter.set_window(Window(lower, upper, "as displayed"))


def _spoken(name: str) -> str:
    return name.replace("_", " ").capitalize()
