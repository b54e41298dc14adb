"""Who computes for the window, and what comes first. No Qt: `worker` has the thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from enum import IntEnum
from typing import Any, Protocol


class Priority(IntEnum):
    """What comes first."""

    URGENT = 0
    """The user waits for it; what was asked for last comes first."""
    BESIDE = 1
    """Goes on while the user does other things."""
    IDLE = 2
    """Nobody asked for it."""


class Runner(Protocol):
    """Who computes: a thread beside a window, or whoever asks, where there is none."""

    def submit(
        self,
        key: Hashable,
        work: Callable[[], Iterator[Any]],
        on_result: Callable[[Any], None],
        on_end: Callable[[Exception | None], None],
        *,
        priority: Priority = Priority.URGENT,
        delay_s: float = 0.0,
    ) -> None:
        """Start work; earlier work with the same key is given up.

        Parameters
        ----------
        key
            Names what is computed.
        work
            Called in the thread; each value that it yields is a result.
        on_result
            Called in the GUI thread with each result.
        on_end
            Called in the GUI thread once, with the error if there was one. Not called for work that was given
            up.
        priority
            What it comes before and after.
        delay_s
            How long to wait before it begins, in seconds: newer work with the same key may come meanwhile.
        """
        ...

    def cancel(self, key: Hashable) -> bool:
        """Give work up after the step it is at; return whether there was any. Its results come no more."""
        ...

    def is_wanted(self, priority: Priority) -> bool:
        """Whether work of this priority has its turn: nothing waits that comes before it."""
        ...
