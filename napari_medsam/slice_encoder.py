"""From a windowed slice to its embedding: on which device, in what precision, and what is kept.

Encoding is the slow half of a SAM-family model, so this is where devices run out of memory, where a cache
pays, and where slices are worth encoding before anybody asks for them. `napari_medsam.predictor` asks;
prompts are its own business.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_medsam import __version__
from napari_medsam.contracts import CONTRACTS
from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.models import PromptableModel
from napari_medsam.models.openvino_engine import EngineError, OpenVinoEncoder, has_openvino, openvino_encoder
from napari_medsam.models.precision import bfloat16_pays, has_bfloat16
from napari_medsam.models.sam import Sam

Result = TypeVar("Result")

PRECISIONS = ("auto", "float32", "bfloat16")
ENGINES = ("auto", "torch", "openvino")
CPU = torch.device("cpu")

SLICES_AT_ONCE = {"cuda": 8}
"""Slices encoded in one pass by type of device, 1 where it is not named: one slice fills a CPU's cores."""


class PredictorError(ValueError):
    """A slice or a request that cannot be predicted; the message is one sentence for the user."""


class PredictorWarning(UserWarning):
    """Something works less well than it could; the message is one sentence for the user."""


class _GivenUpError(Exception):
    """Nobody wants the embedding any more."""


