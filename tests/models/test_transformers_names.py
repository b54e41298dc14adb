"""What transformers saved is read as the net it is; masks are compared in `test_sam_parity`."""

import pytest
import torch

from napari_medsam.models.checkpoints import read_sam
from napari_medsam.models.sam import build_sam
from napari_medsam.models.specs import ModelError
from napari_medsam.models.transformers_names import published_name


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_sam("tiny_vit_b").state_dict()


def in_transformers_names(weights):
    """Without the second name of the one matrix, as `save_pretrained` leaves it out."""
    transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
    with torch.device("meta"):
        names = transformers.SamModel(
            transformers.SamConfig(vision_config={"num_hidden_layers": 2})
        ).state_dict()
    return {name: weights[published_name(name)].clone() for name in names if "shared_embedding" not in name}


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod."])
def test_prefixes_of_training_programs_are_taken_off_here_too(prefix, weights, tmp_path):
    theirs = {prefix + name: tensor for name, tensor in in_transformers_names(weights).items()}
    torch.save({"state_dict": theirs}, tmp_path / "own.ckpt")
    loaded, _ = read_sam(tmp_path / "own.ckpt")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_an_incomplete_file_is_refused_by_the_same_check(weights, tmp_path):
    theirs = in_transformers_names(weights)
    del theirs["mask_decoder.upscale_conv1.bias"]
    torch.save(theirs, tmp_path / "own.bin")
    with pytest.raises(
        ModelError, match=r"1 of its tensors are missing \('mask_decoder\.output_upscaling\.0"
    ):
        read_sam(tmp_path / "own.bin")


@pytest.mark.parametrize("both", [False, True])
def test_the_one_matrix_that_transformers_files_may_hold_twice_is_taken_once(both, weights, tmp_path):
    matrix = weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    theirs = in_transformers_names(weights)
    if both:
        theirs["prompt_encoder.shared_embedding.positional_embedding"] = matrix.clone()
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    loaded, architecture = read_sam(tmp_path / "pytorch_model.bin")
    assert architecture == "tiny_vit_b"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_two_different_matrices_in_a_transformers_file_are_not_guessed_at(weights, tmp_path):
    theirs = in_transformers_names(weights)
    other = torch.zeros_like(theirs["shared_image_embedding.positional_embedding"])
    torch.save({**theirs, "prompt_encoder.shared_embedding.positional_embedding": other}, tmp_path / "a.bin")
    with pytest.raises(ModelError, match=r"1 of its tensors are unknown \('prompt_encoder\.shared_embedding"):
        read_sam(tmp_path / "a.bin")
