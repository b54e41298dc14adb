"""How many voxels every label has on every slice, kept up to date without looking at the whole volume."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from napari_medsam.prompts import SliceIndex


class Census:
    """Voxels of each label on each slice along axis 0.

    Parameters
    ----------
    labels : numpy.ndarray of uint16, optional
        (z, y, x) to count; all background when None.
    depth
        Number of slices along axis 0.
    """

    def __init__(self, depth: int, labels: NDArray[np.uint16] | None = None) -> None:
        self._depth = depth
        self._counts: dict[int, NDArray[np.int64]] = {}
        if labels is not None:
            self.recount(labels, range(depth))

    @property
    def labels(self) -> list[int]:
        """Labels that have at least one voxel, in order."""
        return sorted(label for label, counts in self._counts.items() if counts.any())

    def voxels(self, label: int) -> int:
        """Return the number of voxels of a label."""
        return int(self._counts[label].sum()) if label in self._counts else 0

    def slices(self, label: int) -> list[int]:
        """Return where along axis 0 a label has voxels, in order."""
        return np.flatnonzero(self._counts[label]).tolist() if label in self._counts else []

    def by_slice(self, label: int) -> dict[SliceIndex, int]:
        """Return how many voxels a label has on each slice along axis 0 that has any."""
        return {SliceIndex(0, index): int(self._counts[label][index]) for index in self.slices(label)}

    def changed(self, where: SliceIndex, before: NDArray[np.uint16], after: NDArray[np.uint16]) -> set[int]:
        """Take note that a slice has changed, and return the labels that have gained or lost pixels.

        Parameters
        ----------
        where
            The slice, of any axis.
        before, after : numpy.ndarray of uint16
            (H, W) labels.
        """
        rows, columns = np.nonzero(before != after)
        touched = set()
        for values, sign in ((before[rows, columns], -1), (after[rows, columns], 1)):
            for label in {int(v) for v in np.unique(values)} - {0}:
                touched.add(label)
                counts = self._of(label)
                if where.axis == 0:
                    counts[where.index] += sign * np.count_nonzero(values == label)
                else:
                    counts += sign * np.bincount(rows[values == label], minlength=self._depth)
        return touched

    def recount(self, labels: NDArray[np.uint16], indices: Iterable[int]) -> dict[int, list[int]]:
        """Count slices along axis 0 again; return for each label the slices where its count was wrong."""
        wrong: dict[int, list[int]] = {}
        for index in indices:
            found = np.bincount(labels[index].ravel()) if labels[index].any() else np.zeros(1, np.int64)
            present = {int(v) for v in np.flatnonzero(found)} - {0}
            for label in {*present, *self._counts}:
                count = found[label] if label < len(found) else 0
                if self._of(label)[index] != count:
                    self._of(label)[index] = count
                    wrong.setdefault(label, []).append(index)
        return wrong

    def moved(self, label: int, into: int) -> None:
        """Take note that all voxels of a label have become another, or background (0)."""
        counts = self._counts.pop(label, None)
        if counts is not None and into:
            self._of(into)[...] += counts

    def _of(self, label: int) -> NDArray[np.int64]:
        return self._counts.setdefault(label, np.zeros(self._depth, np.int64))
