"""The image encoder's schedules change the time, never the numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medsam.models import attention, image_encoder
from napari_medsam.models.attention import (
    decomposed_attention,
    merge_windows,
    offset_vectors,
    partition_windows,
)
from napari_medsam.models.image_encoder import Attention, Block, ImageEncoderViT, Mlp


def literal_attention(qkv, heads, size, rel_pos_h, rel_pos_w):
    """The formula as the paper writes it, in float64."""
    batch, tokens, channels = qkv.shape
    width = channels // 3 // heads
    q, k, v = qkv.double().view(batch, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / width**0.5
    for i in range(tokens):
        for j in range(tokens):
            row, column = i // size - j // size + size - 1, i % size - j % size + size - 1
            scores[:, :, i, j] += q[:, :, i] @ (rel_pos_h[row] + rel_pos_w[column]).double()
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, -1)


def example(batch=2, heads=3, size=4, width=5):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, size * size, 3 * heads * width, generator=generator)
    tables = torch.randn(2, 2 * size - 1, width, generator=generator)
    return qkv, heads, size, tables[0], tables[1]


@pytest.mark.parametrize("scores_in_cache", [1, 40, 16 * 16, 10**6])
def test_blocks_of_any_size_give_the_paper_s_attention(monkeypatch, scores_in_cache):
    monkeypatch.setattr(attention, "SCORES_IN_CACHE", scores_in_cache)
    arguments = example()
    with torch.inference_mode():
        out = decomposed_attention(*arguments)
    torch.testing.assert_close(out.double(), literal_attention(*arguments), rtol=1e-5, atol=1e-5)


def test_the_way_of_gpus_and_training_gives_the_paper_s_attention():
    arguments = example()
    torch.testing.assert_close(
        decomposed_attention(*arguments).double(), literal_attention(*arguments), rtol=1e-5, atol=1e-5
    )


def test_fine_tuning_reaches_the_relative_positions():
    qkv, heads, size, rel_pos_h, rel_pos_w = example()
    rel_pos_h.requires_grad_()
    decomposed_attention(qkv, heads, size, rel_pos_h, rel_pos_w).square().sum().backward()
    assert rel_pos_h.grad.abs().min() > 0


@pytest.mark.parametrize("hidden_in_memory", [1, 5 * 16, 10**6])
def test_a_perceptron_in_parts_maps_every_token_as_if_at_once(monkeypatch, hidden_in_memory):
    monkeypatch.setattr(image_encoder, "HIDDEN_IN_MEMORY", hidden_in_memory)
    generator = torch.Generator().manual_seed(0)
    mlp, tokens = Mlp(8, 16), torch.randn(2, 3, 4, 8, generator=generator)
    hidden = torch.nn.functional.gelu(tokens @ mlp.lin1.weight.T + mlp.lin1.bias)
    with torch.no_grad():
        torch.testing.assert_close(mlp(tokens), hidden @ mlp.lin2.weight.T + mlp.lin2.bias)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("window", [0, 3])
def test_a_block_in_parts_gives_what_it_gives_as_a_whole(window, adapter):
    torch.manual_seed(0)
    block = Block(40, 5, window or 8, window, adapter)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 8, 8, 40)
    whole = block(x)
    assert whole.requires_grad, "with gradients nothing is computed in parts"
    with torch.no_grad():
        torch.testing.assert_close(block(x), whole, rtol=1e-4, atol=1e-4)


def test_offsets_run_from_query_to_key():
    vectors = offset_vectors(torch.arange(5.0)[:, None], 3)[..., 0]
    assert vectors.tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 2))
def test_windows_put_every_token_back_in_its_place(height, width, window, batch):
    tokens = torch.arange(float(batch * height * width * 2)).view(batch, height, width, 2)
    windows = partition_windows(tokens, window, torch.full((2,), -1.0))
    assert windows.shape[1] == window * window
    assert (windows >= 0).sum() == tokens.numel()
    assert torch.equal(merge_windows(windows, window, height, width), tokens)


def test_padding_before_or_after_the_projection_is_the_same():
    """The published code pads windows with zeros first; projecting only real tokens must not show."""
    layer = Attention(8, 2, 3, 3)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 4, 5, 8)
    with torch.inference_mode():
        windows = layer.qkv(partition_windows(x, 3, torch.zeros(8)))
        expected = decomposed_attention(windows, 2, 3, layer.rel_pos_h, layer.rel_pos_w)
        expected = layer.proj(merge_windows(expected, 3, 4, 5))
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_the_residual_stream_stays_float32_in_half_precision():
    block = Block(16, 2, 2, 2, adapter=True)
    for module in block.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.to(torch.bfloat16)
    x = torch.randn(1, 4, 4, 16)
    with torch.inference_mode():
        out = block(x)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()


def test_slices_of_a_batch_are_encoded_as_if_alone():
    encoder = ImageEncoderViT(64, 16, 2, 2, (1,), window_size=3, out_chans=8)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder(images), torch.cat([encoder(image[None]) for image in images]), rtol=1e-4, atol=1e-5
        )
