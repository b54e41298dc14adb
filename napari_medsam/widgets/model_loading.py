"""Loads models for the window, beside what else is going on in it. No Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_medsam.widgets.runner import Priority
from napari_medsam.widgets.shared_model import load_predictor

if TYPE_CHECKING:
    from napari_medsam.widgets.segmenter import Segmenter

MODEL = "model"


class ModelLoading:
    """Loads the model that a segmenter's sessions share.

    Parameters
    ----------
    segmenter
        Whose model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def use(self, name: str) -> None:
        """Load another model and use it from now on; the old one stays when that fails."""
        segmenter = self.segmenter

        def receive(predictor: Any) -> None:
            segmenter.model.replace(name, predictor)
            for each in segmenter.sessions:
                each.session.model_name = name
            segmenter.changed.emit()

        segmenter.progressed.emit(MODEL, 0, 0)
        segmenter.runner.submit(MODEL, lambda: iter([load_predictor(name)]), receive, segmenter.end)

    def warm_up(self) -> None:
        """Load the model before it is needed."""
        segmenter = self.segmenter
        segmenter.runner.submit(
            MODEL,
            lambda: iter([segmenter.model.predictor]),
            lambda predictor: segmenter.changed.emit(),
            segmenter.end,
            priority=Priority.BESIDE,
        )
