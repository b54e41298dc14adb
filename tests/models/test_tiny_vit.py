"""TinyViT: norms and biases follow the weights; otherwise MobileSAM and LiteMedSAM go wrong silently."""

import pytest
import torch

from napari_medsam.models import tiny_vit
from napari_medsam.models.sam import build_sam
from napari_medsam.models.tiny_vit import Attention, ConvNorm, TinyViT


def random_conv(kernel: int, stride: int, groups: int) -> ConvNorm:
    layer = ConvNorm(4, 4, kernel, stride, groups).eval()
    for tensor in (layer.bn.weight, layer.bn.bias, layer.bn.running_mean):
        torch.nn.init.normal_(tensor)
    layer.bn.running_var.uniform_(0.5, 2.0)
    return layer.requires_grad_(False)


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 4), (3, 2, 1), (3, 2, 4)])
def test_fused_convolution_equals_convolution_then_norm(kernel, stride, groups):
    layer = random_conv(kernel, stride, groups)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(x), layer.bn(layer.c(x)), rtol=1e-5, atol=1e-5)


def test_training_updates_the_running_statistics():
    layer = random_conv(3, 1, 1).train()
    before = layer.bn.running_mean.clone()
    layer(torch.randn(2, 4, 6, 6))
    assert not torch.equal(before, layer.bn.running_mean)


def test_attention_bias_depends_on_the_absolute_offset_only():
    layer = Attention(4, 2, 3)
    layer.attention_biases.data = torch.arange(18.0).view(2, 9)
    bias = layer.bias()
    assert bias.shape == (2, 9, 9)
    for i in range(9):
        for j in range(9):
            offset = abs(i // 3 - j // 3) * 3 + abs(i % 3 - j % 3)
            assert bias[:, i, j].tolist() == [offset, 9 + offset]


def test_biases_loaded_after_eval_are_used():
    """The published code caches them in eval() and then ignores what is loaded later."""
    layer = Attention(4, 2, 3).eval()
    x = torch.randn(1, 3, 3, 4)
    with torch.inference_mode():
        before = layer(x)
    layer.attention_biases.data.normal_()
    with torch.inference_mode():
        assert not torch.allclose(layer(x), before)


def test_window_padding_takes_part_in_attention_as_published():
    """Zero tokens are added before the norm, so they attend with the norm's bias as content."""
    layer = Attention(4, 2, 3).eval().requires_grad_(False)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 2, 3, 4)
    padded = torch.cat([x, torch.zeros(1, 1, 3, 4)], dim=1)
    torch.testing.assert_close(layer(x), layer(padded)[:, :2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "side"), [(64, 2, 4), (32, 1, 8)])
def test_embedding_side_follows_the_patch_stride(size, stride, side):
    net = TinyViT(size, stride, (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1), out_chans=6).eval()
    with torch.inference_mode():
        assert net(torch.randn(2, 3, size, size)).shape == (2, 6, side, side)


@pytest.mark.parametrize("variant", ["tiny_vit_t", "tiny_lite_medsam"])
def test_wide_layers_in_parts_give_what_they_give_as_a_whole(variant, monkeypatch):
    torch.manual_seed(0)
    encoder = build_sam(variant).image_encoder
    image = torch.randn(2, 3, encoder.img_size, encoder.img_size)
    whole = encoder(image)
    assert whole.requires_grad, "with gradients nothing is computed in parts"
    monkeypatch.setattr(tiny_vit, "CHANNELS_IN_CACHE", 24)
    monkeypatch.setattr(tiny_vit, "TOKENS_IN_CACHE", 10)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), whole, rtol=1e-4, atol=1e-5)
