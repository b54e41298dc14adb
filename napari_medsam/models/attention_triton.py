"""Global attention with SAM's decomposed relative positions as one GPU kernel (Triton, CUDA, 16-bit).

The scheme is FlashAttention-2 (Dao 2023, https://arxiv.org/abs/2307.08691) with blocks of keys as wide as the
token grid: every block is one row of keys, so that the row bias is one number per query and the column bias
the same tile for all blocks, held in registers. The idea of a special kernel for SAM's bias is that of
segment-anything-fast (pytorch-labs, Apache-2.0); the code is this project's own.

Imported only where Triton is installed, which torch's Linux builds for CUDA bring along.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
"""Triton's fast exponential is base 2."""


@triton.jit
def attention_kernel(
    qkv,
    rel_h,
    rel_w,
    out,
    tokens,
    heads,
    scale,
    width: tl.constexpr,
    width_padded: tl.constexpr,
    grid_rows: tl.constexpr,
    grid_columns: tl.constexpr,
    block: tl.constexpr,
):
    """Attend from `block` queries of one head to all keys; see `fused_attention` for the layouts."""
    queries = tl.program_id(0) * block + tl.arange(0, block)
    sequence = tl.program_id(1)
    image, head = sequence // heads, sequence % heads
    stride = 3 * heads * width
    base = qkv + image.to(tl.int64) * tokens * stride + head * width
    channels = tl.arange(0, width_padded)
    columns = tl.arange(0, grid_columns)
    inside = queries[:, None] < tokens
    real = channels[None, :] < width
    at = queries[:, None] * stride + channels[None, :]
    query = tl.load(base + at, mask=inside & real, other=0.0)
    query = (query * (scale * LOG2_E)).to(qkv.dtype.element_ty)
    bias_base = sequence.to(tl.int64) * tokens
    column_at = (bias_base + queries[:, None]) * grid_columns + columns[None, :]
    column_bias = tl.load(rel_w + column_at, mask=inside, other=0.0).to(tl.float32) * LOG2_E
    row_bias_at = rel_h + bias_base * grid_rows + queries
    maximum = tl.full([block], float("-inf"), tl.float32)
    total = tl.zeros([block], tl.float32)
    result = tl.zeros([block, width_padded], tl.float32)
    for row in range(grid_rows):
        keys_at = (row * grid_columns + columns[:, None]) * stride + channels[None, :]
        key = tl.load(base + heads * width + keys_at, mask=real, other=0.0)
        row_bias = tl.load(row_bias_at + row * tokens, mask=queries < tokens, other=0.0).to(tl.float32)
        scores = tl.dot(query, tl.trans(key), column_bias) + (row_bias * LOG2_E)[:, None]
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        weights = tl.exp2(scores - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        total = total * shrink + tl.sum(weights, 1)
        value = tl.load(base + 2 * heads * width + keys_at, mask=real, other=0.0)
        result = tl.dot(weights.to(value.dtype), value, result * shrink[:, None])
        maximum = new_maximum
    result = result / total[:, None]
    out_base = out + image.to(tl.int64) * tokens * heads * width + head * width
    out_at = queries[:, None] * (heads * width) + channels[None, :]
    tl.store(out_base + out_at, result.to(out.dtype.element_ty), mask=inside & real)


def fused_attention(
    qkv: Tensor,
    heads: int,
    rel_h: Tensor,
    rel_w: Tensor,
    block: int = 128,
    num_warps: int = 8,
    num_stages: int = 3,
) -> Tensor:
    """Attention of a token grid to itself.

    Parameters
    ----------
    qkv : (B, N, 3 * C) float16 or bfloat16, contiguous
        Queries, keys and values, each split into heads.
    heads
        Number of heads.
    rel_h : (B * heads, h, N) contiguous
        Bias towards the h rows of the key grid, of each query.
    rel_w : (B * heads, N, w) contiguous
        Bias of each query towards the w columns of the key grid; a power of two of at least 16; h * w = N.
    block, num_warps, num_stages
        Queries per program, and how Triton compiles it; the defaults were the fastest on an H200.

    Returns
    -------
    (B, N, C)
    """
    batch, tokens, channels = qkv.shape
    width = channels // (3 * heads)
    out = torch.empty((batch, tokens, heads * width), dtype=qkv.dtype, device=qkv.device)
    attention_kernel[(-(-tokens // block), batch * heads)](
        qkv,
        rel_h,
        rel_w,
        out,
        tokens,
        heads,
        width**-0.5,
        width=width,
        width_padded=max(16, 1 << (width - 1).bit_length()),
        grid_rows=rel_h.shape[1],
        grid_columns=rel_w.shape[2],
        block=block,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    return out
