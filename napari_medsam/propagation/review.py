"""What a reviewer needs: how good each slice is thought to be, why, and which to look at first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.propagation.quality import LEAST_DOUBT, second_shift, shifted
from napari_medsam.propagation.values import (
    ACCEPTED,
    BOTH_SIDES,
    BY_VOTE,
    CLEARED,
    CORRECTED,
    INTERPOLATED,
    PROMPT,
    PROPAGATED,
    SliceMask,
)

if TYPE_CHECKING:
    from napari_medsam.prompts import SliceIndex

LOOK_BELOW = 0.7
"""Estimated Dice below which a slice wants a look."""
REACH_SHARE = 0.25
"""How far a correction mends the slices beside it, as a share of the slices that show the object."""
LEAST_REACH = 1.5
"""The same in slices, at least."""
MOST_AHEAD = 40
"""So many slices are chosen one after the other; the rest follow by what is doubtful on them alone."""

CARRIED = frozenset({PROPAGATED, BOTH_SIDES, INTERPOLATED, BY_VOTE, CLEARED})
"""Reasons of masks that nobody asked for on that very slice."""
FROM_ONE_SIDE = frozenset({PROPAGATED, BY_VOTE})
"""Those among them that no key slice beyond confirms."""


@dataclass(frozen=True)
class SliceReport:
    """What is known of one object on one slice.

    Attributes
    ----------
    where, label, score, reason, doubt, second_opinion
        As in `SliceMask`. In a `Review` the score of a mask that was carried from one side takes in the
        second opinions on the object.
    stopped
        Whether the object was found to have ended before this slice, or somebody has erased it here.
    """

    where: SliceIndex
    label: int
    score: float
    reason: str
    stopped: bool = False
    doubt: str = ""
    second_opinion: float | None = None

    @classmethod
    def of(cls, part: SliceMask) -> SliceReport:
        """Keep all but the mask."""
        return cls(
            part.where, part.label, part.score, part.reason, part.stopped, part.doubt, part.second_opinion
        )

    @property
    def is_carried(self) -> bool:
        """Whether the mask came from other slices, and may be replaced when these change."""
        return self.reason in CARRIED

    @property
    def is_by_hand(self) -> bool:
        """Whether somebody has corrected or accepted it: nothing is left to look at."""
        return self.reason in (CORRECTED, ACCEPTED)

    @property
    def is_key(self) -> bool:
        """Whether somebody prompted, corrected or accepted the object on this slice."""
        return self.is_by_hand or self.reason == PROMPT

    @property
    def dice(self) -> float:
        """Estimated Dice, 0 to 1; of prompts, what the model's estimate of IoU comes to."""
        # A model's own estimate, or a file's, may lie below 0.
        score = max(self.score, 0.0)
        return 2 * score / (1 + score) if self.reason == PROMPT else score

    @property
    def wants_look(self) -> bool:
        """Whether somebody should look at it: the mask, or that the object ends here, is doubtful."""
        return not self.is_by_hand and self.dice < LOOK_BELOW


