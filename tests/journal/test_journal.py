"""Back and forth in what was done: if these fail, undo leaves voxels that nobody drew, or takes some away."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_medsam.journal import Do, FactChange, Journal, JournalError, RecordedState, VoxelChange
from napari_medsam.journal.json_form import action_from_json, action_to_json, change_from_json, change_to_json
from napari_medsam.journal.log import log_line, read_log
from napari_medsam.prompts import ObjectPrompts, PromptError, SliceIndex, SlicePrompts
from napari_medsam.propagation import ACCEPTED, CORRECTED, SliceReport

SHAPE = (4, 5, 6)
labels = arrays(np.uint16, SHAPE, elements=st.integers(0, 3), fill=st.just(0))
slices = st.builds(
    lambda axis, part: SliceIndex(axis, round(part * (SHAPE[axis] - 1))), st.integers(0, 2), st.floats(0, 1)
)


@given(labels, labels)
def test_a_change_goes_both_ways_and_leaves_other_voxels_alone(before, after):
    change = VoxelChange.between(before, after)
    if change is None:
        np.testing.assert_array_equal(before, after)
        return
    assert change.before != change.after
    other = np.where(before != after, before, 9).astype(np.uint16)
    there = np.where(before != after, after, 9).astype(np.uint16)
    now = other.copy()
    change.put(now, forward=True)
    np.testing.assert_array_equal(now, there)
    change.put(now, forward=False)
    np.testing.assert_array_equal(now, other)


def test_a_change_is_as_small_as_what_it_changes():
    before, after = np.zeros((50, 512, 512), np.uint16), np.zeros((50, 512, 512), np.uint16)
    after[7, 100:110, 200:230] = 65535
    change = VoxelChange.between(before, after)
    assert (change.start, change.shape) == ((7, 100, 200), (1, 10, 30))
    assert change.n_bytes < 500


@pytest.mark.parametrize(
    "change",
    [
        VoxelChange((0, 0, 5), (1, 1, 2), b"", b""),
        VoxelChange((0, 0, -1), (1, 1, 1), b"", b""),
        VoxelChange((0, 0, 0), (0, 1, 1), b"", b""),
        VoxelChange((0, 0, 0), (1, 1, 1), b"no zlib", b"no zlib"),
    ],
)
def test_a_damaged_change_is_refused_and_changes_nothing(change):
    now = np.ones(SHAPE, np.uint16)
    with pytest.raises(JournalError):
        change.put(now, forward=True)
    assert (now == 1).all()


def test_a_change_that_pretends_to_be_small_takes_no_memory():
    """A few bytes that unpack to gigabytes must not be unpacked."""
    import zlib

    bomb = zlib.compress(bytes(1 << 28), 9)
    with pytest.raises(JournalError, match="damaged"):
        VoxelChange((0, 0, 0), (1, 1, 1), bomb, bomb).put(np.zeros(SHAPE, np.uint16), forward=True)


class Anything:
    """Does random things to a state, and remembers what it was like after each of them."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.state = RecordedState(np.zeros(SHAPE, np.uint16))
        self.past = [self.now()]

    def now(self):
        state = self.state
        marks = {k: dict(v) for k, v in state.ledger.key_slices.items() if v}
        reports = {k: dict(v) for k, v in state.ledger.reports.items() if v}
        return state.labels.copy(), dict(state.objects), marks, reports

    def where(self):
        axis = int(self.random.integers(3))
        return SliceIndex(axis, int(self.random.integers(SHAPE[axis])))

    def do(self):
        state, label, where = self.state, int(self.random.integers(1, 5)), self.where()
        with state.doing(state.journal.action(Do.CHANGE, label, where)):
            for _ in range(self.random.integers(1, 4)):
                self._one(int(self.random.integers(5)), label, self.where())
        changed = bool(state.journal.steps) and state.journal.steps[-1].action.run == state.journal._runs
        if changed:
            del self.past[state.journal.position :]
            self.past.append(self.now())

    def _one(self, what, label, where):
        state = self.state
        if what == 0:
            plane = where.take(state.labels)
            state.set_plane(where, self.random.integers(0, 3, plane.shape).astype(np.uint16))
        elif what == 1:
            box = tuple(self.random.uniform(0, 4, 4))
            state.set_object(label, ObjectPrompts(label, "x", {where: SlicePrompts(box)}))
        elif what == 2:
            state.set_object(label, None)
        elif what == 3:
            state.ledger.mark(label, where, [None, CORRECTED, ACCEPTED][self.random.integers(3)])
        else:
            score = float(self.random.uniform())
            state.ledger.report(label, where, SliceReport(where, label, score, "propagated"))

    def check(self):
        labels, *facts = self.past[self.state.journal.position]
        np.testing.assert_array_equal(self.state.labels, labels)
        assert list(self.now()[1:]) == facts


