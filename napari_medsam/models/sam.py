"""The SAM family as one model: image encoder, prompt encoder, mask decoder; builders for every variant.

Papers: SAM (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643), MedSAM and LiteMedSAM (Ma et al. 2024,
https://doi.org/10.1038/s41467-024-44824-z), MobileSAM (Zhang et al. 2023, https://arxiv.org/abs/2306.14289),
SAM-Med2D (Cheng et al. 2023, https://arxiv.org/abs/2308.16184). Origin of the parameter names and sizes:
facebookresearch/segment-anything, bowang-lab/MedSAM, ChaoningZhang/MobileSAM, OpenGVLab/SAM-Med2D (all
Apache-2.0). The code here is this project's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from napari_medsam.models.image_encoder import ImageEncoderViT
from napari_medsam.models.mask_decoder import MaskDecoder
from napari_medsam.models.prompt_encoder import PromptEncoder
from napari_medsam.models.tiny_vit import TinyViT

PROMPTS = frozenset({"box", "point", "mask"})


@dataclass(frozen=True, eq=False)
class SamEmbedding:
    """What the decoder needs of one image, whatever the prompts.

    Parameters
    ----------
    image_embeddings : (1, C, h, w) float32
        Output of the image encoder: the part worth keeping in a cache.
    image_pe : (1, C, h, w) float32
        Position encoding of the image tokens.
    """

    image_embeddings: Tensor
    image_pe: Tensor

    def to(self, device: torch.device) -> "SamEmbedding":
        """Move to a device, as tensors do."""
        return SamEmbedding(self.image_embeddings.to(device), self.image_pe.to(device))


class Sam(nn.Module):
    """A promptable model of the SAM family; fulfils `napari_medsam.models.PromptableModel`.

    Parameters
    ----------
    image_encoder
        Net with an `img_size` attribute that maps (B, 3, S, S) to (B, C, h, w).
    prompt_encoder, mask_decoder
        The prompt side.
    supported_prompts
        Subset of ``{"box", "point", "mask"}`` that the weights were trained with.
    family
        How slices must be prepared, which also depends on the weights: see `napari_medsam.contracts`.
    """

    def __init__(
        self,
        image_encoder: ImageEncoderViT | TinyViT,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        supported_prompts: frozenset[str] = PROMPTS,
        family: str = "sam",
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.image_size = image_encoder.img_size
        self.supported_prompts = supported_prompts
        self.family = family

    def set_precision(self, dtype: torch.dtype) -> "Sam":
        """Turn the image encoder's linear layers and convolutions to `dtype`.

        Attention runs in `dtype` too; the residual stream, all norms, the prompt encoder and the mask decoder
        stay float32, and so do inputs and outputs. Weights that were rounded once stay rounded.

        Parameters
        ----------
        dtype
            `torch.float32` or `torch.bfloat16`; on a GPU also `torch.float16`.

        Returns
        -------
        Sam
            The model itself.
        """
        for module in self.image_encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                module.to(dtype)
        return self

    @torch.inference_mode()
    def encode_image(self, image: Tensor) -> SamEmbedding:
        """Encode preprocessed images.

        Parameters
        ----------
        image : (B, 3, image_size, image_size) float32

        Returns
        -------
        SamEmbedding
            With (B, C, h, w) image embeddings; `decode` takes those of one image.

        Raises
        ------
        ValueError
            The image has another shape.
        """
        expected = (3, self.image_size, self.image_size)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected:
            raise ValueError(
                f"The image has shape {tuple(image.shape)} where {(1, *expected)} was expected; "
                "let SlicePredictor prepare it."
            )
        return self.embedding(self.image_encoder(image))

    @torch.inference_mode()
    def embedding(self, image_embeddings: Tensor) -> SamEmbedding:
        """Make (1, C, h, w) image embeddings, from the encoder or a cache, ready for `decode`."""
        return SamEmbedding(image_embeddings.float(), self.prompt_encoder.get_dense_pe())

    @torch.inference_mode()
    def decode(
        self,
        embedding: SamEmbedding,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Masks for B prompts on one image; see `napari_medsam.models.PromptableModel.decode`.

        Parameters
        ----------
        embedding
            What `encode_image` returned.
        point_coords : (B, N, 2) float32 or None
            (x, y) in pixels of the encoded frame, pixel centres on integers.
        point_labels : (B, N) int64 or None
            1 foreground, 0 background, -1 padding.
        boxes : (B, 4) float32 or None
            (x0, y0, x1, y1) in the same pixels.
        mask_input : (B, 1, 4 h, 4 w) float32 or None
            Logits of an earlier mask.
        multimask_output
            Three candidates instead of one.

        Returns
        -------
        low_res_masks : (B, C, 4 h, 4 w) float32
            Logits; above 0 is foreground.
        iou_predictions : (B, C) float32

        Raises
        ------
        ValueError
            No prompt was given.
        """
        sparse, dense = self.prompt_encoder(point_coords, point_labels, boxes, mask_input)
        return self.mask_decoder(
            embedding.image_embeddings, embedding.image_pe, sparse, dense, multimask_output
        )