class Review:
    """The slices of one object along one axis.

    Now and then the model was asked about a carried mask in another way, by one click in its middle. Where it
    finds something else, it is in doubt what the object is, and so are all slices to which it was carried
    from one side: each is estimated anew with all of these second opinions. Which slice to look at first
    follows from what is seen on each of them alone, as before.

    Parameters
    ----------
    reports
        In any order.
    pixels
        How many of its pixels lie on each slice that shows the object; as many on each where it is not said.

    Attributes
    ----------
    slices : tuple of SliceReport
        By index, with the slices on which the object was found to have ended.
    """

    def __init__(
        self, reports: Iterable[SliceReport], pixels: Mapping[SliceIndex, int] = MappingProxyType({})
    ) -> None:
        alone = sorted(reports, key=lambda report: report.where)
        self._doubts = [0.0 if report.is_by_hand else 1 - report.dice for report in alone]
        asked = [report.second_opinion for report in alone if report.second_opinion is not None]
        self.slices: tuple[SliceReport, ...] = tuple(_estimated_anew(alone, asked) if asked else alone)
        self._pixels = pixels

    @property
    def shown(self) -> Sequence[SliceReport]:
        """Slices that show the object."""
        return [report for report in self.slices if not report.stopped]

    @property
    def ends(self) -> Sequence[SliceReport]:
        """Slices on which the object was found to have ended, each with the reason."""
        return [report for report in self.slices if report.stopped]

    @property
    def weakest(self) -> SliceReport | None:
        """The slice with the lowest estimate; None where somebody has corrected or accepted all of them."""
        return min((r for r in self.slices if not r.is_by_hand), key=lambda report: report.dice, default=None)

    def worth_a_look(self) -> list[SliceReport]:
        """Slices in the order in which a correction should mend most; none that is corrected or accepted.

        That is not the order of the estimates: the weakest slices are the last before the ends, where little
        of the object lies and nothing hangs on them. A correction mends the slices beside it, too, the nearer
        the more, so each slice counts with the doubtful pixels of its neighbours; once it is taken, theirs
        count less.
        """
        if not self.slices:
            return []
        places = np.array([report.where.index for report in self.slices])
        reach = max(LEAST_REACH, REACH_SHARE * len(self.shown))
        mends = np.clip(1 - np.abs(places[:, None] - places) / reach, 0, None)
        doubtful = np.array(self._doubts) * self._sizes(places)
        left = [n for n, report in enumerate(self.slices) if not report.is_by_hand]
        order = []
        # Nobody corrects more before the scores are others, and each one takes the time of the square.
        for _ in range(min(MOST_AHEAD, len(left))):
            best = max(left, key=(mends @ doubtful).__getitem__)
            left.remove(best)
            order.append(best)
            doubtful *= 1 - mends[best]
        order += sorted(left, key=lambda n: -doubtful[n])
        return [self.slices[n] for n in order]

    def _sizes(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pixels on each slice; beyond an end, where there are none, those of the nearest that has some."""
        if not self._pixels:
            return np.ones(len(self.slices))
        sizes = np.array([float(self._pixels.get(report.where, 0)) for report in self.slices])
        filled = np.flatnonzero(sizes)
        return sizes[filled[np.abs(places[:, None] - places[filled]).argmin(1)]] if filled.size else sizes

    def next_worth(self, after: SliceIndex, step: int = 1) -> SliceReport | None:
        """Return the next slice to look at, or with `step` -1 the one before.

        Parameters
        ----------
        after
            The slice at hand. Where it is none of those that are walked through, the one that is most worth a
            look comes next.
        step
            1 for the next, -1 for the one before.

        Returns
        -------
        SliceReport or None
            None when nothing is left to look at. The first is the one that is most worth it, even if only its
            neighbours are in doubt; then come those that want a look, and the first again. Where none wants
            a look, all are walked through.
        """
        order = self.worth_a_look()
        if any(report.wants_look for report in order):
            order = [report for n, report in enumerate(order) if report.wants_look or not n]
        if not order:
            return None
        places = {report.where: n for n, report in enumerate(order)}
        return order[(places[after] + step) % len(order)] if after in places else order[0]

    def summary(self) -> str:
        """Say in one sentence how much there is to look at, such as "41 of 63 slices want a look"."""
        count = sum(report.wants_look for report in self.slices)
        total = len(self.shown)
        if not total:
            return "no slice shows the object"
        if not count:
            return f"none of {total} slices wants a look" if total > 1 else "the only slice wants no look"
        return f"{count} of {total} slices {'wants' if count == 1 else 'want'} a look"


def _estimated_anew(reports: Iterable[SliceReport], opinions: Sequence[float]) -> Iterator[SliceReport]:
    """Take the second opinions on the object into scores, and into words where they cost something."""
    shift = second_shift(opinions)
    mean = sum(opinions) / len(opinions)
    other = f"one click into the object finds something else (IoU {mean:.2f} on average)"
    for report in reports:
        if report.reason not in FROM_ONE_SIDE:
            yield report
            continue
        doubts = [report.doubt] if report.doubt else []
        doubts += [other] if shift < -LEAST_DOUBT else []
        yield replace(report, score=shifted(report.score, shift), doubt="; ".join(doubts))
