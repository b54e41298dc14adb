"""The command line: what a researcher types, what is written, and what is said when it cannot be done."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from bright_model import RADIUS_PX, BrightModel
from dicom_series import write_series
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from napari_medsam import __version__
from napari_medsam.cli import app
from napari_medsam.export import Segmentation, read_segmentation, write_segmentation
from napari_medsam.prompts import ObjectPrompts, SliceIndex, SlicePrompts, prompts_to_json
from napari_medsam.terminology import term_for
from napari_medsam.volume import Geometry, read_labels

SHAPE = (12, 30, 40)
TILT = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.05, -0.2).GetMatrix()
CUBE = np.s_[4:8, 10:18, 5:15]
BAR = np.s_[2:11, 20:26, 25:37]
CUBE_BOX, BAR_BOX = "5,10,5,17,14", "5,20,25,25,36"
SEE = ("--window", "0:100")


@pytest.fixture(autouse=True)
def bright_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks that can be worked out by hand stand in for those of the real model."""
    monkeypatch.setattr("napari_medsam.models.zoo.load_model", lambda name="default": BrightModel())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An oblique, anisotropic image with a bright cube and a bright bar that do not touch."""
    array = np.zeros(SHAPE, np.int16)
    array[CUBE] = array[BAR] = 100
    return write_image(array, tmp_path / "image.nii.gz")


def write_image(array: NDArray, path: Path, spacing: tuple[float, float, float] = (0.7, 0.8, 3.0)) -> Path:
    found = sitk.GetImageFromArray(array)
    found.SetSpacing(spacing)
    found.SetOrigin((-12.5, 30.0, 7.25))
    found.SetDirection(TILT)
    sitk.WriteImage(found, str(path))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def expected(**parts: tuple[slice, ...]) -> NDArray:
    """Label map with label n in the n-th part."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, part in enumerate(parts.values(), start=1):
        labels[part] = label
    return labels


# --- segment -----------------------------------------------------------------------------------------------


def test_one_box_gives_the_whole_object_on_the_grid_of_the_image(image: Path, tmp_path: Path) -> None:
    """The first promise of the project: one command, and the label map lies exactly on the image."""
    out = tmp_path / "out.nii.gz"
    done("segment", image, "--box", CUBE_BOX, "-o", out, *SEE)
    np.testing.assert_array_equal(read_labels(out).array, expected(cube=CUBE))
    np.testing.assert_allclose(nibabel.load(out).affine, nibabel.load(image).affine, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".mhd"])
def test_the_suffix_chooses_the_format(image: Path, tmp_path: Path, suffix: str) -> None:
    """Slicer and ITK-SNAP users get the format they name, and every suffix that is let in can be written."""
    out = tmp_path / f"out{suffix}"
    done("segment", image, "--box", CUBE_BOX, "-o", out, *SEE)
    np.testing.assert_array_equal(read_labels(out).array, expected(cube=CUBE))


@pytest.mark.parametrize("name", ["out.nii.gz", "out.seg.nrrd"])
def test_names_go_into_the_label_map(image: Path, tmp_path: Path, name: str) -> None:
    """Whoever opens the file elsewhere reads "liver", not "label 1", without another command."""
    words = ("--box", CUBE_BOX, "--box", BAR_BOX, "--label", "1=liver")
    done("segment", image, *words, "-o", tmp_path / name, *SEE)
    found = read_segmentation(tmp_path / name)
    np.testing.assert_array_equal(found.labels, expected(cube=CUBE, bar=BAR))
    assert [(each.label, each.name) for each in found.segments] == [(1, "liver"), (2, "label 2")]
    assert found.segments[0].term == term_for("liver")


def test_a_dicom_series_gets_a_dicom_segmentation(tmp_path: Path) -> None:
    """From the archive's series to what the archive takes, with one command."""
    pytest.importorskip("highdicom")
    geometry = Geometry((6, 20, 30), (3.0, 0.7, 0.8))
    write_series(tmp_path / "ct", geometry)
    words = ("--box", "2,3,4,12,18", "--label", "1=liver", "--no-propagate", "--window", "0:1")
    done("segment", tmp_path / "ct", *words, "-o", tmp_path / "seg.dcm")
    (segment,) = read_segmentation(tmp_path / "seg.dcm").segments
    assert (segment.name, segment.term) == ("liver", term_for("liver"))


