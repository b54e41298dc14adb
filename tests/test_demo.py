"""The demo: what somebody sees who has just installed the package and has no data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from bright_model import BrightModel
from PIL import Image
from typer.testing import CliRunner

from napari_medsam.cli import app
from napari_medsam.cli import demo as command
from napari_medsam.demo import DemoResult, draw_overview, run_demo
from napari_medsam.metrics import dice
from napari_medsam.phantom import CT_NAMES, PhantomError, ct_torso
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import ObjectPrompts, SliceIndex, SlicePrompts, prompts_from_json
from napari_medsam.volume import Geometry, Volume, read_labels, read_volume
from napari_medsam.windowing import Window

SHAPE = (32, 64, 64)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    return run_demo(folder, SlicePredictor(BrightModel()), seed=3, shape=SHAPE)


def test_every_organ_gets_a_box_and_a_score(result: DemoResult) -> None:
    """No organ is left out because it scores badly."""
    assert {organ.label: organ.name for organ in result.organs} == dict(CT_NAMES)
    assert result.mean_dice == pytest.approx(np.mean([organ.dice for organ in result.organs]))


def test_the_scores_are_those_of_the_files(result: DemoResult) -> None:
    """Whoever measures the written label maps finds the numbers that the demo printed."""
    truth, found = read_labels(result.reference), read_labels(result.segmentation)
    assert truth.geometry.difference(found.geometry) == ""
    for organ in result.organs:
        assert organ.dice == dice(truth.array == organ.label, found.array == organ.label)
        assert organ.true_ml == pytest.approx(
            (truth.array == organ.label).sum() * truth.geometry.voxel_volume_ml, rel=1e-5
        )


def test_the_written_ct_is_the_phantom(result: DemoResult) -> None:
    """The file that people go on with has the phantom's Hounsfield units, on its oblique grid."""
    phantom, read = ct_torso(3, SHAPE), read_volume(result.image)
    np.testing.assert_array_equal(read.array, phantom.volume.array)
    assert phantom.volume.geometry.difference(read.geometry) == ""


def test_the_boxes_hold_their_organs(result: DemoResult) -> None:
    """prompts.json can be replayed on ct.nii.gz: one box an organ, around it on its largest slice."""
    geometry = read_volume(result.image).geometry
    truth = read_labels(result.reference).array
    objects = prompts_from_json(result.prompts.read_text(encoding="utf-8"), geometry)
    assert sorted(thing.label for thing in objects) == list(CT_NAMES)
    for thing in objects:
        [(where, drawn)] = thing.slices.items()
        assert drawn.box is not None
        mask = truth == thing.label
        assert where.take(mask).sum() == mask.sum(axis=(1, 2)).max()
        y0, x0, y1, x1 = (int(corner) for corner in drawn.box)
        assert where.take(mask)[y0 : y1 + 1, x0 : x1 + 1].sum() == where.take(mask).sum()


def test_the_picture_opens_and_is_small_enough_for_a_page(result: DemoResult) -> None:
    """The overview can go into a README or a mail as it is."""
    with Image.open(result.picture) as picture:
        assert picture.mode == "RGB"
        assert 1000 < picture.width < 2000
        assert picture.height > 300
    assert result.picture.stat().st_size < 400_000


def test_nothing_but_the_named_files_is_left(result: DemoResult) -> None:
    """The folder can be handed on: no temporary files."""
    assert sorted(result.image.parent.iterdir()) == sorted(result.files)


def test_a_second_demo_replaces_the_first(result: DemoResult) -> None:
    """Running it again with another seed leaves no mixture of two patients."""
    before = result.reference.read_bytes()
    again = run_demo(result.image.parent, SlicePredictor(BrightModel()), seed=3, shape=SHAPE)
    assert again.reference.read_bytes() == before
    assert sorted(result.image.parent.iterdir()) == sorted(result.files)


def test_an_impossible_seed_writes_nothing(tmp_path: Path) -> None:
    """A bad argument is told before a folder is made."""
    with pytest.raises(PhantomError):
        run_demo(tmp_path / "demo", SlicePredictor(BrightModel()), seed=-1)
    assert not (tmp_path / "demo").exists()


