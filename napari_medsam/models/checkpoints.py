"""Recognise weights of the SAM family in a file, whoever made it, and put them into their net."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from napari_medsam.models.sam import Sam, Uninitialised, build_sam
from napari_medsam.models.specs import IMAGENET_DEVIATION, IMAGENET_MEAN, ModelError
from napari_medsam.models.transformers_names import published_name
from napari_medsam.models.weight_files import read_weights, shown

FIRST_PARTS = ("image_encoder.", "vision_encoder.")
"""How the names of a net's first tensors begin: as published, and in the transformers library."""

SHELLS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that torch adds for modules that were compiled or trained on many devices."""

PIXEL_LEVELS = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_DEVIATION}
"""What some programs save with SAM: how pixels are normalised, which is no part of the net."""

LOW_RANK = ("lora", "linear_a_", "w_a_0")
"""Of the names that programs give to low-rank additions to a net."""

LANDMARKS = (
    "image_encoder.pos_embed",
    "image_encoder.blocks.0.Adapter.norm.weight",
    "image_encoder.patch_embed.seq.0.c.weight",
    "image_encoder.head.weight",
)
"""Tensors whose shapes tell the architectures apart."""

ARCHITECTURES: Mapping[tuple[tuple[int, ...] | None, ...], str] = {
    ((1, 64, 64, 768), None, None, None): "vit_b",
    ((1, 64, 64, 1024), None, None, None): "vit_l",
    ((1, 64, 64, 1280), None, None, None): "vit_h",
    ((1, 16, 16, 768), None, None, None): "ft_sam",
    ((1, 16, 16, 768), (768,), None, None): "sam_med2d",
    (None, None, (32, 3, 3, 3), (1000, 320)): "vit_t",
    (None, None, (32, 3, 1, 1), None): "lite_medsam",
    ((1, 8, 8, 32), None, None, None): "tiny_vit_b",
    ((1, 4, 4, 32), None, None, None): "tiny_ft_sam",
    ((1, 8, 8, 32), (32,), None, None): "tiny_sam_med2d",
    (None, None, (8, 3, 3, 3), (1000, 32)): "tiny_vit_t",
    (None, None, (8, 3, 1, 1), None): "tiny_lite_medsam",
}
"""Architecture by the shapes of `LANDMARKS`."""


def read_sam(path: Path) -> tuple[Sam, str]:
    """Build the net that a file's weights fit, with these weights.

    Parameters
    ----------
    path
        As for `napari_medsam.models.weight_files.read_weights`; the names are those of the publishers or of
        the transformers library.

    Returns
    -------
    Sam
        In evaluation mode, float32, on the CPU, without gradients.
    str
        Its architecture, a key of `napari_medsam.models.sam.VARIANTS`.

    Raises
    ------
    ModelError
        When the file is not there, is damaged, holds something else or would run code.
    """
    weights = _published(read_weights(path))
    added = [name for name in weights if any(part in name.lower() for part in LOW_RANK)]
    if added:
        raise ModelError(
            f"{path} holds {len(added)} low-rank additions (LoRA, {shown(added[0])}): "
            "merge them into the net they were trained with, and give its weights."
        )
    architecture = architecture_of(weights)
    if not architecture and not any(name.startswith(FIRST_PARTS) for name in weights):
        part = next((name for name in weights if name.startswith(("mask_decoder.", "prompt_encoder."))), "")
        if part:
            raise ModelError(
                f"{path} holds a part of a net ({shown(part)}) without its image encoder: "
                "put it into the weights it was trained with, and give all of them."
            )
    if not architecture:
        raise ModelError(
            f"{path} holds {len(weights)} tensors that belong to no known model of the SAM family: "
            "give weights of SAM, MedSAM, MobileSAM, LiteMedSAM or SAM-Med2D."
        )
    with Uninitialised():
        model = build_sam(architecture)
    expected = model.state_dict()
    wrong = _differences(weights, expected)
    if wrong:
        raise ModelError(
            f"{path} looks like {architecture}, but {wrong}: the file is incomplete or of a changed net, "
            "give the original weights."
        )
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}
    model.load_state_dict(typed, strict=True, assign=True)
    return model.requires_grad_(False), architecture


def architecture_of(weights: Mapping[str, Tensor]) -> str:
    """Recognise the net that weights were made for; empty when it is none of the family."""
    shapes = (tuple(weights[name].shape) if name in weights else None for name in LANDMARKS)
    return ARCHITECTURES.get(tuple(shapes), "")


def _published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the published names, without what training programs add."""
    weights = _renamed(weights, lambda name: ".".join(p for p in name.split(".") if p not in SHELLS))
    start = next((n.partition(part)[0] for n in weights for part in FIRST_PARTS if part in n), "")
    weights = _renamed(weights, lambda name: name.removeprefix(start))
    if any(name.startswith(FIRST_PARTS[1]) for name in weights):
        weights = _renamed(weights, published_name)
    return {name: tensor for name, tensor in weights.items() if not _is_usual_level(name, tensor)}


def _renamed(weights: Mapping[str, Tensor], new_name: Callable[[str], str]) -> dict[str, Tensor]:
    """Give tensors new names; of two that differ and would share one, one keeps its own."""
    renamed: dict[str, Tensor] = {}
    for name in sorted(weights, key=lambda name: new_name(name) != name):
        new, tensor = new_name(name), weights[name]
        if new not in renamed:
            renamed[new] = tensor
        elif not torch.equal(renamed[new], tensor):
            renamed[name] = tensor
    return renamed


def _is_usual_level(name: str, tensor: Tensor) -> bool:
    levels = PIXEL_LEVELS.get(name)
    if levels is None or tensor.numel() != len(levels):
        return False
    return tensor.flatten().tolist() == torch.tensor(levels).to(tensor.dtype).tolist()


def _differences(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    misshapen = [n for n, t in weights.items() if n in expected and t.shape != expected[n].shape]
    # Whole numbers are those of a quantised net: without its scales they would be taken at face value.
    whole = [
        n
        for n, t in weights.items()
        if n in expected and expected[n].is_floating_point() and not t.is_floating_point()
    ]
    found = (
        ("missing", missing),
        ("unknown", unknown),
        ("of another size", misshapen),
        (f"of type {weights[whole[0]].dtype}" if whole else "", whole),
    )
    return " and ".join(
        f"{len(names)} of its tensors are {what} ({shown(names[0])})" for what, names in found if names
    )
