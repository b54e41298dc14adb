"""If these fail, the default model cannot be made again."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from napari_medsam.models.prompt_unet import load_prompt_unet
from napari_medsam.training import default_model
from napari_medsam.training.default_model import RunConfig, export, overlaps, segmentation_loss, train

SMALL = RunConfig(steps=4, batch=4, slices=4, reuse=2, size=48)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return train(out, SMALL, None, CPU, log_every=1, check_every=1000)


def test_a_run_that_was_stopped_and_resumed_ends_where_one_that_was_not_ends(whole, tmp_path):
    stopped = train(tmp_path, SMALL, None, CPU, minutes=0, log_every=1, check_every=1000)
    assert stopped.step == SMALL.reuse
    resumed = train(tmp_path, SMALL, None, CPU, log_every=1, check_every=1000)
    assert resumed.step == whole.step == SMALL.steps
    for name in ("weights", "average", "exp_avg", "exp_avg_sq"):
        a, b = load_file(whole.out / f"{name}.safetensors"), load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(a[k], b[k]) for k in a), name


def test_another_configuration_does_not_resume_a_run(whole):
    with pytest.raises(ValueError, match="give the same options, or another folder"):
        train(whole.out, RunConfig(steps=9, batch=4, slices=4, reuse=2, size=48), None, CPU)


def test_the_log_has_a_line_for_every_step(whole):
    rows = [json.loads(line) for line in (whole.out / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]
    assert all(0 < r["loss"] < 10 for r in rows if "loss" in r)


def test_what_is_exported_loads_as_a_model_and_says_what_made_it(whole, tmp_path):
    path = tmp_path / "weights.safetensors"
    export(whole, path)
    model = load_prompt_unet(path)
    expected = dict(zip(whole.names, whole.average, strict=True))
    for name, parameter in model.net.named_parameters():
        assert torch.equal(parameter, expected[name].half().float()), name
    with safe_open(path, "pt") as stored:
        about = json.loads(stored.metadata()["made by"])
    assert about["step"] == 4
    assert about["config"]["seed"] == 0


def test_a_step_learns_the_same_from_prompts_in_parts_as_from_all_at_once(tmp_path, monkeypatch):
    config = RunConfig(steps=4, batch=5, slices=4, reuse=2, size=48)
    prompts = default_model.PromptDraws(config, None, CPU)[0][0]
    # In bfloat16, which pays on some machines, both differ by its rounding.
    monkeypatch.setattr(default_model, "bfloat16_pays", lambda device: False)
    losses, gradients = [], []
    for at_once in (2, 5):
        monkeypatch.setattr(default_model, "CROPS_AT_ONCE", at_once)
        run = default_model.Run(tmp_path, config, CPU)
        losses.append(run.optimise(run.net, prompts, torch.Generator())[0])
        gradients.append(torch.cat([p.grad.flatten() for p in run.parameters]))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_a_few_steps_of_the_nightly_run_learn(tmp_path):
    config = RunConfig(steps=24, batch=8, slices=4, reuse=6, size=48, learning_rate=3e-3)
    train(tmp_path, config, None, CPU, log_every=1, check_every=1000)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])


def test_overlaps_count_what_lies_outside_of_the_crop():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    logits = torch.where(target > 0, 1.0, -1.0)
    dice, iou = overlaps(logits, target, torch.tensor([64.0]))
    assert float(dice) == pytest.approx(2 * 32 / 96)
    assert float(iou) == pytest.approx(0.5)


def test_an_empty_mask_of_an_ended_object_is_right():
    nothing = torch.zeros(1, 1, 8, 8)
    dice, iou = overlaps(nothing - 1, nothing, torch.zeros(1))
    assert float(dice) == float(iou) == 1
    assert float(segmentation_loss(nothing - 20, nothing)) < 0.01
