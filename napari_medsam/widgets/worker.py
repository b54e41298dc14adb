"""One long-lived thread that computes while the window stays alive; results come back to the GUI thread.

One thread, since a model is not made to be asked twice at once, and since cuDNN plans anew for every thread.
Work is given as an iterator and taken step by step, and between two steps what is urgent comes first: a box
that is drawn while an object is carried through the volume waits for one slice, not for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from qtpy.QtCore import QObject, Qt, Signal


class Runner(Protocol):
    """Who computes: a thread beside a window, or whoever asks, where there is none."""

    def submit(
        self,
        key: Hashable,
        work: Callable[[], Iterator[Any]],
        on_result: Callable[[Any], None],
        on_end: Callable[[Exception | None], None],
        *,
        urgent: bool = True,
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
        urgent
            Whether it comes before work that is not.
        """
        ...

    def cancel(self, key: Hashable) -> bool:
        """Give work up after the step it is at; return whether there was any. Its results come no more."""
        ...


@dataclass(eq=False)
class _Job:
    key: Hashable
    work: Callable[[], Iterator[Any]]
    on_result: Callable[[Any], None]
    on_end: Callable[[Exception | None], None]
    urgent: bool
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
        """Whether work is waiting or under way."""
        with self._changed:
            return bool(self._jobs)

    def submit(
        self,
        key: Hashable,
        work: Callable[[], Iterator[Any]],
        on_result: Callable[[Any], None],
        on_end: Callable[[Exception | None], None],
        *,
        urgent: bool = True,
    ) -> None:
        """Start work; see `Runner.submit`."""
        with self._changed:
            self._give_up(key)
            self._jobs[key] = _Job(key, work, on_result, on_end, urgent)
            self._changed.notify()

    def cancel(self, key: Hashable) -> bool:
        """Give work up; see `Runner.cancel`."""
        with self._changed:
            return self._give_up(key)

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
            while not self._jobs and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return None
            waiting = list(self._jobs.values())
            urgent = [job for job in waiting if job.urgent]
            # What was asked for last is what the user looks at.
            return urgent[-1] if urgent else waiting[0]

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
