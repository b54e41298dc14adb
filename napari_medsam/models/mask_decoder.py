"""SAM's mask decoder: a two-way transformer between prompt tokens and image tokens, then upscaling to masks.

Paper: Segment Anything (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643). Parameter names follow
facebookresearch/segment-anything (Apache-2.0). The code here is this project's own:

- On the CPU prompts go through the net two at a time, and image tokens through the upscaling in parts: what
  is written is still in the cache when it is read, and no buffer is so large that the system hands it out
  anew each time, which takes as long as the arithmetic.
- Upscaling by transposed convolutions of stride 2 is a linear layer per token; pixels are put in their places
  once, in the finished masks.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_medsam.models.image_encoder import LayerNorm2d
from napari_medsam.models.transformer import TwoWayTransformer

PROJECTED_FROM = 4
"""Prompts from which on it pays to project the image tokens that they share."""

PROMPTS_ON_CPU = 2
"""Prompts that go through the net together on the CPU."""

UPSCALED_ON_CPU = 2048
"""Image tokens upscaled at a time on the CPU."""


class Mlp3(nn.Module):
    """Three linear layers with ReLU between them.

    Parameters
    ----------
    dim, out_dim
        Channels in and between, and channels out.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_dim)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., out_dim)."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class MaskDecoder(nn.Module):
    """Prompt embeddings and image embeddings to masks.

    Parameters
    ----------
    dim
        Channels of a token.
    depth, num_heads, mlp_dim
        Sizes of the two-way transformer.
    num_multimask_outputs
        Candidates for an ambiguous prompt, besides the single answer.
    """

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        num_multimask_outputs: int = 3,
    ) -> None:
        super().__init__()
        self.num_mask_tokens = num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(depth, dim, num_heads, mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Mlp3(dim, dim // 8) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = Mlp3(dim, self.num_mask_tokens)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_embeddings: Tensor,
        dense_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Masks for B prompts on one image.

        Parameters
        ----------
        image_embeddings : (1, dim, h, w)
        image_pe : (1, dim, h, w)
            Position encoding of the image tokens.
        sparse_embeddings : (B, M, dim)
        dense_embeddings : (B or 1, dim, h or 1, w or 1)
        multimask_output
            The candidates for an ambiguous prompt instead of the single answer.

        Returns
        -------
        low_res_masks : (B, C, 4 h, 4 w)
            Logits; C is 1, or `num_multimask_outputs`.
        iou_predictions : (B, C)
        """
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        count = len(sparse_embeddings)
        tokens = torch.cat([output_tokens.expand(count, -1, -1), sparse_embeddings], dim=1)
        height, width = image_embeddings.shape[2:]
        image = (image_embeddings + dense_embeddings).flatten(2).transpose(1, 2).contiguous()
        pe = image_pe.flatten(2).transpose(1, 2).contiguous()
        projected = len(image) == 1 and count >= PROJECTED_FROM
        shared = self.transformer.project(image, pe) if projected else None
        wanted = range(1, self.num_mask_tokens) if multimask_output else range(1)
        at_once = PROMPTS_ON_CPU if image.device.type == "cpu" else count
        masks, scores = [], []
        for first in range(0, count, at_once):
            part = slice(first, first + at_once)
            own = image if len(image) == 1 else image[part]
            read, written = self.transformer(tokens[part], own, pe, shared)
            kernels = [self.output_hypernetworks_mlps[i](read[:, 1 + i]) for i in wanted]
            masks.append(self.paint(written, torch.stack(kernels, dim=1), height, width))
            scores.append(self.iou_prediction_head(read[:, 0])[:, wanted.start : wanted.stop])
        return torch.cat(masks), torch.cat(scores)

    def paint(self, image: Tensor, kernels: Tensor, height: int, width: int) -> Tensor:
        """Upscale image tokens four times and apply one kernel per mask.

        Parameters
        ----------
        image : (B, height * width, dim)
        kernels : (B, C, dim / 8)
        height, width
            Token grid.

        Returns
        -------
        (B, C, 4 * height, 4 * width)
        """
        first, second = (cast("nn.ConvTranspose2d", self.output_upscaling[i]) for i in (0, 3))
        norm = cast("LayerNorm2d", self.output_upscaling[1])
        at_once = UPSCALED_ON_CPU if image.device.type == "cpu" else image.shape[1]
        parts = []
        for tokens in image.split(at_once, dim=1):
            x = F.gelu(norm.over_last(quadruple(first, tokens)))
            x = F.gelu(quadruple(second, x)).flatten(1, -2)
            parts.append(torch.bmm(kernels, x.transpose(1, 2)))
        masks = torch.cat(parts, dim=2)
        # A token's 16 pixels are ordered row, column of the first doubling, then row, column of the second.
        masks = masks.view(*kernels.shape[:2], height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(*kernels.shape[:2], 4 * height, 4 * width)


def quadruple(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Transposed convolution of kernel 2 and stride 2: (..., C) tokens to (..., 4, C') sub-tokens."""
    inputs, outputs = layer.weight.shape[:2]
    weight = layer.weight.permute(2, 3, 1, 0).reshape(4 * outputs, inputs)
    return F.linear(x, weight, cast("Tensor", layer.bias).repeat(4)).unflatten(-1, (4, outputs))
