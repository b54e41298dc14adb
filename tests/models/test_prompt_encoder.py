"""Prompts land where the user drew them, and every kind is told apart."""

import math

import pytest
import torch

from napari_medsam.models.prompt_encoder import PromptEncoder


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return PromptEncoder(8, 4, 64, mask_in_chans=8).eval().requires_grad_(False)


def test_a_pixel_is_encoded_at_its_centre(encoder):
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    angles = 2 * math.pi * (2 * torch.tensor([10.5, 20.5]) / 64 - 1) @ matrix
    expected = torch.cat([angles.sin(), angles.cos()]) + encoder.kind(1)[0]
    out = encoder.embed_points(torch.tensor([[[10.0, 20.0]]]), torch.tensor([[1]]))
    torch.testing.assert_close(out[0, 0], expected)


def test_the_first_token_of_the_image_sits_at_the_top_left(encoder):
    pe = encoder.get_dense_pe()
    assert pe.shape == (1, 8, 4, 4)
    # Token (row 1, column 2) covers pixels 32 to 47 across and 16 to 31 down.
    torch.testing.assert_close(pe[0, :, 1, 2], encoder.pe_layer(torch.tensor([40 / 64, 24 / 64])))


def test_points_without_a_box_are_padded_and_come_before_box_corners(encoder):
    points, labels = torch.tensor([[[5.0, 6.0], [7.0, 8.0]]]), torch.tensor([[1, 0]])
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
    alone, _ = encoder(points, labels, None, None)
    both, _ = encoder(points, labels, boxes, None)
    assert alone.shape == (1, 3, 8)
    assert torch.equal(alone[0, 2], encoder.not_a_point_embed.weight[0])
    assert torch.equal(both, torch.cat([encoder.embed_points(points, labels), encoder.embed_boxes(boxes)], 1))


def test_foreground_background_and_padding_differ(encoder):
    same_place = torch.full((1, 3, 2), 9.0)
    out = encoder.embed_points(same_place, torch.tensor([[1, 0, -1]]))[0]
    torch.testing.assert_close(out[0] - out[1], (encoder.kind(1) - encoder.kind(0))[0])
    assert torch.equal(out[2], encoder.not_a_point_embed.weight[0])


def test_a_mask_alone_is_a_prompt(encoder):
    sparse, dense = encoder(None, None, None, torch.randn(2, 1, 16, 16))
    assert sparse.shape == (2, 0, 8)
    assert dense.shape == (2, 8, 4, 4)


def test_no_prompt_at_all_is_refused(encoder):
    with pytest.raises(ValueError, match="No prompt was given"):
        encoder(None, None, None, None)
