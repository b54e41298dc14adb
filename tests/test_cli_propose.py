"""Proposals and the model's options on the command line, with nets that need no download."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from napari_medsam.cli import app, model_options
from napari_medsam.models.sam import build_sam
from napari_medsam.predictor import PredictorWarning

INNER, OUTER = np.s_[14:20, 16:24], np.s_[10:26, 12:32]
ALONE = np.s_[2:8, 30:38]


class Nested:
    """Answers a point with the smallest of three rectangles around it."""

    image_size = 64
    family = "grey"
    supported_prompts = frozenset({"point"})

    def encode_image(self, image):
        return image

    def decode(self, embedding, point_coords, point_labels, boxes, mask_input, multimask_output):
        masks = torch.full((len(point_coords), 1, *embedding.shape[2:]), -5.0)
        scores = torch.full((len(point_coords), 1), 0.1)
        for i, (x, y) in enumerate(point_coords[:, 0].tolist()):
            for part, score in ((INNER, 0.85), (ALONE, 0.95), (OUTER, 0.9)):
                inside = torch.zeros(embedding.shape[2:], dtype=torch.bool)
                inside[part] = True
                if inside[round(y), round(x)]:
                    masks[i, 0, inside], scores[i, 0] = 5.0, score
                    break
        return masks, scores


@pytest.fixture
def model(monkeypatch):
    model = Nested()
    monkeypatch.setattr("napari_medsam.models.zoo.load_model", lambda name: model)
    return model


@pytest.fixture
def image(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 100, (40, 30, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def test_proposals_are_listed_best_first_and_written_small_over_large(model, image, tmp_path):
    """The numbers in the table are the labels in the file; a small object in a large one stays visible."""
    out = tmp_path / "out.nii.gz"
    found = json.loads(done("propose", image, "--slice", 3, "-o", out, "--grid", 20, "--json").stdout)
    assert found["output"] == str(out)
    assert [(row["label"], row["box"]) for row in found["proposals"]] == [
        (1, [3, 2, 30, 7, 37]),
        (2, [3, 10, 12, 25, 31]),
        (3, [3, 14, 16, 19, 23]),
    ]
    assert [row["area_mm2"] for row in found["proposals"]] == [48 * 6, 320 * 6, 48 * 6]
    expected = np.zeros((5, 30, 40), np.uint8)
    for label, part in ((1, ALONE), (2, OUTER), (3, INNER)):
        expected[3][part] = label
    np.testing.assert_array_equal(np.asarray(nibabel.load(out).dataobj).T, expected)


def test_proposals_are_made_again_from_their_session_file(model, image, tmp_path):
    out, again = tmp_path / "out.nii.gz", tmp_path / "again.nii.gz"
    done("propose", image, "--slice", 12, "--axis", 1, "-o", out, "--grid", 20)
    document = json.loads((tmp_path / "out.session.json").read_text())
    assert [step["do"] for step in document["steps"]] == ["propose"]
    assert document["models"]["default"]["weights"]
    said = done("replay", tmp_path / "out.session.json", "--image", image, "-o", again)
    assert "Every voxel is as it was in the session." in said.stdout + said.stderr
    np.testing.assert_array_equal(nibabel.load(again).dataobj, nibabel.load(out).dataobj)
    assert np.asarray(nibabel.load(out).dataobj).any()


def test_the_limits_are_the_users(model, image):
    text = done("propose", image, "--slice", 3, "--grid", 20, "--min-score", 0.93)
    assert "3,2,30,7,37" in text.stdout
    assert text.stdout.count("3,") == 1
    assert text.stderr == "Proposals on slice 3: 1.\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--slice", 5], "no slice 5 along axis 0: the image has 5 slices"),
        (["--slice", 3, "--axis", "oblique"], "--axis oblique"),
        (["--slice", 3, "-o", "out.png"], "must end in one of"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_sentence(model, image, words, sentence):
    result = run("propose", image, *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_model_that_never_saw_points_is_refused(model, image):
    model.supported_prompts = frozenset({"box"})
    result = run("propose", image, "--slice", 3)
    assert result.exit_code == 2
    assert "trained without points" in result.stderr


@pytest.fixture
def sam(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = build_sam("tiny_vit_b").requires_grad_(False)
    monkeypatch.setattr("napari_medsam.models.zoo.load_model", lambda name: model)
    monkeypatch.setattr("napari_medsam.embedding_cache.default_cache_folder", lambda: tmp_path / "cache")
    return model


SEGMENT = ("--box", "2,4,4,20,20", "--range", "1:3", "--engine", "torch")


def test_a_second_run_on_an_image_encodes_nothing(sam, image, tmp_path, monkeypatch):
    """Somebody who corrects a box does not wait for the encoder again."""
    outputs = [tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"]
    done("segment", image, "-o", outputs[0], *SEGMENT)
    assert list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(sam, "encode_image", None)
    done("segment", image, "-o", outputs[1], *SEGMENT)
    first, second = (np.asarray(nibabel.load(path).dataobj) for path in outputs)
    np.testing.assert_array_equal(first, second)


def test_without_the_cache_nothing_is_kept(sam, image, tmp_path):
    done("segment", image, "-o", tmp_path / "out.nii.gz", "--no-cache", *SEGMENT)
    assert not (tmp_path / "cache").exists()


def test_a_notice_is_a_sentence_not_a_line_of_code(model, image, monkeypatch):
    def noticed(*given, **options):
        warnings.warn("It goes on, slower, on the CPU.", PredictorWarning, stacklevel=2)
        return load(*given, **options)

    load = model_options.load_predictor
    monkeypatch.setattr("napari_medsam.cli.propose.load_predictor", noticed)
    with warnings.catch_warnings():
        warnings.simplefilter("always", PredictorWarning)
        result = done("propose", image, "--slice", 3, "--grid", 1)
    assert "Note: It goes on, slower, on the CPU.\n" in result.stderr
    assert "test_cli_propose" not in result.stderr
