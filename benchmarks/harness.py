"""The package as two plain functions, for scoring harnesses that bring their own data and protocol.

`predict` segments one slice from one box, `propagate` a volume from one box on one slice. Boxes are
[x0, y0, x1, y1] in inclusive pixel indices. The environment variable NAPARI_MEDSAM_BENCH_MODEL names another
model, or a weights file of the SAM family, than the default, NAPARI_MEDSAM_BENCH_WINDOW another window than
the one that suits an image.
"""

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.models.zoo import load_model
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.session import Session
from napari_medsam.windowing import Window, apply_window, parse_window

PREDICTOR = SlicePredictor(load_model(os.environ.get("NAPARI_MEDSAM_BENCH_MODEL", "default")))
LOWEST_CT_HU = -300


def volume_of(array: NDArray, meta: Mapping) -> Volume:
    """Wrap an array; a slice called CT counts as CT only while its values can be HU."""
    spacing = tuple(float(s) for s in meta.get("spacing", (1.0, 1.0, 1.0)))
    spacing = (1.0, *spacing)[-3:]
    geometry = Geometry(array.shape[:3], spacing, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    known = "CT" if meta.get("modality") == "CT" and array.min() < LOWEST_CT_HU else "other"
    if array.ndim == 4:
        return Volume(array.astype(np.uint8), geometry, "RGB", meta.get("case", ""), ())
    return Volume(array, geometry, known, meta.get("case", ""), ())


def _window(volume: Volume) -> Window:
    return parse_window(os.environ.get("NAPARI_MEDSAM_BENCH_WINDOW", "auto"), volume)


def _prompts(box: NDArray) -> SlicePrompts:
    x0, y0, x1, y1 = (float(v) for v in box)
    return SlicePrompts((y0, x0, y1, x1))


def predict(image: NDArray, box: NDArray, meta: Mapping) -> NDArray[np.bool_]:
    """Mask, (H, W), of what the box holds on a slice of raw intensities."""
    window = _window(volume_of(image[None], meta))
    PREDICTOR.set_slice(apply_window(image, window), key=(meta["case"], meta["z"], id(image)))
    return PREDICTOR.predict(_prompts(box)).masks[0]


def propagate(volume: NDArray, z: int, box: NDArray, meta: Mapping) -> NDArray[np.bool_]:
    """Mask, (Z, H, W), of the object that the box holds on slice z."""
    image = volume_of(volume, meta)
    session = Session(image, PREDICTOR, window=_window(image))
    session.add_prompts(1, SliceIndex(0, z), _prompts(box))
    for part in session.propagate(0, 1):
        session.write(part)
    return session.labels == 1
