"""The steps of a session in the order in which they were done, to go back and forth in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from napari_medsam.journal.changes import Action, Change, Do, FactChange, Step

if TYPE_CHECKING:
    from napari_medsam.prompts import SliceIndex

LIMIT_BYTES = 256 * 2**20
"""How much of the past is kept in memory to go back to."""


class Follower(Protocol):
    """Who wants to know what happens to a journal."""

    def began(self, action: Action) -> None:
        """A step was begun."""
        ...

    def changed(self, change: Change) -> None:
        """The last step has one more change."""
        ...

    def moved(self, position: int) -> None:
        """Somebody has gone back or forth: so many steps are done now."""
        ...

    def closed(self) -> None:
        """Nobody can go back behind what was done so far."""
        ...


class Journal:
    """Steps that were done, and steps that were taken back and may be done again.

    It keeps what has changed; whoever changes labels and facts applies it.

    Parameters
    ----------
    limit_bytes
        When the steps that can be taken back take more than this, the oldest cannot be any more. What it
        takes to do them again, for `napari_medsam.replay`, stays known: a few hundred bytes for each.

    Attributes
    ----------
    steps : list of Step
        The oldest first.
    position : int
        How many of them are done; the others were taken back.
    oldest : int
        As far back as one can go.
    n_bytes : int
        What the steps take that can be taken back.
    follower : Follower or None
        Who is told what happens.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.steps: list[Step] = []
        self.position = self.oldest = 0
        self.n_bytes = 0
        self.follower: Follower | None = None
        self._runs = 0

    def action(self, kind: Do, label: int = 0, where: SliceIndex | None = None, **details: Any) -> Action:
        """Describe what is about to be done; what is recorded with it becomes one step."""
        self._runs += 1
        return Action(kind, self._runs, label, where, details)

    def record(self, action: Action, change: Change) -> None:
        """Add a change to the step of an action, a new one unless that is the last; undone steps go."""
        is_new = not self.position or self.steps[self.position - 1].action.run != action.run
        if is_new or self.position < len(self.steps) or self.position <= self.oldest:
            self._begin(action)
        self.steps[-1].changes.append(change)
        self.n_bytes += change.n_bytes
        if self.follower is not None:
            self.follower.changed(change)
        self._forget()

    def back(self) -> Step | None:
        """Go back by one step, and return it; None when there is none to take back."""
        if self.position <= self.oldest:
            return None
        self._move(self.position - 1)
        return self.steps[self.position]

    def forward(self) -> Step | None:
        """Go forth by one step, and return it; None when none was taken back."""
        if self.position == len(self.steps):
            return None
        self._move(self.position + 1)
        return self.steps[self.position - 1]

    def close(self) -> None:
        """Let nobody go back behind what was done so far."""
        self._cut()
        self._keep_from(self.position)
        if self.follower is not None:
            self.follower.closed()

    def resume(self, steps: Sequence[Step], position: int, oldest: int) -> None:
        """Go on where an earlier journal ended."""
        self.steps = list(steps)
        self.position, self.oldest = position, oldest
        self.n_bytes = sum(step.n_bytes for step in self.steps[oldest:])
        self._runs = max((step.action.run for step in self.steps), default=0)
        self._forget()

    def _begin(self, action: Action) -> None:
        self._cut()
        self.steps.append(Step(action))
        self.position += 1
        if self.follower is not None:
            self.follower.began(action)

    def _cut(self) -> None:
        for step in self.steps[self.position :]:
            self.n_bytes -= step.n_bytes
        del self.steps[self.position :]

    def _move(self, position: int) -> None:
        self.position = position
        if self.follower is not None:
            self.follower.moved(position)

    def _forget(self) -> None:
        while self.n_bytes > self.limit_bytes and self.oldest < self.position - 1:
            self._keep_from(self.oldest + 1)

    def _keep_from(self, oldest: int) -> None:
        for step in self.steps[self.oldest : oldest]:
            self.n_bytes -= step.n_bytes
            step.changes = [
                replace(change, before=None) if isinstance(change, FactChange) else change
                for change in step.lasting
            ]
        self.oldest = oldest