def test_the_kth_box_is_for_label_k(image: Path, tmp_path: Path) -> None:
    """Two organs from one command land on the labels that the order of the boxes says."""
    out = tmp_path / "out.nii.gz"
    done("segment", image, "--box", CUBE_BOX, "--box", BAR_BOX, "-o", out, *SEE)
    np.testing.assert_array_equal(read_labels(out).array, expected(cube=CUBE, bar=BAR))


def test_boxes_say_their_label_by_number_or_name(image: Path, tmp_path: Path) -> None:
    """Labels of an existing scheme are kept, and a new name gets the next free number."""
    out = tmp_path / "out.nii.gz"
    words = ("--box", f"7@{CUBE_BOX}", "--box", f"bar@{BAR_BOX}", "--label", "7=cube")
    result = done("segment", image, *words, "-o", out, *SEE, "--json")
    labels = read_labels(out).array
    assert (labels[CUBE] == 7).all()
    assert (labels[BAR] == 1).all()
    found = {each["label"]: each["name"] for each in json.loads(result.stdout)["labels"]}
    assert found == {1: "bar", 7: "cube"}


def test_several_boxes_for_one_object(image: Path, tmp_path: Path) -> None:
    """A second box on another slice steers the object there instead of making a second one."""
    out = tmp_path / "out.nii.gz"
    half = "bar@9,20,25,25,30"
    done("segment", image, "--box", f"bar@{BAR_BOX}", "--box", half, "-o", out, *SEE)
    labels = read_labels(out).array
    assert set(np.unique(labels)) == {0, 1}
    assert labels[5, 20:26, 25:37].all()
    assert labels[9, 20:26, 25:31].all()
    assert not labels[9, :, 31:].any()


def test_points_add_and_take_away(image: Path, tmp_path: Path) -> None:
    """A negative point cuts out of the box what the user clicked away."""
    out = tmp_path / "out.nii.gz"
    words = ("--box", BAR_BOX, "--point", "5,22,36,-", "--no-propagate")
    done("segment", image, *words, "-o", out, *SEE)
    bar = expected(bar=BAR)
    bar[:5] = bar[6:] = 0
    bar[5, :, 36 - RADIUS_PX :] = 0
    np.testing.assert_array_equal(read_labels(out).array, bar)


def test_a_point_alone_is_a_prompt(image: Path, tmp_path: Path) -> None:
    """No box is needed: one click names an object."""
    out = tmp_path / "out.nii.gz"
    done("segment", image, "--point", "5,22,30", "--no-propagate", "-o", out, *SEE)
    found = np.argwhere(read_labels(out).array)
    assert found.min(axis=0).tolist() == [5, 20, 30 - RADIUS_PX]
    assert found.max(axis=0).tolist() == [5, 25, 30 + RADIUS_PX]


@pytest.mark.parametrize(
    ("axis", "box"),
    [("1", "12,4,5,7,14"), ("2", "10,4,10,7,17"), ("coronal", "12,4,5,7,14"), ("sagittal", "10,4,10,7,17")],
)
def test_boxes_on_the_other_planes(image: Path, tmp_path: Path, axis: str, box: str) -> None:
    """A box drawn on a coronal or sagittal slice finds the same object, its numbers in array order."""
    out = tmp_path / "out.nii.gz"
    done("segment", image, "--axis", axis, "--box", box, "-o", out, *SEE)
    np.testing.assert_array_equal(read_labels(out).array, expected(cube=CUBE))


def test_range_limits_the_slices(image: Path, tmp_path: Path) -> None:
    """Both ends are inclusive, and nothing is written beyond them."""
    out = tmp_path / "out.nii.gz"
    done("segment", image, "--box", BAR_BOX, "--range", "4:6", "-o", out, *SEE)
    assert np.flatnonzero(read_labels(out).array.any(axis=(1, 2))).tolist() == [4, 5, 6]