def test_boxes_and_masks_are_drawn_where_they_are() -> None:
    """The picture does not flip, shift or stretch what it shows: it is what people judge the tool by."""
    array, labels = np.zeros((20, 40, 60), np.int16), np.zeros((20, 40, 60), np.uint16)
    labels[5:15, 10:20, 30:50] = 1
    volume = Volume(array, Geometry(array.shape, (4.0, 2.0, 1.0)))
    thing = ObjectPrompts(1, "brick", {SliceIndex(0, 10): SlicePrompts((10, 30, 19, 49))})
    picture = np.asarray(draw_overview(volume, labels, [thing], {1: 0.5}, window=Window(0, 1, "any"))).astype(
        int
    )
    colourful = picture.max(axis=2) - picture.min(axis=2) > 40
    columns = np.flatnonzero(colourful.any(axis=0))
    panels = np.split(columns, np.flatnonzero(np.diff(columns) > 8) + 1)
    sizes = []
    for panel in panels[:3]:
        rows = np.flatnonzero(colourful[:, panel].any(axis=1))
        sizes.append((np.ptp(rows) + 1, np.ptp(panel) + 1))
    per_mm = sizes[1][1] / 20
    expected_mm = [(20, 20), (20, 20), (40, 20)]
    np.testing.assert_allclose(np.array(sizes) / per_mm, expected_mm, atol=2.5)


def test_a_case_without_any_mask_is_drawn_too() -> None:
    """A model that finds nothing gets an honest picture, not a traceback."""
    phantom = ct_torso(0, (16, 32, 32))
    thing = ObjectPrompts(1, "liver", {SliceIndex(0, 3): SlicePrompts((5, 5, 9, 9))})
    nothing = np.zeros((16, 32, 32), np.uint16)
    picture = draw_overview(
        phantom.volume, nothing, [thing], {1: 0.0}, window=Window(-160, 240, "soft_tissue")
    )
    assert picture.width > 500


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with a model and a patient that take no time."""

    def run_small(folder: Path, predictor: SlicePredictor, **options: object) -> DemoResult:
        return run_demo(folder, predictor, shape=SHAPE, **options)

    monkeypatch.setattr("napari_medsam.demo.run_demo", run_small)
    monkeypatch.setattr("napari_medsam.models.zoo.load_model", lambda name="default": BrightModel())


@pytest.mark.usefixtures("small_demo")
def test_the_command_prints_a_row_for_every_organ(tmp_path: Path) -> None:
    """The table is what a first user sees: all organs, with Dice and seconds."""
    answer = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--seed", "3", "--no-viewer"])
    assert answer.exit_code == 0
    assert [name for name in CT_NAMES.values() if name not in answer.stdout] == []
    assert "mean" in answer.stdout
    assert "overview.png" in answer.stderr


@pytest.mark.usefixtures("small_demo")
def test_the_command_speaks_json(tmp_path: Path) -> None:
    """A check of an installation can read the demo's scores."""
    answer = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--no-viewer", "--json"])
    found = json.loads(answer.stdout)
    assert len(found["organs"]) == len(CT_NAMES)
    assert Path(found["picture"]).is_file()


@pytest.mark.usefixtures("small_demo")
def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    """One sentence instead of a traceback, as everywhere."""
    (tmp_path / "file").touch()
    answer = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "file" / "demo"), "--no-viewer"])
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("platform", "environment", "binding", "reason"),
    [
        ("linux", {}, True, "there is no display"),
        ("linux", {"DISPLAY": ":0"}, True, ""),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True, ""),
        ("linux", {"DISPLAY": ":0"}, False, "no Qt binding"),
        ("linux", {"DISPLAY": ":0", "QT_QPA_PLATFORM": "offscreen"}, True, "asks for no window"),
        ("darwin", {}, True, ""),
        ("win32", {}, True, ""),
        ("win32", {}, False, "no Qt binding"),
    ],
)
def test_napari_opens_where_there_is_a_window_to_open(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], binding: bool, reason: str
) -> None:
    """On a laptop the result is on the screen; on a server the user reads why not."""
    monkeypatch.setattr(command, "find_spec", lambda name: object() if binding else None)
    found = command.why_no_viewer(platform, environment)
    assert reason in found
    assert bool(found) is bool(reason)


@pytest.mark.usefixtures("small_demo")
@pytest.mark.parametrize("missing", ["", "there is no display"])
def test_the_viewer_shows_what_the_demo_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """napari gets the CT and the label map; where it cannot open, the demo still ends well."""
    opened: list[list[str]] = []

    def run(words: list[str], **_: object) -> object:
        opened.append(words)
        return type("Done", (), {"returncode": 1})()

    monkeypatch.setattr(command, "why_no_viewer", lambda *_: missing)
    monkeypatch.setattr(command.subprocess, "run", run)
    answer = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert answer.exit_code == 0
    assert "napari was not opened" in answer.stderr
    files = [str(tmp_path / name) for name in ("ct.nii.gz", "segmentation.nii.gz")]
    shown = [[sys.executable, "-m", "napari_medsam.widgets.show", *files]]
    assert opened == ([] if missing else shown)
