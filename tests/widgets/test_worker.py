"""The thread beside the window: the newest request wins, urgent work comes first, a stop means stop."""

from __future__ import annotations

import threading

import pytest
from hand import needs_display

from napari_medsam.widgets.runner import Priority
from napari_medsam.widgets.worker import Worker

pytestmark = [pytest.mark.canvas, needs_display]


@pytest.fixture
def worker(qtbot):
    made = Worker()
    yield made
    made.stop()


class Gate:
    """Work of several steps, each of which waits to be let through."""

    def __init__(self, steps):
        self.steps = steps
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self):
        for n in range(self.steps):
            self.entered.release()
            assert self.open.acquire(timeout=30)
            yield n

    def let(self):
        """Wait until a step has begun, and let it end."""
        assert self.entered.acquire(timeout=30)
        self.open.release()


def ignore(value):
    """Take a result that no test asks about."""


def test_results_arrive_in_the_thread_of_the_window(worker, qtbot):
    """napari's layers must be written from the GUI thread only."""
    threads, ended = [], []
    worker.submit(
        "job",
        lambda: iter([threading.current_thread()]),
        lambda made: threads.append((made.name, threading.current_thread())),
        ended.append,
    )
    qtbot.waitUntil(lambda: ended == [None], timeout=30_000)
    assert threads == [("napari-medsam", threading.main_thread())]


def test_the_newest_request_for_a_slice_wins(worker, qtbot):
    """Whoever moves a box three times wants the third mask, and no flicker of the first two."""
    gate, found, ended = Gate(1), [], []
    worker.submit("slice 5", gate, lambda n: found.append("first"), ended.append)
    assert gate.entered.acquire(timeout=30)
    for name in ("second", "third"):
        worker.submit("slice 5", lambda name=name: iter([name]), found.append, ended.append)
    gate.open.release()
    qtbot.waitUntil(lambda: bool(ended), timeout=30_000)
    qtbot.wait(50)
    assert found == ["third"]
    assert ended == [None]


def test_a_box_does_not_wait_for_the_end_of_propagation(worker, qtbot):
    """Urgent work comes between two slices."""
    gate, order, ended = Gate(3), [], []
    worker.submit("propagate", gate, order.append, ended.append, priority=Priority.BESIDE)
    gate.let()
    assert gate.entered.acquire(timeout=30)
    worker.submit("box", lambda: iter(["box"]), order.append, ignore)
    gate.open.release()
    gate.let()
    qtbot.waitUntil(lambda: bool(ended), timeout=30_000)
    assert order == [0, 1, "box", 2]


def test_after_a_stop_nothing_more_is_written(worker, qtbot):
    """The slice that is being computed while the user stops is thrown away, and the end is not told twice."""
    gate, found, ended = Gate(3), [], []
    worker.submit("propagate", gate, found.append, ended.append)
    gate.let()
    qtbot.waitUntil(lambda: found == [0], timeout=30_000)
    assert gate.entered.acquire(timeout=30)
    assert worker.cancel("propagate")
    assert not worker.cancel("propagate")
    gate.open.release()
    worker.submit("next", lambda: iter(["next"]), found.append, ended.append)
    qtbot.waitUntil(lambda: ended == [None], timeout=30_000)
    assert found == [0, "next"]
    assert not worker.is_busy


def test_an_error_is_handed_over_and_the_thread_lives_on(worker, qtbot):
    """One bad slice must not end segmentation for the rest of the day."""
    errors, found = [], []

    def fail():
        raise RuntimeError("broken")
        yield

    worker.submit("bad", fail, ignore, errors.append)
    worker.submit("good", lambda: iter(["mask"]), found.append, errors.append)
    qtbot.waitUntil(lambda: len(errors) == 2, timeout=30_000)
    assert found == ["mask"]
    assert sorted(map(str, errors)) == ["None", "broken"]


def test_what_nobody_asked_for_waits_and_makes_way(worker, qtbot):
    """Slices that are prepared ahead must not delay a box, nor keep a window from closing."""
    gate, order, ended = Gate(1), [], []
    worker.submit("ahead", gate, ignore, ignore, priority=Priority.IDLE)
    assert gate.entered.acquire(timeout=30)
    assert not worker.is_busy
    assert worker.is_wanted(Priority.IDLE)
    worker.submit("more", lambda: iter(["more"]), order.append, ended.append, priority=Priority.IDLE)
    worker.submit("carry", lambda: iter(["carry"]), order.append, ended.append, priority=Priority.BESIDE)
    assert worker.is_busy
    assert not worker.is_wanted(Priority.IDLE)
    assert worker.is_wanted(Priority.BESIDE)
    gate.open.release()
    qtbot.waitUntil(lambda: len(ended) == 2, timeout=30_000)
    assert order == ["carry", "more"]


def test_work_that_waits_a_moment_is_replaced_before_it_begins(worker, qtbot):
    """Whoever scrolls through a hundred slices wants none of them prepared but the last."""
    begun, ended = [], []
    for n in range(3):
        worker.submit("ahead", lambda n=n: iter(begun.append(n) or ()), ignore, ended.append, delay_s=0.2)
    assert worker.is_wanted(Priority.IDLE)
    worker.submit("box", lambda: iter(begun.append("box") or ()), ignore, ended.append)
    qtbot.waitUntil(lambda: len(ended) == 2, timeout=30_000)
    assert begun == ["box", 2]
