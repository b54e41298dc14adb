"""Every file that is written, on a disk that refuses: if these fail, a full disk costs an older file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_series

from napari_medsam.cli.review_report import write_report
from napari_medsam.export import Segmentation, series_files, write_segmentation
from napari_medsam.formats import common
from napari_medsam.geometry import Geometry, Volume, VolumeError
from napari_medsam.prompts import ObjectPrompts, SliceIndex
from napari_medsam.propagation import Review, SliceReport
from napari_medsam.session import Session
from napari_medsam.session_file import Snapshot, session_to_json, write_session
from napari_medsam.volume import write_labels
from napari_medsam.widgets.saving import save_session
from napari_medsam.windowing import Window

SHAPE = (6, 40, 48)
GEOMETRY = Geometry(SHAPE, (3.0, 0.8, 0.8))


def labels(seed):
    """Labels that do not compress to nothing."""
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


def segmentation(seed):
    return Segmentation.from_labels(labels(seed), GEOMETRY, names={1: f"liver {seed}", 2: "spleen"})


def snapshot(seed):
    volume = Volume(np.zeros(SHAPE, np.int16), GEOMETRY, "CT", "", ())
    session = Session(volume, None, window=Window(0.0, 1.0, "all"), labels=labels(seed).astype(np.uint16))
    session.set_object(1, ObjectPrompts(1, f"liver {seed}"))
    return Snapshot.of(session)


def as_dicom(folder, seed):
    if not (folder / "series").exists():
        write_series(folder / "series", GEOMETRY)
    write_segmentation(segmentation(seed), folder / "a.dcm", series=series_files(folder / "series", None))


def as_report(folder, seed):
    reports = [SliceReport(SliceIndex(0, n), 1, 0.5 + n / (9 + seed), "propagated") for n in range(6)]
    write_report(folder / "report.csv", {1: Review(reports)}, {1: f"liver {seed}"})


WRITERS = {
    **{
        f"labels{ending}": lambda folder, seed, ending=ending: write_labels(
            labels(seed), GEOMETRY, folder / f"a{ending}"
        )
        for ending in (".nii.gz", ".nii", ".nrrd", ".mha")
    },
    **{
        f"segmentation{ending}": lambda folder, seed, ending=ending: write_segmentation(
            segmentation(seed), folder / f"a{ending}"
        )
        for ending in (".nii.gz", ".seg.nrrd", ".txt")
    },
    "segmentation.dcm": as_dicom,
    "session": lambda folder, seed: write_session(session_to_json(snapshot(seed)), folder / "a.session.json"),
    "saved by the window": lambda folder, seed: save_session(snapshot(seed), folder / "a.nii.gz"),
    "report": as_report,
}
FAULTS = {"full": errno.ENOSPC, "broken": errno.EIO, "forbidden": errno.EACCES}


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(monkeypatch, moment, fault):
    """Let the disk refuse at one moment of every write."""

    def broken(*asked):
        path = next((each for each in asked if isinstance(each, str | Path)), None)
        if moment == "half written" and path is not None and Path(path).is_file():
            os.truncate(path, Path(path).stat().st_size // 2)
        raise OSError(fault, os.strerror(fault), None if path is None else str(path))

    if moment == "renamed":
        monkeypatch.setattr(Path, "replace", broken)
    else:
        monkeypatch.setattr(common, "_flush", broken)


@pytest.mark.parametrize("moment", ["flushed", "half written", "renamed"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_refused_write_leaves_what_was_there(name, fault, moment, tmp_path, monkeypatch):
    write = WRITERS[name]
    write(tmp_path, 1)
    before = content(tmp_path)
    with monkeypatch.context() as patched:
        refuse(patched, moment, FAULTS[fault])
        with pytest.raises((VolumeError, OSError)) as told:
            write(tmp_path, 2)
    assert content(tmp_path) == before
    assert os.strerror(FAULTS[fault]) in str(told.value)
    assert str(tmp_path) in str(told.value)
    assert ".napari-medsam-" not in str(told.value)
    write(tmp_path, 2)
    after = content(tmp_path)
    assert after != before
    assert not [path for path in after if path.name.startswith(".")]


@pytest.mark.parametrize("name", WRITERS)
def test_a_first_write_that_is_refused_leaves_nothing(name, tmp_path, monkeypatch):
    if name == "segmentation.dcm":
        write_series(tmp_path / "series", GEOMETRY)
    before = content(tmp_path)
    with monkeypatch.context() as patched:
        refuse(patched, "half written", errno.ENOSPC)
        with pytest.raises((VolumeError, OSError)):
            WRITERS[name](tmp_path, 1)
    assert content(tmp_path) == before


RUN_OUT = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_faulty_disk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    test_faulty_disk.WRITERS[sys.argv[2]](Path(sys.argv[3]), 2)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.name != "posix", reason="sizes of files are limited with POSIX's setrlimit")
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_runs_out_in_the_middle_of_a_file(name, tmp_path):
    """Really: the operating system writes a part, and then no more."""
    WRITERS[name](tmp_path, 1)
    before = content(tmp_path)
    largest = max(len(data) for path, data in before.items() if "series" not in path.parts)
    arguments = [str(Path(__file__).parent), name, str(tmp_path), str(largest // 2)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN_OUT, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith(("VolumeError", "OSError", "SegmentationError")), done.stdout + done.stderr
    assert content(tmp_path) == before
