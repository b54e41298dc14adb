"""How bright an object is, against what lies around it: grey-value histograms of inside and rim.

The log of the ratio of the two histograms says of every pixel whether it looks like the object or like its
surroundings, as the colour models of GrabCut do (Rother et al. 2004, https://doi.org/10.1145/1015706.1015720).
Where both look alike the ratio is near 0 and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.propagation.shapes import around, grown

if TYPE_CHECKING:
    from napari_medsam.propagation.values import Mask

BINS = 32
BIN_BLUR = 1.5
MOST = 2.0
"""Largest log ratio, either way, that one pixel may contribute."""
FEW_PX = 20.0
"""A histogram of this many pixels counts half: few pixels prove little."""
RIM_SHARE = 0.5
"""Width of the rim as a share of the object's radius."""
BLUR_PX = 0.7
MEMORY = 0.8
"""What is left of an accepted slice's say after each further one; the key slice's own say never fades."""


class Appearance:
    """Histograms of one object, learned from its key slice and the last slices that were accepted.

    Parameters
    ----------
    image : numpy.ndarray
        (H, W), in [0, 1]: the key slice.
    mask : numpy.ndarray of bool
        (H, W), not empty.
    """

    def __init__(self, image: NDArray[np.float32], mask: Mask) -> None:
        self._key = _histograms(image, mask)
        self._recent = np.zeros_like(self._key)
        self._ratio = self._log_ratio()

    def learn(self, image: NDArray[np.float32], mask: Mask) -> None:
        """Remember an accepted slice; bias fields make an object brighter or darker on its way."""
        self._recent = MEMORY * self._recent + (1 - MEMORY) * _histograms(image, mask)
        self._ratio = self._log_ratio()

    def likeness(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say how much each pixel looks like the object: (H, W), from -`MOST` to `MOST`, 0 for no idea."""
        from scipy.ndimage import gaussian_filter

        bins = np.clip(image * BINS, 0, BINS - 1).astype(np.intp)
        return gaussian_filter(self._ratio[bins], BLUR_PX)

    def _log_ratio(self) -> NDArray[np.float32]:
        from scipy.ndimage import gaussian_filter1d

        counts = self._key + self._recent
        blurred = gaussian_filter1d(counts, BIN_BLUR, axis=1, mode="constant")
        inside, outside = blurred / np.maximum(blurred.sum(axis=1, keepdims=True), 1e-9)
        trust = counts.sum(axis=1).min() / (counts.sum(axis=1).min() + FEW_PX)
        floor = 0.5 / BINS
        ratio = np.log((inside + floor) / (outside + floor))
        return np.clip(trust * ratio, -MOST, MOST).astype(np.float32)


def _histograms(image: NDArray[np.float32], mask: Mask) -> NDArray[np.float64]:
    """Pixels by brightness, (2, BINS): inside the mask and in the rim around it."""
    width = max(2, round(RIM_SHARE * sqrt(int(mask.sum()) / pi)))
    region = around(mask, (width + 1, width + 1))
    part, grey = mask[region], image[region]
    # The pixels next to the outline show a bit of both sides.
    rim = grown(part, (width, width)) & ~grown(part, (1, 1))
    bins = np.clip(grey * BINS, 0, BINS - 1).astype(np.intp)
    return np.stack([np.bincount(bins[where], minlength=BINS).astype(float) for where in (part, rim)])


def contrast(likeness: NDArray[np.float32], mask: Mask, reach: Sequence[int] = (2, 2)) -> tuple[float, float]:
    """Mean likeness inside a mask, and by how much it exceeds that of the pixels just outside."""
    inside = float(likeness[mask].mean())
    outside = grown(mask, reach) & ~mask
    return inside, inside - float(likeness[outside].mean()) if outside.any() else 0.0
