"""The publishers' order of work, on this project's nets: the baseline of `speed_sam.py`.

Same weights and the same numbers as the nets themselves, computed the way the published code does: windows
padded before the projections, full score matrices, convolutions and batch norms one after the other in
channels-first memory, image tokens copied for every prompt. Written from the papers and from the facts of
facebookresearch/segment-anything and ChaoningZhang/MobileSAM (both Apache-2.0).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_medsam.models import image_encoder, tiny_vit, transformer
from napari_medsam.models.attention import merge_windows, offset_vectors, partition_windows
from napari_medsam.models.sam import Sam, SamEmbedding


def vit_patches(self: image_encoder.PatchEmbed, image: Tensor) -> Tensor:
    """Patch embedding as a convolution."""
    return F.conv2d(image, self.proj.weight, self.proj.bias, stride=self.patch_size).permute(0, 2, 3, 1)


def vit_attention(self: image_encoder.Attention, x: Tensor) -> Tensor:
    """Windows padded before the projections, full score matrices."""
    height, width, dim = x.shape[1:]
    windows = partition_windows(x, self.window, x.new_zeros(dim)) if self.window else x.flatten(1, 2)
    count, tokens, _ = windows.shape
    qkv = self.qkv(windows).view(count, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.reshape(3, count * self.num_heads, tokens, -1).unbind(0)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)
    grid = query.view(-1, self.size, self.size, query.shape[-1])
    rel_h = torch.einsum("bxyc,xkc->bxyk", grid, offset_vectors(self.rel_pos_h, self.size))
    rel_w = torch.einsum("bxyc,ykc->bxyk", grid, offset_vectors(self.rel_pos_w, self.size))
    scores = scores.view(*grid.shape[:3], self.size, self.size) + rel_h[..., None] + rel_w[..., None, :]
    weights = scores.view(-1, tokens, tokens).softmax(dim=2)
    out = (
        (weights @ value).view(count, self.num_heads, tokens, -1).transpose(1, 2).reshape(count, tokens, dim)
    )
    return merge_windows(self.proj(out), self.window or self.size, height, width)


def conv_norm(self: tiny_vit.ConvNorm, x: Tensor) -> Tensor:
    """Convolution and batch norm apart, channels-first."""
    return self.bn(self.c(x.contiguous()))


def tiny_attention(self: tiny_vit.Attention, x: Tensor) -> Tensor:
    """Windows padded before norm and projections, full score matrices."""
    height, width, dim = x.shape[1:]
    windows = partition_windows(x.contiguous(), self.window, x.new_zeros(dim))
    qkv = self.qkv(self.norm(windows)).unflatten(2, (self.num_heads, 3, -1))
    query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + self.bias()
    out = (scores.softmax(dim=3) @ value).transpose(1, 2).reshape(*windows.shape)
    return merge_windows(self.proj(out), self.window, height, width)


def whole(x: Tensor) -> bool:
    """Nothing is computed in parts."""
    return False


@contextmanager
def reference_encoders() -> Iterator[None]:
    """Image encoders run in the publishers' order inside this context."""
    with (
        patch.object(image_encoder.PatchEmbed, "forward", vit_patches),
        patch.object(image_encoder.Attention, "forward", vit_attention),
        patch.object(image_encoder, "in_parts", whole),
        patch.object(tiny_vit, "in_parts", whole),
        patch.object(tiny_vit.ConvNorm, "forward", conv_norm),
        patch.object(tiny_vit.Attention, "forward", tiny_attention),
    ):
        yield


def attend(layer: transformer.Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Projections of everything, then attention."""
    query, key = layer.split(layer.q_proj(query)), layer.split(layer.k_proj(key))
    weights = torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=3)
    out = (weights @ layer.split(layer.v_proj(value))).transpose(1, 2).flatten(2)
    return layer.out_proj(out)


def reference_decode(model: Sam, embedding: SamEmbedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Decode (B, 4) boxes with the image tokens copied for each.

    Parameters
    ----------
    model, embedding, boxes
        As in `Sam.decode`.

    Returns
    -------
    low_res_masks : (B, 1, 4 h, 4 w)
    iou_predictions : (B, 1)
    """
    decoder, prompts = model.mask_decoder, model.prompt_encoder
    sparse, dense = prompts(None, None, boxes, None)
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    token_pe = torch.cat([output_tokens.expand(len(boxes), -1, -1), sparse], dim=1)
    image = embedding.image_embeddings.repeat_interleave(len(boxes), dim=0)
    image = image + dense.expand_as(image)
    pe = prompts.get_dense_pe().repeat_interleave(len(boxes), dim=0).flatten(2).transpose(1, 2)
    count, channels, height, width = image.shape
    tokens, image = token_pe, image.flatten(2).transpose(1, 2)
    for layer in decoder.transformer.layers:
        if layer.first:
            tokens = attend(layer.self_attn, tokens, tokens, tokens)
        else:
            asked = tokens + token_pe
            tokens = tokens + attend(layer.self_attn, asked, asked, tokens)
        tokens = layer.norm1(tokens)
        read = attend(layer.cross_attn_token_to_image, tokens + token_pe, image + pe, image)
        tokens = layer.norm2(tokens + read)
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        written = attend(layer.cross_attn_image_to_token, image + pe, tokens + token_pe, tokens)
        image = layer.norm4(image + written)
    read = attend(decoder.transformer.final_attn_token_to_image, tokens + token_pe, image + pe, image)
    tokens = decoder.transformer.norm_final_attn(tokens + read)
    upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(count, channels, height, width))
    kernels = [net(tokens[:, 1 + i]) for i, net in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.stack(kernels, dim=1) @ upscaled.flatten(2)
    masks = masks.view(count, -1, 4 * height, 4 * width)
    return masks[:, :1], decoder.iou_prediction_head(tokens[:, 0])[:, :1]
