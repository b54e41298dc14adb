"""The heart's wall from one box: if these fail, the wall is filled again, or a chamber loses its blood."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medsam.metrics import dice
from napari_medsam.models.crops import mask_boxes
from napari_medsam.models.prompt_net import PromptNet
from napari_medsam.models.prompt_unet import PromptUNet
from napari_medsam.models.walls import (
    bright_disc,
    disc_box,
    filled,
    is_deep,
    is_wall,
    painted_out,
    wall_between,
)
from napari_medsam.models.zoo import load_model

SIZE = 96


def disc(radius, size=SIZE, at=(48.0, 48.0)):
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - at[0], x - at[1]) <= radius


def heart(inner, outer, size=SIZE, at=(48.0, 48.0), blood=0.8, muscle=0.3):
    """Blood in muscle in lung, with noise."""
    image = np.full((size, size), 0.1, np.float32)
    image[disc(outer, size, at)], image[disc(inner, size, at)] = muscle, blood
    return image + np.random.default_rng(0).normal(0, 0.02, image.shape).astype(np.float32)


CHAMBERS = 0.8 * (disc(6, at=(48, 77)) | disc(6, at=(48, 19)) | disc(6, at=(77, 48)))


def logits(mask):
    return torch.from_numpy(np.where(mask, 3.0, -4.0).astype(np.float32))[None, None]


@given(
    outer=st.floats(18, 40), share=st.floats(0.62, 0.79), at=st.tuples(st.floats(42, 54), st.floats(42, 54))
)
@settings(max_examples=40, deadline=None)
def test_the_blood_is_found_in_the_filled_wall_and_in_the_ring(outer, share, at):
    inner, all_of_it = share * outer, disc(outer, at=at)
    image, blood = heart(inner, outer, at=at), disc(share * outer, at=at)
    for found in (all_of_it, all_of_it & ~blood):
        seen = bright_disc(image, found)
        assert seen is not None
        assert dice(seen, blood) > 0.94


@pytest.mark.parametrize(
    ("image", "found"),
    [
        pytest.param(heart(0, 30), disc(30), id="no blood"),
        pytest.param(heart(20, 30, blood=0.1), disc(30), id="dark blood"),
        pytest.param(heart(20, 30, blood=0.33), disc(30), id="hardly brighter"),
        pytest.param(heart(10, 30), disc(30), id="a vessel in an organ"),
        pytest.param(heart(28, 30), disc(30), id="the blurred edge of a disc"),
        pytest.param(heart(20, 30), disc(20), id="the blood alone"),
        pytest.param(heart(20, 30), np.zeros((SIZE, SIZE), bool), id="nothing"),
        pytest.param(heart(20, 30), disc(25) | disc(12, at=(80, 80)), id="two parts"),
        pytest.param(np.maximum(heart(20, 36), CHAMBERS), disc(36), id="other chambers"),
        pytest.param(np.full((SIZE, SIZE), 0.5, np.float32), disc(30), id="an even slice"),
        pytest.param(
            np.where(disc(20), np.nextafter(np.float32(1), 0, dtype=np.float32), 1).astype(np.float32),
            disc(30),
            id="white but for rounding",
        ),
    ],
)
def test_nothing_else_counts_as_blood_in_a_wall(image, found):
    assert bright_disc(image, found) is None


def test_a_cross_of_marrow_is_not_round():
    image = heart(0, 40)
    image[40:56, 20:76] = image[20:76, 40:56] = 0.8
    assert bright_disc(image, disc(40)) is None


@given(scale=st.integers(1, 5), at=st.tuples(st.floats(40, 56), st.floats(40, 56)))
@settings(max_examples=20, deadline=None)
def test_the_box_of_the_blood_lies_around_it_on_the_slice(scale, at):
    at, size = tuple(scale * c for c in at), scale * SIZE
    image, blood = heart(scale * 18, scale * 26, size, at), disc(scale * 18, size, at)
    box = mask_boxes(logits(disc(scale * 26, size, at))[0] > 0)
    found = disc_box(torch.from_numpy(image)[None, None], logits(disc(scale * 26, size, at)), box)
    assert found is not None
    tight = mask_boxes(torch.from_numpy(blood)[None])
    margin = 0.05 * 36 * scale
    expected = tight + margin * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1.2 * scale)


def test_blood_is_painted_as_dark_as_the_wall_and_nothing_else_changes():
    image = (0.1 + 0.2 * disc(30) + 0.5 * disc(20)).astype(np.float32)
    painted = painted_out(
        torch.from_numpy(image)[None, None],
        logits(disc(30)),
        logits(disc(20)),
        torch.tensor([[18.0, 18.0, 78.0, 78.0]]),
    )
    expected = np.where(disc(30), np.float32(0.3), np.float32(0.1))
    np.testing.assert_allclose(painted[0, 0].numpy(), expected, rtol=1e-6)


def test_the_blurred_edge_of_the_blood_is_painted_too():
    image = np.random.default_rng(0).random((SIZE, SIZE)).astype(np.float32)
    box = torch.tensor([[18.0, 18.0, 78.0, 78.0]])
    painted = painted_out(torch.from_numpy(image)[None, None], logits(disc(30)), logits(disc(20)), box)
    changed = painted[0, 0].numpy() != image
    assert not (disc(22) & ~changed).any(), "5 % of 61 pixels are 3"
    assert not (changed & ~disc(23.1)).any()


def test_nothing_is_painted_where_no_wall_is_left():
    image = torch.from_numpy(heart(20, 30))[None, None]
    same = painted_out(image, logits(disc(20)), logits(disc(22)), torch.tensor([[20.0, 20.0, 76.0, 76.0]]))
    assert torch.equal(same, image)


def test_what_reaches_the_outline_of_the_wall_is_the_wall_and_what_reaches_the_blood_is_the_blood():
    blood, whole = logits(disc(20)), logits(disc(30))
    assert is_wall(logits(disc(30)), blood, whole)
    assert is_wall(logits(disc(30) & ~disc(20)), blood, whole)
    assert not is_wall(logits(disc(22)), blood, logits(disc(24)))
    assert not is_wall(logits(disc(20)), blood, whole)


def test_the_wall_lies_between_and_is_surer_the_thicker_it_is():
    sure = torch.tensor([[0.9]])
    thick, thin = (wall_between(logits(disc(30)), logits(disc(r)), sure, sure) for r in (15, 26))
    np.testing.assert_array_equal(thick[0][0, 0].numpy() > 0, disc(30) & ~disc(15))
    assert 0.84 < float(thick[1]) < 0.9, "(0.75 - 0.0625) / (0.75 + 0.0625)"
    assert float(thin[1]) < 0.5
    nothing, no_iou = wall_between(logits(disc(15)), logits(disc(30)), sure, sure)
    assert not bool((nothing > 0).any())
    assert float(no_iou) == 0


def test_two_outlines_that_are_certain_make_a_wall_that_is():
    certain, disc_of_it = torch.ones(1, 1), logits(disc(15))
    assert float(wall_between(logits(disc(30)), disc_of_it, certain, certain)[1]) == 1
    assert float(wall_between(disc_of_it, disc_of_it, certain, certain)[1]) == 0


def test_the_middle_of_a_disc_is_deeper_than_half_of_it():
    assert is_deep(logits(disc(20)), (48, 48))
    assert is_deep(logits(disc(20)), (48, 56))
    assert not is_deep(logits(disc(20)), (48, 60))
    assert not is_deep(logits(disc(20)), (10, 10))
    assert not is_deep(logits(disc(-1)), (48, 48)), "there is no disc"


def test_holes_are_filled_whatever_their_size():
    ring = logits(disc(30) & ~disc(20))
    np.testing.assert_array_equal(filled(ring)[0, 0].numpy() > 0, disc(30))
    assert torch.equal(filled(logits(disc(30))), logits(disc(30)))


class Seeing(PromptUNet):
    """Finds what it is told: the filled wall, then the blood, then all that the painted slice shows."""

    def __init__(self, *answers):
        super().__init__(PromptNet())
        self.answers, self.seen = list(answers), []

    def _around_box(self, embedding, prompts):
        self.seen.append((embedding.image, prompts.boxes))
        mask, sure = self.answers[len(self.seen) - 1]
        return logits(mask), torch.tensor([[sure]])


ALL, BLOOD = disc(30), disc(20)
BOX = torch.tensor([[16.0, 17.0, 80.0, 79.0]])


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([(ALL, 0.7), (BLOOD, 0.9), (ALL, 0.9)], ALL & ~BLOOD, id="the wall"),
        pytest.param([(ALL, 0.7), (BLOOD, 0.6)], ALL, id="no sure disc"),
        pytest.param([(ALL, 0.7), (BLOOD, 0.9), (ALL, 0.6)], ALL, id="no sure outline"),
        pytest.param([(disc(24), 0.7), (disc(22), 0.9), (disc(30), 0.9)], disc(24), id="the blood"),
    ],
)
def test_a_box_of_the_heart_means_its_wall_when_blood_and_outline_are_seen(answers, expected):
    model = Seeing(*answers)
    with torch.inference_mode():
        found, _ = model.decode(
            model.encode_image(torch.from_numpy(heart(20, 30))[None, None]), None, None, BOX, None, False
        )
    np.testing.assert_array_equal(found[0, 0].numpy() > 0, expected)
    assert len(model.seen) == len(answers)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param((48, 50), ALL & ~BLOOD, id="in the middle of the blood"),
        pytest.param((48, 66), ALL, id="at its edge"),
        pytest.param((48, 74), ALL, id="in the wall"),
    ],
)
def test_a_background_click_into_the_blood_asks_for_the_wall_however_unsure_the_net_is(at, expected):
    """At the edge it may mean a papillary muscle."""
    answers = [(ALL, 0.7), (BLOOD, 0.6), (ALL, 0.5), (BLOOD, 0.6), (ALL, 0.5)]
    model = Seeing(*answers)
    image = torch.from_numpy(heart(20, 30))[None, None]
    click, background = torch.tensor([[[float(at[1]), float(at[0])]]]), torch.tensor([[0]])
    with torch.inference_mode():
        found, _ = model.decode(model.encode_image(image), click, background, BOX, None, False)
    np.testing.assert_array_equal(found[0, 0].numpy() > 0, expected)


@pytest.mark.parametrize(
    ("at", "label", "expected"),
    [
        pytest.param((48, 73), 1, ALL & ~BLOOD, id="object in the wall"),
        pytest.param((48, 48), 0, ALL & ~BLOOD, id="background in the blood"),
        pytest.param((48, 48), 1, ALL, id="object in the blood"),
        pytest.param((48, 73), 0, ALL, id="background in the wall"),
    ],
)
def test_clicks_change_a_wall_where_it_is_wrong_and_nowhere_else(at, label, expected):
    """Whoever wants chamber and wall clicks into the blood."""
    model = Seeing((ALL, 0.7), (BLOOD, 0.9), (ALL, 0.9), (ALL, 0.8), (BLOOD, 0.9))
    image = torch.from_numpy(heart(20, 30))[None, None]
    click = torch.tensor([[[float(at[1]), float(at[0])]]])
    with torch.inference_mode():
        found, _ = model.decode(model.encode_image(image), click, torch.tensor([[label]]), BOX, None, False)
    np.testing.assert_array_equal(found[0, 0].numpy() > 0, expected)


def test_a_click_that_a_ring_of_this_box_has_right_changes_neither_it_nor_its_score():
    model = Seeing((ALL, 0.7), (BLOOD, 0.9), (ALL, 0.9), (ALL, 0.8))
    image = torch.from_numpy(heart(20, 30))[None, None]
    with torch.inference_mode():
        embedding = model.encode_image(image)
        alone, score = model.decode(embedding, None, None, BOX, None, False)
        model.seen.clear()
        click = torch.tensor([[[73.0, 48.0]]])
        found, same = model.decode(embedding, click, torch.tensor([[1]]), BOX, None, False)
    assert torch.equal(found, alone)
    assert torch.equal(same, score)


def test_a_ring_from_elsewhere_is_looked_at_again_with_its_click():
    """From the slice before it lies some pixels off."""
    shown, seen = disc(30, at=(52, 52)) & ~disc(20, at=(52, 52)), ALL & ~BLOOD
    model = Seeing((seen, 0.8))
    with torch.inference_mode():
        embedding = model.encode_image(torch.from_numpy(heart(20, 30))[None, None])
        click, label = torch.tensor([[[74.0, 50.0]]]), torch.tensor([[1]])
        found, _ = model.decode(embedding, click, label, BOX, logits(shown), False)
    np.testing.assert_array_equal(found[0, 0].numpy() > 0, seen)


def test_a_small_box_is_not_asked_for_a_disc():
    """A vessel has a wall, too, and nobody draws that."""
    vessel, box = disc(12, 256, (128, 128)), torch.tensor([[116.0, 116.0, 140.0, 140.0]])
    model, image = Seeing((vessel, 0.7)), heart(9, 12, size=256, at=(128, 128))
    with torch.inference_mode():
        found, _ = model.decode(
            model.encode_image(torch.from_numpy(image)[None, None]), None, None, box, None, False
        )
    np.testing.assert_array_equal(found[0, 0].numpy() > 0, vessel)


@pytest.mark.parametrize("noise", [0.02, 0.06])
def test_the_default_model_tells_the_wall_of_a_painted_heart_from_its_chamber(noise):
    """One box each, of the wall and of the chamber, as loose as a hand draws them."""
    y, x = np.mgrid[:192, :192]
    away = np.hypot(y - 92.0, (x - 100.0) * 1.1)
    wall, blood = (away <= 32) & (away > 22), away <= 22
    right = (np.hypot((y - 96.0) * 0.7, x - 56.0) <= 24) & (away > 32)
    image = np.full((192, 192), 0.08, np.float32)
    image[wall], image[blood | right] = 0.3, 0.75
    image += np.random.default_rng(1).normal(0, noise, image.shape).astype(np.float32)
    boxes = mask_boxes(torch.from_numpy(np.stack([wall, blood]))) + torch.tensor([-2.0, -1.0, 2.0, 2.0])
    model = load_model("default")
    with torch.inference_mode():
        found, scores = model.decode(
            model.encode_image(torch.from_numpy(image)[None, None]), None, None, boxes, None, False
        )
    assert dice(found[0, 0].numpy() > 0, wall) > 0.85
    assert dice(found[1, 0].numpy() > 0, blood) > 0.93
    assert 0.5 < float(scores[0]) < 0.9
