"""Where the weights of models lie. Does not load torch: a window lists the models before one is needed."""

import os
from importlib import resources
from pathlib import Path

from napari_medsam.models.specs import MODELS, ModelError, ModelSpec

FOLDER_VARIABLE = "NAPARI_MEDSAM_MODELS"

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Of files with weights, the likeliest first."""


def models_folder() -> Path:
    """Return the folder of downloaded weights.

    It is the one that the environment variable ``NAPARI_MEDSAM_MODELS`` names, for machines without network
    or with one folder for all users; else one in the user's cache.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("napari-medsam")) / "models"


def spec_of(name: str) -> ModelSpec:
    """Look a model up by name; ModelError names those there are."""
    if name not in MODELS:
        raise ModelError(
            f"There is no model {name!r}: use one of {', '.join(MODELS)}, or the path of your own file."
        )
    return MODELS[name]


def weights_digest(name: str) -> str:
    """Say which file a model's weights are: ``sha256:`` and its digest, "" where it is not on this machine.

    Parameters
    ----------
    name
        As for `napari_medsam.models.zoo.load_model`.
    """
    import pooch

    own = Path(name.partition("=")[2] or name).expanduser()
    path = weights_path(name) if name in MODELS else own
    return f"sha256:{pooch.file_hash(str(path))}" if path.is_file() else ""


def weights_path(name: str) -> Path:
    """Return where a model's weights lie, or will lie once they are downloaded.

    Raises
    ------
    ModelError
        When there is no such model.
    """
    spec = spec_of(name)
    if not spec.architecture:
        return Path(str(resources.files("napari_medsam.models") / spec.file))
    return models_folder() / spec.file
