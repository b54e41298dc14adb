"""Promptable segmentation nets behind one contract.

Every model of the project (`PromptUNet`, `Sam`, the SAM 2 adapter) fulfils `PromptableModel`, and one
contract test runs over all of them. x-first coordinate order and normalised inputs live only here and in
`napari_medsam.predictor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PromptableModel"]


class PromptableModel(Protocol):
    """What a net must offer so that the predictor, propagation and every front end can use it.

    The names are those of SAM (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643), since checkpoints and
    papers use them. All coordinates are (x, y), in pixels of the frame the model was given, pixel centres on
    integers.
    """

    image_size: int
    """Side in pixels of the square the net works on."""

    family: str
    """Key of `napari_medsam.contracts.CONTRACTS`: how slices must be prepared for this net."""

    supported_prompts: frozenset[str]
    """Subset of ``{"box", "point", "mask"}``: the prompts this net was trained with."""

    def encode_image(self, image: Tensor) -> Any:
        """Turn a preprocessed image, (1, C, H, W) float32, into an embedding for `decode`.

        An embedding moves with ``to(device)``, as tensors do.
        """
        ...

    def decode(
        self,
        embedding: Any,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Masks for B prompts on one embedding.

        Parameters
        ----------
        embedding
            What `encode_image` returned.
        point_coords : (B, N, 2) float32 or None
            Points (x, y).
        point_labels : (B, N) int64 or None
            1 foreground, 0 background, -1 padding.
        boxes : (B, 4) float32 or None
            Corners (x0, y0, x1, y1).
        mask_input : (B, 1, h, w) float32 or None
            Logits of an earlier mask, in the shape this net returns.
        multimask_output
            Three candidates instead of one.

        Returns
        -------
        low_res_masks : (B, C, h, w) float32
            Logits; above 0 is foreground.
        iou_predictions : (B, C) float32
            Estimated IoU of each mask, in [0, 1].
        """
        ...
