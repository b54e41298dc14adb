"""What propagation takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_medsam.predictor import Prediction
    from napari_medsam.prompts import SliceIndex, SlicePrompts
    from napari_medsam.propagation.quality import Evidence

Mask = NDArray[np.bool_]

CORRECTED, ACCEPTED = "corrected", "accepted"
"""Why a slice is a key slice: somebody changed the mask by hand, or said that it is right."""
PROMPT = "prompt"
"""Reason of a mask that the model found from somebody's prompts on the slice itself."""
PROPAGATED = "propagated"
"""Reason of a mask that was carried from one key slice."""
BOTH_SIDES = "propagated from both sides"
"""Reason of a mask between two key slices: carried from them, and blended with the shape between them."""
INTERPOLATED = "interpolated"
"""Reason of a mask that was blended from its neighbours, because the model lost the object there."""
BY_VOTE = "agreed on by two of three planes"
"""Reason of a mask that was carried along all three axes."""
CLEARED = "beyond the object's end"
"""Reason of the empty mask where an earlier run had carried the object further."""


class Predictor(Protocol):
    """What a session asks: a `SlicePredictor`, or what stands in for one."""

    @property
    def key(self) -> Hashable | None:
        """Name of the slice that is set."""
        ...

    @property
    def supported_prompts(self) -> frozenset[str]:
        """Which of ``"box"``, ``"point"`` and ``"mask"`` the model was trained with."""
        ...

    def set_slice(self, image: NDArray, key: Hashable | None = None) -> None:
        """Set the slice that `predict` is about."""
        ...

    def predict(
        self, prompts: SlicePrompts, mask_input: NDArray | None = None, multimask_output: bool = False
    ) -> Prediction:
        """Segment what the prompts point at."""
        ...

    def predict_many(
        self, prompts: Sequence[SlicePrompts], mask_inputs: Sequence[NDArray | None] | None = None
    ) -> list[Prediction]:
        """Segment several objects in as few passes as possible."""
        ...

    def encode_ahead(
        self, images: Iterable[NDArray], goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[int]:
        """Prepare slices that will be wanted soon, yielding how many are done."""
        ...


class SliceSource(Protocol):
    """Where propagation gets slices and predictions from."""

    @property
    def supported_prompts(self) -> frozenset[str]:
        """Which of ``"box"``, ``"point"`` and ``"mask"`` the model was trained with."""
        ...

    def image(self, where: SliceIndex) -> NDArray[np.float32]:
        """Return the slice, (H, W) or (H, W, 3), windowed to [0, 1]."""
        ...

    def predict_many(
        self, where: SliceIndex, prompts: Sequence[SlicePrompts], previous: Sequence[Mask | None]
    ) -> list[Prediction]:
        """Predict on a slice in one pass: for each object its prompts, and its mask on the slice before."""
        ...


@dataclass(frozen=True, eq=False)
class SliceMask:
    """One object's mask on one slice, and how it came about.

    Attributes
    ----------
    where
        The slice.
    label
        The object's value in the label map.
    mask : numpy.ndarray of bool
        (H, W); empty where the object was found to have ended.
    score
        Estimated Dice in [0, 1] of a mask that was carried, the model's own estimate of its IoU for one from
        prompts, 1 for one that somebody made or accepted; where the object was found to have ended, how sure
        that is.
    reason
        How the mask came about: `PROMPT`, `PROPAGATED`, `BOTH_SIDES`, `INTERPOLATED`, `BY_VOTE`, `CLEARED`,
        ``"corrected"`` or ``"accepted"``; or, where `stopped`, the sentence why the object ends here.
    stopped
        True on the slice after the object's last, which is not to be written.
    doubt
        What lowers the score most, in words; empty where nothing does.
    evidence
        What the score of a mask that was carried rests on.
    second_opinion
        IoU of the mask's largest part, as it was carried, with the model's answer to one click in its middle,
        where that was asked. The score leaves it out: it says something of the object on all slices (see
        `Review`).
    """

    where: SliceIndex
    label: int
    mask: Mask
    score: float
    reason: str
    stopped: bool = False
    doubt: str = ""
    evidence: Evidence | None = None
    second_opinion: float | None = None
