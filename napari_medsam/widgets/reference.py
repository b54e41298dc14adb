"""The choice of a label layer to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from qtpy.QtWidgets import QComboBox

from napari_medsam.widgets.metadata import layer_geometry

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_medsam.widgets.layers import SessionLayers
    from napari_medsam.widgets.segmenter import Segmenter

NONE = "(none)"


class ReferenceChoice(QComboBox):
    """Lists the label layers but the session's own, and notices when somebody paints on the chosen one.

    Parameters
    ----------
    segmenter
        Whose viewer; told that something has changed when the reference has.

    Attributes
    ----------
    edits : int
        How often the reference has changed.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.edits = 0
        self._listed: list[Labels] = []
        self._followed: Labels | None = None
        self.setToolTip("A label layer to compare with")

    @property
    def layer(self) -> Labels | None:
        """The layer that is chosen, as long as it is there."""
        chosen = self._listed[self.currentIndex() - 1] if self.currentIndex() > 0 else None
        return chosen if chosen in self.segmenter.viewer.layers else None

    def refresh(self) -> None:
        """List the label layers there are; the chosen one stays chosen."""
        layers = self.segmenter.layers
        own = None if layers is None else layers.labels
        chosen = self.layer
        self._listed = [x for x in self.segmenter.viewer.layers if isinstance(x, Labels) and x != own]
        names = [NONE, *(x.name for x in self._listed)]
        if [self.itemText(i) for i in range(self.count())] != names:
            self.blockSignals(True)
            self.clear()
            self.addItems(names)
            self.setCurrentIndex(1 + self._listed.index(chosen) if chosen in self._listed else 0)
            self.blockSignals(False)
        self._follow(self.layer)

    def problem(self, layers: SessionLayers) -> str:
        """Say why the chosen layer cannot be compared with; "" when it can, or none is chosen."""
        reference = self.layer
        if reference is None:
            return ""
        shape, expected = volume_of(reference).shape, layers.session.labels.shape
        if shape != expected:
            return f"'{reference.name}' has the shape {shape}, expected {expected}."
        own, theirs = layer_geometry(layers.image.metadata), layer_geometry(reference.metadata)
        difference = own.difference(theirs) if own is not None and theirs is not None else ""
        return difference and f"'{reference.name}' does not lie on the image: {difference}"

    def _follow(self, reference: Labels | None) -> None:
        if reference is self._followed:
            return
        for layer, is_followed in ((self._followed, False), (reference, True)):
            for event in () if layer is None else (layer.events.labels_update, layer.events.data):
                (event.connect if is_followed else event.disconnect)(self._on_edited)
        self._followed = reference

    def _on_edited(self, event: Any = None) -> None:
        self.edits += 1
        self.segmenter.changed.emit()


def volume_of(layer: Labels) -> Any:
    """Return a layer's labels as (z, y, x)."""
    return layer.data if layer.ndim == 3 else layer.data[None]


def best_match(mask: NDArray[np.bool_], reference: ArrayLike) -> int:
    """Return the reference's label that overlaps most with an object's mask of the same shape; 0 for none."""
    found, counts = np.unique(np.asarray(reference)[mask], return_counts=True)
    counts[found == 0] = 0
    return int(found[counts.argmax()]) if counts.any() else 0
