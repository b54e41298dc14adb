"""The predictor with nets of the SAM family: prompts meet the slice, objects share a pass, memory ends."""

import numpy as np
import pytest
import torch

from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.models.sam import build_sam
from napari_medsam.predictor import PredictorError, SlicePredictor
from napari_medsam.prompts import SlicePrompts

BOXES = [SlicePrompts((2, 3, 20, 30)), SlicePrompts((5, 30, 35, 58)), SlicePrompts((10, 10, 12, 12))]
MIXED = [
    BOXES[0],
    SlicePrompts(None, ((9, 9),), (1,)),
    SlicePrompts((4, 4, 9, 9), ((6, 6),), (0,)),
    SlicePrompts(None, ((9, 9), (20, 20)), (1, 0)),
    BOXES[1],
]


def tiny(variant: str = "tiny_vit_b", family: str = "sam"):
    torch.manual_seed(0)
    model = build_sam(variant).requires_grad_(False)
    model.family = family
    return model


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((40, 60), np.float32)


@pytest.fixture
def predictor():
    predictor = SlicePredictor(tiny())
    predictor.set_slice(image())
    return predictor


@pytest.mark.parametrize(
    ("variant", "family"),
    [
        ("tiny_vit_b", "sam"),
        ("tiny_vit_b", "medsam"),
        ("tiny_vit_t", "sam"),
        ("tiny_lite_medsam", "lite_medsam"),
        ("tiny_sam_med2d", "sam_med2d"),
    ],
)
def test_every_family_answers_at_the_size_of_the_slice(variant, family):
    predictor = SlicePredictor(tiny(variant, family))
    predictor.set_slice(image())
    for multimask, count in ((False, 1), (True, 3)):
        found = predictor.predict(BOXES[0], multimask_output=multimask)
        assert found.masks.shape == found.logits.shape == (count, 40, 60)
        assert found.scores.shape == (count,)
        assert list(found.scores) == sorted(found.scores, reverse=True)
        np.testing.assert_array_equal(found.masks, found.logits > 0)


def test_prompts_are_scaled_into_the_model_s_square(predictor, monkeypatch):
    given = {}
    decode = predictor.model.decode

    def recorded(embedding, points, labels, boxes, mask, multimask):
        given.update(points=points, boxes=boxes, mask=mask)
        return decode(embedding, points, labels, boxes, mask, multimask)

    monkeypatch.setattr(predictor.model, "decode", recorded)
    predictor.predict(SlicePrompts((3, 6, 30, 45), ((12, 24),), (1,)), np.zeros((40, 60), bool))
    x, y = 128 / 60, 85 / 40
    torch.testing.assert_close(given["boxes"], torch.tensor([[6 * x, 3 * y, 45 * x, 30 * y]]))
    torch.testing.assert_close(given["points"], torch.tensor([[[24 * x, 12 * y]]]))
    assert given["mask"].shape == (1, 1, 32, 32)


def test_a_mask_of_labels_is_a_mask_and_not_logits(predictor):
    """A slice of a label map, 0 and 1, read as logits would say "perhaps" everywhere."""
    known = np.zeros((40, 60), bool)
    known[5:20, 5:30] = True
    expected = predictor.predict(BOXES[0], known).logits
    for labels in (known.astype(np.uint8), 7 * known.astype(np.int64)):
        np.testing.assert_array_equal(predictor.predict(BOXES[0], labels).logits, expected)
    with pytest.raises(PredictorError, match=r"must be finite\.$"):
        predictor.predict(BOXES[0], np.full((40, 60), np.nan, np.float32))


def test_objects_that_share_a_pass_get_the_masks_they_would_get_alone(predictor):
    together = predictor.predict_many(MIXED)
    for prompts, found in zip(MIXED, together, strict=True):
        alone = predictor.predict(prompts)
        np.testing.assert_allclose(found.logits, alone.logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4, atol=1e-5)


def test_boxes_take_one_pass(predictor, monkeypatch):
    passes = []
    decode = predictor.model.decode
    monkeypatch.setattr(predictor.model, "decode", lambda *given: passes.append(1) or decode(*given))
    predictor.predict_many(BOXES)
    assert len(passes) == 1


@pytest.mark.parametrize("family", ["sam", "sam_med2d"])
def test_a_single_point_gets_the_best_of_three_candidates(family):
    predictor = SlicePredictor(tiny(family=family))
    predictor.set_slice(image())
    point = SlicePrompts(None, ((9, 9),), (1,))
    best = predictor.predict(point)
    candidates = predictor.predict(point, multimask_output=True)
    np.testing.assert_allclose(best.logits[0], candidates.logits[0], rtol=1e-4, atol=1e-6)


def test_a_slice_from_the_cache_gives_the_masks_of_the_first_time(tmp_path, monkeypatch):
    first = SlicePredictor(tiny(), cache=EmbeddingCache(tmp_path))
    first.set_slice(image())
    expected = first.predict(BOXES[0])
    again = SlicePredictor(tiny(), cache=EmbeddingCache(tmp_path))
    monkeypatch.setattr(again.model, "encode_image", None)
    again.set_slice(image())
    np.testing.assert_array_equal(again.predict(BOXES[0]).logits, expected.logits)


def test_another_slice_model_or_family_is_not_taken_from_the_cache(tmp_path):
    cache = EmbeddingCache(tmp_path)
    torch.manual_seed(1)
    other = build_sam("tiny_vit_b").requires_grad_(False)
    for count, (model, picture) in enumerate(
        [
            (tiny(), image()),
            (tiny(), image(1)),
            (tiny(), image().T),
            (tiny(family="medsam"), image()),
            (other, image()),
        ],
        start=1,
    ):
        SlicePredictor(model, cache=cache).set_slice(picture)
        assert len(list(tmp_path.iterdir())) == count


def test_slices_encoded_ahead_leave_the_slice_that_is_set(tmp_path, monkeypatch):
    predictor = SlicePredictor(tiny(), cache=EmbeddingCache(tmp_path))
    predictor.set_slice(image())
    before = predictor.predict(BOXES[0])
    assert list(predictor.encode_ahead([image(1), image(2)])) == [1, 2]
    np.testing.assert_array_equal(predictor.predict(BOXES[0]).logits, before.logits)
    monkeypatch.setattr(predictor.model, "encode_image", None)
    predictor.set_slice(image(2))


def test_no_room_for_all_objects_at_once_is_answered_with_smaller_batches(predictor, monkeypatch):
    expected = predictor.predict_many(BOXES)
    decode = predictor.model.decode

    def cramped(embedding, points, labels, boxes, mask, multimask):
        if len(boxes) > 1:
            raise torch.OutOfMemoryError
        return decode(embedding, points, labels, boxes, mask, multimask)

    monkeypatch.setattr(predictor.model, "decode", cramped)
    for found, known in zip(predictor.predict_many(BOXES), expected, strict=True):
        np.testing.assert_allclose(found.logits, known.logits, rtol=1e-4, atol=1e-4)
