"""The decoder's shortcuts give the same masks as attention written out."""

import pytest
import torch

from napari_medsam.models import mask_decoder
from napari_medsam.models.mask_decoder import MaskDecoder, quadruple
from napari_medsam.models.sam import build_sam
from napari_medsam.models.transformer import Attention, TwoWayAttentionBlock


def written_out(layer, query, key, value):
    """Projections of everything, then attention."""
    query, key = layer.split(layer.q_proj(query)), layer.split(layer.k_proj(key))
    weights = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1)
    return layer.out_proj((weights @ layer.split(layer.v_proj(value))).transpose(1, 2).flatten(2))


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Attention(16, 4, 8).requires_grad_(False)


@pytest.mark.parametrize("images", [1, 3])
def test_reading_and_writing_without_projecting_the_image(layer, images):
    tokens, image, pe = torch.randn(3, 5, 16), torch.randn(images, 20, 16), torch.randn(1, 20, 16)
    every = image.expand(3, -1, -1)
    torch.testing.assert_close(
        layer.from_image(tokens, image + pe, image),
        written_out(layer, tokens, every + pe, every),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        layer.into_image(tokens + 1, tokens, image + pe, image),
        every + written_out(layer, every + pe, tokens + 1, tokens),
        rtol=1e-4,
        atol=1e-5,
    )


def test_upscaling_equals_the_transposed_convolutions():
    torch.manual_seed(0)
    decoder = MaskDecoder(32, mlp_dim=16).requires_grad_(False)
    image, kernels = torch.randn(2, 3 * 5, 32), torch.randn(2, 3, 4)
    upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(2, 32, 3, 5))
    expected = (kernels @ upscaled.flatten(2)).view(2, 3, 12, 20)
    torch.testing.assert_close(decoder.paint(image, kernels, 3, 5), expected, rtol=1e-4, atol=1e-5)


def test_sub_tokens_are_ordered_row_by_row():
    layer = torch.nn.ConvTranspose2d(1, 1, 2, stride=2)
    layer.weight.data = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    layer.bias.data.zero_()
    assert quadruple(layer, torch.ones(1, 1)).flatten().tolist() == [1, 2, 3, 4]


def test_upscaling_in_parts_changes_nothing(monkeypatch):
    torch.manual_seed(0)
    decoder = MaskDecoder(32, mlp_dim=16).requires_grad_(False)
    image, kernels = torch.randn(2, 3 * 5, 32), torch.randn(2, 3, 4)
    whole = decoder.paint(image, kernels, 3, 5)
    monkeypatch.setattr(mask_decoder, "UPSCALED_ON_CPU", 4)
    torch.testing.assert_close(decoder.paint(image, kernels, 3, 5), whole, rtol=1e-5, atol=1e-6)


def test_image_tokens_projected_once_for_all_prompts_are_read_and_written_alike():
    torch.manual_seed(0)
    block = TwoWayAttentionBlock(16, 4, 32, first=True).requires_grad_(False)
    token_pe, image, pe = torch.randn(3, 5, 16), torch.randn(1, 20, 16), torch.randn(1, 20, 16)
    expected = block(token_pe, token_pe, image, pe)
    found = block(token_pe, token_pe, image, pe, block.project(image, pe))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_mask", [False, True])
def test_many_objects_in_one_decode_are_the_same_as_one_by_one(with_mask):
    torch.manual_seed(0)
    model = build_sam("tiny_vit_b")
    embedding = model.encode_image(torch.randn(1, 3, 128, 128))
    boxes = torch.tensor(
        [[1.0, 2, 30, 40], [50, 60, 70, 80], [5, 5, 120, 120], [9, 3, 40, 90], [70, 1, 99, 30]]
    )
    assert len(boxes) >= mask_decoder.PROJECTED_FROM
    earlier = torch.randn(len(boxes), 1, 32, 32) if with_mask else None
    masks, scores = model.decode(embedding, None, None, boxes, earlier, True)
    assert masks.shape == (len(boxes), 3, 32, 32)
    for i in range(len(boxes)):
        one = None if earlier is None else earlier[i : i + 1]
        mask, score = model.decode(embedding, None, None, boxes[i : i + 1], one, True)
        torch.testing.assert_close(masks[i], mask[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores[i], score[0], rtol=1e-4, atol=1e-5)


def test_the_single_answer_and_the_candidates_are_different_masks():
    torch.manual_seed(0)
    model = build_sam("tiny_vit_t")
    embedding = model.encode_image(torch.randn(1, 3, 128, 128))
    box = torch.tensor([[1.0, 2, 30, 40]])
    single, score = model.decode(embedding, None, None, box, None, False)
    several, scores = model.decode(embedding, None, None, box, None, True)
    assert single.shape == (1, 1, 32, 32)
    assert several.shape == (1, 3, 32, 32)
    assert score.shape == (1, 1)
    assert scores.shape == (1, 3)
    assert not any(torch.allclose(single[:, 0], several[:, i]) for i in range(3))


def test_fine_tuning_reaches_every_parameter_of_the_decoder():
    torch.manual_seed(0)
    decoder = MaskDecoder(32, mlp_dim=64)
    masks, scores = decoder(
        torch.randn(1, 32, 4, 4),
        torch.randn(1, 32, 4, 4),
        torch.randn(2, 2, 32),
        torch.randn(1, 32, 1, 1),
        True,
    )
    (masks.square().mean() + scores.square().mean()).backward()
    # The single answer's own net takes no part in the three candidates; key biases cancel in the softmax.
    untouched = {name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert all("mlps.0." in name or name.endswith("k_proj.bias") for name in untouched), untouched
