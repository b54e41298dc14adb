"""Read a file of weights of the SAM family, whoever made it, without running anything that is in it.

A checkpoint made by torch is a pickle, which can run any code when it is opened. Only torch's restricted
reader is used (``weights_only=True``), which knows tensors and plain containers and nothing else. Weights are
mapped from the file and handed to the net as they are: nothing is copied.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_medsam.models.sam import Sam, Uninitialised, build_sam
from napari_medsam.models.specs import ModelError

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state")
"""Keys under which training programs put the weights."""

FIRST_PART = "image_encoder."
"""How the names of the first tensors of every net of the family begin."""

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


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name; see `read_sam` for what is accepted and raised."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}: give the path of a checkpoint.")
    try:
        content = _opened(path)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint ({_reason(error)}): it is damaged, incomplete or of "
            "another kind, replace it with the original file."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no weights by name: give a checkpoint of the SAM family.")
    for name, tensor in content.items():
        if not isinstance(name, str) or not _has_numbers(tensor):
            raise ModelError(
                f"{path} holds other things than weights ({_shown(name)}): "
                "give a checkpoint of the SAM family."
            )
    return _unwrapped(content)


def _has_numbers(thing: Any) -> bool:
    """Whether it is a plain tensor: not sparse, not quantised, not one of torch's empty shells."""
    return (
        isinstance(thing, Tensor)
        and thing.layout == torch.strided
        and not thing.is_quantized
        and not thing.is_meta
    )


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what training programs put before every name: ``module.``, ``model.``, ``sam.``, or several."""
    start = next((name.partition(FIRST_PART)[0] for name in weights if FIRST_PART in name), "")
    if not all(name.startswith(start) for name in weights):
        return dict(weights)
    return {name.removeprefix(start): tensor for name, tensor in weights.items()}


def _opened(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))


def _can_be_mapped(path: Path) -> bool:
    """Whether it is the zip form, which torch has written since 2020, and nobody packed it anew.

    Torch takes the bytes of a mapped file for numbers, compressed or not.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if "weights_only" in text or "Unsupported global" in text:
        return "it holds code or objects, which are never opened"
    return text.split("\n")[0].rstrip(".:")[:120] or type(error).__name__


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
        f"{len(names)} of its tensors are {what} ({_shown(names[0])})" for what, names in found if names
    )


def _shown(name: Any) -> str:
    """Part of a name that anybody may have written, fit for a terminal."""
    return repr(name)[:60]
