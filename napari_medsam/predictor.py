"""From a windowed slice and its prompts to masks, with any model of the zoo.

This is where (y, x) turns into the models' (x, y) and arrays into tensors. `set_slice` is slow once,
`predict` fast many times, as in SAM's own predictor (https://github.com/facebookresearch/segment-anything,
Apache-2.0).
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_medsam.models import PromptableModel
from napari_medsam.prompts import FOREGROUND, PromptError, SlicePrompts

# ITU-R BT.601 luma: how bright a colour looks.
LUMA = (0.299, 0.587, 0.114)
CERTAIN_LOGIT = 8.0


class PredictorError(ValueError):
    """A slice or a request that cannot be predicted; the message is one sentence for the user."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Candidate masks of one object on one slice, best first.

    Attributes
    ----------
    masks : numpy.ndarray of bool
        (C, H, W).
    scores : numpy.ndarray of float32
        (C,), the model's own estimate of each mask's IoU, in [0, 1].
    logits : numpy.ndarray of float32
        (C, H, W) at slice resolution; above 0 is foreground.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]


class SlicePredictor:
    """Predicts masks on one slice at a time.

    Parameters
    ----------
    model
        Any `PromptableModel`.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for the fastest that is there.

    Raises
    ------
    PredictorError
        When the device is not there.
    """

    def __init__(self, model: PromptableModel, device: str = "cpu") -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device) if isinstance(model, torch.nn.Module) else model
        self._embedding: Any = None
        self._key: Hashable | None = None
        self._shape: tuple[int, int] = (0, 0)

    @property
    def supported_prompts(self) -> frozenset[str]:
        """Which of ``"box"``, ``"point"`` and ``"mask"`` the model was trained with."""
        return self.model.supported_prompts

    @property
    def key(self) -> Hashable | None:
        """Name of the slice that is set, as given to `set_slice`."""
        return self._key

    def set_slice(self, image: NDArray, key: Hashable | None = None) -> None:
        """Encode a slice; what `predict` is about until the next call.

        Parameters
        ----------
        image : numpy.ndarray
            (H, W), or (H, W, 3) for RGB, windowed to [0, 1].
        key
            Names the content. A call with the key of the last call does nothing.

        Raises
        ------
        PredictorError
            When the image has another shape, no pixel, or values that are not finite.
        """
        if key is not None and key == self._key:
            return
        grey = _grey(image)
        tensor = torch.from_numpy(grey)[None, None].to(self.device)
        with torch.inference_mode():
            self._embedding = self.model.encode_image(tensor)
        self._key, self._shape = key, (grey.shape[0], grey.shape[1])

    def predict(
        self, prompts: SlicePrompts, mask_input: NDArray | None = None, multimask_output: bool = False
    ) -> Prediction:
        """Segment what the prompts point at on the slice that was set.

        Parameters
        ----------
        prompts
            Box and points in pixels of the slice.
        mask_input : numpy.ndarray, optional
            (H, W): an earlier mask (bool), or its logits (float), to start from.
        multimask_output
            Return the model's three candidates instead of its best mask.

        Returns
        -------
        Prediction
            With one candidate, or three.

        Raises
        ------
        PredictorError
            When no slice was set, or the model does not take such prompts.
        PromptError
            When the prompts do not say where an object is on this slice.
        """
        if self._embedding is None:
            raise PredictorError("No slice is set: call set_slice before predict.")
        known = None if mask_input is None else self._mask_logits(mask_input)
        kept = self._checked(prompts, known is not None)
        boxes = points = labels = None
        if kept.box is not None:
            y0, x0, y1, x1 = kept.box
            boxes = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32, device=self.device)
        if kept.points:
            points = torch.tensor([[(x, y) for y, x in kept.points]], dtype=torch.float32, device=self.device)
            labels = torch.tensor([kept.labels], dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            logits, scores = self.model.decode(
                self._embedding, points, labels, boxes, known, multimask_output
            )
            if boxes is not None and known is None:
                logits = _never_empty(logits)
        order = torch.argsort(scores[0], descending=True)
        found = logits[0][order].cpu().numpy()
        return Prediction(found > 0, scores[0][order].cpu().numpy(), found)

    def _checked(self, prompts: SlicePrompts, has_mask: bool) -> SlicePrompts:
        given = {
            "box": prompts.box is not None,
            "point": bool(prompts.points),
            "mask": has_mask,
        }
        missing = [name for name, used in given.items() if used and name not in self.supported_prompts]
        if missing:
            raise PredictorError(
                f"This model was not trained with {missing[0]} prompts, only with "
                f"{', '.join(sorted(self.supported_prompts))}: use those, or another model."
            )
        kept = prompts.clipped(self._shape)
        if kept.box is None and FOREGROUND not in kept.labels and not has_mask:
            h, w = self._shape
            raise PromptError(
                "Nothing says where the object is: give a box or a foreground point that lies on the slice "
                f"of {h} x {w} pixels."
            )
        return kept

    def _mask_logits(self, mask: NDArray) -> Tensor:
        if mask.shape != self._shape:
            raise PredictorError(
                f"An earlier mask must have the slice's shape {self._shape}, not {mask.shape}."
            )
        known = np.where(mask, CERTAIN_LOGIT, -CERTAIN_LOGIT) if mask.dtype == np.bool_ else mask
        return torch.from_numpy(np.asarray(known, np.float32))[None, None].to(self.device)


def choose_device(name: str) -> torch.device:
    """Turn ``"auto"`` or a device's name into a device that is there.

    Raises
    ------
    PredictorError
        When it is not.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((n for n in ("cuda", "mps") if there[n]), "cpu")
    if not there.get(name.split(":")[0], False):
        usable = ", ".join(n for n, usable in there.items() if usable)
        raise PredictorError(f"There is no device {name!r} on this machine: use auto, or one of {usable}.")
    return torch.device(name)


def _grey(image: NDArray) -> NDArray[np.float32]:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise PredictorError(
            f"A slice must be (H, W) or (H, W, 3) with at least one pixel, not {image.shape}."
        )
    values = np.asarray(image, np.float32)
    if values.ndim == 3:
        values = values @ np.asarray(LUMA, np.float32)
    if not np.isfinite(values).all():
        raise PredictorError("A slice must hold finite values: apply a window to it first.")
    return np.ascontiguousarray(values)


def _never_empty(logits: Tensor) -> Tensor:
    """Lower the threshold of masks that came out empty: somebody drew a box around something."""
    peak = logits.amax((2, 3), keepdim=True)
    half = torch.logit(torch.sigmoid(peak) / 2, eps=1e-6)
    return torch.where(peak > 0, logits, logits - half)
