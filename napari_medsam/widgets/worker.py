"""One long-lived thread that computes while the window stays alive; results come back to the GUI thread.

One thread, since a model is not made to be asked twice at once, and since cuDNN plans anew for every thread.
Work is given as an iterator and taken step by step, and between two steps what is urgent comes first: a box
that is drawn while an object is carried through the volume waits for one slice, not for all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal

from napari_medsam.widgets.runner import Priority


@dataclass(eq=False)
class _Job:
    key: Hashable
    work: Callable[[], Iterator[Any]]
    on_result: Callable[[Any], None]
    on_end: Callable[[Exception | None], None]
    priority: Priority
    due_s: float
    steps: Iterator[Any] | None = None
    given_up: bool = False


class Worker(QObject):
    """A `Runner` with a thread of its own.

    Parameters
    ----------
    parent
        The widget it works for; `stop` is called when that is gone.
    """

    _call = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        # Emitted in the thread, received where this object lives: the one crossing.
        self._call.connect(self._receive, Qt.ConnectionType.QueuedConnection)
        self._jobs: dict[Hashable, _Job] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="napari-medsam", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether work that somebody asked for is waiting or under way."""
        with self._changed:
            return any(job.priority < Priority.IDLE for job in self._jobs.values())

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
        """Start work; see `Runner.submit`."""
        with self._changed:
            self._give_up(key)
            due_s = time.monotonic() + delay_s
            self._jobs[key] = _Job(key, work, on_result, on_end, priority, due_s)
            self._changed.notify()

    def cancel(self, key: Hashable) -> bool:
        """Give work up; see `Runner.cancel`."""
        with self._changed:
            return self._give_up(key)

    def is_wanted(self, priority: Priority) -> bool:
        """Whether work has its turn; see `Runner.is_wanted`."""
        with self._changed:
            return not self._stopped and all(job.priority >= priority for job in self._due())

    def stop(self) -> None:
        """Give everything up and let the thread end after the step it is at."""
        with self._changed:
            for key in list(self._jobs):
                self._give_up(key)
            self._stopped = True
            self._changed.notify()

    def _give_up(self, key: Hashable) -> bool:
        job = self._jobs.pop(key, None)
        if job is not None:
            job.given_up = True
        return job is not None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                if job.steps is None:
                    job.steps = job.work()
                result = next(job.steps)
            except StopIteration:
                self._finish(job, None)
            except Exception as error:  # noqa: BLE001 (whatever went wrong is told in the window)
                self._finish(job, error)
            else:
                self._deliver(job, job.on_result, result)
            # Between two waits for work, nothing of the last job may be kept alive.
            del job

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._stopped:
                if due := self._due():
                    first = min(job.priority for job in due)
                    best = [job for job in due if job.priority == first]
                    # What was asked for last is what the user looks at.
                    return best[-1] if first == Priority.URGENT else best[0]
                soonest = min((job.due_s for job in self._jobs.values()), default=None)
                self._changed.wait(None if soonest is None else max(0.0, soonest - time.monotonic()))
            return None

    def _due(self) -> list[_Job]:
        now = time.monotonic()
        return [job for job in self._jobs.values() if job.due_s <= now]

    def _finish(self, job: _Job, error: Exception | None) -> None:
        with self._changed:
            if self._jobs.get(job.key) is job:
                del self._jobs[job.key]
        self._deliver(job, job.on_end, error)

    def _deliver(self, job: _Job, receive: Callable[[Any], None], value: Any) -> None:
        def arrive() -> None:
            if not job.given_up:
                receive(value)

        try:
            self._call.emit(arrive)
        except RuntimeError:
            # The window, and with it the Qt side of this object, is gone.
            self.stop()

    def _receive(self, call: Callable[[], None]) -> None:
        call()
