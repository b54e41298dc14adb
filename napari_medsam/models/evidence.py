"""What the intensities of an image say about a mask that was found in it.

An object is told from its surroundings by the histograms of both, as in Boykov and Jolly 2001 (Interactive
graph cuts, https://doi.org/10.1109/ICCV.2001.937505) and GrabCut (Rother et al. 2004,
https://doi.org/10.1145/1015706.1015720).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 32
REACH = 3.0
LIMIT = 3.0
_PARTS = 2**16


def intensity_evidence(probability: Tensor, image: Tensor, near: Tensor) -> Tensor:
    """Log-likelihood ratio of each pixel's intensity inside and outside of a mask.

    Parameters
    ----------
    probability : (N, 1, S, S) float32
        Of belonging to the object, 0 to 1.
    image : (N, 1, S, S) float32
        Standardised intensities.
    near : (N, 1, S, S) float32
        How much a pixel counts; 0 far away from the object.

    Returns
    -------
    (N, 1, S, S) float32
        Above 0 where the intensity is rather that of the object; within ± `LIMIT`.
    """
    bins = ((image + REACH) * (BINS / (2 * REACH))).long().clamp(0, BINS - 1).flatten(1)
    weights = torch.stack([probability * near, (1 - probability) * near], 1).flatten(2)
    # Whole numbers have the same sum in any order: a GPU adds in another one each time.
    parts = (weights * _PARTS).round().long()
    sums = parts.new_zeros(*parts.shape[:2], BINS).scatter_add_(2, bins[:, None].expand_as(parts), parts)
    counts = _smoothed(sums.to(probability.dtype) / _PARTS) + 0.5
    shares = (counts / counts.sum(2, keepdim=True)).log()
    ratio = (shares[:, 0] - shares[:, 1]).clamp(-LIMIT, LIMIT)
    return ratio.gather(1, bins).view_as(probability)


def _smoothed(counts: Tensor) -> Tensor:
    """Blur histograms, (N, C, BINS), along the bins by a Gaussian of one bin."""
    steps = torch.arange(-3, 4, device=counts.device, dtype=counts.dtype)
    kernel = torch.exp(-(steps**2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(counts, (3, 3), mode="reflect")
    return (padded.unfold(2, 7, 1) * kernel).sum(3)
