"""SAM's two-way transformer between prompt tokens and image tokens.

Paper: Segment Anything (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643). Parameter names follow
facebookresearch/segment-anything (Apache-2.0). The code here is this project's own and orders the arithmetic
for few prompt tokens (T, 7 for a box) against many image tokens (N, 4,096):

- A prompt's own image tokens are never projected. ``q (x W)^T`` is computed as ``(q W^T) x^T`` and
  ``a (x W)`` as ``(a x) W``, which costs heads * T columns per image token where a projection costs 128;
  biases of keys cancel in the softmax over image tokens, biases of values pass through it, since its rows
  sum to 1.
- Prompts on one image share the image tokens until the first layer has written to them: nothing is copied,
  and where there are more than a few prompts these tokens, and only these, are projected, once for all.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_medsam.models.image_encoder import Mlp


def product(rows: Tensor, image: Tensor) -> Tensor:
    """``rows @ image^T`` for (B, R, C) and (B or 1, N, C), without copying shared image tokens."""
    if len(image) == len(rows):
        return torch.bmm(rows, image.transpose(1, 2))
    return F.linear(rows.flatten(0, 1), image[0]).view(*rows.shape[:2], -1)


def weighted_sum(weights: Tensor, image: Tensor) -> Tensor:
    """``weights @ image`` for (B, R, N) and (B or 1, N, C), without copying shared image tokens."""
    if len(image) == len(weights):
        return torch.bmm(weights, image)
    return (weights.flatten(0, 1) @ image[0]).view(*weights.shape[:2], -1)


@dataclass(frozen=True, eq=False)
class SharedImage:
    """Image tokens that several prompts share, projected for the first layer's two cross attentions.

    Attributes
    ----------
    key : (heads, C, N)
        What prompt tokens compare themselves with when they read.
    value : (heads, N, C)
        What they read.
    query : (heads, C, N)
        What compares itself with prompt tokens when they write.
    """

    key: Tensor
    value: Tensor
    query: Tensor


class Attention(nn.Module):
    """Multi-head attention among prompt tokens, or between them and image tokens.

    Parameters
    ----------
    dim
        Channels of a token.
    num_heads
        Number of heads.
    inner_dim
        Channels of all heads together.
    """

    def __init__(self, dim: int, num_heads: int, inner_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (inner_dim // num_heads) ** -0.5
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, inner_dim) to (B, heads, T, inner_dim / heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def among_tokens(self, tokens_pe: Tensor, tokens: Tensor) -> Tensor:
        """Self-attention of (B, T, dim) tokens; queries and keys come from `tokens_pe`."""
        query, key = self.split(self.q_proj(tokens_pe)), self.split(self.k_proj(tokens_pe))
        weights = torch.softmax(query @ key.transpose(2, 3) * self.scale, dim=3)
        out = weights @ self.split(self.v_proj(tokens))
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def from_image(self, tokens_pe: Tensor, image_pe: Tensor, image: Tensor) -> Tensor:
        """What (B, T, dim) prompt tokens read from (B or 1, N, dim) image tokens.

        Parameters
        ----------
        tokens_pe : (B, T, dim)
            Queries.
        image_pe, image : (B or 1, N, dim)
            Keys and values.

        Returns
        -------
        (B, T, dim)
        """
        query = self.split(self.q_proj(tokens_pe)) * self.scale
        asked = query @ self.k_proj.weight.unflatten(0, (self.num_heads, -1))
        weights = torch.softmax(product(asked.flatten(1, 2), image_pe), dim=2)
        read = weighted_sum(weights, image).unflatten(1, (self.num_heads, -1))
        out = read @ self.v_proj.weight.unflatten(0, (self.num_heads, -1)).transpose(1, 2)
        return self.out_proj(out.transpose(1, 2).flatten(2) + self.v_proj.bias)

    def columns(self, layer: nn.Linear, image: Tensor) -> Tensor:
        """Project shared image tokens, (1, N, dim), to (heads, inner_dim / heads, N)."""
        return layer(image[0]).T.contiguous().unflatten(0, (self.num_heads, -1))

    def from_shared(self, tokens_pe: Tensor, shared: SharedImage) -> Tensor:
        """Return what `from_image` does, for image tokens that are projected already."""
        query = self.split(self.q_proj(tokens_pe)).transpose(0, 1) * self.scale
        weights = torch.softmax(query.flatten(1, 2) @ shared.key, dim=2)
        out = (weights @ shared.value).unflatten(1, query.shape[1:3])
        return self.out_proj(out.permute(1, 2, 0, 3).flatten(2))

    def into_image(
        self,
        tokens_pe: Tensor,
        tokens: Tensor,
        image_pe: Tensor,
        image: Tensor,
        shared: SharedImage | None = None,
    ) -> Tensor:
        """Image tokens after each has read from the prompt tokens.

        Parameters
        ----------
        tokens_pe, tokens : (B, T, dim)
            Keys and values.
        image_pe, image : (B or 1, N, dim)
            Queries, and the tokens that the result is added to.
        shared
            The queries, where they are projected already.

        Returns
        -------
        (B, N, dim)
        """
        key = self.split(self.k_proj(tokens_pe)) * self.scale
        if shared is not None:
            rows = key.transpose(0, 1)
            scores = (rows.flatten(1, 2) @ shared.query).unflatten(1, rows.shape[1:3]).transpose(0, 1)
        else:
            offset = key @ self.q_proj.bias.view(self.num_heads, -1, 1)
            asked = key @ self.q_proj.weight.unflatten(0, (self.num_heads, -1))
            scores = product(asked.flatten(1, 2), image_pe).unflatten(1, (self.num_heads, -1)) + offset
        weights = torch.softmax(scores, dim=2).flatten(1, 2)
        out_weight = self.out_proj.weight.T.unflatten(0, (self.num_heads, -1))
        # Every head's weights sum to 1, so each can carry its share of the output bias.
        values = self.split(self.v_proj(tokens)) @ out_weight + self.out_proj.bias / self.num_heads
        return torch.baddbmm(image, weights.transpose(1, 2), values.flatten(1, 2))


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of the prompt tokens, reading from the image, MLP, writing to the image.

    Parameters
    ----------
    dim, num_heads, mlp_dim
        Channels of a token, number of heads, width of the MLP.
    first
        The first layer: its self-attention sees no positions and replaces the tokens.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, F.relu)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, dim // 2)

    def project(self, image: Tensor, pe: Tensor) -> SharedImage:
        """Project (1, N, dim) image tokens, with (1, N, dim) position encodings, for all prompts."""
        read, write = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        return SharedImage(
            key=read.columns(read.k_proj, image + pe),
            value=read.columns(read.v_proj, image).transpose(1, 2).contiguous(),
            query=write.columns(write.q_proj, image + pe),
        )

    def forward(
        self, tokens: Tensor, token_pe: Tensor, image: Tensor, pe: Tensor, shared: SharedImage | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update (B, T, dim) prompt tokens and (B or 1, N, dim) image tokens, which become (B, N, dim)."""
        if self.first:
            tokens = self.self_attn.among_tokens(tokens, tokens)
        else:
            tokens = tokens + self.self_attn.among_tokens(tokens + token_pe, tokens)
        tokens = self.norm1(tokens)
        reader, writer = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        image_pe = image + pe if shared is None else image
        if shared is None:
            read = reader.from_image(tokens + token_pe, image_pe, image)
        else:
            read = reader.from_shared(tokens + token_pe, shared)
        tokens = self.norm2(tokens + read)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = writer.into_image(tokens + token_pe, tokens, image_pe, image, shared)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """Layers between prompt and image tokens, and a last reading from the image.

    Parameters
    ----------
    depth, dim, num_heads, mlp_dim
        Number of layers, and each layer's sizes.
    """

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, num_heads, mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def project(self, image: Tensor, pe: Tensor) -> SharedImage:
        """Project image tokens, (1, N, dim), that all prompts share, for `forward`."""
        return cast("TwoWayAttentionBlock", self.layers[0]).project(image, pe)

    def forward(
        self, token_pe: Tensor, image: Tensor, pe: Tensor, shared: SharedImage | None
    ) -> tuple[Tensor, Tensor]:
        """Run the layers.

        Parameters
        ----------
        token_pe : (B, T, dim)
            Prompt tokens, which are their own position encoding.
        image : (B or 1, N, dim)
            Image tokens.
        pe : (1, N, dim)
            Position encoding of the image tokens.
        shared
            What `project` returned for the image tokens, if it pays.

        Returns
        -------
        tokens : (B, T, dim)
        image : (B, N, dim)
        """
        tokens = token_pe
        for layer in self.layers:
            tokens, image = layer(tokens, token_pe, image, pe, shared)
            shared = None
        read = self.final_attn_token_to_image.from_image(tokens + token_pe, image + pe, image)
        return self.norm_final_attn(tokens + read), image
