"""Masks of everything on a slice, without a prompt: SAM's automatic mode, as a generator.

A grid of single points is asked for three candidates each; those that the model itself believes, that hardly
change with the threshold, and that no better one covers are proposed. Steps and default values are those of
SAM (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix B; facebookresearch/segment-anything,
``automatic_mask_generator.py``, Apache-2.0); the code here is this project's own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_medsam.predictor import Prediction, SlicePredictor
from napari_medsam.prompts import FOREGROUND, SlicePrompts, box_from_mask


@dataclass(frozen=True, eq=False)
class Proposal:
    """A mask that somebody may want.

    Attributes
    ----------
    mask : numpy.ndarray of bool
        (H, W), not empty.
    score
        The model's estimate of the mask's IoU.
    stability
        IoU of the masks at a higher and a lower threshold.
    box
        (y0, x0, y1, x1), inclusive.
    point
        (y, x) of the point that was asked.
    """

    mask: NDArray[np.bool_]
    score: float
    stability: float
    box: tuple[float, float, float, float]
    point: tuple[float, float]


@dataclass(frozen=True)
class ProposalFilters:
    """What is proposed.

    Attributes
    ----------
    min_score
        Least estimated IoU.
    min_stability
        Least stability.
    stability_offset
        By how much the threshold, in logits, is moved both ways to tell the stability.
    max_overlap
        Largest IoU of the boxes of two proposals; of more alike ones the better is kept.
    min_area_px
        Least area in pixels.
    """

    min_score: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    max_overlap: float = 0.7
    min_area_px: int = 16


@dataclass(frozen=True)
class Proposals:
    """How far the search is, and what it has found.

    Attributes
    ----------
    done, total
        Points of the grid that were asked, and all.
    found
        Best first.
    """

    done: int
    total: int
    found: tuple[Proposal, ...]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A proposal whose mask takes an eighth of the memory: thousands are kept until the last point."""

    bits: NDArray[np.uint8]
    score: float
    stability: float
    box: tuple[float, float, float, float]
    point: tuple[float, float]

    def unpacked(self, shape: tuple[int, int]) -> Proposal:
        mask = np.unpackbits(self.bits, count=shape[0] * shape[1]).reshape(shape).view(np.bool_)
        return Proposal(mask, self.score, self.stability, self.box, self.point)


_Boxed = TypeVar("_Boxed", Proposal, _Candidate)


def propose_masks(
    predictor: SlicePredictor,
    shape: tuple[int, int],
    points_per_side: int = 32,
    points_per_batch: int = 16,
    filters: ProposalFilters | None = None,
) -> Iterator[Proposals]:
    """Search the slice that a predictor has set.

    Parameters
    ----------
    predictor
        Its model should have learned points.
    shape
        (H, W) of the slice.
    points_per_side
        Rows and columns of the grid.
    points_per_batch
        Points asked in one pass.
    filters
        What is proposed.

    Yields
    ------
    Proposals
        After each batch; the last one is the result. To cancel, stop asking.

    Raises
    ------
    ValueError
        When the grid has no point.
    PredictorError
        When no slice was set.
    """
    if points_per_side < 1 or points_per_batch < 1:
        raise ValueError(
            f"A grid of {points_per_side} points a side in batches of {points_per_batch} has no point: "
            "give at least 1 of each."
        )
    rules = filters or ProposalFilters()
    points = grid(shape, points_per_side)
    believed: list[_Candidate] = []
    for first in range(0, len(points), points_per_batch):
        batch = points[first : first + points_per_batch]
        prompts = [SlicePrompts(None, (point,), (FOREGROUND,)) for point in batch]
        predictions = predictor.predict_many(prompts, multimask_output=True)
        believed += [
            candidate
            for point, prediction in zip(batch, predictions, strict=True)
            for candidate in _believed(prediction, point, rules)
        ]
        # Among all: one that lost against a candidate that a later, better one beats is a proposal after all.
        found = tuple(candidate.unpacked(shape) for candidate in best_apart(believed, rules.max_overlap))
        yield Proposals(first + len(batch), len(points), found)


def grid(shape: tuple[int, int], points_per_side: int) -> list[tuple[float, float]]:
    """Points (y, x) in the middles of equal parts of a slice, row by row."""
    rows, columns = ((np.arange(points_per_side) + 0.5) / points_per_side * size - 0.5 for size in shape)
    return [(float(y), float(x)) for y in rows for x in columns]


def best_apart(proposals: Sequence[_Boxed], max_overlap: float) -> list[_Boxed]:
    """Keep the best proposals of which no two have boxes of an IoU above `max_overlap`, best first."""
    boxes = np.array([proposal.box for proposal in proposals], np.float64).reshape(-1, 4)
    rest = np.argsort([-proposal.score for proposal in proposals], kind="stable").astype(np.intp)
    kept: list[_Boxed] = []
    while rest.size:
        best, rest = rest[0], rest[1:]
        kept.append(proposals[best])
        rest = rest[_box_ious(boxes[best], boxes[rest]) <= max_overlap]
    return kept


def _believed(
    prediction: Prediction, point: tuple[float, float], rules: ProposalFilters
) -> Iterator[_Candidate]:
    for mask, score, logits in zip(prediction.masks, prediction.scores, prediction.logits, strict=True):
        if score < rules.min_score or mask.sum() < rules.min_area_px:
            continue
        stability = stability_score(logits, rules.stability_offset)
        box = box_from_mask(mask)
        if stability >= rules.min_stability and box is not None:
            yield _Candidate(np.packbits(mask), float(score), stability, box, point)


def stability_score(logits: NDArray[np.float32], offset: float) -> float:
    """IoU of the masks at thresholds `offset` above and below 0; 0 when both are empty."""
    wide = int((logits > -offset).sum())
    return int((logits > offset).sum()) / wide if wide else 0.0


def _box_ious(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of one box with each of (N, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1
    common = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(box[2:] - box[:2] + 1) + np.prod(others[:, 2:] - others[:, :2] + 1, axis=1)
    return common / (areas - common)
