"""Interactive segmentation of CT and MR volumes with Segment-Anything-family models.

The names below are loaded when first used: ``import napari_medsam`` itself costs next to nothing, so that
napari can discover the plugin, and a script can ask for the version, without waiting for torch or SimpleITK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from napari_medsam.models.zoo import load_model as load_model
    from napari_medsam.predictor import Prediction as Prediction
    from napari_medsam.predictor import SlicePredictor as SlicePredictor
    from napari_medsam.prompts import ObjectPrompts as ObjectPrompts
    from napari_medsam.prompts import PromptError as PromptError
    from napari_medsam.prompts import SliceIndex as SliceIndex
    from napari_medsam.prompts import SlicePrompts as SlicePrompts
    from napari_medsam.propagation import SliceMask as SliceMask
    from napari_medsam.session import Session as Session
    from napari_medsam.volume import Geometry as Geometry
    from napari_medsam.volume import GeometryError as GeometryError
    from napari_medsam.volume import Volume as Volume
    from napari_medsam.volume import VolumeError as VolumeError
    from napari_medsam.volume import list_series as list_series
    from napari_medsam.volume import read_labels as read_labels
    from napari_medsam.volume import read_volume as read_volume
    from napari_medsam.volume import write_labels as write_labels
    from napari_medsam.windowing import Window as Window
    from napari_medsam.windowing import parse_window as parse_window

_MODULES = {
    "Geometry": "volume",
    "GeometryError": "volume",
    "ObjectPrompts": "prompts",
    "Prediction": "predictor",
    "PromptError": "prompts",
    "Session": "session",
    "SliceIndex": "prompts",
    "SliceMask": "propagation",
    "SlicePredictor": "predictor",
    "SlicePrompts": "prompts",
    "Volume": "volume",
    "VolumeError": "volume",
    "Window": "windowing",
    "list_series": "volume",
    "load_model": "models.zoo",
    "parse_window": "windowing",
    "read_labels": "volume",
    "read_volume": "volume",
    "write_labels": "volume",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, the first time that name is used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, whether they are loaded yet or not."""
    return sorted([*globals(), *_MODULES])
