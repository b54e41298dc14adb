"""From slice to slice, first where a correction should mend most. No Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_info

from napari_medsam import tasks
from napari_medsam.prompts import SliceIndex
from napari_medsam.widgets import planes

if TYPE_CHECKING:
    from napari_medsam.propagation import Review
    from napari_medsam.widgets.segmenter import Segmenter

NOTHING_LEFT = "Nothing of this object is left to look at in this plane."


class Reviewing:
    """Walks through the slices of the current object along the axis across the screen.

    Parameters
    ----------
    segmenter
        Whose object.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    @property
    def review(self) -> Review | None:
        """What is known of the object's slices; None without an image or in 3D."""
        layers = self.segmenter.layers
        where = None if layers is None else layers.where
        if layers is None or where is None:
            return None
        # Counting is quicker than looking, and it is asked after every change.
        counted = layers.census.by_slice(layers.label) if where.axis == 0 else None
        return layers.session.review(layers.label, where.axis, counted)

    def walk(self, step: int) -> None:
        """Go to the slice that is the next to look at (1), or the one before (-1)."""
        layers, review = self.segmenter.layers, self.review
        if layers is None or layers.where is None or review is None:
            return
        found = review.next_worth(layers.where, step)
        if found is None:
            show_info(NOTHING_LEFT)
        else:
            planes.show_slice(self.segmenter.viewer, layers.image, found.where)

    def jump(self, index: int) -> None:
        """Go to a slice along the axis across the screen."""
        layers = self.segmenter.layers
        if layers is not None and layers.where is not None:
            planes.show_slice(self.segmenter.viewer, layers.image, SliceIndex(layers.where.axis, index))

    def redo(self) -> None:
        """Carry the object anew up to the key slices on both sides of the slice on screen."""
        layers = self.segmenter.layers
        where = None if layers is None else layers.where
        if layers is not None and where is not None:
            session = layers.session
            action = tasks.recompute(session, layers.label, where)
            self.segmenter.carry(layers, action, session.labels.shape[where.axis])
