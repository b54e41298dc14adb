"""Where slices are encoded: a wrong choice costs a factor of 20, or the slice when memory ends."""

import copy

import numpy as np
import pytest
import torch

from napari_medsam import slice_encoder
from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.models.sam import build_sam
from napari_medsam.predictor import PredictorError, PredictorWarning, SlicePredictor
from napari_medsam.prompts import SlicePrompts
from napari_medsam.slice_encoder import SliceEncoder, choose_device, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BOX = SlicePrompts((2, 3, 20, 30))


def tiny(variant: str = "tiny_vit_b"):
    torch.manual_seed(0)
    return build_sam(variant).requires_grad_(False)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((40, 60), np.float32)


def precision_of(model) -> torch.dtype:
    return model.image_encoder.blocks[0].attn.qkv.weight.dtype


def fast(monkeypatch, *types: str) -> None:
    """Only these types of device multiply bfloat16 in hardware."""
    for asked in ("has_bfloat16", "bfloat16_pays"):
        monkeypatch.setattr(slice_encoder, asked, lambda device: device.type in types)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A GPU whose memory is the CPU's."""
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda tensor, *where, **kind: to(tensor, *(CPU if w == CUDA else w for w in where), **kind),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fast(monkeypatch, "cuda")


def full_after(model, monkeypatch, calls: int, room: int = 0):
    """Let the device have room for so many encodings, and for `room` slices at once afterwards."""
    encode, seen = model.encode_image, []

    def limited(tensor):
        seen.append(len(tensor))
        if len(seen) == calls + 1 or len(tensor) > room > 0:
            raise torch.OutOfMemoryError
        return encode(tensor)

    monkeypatch.setattr(model, "encode_image", limited)
    return seen


@pytest.mark.parametrize(
    ("name", "types", "expected"),
    [
        ("auto", ("cpu",), torch.bfloat16),
        ("auto", ("cuda",), torch.float32),
        ("bfloat16", ("cpu",), torch.bfloat16),
        ("float32", ("cpu",), torch.float32),
    ],
)
def test_the_precision_is_the_fastest_that_the_device_has(monkeypatch, name, types, expected):
    fast(monkeypatch, *types)
    model = tiny()
    SlicePredictor(model, precision=name)
    assert precision_of(model) == expected
    assert model.mask_decoder.iou_token.weight.dtype == torch.float32


def test_a_precision_that_cannot_be_is_refused_in_one_sentence(monkeypatch):
    fast(monkeypatch)
    with pytest.raises(PredictorError, match=r"no precision 'int8': use one of auto, float32, bfloat16\.$"):
        choose_precision("int8", CPU)
    with pytest.raises(PredictorError, match=r"^The device cpu is not known to multiply bfloat16"):
        SlicePredictor(tiny(), precision="bfloat16")


def test_the_default_model_has_no_second_precision(monkeypatch):
    from napari_medsam.models.zoo import load_model

    fast(monkeypatch, "cpu")
    model = load_model()
    SlicePredictor(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with pytest.raises(PredictorError, match="computes in float32 only"):
        SlicePredictor(model, precision="bfloat16")


@pytest.mark.parametrize("variant", ["tiny_vit_b", "tiny_sam_med2d", "tiny_vit_t", "tiny_lite_medsam"])
def test_masks_of_bfloat16_are_those_of_float32_but_for_single_pixels(variant):
    model = tiny(variant)
    low = copy.deepcopy(model).set_precision(torch.bfloat16)
    side = model.image_size
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    boxes = side * torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.9], [0.0, 0.4, 0.3, 0.8]])
    exact, rounded = model.encode_image(noise), low.encode_image(noise)
    difference = (rounded.image_embeddings - exact.image_embeddings).norm() / exact.image_embeddings.norm()
    assert 0 < difference < 0.02
    masks = [m.decode(e, None, None, boxes, None, False)[0] > 0 for m, e in ((model, exact), (low, rounded))]
    assert 0.02 < masks[0].float().mean() < 0.98
    iou = (masks[0] & masks[1]).sum((1, 2, 3)) / (masks[0] | masks[1]).sum((1, 2, 3))
    assert iou.min() > 0.98


def test_an_embedding_of_another_precision_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    fast(monkeypatch, "cpu")
    for count, precision in enumerate(["float32", "bfloat16"], start=1):
        SlicePredictor(tiny(), cache=EmbeddingCache(tmp_path), precision=precision).set_slice(image())
        assert len(list(tmp_path.iterdir())) == count


def test_an_embedding_of_another_release_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    """A release that mends how slices are prepared would go on giving the masks of the mistake."""
    for count, version in enumerate(["1.0.0", "1.0.1"], start=1):
        monkeypatch.setattr(slice_encoder, "__version__", version)
        SlicePredictor(tiny(), cache=EmbeddingCache(tmp_path)).set_slice(image())
        assert len(list(tmp_path.iterdir())) == count


def test_no_room_on_the_device_is_answered_on_the_cpu_in_a_precision_it_has(pretended_gpu, monkeypatch):
    model = tiny()
    predictor = SlicePredictor(model, "cuda")
    assert precision_of(model) == torch.bfloat16
    full_after(model, monkeypatch, 0)
    with pytest.warns(PredictorWarning, match="device cuda has too little free memory"):
        predictor.set_slice(image())
    assert predictor.device == CPU
    assert precision_of(model) == torch.float32
    assert predictor.predict(BOX).masks.shape == (1, 40, 60)


