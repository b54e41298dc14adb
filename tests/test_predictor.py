"""If these fail, prompts mean something else to the model than to the user who set them."""

import numpy as np
import pytest
import torch

from napari_medsam.predictor import (
    CERTAIN_LOGIT,
    PredictorError,
    PredictorWarning,
    SlicePredictor,
)
from napari_medsam.prompts import PromptError, SlicePrompts
from napari_medsam.slice_encoder import choose_device

IMAGE = np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)


class Recorder:
    """A model that keeps what it was given and returns three constant masks."""

    image_size = 32
    family = "grey"

    def __init__(self, *prompts, logits=(-1.0, 2.0, 1.0), scores=(0.2, 0.5, 0.9)):
        self.supported_prompts = frozenset(prompts or ("box", "point", "mask"))
        self.logits, self.scores = logits, scores
        self.images, self.given = [], None

    def encode_image(self, image):
        self.images.append(image)
        return image

    def decode(self, embedding, point_coords, point_labels, boxes, mask_input, multimask_output):
        self.given = {"points": point_coords, "labels": point_labels, "boxes": boxes, "mask": mask_input}
        count = 3 if multimask_output else 1
        planes = (
            torch.tensor(self.logits[:count]).view(1, -1, 1, 1).expand(-1, -1, *embedding.shape[2:]).clone()
        )
        return planes, torch.tensor([self.scores[:count]])


@pytest.fixture
def predictor():
    predictor = SlicePredictor(Recorder())
    predictor.set_slice(IMAGE)
    return predictor


def test_boxes_and_points_turn_to_x_first(predictor):
    predictor.predict(SlicePrompts((2, 3, 10, 20), ((4, 5), (6, 7)), (1, 0)))
    given = predictor.model.given
    assert given["boxes"].tolist() == [[3, 2, 20, 10]]
    assert given["points"].tolist() == [[[5, 4], [7, 6]]]
    assert given["labels"].tolist() == [[1, 0]]


def test_candidates_come_best_first(predictor):
    found = predictor.predict(SlicePrompts(None, ((4, 5),), (1,)), multimask_output=True)
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.2])
    assert [bool(m.all()) for m in found.masks] == [True, True, False]
    assert found.logits.shape == (3, 20, 30)


def test_an_earlier_mask_may_be_boolean_or_logits(predictor):
    mask = np.zeros((20, 30), bool)
    mask[4:9] = True
    predictor.predict(SlicePrompts((2, 3, 10, 20)), mask)
    boolean = predictor.model.given["mask"]
    predictor.predict(SlicePrompts((2, 3, 10, 20)), np.where(mask, CERTAIN_LOGIT, -CERTAIN_LOGIT))
    assert boolean.shape == (1, 1, 20, 30)
    assert torch.equal(boolean, predictor.model.given["mask"])


def test_a_box_never_gives_an_empty_mask():
    predictor = SlicePredictor(Recorder(logits=(-3.0,), scores=(0.1,)))
    predictor.set_slice(IMAGE)
    assert predictor.predict(SlicePrompts((2, 3, 10, 20))).masks[0].any()


def test_a_carried_mask_may_come_out_empty_so_that_the_end_of_an_object_is_seen():
    predictor = SlicePredictor(Recorder(logits=(-3.0,), scores=(0.1,)))
    predictor.set_slice(IMAGE)
    assert not predictor.predict(SlicePrompts((2, 3, 10, 20)), np.ones((20, 30), bool)).masks[0].any()


def test_a_slice_that_is_set_already_is_not_encoded_again(predictor):
    predictor.set_slice(IMAGE, key="a")
    predictor.set_slice(IMAGE, key="a")
    predictor.set_slice(IMAGE, key="b")
    assert len(predictor.model.images) == 3
    predictor.set_slice(IMAGE)
    predictor.set_slice(IMAGE)
    assert len(predictor.model.images) == 5


def test_colour_is_seen_as_brightness(predictor):
    predictor.set_slice(np.broadcast_to(np.float32([1, 0.5, 0]), (4, 5, 3)))
    np.testing.assert_allclose(predictor.model.images[-1].numpy(), 0.299 + 0.587 / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        (SlicePrompts(), "Nothing says where the object is"),
        (SlicePrompts(None, ((3, 3),), (0,)), "Nothing says where the object is"),
        (SlicePrompts((100, 100, 120, 120)), "20 x 30 pixels"),
    ],
)
def test_prompts_that_point_nowhere_are_refused(predictor, prompts, sentence):
    with pytest.raises(PromptError, match=sentence):
        predictor.predict(prompts)


def test_prompts_that_the_model_never_learned_are_answered_with_a_warning_that_names_better_models():
    predictor = SlicePredictor(Recorder("box"))
    predictor.set_slice(IMAGE)
    with pytest.warns(
        PredictorWarning, match=r"trained with box prompts only.* take point prompts: default, sam"
    ):
        found = predictor.predict(SlicePrompts(None, ((3, 3),), (1,)))
    assert found.masks.shape == (1, 20, 30)


def test_a_model_that_never_learned_masks_goes_by_the_carried_box_alone():
    predictor = SlicePredictor(Recorder("box"))
    predictor.set_slice(IMAGE)
    predictor.predict(SlicePrompts((2, 3, 10, 20)), np.ones((20, 30), bool))
    assert predictor.model.given["mask"] is None
    assert predictor.model.given["boxes"] is not None


def test_a_model_of_an_unknown_family_is_refused():
    model = Recorder()
    model.family = "yolo"
    with pytest.raises(PredictorError, match=r"family 'yolo': use one of grey, sam, medsam"):
        SlicePredictor(model)


@pytest.mark.parametrize("image", [np.zeros((3, 4, 5, 6)), np.zeros((0, 4)), np.zeros((4, 4, 4))])
def test_what_is_not_a_slice_is_refused(predictor, image):
    with pytest.raises(PredictorError, match="A slice must be"):
        predictor.set_slice(image)


def test_values_that_are_not_finite_are_refused_and_the_old_slice_stays(predictor):
    with pytest.raises(PredictorError, match="finite"):
        predictor.set_slice(np.full((4, 4), np.nan))
    assert predictor.predict(SlicePrompts((2, 3, 10, 20))).masks.shape == (1, 20, 30)


def test_a_mask_of_another_shape_is_refused(predictor):
    with pytest.raises(PredictorError, match=r"\(20, 30\), not \(5, 5\)"):
        predictor.predict(SlicePrompts((2, 3, 10, 20)), np.zeros((5, 5), bool))


def test_predicting_before_a_slice_is_set_says_what_to_do():
    with pytest.raises(PredictorError, match="set_slice"):
        SlicePredictor(Recorder()).predict(SlicePrompts((0, 0, 1, 1)))


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(PredictorError, match=r"no device 'tpu'.*cpu"):
        choose_device("tpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
