"""Which models there are, and how to get one that is ready to use.

The default model comes with the package and needs no network.
"""

from dataclasses import dataclass
from importlib import resources

from napari_medsam.models import PromptableModel
from napari_medsam.models.prompt_unet import load_prompt_unet


class ModelError(ValueError):
    """A model that is unknown or cannot be loaded; the message is one sentence for the user."""


@dataclass(frozen=True)
class ModelSpec:
    """One model, as data.

    Attributes
    ----------
    name
        What a user types.
    file
        Weights beside this module.
    licence
        SPDX name of the licence of the weights.
    trained_on
        In a few words.
    """

    name: str
    file: str
    licence: str
    trained_on: str


MODELS = {
    "default": ModelSpec(
        name="default",
        file="prompt_unet.safetensors",
        licence="BSD-3-Clause",
        trained_on="synthetic slices, SynthSeg label maps, three openly licensed MR scans",
    )
}


def load_model(name: str = "default") -> PromptableModel:
    """Load a model by name.

    Raises
    ------
    ModelError
        When there is no such model.
    """
    if name not in MODELS:
        raise ModelError(f"There is no model {name!r}: use one of {', '.join(MODELS)}.")
    with resources.as_file(resources.files("napari_medsam.models") / MODELS[name].file) as path:
        return load_prompt_unet(path)
