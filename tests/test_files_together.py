"""Files that belong together: if these fail, a disk that gives up leaves some old and some new."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

import numpy as np
import pytest
from refusing_disk import refusing
from test_faulty_disk import FAULTS, GEOMETRY, SHAPE, WRITERS, content, labels, segmentation, snapshot

from napari_medsam.export import NnunetCase, write_nnunet, write_segmentation
from napari_medsam.formats.common import replacing
from napari_medsam.geometry import Volume, VolumeError
from napari_medsam.session_file import session_path, session_to_json, session_written
from napari_medsam.volume import write_labels
from napari_medsam.widgets.saving import save_session


def as_training_set(folder, seed):
    image = Volume(np.full(SHAPE, seed, np.int16), GEOMETRY, "CT", "", ())
    write_nnunet([NnunetCase("a", image, segmentation(seed))], folder / f"Dataset{seed:03}_X")


def as_segment_does(folder, seed):
    with session_written(session_to_json(snapshot(seed)), session_path(folder / "a.nii.gz")):
        write_segmentation(segmentation(seed), folder / "a.nii.gz")


def write_both(*paths):
    with ExitStack() as files:
        for path in paths:
            files.enter_context(replacing(path, "")).write_text("new")


EVERY = {
    **WRITERS,
    "labels.mhd": lambda folder, seed: write_labels(labels(seed), GEOMETRY, folder / "a.mhd"),
    "segmentation.nii": lambda folder, seed: write_segmentation(segmentation(seed), folder / "a.nii"),
    "ITK-SNAP saved by the window": lambda folder, seed: save_session(snapshot(seed), folder / "a.txt"),
    "saved by segment": as_segment_does,
    "training set": as_training_set,
}


@pytest.mark.parametrize("name", EVERY)
def test_whichever_call_is_refused_all_files_are_old_or_all_are_new(name, tmp_path):
    """New names beside old labels would be wrong names, and nobody would see it."""
    for refused in range(1, 100):
        folder = tmp_path / str(refused)
        folder.mkdir()
        EVERY[name](folder, 1)
        before = content(folder)
        error = list(FAULTS.values())[refused % len(FAULTS)]
        told = None
        with refusing(folder, refused, error) as disk:
            try:
                EVERY[name](folder, 2)
            except (VolumeError, OSError) as raised:
                told = str(raised)
        if disk.path is None:
            break
        where = f"call {refused}, {disk.path.relative_to(folder)}"
        if told is None:
            # All are in place, and only the folder could not be flushed.
            assert disk.path.is_dir(), where
            assert content(folder).keys() >= before.keys(), where
            assert not [path for path in content(folder) if path.name.startswith(".")], where
        else:
            assert content(folder) == before, where
            assert os.strerror(error) in told, where
            assert str(folder) in told, where
            assert ".napari-medsam-" not in told, where
            EVERY[name](folder, 2)
        assert content(folder) != before, where
    assert 4 <= refused < 99


def test_where_there_are_no_links_old_files_come_back_too(tmp_path, monkeypatch):
    """FAT, and some network drives."""

    def no_links(*asked, **more):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    test_whichever_call_is_refused_all_files_are_old_or_all_are_new("segmentation.nii.gz", tmp_path)


def test_a_training_set_whose_session_is_refused_does_not_stand_in_the_way(tmp_path):
    """It takes a new folder only: one that stayed would have to be removed by hand."""
    (tmp_path / "a.session.json").mkdir()
    for _ in range(2):
        with (
            pytest.raises(VolumeError, match=r"a\.session\.json' cannot be written"),
            session_written(session_to_json(snapshot(1)), tmp_path / "a.session.json"),
        ):
            as_training_set(tmp_path, 1)
        assert [path.name for path in tmp_path.iterdir()] == ["a.session.json"]


def test_what_cannot_come_back_is_kept_under_its_second_name(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    renamed = type(first).replace
    calls = iter(range(9))

    def replace(path, target):
        if next(calls):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return renamed(path, target)

    monkeypatch.setattr(type(first), "replace", replace)
    with pytest.raises(VolumeError, match=r"second' cannot be written: Input/output error"):
        write_both(second, first)
    assert sorted(data.decode() for data in content(tmp_path).values()) == ["new", "old"]