class SliceEncoder:
    """Encodes slices for one model.

    Parameters
    ----------
    model, device, cache, precision, engine
        As for `napari_medsam.predictor.SlicePredictor`.

    Attributes
    ----------
    contract : napari_medsam.contracts.Contract
        How the model wants to be fed.
    at_once : int
        Slices that `ahead` encodes in one pass; halved when the device has no room for them.

    Raises
    ------
    PredictorError
        As `napari_medsam.predictor.SlicePredictor`.
    """

    def __init__(
        self,
        model: PromptableModel,
        device: str,
        cache: EmbeddingCache | None,
        precision: str,
        engine: str = "torch",
    ) -> None:
        if model.family not in CONTRACTS:
            raise PredictorError(
                f"Nothing is known of how to feed models of the family {model.family!r}: "
                f"use one of {', '.join(CONTRACTS)}."
            )
        self.model = model
        place = choose_device(device)
        dtype = choose_precision(precision, place)
        if precision == "bfloat16" and not isinstance(model, Sam):
            raise PredictorError("This model computes in float32 only: leave the precision at auto.")
        wants_openvino = choose_openvino(engine, place, model)
        self._exact = precision == "float32"
        self.contract = CONTRACTS[model.family]
        self.cache = cache if isinstance(model, Sam) else None
        self._openvino: OpenVinoEncoder | None = None
        first = torch.float32 if wants_openvino else dtype
        try:
            self._move(place, first)
        except RuntimeError as error:
            self._go_on_with_the_cpu(error)
        if wants_openvino and not self._use_openvino(dtype):
            self._move(place, dtype)

    def encode(self, image: NDArray[np.float32]) -> Any:
        """Embedding of a slice that `checked_slice` returned, from the cache if it is there."""
        if not isinstance(self.model, Sam):
            return self.fitting(lambda: self._run([image]))
        if self.cache is None:
            return self.model.embedding(self._embeddings([image])[0])
        kept = self.cache.get(self._address(image))
        if kept is None:
            fresh = self._embeddings([image])[0].cpu().numpy()
            # Encoding may have moved the model to the CPU, where its embeddings have other addresses.
            kept = self.cache.put(self._address(image), fresh)
        return self.model.embedding(torch.from_numpy(kept.astype(np.float32)).to(self.device))

    def ahead(self, images: Iterable[NDArray], goes_on: Callable[[], bool] = lambda: True) -> Iterator[int]:
        """Fill the cache; see `napari_medsam.predictor.SlicePredictor.encode_ahead`."""
        if self.cache is None:
            return
        done, source = 0, iter(images)
        while group := [checked_slice(image) for image in islice(source, self.at_once)]:
            missing = [image for image in group if self.cache.get(self._address(image)) is None]
            try:
                with self._giving_up_unless(goes_on):
                    fresh = self._embeddings(missing)
            except _GivenUpError:
                return
            for image, found in zip(missing, fresh, strict=True):
                self.cache.put(self._address(image), found.cpu().numpy())
            for _ in group:
                done += 1
                yield done

    @contextmanager
    def _giving_up_unless(self, goes_on: Callable[[], bool]) -> Iterator[None]:
        """Ask between the encoder's layers whether it is still wanted: a large one takes seconds."""
        assert isinstance(self.model, Sam)

        def ask(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            if not goes_on():
                raise _GivenUpError

        layers = self.model.image_encoder.modules()
        handles = [layer.register_forward_pre_hook(ask) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def fitting(self, work: Callable[[], Result]) -> Result:
        """Do it on the CPU, from now on, where the device has no room for it."""
        try:
            return work()
        except RuntimeError as error:
            self._go_on_with_the_cpu(error)
        return work()

    def _go_on_with_the_cpu(self, error: RuntimeError) -> None:
        if (
            not out_of_memory(error)
            or self.device.type == "cpu"
            or not isinstance(self.model, torch.nn.Module)
        ):
            raise error
        _notice(f"The device {self.device} has too little free memory: going on, slower, on the CPU.")
        # Weights that were rounded for the device stay rounded, but a CPU must not have to emulate them.
        self._move(CPU, choose_precision("float32" if self._exact else "auto", CPU))

    def _move(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.at_once = SLICES_AT_ONCE.get(device.type, 1)
        if isinstance(self.model, torch.nn.Module):
            self.model = self.model.to(device)
        if isinstance(self.model, Sam):
            self.model.set_precision(dtype)
        self._fingerprint = b""

    def _use_openvino(self, dtype: torch.dtype) -> bool:
        assert isinstance(self.model, Sam)
        weights = self._digest_of_model().hex()
        try:
            self._openvino = openvino_encoder(self.model.image_encoder, weights, dtype, _notice)
        except EngineError as error:
            _notice(f"{error}: going on with torch.")
            return False
        self._fingerprint = f"{weights} openvino {dtype}".encode()
        return True

    def _embeddings(self, images: list[NDArray[np.float32]]) -> list[Tensor]:
        """(1, C, h, w) of each slice; in halves where the device has no room for all at once."""
        if len(images) < 2:
            return [self.fitting(lambda: self._run(images)).image_embeddings for _ in images]
        try:
            return list(self._run(images).image_embeddings.split(1))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            self.at_once = half = len(images) // 2
        return [*self._embeddings(images[:half]), *self._embeddings(images[half:])]

    def _run(self, images: list[NDArray[np.float32]]) -> Any:
        tensors = [self.contract.tensor(image, self.model.image_size)[0] for image in images]
        with torch.inference_mode():
            if self._openvino is not None and isinstance(self.model, Sam):
                return self.model.embedding(self._openvino(torch.cat(tensors)))
            return self.model.encode_image(torch.cat(tensors).to(self.device))

    def _address(self, image: NDArray[np.float32]) -> str:
        """Digest of all that an embedding depends on: this package, weights, precision, family and slice."""
        if not self._fingerprint:
            self._fingerprint = self._digest_of_model()
        # How slices are prepared and nets are run may change with a release.
        digest = hashlib.sha256(self._fingerprint)
        digest.update(f"{__version__} {image.shape}".encode())
        digest.update(image.data)
        return digest.hexdigest()

    def _digest_of_model(self) -> bytes:
        assert isinstance(self.model, Sam)
        digest = hashlib.sha256(self.model.family.encode())
        for name, tensor in self.model.image_encoder.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.digest()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has no room; MPS, and CUDA outside of torch's allocator, have no type for this."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


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
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    numbered = number.isdecimal() and int(number) < count
    if not there.get(kind, False) or not (name == kind or numbered):
        usable = ", ".join(n for n, usable in there.items() if usable)
        raise PredictorError(f"There is no device {name!r} on this machine: use auto, or one of {usable}.")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn ``"auto"`` or a precision's name into one that the device computes fast in.

    Raises
    ------
    PredictorError
        When there is no such precision, or the device would have to emulate it.
    """
    if name not in PRECISIONS:
        raise PredictorError(f"There is no precision {name!r}: use one of {', '.join(PRECISIONS)}.")
    if name == "bfloat16" and not has_bfloat16(device):
        raise PredictorError(
            f"The device {device} is not known to multiply bfloat16, which makes it many times slower than "
            "float32: leave the precision at auto."
        )
    rounded = name == "bfloat16" or (name == "auto" and bfloat16_pays(device))
    return torch.bfloat16 if rounded else torch.float32


def choose_openvino(engine: str, device: torch.device, model: PromptableModel) -> bool:
    """Say whether OpenVINO shall run a model's image encoder.

    Raises
    ------
    PredictorError
        When there is no such engine, or it is asked for what it cannot do.
    """
    if engine not in ENGINES:
        raise PredictorError(f"There is no engine {engine!r}: use one of {', '.join(ENGINES)}.")
    possible = device.type == "cpu" and isinstance(model, Sam)
    if engine == "openvino" and not possible:
        raise PredictorError(
            "The engine openvino runs image encoders of the SAM family on the CPU: leave the engine at auto, "
            "or choose another model or device."
        )
    return possible and (engine == "openvino" or (engine == "auto" and has_openvino()))


def _notice(text: str) -> None:
    warnings.warn(text, PredictorWarning, stacklevel=3)


def checked_slice(image: NDArray) -> NDArray[np.float32]:
    """Make a slice contiguous float32, or raise PredictorError when it cannot be encoded."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise PredictorError(
            f"A slice must be (H, W) or (H, W, 3) with at least one pixel, not {image.shape}."
        )
    values = np.ascontiguousarray(image, np.float32)
    if not np.isfinite(values).all():
        raise PredictorError("A slice must hold finite values: apply a window to it first.")
    return values
