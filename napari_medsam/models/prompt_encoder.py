"""SAM's prompt encoder: points, boxes and an earlier mask to embeddings.

Paper: Segment Anything (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643); position encoding by random
Fourier features (Tancik et al. 2020, https://arxiv.org/abs/2006.10739). Parameter names follow
facebookresearch/segment-anything (Apache-2.0). The code here is this project's own.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from napari_medsam.models.image_encoder import LayerNorm2d

BACKGROUND, FOREGROUND, FIRST_CORNER, LAST_CORNER = range(4)
"""Indices into `PromptEncoder.point_embeddings`."""


class PositionEmbeddingRandom(nn.Module):
    """Sines and cosines of random projections of a position.

    Parameters
    ----------
    features
        Half the channels of an encoding.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, positions: Tensor) -> Tensor:
        """Map (..., 2) positions (x, y) in [0, 1] to (..., 2 * features)."""
        matrix = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * positions.to(matrix.dtype) - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Prompts to sparse (one per point or corner) and dense (one per image token) embeddings.

    Parameters
    ----------
    embed_dim
        Channels of an embedding.
    image_embedding_size
        Side of the image embedding in tokens.
    input_image_size
        Side of the frame, in pixels, that prompt coordinates refer to.
    mask_in_chans
        Width of the mask branch.
    """

    def __init__(
        self, embed_dim: int, image_embedding_size: int, input_image_size: int, mask_in_chans: int = 16
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.image_embedding_size = image_embedding_size
        self.input_image_size = input_image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, 2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, 2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, embed_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    @property
    def mask_input_size(self) -> int:
        """Side of the logits of an earlier mask."""
        return 4 * self.image_embedding_size

    def get_dense_pe(self) -> Tensor:
        """Position encoding of every image token, (1, embed_dim, side, side)."""
        side = self.image_embedding_size
        centres = (torch.arange(side, device=self.no_mask_embed.weight.device) + 0.5) / side
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)
        return self.pe_layer(grid).permute(2, 0, 1)[None]

    def kind(self, index: int) -> Tensor:
        """Learned vector, (1, embed_dim), of one kind of point."""
        return cast("nn.Embedding", self.point_embeddings[index]).weight

    def embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Embed points.

        Parameters
        ----------
        point_coords : (B, N, 2)
            (x, y) in pixels of the input frame, pixel centres on integers.
        point_labels : (B, N)
            1 foreground, 0 background, -1 not a point.

        Returns
        -------
        (B, N, embed_dim)
        """
        position = self.pe_layer((point_coords + 0.5) / self.input_image_size)
        labels = point_labels[..., None]
        embedded = position + torch.where(labels == 1, self.kind(FOREGROUND), self.kind(BACKGROUND))
        return torch.where(labels == -1, self.not_a_point_embed.weight, embedded)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed (B, 4) boxes (x0, y0, x1, y1), in pixels, as (B, 2, embed_dim): a corner each."""
        position = self.pe_layer((boxes.view(-1, 2, 2) + 0.5) / self.input_image_size)
        return position + torch.cat([self.kind(FIRST_CORNER), self.kind(LAST_CORNER)])

    def forward(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Embed B prompts; at least one kind must be given.

        Parameters
        ----------
        point_coords : (B, N, 2) or None
            (x, y) in pixels of the input frame, pixel centres on integers.
        point_labels : (B, N) or None
            1 foreground, 0 background, -1 not a point; given with the points.
        boxes : (B, 4) or None
            (x0, y0, x1, y1) in the same pixels.
        mask_input : (B, 1, 4 * side, 4 * side) or None
            Logits of an earlier mask.

        Returns
        -------
        sparse_embeddings : (B, M, embed_dim)
            Points (followed by one padding point unless there is a box), then box corners.
        dense_embeddings : (B, embed_dim, side, side), or (1, embed_dim, 1, 1) without a mask
            To be added to the image embedding; without a mask one vector serves every prompt and token.
        """
        weight = self.no_mask_embed.weight
        sparse = []
        if point_coords is not None and point_labels is not None:
            sparse.append(self.embed_points(point_coords, point_labels))
            if boxes is None:
                sparse.append(self.not_a_point_embed.weight.expand(len(point_coords), 1, -1))
        if boxes is not None:
            sparse.append(self.embed_boxes(boxes))
        if mask_input is not None:
            dense = self.mask_downscaling(mask_input.to(weight.dtype))
            sparse.append(weight.new_zeros(len(mask_input), 0, self.embed_dim))
        else:
            dense = weight.view(1, -1, 1, 1)
        if not sparse:
            raise ValueError(
                "No prompt was given where a point, a box or a mask was expected; give at least one."
            )
        return torch.cat(sparse, dim=1), dense
