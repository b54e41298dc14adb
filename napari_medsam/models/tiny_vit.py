"""TinyViT, the small image encoder of MobileSAM (1,024 pixels) and LiteMedSAM (256 pixels).

Papers: TinyViT (Wu et al. 2022, https://arxiv.org/abs/2207.10666), MobileSAM (Zhang et al. 2023,
https://arxiv.org/abs/2306.14289), MedSAM (Ma et al. 2024, https://doi.org/10.1038/s41467-024-44824-z) for
LiteMedSAM. Parameter names follow ChaoningZhang/MobileSAM and the LiteMedSAM branch of bowang-lab/MedSAM
(both Apache-2.0). The code here is this project's own.

Activations stay channels-last throughout. Outside training every batch normalisation is multiplied into the
convolution before it, and attention biases are read from the parameters at every call, so that nothing goes
stale when weights are loaded. On the CPU the wide layers inside a block go through the cache in parts.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_medsam.models.attention import in_parts, merge_windows, partition_windows
from napari_medsam.models.image_encoder import Neck, dense

CHANNELS_IN_CACHE = 64
"""Hidden channels of a bottleneck computed at a time on the CPU."""

TOKENS_IN_CACHE = 1024
"""Tokens that pass an MLP at a time on the CPU."""


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, groups
        As in `torch.nn.Conv2d`; padding keeps the size at stride 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        if self.training:
            return self.bn(self.c(x))
        weight, bias = self.folded()
        if self.c.kernel_size == (1, 1):
            return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution with the normalisation multiplied in."""
        mean, variance = cast("Tensor", self.bn.running_mean), cast("Tensor", self.bn.running_var)
        scale = self.bn.weight * torch.rsqrt(variance + self.bn.eps)
        weight = (self.c.weight * scale[:, None, None, None]).to(self.c.weight.dtype)
        return weight, (self.bn.bias - mean * scale).to(self.c.weight.dtype)


