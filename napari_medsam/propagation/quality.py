"""From what is seen on a slice to an estimate of Dice, and to words for what speaks against the mask.

A logistic curve over a handful of observations, fitted on masks that were carried on beyond the ends of their
objects, so that "there is nothing here any more" is a low estimate like any other. Only 268 slices of seven
objects in three cases stand behind it yet, so the numbers below are that fit (``benchmarks/propagation.py``)
drawn towards what is known beforehand; ``drift`` came later, as with it slices rank better in both halves of
the cases. What is seen on a slice does not tell which object was meant: second opinions do, for all slices of
an object at once. See ``benchmarks/results/propagation.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from math import exp, log
from types import MappingProxyType


@dataclass(frozen=True)
class Evidence:
    """What speaks for a mask on one slice.

    Attributes
    ----------
    model
        The model's estimate of the mask's IoU, 0 to 1.
    likeness
        How much the pixels inside look like the object, -2 to 2: mean log ratio of `Appearance`.
    fading
        By how much less they do than those of the key slice, -4 to 4.
    contrast
        By how much less the pixels just outside do, 0 to 4.
    agreement
        Dice with the object's mask on the slice before, 0 to 1.
    change
        How much larger or smaller the area became: the log of the ratio, either way, 0 to 2.
    far
        Distance from the key slice in radii that the object has there, 0 to `FARTHEST`.
    start
        How good the key slice's mask is, 0 to 1.
    drift
        How much the mask has changed on the way, slice by slice: minus the sum of the logs of all agreements
        since the key slice, 0 to `MOST_DRIFT`. Each step carries on the errors of those before it.
    """

    model: float
    likeness: float
    fading: float
    contrast: float
    agreement: float
    change: float
    far: float
    start: float
    drift: float

    @property
    def here(self) -> Evidence:
        """What speaks for the mask on this slice alone: whether an object goes on shows there."""
        return replace(self, drift=0.0)


FARTHEST = 2.0
"""Radii beyond which distance proves nothing more: vessels and the spine do go on."""
MOST_DRIFT = 1.5
"""Beyond it more change proves nothing: thin slices are many, and a good mask changes a little on each."""
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "model": 0.4,
        "likeness": 0.4,
        "fading": -0.4,
        "contrast": 0.8,
        "agreement": 0.3,
        "change": -0.2,
        "far": -1.0,
        "start": 0.8,
        "drift": -1.0,
    }
)
"""Of each observation, in logits of Dice."""
BIAS = -1.0
TYPICAL = Evidence(0.5, 1.2, 0.2, 2.3, 0.85, 0.2, 0.5, 0.7, 0.5)
"""Means over slices that turned out well: what is said to be wrong is what is furthest below these."""
DOUBTS: Mapping[str, str] = MappingProxyType(
    {
        "model": "the model is unsure (its own estimate is {:.2f})",
        "likeness": "the inside looks no different from the surroundings",
        "fading": "the brightness inside is no longer that of the key slice",
        "contrast": "the edge is faint",
        "agreement": "the mask differs from that of the slice before (Dice {:.2f})",
        "change": "the area changed abruptly",
        "far": "the key slice is {:.1f} object radii away",
        "start": "the key slice's own mask is doubtful",
        "drift": "the mask has changed much on its way from the key slice",
    }
)
LEAST_DOUBT = 0.25
"""Logits that an observation must cost before it is worth saying."""


def estimated_dice(seen: Evidence) -> float:
    """Return the Dice, 0 to 1, that a mask with this evidence has on average."""
    logit = BIAS + sum(weight * value for weight, value in zip(WEIGHTS.values(), astuple(seen), strict=True))
    return 1 / (1 + exp(-logit))


SECOND_WEIGHT = 1.5
"""Logits of Dice for each logit of the mean second opinion on an object."""
SECOND_TYPICAL = 0.58
"""The mean second opinion that leaves estimates as they are."""
SECOND_BEFORE = 2
"""So many typical opinions count beside those that were asked for: one click alone decides little."""


def second_shift(opinions: Sequence[float]) -> float:
    """Return by how many logits the second opinions on an object, 0 to 1 each, move its estimates."""
    count = len(opinions) + SECOND_BEFORE
    mean = (sum(opinions) + SECOND_BEFORE * SECOND_TYPICAL) / count
    return SECOND_WEIGHT * (_logit(mean) - _logit(SECOND_TYPICAL))


def shifted(dice: float, logits: float) -> float:
    """Return an estimated Dice, 0 to 1, moved by some logits."""
    return 1 / (1 + exp(-_logit(dice) - logits))


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-3)
    return log(share / (1 - share))


def doubt(seen: Evidence) -> str:
    """Say in words what lowers the estimate most; empty where nothing does."""
    costs = {
        field.name: WEIGHTS[field.name] * (getattr(TYPICAL, field.name) - getattr(seen, field.name))
        for field in fields(Evidence)
    }
    worst = max(costs, key=lambda name: costs[name])
    if costs[worst] < LEAST_DOUBT:
        return ""
    return DOUBTS[worst].format(getattr(seen, worst))
