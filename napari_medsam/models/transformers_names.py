"""Names that the transformers library gives the tensors of SAM, and the published ones for them.

A file that library wrote holds the net that Meta published, under other names. Origin of both namings:
huggingface/transformers and facebookresearch/segment-anything (both Apache-2.0).
"""

import re

TO_PUBLISHED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^vision_encoder\.layers", "image_encoder.blocks"),
        (r"^vision_encoder\.patch_embed\.projection", "image_encoder.patch_embed.proj"),
        (r"^vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
        (r"^vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
        (r"^vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
        (r"^vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
        (r"^vision_encoder\.", "image_encoder."),
        # One matrix of which files hold both names or either.
        (
            r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ),
        (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (r"mask_embed\.conv1", "mask_downscaling.0"),
        (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
        (r"mask_embed\.conv2", "mask_downscaling.3"),
        (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
        (r"mask_embed\.conv3", "mask_downscaling.6"),
        (r"upscale_conv1", "output_upscaling.0"),
        (r"upscale_layer_norm", "output_upscaling.1"),
        (r"upscale_conv2", "output_upscaling.3"),
        (r"(mlps\.\d|head)\.layers\.0", r"\1.layers.1"),
        (r"(mlps\.\d|head)\.proj_in", r"\1.layers.0"),
        (r"(mlps\.\d|head)\.proj_out", r"\1.layers.2"),
        (r"\.layer_norm(\d|_final_attn)", r".norm\1"),
    )
)
"""Applied one after the other."""


def published_name(name: str) -> str:
    """Return the name under which the makers of SAM published a tensor that transformers calls `name`."""
    for pattern, replacement in TO_PUBLISHED:
        name = pattern.sub(replacement, name)
    return name