def test_without_propagation_only_the_slices_with_prompts_change(image: Path, tmp_path: Path) -> None:
    """Somebody with a box for every slice gets exactly those slices."""
    out = tmp_path / "out.nii.gz"
    done("segment", image, "--box", CUBE_BOX, "--no-propagate", "-o", out, *SEE)
    labels = read_labels(out).array
    assert np.flatnonzero(labels.any(axis=(1, 2))).tolist() == [5]
    np.testing.assert_array_equal(labels[5], expected(cube=CUBE)[5])


def test_where_objects_meet_voxels_go_to_the_lower_label(image: Path, tmp_path: Path) -> None:
    """What the help says about overlaps holds, so that an order of boxes can be chosen."""
    out = tmp_path / "out.nii.gz"
    done("segment", image, "--box", "5,10,5,17,9", "--box", CUBE_BOX, "--no-propagate", "-o", out, *SEE)
    labels = read_labels(out).array[5, 10:18, 5:15]
    assert (labels[:, :5] == 1).all()
    assert (labels[:, 5:] == 2).all()


def test_prompts_from_a_file_give_what_the_command_line_gives(image: Path, tmp_path: Path) -> None:
    """A prompts file, saved from the GUI or written by hand, replays to the same label map."""
    typed, replayed, file = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "prompts.json"
    cube = ObjectPrompts(1, "cube", {SliceIndex(0, 5): SlicePrompts((10, 5, 17, 14))})
    bar = ObjectPrompts(2, "bar", {SliceIndex(2, 30): SlicePrompts((2, 20, 10, 25))})
    file.write_text(prompts_to_json([cube, bar], None))
    names = ("--label", "1=cube", "--label", "2=bar")
    done("segment", image, "--box", CUBE_BOX, "--box", BAR_BOX, *names, "-o", typed, *SEE)
    done("segment", image, "--prompts", file, "-o", replayed, *SEE)
    assert typed.read_bytes() == replayed.read_bytes()


def test_a_2d_picture_needs_no_slice_number(tmp_path: Path) -> None:
    """X-ray, ultrasound and endoscopy pictures take boxes of four numbers and points of two."""
    array = np.zeros((20, 30, 3), np.uint8)
    array[5:10, 6:16] = 255
    picture, out = tmp_path / "picture.png", tmp_path / "out.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(picture))
    done("segment", picture, "--box", "3,4,12,18", "--point", "7,10", "-o", out)
    labels = read_labels(out).array
    np.testing.assert_array_equal(labels[0], array[..., 0] > 0)


def test_json_is_all_there_is_on_stdout(image: Path, tmp_path: Path) -> None:
    """A script can parse the output as it is, and finds sizes, slices and where to look first."""
    out = tmp_path / "out.nii.gz"
    result = json.loads(
        done("segment", image, "--box", CUBE_BOX, "--label", "1=cube", "-o", out, *SEE, "--json").stdout
    )
    assert result["output"] == str(out)
    assert result["window"] == {"lower": 0.0, "upper": 100.0, "name": "0:100"}
    [cube] = result["labels"]
    assert (cube["label"], cube["name"], cube["voxels"], cube["slices"]) == (1, "cube", 4 * 8 * 10, [4, 7])
    assert cube["volume_ml"] == pytest.approx(4 * 8 * 10 * 0.7 * 0.8 * 3.0 / 1000)
    # The prompted slice, of which the model itself estimates an IoU of 0.75, or one that was carried.
    assert 0 < cube["weakest_score"] <= 2 * 0.75 / 1.75
    assert cube["look"].endswith("of 4 slices wants a look")
    assert [end.split(":")[0] for end in cube["ends"]] == ["slice 3", "slice 8"]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_the_report_has_a_line_for_every_slice_and_a_picture(
    image: Path, tmp_path: Path, suffix: str
) -> None:
    """Somebody with a hundred cases sees in a table which slices want a look and where objects end."""
    report = tmp_path / f"review{suffix}"
    words = ("--box", CUBE_BOX, "--box", BAR_BOX, "--label", "1=cube", "--report", report)
    done("segment", image, *words, "-o", tmp_path / "out.nii.gz", *SEE)
    text = report.read_text()
    rows = json.loads(text) if suffix == ".json" else list(csv.DictReader(text.splitlines()))
    found = {(int(row["label"]), int(row["slice"])): row for row in rows}
    assert sorted(found) == [(1, z) for z in range(3, 9)] + [(2, z) for z in range(1, 12)]
    assert str(found[1, 5]["key"]) == "True"
    assert str(found[1, 8]["ended"]) == "True"
    assert "px of the object were found" in found[1, 8]["reason"]
    assert found[1, 5]["name"] == "cube"
    with PIL.Image.open(report.with_suffix(".png")) as picture:
        assert picture.width > 11 * 8
    assert sorted(path.name for path in tmp_path.iterdir() if "unfinished" in path.name) == []


