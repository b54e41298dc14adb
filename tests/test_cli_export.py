"""`napari-medsam export`: one command from a label map to the program that needs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import write_series
from typer.testing import CliRunner, Result

from napari_medsam.cli import app
from napari_medsam.export import Segment, Segmentation, read_segmentation, write_segmentation
from napari_medsam.terminology import term_for
from napari_medsam.volume import Geometry, read_volume, write_labels

GRID = Geometry((5, 6, 7), (3.0, 0.7, 0.8), (-12.5, 33.25, 80.125))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def labels() -> np.ndarray:
    return np.resize(np.array([0, 1, 0, 4], np.uint8), GRID.shape)


@pytest.fixture
def label_map(tmp_path: Path) -> Path:
    return write_labels(labels(), GRID, tmp_path / "labels.nrrd")


def test_names_typed_go_into_every_format(label_map: Path, tmp_path: Path) -> None:
    out = [tmp_path / name for name in ("a.seg.nrrd", "b.nii.gz", "c.txt")]
    words = [word for path in out for word in ("-o", path)]
    found = json.loads(done(label_map, *words, "--label", "1=liver", "--label", "4=spleen", "--json").stdout)
    beside = [tmp_path / "b.tsv", tmp_path / "b.json"]
    assert found["written"] == [str(path) for path in (out[0], out[1], *beside, out[2])]
    for path in out[:2]:
        read = read_segmentation(path)
        np.testing.assert_array_equal(read.labels, labels())
        assert [(s.label, s.name, s.term) for s in read.segments] == [
            (1, "liver", term_for("liver")),
            (4, "spleen", term_for("spleen")),
        ]
    again = tmp_path / "d.nii"
    done(label_map, "-o", again, "--names", out[2])
    assert [s.name for s in read_segmentation(again).segments] == ["liver", "spleen"]


def test_dicom_goes_in_and_comes_out(tmp_path: Path) -> None:
    """From a folder of slices and a label map to an object for the archive, and back to a label map."""
    pytest.importorskip("highdicom")
    write_series(tmp_path / "ct", GRID)
    label_map = write_labels(labels(), read_volume(tmp_path / "ct").geometry, tmp_path / "labels.nii.gz")
    done(label_map, "--image", tmp_path / "ct", "-o", tmp_path / "seg.dcm", "--label", "1=liver")
    done(tmp_path / "seg.dcm", "--image", tmp_path / "ct", "-o", tmp_path / "back.nii.gz")
    back = read_segmentation(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(back.labels, np.select([labels() == 1, labels() == 4], [1, 2]))
    assert [s.name for s in back.segments] == ["liver", "label 4"]
    refused = run(label_map, "-o", tmp_path / "new.dcm")
    assert refused.exit_code == 2
    assert "give its folder with --image" in refused.stderr


def test_several_label_maps_become_a_training_set(tmp_path: Path) -> None:
    pairs = []
    for name in ("one", "two"):
        image = write_labels(labels(), GRID, tmp_path / f"{name}.nii.gz")
        pairs.append((write_labels(labels(), GRID, tmp_path / f"{name}_seg.nii.gz"), image))
    words = [word for _, image in pairs for word in ("--image", image)]
    folder = tmp_path / "Dataset007_Organs"
    done(*(path for path, _ in pairs), *words, "-o", folder, "--label", "1=liver", "--label", "4=spleen")
    found = json.loads((folder / "dataset.json").read_text())
    assert (found["numTraining"], found["labels"]) == (2, {"background": 0, "liver": 1, "spleen": 2})
    assert {path.name for path in (folder / "labelsTr").iterdir()} == {"one_seg.nii.gz", "two_seg.nii.gz"}
    assert (
        "make a training set only"
        in run(*(path for path, _ in pairs), *words, "-o", tmp_path / "a.nii").stderr
    )
    assert "2 label files and 1 images" in run(*(path for path, _ in pairs), *words[:2], "-o", folder).stderr


def test_cases_in_folders_of_their_own_are_called_after_these(tmp_path: Path) -> None:
    paths = []
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
        paths.append(write_labels(labels(), GRID, tmp_path / name / "labels.nii.gz"))
    words = [word for path in paths for word in ("--image", path)]
    done(*paths, *words, "-o", tmp_path / "Dataset001_X")
    found = {path.name for path in (tmp_path / "Dataset001_X" / "labelsTr").iterdir()}
    assert found == {"anna.nii.gz", "ben.nii.gz"}


def test_labels_on_another_grid_are_resampled_only_on_request(label_map: Path, tmp_path: Path) -> None:
    finer = Geometry((5, 12, 14), (3.0, 0.35, 0.4), (-12.7, 33.075, 80.125))
    image = write_labels(np.zeros(finer.shape, np.uint8), finer, tmp_path / "image.nii.gz")
    out = tmp_path / "out.nii.gz"
    refused = run(label_map, "--image", image, "-o", out)
    assert refused.exit_code == 2
    assert "mm apart" in refused.stderr
    assert not out.exists()
    result = done(label_map, "--image", image, "-o", out, "--resample", "nearest")
    assert "was resampled (nearest)" in result.stderr
    np.testing.assert_array_equal(
        read_segmentation(out).labels, np.kron(labels(), np.ones((1, 2, 2), np.uint8))
    )


def test_how_labels_were_made_goes_with_them(tmp_path: Path) -> None:
    """Whoever gets the file for another program can still say where it came from."""
    scan, made = tmp_path / "scan.nii.gz", tmp_path / "made.nii.gz"
    write_labels(
        np.pad(np.full((3, 20, 20), 200, np.uint8), ((0, 0), (8, 8), (8, 8))), Geometry((3, 36, 36)), scan
    )
    answer = CliRunner().invoke(app, ["segment", str(scan), "--box", "1,7,7,29,29", "-o", str(made)])
    assert answer.exit_code == 0, answer.output
    done(made, "-o", tmp_path / "other.seg.nrrd")
    session = (tmp_path / "other.session.json").read_bytes()
    assert json.loads(session) == json.loads((tmp_path / "made.session.json").read_bytes())
    done(made, "--image", scan, "--resample", "nearest", "-o", tmp_path / "moved.seg.nrrd")
    assert not (tmp_path / "moved.session.json").exists()
    (tmp_path / "made.session.json").write_text("{}")
    refused = run(made, "-o", tmp_path / "other.seg.nrrd")
    assert refused.exit_code
    assert f"'{tmp_path / 'made.session.json'}' cannot go with the labels" in refused.stderr
    assert (tmp_path / "other.session.json").read_bytes() == session


def test_overlaps_are_flattened_only_on_request(tmp_path: Path) -> None:
    layers = np.ones((2, *GRID.shape), np.uint8)
    layers[1, 2:] = 0
    segments = (Segment(1, "liver", (1, 2, 3)), Segment(1, "cyst", (4, 5, 6), None, 1))
    path, out = tmp_path / "a.seg.nrrd", tmp_path / "out.nii.gz"
    write_segmentation(Segmentation(layers, GRID, segments), path)
    refused = run(path, "-o", out)
    assert refused.exit_code == 2
    assert "the first or the last segment" in refused.stderr
    done(path, "-o", out, "--overlap", "last")
    np.testing.assert_array_equal(read_segmentation(out).labels, 1 + layers[1])


def test_a_name_for_a_label_that_is_not_there_is_refused(label_map: Path, tmp_path: Path) -> None:
    """A typo in a number must not leave the organ without its name."""
    result = run(label_map, "-o", tmp_path / "a.nii.gz", "--label", "3=liver")
    assert result.exit_code == 2
    assert "--label 3=liver names a label that" in result.stderr
    assert not (tmp_path / "a.nii.gz").exists()


def test_an_image_is_not_written_over(label_map: Path, tmp_path: Path) -> None:
    """One slip of the Tab key, and the scan would be gone; labels may get their names in place."""
    image = write_labels(labels(), GRID, tmp_path / "scan.nii.gz")
    before = image.read_bytes()
    result = run(label_map, "--image", image, "-o", tmp_path / "x.nii.gz", "-o", image)
    assert result.exit_code == 2
    assert f"-o {image} is {image} itself, which is read here" in result.stderr
    assert image.read_bytes() == before
    assert not (tmp_path / "x.nii.gz").exists()
    done(image, "-o", image, "--label", "1=liver")
    assert read_segmentation(image).segments[0].name == "liver"


def test_labels_of_another_patient_are_told(tmp_path: Path) -> None:
    """Contours lie somewhere on any scan; the file knows on which they were drawn."""
    pytest.importorskip("highdicom")
    for name in ("ct", "other"):
        write_series(tmp_path / name, GRID)
    label_map = write_labels(labels(), read_volume(tmp_path / "ct").geometry, tmp_path / "labels.nii.gz")
    done(label_map, "--image", tmp_path / "ct", "-o", tmp_path / "seg.dcm")
    back = [tmp_path / "seg.dcm", "-o", tmp_path / "back.nii.gz", "--image"]
    assert "made on another DICOM series than this one" in done(*back, tmp_path / "other").stderr
    assert "another DICOM series" not in done(*back, tmp_path / "ct").stderr
    for path in (tmp_path / "other").iterdir():
        header = pydicom.dcmread(path)
        header.SeriesInstanceUID = ""
        header.save_as(path)
    assert "another DICOM series" not in done(*back, tmp_path / "other").stderr
