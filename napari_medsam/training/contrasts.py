"""How bright tissues are: as on CT, as in common MR sequences, or any way.

Intensities are drawn per tissue as in SynthSeg (Billot et al. 2023, https://arxiv.org/abs/2107.09559). Any
contrast makes a net robust; those that scanners do make teach what is usual: that blood is bright within the
dark wall of the heart (bSSFP), and white matter lesions on FLAIR.
"""

import torch
from torch import Tensor

from napari_medsam.training.shapes import (
    AIR,
    BLOOD,
    BONE,
    CLASSES,
    FAT,
    LUNG,
    MARROW,
    MUSCLE,
    ORGAN,
    Draw,
)

TRUNK_TISSUES = (AIR, FAT, MUSCLE, BONE, MARROW, BLOOD, LUNG, ORGAN)
TRUNK_SEQUENCES = {
    "bSSFP": (0.02, 0.75, 0.25, 0.1, 0.6, 0.85, 0.08, 0.27),
    "T1": (0.02, 0.9, 0.4, 0.1, 0.7, 0.25, 0.08, 0.45),
    "T2": (0.02, 0.7, 0.2, 0.08, 0.5, 0.1, 0.06, 0.3),
}
"""How bright `TRUNK_TISSUES` are; all others are organs, anywhere in `TRUNK_ORGANS`."""
TRUNK_ORGANS = {"bSSFP": (0.25, 0.6), "T1": (0.3, 0.6), "T2": (0.3, 0.85)}

BRAIN_SEQUENCES = ("T1", "T2", "FLAIR")
BRAIN_TISSUES = (
    ((), (0.02, 0.02, 0.02)),  # air and what else is not named
    ((4, 5, 14, 15, 24), (0.12, 0.95, 0.08)),  # fluid
    ((2, 7), (0.85, 0.35, 0.45)),  # white matter of cerebrum and cerebellum
    ((16, 28), (0.78, 0.4, 0.47)),  # brain stem, ventral diencephalon
    ((3, 8), (0.55, 0.55, 0.58)),  # cortex
    ((11, 12, 26), (0.58, 0.5, 0.54)),  # caudate, putamen, accumbens
    ((10,), (0.7, 0.47, 0.52)),  # thalamus
    ((13,), (0.76, 0.3, 0.42)),  # pallidum
    ((17, 18), (0.55, 0.58, 0.62)),  # hippocampus, amygdala
    ((25,), (0.5, 0.92, 0.95)),  # lesions
)
"""FreeSurfer numbers (of the left side), and how bright they are in each of `BRAIN_SEQUENCES`.

What lies outside of the brain comes after them, and has any brightness.
"""
LESION = len(BRAIN_TISSUES) - 1


def tissue_means(draw: Draw, mr: float) -> Tensor:
    """(n, CLASSES) mean intensity of every tissue of the trunk.

    Parameters
    ----------
    draw
    mr
        Share of the samples that are bright and dark as in MR sequences; of the others, half are as on CT.
    """
    anything = draw.uniform(0.02, 0.98, CLASSES)
    soft = draw.uniform(0.35, 0.65, 1)
    spread = torch.exp(draw.uniform(-3.9, -1.7, 1))
    ct = soft + spread * draw.normal(1.0, CLASSES)
    ct[:, FAT] = soft[:, 0] - draw.uniform(0.12, 0.35)
    ct[:, MUSCLE] = soft[:, 0] + draw.normal(0.03)
    ct[:, BLOOD] = soft[:, 0] + draw.uniform(-0.05, 0.4)
    ct[:, BONE] = soft[:, 0] + draw.uniform(0.3, 0.8)
    ct[:, MARROW] = soft[:, 0] + draw.uniform(0.05, 0.5)
    ct[:, AIR] = draw.uniform(0.0, 0.05)
    ct[:, LUNG] = draw.uniform(0.0, 0.15)
    ct[:, ORGAN + 9] = ct[:, LUNG] + draw.uniform(0.05, 0.3)
    similar = soft + torch.exp(draw.uniform(-3.0, -1.2, 1)) * draw.normal(1.0, CLASSES)
    kind = draw.uniform(0, 1, 1)
    other = torch.where(kind < 0.5, ct, torch.where(kind < 0.8, anything, similar))
    return torch.where(draw.chance(mr, 1), _trunk_mr(draw), other).clamp(0, 1.3)


def _trunk_mr(draw: Draw) -> Tensor:
    sequences = []
    for name, known in TRUNK_SEQUENCES.items():
        means = draw.uniform(*TRUNK_ORGANS[name], CLASSES)
        means[:, TRUNK_TISSUES] = torch.tensor(known, device=draw.device) + draw.normal(0.05, len(known))
        sequences.append(means)
    return _one_of(draw, sequences)


def brain_means(draw: Draw) -> Tensor:
    """(n, CLASSES) mean intensity of every entry of `BRAIN_TISSUES`, as in one of `BRAIN_SEQUENCES`."""
    sequences = []
    for k in range(len(BRAIN_SEQUENCES)):
        named = torch.tensor([bright[k] for _, bright in BRAIN_TISSUES], device=draw.device)
        means = draw.uniform(0, 1, CLASSES)
        means[:, : len(named)] = named + draw.normal(0.03, len(named))
        sequences.append(means)
    return _one_of(draw, sequences).clamp(0, 1.3)


def _one_of(draw: Draw, choices: list[Tensor]) -> Tensor:
    """One of several (n, k) tensors for each sample."""
    picked = draw.integer(0, len(choices))
    return torch.stack(choices)[picked, torch.arange(draw.n, device=draw.device)]