def test_the_table_names_the_objects(image: Path, tmp_path: Path) -> None:
    """A person reads names and millilitres, not numbers of labels only."""
    result = done(
        "segment", image, "--box", CUBE_BOX, "--label", "1=cube", "-o", tmp_path / "out.nii.gz", *SEE
    )
    assert "cube" in result.stdout
    assert "4 to 7" in result.stdout
    assert "0.54" in result.stdout


BAD_SEGMENTS = {
    "no prompts": ([], "at least one --box"),
    "box of three": (["--box", "1,2,3"], "--box 1,2,3 was not understood"),
    "box of words": (["--box", "a,b,c,d,e"], "was not understood"),
    "box without a slice": (["--box", "10,5,17,14"], "was not understood"),
    "half a slice": (["--box", "5.5,10,5,17,14"], "whole number"),
    "box with nan": (["--box", "5,nan,5,17,14"], "was not understood"),
    "box off the image": (["--box", "5,100,5,170,14"], "30 x 40 pixels"),
    "slice off the image": (["--box", "12,10,5,17,14"], "0 to 11"),
    "slice before the image": (["--box", "-1,10,5,17,14"], "index"),
    "empty label": (["--box", "@5,10,5,17,14"], "was not understood"),
    "label 0": (["--box", "0@5,10,5,17,14"], "1 to 65535"),
    "label too large": (["--box", "65536@5,10,5,17,14"], "1 to 65535"),
    "some boxes say a label": (["--box", CUBE_BOX, "--box", f"2@{BAR_BOX}"], "write LABEL@ in all"),
    "two boxes on one slice": (["--box", f"1@{CUBE_BOX}", "--box", f"1@{BAR_BOX}"], "second box for label 1"),
    "point for whom": (["--box", CUBE_BOX, "--box", BAR_BOX, "--point", "5,12,7"], "labels [1, 2]"),
    "only a negative point": (["--point", "5,12,7,-"], "foreground point"),
    "point of two": (["--point", "12,7"], "--point 12,7 was not understood"),
    "label without name": (["--box", CUBE_BOX, "--label", "1="], "NUMBER=NAME"),
    "label without number": (["--box", CUBE_BOX, "--label", "liver"], "NUMBER=NAME"),
    "label twice": (["--box", CUBE_BOX, "--label", "1=a", "--label", "1=b"], "twice"),
    "label without prompt": (["--box", CUBE_BOX, "--label", "2=spleen"], "2=spleen has no --box"),
    "axis": (["--box", CUBE_BOX, "--axis", "oblique"], "--axis oblique"),
    "range": (["--box", CUBE_BOX, "--range", "3-7"], "FIRST:LAST"),
    "range backwards": (["--box", CUBE_BOX, "--range", "7:3"], "0 to 11"),
    "range off the image": (["--box", CUBE_BOX, "--range", "3:12"], "0 to 11"),
    "range without prompt": (["--box", CUBE_BOX, "--range", "7:9"], "no prompts on slices 7 to 9"),
    "range without prompt or propagation": (
        ["--box", CUBE_BOX, "--range", "7:9", "--no-propagate"],
        "7 to 9",
    ),
    "window": (["--box", CUBE_BOX, "--window", "sunset"], "sunset"),
    "device": (["--box", CUBE_BOX, "--device", "abacus"], "abacus"),
    "precision": (["--box", CUBE_BOX, "--precision", "int8"], "no precision 'int8'"),
    "series of a file": (["--box", CUBE_BOX, "--series", "1.2.3"], "1.2.3"),
    "time point": (["--box", CUBE_BOX, "--time-point", "4"], "time point is 4"),
    "prompts and box": (["--box", CUBE_BOX, "--prompts", "p.json"], "either of them"),
    "prompts file missing": (["--prompts", "nowhere.json"], "nowhere.json"),
    "report of which kind": (["--box", CUBE_BOX, "--report", "review.txt"], "must end in .csv or .json"),
    "report without folder": (["--box", CUBE_BOX, "--report", "no/review.csv"], "no folder"),
    "three planes, but none": (["--box", CUBE_BOX, "--three-planes", "--no-propagate"], "either of them"),
}


