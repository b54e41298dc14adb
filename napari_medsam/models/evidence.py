"""What the intensities of an image say about a mask that was found in it, and about clicks.

An object is told from its surroundings by the histograms of both, to which clicks add, as in Boykov and Jolly
2001 (Interactive graph cuts, https://doi.org/10.1109/ICCV.2001.937505) and GrabCut (Rother et al. 2004,
https://doi.org/10.1145/1015706.1015720).
"""

from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_medsam.models.crops import POINT_RADIUS

BINS = 32
REACH = 3.0
LIMIT = 3.0
CLICK_SHARE = 0.3
"""How much what was clicked counts, of all that is inside (outside) without it."""
CLICK_REACH = 12
"""Pixels of the crop; of what lies twice as far a click says nothing more."""
CLICK_SPREAD = 0.3
"""Standard deviation of the intensities that look like a clicked place."""
_PARTS = 2**16


def intensity_evidence(probability: Tensor, image: Tensor, near: Tensor, clicks: Tensor) -> Tensor:
    """Log-likelihood ratio of each pixel's intensity inside and outside of a mask.

    Parameters
    ----------
    probability : (N, 1, S, S) float32
        Of belonging to the object, 0 to 1.
    image : (N, 1, S, S) float32
        Standardised intensities.
    near : (N, 1, S, S) float32
        How much a pixel counts; 0 far away from the object.
    clicks : (N, 2, S, S) float32
        How much of a pixel was clicked, 0 to 1, as the object and as background. It counts as what it was
        clicked as alone.

    Returns
    -------
    (N, 1, S, S) float32
        Above 0 where the intensity is rather that of the object; within ± `LIMIT`.
    """
    bins = ((image + REACH) * (BINS / (2 * REACH))).long().clamp(0, BINS - 1).flatten(1)
    weights = torch.cat([probability, 1 - probability], 1) * near * (1 - clicks.flip(1))
    share = clicks / clicks.sum((2, 3), keepdim=True).clamp_min(1)
    weights = (weights + CLICK_SHARE * weights.sum((2, 3), keepdim=True) * share).flatten(2)
    # Whole numbers have the same sum in any order: a GPU adds in another one each time.
    parts = (weights * _PARTS).round().long()
    sums = parts.new_zeros(*parts.shape[:2], BINS).scatter_add_(2, bins[:, None].expand_as(parts), parts)
    counts = _smoothed(sums.to(probability.dtype) / _PARTS) + 0.5
    shares = (counts / counts.sum(2, keepdim=True)).log()
    ratio = (shares[:, 0] - shares[:, 1]).clamp(-LIMIT, LIMIT)
    return ratio.gather(1, bins).view_as(probability)


def click_evidence(image: Tensor, clicks: Tensor) -> Tensor:
    """What clicks say of the pixels around them that look like the clicked places.

    Parameters
    ----------
    image, clicks
        As in `intensity_evidence`.

    Returns
    -------
    (N, 1, S, S) float32
        Up to `LIMIT` at a place clicked as the object, down to minus that at one clicked as background, less
        with the distance and with the difference from the mean intensity of the clicks nearby, and 0 without
        clicks.
    """
    around = _spread(clicks)
    clicked = _spread(clicks * image) / around.clamp_min(1e-6)
    near = (around * ((2 * CLICK_REACH + 1) ** 2 / (pi * POINT_RADIUS**2))).clamp_max(1)
    alike = near * torch.exp(-((image - clicked) ** 2) / (2 * CLICK_SPREAD**2))
    return LIMIT * (alike[:, :1] - alike[:, 1:])


def _spread(discs: Tensor) -> Tensor:
    """Blur (N, C, S, S) by a bump that ends at twice `CLICK_REACH`."""
    side = 2 * CLICK_REACH + 1
    # As a product of matrices it takes a tenth of the time of pooling with windows as wide.
    bump = torch.eye(discs.shape[-1], device=discs.device, dtype=discs.dtype)
    for _ in range(2):
        bump = F.avg_pool1d(bump, side, stride=1, padding=CLICK_REACH)
    return bump @ discs @ bump.T


def _smoothed(counts: Tensor) -> Tensor:
    """Blur histograms, (N, C, BINS), along the bins by a Gaussian of one bin."""
    steps = torch.arange(-3, 4, device=counts.device, dtype=counts.dtype)
    kernel = torch.exp(-(steps**2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(counts, (3, 3), mode="reflect")
    return (padded.unfold(2, 7, 1) * kernel).sum(3)
