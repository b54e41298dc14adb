"""A scribble as a model gets it: a few points along the line, for no model here takes more."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam.prompts.values import PromptError

MOST_POINTS = 8
"""The default model has no better masks from more, and has to answer each that contradicts."""
CLOSEST_PX = 2.0


def scribble_points(path: ArrayLike) -> NDArray[np.float64]:
    """Return points along a line that was drawn, evenly spread from its first place to its last.

    Those in the middle come first: where points correct a mask one after the other, the first one says most,
    and what lies in the middle says more than an end does.

    Parameters
    ----------
    path : array_like
        (n, k) places in voxels, in the order in which they were passed; k is 2 or 3.

    Returns
    -------
    numpy.ndarray
        (m, k) float64, at most eight points, two voxels apart or more; one where nothing was passed but one
        place.

    Raises
    ------
    PromptError
        When there is no place, or one that is not made of finite numbers.
    """
    places = np.asarray(path, float)
    if places.ndim != 2 or not places.size or not np.isfinite(places).all():
        raise PromptError("A scribble needs at least one place, made of finite numbers.")
    passed = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    count = min(1 + int(passed[-1] / CLOSEST_PX), MOST_POINTS)
    at = np.linspace(0, passed[-1], count) if count > 1 else np.zeros(1)
    outwards = at[np.argsort(np.abs(at - passed[-1] / 2), kind="stable")]
    return np.stack([np.interp(outwards, passed, axis) for axis in places.T], axis=1)
