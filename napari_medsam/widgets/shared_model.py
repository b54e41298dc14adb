"""The model that all sessions of a window share, loaded when it is first asked and in the thread that asks.

Loading torch and weights takes seconds in which nothing else has to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_medsam.predictor import Prediction, SlicePredictor
    from napari_medsam.prompts import SlicePrompts


class SharedModel:
    """Stands in for a `SlicePredictor`; fulfils `napari_medsam.propagation.Predictor`.

    Parameters
    ----------
    name
        As for `napari_medsam.models.zoo.load_model`.
    """

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self._predictor: SlicePredictor | None = None

    @property
    def predictor(self) -> SlicePredictor:
        """The predictor, loaded now if it was not before.

        Raises
        ------
        ModelError
            When its weights are not on this machine, or not fit for use.
        """
        if self._predictor is None:
            self._predictor = load_predictor(self.name)
        return self._predictor

    @property
    def device(self) -> str:
        """Where the model computes, such as ``cpu``; empty until it is loaded."""
        return "" if self._predictor is None else str(self._predictor.device)

    def takes(self, kind: str) -> bool:
        """Whether the model was trained with a kind of prompt; True while nobody knows yet."""
        from napari_medsam.models.specs import MODELS

        if self._predictor is not None:
            return kind in self._predictor.supported_prompts
        spec = MODELS.get(self.name)
        return spec is None or kind in spec.supported_prompts

    def replace(self, name: str, predictor: SlicePredictor) -> None:
        """Use another model from now on."""
        self.name, self._predictor = name, predictor

    @property
    def key(self) -> Hashable | None:
        """Name of the slice that is set."""
        return self.predictor.key

    @property
    def supported_prompts(self) -> frozenset[str]:
        """See `SlicePredictor.supported_prompts`."""
        return self.predictor.supported_prompts

    def set_slice(self, image: NDArray, key: Hashable | None = None) -> None:
        """See `SlicePredictor.set_slice`."""
        self.predictor.set_slice(image, key)

    def predict(
        self, prompts: SlicePrompts, mask_input: NDArray | None = None, multimask_output: bool = False
    ) -> Prediction:
        """See `SlicePredictor.predict`."""
        return self.predictor.predict(prompts, mask_input, multimask_output)

    def predict_many(
        self, prompts: Sequence[SlicePrompts], mask_inputs: Sequence[NDArray | None] | None = None
    ) -> list[Prediction]:
        """See `SlicePredictor.predict_many`."""
        return self.predictor.predict_many(prompts, mask_inputs)

    @property
    def encodes_ahead(self) -> bool:
        """See `SlicePredictor.encodes_ahead`; False until the model is loaded."""
        return self._predictor is not None and self._predictor.encodes_ahead

    def encode_ahead(
        self, images: Iterable[NDArray], goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[int]:
        """See `SlicePredictor.encode_ahead`."""
        return self.predictor.encode_ahead(images, goes_on)


def load_predictor(name: str) -> SlicePredictor:
    """Load a model onto the fastest device there is; embeddings are kept in the user's cache folder.

    Raises
    ------
    ModelError
        When there is no such model, or its weights are not on this machine or not fit for use.
    """
    from napari_medsam.embedding_cache import EmbeddingCache, default_cache_folder
    from napari_medsam.models.zoo import load_model
    from napari_medsam.predictor import SlicePredictor

    cache = EmbeddingCache(default_cache_folder())
    return SlicePredictor(load_model(name), "auto", cache, engine="auto")
