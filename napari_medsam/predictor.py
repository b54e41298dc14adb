"""From a windowed slice and its prompts to masks, with any model of the zoo.

This is where (y, x) turns into the models' (x, y) and arrays into tensors. `set_slice` is slow once,
`predict` fast many times, as in SAM's own predictor (https://github.com/facebookresearch/segment-anything,
Apache-2.0). What each family wants to be fed is `napari_medsam.contracts`' business.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_medsam.contracts import CERTAIN_LOGIT, Frame
from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.models import PromptableModel
from napari_medsam.models.sam import Sam
from napari_medsam.prompts import FOREGROUND, PromptError, SlicePrompts
from napari_medsam.slice_encoder import (
    PredictorError,
    PredictorWarning,
    SliceEncoder,
    checked_slice,
    out_of_memory,
)

__all__ = ["Prediction", "PredictorError", "PredictorWarning", "SlicePredictor"]


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


@dataclass(frozen=True, eq=False)
class _Request:
    """One object's prompts, checked, and its earlier mask as logits."""

    prompts: SlicePrompts
    known: NDArray[np.float32] | None

    @property
    def kind(self) -> tuple[bool, int, bool]:
        """Requests of one kind are decoded together, without padding that would change their masks."""
        return self.prompts.box is not None, len(self.prompts.points), self.known is not None