class PatchEmbed(nn.Module):
    """Image to feature map by two convolutions.

    Parameters
    ----------
    embed_dim
        Channels of the map.
    stride
        Stride of each convolution: 2 with 3 x 3 kernels (MobileSAM) or 1 with 1 x 1 kernels (LiteMedSAM).
    """

    def __init__(self, embed_dim: int, stride: int) -> None:
        super().__init__()
        kernel = 3 if stride == 2 else 1
        self.seq = nn.Sequential(
            ConvNorm(3, embed_dim // 2, kernel, stride),
            nn.GELU(),
            ConvNorm(embed_dim // 2, embed_dim, kernel, stride),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, embed_dim, S / stride², S / stride²)."""
        return self.seq(image)


class MBConv(nn.Module):
    """Inverted bottleneck: widen, depthwise 3 x 3, narrow, residual.

    Parameters
    ----------
    dim, expand_ratio
        Channels outside, and how many times as many inside.
    """

    def __init__(self, dim: int, expand_ratio: int = 4) -> None:
        super().__init__()
        hidden = dim * expand_ratio
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, H, W) to the same shape."""
        # The sum over groups would lose digits in bfloat16.
        if not self.training and in_parts(x) and x.dtype == torch.float32:
            return F.gelu(self.by_channels(x))
        y = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(self.conv3(y) + x)

    def by_channels(self, x: Tensor) -> Tensor:
        """Input of the last activation, summed over groups of hidden channels."""
        (widen, b1), (depthwise, b2), (narrow, b3) = (
            conv.folded() for conv in (self.conv1, self.conv2, self.conv3)
        )
        tokens = x.permute(0, 2, 3, 1)
        out = (tokens + b3).flatten(0, 2)
        for first in range(0, len(b1), CHANNELS_IN_CACHE):
            part = slice(first, first + CHANNELS_IN_CACHE)
            y = F.gelu(F.linear(tokens, widen[part].flatten(1), b1[part])).permute(0, 3, 1, 2)
            y = F.gelu(F.conv2d(y, depthwise[part], b2[part], padding=1, groups=y.shape[1]))
            out.addmm_(y.permute(0, 2, 3, 1).flatten(0, 2), narrow[:, part].flatten(1).T)
        return out.view(tokens.shape).permute(0, 3, 1, 2)


class PatchMerging(nn.Module):
    """Change of stage: new width, and half the resolution at stride 2.

    Parameters
    ----------
    dim, out_dim
        Channels before and after.
    stride
        1 or 2.
    """

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, out_dim)
        self.conv2 = ConvNorm(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvNorm(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, H, W) to (B, out_dim, H / stride, W / stride)."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Attention within windows, with one learned bias per head and absolute offset.

    Parameters
    ----------
    dim, num_heads
        Channels of a token and number of heads.
    window
        Side of a window in tokens.
    """

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))

    def bias(self) -> Tensor:
        """(heads, N, N) biases of all pairs of the N tokens of a window."""
        line = torch.arange(self.window, device=self.attention_biases.device)
        offsets = (line[:, None] - line).abs()
        pairs = offsets[:, None, :, None] * self.window + offsets[None, :, None, :]
        return self.attention_biases[:, pairs.reshape(self.window**2, -1)]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, dim) to the same shape."""
        height, width, dim = x.shape[1:]
        qkv = dense(self.qkv, self.norm(x.float()))
        # Windows are padded with zero tokens before the norm: after this layer they all equal this one row.
        padding = dense(self.qkv, self.norm.bias)
        windows = partition_windows(qkv, self.window, padding)
        # Each head's queries, keys and values lie side by side in the published weights.
        heads = windows.view(*windows.shape[:2], self.num_heads, 3, dim // self.num_heads)
        query, key, value = heads.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.bias().to(qkv.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        out = out.transpose(1, 2).flatten(2)
        return dense(self.proj, merge_windows(out, self.window, height, width))


class Mlp(nn.Module):
    """Layer normalisation, then two linear layers with a GELU between them.

    Parameters
    ----------
    dim, hidden_dim
        Channels of a token outside and inside.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to the same shape."""
        if in_parts(x):
            parts = x.flatten(0, -2).split(TOKENS_IN_CACHE)
            return torch.cat([self.whole(part) for part in parts]).view(x.shape)
        return self.whole(x)

    def whole(self, x: Tensor) -> Tensor:
        """Map (..., dim) to the same shape, all tokens at once."""
        return dense(self.fc2, F.gelu(dense(self.fc1, self.norm(x.float()))))


class TinyViTBlock(nn.Module):
    """Window attention, depthwise 3 x 3 convolution, MLP.

    Parameters
    ----------
    dim, num_heads, window
        See `Attention`.
    """

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads, window)
        self.mlp = Mlp(dim, 4 * dim)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, H, W), channels-last in memory, to the same."""
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + self.attn(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one width, then the change to the next.

    Parameters
    ----------
    blocks
        The blocks in order.
    downsample
        The change to the next stage, None after the last.
    """

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, H, W) to the next stage's input."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """Image to image embeddings.

    Parameters
    ----------
    img_size
        Side of the square input in pixels.
    patch_stride
        Stride of each of the two patch convolutions: 2 for MobileSAM, 1 for LiteMedSAM.
    embed_dims, depths, num_heads, window_sizes
        Per stage. The first stage is convolutional and ignores heads and window.
    out_chans
        Channels of the embedding.
    classifier
        Also hold the unused ImageNet head that MobileSAM's checkpoint carries, so that it loads strictly.
    """

    def __init__(
        self,
        img_size: int,
        patch_stride: int,
        embed_dims: tuple[int, int, int, int] = (64, 128, 160, 320),
        depths: tuple[int, int, int, int] = (2, 2, 6, 2),
        num_heads: tuple[int, int, int, int] = (2, 4, 5, 10),
        window_sizes: tuple[int, int, int, int] = (7, 7, 14, 7),
        out_chans: int = 256,
        classifier: bool = False,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbed(embed_dims[0], patch_stride)
        stages = []
        for i, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            blocks: list[nn.Module] = [
                TinyViTBlock(dim, num_heads[i], window_sizes[i]) if i else MBConv(dim) for _ in range(depth)
            ]
            # SAM wants 64 x 64 embeddings: the last change of stage keeps the resolution.
            down = PatchMerging(dim, embed_dims[i + 1], 1 if i == 2 else 2) if i < 3 else None
            stages.append(Stage(blocks, down))
        self.layers = nn.ModuleList(stages)
        if classifier:
            self.norm_head = nn.LayerNorm(embed_dims[-1])
            self.head = nn.Linear(embed_dims[-1], 1000)
        self.neck = Neck(embed_dims[-1], out_chans)

    def forward(self, image: Tensor) -> Tensor:
        """Encode preprocessed images.

        Parameters
        ----------
        image : (B, 3, img_size, img_size) float32

        Returns
        -------
        (B, out_chans, S, S) float32
            S is `img_size` / 16 at patch stride 2 and `img_size` / 4 at patch stride 1.
        """
        dtype = cast("ConvNorm", self.patch_embed.seq[0]).c.weight.dtype
        x = self.patch_embed(image.to(dtype, memory_format=torch.channels_last))
        for stage in self.layers:
            x = stage(x)
        return self.neck(x.permute(0, 2, 3, 1))
