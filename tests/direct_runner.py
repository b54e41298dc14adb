"""Computes at once, in the thread that asks, and hands errors back as a thread would."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from napari_medsam.widgets.runner import Priority


class DirectRunner:
    """A `Runner` without a thread; work that is not urgent ends after `limit` steps, as if cancelled."""

    def __init__(self) -> None:
        self.limit: int | None = None

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
        error: Exception | None = None
        try:
            for n, result in enumerate(work()):
                if priority > Priority.URGENT and n == self.limit:
                    return
                on_result(result)
        except (ValueError, OSError) as problem:
            error = problem
        on_end(error)

    def cancel(self, key: Hashable) -> bool:
        return False

    def is_wanted(self, priority: Priority) -> bool:
        return True
