"""Attention with SAM's decomposed relative positions, in schedules that fit the device.

The formula is that of MViTv2 (Li et al. 2022, https://arxiv.org/abs/2112.01526) as used by SAM (Kirillov et
al. 2023, https://arxiv.org/abs/2304.02643; origin facebookresearch/segment-anything, Apache-2.0; the code
here is this project's own):

    softmax(scale * q k^T + rel_h[key row] + rel_w[key column]) v

with ``rel_h`` and ``rel_w`` products of the query with a learned table of row and column offsets. Written
literally, the scores of one global layer of ViT-B take 805 MB. Here they never exist as a whole: on the CPU
a few hundred query rows at a time go through a buffer that stays in the cache; elsewhere the two bias terms
become extra query and key channels of torch's own fused attention.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SCORES_IN_CACHE = 512 * 4096
"""Scores per block on the CPU: 512 query rows of ViT's 4,096 keys were the fastest on two cores."""


def in_parts(x: Tensor) -> bool:
    """Whether to compute in parts: on the CPU, for the values alone, by torch itself.

    Small parts stay in the cache, and allocators keep their memory: pieces above glibc's 32 MB go back to the
    system after every use, and getting them anew took an eighth of an encoder's time. Other engines find the
    fastest order of work themselves, if they can see what is meant.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def offset_vectors(table: Tensor, size: int) -> Tensor:
    """Offset vectors for every pair of positions along one axis.

    Parameters
    ----------
    table : (2 * size - 1, D)
        Learned vectors for the offsets ``-(size - 1)`` to ``size - 1``.
    size
        Number of positions along the axis.

    Returns
    -------
    (size, size, D)
        ``[query, key]`` holds the vector of ``query - key``.
    """
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + size - 1]


def partition_windows(tokens: Tensor, window: int, padding: Tensor) -> Tensor:
    """Cut a token grid into windows.

    Parameters
    ----------
    tokens : (B, H, W, C)
    window
        Side of a window in tokens.
    padding : (C,)
        Value of the tokens added below and right until whole windows fit.

    Returns
    -------
    (B * windows, window * window, C)
    """
    batch, height, width, channels = tokens.shape
    rows, columns = -(-height // window), -(-width // window)
    if (rows * window, columns * window) != (height, width):
        grid = padding.expand(batch, rows * window, columns * window, channels).clone()
        grid[:, :height, :width] = tokens
        tokens = grid
    tokens = tokens.view(batch, rows, window, columns, window, channels)
    return tokens.transpose(2, 3).reshape(batch * rows * columns, window * window, channels)


def merge_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put windows of `partition_windows` back together, without the added tokens.

    Parameters
    ----------
    windows : (B * windows, window * window, C)
    window
        Side of a window in tokens.
    height, width
        Token grid before it was cut.

    Returns
    -------
    (B, height, width, C)
    """
    rows, columns = -(-height // window), -(-width // window)
    grid = windows.view(-1, rows, columns, window, window, windows.shape[-1]).transpose(2, 3)
    return grid.reshape(-1, rows * window, columns * window, windows.shape[-1])[:, :height, :width]


def decomposed_attention(qkv: Tensor, heads: int, size: int, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Self-attention over square token grids, with decomposed relative positions.

    Parameters
    ----------
    qkv : (B, size * size, 3 * C)
        Queries, keys and values of every token, each split into heads.
    heads
        Number of heads.
    size
        Side of the grid.
    rel_pos_h, rel_pos_w : (2 * size - 1, C / heads)
        Learned offset vectors.

    Returns
    -------
    (B, size * size, C)
    """
    batch, tokens, channels = qkv.shape
    width = channels // (3 * heads)
    query, key, value = (
        qkv.view(batch, tokens, 3, heads, width).permute(2, 0, 3, 1, 4).reshape(3, -1, tokens, width)
    )
    grid = query.view(batch * heads, size, size, width)
    rel_h = torch.einsum("bxyc,xkc->bxyk", grid, offset_vectors(rel_pos_h, size).to(qkv.dtype))
    rel_w = torch.einsum("bxyc,ykc->bxyk", grid, offset_vectors(rel_pos_w, size).to(qkv.dtype))
    attend = blocked_attention if in_parts(qkv) else folded_attention
    if torch.compiler.is_compiling():
        attend = literal_attention
    out = attend(query, key, value, rel_h.reshape(-1, tokens, size), rel_w.reshape(-1, tokens, size))
    return out.view(batch, heads, tokens, width).transpose(1, 2).reshape(batch, tokens, heads * width)


def literal_attention(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention as the formula says it, with all scores at once; see `blocked_attention`."""
    scores = (query * query.shape[2] ** -0.5) @ key.transpose(1, 2)
    scores = scores + (rel_h[..., None] + rel_w[:, :, None]).flatten(2)
    return torch.softmax(scores, dim=2) @ value


def blocked_attention(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention whose scores pass through one small buffer, block by block (CPU, no gradients).

    Parameters
    ----------
    query, key, value : (B, N, D)
    rel_h : (B, N, h)
        Bias of each query towards the h rows of the key grid.
    rel_w : (B, N, w)
        Bias of each query towards the w columns of the key grid; h * w = N.

    Returns
    -------
    (B, N, D)
    """
    batch, tokens, width = query.shape
    rows = min(tokens, max(1, SCORES_IN_CACHE // tokens))
    group = max(1, SCORES_IN_CACHE // (tokens * tokens))
    scale = width**-0.5
    out = torch.empty_like(query)
    buffer = query.new_empty(min(group, batch), rows, tokens)
    for first in range(0, batch, group):
        part = slice(first, first + group)
        for top in range(0, tokens, rows):
            block = slice(top, top + rows)
            queries = query[part, block]
            scores = buffer[: queries.shape[0], : queries.shape[1]]
            bias = scores.view(*scores.shape[:2], rel_h.shape[2], rel_w.shape[2])
            torch.add(rel_h[part, block, :, None], rel_w[part, block, None, :], out=bias)
            scores.baddbmm_(queries, key[part].transpose(1, 2), alpha=scale)
            torch.softmax(scores, -1, out=scores)
            torch.bmm(scores, value[part], out=out[part, block])
    return out


def folded_attention(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention through the device's fused kernel; the bias rides on extra channels (any device, gradients).

    A query's bias towards key row r is the product of ``rel_h`` with the r-th unit vector: with ``rel_h`` and
    ``rel_w`` appended to the queries and unit vectors to the keys, no bias matrix is needed.

    Parameters
    ----------
    query, key, value : (B, N, D)
    rel_h : (B, N, h)
        Bias of each query towards the h rows of the key grid.
    rel_w : (B, N, w)
        Bias of each query towards the w columns of the key grid; h * w = N.

    Returns
    -------
    (B, N, D)
    """
    batch, width = query.shape[0], query.shape[2]
    height, columns = rel_h.shape[2], rel_w.shape[2]
    # Fused kernels want channels in multiples of 8 and the same number for queries, keys and values.
    spare = -(width + height + columns) % 8
    row = torch.eye(height, dtype=key.dtype, device=key.device)[:, None].expand(-1, columns, -1)
    column = torch.eye(columns, dtype=key.dtype, device=key.device).expand(height, -1, -1)
    unit = torch.cat([row, column], dim=2).flatten(0, 1)
    query = F.pad(torch.cat([query * width**-0.5, rel_h, rel_w], dim=2), (0, spare))
    key = F.pad(torch.cat([key, unit.expand(batch, -1, -1)], dim=2), (0, spare))
    value = F.pad(value, (0, height + columns + spare))
    out = F.scaled_dot_product_attention(query[None], key[None], value[None], scale=1.0)
    return out[0, :, :, :width]
