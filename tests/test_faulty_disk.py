"""Every file that is written, on a disk that refuses: if these fail, a full disk costs an older file."""

from __future__ import annotations

import builtins
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from bright_model import BrightModel
from dicom_series import write_series
from typer.testing import CliRunner

from napari_medsam.cli import app
from napari_medsam.cli.review_report import write_report
from napari_medsam.demo import run_demo
from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.export import NnunetCase, Segmentation, series_files, write_nnunet, write_segmentation
from napari_medsam.formats import common
from napari_medsam.geometry import Geometry, Volume, VolumeError
from napari_medsam.predictor import SlicePredictor
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


def as_measurements(folder, seed):
    """What is measured lies on another disk."""
    for each in (1, 2):
        image = folder.with_name(f"{folder.name}-measured{each}.nii")
        if not image.exists():
            sitk.WriteImage(sitk.GetImageFromArray(labels(each)), str(image))
    image = folder.with_name(f"{folder.name}-measured{seed}.nii")
    done = CliRunner().invoke(app, ["measure", str(image), "--csv", str(folder / "measured.csv")])
    if done.exit_code:
        assert isinstance(done.exception, SystemExit), "no traceback for a user"
        [sentence] = done.stderr.strip().splitlines()
        raise OSError(sentence)


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
    "measurements": as_measurements,
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

    def opened(file, mode="r", *more, **keywords):
        if ".napari-medsam-" in str(file) and mode[0] in "wxa":
            broken(file)
        return io_open(file, mode, *more, **keywords)

    io_open = io.open
    if moment == "renamed":
        monkeypatch.setattr(Path, "replace", broken)
    elif moment == "opened":
        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(builtins, "open", opened)
    else:
        monkeypatch.setattr(common, "_flush", broken)


BY_ITK = ("labels.nrrd", "labels.mha")
"""These are opened past Python."""
MOMENTS = [
    (name, moment)
    for name in WRITERS
    for moment in ("opened", "flushed", "half written", "renamed")
    if moment != "opened" or name not in BY_ITK
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("name", "moment"), MOMENTS)
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


@pytest.mark.parametrize("name", WRITERS)
def test_a_network_drive_that_vanishes_and_comes_back(name, tmp_path, monkeypatch):
    drive, away = tmp_path / "drive", tmp_path / "away"
    drive.mkdir()
    write = WRITERS[name]
    write(drive, 1)
    before = content(drive)
    flush = common._flush

    def gone(path):
        if drive.exists():
            drive.rename(away)
        flush(path)

    with monkeypatch.context() as patched:
        patched.setattr(common, "_flush", gone)
        with pytest.raises((VolumeError, OSError), match="No such file or directory") as told:
            write(drive, 2)
    assert str(drive) in str(told.value)
    away.rename(drive)
    kept = content(drive)
    assert {path: data for path, data in kept.items() if path in before} == before
    write(drive, 2)
    assert {path: data for path, data in content(drive).items() if path in before} != before


def test_each_write_of_the_demo_in_turn_leaves_whole_files(tmp_path, monkeypatch):
    """Of an earlier demo or of this one, file by file."""
    predictor, shape = SlicePredictor(BrightModel()), (32, 64, 64)
    flush = common._flush
    flushed = []
    with monkeypatch.context() as patched:
        patched.setattr(common, "_flush", lambda path: flushed.append(path) or flush(path))
        for seed in (1, 2):
            run_demo(tmp_path / str(seed), predictor, seed=seed, shape=shape)
    older, newer = content(tmp_path / "1"), content(tmp_path / "2")
    writes = len([path for path in flushed if path.name.startswith(".napari-medsam-")]) // 2
    assert writes == len(older) == len(newer) == 10
    for fails in range(writes):
        left = iter(range(fails))

        def broken(path, left=left):
            if path.is_file() and next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            flush(path)

        with monkeypatch.context() as patched:
            patched.setattr(common, "_flush", broken)
            with pytest.raises(VolumeError, match=r"cannot be written: No space left on device") as told:
                run_demo(tmp_path / "1", predictor, seed=2, shape=shape)
        assert str(tmp_path / "1") in str(told.value)
        found = content(tmp_path / "1")
        assert found.keys() == older.keys()
        for path, data in found.items():
            if path.name != "segmentation.session.json":  # it says when it was made
                assert data in (older[path], newer[path]), (fails, path)
    run_demo(tmp_path / "1", predictor, seed=2, shape=shape)
    after = content(tmp_path / "1")
    assert all(after[path] == newer[path] for path in after if path.name != "segmentation.session.json")


@pytest.mark.parametrize("moment", ["flushed", "half written", "renamed"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_set_is_there_whole_or_not_at_all(fault, moment, tmp_path, monkeypatch):
    case = NnunetCase("a", Volume(np.zeros(SHAPE, np.int16), GEOMETRY), segmentation(1))
    folder = tmp_path / "Dataset001_Liver"
    with monkeypatch.context() as patched:
        refuse(patched, moment, FAULTS[fault])
        with pytest.raises(VolumeError, match=os.strerror(FAULTS[fault])) as told:
            write_nnunet([case], folder)
    assert str(told.value).startswith(f"'{folder}' cannot be written: ")
    assert list(tmp_path.iterdir()) == []
    assert write_nnunet([case], folder) == {"background": 0, "liver 1": 1, "spleen": 2}
    assert len(content(tmp_path)) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_embeddings_that_cannot_be_kept_are_no_error(fault, tmp_path, monkeypatch):
    """A slower cache, with what it held before."""
    cache = EmbeddingCache(tmp_path)
    first, second = np.ones((4, 8), np.float16), np.full((4, 8), 2, np.float16)
    cache.put("a1", first)
    before = content(tmp_path)

    def broken(*asked):
        raise OSError(FAULTS[fault], os.strerror(FAULTS[fault]))

    for module, step in ((os, "replace"), (os, "open")):
        with monkeypatch.context() as patched:
            patched.setattr(module, step, broken)
            np.testing.assert_array_equal(cache.put("b2", second), second)
        assert content(tmp_path) == before
    np.testing.assert_array_equal(EmbeddingCache(tmp_path).get("a1"), first)
    assert EmbeddingCache(tmp_path).get("b2") is None
    cache.put("b2", second)
    np.testing.assert_array_equal(EmbeddingCache(tmp_path).get("b2"), second)


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
