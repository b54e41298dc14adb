"""SAM's image encoder: a plain vision transformer with windowed and global attention (ViT-B, ViT-L, ViT-H).

Paper: Segment Anything (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643), after ViTDet (Li et al.
2022, https://arxiv.org/abs/2203.16527). Parameter names follow facebookresearch/segment-anything
(Apache-2.0). The adapters are those of SAM-Med2D (Cheng et al. 2023, https://arxiv.org/abs/2308.16184; origin
OpenGVLab/SAM-Med2D, Apache-2.0). The code here is this project's own.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_medsam.models.attention import (
    decomposed_attention,
    in_parts,
    merge_windows,
    partition_windows,
)


def dense(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a linear layer or a 1 x 1 convolution to the last axis, in the precision of its weights."""
    weight = layer.weight.flatten(1)
    return F.linear(x.to(weight.dtype), weight, layer.bias)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of (B, C, H, W), eps 1e-6.

    Parameters
    ----------
    channels
        C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def over_last(self, x: Tensor) -> Tensor:
        """Normalise (..., C) in float32."""
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) in float32."""
        return self.over_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Neck(nn.Sequential):
    """Tokens to image embeddings: 1 x 1 and 3 x 3 convolution, each with layer normalisation.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the tokens and of the embedding.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, H, W, in_channels) to (B, out_channels, H, W) float32."""
        reduce, mix = cast("nn.Conv2d", self[0]), cast("nn.Conv2d", self[2])
        norm, last_norm = cast("LayerNorm2d", self[1]), cast("LayerNorm2d", self[3])
        x = norm.over_last(dense(reduce, tokens)).to(mix.weight.dtype)
        return last_norm(mix(x.permute(0, 3, 1, 2))).contiguous()


class PatchEmbed(nn.Module):
    """Image to tokens: one linear map of every patch.

    Parameters
    ----------
    patch_size
        Side of a patch in pixels.
    embed_dim
        Channels of a token.
    """

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, S / patch, S / patch, embed_dim)."""
        batch, channels, height, width = image.shape
        side = self.patch_size
        patches = image.view(batch, channels, height // side, side, width // side, side)
        return dense(self.proj, patches.permute(0, 2, 4, 1, 3, 5).flatten(3))


HEADS_AT_ONCE = 3
"""Heads of global attention computed at a time on the CPU; see `attention.in_parts`."""


class Attention(nn.Module):
    """Multi-head self-attention with relative positions, over the whole grid or in windows.

    Parameters
    ----------
    dim
        Channels of a token.
    num_heads
        Number of heads.
    size
        Side of the grid that attends to itself: a window, or the whole grid.
    window
        Side of a window in tokens, 0 for global attention.
    """

    def __init__(self, dim: int, num_heads: int, size: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.size = size
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, dim) to the same shape."""
        height, width = x.shape[1:3]
        at_once = HEADS_AT_ONCE if not self.window and in_parts(x) else self.num_heads
        parts = [self._of_heads(x, slice(i, i + at_once)) for i in range(0, self.num_heads, at_once)]
        out = merge_windows(torch.cat(parts, 2), self.window or self.size, height, width)
        return dense(self.proj, out)

    def _of_heads(self, x: Tensor, part: slice) -> Tensor:
        """Map (B, H, W, dim) to (B * windows, N, channels of these heads)."""
        weight = self.qkv.weight.unflatten(0, (3, self.num_heads, -1))[:, part].flatten(0, 2)
        bias = self.qkv.bias.view(3, self.num_heads, -1)[:, part]
        # Published weights were trained with zero tokens as window padding: after this layer they are its
        # bias, so only real tokens need the product.
        qkv = F.linear(x.to(weight.dtype), weight, bias.flatten())
        windows = partition_windows(qkv, self.window, bias.flatten()) if self.window else qkv.flatten(1, 2)
        return decomposed_attention(windows, bias.shape[1], self.size, self.rel_pos_h, self.rel_pos_w)


HIDDEN_IN_MEMORY = 2**22
"""Hidden values of a `Mlp` computed at a time on the CPU; see `attention.in_parts`."""


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    Parameters
    ----------
    dim, hidden_dim
        Channels of a token outside and inside.
    activation
        What to apply between.
    """

    def __init__(self, dim: int, hidden_dim: int, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.activation = activation
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to the same shape."""
        if not in_parts(x):
            return self._mapped(x)
        tokens = x.flatten(0, -2)
        at_once = max(1, HIDDEN_IN_MEMORY // self.lin1.out_features)
        return torch.cat([self._mapped(part) for part in tokens.split(at_once)]).view(x.shape)

    def _mapped(self, x: Tensor) -> Tensor:
        return dense(self.lin2, self.activation(dense(self.lin1, x)))


class Adapter(nn.Module):
    """SAM-Med2D's adapter: channel gate, then a strided convolution and its transpose, added to the input.

    Parameters
    ----------
    dim
        Channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.channel = nn.Sequential(
            nn.Linear(dim, dim // 4, bias=False),
            nn.ReLU(),
            nn.Linear(dim // 4, dim, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, dim) to the same shape; H and W even."""
        x = x.to(cast("nn.Linear", self.channel[0]).weight.dtype)
        gated = x * self.channel(x.mean((1, 2)))[:, None, None]
        mixed = self.spatial(gated.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm((x + mixed).float())


class Block(nn.Module):
    """Transformer block: attention and MLP, each normalised before and added after.

    Parameters
    ----------
    dim, num_heads
        Channels of a token and number of heads.
    size, window
        See `Attention`.
    adapter
        Add SAM-Med2D's adapter beside the MLP.
    """

    def __init__(self, dim: int, num_heads: int, size: int, window: int, adapter: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, size, window)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)
        if adapter:
            self.Adapter = Adapter(dim)
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, dim) float32 to the same shape, float32 whatever the precision of the weights."""
        window = self.attn.window
        if not window or self.adapter or not in_parts(x):
            return self._mapped(x)
        # Nothing here looks beyond its window, so rows of windows can go through one after the other.
        bands = [self._mapped(band) for image in x.split(1) for band in image.split(window, 1)]
        return torch.cat(bands, 1).view(x.shape)

    def _mapped(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        x = x + self.mlp(y)
        return x + self.Adapter(y) if self.adapter else x


class ImageEncoderViT(nn.Module):
    """Image to image embeddings.

    Parameters
    ----------
    img_size
        Side of the square input in pixels, a multiple of `patch_size`.
    embed_dim, depth, num_heads
        Width, number of blocks and heads of the transformer.
    global_attn_indexes
        Blocks that attend to the whole image; the others attend in windows.
    window_size
        Side of a window in tokens.
    patch_size
        Side of a patch in pixels.
    out_chans
        Channels of the embedding.
    adapter
        Build the blocks with SAM-Med2D's adapters.
    """

    def __init__(
        self,
        img_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        global_attn_indexes: tuple[int, ...],
        window_size: int = 14,
        patch_size: int = 16,
        out_chans: int = 256,
        adapter: bool = False,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        grid = img_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim))
        windows = [0 if i in global_attn_indexes else window_size for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, window or grid, window, adapter) for window in windows
        )
        self.neck = Neck(embed_dim, out_chans)

    def forward(self, image: Tensor) -> Tensor:
        """Encode preprocessed images.

        Parameters
        ----------
        image : (B, 3, img_size, img_size) float32

        Returns
        -------
        (B, out_chans, img_size / patch, img_size / patch) float32
        """
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x)
