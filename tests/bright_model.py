"""A model that anybody can predict: what is bright inside the box, or around a point, is the object."""

from __future__ import annotations

import torch
from torch import Tensor

RADIUS_PX = 4


class BrightModel:
    """Fulfils `PromptableModel`; the image is its own embedding, and every mask scores 0.75."""

    image_size = 64
    family = "grey"
    supported_prompts = frozenset({"box", "point", "mask"})

    def encode_image(self, image: Tensor) -> Tensor:
        return image

    def decode(
        self,
        embedding: Tensor,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        image = embedding[0, 0]
        y, x = torch.meshgrid(*(torch.arange(size) for size in image.shape), indexing="ij")
        count = next(len(t) for t in (boxes, point_coords, mask_input) if t is not None)
        masks = []
        for n in range(count):
            allowed = torch.zeros_like(image, dtype=torch.bool)
            if boxes is not None:
                x0, y0, x1, y1 = boxes[n]
                allowed |= (y >= y0) & (y <= y1) & (x >= x0) & (x <= x1)
            if point_coords is not None and point_labels is not None:
                for (px, py), label in zip(point_coords[n], point_labels[n], strict=True):
                    near = torch.maximum((y - py).abs(), (x - px).abs()) <= RADIUS_PX
                    allowed = allowed | near if label == 1 else allowed & ~near
            masks.append(torch.where(allowed & (image > 0.5), 5.0, -5.0))
        return torch.stack(masks)[:, None], torch.full((count, 1), 0.75)