def test_float32_that_was_asked_for_stays_float32_on_the_cpu(pretended_gpu, monkeypatch):
    fast(monkeypatch, "cpu", "cuda")
    model = tiny()
    predictor = SlicePredictor(model, "cuda", precision="float32")
    full_after(model, monkeypatch, 0)
    with pytest.warns(PredictorWarning, match="too little free memory"):
        predictor.set_slice(image())
    assert precision_of(model) == torch.float32


@pytest.mark.parametrize(
    "text", ["MPS backend out of memory (MPS allocated: 9 GB)", "CUDA error: out of memory"]
)
def test_devices_without_a_type_for_full_memory_are_understood(pretended_gpu, monkeypatch, text):
    model = tiny()
    predictor = SlicePredictor(model, "cuda")
    encode, full = model.encode_image, [True]

    def limited(tensor):
        if full.pop() if full else False:
            raise RuntimeError(text)
        return encode(tensor)

    monkeypatch.setattr(model, "encode_image", limited)
    with pytest.warns(PredictorWarning, match="too little free memory"):
        predictor.set_slice(image())
    assert predictor.device == CPU


def test_other_errors_of_a_device_are_not_taken_for_full_memory(pretended_gpu, monkeypatch):
    predictor = SlicePredictor(tiny(), "cuda")

    def broken(tensor):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(predictor.model, "encode_image", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        predictor.set_slice(image())


def test_a_model_that_does_not_fit_on_the_device_is_answered_on_the_cpu(pretended_gpu, monkeypatch):
    model, move, places = tiny(), torch.nn.Module.to, []

    def cramped(module, *where, **kind):
        places.append(where[0])
        if where[0] == CUDA:
            raise torch.OutOfMemoryError
        return move(module, *where, **kind)

    monkeypatch.setattr(torch.nn.Module, "to", cramped)
    with pytest.warns(PredictorWarning, match="device cuda has too little free memory"):
        predictor = SlicePredictor(model, "cuda")
    assert places[0] == CUDA
    assert predictor.device == CPU
    assert precision_of(model) == torch.float32
    predictor.set_slice(image())
    assert predictor.predict(BOX).masks.shape == (1, 40, 60)


@pytest.mark.parametrize("name", ["cuda:7", "cuda:", "cuda:x", "cuda:-1", "cpu:9", "gpu", ""])
def test_a_device_that_is_not_there_is_refused_in_one_sentence(pretended_gpu, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(PredictorError, match=r"^There is no device '.*' on this machine: use auto, or"):
        choose_device(name)


def test_the_slice_that_is_set_outlives_the_device(pretended_gpu, monkeypatch):
    predictor = SlicePredictor(tiny(), "cuda", EmbeddingCache())
    predictor.set_slice(image())
    before = predictor.predict(BOX)
    full_after(predictor.model, monkeypatch, 0)
    with pytest.warns(PredictorWarning, match="too little free memory"):
        assert list(predictor.encode_ahead([image(1)])) == [1]
    np.testing.assert_array_equal(predictor.predict(BOX).logits, before.logits)


@pytest.fixture
def encoder(tmp_path):
    return SliceEncoder(tiny(), "cpu", EmbeddingCache(tmp_path), "float32")


def test_several_slices_share_a_pass_and_get_the_embeddings_they_would_get_alone(encoder, monkeypatch):
    alone = [SliceEncoder(tiny(), "cpu", None, "float32").encode(image(n)).image_embeddings for n in range(5)]
    encoder.at_once = 2
    seen = full_after(encoder.model, monkeypatch, 99)
    assert list(encoder.ahead(image(n) for n in range(5))) == [1, 2, 3, 4, 5]
    assert seen == [2, 2, 1]
    for n, expected in enumerate(alone):
        torch.testing.assert_close(encoder.encode(image(n)).image_embeddings, expected, rtol=1e-2, atol=2e-3)
    assert len(seen) == 3


def test_slices_that_are_kept_already_are_not_encoded_again(encoder, monkeypatch):
    encoder.encode(image(1))
    seen = full_after(encoder.model, monkeypatch, 99)
    encoder.at_once = 3
    assert list(encoder.ahead([image(0), image(1), image(2)])) == [1, 2, 3]
    assert list(encoder.ahead([image(0), image(1), image(2)])) == [1, 2, 3]
    assert seen == [2]


def test_no_room_for_a_batch_halves_it_from_then_on(encoder, monkeypatch):
    encoder.at_once = 8
    seen = full_after(encoder.model, monkeypatch, 99, room=2)
    assert list(encoder.ahead(image(n) for n in range(12))) == list(range(1, 13))
    assert seen == [8, 4, 2, 2, 4, 2, 2, 2, 2]


def test_one_slice_at_a_time_on_a_cpu_and_only_when_asked_for(encoder):
    taken = []
    work = encoder.ahead(taken.append(n) or image(n) for n in range(3))
    assert next(work) == 1
    assert taken == [0]


def test_a_slice_that_nobody_wants_any_more_is_given_up_between_layers(encoder):
    """A large encoder takes seconds for a slice, and a box elsewhere must not wait for it."""
    asked = []
    assert list(encoder.ahead([image(0), image(1)], lambda: asked.append(1) or len(asked) < 3)) == []
    assert len(asked) == 3
    embedding = encoder.encode(image(0)).image_embeddings
    assert len(asked) == 3
    expected = SliceEncoder(tiny(), "cpu", EmbeddingCache(), "float32").encode(image(0)).image_embeddings
    torch.testing.assert_close(embedding, expected)


def test_without_a_cache_nothing_is_encoded_ahead(monkeypatch):
    predictor = SlicePredictor(tiny())
    monkeypatch.setattr(predictor.model, "encode_image", None)
    assert list(predictor.encode_ahead([image()])) == []
