"""What a reviewer needs: how good each slice is thought to be, why, and which to look at first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

CARRIED = frozenset({PROPAGATED, BOTH_SIDES, INTERPOLATED, BY_VOTE, CLEARED})
"""Reasons of masks that nobody asked for on that very slice."""


@dataclass(frozen=True)
class SliceReport:
    """What is known of one object on one slice.

    Attributes
    ----------
    where, label, score, reason, doubt
        As in `SliceMask`.
    stopped
        Whether the object was found to have ended before this slice, or somebody has erased it here.
    """

    where: SliceIndex
    label: int
    score: float
    reason: str
    stopped: bool = False
    doubt: str = ""

    @classmethod
    def of(cls, part: SliceMask) -> SliceReport:
        """Keep all but the mask."""
        return cls(part.where, part.label, part.score, part.reason, part.stopped, part.doubt)

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
        return 2 * self.score / (1 + self.score) if self.reason == PROMPT else self.score

    @property
    def wants_look(self) -> bool:
        """Whether somebody should look at it: the mask, or that the object ends here, is doubtful."""
        return not self.is_by_hand and self.dice < LOOK_BELOW


class Review:
    """The slices of one object along one axis.

    Parameters
    ----------
    reports
        In any order.

    Attributes
    ----------
    slices : tuple of SliceReport
        By index, with the slices on which the object was found to have ended.
    """

    def __init__(self, reports: Iterable[SliceReport]) -> None:
        self.slices: tuple[SliceReport, ...] = tuple(sorted(reports, key=lambda report: report.where))

    @property
    def shown(self) -> Sequence[SliceReport]:
        """Slices that show the object."""
        return [report for report in self.slices if not report.stopped]

    @property
    def ends(self) -> Sequence[SliceReport]:
        """Slices on which the object was found to have ended, each with the reason."""
        return [report for report in self.slices if report.stopped]

    def weakest(self) -> list[SliceReport]:
        """Slices in the order in which they are worth a look; none that somebody corrected or accepted."""
        return sorted((r for r in self.slices if not r.is_by_hand), key=lambda report: report.dice)

    def next_weakest(self, after: SliceIndex, step: int = 1) -> SliceReport | None:
        """Return the next slice to look at, or with `step` -1 the one before.

        Parameters
        ----------
        after
            The slice at hand. Where it does not want a look, the weakest slice of all comes next.
        step
            1 for the next, -1 for the one before.

        Returns
        -------
        SliceReport or None
            None when nothing is left to look at. After the last one that wants a look comes the first again;
            where none does, all are walked through.
        """
        # The prompted slice at hand is no reason to begin in the middle of the good ones.
        order = [report for report in self.weakest() if report.wants_look] or self.weakest()
        if not order:
            return None
        places = {report.where: n for n, report in enumerate(order)}
        return order[(places[after] + step) % len(order)] if after in places else order[0]

    def summary(self) -> str:
        """Say in one sentence how much there is to look at, such as "4 of 63 slices want a look"."""
        count = sum(report.wants_look for report in self.slices)
        total = len(self.shown)
        if not total:
            return "no slice shows the object"
        if not count:
            return f"none of {total} slices wants a look" if total > 1 else "the only slice wants no look"
        return f"{count} of {total} slices {'wants' if count == 1 else 'want'} a look"