@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_random_steps_come_back_forwards_and_backwards(seed):
    anything = Anything(seed)
    state, random = anything.state, np.random.default_rng(seed)
    for _ in range(1000):
        choice = random.uniform()
        if choice < 0.6:
            anything.do()
        elif choice < 0.85:
            state.undo()
        else:
            state.redo()
        anything.check()
    assert len(state.journal.steps) > 100
    while state.undo():
        anything.check()
    assert not state.labels.any()
    while state.redo():
        anything.check()


def test_the_past_stays_within_its_limit_and_the_latest_steps_can_be_taken_back():
    anything = Anything(0)
    journal = anything.state.journal
    journal.limit_bytes = 40_000
    for _ in range(1000):
        anything.do()
        reach = sum(step.n_bytes for step in journal.steps[journal.oldest :])
        assert reach == journal.n_bytes <= journal.limit_bytes
    n_steps, back = len(journal.steps), 0
    while anything.state.undo():
        back += 1
        anything.check()
    assert back == n_steps - journal.oldest > 10


def test_what_comes_in_one_run_is_one_step_unless_something_else_comes_between():
    journal, where = Journal(), SliceIndex(0, 0)
    carried, painted = journal.action(Do.CARRY, 1), journal.action(Do.PAINT, 1)
    change = FactChange("key", 1, where, None, CORRECTED)
    for action in (carried, carried, painted, carried):
        journal.record(action, change)
    assert [(step.action.kind, len(step.changes)) for step in journal.steps] == [
        (Do.CARRY, 2),
        (Do.PAINT, 1),
        (Do.CARRY, 1),
    ]


def test_nobody_goes_back_behind_labels_that_were_taken_over():
    state = RecordedState(np.zeros(SHAPE, np.uint16))
    state.set_object(1, ObjectPrompts(1))
    theirs = np.full(SHAPE, 7, np.uint16)
    state.adopt(theirs, [ObjectPrompts(7, "liver")])
    assert state.undo() is None
    assert (state.labels is theirs, state.objects) == (True, {7: ObjectPrompts(7, "liver")})
    state.set_object(7, None)
    assert state.undo() is not None
    assert (theirs == 7).all()


def test_an_object_that_comes_back_takes_its_old_place():
    state = RecordedState(np.zeros(SHAPE, np.uint16))
    for label in (1, 2, 3):
        state.set_object(label, ObjectPrompts(label))
    state.set_object(2, None)
    state.undo()
    assert list(state.objects) == [1, 2, 3]


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_actions_and_changes_survive_json(seed):
    anything = Anything(seed)
    for _ in range(5):
        anything.do()
    for step in anything.state.journal.steps:
        action = action_from_json(json.loads(json.dumps(action_to_json(step.action))), "action")
        kept = (action.kind, action.run, action.label, action.where, dict(action.details))
        assert kept == (step.action.kind, step.action.run, step.action.label, step.action.where, {})
        for change in step.changes:
            assert change_from_json(json.loads(json.dumps(change_to_json(change))), "change") == change


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"fact": "key", "label": 1, "after": "corrected"},
        {"fact": "key", "label": 0, "slice": [0, 1], "after": "corrected"},
        {"fact": "key", "label": 1, "slice": [3, 1], "after": "corrected"},
        {"fact": "key", "label": 1, "slice": [0], "after": "corrected"},
        {"fact": "key", "label": 1, "slice": [0, 1], "after": "eval"},
        {"fact": "secret", "label": 1, "slice": [0, 1], "after": None},
        {"fact": "report", "label": 1, "slice": [0, 1], "after": {"score": 1e9, "reason": "x"}},
        {"fact": "report", "label": 1, "slice": [0, 1], "after": {"score": 1, "reason": "x" * 9999}},
        {"fact": "object", "label": 1, "after": {"label": 2, "slices": []}},
        {"voxels": {"start": [0, 0], "shape": [1, 1, 1], "before": "", "after": ""}},
        {"voxels": {"start": [0, 0, 0], "shape": [1, 1, 1], "before": "?", "after": ""}},
        {"voxels": {"start": [0, 0, 0], "shape": [1, 1, 1], "before": 3, "after": ""}},
    ],
)
def test_what_is_no_change_gets_one_sentence(value):
    with pytest.raises((PromptError, JournalError)) as told:
        change_from_json(value, "line 3")
    assert "line 3" in str(told.value) or "point" in str(told.value) or "slice" in str(told.value)


def test_a_log_ends_where_it_is_cut_or_damaged(tmp_path):
    lines = [log_line({"n": n, "text": "ä"}) for n in range(4)]
    whole, path = b"".join(lines), tmp_path / "log"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = list(read_log(path))
        ends = np.cumsum([len(line) for line in lines])
        assert [value["n"] for value, _ in found] == list(range(np.searchsorted(ends, cut, "right")))
        assert [end for _, end in found] == ends[: len(found)].tolist()
    for place in range(len(lines[0]), len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found = [value["n"] for value, _ in read_log(path)]
        assert found == list(range(np.searchsorted(ends, place, "right")))