class SlicePredictor:
    """Predicts masks on one slice at a time.

    Parameters
    ----------
    model
        Any `PromptableModel`.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for the fastest that is there.
    cache
        Where embeddings of slices are kept, for models of the SAM family. They are kept, and used from the
        first time on, in half precision.
    precision
        What the image encoder of a SAM-family model computes in: ``"float32"``; ``"bfloat16"``, a
        little less exact, on devices that have it; or ``"auto"`` for bfloat16 where that is faster and
        float32 elsewhere. bfloat16 rounds the model's own weights, for good.
    engine
        What runs the image encoder of a SAM-family model: ``"torch"``; ``"openvino"``, for the CPU, with
        the extra of that name, after a minute's conversion the first time; or ``"auto"`` for openvino where
        it is installed and the device is the CPU. Where openvino fails, torch takes over with a notice.

    Raises
    ------
    PredictorError
        When the device is not there, or does not compute in the precision or with the engine; or nothing is
        known of how to feed the model's family.

    Warns
    -----
    PredictorWarning
        Before something that takes long, and when something slower has to be used.
    """

    def __init__(
        self,
        model: PromptableModel,
        device: str = "cpu",
        cache: EmbeddingCache | None = None,
        precision: str = "auto",
        engine: str = "torch",
    ) -> None:
        self._encoder = SliceEncoder(model, device, cache, precision, engine)
        self._contract = self._encoder.contract
        self._embedding: Any = None
        self._key: Hashable | None = None
        self._frame = Frame((0, 0), (0, 0), 0)

    @property
    def model(self) -> PromptableModel:
        """The model that is asked."""
        return self._encoder.model

    @property
    def device(self) -> torch.device:
        """Where it computes; the CPU after another device had too little memory."""
        return self._encoder.device

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
        values = checked_slice(image)
        self._embedding = self._encoder.encode(values)
        self._frame = self._contract.frame((values.shape[0], values.shape[1]), self.model.image_size)
        self._key = key

    @property
    def encodes_ahead(self) -> bool:
        """Whether slices can be prepared: the model has an image encoder, and there is a cache."""
        return self._encoder.cache is not None

    def encode_ahead(
        self, images: Iterable[NDArray], goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[int]:
        """Fill the cache with slices that will be wanted soon; the slice that is set stays.

        Parameters
        ----------
        images : iterable of numpy.ndarray
            As for `set_slice`, the most wanted first; each is taken only when its turn has come. Where the
            device profits, several are encoded in one pass.
        goes_on
            Asked again and again while a slice is encoded (not by OpenVINO): where it says no, that slice is
            given up, and there are no more.

        Yields
        ------
        int
            How many are done, one more each time; nothing without a cache. To stop, stop asking.

        Raises
        ------
        PredictorError
            When an image is not fit for `set_slice`.
        """
        return self._encoder.ahead(images, goes_on)

    def predict(
        self, prompts: SlicePrompts, mask_input: NDArray | None = None, multimask_output: bool = False
    ) -> Prediction:
        """Segment what the prompts point at on the slice that was set.

        Parameters
        ----------
        prompts
            Box and points in pixels of the slice.
        mask_input : numpy.ndarray, optional
            (H, W): an earlier mask (bool, or integers of which 0 is background), or its logits (float), to
            start from. Models that were not trained with masks go by the other prompts alone.
        multimask_output
            Return the model's three candidates instead of its best mask.

        Returns
        -------
        Prediction

        Raises
        ------
        PredictorError
            When no slice was set, or the mask has another shape or values that are not finite.
        PromptError
            When nothing says where the object is.

        Warns
        -----
        PredictorWarning
            When the model was not trained with a prompt that is given; names models that were.
        """
        return self.predict_many([prompts], [mask_input], multimask_output)[0]

    def predict_many(
        self,
        prompts: Sequence[SlicePrompts],
        mask_inputs: Sequence[NDArray | None] | None = None,
        multimask_output: bool = False,
    ) -> list[Prediction]:
        """Segment several objects on the slice that was set, in as few passes as possible.

        Parameters
        ----------
        prompts
            One for each object.
        mask_inputs
            One for each object, or none at all; see `predict`.
        multimask_output
            See `predict`.

        Returns
        -------
        list of Prediction
            In the order of the prompts; each is what `predict` returns.

        Raises
        ------
        PredictorError, PromptError
            As `predict`; then nothing is predicted.
        """
        if self._embedding is None:
            raise PredictorError("No slice was set: call set_slice first.")
        earlier = [None] * len(prompts) if mask_inputs is None else mask_inputs
        requests = [self._checked(p, m) for p, m in zip(prompts, earlier, strict=True)]
        groups: dict[tuple[bool, int, bool], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(request.kind, []).append(i)
        found: dict[int, Prediction] = {}
        for members in groups.values():
            masks = self._decoded([requests[i] for i in members], multimask_output)
            found |= zip(members, masks, strict=True)
        return [found[i] for i in range(len(requests))]

    def _decoded(self, requests: list[_Request], multimask_output: bool) -> list[Prediction]:
        """Masks of requests of one kind; in halves where the device has no room for all at once."""
        if len(requests) == 1:
            return self._encoder.fitting(lambda: self._decode(requests, multimask_output))
        try:
            return self._decode(requests, multimask_output)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            half = len(requests) // 2
        return [
            m for part in (requests[:half], requests[half:]) for m in self._decoded(part, multimask_output)
        ]

    def _decode(self, requests: list[_Request], multimask_output: bool) -> list[Prediction]:
        boxed, count, masked = requests[0].kind
        alone = count == 1 and not boxed and not masked
        best = self._contract.always_candidates or (alone and self._contract.candidates_for_one_point)
        boxes, points, labels, known = self._tensors(requests)
        with torch.inference_mode():
            # The encoder may have moved the model since the slice was set.
            self._embedding = self._embedding.to(self.device)
            masks, scores = self.model.decode(
                self._embedding, points, labels, boxes, known, multimask_output or best
            )
            found = []
            for i in range(len(requests)):
                order = torch.argsort(scores[i], descending=True)
                order = order if multimask_output else order[:1]
                logits = self._contract.logits(masks[i : i + 1, order], self._frame, boxed and not masked)
                values = logits[0].cpu().numpy()
                found.append(Prediction(values > 0, scores[i][order].cpu().numpy(), values))
        return found

    def _tensors(self, requests: list[_Request]) -> tuple[Tensor | None, ...]:
        """Boxes, points, their labels and earlier masks, as the model wants them."""
        boxed, count, masked = requests[0].kind

        def x_first(coordinates: list[Any]) -> NDArray[np.float64]:
            return np.asarray(coordinates, np.float64).reshape(len(requests), -1, 2)[..., ::-1]

        def placed(pairs: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(pairs.astype(np.float32)).to(self.device)

        boxes = points = None
        if boxed:
            corners = x_first([r.prompts.box for r in requests])
            boxes = placed(self._contract.corners(corners, self._frame)).flatten(1)
        if count:
            points = placed(x_first([r.prompts.points for r in requests]) * self._frame.scale)
        labels = (
            torch.tensor([r.prompts.labels for r in requests], dtype=torch.int64, device=self.device)
            if count
            else None
        )
        if not masked:
            return boxes, points, labels, None
        earlier = torch.from_numpy(np.stack([r.known for r in requests if r.known is not None]))[:, None]
        side = self.model.prompt_encoder.mask_input_size if isinstance(self.model, Sam) else 0
        return (
            boxes,
            points,
            labels,
            self._contract.earlier_mask(earlier.to(self.device), self._frame, side),
        )

    def _checked(self, prompts: SlicePrompts, mask_input: NDArray | None) -> _Request:
        kept = prompts.clipped(self._frame.shape)
        known = None if mask_input is None else self._mask_logits(mask_input)
        if kept.box is None and FOREGROUND not in kept.labels and known is None:
            h, w = self._frame.shape
            raise PromptError(
                "Nothing says where the object is: give a box or a foreground point that lies on the slice "
                f"of {h} x {w} pixels."
            )
        if "mask" not in self.supported_prompts and not kept.is_empty:
            known = None
        given = {"box": kept.box is not None, "point": bool(kept.points), "mask": known is not None}
        for kind in ("box", "point", "mask"):
            if given[kind] and kind not in self.supported_prompts:
                self._warn_of(kind)
        return _Request(kept, known)

    def _warn_of(self, kind: str) -> None:
        from napari_medsam.models.zoo import MODELS

        others = ", ".join(name for name, spec in MODELS.items() if kind in spec.supported_prompts)
        trained = " and ".join(sorted(self.supported_prompts))
        warnings.warn(
            f"This model was trained with {trained} prompts only, so a {kind} may give a poor mask; "
            f"models that take {kind} prompts: {others}.",
            PredictorWarning,
            stacklevel=5,
        )

    def _mask_logits(self, mask: NDArray) -> NDArray[np.float32]:
        if mask.shape != self._frame.shape:
            raise PredictorError(
                f"An earlier mask must have the slice's shape {self._frame.shape}, not {mask.shape}."
            )
        known = mask if mask.dtype.kind == "f" else np.where(mask, CERTAIN_LOGIT, -CERTAIN_LOGIT)
        if not np.isfinite(known).all():
            raise PredictorError("The logits of an earlier mask must be finite.")
        return np.asarray(known, np.float32)
