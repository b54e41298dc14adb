"""Which models there are, where their weights lie, and how to get one that is ready to use.

The default model comes with the package and needs no network. Nothing is ever downloaded unasked:
`napari_medsam.models.download` is called by those who want a file.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from napari_medsam.models import PromptableModel
from napari_medsam.models.checkpoints import read_sam
from napari_medsam.models.download import matches
from napari_medsam.models.places import models_folder, spec_of, weights_path
from napari_medsam.models.prompt_unet import load_prompt_unet
from napari_medsam.models.sam import Sam
from napari_medsam.models.specs import MODELS, ModelError, ModelSpec

__all__ = [
    "MODELS",
    "ModelError",
    "ModelSpec",
    "find_weights",
    "load_model",
    "models_folder",
    "verify",
    "weights_path",
]

NETS: Mapping[str, tuple[str, ...]] = {
    "sam": ("vit_b", "vit_l", "vit_h", "vit_t", "ft_sam"),
    "medsam": ("vit_b", "vit_l", "vit_h", "vit_t"),
    "lite_medsam": ("lite_medsam",),
    "sam_med2d": ("sam_med2d", "ft_sam"),
}
"""Families, and the nets their recipes fit."""

ANY_MODEL = ("model.safetensors", "pytorch_model.bin")
"""Names that the transformers library gives to every model's file: the folder is called after the model."""


def find_weights(name: str) -> Path:
    """Return where a model's weights lie.

    Raises
    ------
    ModelError
        When there is no such model, or its weights are not on this machine; says how to get them.
    """
    path = weights_path(name)
    if not path.is_file():
        how = _how_to_get(spec_of(name), path.parent)
        raise ModelError(f"The weights of {name} are not on this machine ({path}): {how}.")
    return path


def _how_to_get(spec: ModelSpec, folder: Path) -> str:
    if spec.url:
        return f"run 'napari-medsam models download {spec.name}'"
    return f"fetch {spec.file} from {spec.page} and put it into {folder}"


def verify(name: str) -> str:
    """Read a model's file as a whole and check all that can be checked.

    Parameters
    ----------
    name
        As for `load_model`.

    Returns
    -------
    str
        What was found to be right, one sentence.

    Raises
    ------
    ModelError
        When something is wrong, or the file is not there.
    """
    model = load_model(name)
    tensors = model.state_dict() if isinstance(model, torch.nn.Module) else {}
    for tensor_name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"The weights of {name} are damaged ({tensor_name}): replace the file with the original one."
            )
    spec = MODELS.get(name)
    if spec is None:
        return (
            f"{name} is complete and every weight is a number; it is fed as {model.family} "
            f"({', '.join(f'{family}=' for family in NETS)} before the path says otherwise)."
        )
    if not spec.digest:
        return f"{name} is complete and every weight is a number; nobody has published a digest of this file."
    if not matches(find_weights(name), spec.digest):
        raise ModelError(
            f"{find_weights(name)} is not the file that was published as {spec.file}: move it elsewhere and "
            f"{_how_to_get(spec, models_folder())}."
        )
    source = "others than its makers" if spec.third_party else "its makers"
    return f"{name} is the file whose {spec.digest.partition(':')[0]} digest was published by {source}."


def load_model(name: str = "default") -> PromptableModel:
    """Load a model by name, or from a user's own file.

    Parameters
    ----------
    name
        A key of `MODELS`; or the path of a file with weights of the SAM family. The net is recognised by its
        tensors. SAM and MedSAM share one net but not the way slices are prepared: a file of MedSAM's size, or
        with "medsam" in its name, is fed as MedSAM, any other as SAM; where the file's name is that of all
        models in the transformers library, ``model.safetensors``, the name of its folder counts. A ViT-B for
        256 pixels is fed as SAM-Med2D. ``medsam=PATH`` says it outright, as ``sam=``, ``lite_medsam=`` and
        ``sam_med2d=`` do.

    Raises
    ------
    ModelError
        When there is no such model, its weights are not on this machine, the file is not fit for use, or its
        net is none that the family's recipe serves.
    """
    family, equals, path = name.partition("=")
    if equals and family in NETS:
        return _own_file(Path(path).expanduser(), family)
    if name not in MODELS and (Path(name).suffix or Path(name).expanduser().exists()):
        return _own_file(Path(name).expanduser(), "")
    spec, file = spec_of(name), find_weights(name)
    if not spec.architecture:
        return load_prompt_unet(file)
    model, architecture = read_sam(file)
    if architecture != spec.architecture:
        raise ModelError(
            f"{file} holds weights of {architecture} instead of {spec.architecture}: "
            f"move it elsewhere and {_how_to_get(spec, file.parent)}."
        )
    model.family, model.supported_prompts = spec.family, spec.supported_prompts
    return model


def _own_file(path: Path, family: str) -> Sam:
    model, architecture = read_sam(path)
    net = architecture.removeprefix("tiny_")
    if family and net not in NETS[family]:
        fitting = " or ".join(f"{other}=PATH" for other, nets in NETS.items() if net in nets)
        raise ModelError(
            f"{path} holds weights of {net}, which the recipe of {family} does not fit: "
            f"give the path alone, or as {fitting}."
        )
    model.family = family or _likely_family(path, net)
    model.supported_prompts = _trained_prompts(model.family)
    return model


def _likely_family(path: Path, net: str) -> str:
    if net not in NETS["medsam"]:
        return "lite_medsam" if net in NETS["lite_medsam"] else "sam_med2d"
    called = _model_s_name(path).lower().replace("_", "").replace("-", "")
    if path.stat().st_size == MODELS["medsam_vit_b"].size_bytes or "medsam" in called:
        return "medsam"
    return "sam"


def _model_s_name(path: Path) -> str:
    """Of the file, or of its folder where the file's name is that of all models."""
    if path.name not in ANY_MODEL:
        return path.name
    folder = path.absolute().parent
    # The cache of Hugging Face: models--OWNER--NAME/snapshots/REVISION/model.safetensors.
    if folder.parent.name == "snapshots":
        return folder.parents[1].name
    # The library's training program: NAME/checkpoint-500/model.safetensors.
    return (folder.parent if folder.name.startswith("checkpoint-") else folder).name


def _trained_prompts(family: str) -> frozenset[str]:
    return next(spec.supported_prompts for spec in MODELS.values() if spec.family == family)