def build_vit(
    embed_dim: int,
    depth: int,
    num_heads: int,
    global_attn_indexes: tuple[int, ...],
    image_size: int = 1024,
    adapter: bool = False,
    prompt_dim: int = 256,
    window_size: int = 14,
) -> Sam:
    """Build a SAM with a vision transformer; see `ImageEncoderViT` for the sizes."""
    encoder = ImageEncoderViT(
        img_size=image_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        global_attn_indexes=global_attn_indexes,
        window_size=window_size,
        out_chans=prompt_dim,
        adapter=adapter,
    )
    prompt_encoder = PromptEncoder(prompt_dim, image_size // 16, image_size)
    return Sam(encoder, prompt_encoder, MaskDecoder(prompt_dim, mlp_dim=8 * prompt_dim)).eval()


def build_tiny_vit(
    image_size: int,
    patch_stride: int,
    classifier: bool,
    embed_dims: tuple[int, int, int, int] = (64, 128, 160, 320),
    depths: tuple[int, int, int, int] = (2, 2, 6, 2),
    num_heads: tuple[int, int, int, int] = (2, 4, 5, 10),
    prompt_dim: int = 256,
) -> Sam:
    """Build a SAM with a TinyViT; see `TinyViT` for the sizes."""
    encoder = TinyViT(
        image_size,
        patch_stride,
        embed_dims=embed_dims,
        depths=depths,
        num_heads=num_heads,
        out_chans=prompt_dim,
        classifier=classifier,
    )
    prompt_encoder = PromptEncoder(prompt_dim, image_size // (4 * patch_stride**2), image_size)
    return Sam(encoder, prompt_encoder, MaskDecoder(prompt_dim, mlp_dim=8 * prompt_dim)).eval()


VARIANTS: Mapping[str, Callable[[], Sam]] = MappingProxyType(
    {
        "vit_b": partial(build_vit, 768, 12, 12, (2, 5, 8, 11)),
        "vit_l": partial(build_vit, 1024, 24, 16, (5, 11, 17, 23)),
        "vit_h": partial(build_vit, 1280, 32, 16, (7, 15, 23, 31)),
        "ft_sam": partial(build_vit, 768, 12, 12, (2, 5, 8, 11), image_size=256),
        "sam_med2d": partial(build_vit, 768, 12, 12, (2, 5, 8, 11), image_size=256, adapter=True),
        "vit_t": partial(build_tiny_vit, 1024, 2, classifier=True),
        "lite_medsam": partial(build_tiny_vit, 256, 1, classifier=False),
        "tiny_vit_b": partial(build_vit, 32, 2, 2, (1,), image_size=128, prompt_dim=32, window_size=3),
        "tiny_ft_sam": partial(build_vit, 32, 2, 2, (1,), image_size=64, prompt_dim=32, window_size=3),
        "tiny_sam_med2d": partial(
            build_vit, 32, 2, 2, (1,), image_size=128, adapter=True, prompt_dim=32, window_size=3
        ),
        "tiny_vit_t": partial(
            build_tiny_vit, 128, 2, True, (16, 16, 32, 32), (1, 1, 1, 1), (1, 2, 2, 4), prompt_dim=32
        ),
        "tiny_lite_medsam": partial(
            build_tiny_vit, 32, 1, False, (16, 16, 32, 32), (1, 1, 1, 1), (1, 2, 2, 4), prompt_dim=32
        ),
    }
)
"""Builders by architecture: the published ones, and a tiny one of each kind for tests."""


FIRST_VALUES = (Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_)


class Uninitialised(TorchFunctionMode):
    """Context in which layers are made without first values, for weights that are about to be replaced.

    ``torch.device("meta")`` does so, too, but loads more than 800 modules first, which takes longer than
    reading a ViT-B.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave out what writes first values."""
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in FIRST_VALUES:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def build_sam(variant: str) -> Sam:
    """Build a model of the family, with random weights, in evaluation mode.

    Build within `Uninitialised` and load with ``assign=True`` to spend no time and memory on the random
    weights.

    Parameters
    ----------
    variant
        A key of `VARIANTS`.

    Returns
    -------
    Sam

    Raises
    ------
    ValueError
        The variant is not known.
    """
    if variant not in VARIANTS:
        raise ValueError(f"There is no SAM variant {variant!r}; choose one of {', '.join(VARIANTS)}.")
    return VARIANTS[variant]()