@pytest.mark.parametrize(("words", "sentence"), BAD_SEGMENTS.values(), ids=BAD_SEGMENTS)
def test_bad_input_is_one_sentence_exit_code_2_and_no_file(
    image: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    """A typo costs a second, not an hour, and never leaves a label map that somebody might believe."""
    before = sorted(tmp_path.iterdir())
    result = run("segment", image, "-o", tmp_path / "out.nii.gz", *words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("out.png", "must end in one of"),
        ("out", "must end in one of"),
        ("nowhere/out.nii.gz", "no folder that exists"),
        ("out.dcm", "is no DICOM image"),
        ("other.nii.gz", "'other.json' beside it belongs to something else"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    """A misspelled output must not cost the minutes that the segmentation takes."""
    monkeypatch.setattr("napari_medsam.models.zoo.load_model", None)
    (tmp_path / "other.json").write_text("{}")
    result = run("segment", image, "--box", CUBE_BOX, "-o", tmp_path / name)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_the_report_does_not_take_the_place_of_the_description(image: Path, tmp_path: Path) -> None:
    """Both would be out.json, and the one written last would be all there is."""
    report = tmp_path / "out.json"
    result = run("segment", image, "--box", CUBE_BOX, "-o", tmp_path / "out.nii.gz", "--report", report)
    assert result.exit_code == 2
    assert "give another name" in result.stderr
    assert not report.exists()


def test_the_image_is_never_overwritten(image: Path) -> None:
    """-o with the image's own name, a slip of tab completion, does not cost the patient's scan."""
    before = image.read_bytes()
    result = run("segment", image, "--box", CUBE_BOX, "-o", image)
    assert result.exit_code == 2
    assert "itself, which is read here" in result.stderr
    assert image.read_bytes() == before


def test_an_older_label_map_survives_a_failed_run(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Yesterday's result is there until today's is complete."""
    out = tmp_path / "out.nii.gz"
    out.write_bytes(b"yesterday")
    assert run("segment", image, "--box", "99,1,1,5,5", "-o", out).exit_code == 2
    monkeypatch.setattr(BrightModel, "decode", None)
    assert run("segment", image, "--box", CUBE_BOX, "-o", out).exit_code == 1
    assert out.read_bytes() == b"yesterday"


@pytest.mark.parametrize("damage", [b"", b"not an image", bytes(400)])
def test_a_damaged_image_is_named_in_one_sentence(tmp_path: Path, damage: bytes) -> None:
    """In a loop over a folder, the message says which file it was."""
    broken, out = tmp_path / "broken.nii.gz", tmp_path / "out.nii.gz"
    broken.write_bytes(damage)
    result = run("segment", broken, "--box", CUBE_BOX, "-o", out)
    assert result.exit_code == 2
    assert "broken.nii.gz" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_has_its_own_exit_code(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    """A batch script can tell a bad file from a fault of ours; the traceback is there for whoever asks."""
    monkeypatch.setattr(BrightModel, "decode", lambda *_: np.zeros(2).reshape(3))
    words = ["--debug"] if debug else []
    result = run("segment", image, "--box", CUBE_BOX, "-o", tmp_path / "out.nii.gz", *words)
    assert result.exit_code == 1
    assert "bug in napari-medsam (ValueError: cannot reshape" in result.stderr
    assert "Please report it" in result.stderr
    assert ("Traceback" in result.stderr) is debug
    assert result.stdout == ""


def test_running_out_of_memory_is_said_plainly(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan too large for the machine is not a bug to report."""

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(BrightModel, "decode", full)
    result = run("segment", image, "--box", CUBE_BOX, "-o", tmp_path / "out.nii.gz")
    assert result.exit_code == 2
    assert "not enough memory" in result.stderr


# --- evaluate ----------------------------------------------------------------------------------------------


@pytest.fixture
def two_maps(tmp_path: Path) -> tuple[Path, Path]:
    """A label map, and one in which the cube lies one slice higher and the bar is missing."""
    truth = expected(cube=CUBE, bar=BAR)
    result = np.zeros(SHAPE, np.uint8)
    result[5:9, 10:18, 5:15] = 1
    return write_image(truth, tmp_path / "truth.nii.gz"), write_image(result, tmp_path / "result.nii.gz")


def test_scores_of_known_masks(two_maps: tuple[Path, Path]) -> None:
    """Dice, distances in mm across anisotropic voxels, and volumes are the ones worked out by hand."""
    result = json.loads(
        done("evaluate", *two_maps, "--label", "1=cube", "--tolerance-mm", "3.01", "--json").stdout
    )
    cube, bar = result["labels"]
    assert (cube["label"], cube["name"]) == (1, "cube")
    assert cube["dice"] == pytest.approx(3 / 4)
    assert cube["iou"] == pytest.approx(3 / 5)
    assert cube["hd95_mm"] == pytest.approx(3.0, abs=1e-5)
    assert cube["surface_dice"] == pytest.approx(1.0)
    assert cube["reference_ml"] == pytest.approx(320 * 1.68 / 1000, rel=1e-6)
    assert (bar["dice"], bar["segmentation_ml"]) == (0.0, 0.0)
    assert bar["hd95_mm"] is None
    assert result["mean"]["dice"] == pytest.approx(3 / 8)
    assert result["mean"]["hd95_mm"] is None


def test_labels_of_one_name_are_compared_whatever_their_numbers(tmp_path: Path) -> None:
    """DICOM numbers segments from 1: compared by number, a perfect result would be scored 0."""
    geometry = Geometry(SHAPE, (3.0, 0.8, 0.7))
    paths = tmp_path / "truth.seg.nrrd", tmp_path / "result.nii.gz"
    for path, names in zip(paths, ({7: "Cube", 9: "bar"}, {1: "cube", 2: "bar"}), strict=True):
        labels = np.zeros(SHAPE, np.uint8)
        labels[CUBE], labels[BAR] = names
        write_segmentation(Segmentation.from_labels(labels, geometry, names=names), path)
    scores = json.loads(done("evaluate", *paths, "--json").stdout)["labels"]
    assert [(s["label"], s["reference_label"], s["name"], s["dice"]) for s in scores] == [
        (1, 7, "cube", 1.0),
        (2, 9, "bar", 1.0),
    ]


def test_the_tolerance_counts(two_maps: tuple[Path, Path]) -> None:
    """Surface Dice within less than the slice distance no longer forgives a shift by one slice."""
    result = json.loads(done("evaluate", *two_maps, "--tolerance-mm", "2.9", "--json").stdout)
    assert result["labels"][0]["surface_dice"] < 1


def test_a_lone_slice_is_measured_along_its_outline(tmp_path: Path) -> None:
    """In a 2D image the faces above and below do not water down the distance between two outlines."""
    paths = []
    for name, column in (("a", 10), ("b", 20)):
        labels = np.zeros((1, 60, 60), np.uint8)
        labels[0, 10:50, 5 : 5 + column] = 1
        paths.append(write_image(labels, tmp_path / f"{name}.nii.gz", spacing=(1.0, 1.0, 1.0)))
    [score] = json.loads(done("evaluate", *paths, "--json").stdout)["labels"]
    assert score["hd95_mm"] == pytest.approx(10.0, abs=1e-5)


def test_the_table_has_a_row_for_every_label(two_maps: tuple[Path, Path]) -> None:
    """A label that the segmentation lacks is shown as missed, not left out."""
    text = done("evaluate", *two_maps, "--label", "2=bar").stdout
    assert [word in text for word in ("label 1", "bar", "mean", "0.750", "0.000", "inf")] == [True] * 6


def test_maps_on_different_grids_are_refused(two_maps: tuple[Path, Path], tmp_path: Path) -> None:
    """A Dice of shifted or cropped maps would be a wrong number that looks right."""
    moved = write_image(expected(cube=CUBE), tmp_path / "moved.nii.gz", spacing=(0.7, 0.8, 3.1))
    result = run("evaluate", two_maps[0], moved)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "not on the same grid" in result.stderr
    assert "spacing" in result.stderr
    cropped = write_image(expected(cube=CUBE)[:-1], tmp_path / "cropped.nii.gz")
    assert "(12, 30, 40) against (11, 30, 40)" in run("evaluate", two_maps[0], cropped).stderr


def test_an_image_is_not_a_label_map(two_maps: tuple[Path, Path], tmp_path: Path) -> None:
    """Swapping image and labels on the command line is told, not scored."""
    image = write_image(
        np.linspace(0, 1, 12 * 30 * 40, dtype=np.float32).reshape(SHAPE), tmp_path / "image.nii.gz"
    )
    result = run("evaluate", two_maps[0], image)
    assert result.exit_code == 2
    assert "image.nii.gz" in result.stderr


def test_empty_maps_have_no_labels_to_score(tmp_path: Path) -> None:
    """Nothing against nothing is an empty list, not a division by zero."""
    empty = write_image(np.zeros(SHAPE, np.uint8), tmp_path / "empty.nii.gz")
    result = json.loads(done("evaluate", empty, empty, "--json").stdout)
    assert result["labels"] == []
    assert result["mean"] == {}


# --- the command as such -----------------------------------------------------------------------------------


def test_the_version_is_printed() -> None:
    """Whoever reports a problem can say with what."""
    assert done("--version").stdout == f"napari-medsam {__version__}\n"


@pytest.mark.parametrize("command", ["segment", "propose", "evaluate", "measure", "export", "demo"])
def test_help_teaches_by_example(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to guess the form of a box: the help shows commands to copy."""
    monkeypatch.setenv("COLUMNS", "200")
    text = done(command, "--help").stdout
    assert "Examples" in text
    assert f"napari-medsam {command}" in text


def test_the_examples_of_segment_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every box and point that the help shows is one that the command understands."""
    from napari_medsam.cli.arguments import build_objects
    from napari_medsam.cli.segment import EXAMPLES

    geometry = Geometry((100, 300, 300))
    commands = [block.replace("\\\n", " ").split() for block in EXAMPLES.split("```")[1::2]]
    assert len(commands) >= 5
    for words in commands:
        values = {
            name: [words[n + 1] for n, word in enumerate(words) if word == f"--{name}"]
            for name in ("box", "point", "label")
        }
        assert build_objects(values["box"], values["point"], values["label"], 0, geometry)


def test_a_wrong_option_is_bad_input() -> None:
    """Exit code 2 holds for what the option parser itself refuses, too."""
    assert run("segment", "--sharpen").exit_code == 2


def test_help_loads_neither_torch_nor_simpleitk() -> None:
    """Asking how to use the command takes no time."""
    code = (
        "import sys; from napari_medsam.cli import app; "
        "app(['segment', '--help'], standalone_mode=False); "
        "sys.exit(str({'torch', 'SimpleITK', 'scipy', 'skimage', 'napari'} & set(sys.modules) or ''))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stderr.strip() == ""
