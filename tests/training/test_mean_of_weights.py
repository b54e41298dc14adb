"""If these fail, the weights that ship cannot be made again from the runs behind them."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from napari_medsam.training.mean_of_weights import mean_of_weights


def written(folder, name, value, size=3):
    path = folder / f"{name}.safetensors"
    save_file({"a": torch.full((size,), value)}, path, metadata={"made by": json.dumps({"seed": name})})
    return path


def test_the_mean_tells_what_it_is_the_mean_of(tmp_path):
    runs = [written(tmp_path, name, value) for name, value in (("x", 1.0), ("y", 2.0), ("z", 6.0))]
    mean_of_weights(runs, tmp_path / "mean.safetensors")
    found = load_file(tmp_path / "mean.safetensors")
    assert found["a"].dtype == torch.float16
    assert found["a"].tolist() == [3.0] * 3
    with safe_open(tmp_path / "mean.safetensors", "pt") as file:
        about = json.loads(file.metadata()["made by"])
    assert about == {"mean of": [{"seed": "x"}, {"seed": "y"}, {"seed": "z"}]}


def test_weights_of_two_nets_have_no_mean(tmp_path):
    runs = [written(tmp_path, "x", 1.0), written(tmp_path, "y", 1.0, size=4)]
    with pytest.raises(ValueError, match=r"y\.safetensors is of another net than .*x\.safetensors"):
        mean_of_weights(runs, tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()
