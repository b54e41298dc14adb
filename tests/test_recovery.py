"""Work that a crash interrupts: if these fail, somebody draws an hour's work again."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import work_steps
from work_steps import SHAPE, box, facts, make_volume, stroke

from napari_medsam import recovery, tasks
from napari_medsam.geometry import Geometry, Volume
from napari_medsam.recovery import Autosave, leftovers, recovery_folder
from napari_medsam.session import Session


def make_session(volume=None):
    return work_steps.make_session(volume or make_volume(), "bright")


def work(session):
    box(session, 1, 2)
    list(tasks.run(session, tasks.carry(session, 0, [1], 0, 5)))
    stroke(session, 3, 1)
    session.rename(1, "Leber ü")
    box(session, 2, 4, (0, 0, 6, 12))
    session.undo()
    session.redo()
    stroke(session, 0, 2)
    session.undo()


def assert_same(found, expected):
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert facts(found) == facts(expected)
    journals = found.journal, expected.journal
    assert len({(len(each.steps), each.position, each.oldest) for each in journals}) == 1


def left(folder, volume=None, name="scan"):
    return list(leftovers(folder, volume or make_volume(), name))


@pytest.fixture
def crashed(tmp_path):
    """A session, and the folder in which a crash has left its work."""
    session = make_session()
    autosave = Autosave(session, tmp_path, "scan")
    work(session)
    assert autosave.flush()
    autosave.close(keep=True)
    return session, tmp_path


def test_all_that_was_done_comes_back_with_its_past(crashed):
    session, folder = crashed
    (found,) = left(folder)
    again = make_session()
    found.take_over(again)
    assert_same(again, session)
    for go in (Session.redo, Session.undo, Session.undo, Session.undo):
        assert (go(session) is None) == (go(again) is None)
        assert_same(again, session)


def test_work_goes_on_in_the_same_log_and_survives_the_next_crash(crashed):
    session, folder = crashed
    (found,) = left(folder)
    again = make_session()
    found.take_over(again)
    autosave = Autosave(again, folder, "scan", leftover=found)
    for each in (session, again):
        stroke(each, 5, 3)
    autosave.flush()
    autosave.close(keep=True)
    (found,) = left(folder)
    third = make_session()
    found.take_over(third)
    assert_same(third, session)


def test_a_log_that_is_cut_anywhere_gives_back_all_before_the_cut(crashed):
    """As a full disk or a power cut leaves it; each change that comes back fits to those before."""
    _, folder = crashed
    (place,) = folder.iterdir()
    whole, seen = (place / "work.log").read_bytes(), []
    for cut in range(0, len(whole), 97):
        (place / "work.log").write_bytes(whole[:cut])
        for found in left(folder):
            again = make_session()
            found.take_over(again)
            changes = sum(len(step.changes) for step in again.journal.steps)
            seen.append(changes)
            found.release()
        # Work in which nothing was done yet is deleted.
        place.mkdir(exist_ok=True)
    assert seen == sorted(seen)
    assert len(set(seen)) > 20


def test_nothing_is_offered_that_somebody_works_on_just_now(tmp_path):
    session = make_session()
    autosave = Autosave(session, tmp_path, "scan")
    box(session, 1, 2)
    autosave.flush()
    assert left(tmp_path) == []
    autosave.close(keep=True)
    (found,) = left(tmp_path)
    assert left(tmp_path) == []
    found.release()
    assert len(left(tmp_path)) == 1


def test_work_on_other_voxels_or_another_grid_is_left_alone(crashed):
    _, folder = crashed
    assert left(folder, make_volume(2.0)) == []
    moved = make_volume()
    assert left(folder, Volume(moved.array, Geometry(SHAPE, (4.0, 1.0, 1.0)), "MR", "", ())) == []
    assert len(left(folder, name="the same under another name")) == 1


def test_work_whose_voxels_were_not_known_yet_belongs_to_the_image_of_that_name(tmp_path, monkeypatch):
    session = make_session()
    autosave = Autosave(session, tmp_path, "scan")
    box(session, 1, 2)
    autosave.flush()
    autosave.close(keep=True)
    (log,) = tmp_path.glob("*/work.log")
    lines = [line for line in log.read_bytes().splitlines(keepends=True) if b'"digest"' not in line]
    log.write_bytes(b"".join(lines))
    assert left(tmp_path, name="another") == []
    assert len(left(tmp_path)) == 1


def test_nothing_is_on_disk_before_anything_was_done_and_nothing_after_it_was_saved(tmp_path):
    folder = tmp_path / "below"
    session = make_session()
    autosave = Autosave(session, folder, "scan")
    assert autosave.flush()
    assert not folder.exists()
    box(session, 1, 2)
    autosave.saved()
    autosave.flush()
    autosave.close(keep=True)
    assert left(folder) == []
    assert list(folder.iterdir()) == []


def test_what_is_done_after_saving_is_offered(tmp_path):
    session = make_session()
    autosave = Autosave(session, tmp_path, "scan")
    box(session, 1, 2)
    autosave.saved()
    stroke(session, 3, 1)
    autosave.flush()
    autosave.close(keep=True)
    (found,) = left(tmp_path)
    np.testing.assert_array_equal(found.content.labels, session.labels)


def test_a_closed_session_leaves_nothing(tmp_path):
    session = make_session()
    autosave = Autosave(session, tmp_path, "scan")
    box(session, 1, 2)
    autosave.close(keep=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="folders have no such modes here")
def test_nobody_else_can_read_the_work(crashed):
    _, folder = crashed
    (place,) = folder.iterdir()
    assert place.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("is_partial", [False, True])
def test_a_disk_that_refuses_is_told_of_once_and_loses_nothing(tmp_path, monkeypatch, fault, is_partial):
    session, told = make_session(), []
    autosave = Autosave(session, tmp_path, "scan", told.append)
    box(session, 1, 2)
    autosave.flush()
    monkeypatch.setattr(recovery, "RETRY_S", 0.05)
    sound = os.fsync

    def broken(descriptor):
        if is_partial:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 7)
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", broken)
    stroke(session, 3, 1)
    stroke(session, 4, 1)
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert told == [os.strerror(fault)]
    monkeypatch.setattr(os, "fsync", sound)
    assert autosave.flush(20)
    autosave.close(keep=True)
    (found,) = left(tmp_path)
    again = make_session()
    found.take_over(again)
    assert_same(again, session)


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path):
    (tmp_path / "file").write_text("")
    told, session = [], make_session()
    autosave = Autosave(session, tmp_path / "file" / "below", "scan", told.append)
    box(session, 1, 2)
    autosave.close(keep=True)
    assert len(told) == 1


@pytest.mark.parametrize("text", [b"", b"00000000 {}\n", b"\x00" * 100, b"not a log\n" * 5])
def test_what_is_no_log_is_passed_over(tmp_path, text):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "work.log").write_bytes(text)
    assert left(tmp_path) == []
    assert (tmp_path / "odd" / "work.log").read_bytes() == text


def test_the_environment_says_where_work_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_MEDSAM_RECOVERY", str(tmp_path))
    assert recovery_folder() == tmp_path
    monkeypatch.delenv("NAPARI_MEDSAM_RECOVERY")
    assert recovery_folder().parts[-2:] == ("napari-medsam", "recovery")


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal here")
@pytest.mark.parametrize("seed", range(3))
def test_work_survives_a_kill_at_any_moment(tmp_path, seed):
    """More moments: benchmarks/crash.py."""
    script = Path(__file__).parents[1] / "benchmarks" / "crash.py"
    run = subprocess.run(
        [sys.executable, str(script), "--kills", "1", "--seed", str(seed), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 lost a step older than 2 s" in run.stdout
