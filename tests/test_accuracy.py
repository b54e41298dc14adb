"""The measuring of models: whoever compares two by benchmarks/accuracy.py must be able to rely on it."""

from __future__ import annotations

import json
from math import isnan

import accuracy
import numpy as np
import pytest
from accuracy import ONLY, AccuracyError, Case, Row, answers, measure, models, read_case, spread
from accuracy_prompts import (
    BOX,
    BOX_1,
    BOX_2,
    CLICK,
    NEEDS,
    SHOWN,
    TIGHT,
    clicks,
    corrected,
    sloppy,
)
from accuracy_report import (
    bins_table,
    by_prompt,
    calibration,
    connected,
    kinds_table,
    macro,
    rank_correlation,
    scores_table,
    sizes_table,
    sloppiness_table,
)
from bright_model import BrightModel
from hypothesis import given
from hypothesis import strategies as st

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.predictor import SlicePredictor
from napari_medsam.volume import write_labels

GEOMETRY = Geometry((3, 40, 48), (5.0, 1.0, 1.0))


class BoxModel(BrightModel):
    """Takes nothing but boxes."""

    supported_prompts = frozenset({"box"})


class MaskModel(BrightModel):
    """Notes when it is shown an earlier mask: whether beside a box, and beside how many points."""

    def __init__(self) -> None:
        self.shown: list[tuple[bool, int]] = []

    def decode(self, embedding, point_coords, point_labels, boxes, mask_input, multimask_output):
        if mask_input is not None:
            self.shown.append((boxes is not None, point_coords.shape[1]))
        return super().decode(embedding, point_coords, point_labels, boxes, mask_input, multimask_output)


def test_slices_are_spread_evenly_and_none_is_taken_twice():
    assert spread(np.arange(10, 21), 3) == [10, 15, 20]
    assert spread(np.array([4, 7]), 3) == [4, 7]
    assert spread(np.array([4, 7, 9]), 0) == [4, 7, 9]


@given(st.integers(2, 60), st.integers(2, 12))
def test_as_many_slices_as_asked_for_are_measured(count, most):
    found = spread(np.arange(count), most)
    assert len(set(found)) == len(found) == min(count, most)
    assert (found[0], found[-1]) == (0, count - 1)


def row(case="a", label=1, index=0, dice=0.5, *, kind=BOX, iou=0.5, predicted=0.5, area=100, one=True) -> Row:
    group = "CT volumes" if case == "a" else "single slices"
    return Row("m", case, group, label, index, kind, dice, iou, predicted, area, one)


ROWS = [
    row("a", 1, 0, 0.1, area=30),
    row("a", 1, 1, 0.3, area=49, one=False),
    row("a", 2, 0, 0.8, area=50),
    row("b", 1, 0, 0.9, area=6000),
]


def test_means_are_over_slices_then_labels_then_cases():
    """(((0.1 + 0.3) / 2 + 0.8) / 2 + 0.9) / 2; a case of many slices would else outvote the others."""
    assert macro(ROWS) == pytest.approx(0.7)
    assert connected(ROWS) == pytest.approx(0.6)
    assert isnan(macro([]))
    assert isnan(connected(ROWS[1:2]))


def test_the_table_of_prompts_has_a_dash_for_what_a_model_does_not_take():
    lines = kinds_table(ROWS, ["m"]).splitlines()
    assert lines[0] == "| prompt | model | macro | connected | CT volumes | single slices |"
    assert f"| {BOX} | m | 0.700 | 0.600 | 0.500 | 0.900 |" in lines
    assert f"| {CLICK} | m | - | - | - | - |" in lines
    assert len(lines) == 2 + len([kind for kind in NEEDS if not kind.startswith("box off by")])


def test_the_table_of_sizes_counts_each_slice_in_one_bin():
    lines = sizes_table(ROWS, ["m"]).splitlines()
    assert lines[2] == "| 25 to 49 | 2 | 1 | 0.200 | - | - |"
    assert lines[3] == "| 50 to 99 | 1 | 1 | 0.800 | - | - |"
    assert lines[-1] == "| 5000 and more | 1 | 1 | 0.900 | - | - |"


def test_the_table_of_sloppiness_begins_with_the_tight_box():
    rows = [row(kind=TIGHT, dice=0.9), row(kind=sloppy(0.05), dice=0.8), row(kind=sloppy(0.3), dice=0.4)]
    lines = sloppiness_table(rows, ["m"]).splitlines()
    assert lines[0] == "| model | 0% | 5% | 10% | 15% | 20% | 25% | 30% |"
    assert lines[2] == "| m | 0.900 | 0.800 | - | - | - | - | 0.400 |"


