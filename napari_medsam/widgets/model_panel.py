"""The choice of a model: what is here, what it takes, its licence; download, or a file of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QFileDialog, QGridLayout, QProgressBar

from napari_medsam.models.places import WEIGHT_SUFFIXES
from napari_medsam.models.specs import MODELS
from napari_medsam.widgets.messages import tell
from napari_medsam.widgets.parts import Panel, button, note
from napari_medsam.widgets.runner import Priority

if TYPE_CHECKING:
    from napari_medsam.widgets.segmenter import Segmenter

DOWNLOAD = "download"


class ModelPanel(Panel):
    """Chooses the model that all images of the window are segmented with.

    Parameters
    ----------
    segmenter
        Whose model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.choice = QComboBox()
        for name in MODELS:
            self.choice.addItem(name, name)
        self.choice.currentIndexChanged.connect(lambda index: self.refresh())
        self.text = note()
        self.bar = QProgressBar()
        self.bar.hide()
        self.use = button("Use", "Load this model, and segment with it from now on", self._use)
        self.download = button("Download", "Fetch the weights; nothing is fetched unasked", self._download)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choice, 0, 0, 1, 3)
        layout.addWidget(self.text, 1, 0, 1, 3)
        layout.addWidget(self.bar, 2, 0, 1, 3)
        layout.addWidget(self.use, 3, 0)
        layout.addWidget(self.download, 3, 1)
        layout.addWidget(button("Own file...", "Load weights of your own", self._own), 3, 2)
        self._downloading = False

    def refresh(self) -> None:
        """Describe the model that is chosen."""
        from napari_medsam.models.places import weights_path

        for index, each in enumerate(MODELS.values()):
            here = weights_path(each.name).is_file()
            missing = f"{each.size_bytes / 1e6:.0f} MB to fetch" if each.size_bytes else "to fetch"
            self.choice.setItemText(index, each.name if here else f"{each.name}  ({missing})")
        spec = MODELS[self.choice.currentData()]
        is_here = weights_path(spec.name).is_file()
        size = f"{spec.size_bytes / 1e6:.0f} MB, " if spec.size_bytes else ""
        state = "ready" if is_here else f"{size}not downloaded"
        device = self.segmenter.model.device
        used = self.segmenter.model.name + (f" on {device}" if device else "")
        self.text.setText(
            f"In use: {used}\n{spec.name}: {state}. "
            f"Takes {' and '.join(sorted(spec.supported_prompts))} prompts. "
            f"Licence: {spec.licence}. Trained on {spec.trained_on}."
        )
        self.use.setEnabled(is_here)
        self.download.setEnabled(self._downloading or (not is_here and bool(spec.url)))
        self.download.setText("Cancel" if self._downloading else "Download")

    def _use(self) -> None:
        self.segmenter.loading.use(self.choice.currentData())

    def _own(self) -> None:
        kinds = " ".join("*" + suffix for suffix in WEIGHT_SUFFIXES)
        path, _ = QFileDialog.getOpenFileName(self, "Weights", "", f"Weights ({kinds})")
        if path:
            self.segmenter.loading.use(path)

    def _download(self) -> None:
        if self._downloading:
            self.segmenter.runner.cancel(DOWNLOAD)
            self._ended(None)
            return
        spec = MODELS[self.choice.currentData()]

        def work() -> Iterator[tuple[int, int]]:
            from napari_medsam.models.download import download
            from napari_medsam.models.places import weights_path

            return download(spec, weights_path(spec.name).parent)

        self._downloading = True
        self.bar.show()
        self.segmenter.runner.submit(DOWNLOAD, work, self._progress, self._ended, priority=Priority.BESIDE)
        self.refresh()

    def _progress(self, done_total: Any) -> None:
        done, total = done_total
        # Qt counts in 32 bits, and a gigabyte is more than that.
        self.bar.setMaximum(max(1, total // 1000))
        self.bar.setValue(done // 1000)

    def _ended(self, error: Exception | None) -> None:
        self._downloading = False
        self.bar.hide()
        self.refresh()
        if error is not None:
            tell(error)
