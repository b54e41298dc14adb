"""Read a file of weights of the SAM family, whoever made it, without running anything that is in it.

A checkpoint made by torch is a pickle, which can run any code when it is opened. Only torch's restricted
reader is used (``weights_only=True``), which knows tensors and plain containers and nothing else. Weights are
mapped from the file and handed to the net as they are: nothing is copied.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_medsam.models.sam import Sam, Uninitialised, build_sam
from napari_medsam.models.specs import ModelError

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state")
"""Keys under which training programs put the weights."""

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
    ((1, 16, 16, 768), (768,), None, None): "sam_med2d",
    (None, None, (32, 3, 3, 3), (1000, 320)): "vit_t",
    (None, None, (32, 3, 1, 1), None): "lite_medsam",
    ((1, 8, 8, 32), None, None, None): "tiny_vit_b",
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
        Made by `torch.save`, or a safetensors file; the weights alone or wrapped by a training program.

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
    weights = read_weights(path)
    architecture = architecture_of(weights)
    if not architecture:
        raise ModelError(
            f"{path} holds {len(weights)} tensors that belong to no known model of the SAM family: "
            "give weights of SAM, MedSAM, MobileSAM, LiteMedSAM or SAM-Med2D."
        )
    with Uninitialised():
        model = build_sam(architecture)
    expected = model.state_dict()
    for name, tensor in weights.items():
        if name in expected and expected[name].is_floating_point():
            weights[name] = tensor.float()
    wrong = _differences(weights, expected)
    if wrong:
        raise ModelError(
            f"{path} looks like {architecture}, but {wrong}: the file is incomplete or of a changed net, "
            "give the original weights."
        )
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False), architecture


def architecture_of(weights: Mapping[str, Tensor]) -> str:
    """Recognise the net that weights were made for; empty when it is none of the family."""
    shapes = (tuple(weights[name].shape) if name in weights else None for name in LANDMARKS)
    return ARCHITECTURES.get(tuple(shapes), "")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name; see `read_sam` for what is accepted and raised."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}: give the path of a checkpoint.")
    try:
        content = _opened(path)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint ({_reason(error)}): it is damaged, incomplete or of "
            "another kind, fetch it again."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no weights by name: give a checkpoint of the SAM family.")
    weights = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ModelError(
                f"{path} holds other things than weights ({name!r}): give a checkpoint of the SAM family."
            )
        weights[name.removeprefix("module.")] = tensor
    return weights


def _opened(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    # Only the zip form, which torch has written since 2020, can be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if "weights_only" in text or "Unsupported global" in text:
        return "it holds code or objects, which are never opened"
    return text.split("\n")[0].rstrip(".:")[:120] or type(error).__name__


def _differences(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    misshapen = [n for n, t in weights.items() if n in expected and t.shape != expected[n].shape]
    found = (("missing", missing), ("unknown", unknown), ("of another size", misshapen))
    return " and ".join(
        f"{len(names)} of its tensors are {what} ({names[0]})" for what, names in found if names
    )