def test_predicted_iou_is_set_against_the_true_one():
    rows = [
        row(iou=0.4, predicted=0.52),
        row(iou=0.8, predicted=0.58),
        row(iou=0.9, predicted=1.0),
        row(iou=0.0, predicted=1.0, kind=CLICK),
        row(iou=0.0, predicted=1.0, kind=BOX_1 + SHOWN),
    ]
    lines = scores_table(rows, ["m"]).splitlines()
    assert lines[2] == "| boxes | m | 3 | 0.147 | 0.000 | 1.000 |"
    assert lines[3] == "| clicks | m | 1 | 1.000 | 1.000 | - |"
    bins = calibration(rows, "m", "boxes")
    assert [count for count, _, _ in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert bins[5][1:] == pytest.approx((0.55, 0.6))
    assert bins[9][1:] == pytest.approx((1.0, 0.9))
    last = bins_table(rows, ["m"]).splitlines()[-1]
    assert last == "| 0.9 to 1.0 | 1 | 1.000 | 0.900 | 1 | 1.000 | 0.000 |"


def test_rank_correlation_of_what_does_not_vary_is_none():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert isnan(rank_correlation(np.array([1.0, 1, 1]), np.array([3.0, 2, 1])))


def test_every_kind_as_users_give_it_counts_as_a_box_or_as_a_click_but_scribbles():
    both = by_prompt([])
    for kind in NEEDS:
        counted = [name for name, inside in both.items() if inside(row(kind=kind))]
        group = next((g for g in ("box", "scribble", "click") if g in kind), "")
        assert counted == (
            {"box": ["boxes"], "click": ["clicks"]}.get(group, []) if SHOWN not in kind else []
        )


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Voxels with two bright squares on all three slices, and labels of one of them."""
    image = np.zeros(GEOMETRY.shape, np.float32)
    image[:, 10:20, 20:30] = 100
    image[:, 30:36, 4:10] = 100
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[:, 10:20, 20:30] = 7
    return image, labels


@pytest.fixture
def folder(tmp_path):
    """One case without a meta.json."""
    image, labels = scene()
    case = tmp_path / "cases" / "squares"
    case.mkdir(parents=True)
    write_labels(image.astype(np.uint8), GEOMETRY, case / "image.nii.gz")
    write_labels(labels, GEOMETRY, case / "labels.nii.gz")
    return case.parent


def test_a_folder_of_cases_becomes_tables_and_plots(folder, tmp_path, monkeypatch, capsys):
    known = {"bright": BrightModel(), "box only": BoxModel()}
    monkeypatch.setattr(accuracy, "load_model", known.get)
    out = tmp_path / "out"
    accuracy.main(
        [
            "--data",
            str(folder),
            "--model",
            "bright",
            "--model",
            "box only",
            "--slices",
            "2",
            "--out",
            str(out),
        ]
    )
    rows = json.loads((out / "accuracy.json").read_text())["rows"]
    assert {(r["case"], r["label"], r["slice"]) for r in rows} == {("squares", 7, 0), ("squares", 7, 2)}
    assert {r["kind"] for r in rows if r["model"] == "bright"} == set(NEEDS)
    boxed = {kind for kind, needs in NEEDS.items() if needs == {"box"}}
    assert {r["kind"] for r in rows if r["model"] == "box only"} == boxed
    tight = next(r for r in rows if r["kind"] == TIGHT)
    assert tight == {
        "model": "bright",
        "case": "squares",
        "group": "other volumes",
        "label": 7,
        "slice": 0,
        "kind": TIGHT,
        "dice": 1.0,
        "iou": 1.0,
        "predicted_iou": 0.75,
        "area": 100,
        "connected": True,
    }
    # The model takes what lies within 4 px of a click: 81 of 100 px.
    click = next(r for r in rows if r["kind"] == CLICK)
    assert (click["dice"], click["iou"]) == (2 * 81 / 181, 0.81)
    text = (out / "accuracy.md").read_text()
    assert "1 cases, 1 labels, 2 slices" in text
    assert f"| {TIGHT} | box only | 1.000 | 1.000 | 1.000 |" in text
    assert f"| {CLICK} | box only | - | - | - |" in text
    for name in ("sloppiness", "size", "calibration"):
        drawn = (out / f"accuracy_{name}.svg").read_text()
        assert drawn.startswith("<svg ")
        assert "bright" in drawn
    assert "1 of 1: box only, squares: 18 masks" in capsys.readouterr().err


def test_what_is_measured_is_what_a_session_answers():
    """The route of the window: prompts are added up, and all of them are asked anew."""
    image, labels = scene()
    case = Case("squares", Volume(image, GEOMETRY), Volume(labels, GEOMETRY), {})
    predictor = SlicePredictor(BrightModel())
    one = case.targets(1, 2024)[0][0]
    found = {
        kind: mask
        for kind, mask, _ in answers(case.session(0, predictor), one, BrightModel.supported_prompts)
    }
    session = case.session(0, predictor)
    session.add_prompts(1, ONLY, clicks(one, 1))
    first = session.segment(ONLY, 1)
    assert (first.mask == found[CLICK]).all()
    session.add_prompts(1, ONLY, corrected(clicks(one, 1), first.mask, one))
    assert (session.segment(ONLY, 1).mask == found["1 click + 1"]).all()


def test_the_mask_before_is_shown_only_where_the_name_says_so():
    """Kinds without "mask shown" stand for the window, which shows none."""
    image, labels = scene()
    labels[:, 10:20, 10:30] = 7  # Half of it is dark: there is something to correct.
    case = Case("squares", Volume(image, GEOMETRY), Volume(labels, GEOMETRY), {})
    model = MaskModel()
    rows = list(measure(case, "m", SlicePredictor(model), 1, 2024))
    assert model.shown == [(True, 1), (False, 2), (True, 2), (False, 3)]
    assert {each.kind for each in rows} == set(NEEDS)


def test_a_model_that_takes_no_clicks_is_measured_without_a_warning_and_is_not_asked_for_corrections():
    image, labels = scene()
    case = Case("squares", Volume(image, GEOMETRY), Volume(labels, GEOMETRY), {})
    kinds = [each.kind for each in measure(case, "m", SlicePredictor(BoxModel()), 1, 2024)]
    assert BOX in kinds
    assert not {BOX_1, BOX_2, CLICK} & set(kinds)


def test_colours_and_pictures_are_told_from_volumes():
    def group(array, meta):
        geometry = Geometry(array.shape[:3])
        labels = Volume(np.ones(array.shape[:3], np.uint8), geometry)
        return Case("c", Volume(array, geometry), labels, meta).group

    grey, air = np.zeros((4, 5, 6), np.float32), np.full((4, 5, 6), -1000, np.int16)
    air[1:] = 40
    assert group(grey, {"modality": "MR T1"}) == "MR volumes"
    assert group(grey, {"modality": "MR", "kind": "2d_stack"}) == "single slices"
    assert group(air, {}) == "CT volumes"
    assert group(grey, {}) == "other volumes"
    assert group(grey[:1], {}) == "single slices"
    assert group(np.zeros((4, 5, 6, 3), np.uint8), {}) == "RGB"


def test_a_folder_without_cases_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.delenv("NAPARI_MEDSAM_TEST_DATA", raising=False)
    with pytest.raises(SystemExit) as stopped:
        accuracy.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert str(stopped.value) == (
        f"There is no case in {tmp_path}: give --data, or set NAPARI_MEDSAM_TEST_DATA to, a folder whose "
        "subfolders hold an image.nii.gz and a labels.nii.gz each."
    )
    assert not (tmp_path / "out").exists()


def test_a_bad_case_does_not_cost_the_others(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "load_model", lambda name: BoxModel())
    bad = folder / "bad"
    bad.mkdir()
    _, labels = scene()
    write_labels(labels, GEOMETRY, bad / "labels.nii.gz")
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=r"^1 cases failed and are not in the tables:\n.*bad.image\.nii\.gz"):
        accuracy.main(["--data", str(folder), "--out", str(out)])
    assert {r["case"] for r in json.loads((out / "accuracy.json").read_text())["rows"]} == {"squares"}


def test_labels_that_lie_elsewhere_and_a_damaged_meta_json_are_refused(folder):
    case = folder / "squares"
    (case / "meta.json").write_text("[]")
    with pytest.raises(AccuracyError, match="is no JSON object"):
        read_case(case)
    (case / "meta.json").unlink()
    write_labels(scene()[1], Geometry(GEOMETRY.shape, (5.0, 1.0, 1.1)), case / "labels.nii.gz")
    with pytest.raises(AccuracyError, match=r"^The labels of squares do not lie on its image\. The grids"):
        read_case(case)


def test_two_models_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(accuracy, "load_model", lambda name: BoxModel())
    with pytest.raises(AccuracyError, match=r"^Two models would be called weights\.pth in"):
        models(["a/weights.pth", "b/weights.pth"])
