"""Every model keeps what `PromptableModel` promises, so that each can stand in for any other."""

import pytest
import torch

from napari_medsam.contracts import CONTRACTS
from napari_medsam.models.prompt_net import PromptNet
from napari_medsam.models.prompt_unet import PromptUNet
from napari_medsam.models.sam import VARIANTS, build_sam

NAMES = ["prompt_unet", *(name for name in VARIANTS if name.startswith("tiny_"))]
PROMPTS = {
    "box": {"boxes": torch.tensor([[4.0, 5, 20, 30], [8, 8, 12, 15]])},
    "points": {
        "point_coords": torch.tensor([[[9.0, 9], [20, 4]], [[5, 6], [7, 8]]]),
        "point_labels": torch.tensor([[1, 0], [1, -1]]),
    },
}
PROMPTS["box and points"] = PROMPTS["box"] | PROMPTS["points"]


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    torch.manual_seed(0)
    if request.param == "prompt_unet":
        return PromptUNet(PromptNet().requires_grad_(False))
    return build_sam(request.param).requires_grad_(False)


@pytest.fixture(scope="module")
def image(model):
    generator = torch.Generator().manual_seed(1)
    channels = 1 if model.family == "grey" else 3
    return torch.rand(1, channels, model.image_size, model.image_size, generator=generator)


def decode(model, embedding, prompts, mask_input=None, multimask_output=False):
    given = {"point_coords": None, "point_labels": None, "boxes": None} | prompts
    with torch.inference_mode():
        return model.decode(embedding, **given, mask_input=mask_input, multimask_output=multimask_output)


def test_it_says_how_to_feed_and_prompt_it(model):
    assert model.family in CONTRACTS
    assert isinstance(model.image_size, int)
    assert model.supported_prompts <= {"box", "point", "mask"}
    assert model.supported_prompts


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", PROMPTS)
def test_masks_and_scores_have_the_promised_shapes_and_are_numbers(model, image, kind, multimask):
    masks, scores = decode(model, model.encode_image(image), PROMPTS[kind], multimask_output=multimask)
    count = 3 if multimask else 1
    assert masks.shape[:2] == scores.shape == (2, count)
    assert masks.dtype == scores.dtype == torch.float32
    assert masks.isfinite().all()
    assert scores.isfinite().all()


def test_its_own_logits_can_be_the_earlier_mask(model, image):
    embedding = model.encode_image(image)
    masks, _ = decode(model, embedding, PROMPTS["box"])
    again, _ = decode(model, embedding, PROMPTS["box"], mask_input=masks)
    assert again.shape == masks.shape
    assert not torch.equal(again, masks)


def test_an_embedding_serves_many_prompts_and_stays_the_same(model, image):
    embedding = model.encode_image(image)
    first, _ = decode(model, embedding, PROMPTS["box"])
    decode(model, embedding, PROMPTS["points"], multimask_output=True)
    second, _ = decode(model, embedding, PROMPTS["box"])
    assert torch.equal(first, second)


def test_no_prompt_is_refused_with_what_is_needed(model, image):
    with pytest.raises(ValueError, match="No prompt was given"):
        decode(model, model.encode_image(image), {})
