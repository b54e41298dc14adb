"""If these fail, the model that everybody gets first does not work."""

import math
from importlib import resources

import numpy as np
import pytest
import torch

from napari_medsam.models.decode_prompts import DecodePrompts, certainty
from napari_medsam.models.prompt_net import PromptNet
from napari_medsam.models.prompt_unet import CROPS_AT_ONCE, PromptUNet
from napari_medsam.models.zoo import ModelError, load_model


@pytest.fixture(scope="module")
def default():
    return load_model("default")


@pytest.fixture(scope="module")
def discs():
    """A grey slice with a bright disc of radius 14 at (y, x) = (40, 60) and a dark one at (90, 30)."""
    y, x = np.mgrid[:128, :128]
    image = np.full((128, 128), 0.4, np.float32)
    bright = (y - 40) ** 2 + (x - 60) ** 2 <= 14**2
    dark = (y - 90) ** 2 + (x - 30) ** 2 <= 20**2
    image[bright], image[dark] = 0.7, 0.15
    image += np.random.default_rng(0).normal(0, 0.03, image.shape).astype(np.float32)
    return torch.from_numpy(image)[None, None], bright, dark


def overlap(logits, truth):
    mask = logits.numpy() > 0
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def test_the_weights_fit_into_the_wheel():
    size = len((resources.files("napari_medsam.models") / "prompt_unet.safetensors").read_bytes())
    assert size <= 5_000_000


def test_a_box_around_a_disc_gives_the_disc(default, discs):
    image, bright, dark = discs
    boxes = torch.tensor([[44.0, 25.0, 75.0, 56.0], [8.0, 68.0, 52.0, 112.0]])
    with torch.inference_mode():
        logits, scores = default.decode(default.encode_image(image), None, None, boxes, None, False)
    assert logits.shape == (2, 1, 128, 128)
    assert overlap(logits[0, 0], bright) > 0.93
    assert overlap(logits[1, 0], dark) > 0.93
    assert bool((scores > 0.7).all())


def test_a_click_offers_three_candidates_and_one_is_the_disc(default, discs):
    image, bright, _ = discs
    with torch.inference_mode():
        logits, scores = default.decode(
            default.encode_image(image),
            torch.tensor([[[60.0, 40.0]]]),
            torch.ones(1, 1).long(),
            None,
            None,
            True,
        )
    assert logits.shape == (1, 3, 128, 128)
    assert scores.shape == (1, 3)
    assert max(overlap(candidate, bright) for candidate in logits[0]) > 0.85


def test_several_boxes_at_once_give_what_each_gives_alone(default, discs):
    image, _, _ = discs
    boxes = torch.tensor([[44.0, 25.0, 75.0, 56.0], [8.0, 68.0, 52.0, 112.0], [0.0, 0.0, 127.0, 127.0]])
    embedding = default.encode_image(image)
    with torch.inference_mode():
        together = default.decode(embedding, None, None, boxes, None, False)[0]
        alone = torch.cat([default.decode(embedding, None, None, b[None], None, False)[0] for b in boxes])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_clicks_correct_the_mask_that_they_were_made_on(default, discs):
    """The same answer whether somebody clicked one after the other or opens the prompts of a file."""
    image, bright, _ = discs
    box, points = torch.tensor([[30.0, 20.0, 90.0, 70.0]]), torch.tensor([[[72.0, 40.0], [60.0, 24.0]]])
    labels = torch.tensor([[0, 1]])
    with torch.inference_mode():
        embedding = default.encode_image(image)
        mask, scores = default.decode(embedding, None, None, box, None, False)
        for k in range(2):
            x, y = points[0, k].int().tolist()
            assert (mask[0, 0, y, x] > 0) != labels[0, k]
            mask, scores = default.decode(embedding, points[:, : k + 1], labels[:, : k + 1], box, mask, False)
        found, estimated = default.decode(embedding, points, labels, box, None, False)
    torch.testing.assert_close(found, mask)
    torch.testing.assert_close(estimated, scores)
    assert overlap(found[0, 0], bright) > 0.9


def test_clicks_on_what_a_box_got_right_change_nothing(default, discs):
    """Clicks into a chamber, to say that it is right, left a good part of it out."""
    image, _, _ = discs
    boxes = torch.tensor([[44.0, 25.0, 75.0, 56.0], [8.0, 68.0, 52.0, 112.0]])
    points = torch.tensor(
        [[[60.0, 40.0], [66.0, 40.0], [46.0, 26.0]], [[30.0, 90.0], [20.0, 92.0], [30.0, 3.0]]]
    )
    labels = torch.tensor([[1, 1, 0], [1, 1, 1]])
    with torch.inference_mode():
        embedding = default.encode_image(image)
        alone, score = default.decode(embedding, None, None, boxes, None, False)
        found, estimated = default.decode(embedding, points, labels, boxes, None, False)
    assert torch.equal(found[0], alone[0])
    assert torch.equal(estimated[0], score[0])
    assert not torch.equal(found[1], alone[1])


@pytest.mark.parametrize("scattered", [True, False])
def test_a_click_on_one_of_many_parts_leaves_the_others_as_they_were(scattered):
    """The net would take back lesions that stood out, wherever the click is; of one large part it may."""
    before = torch.full((1, 1, 32, 32), -2.0)
    before[..., 4:8, 4:8] = before[..., 4:8, 20:24] = 2.0
    before[..., 12:16, 4:8] = before[..., 12:16, 20:24] = before[..., 12:16, 10:14] = 2.0
    if not scattered:
        before[..., 4:8, 4:24] = 2.0
    after = torch.full((1, 1, 32, 32), -3.0)
    after[..., 20:26, 20:26] = after[..., 12:14, 12:14] = 3.0

    windows_seen = []

    class Answering(PromptUNet):
        def _look(self, embedding, prompts, windows):
            windows_seen.append(windows)
            return after.expand(len(windows), -1, -1, -1), torch.full((len(windows), 1), 0.9)

    # Into a part to add, into one to take away, next to a part, and outside of the slice.
    points, labels = torch.tensor([[[22.0, 22.0], [6.0, 5.0], [9.0, 21.0], [40.0, -3.0]]]), [[1, 0, 0, 1]]
    with torch.inference_mode():
        model = Answering(PromptNet())
        embedding = model.encode_image(torch.rand(1, 1, 32, 32))
        box = torch.tensor([[2.0, 2.0, 28.0, 28.0]])
        found, _ = model.decode(embedding, points, torch.tensor(labels), box, before, False)
    expected = before[0, 0] > 0
    expected[20:26, 20:26], expected[4:8, 4:8] = True, False
    assert torch.equal(found[0, 0] > 0, expected if scattered else after[0, 0] > 0)
    if scattered:
        # 0.3 of the box's 27 pixels, around each click that the mask before contradicts.
        close_ups = torch.cat(windows_seen[-2:])
        torch.testing.assert_close(close_ups[:, :2] + 4.05, points[0, :2])
        torch.testing.assert_close(close_ups[:, 2:] - 4.05, points[0, :2])


@pytest.mark.parametrize("label", [0, 1])
def test_a_click_on_a_scattered_mask_takes_away_all_of_a_false_part_and_adds_what_is_seen_close_by(
    label,
):
    """From close by a background click means little more than its own disc: the rest would stay."""
    before = torch.full((2, 1, 64, 64), -2.0)
    for y, x in ((4, 4), (4, 30), (4, 54), (54, 4), (54, 54)):
        before[..., y : y + 6, x : x + 6] = 2.0
    before[..., 28:36, 28:36] = -2.0 if label else 2.0
    wide, near = (torch.full((1, 64, 64), -3.0 if label else 3.0) for _ in range(2))
    wide[:, 26:38, 26:38] = near[:, 31:34, 31:34] = 3.0 if label else -3.0

    class Answering(PromptUNet):
        def _look(self, embedding, prompts, windows):
            close = windows[:, 2] - windows[:, 0] < 32
            logits = torch.where(close[:, None, None, None], near, wide)
            x0, y0, x1, y1 = (round(side) for side in windows[0].tolist())
            if close.all():
                logits = torch.full_like(logits, -12.0)
                logits[..., y0:y1, x0:x1] = near[..., y0:y1, x0:x1]
            return logits, torch.full((len(windows), 1), 0.9)

    # The second row has no click, but padding.
    points, labels = torch.full((2, 1, 2), 32.0), torch.tensor([[label], [-1]])
    with torch.inference_mode():
        model = Answering(PromptNet())
        embedding = model.encode_image(torch.rand(1, 1, 64, 64))
        box = torch.tensor([[2.0, 2.0, 61.0, 61.0]] * 2)
        found, _ = model.decode(embedding, points, labels, box, before, False)
    expected = before[0, 0] > 0
    if label:
        expected[31:34, 31:34] = True
    else:
        expected[28:36, 28:36] = False
    assert torch.equal(found[0, 0] > 0, expected)
    assert torch.equal(found[1, 0] > 0, wide[0] > 0)


def test_a_mask_that_is_carried_over_does_not_come_to_mean_what_is_as_bright_as_it():
    """Else one that has drifted stays where it is; a click says that it is of this slice."""
    heard = []

    class Listening(PromptNet):
        def forward(self, x, *, listens=True):
            heard.append(listens)
            return super().forward(x, listens=listens)

    model = PromptUNet(Listening())
    box, mask = torch.tensor([[2.0, 2.0, 20.0, 20.0]]), torch.ones((1, 1, 32, 32))
    points, labels = torch.full((1, 1, 2), 8.0), torch.tensor([[1]])
    with torch.inference_mode():
        embedding = model.encode_image(torch.rand(1, 1, 32, 32))
        for prompts in ((None, None, box, None), (None, None, box, mask), (points, labels, box, mask)):
            model.decode(embedding, *prompts, False)
    assert heard == [True, False, True]


def test_more_crops_than_go_through_at_once_get_the_same_answers():
    """Many objects go through in parts: each has to get its own mask, not its neighbour's."""
    model, image = PromptUNet(PromptNet()), torch.rand(1, 1, 40, 40)
    boxes = torch.tensor([[2.0 + k, 3.0, 20.0 + k, 25.0 + k / 2] for k in range(13)])
    with torch.inference_mode():
        embedding = model.encode_image(image)
        together, scores = model.decode(embedding, None, None, boxes, None, False)
        for k, box in enumerate(boxes):
            alone, score = model.decode(embedding, None, None, box[None], None, False)
            torch.testing.assert_close(together[k], alone[0], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(scores[k], score[0], rtol=1e-3, atol=1e-3)
    assert 2 * len(boxes) > 3 * CROPS_AT_ONCE


class Counting(PromptUNet):
    """Says of every box the same, and notes with how many clicks it was asked."""

    def __init__(self, answer):
        super().__init__(PromptNet())
        self.answer, self.asked = answer, []

    def _with_box(self, embedding, prompts):
        self.asked.append(prompts.points.shape[1])
        return torch.full((1, 1, 32, 32), self.answer), torch.full((1, 1), 0.5)

    def _from_points(self, embedding, prompts):
        self.asked.append(-prompts.points.shape[1])
        return torch.full((1, 1, 32, 32), self.answer), torch.full((1, 1), 0.5)

    def ask(self, image, count, *, boxed=True, first=()):
        box, points = torch.tensor([[2.0, 2.0, 20.0, 20.0]]), torch.full((1, count, 2), 8.0)
        self.asked.clear()
        with torch.inference_mode():
            labels = torch.ones((1, count), dtype=torch.int64)
            labels[0, : len(first)] = torch.tensor(first, dtype=torch.int64)
            self.decode(self.encode_image(image), points, labels, box if boxed else None, None, False)
        return self.asked


@pytest.mark.parametrize(("answer", "asked"), [(-1.0, list(range(10))), (1.0, [0])])
def test_every_click_beside_a_box_corrects_the_mask_before_and_one_that_agrees_asks_nothing(answer, asked):
    assert Counting(answer).ask(torch.rand(1, 1, 32, 32), 9) == asked


def test_one_more_click_goes_on_from_the_answer_before_and_one_on_another_slice_does_not():
    """Else the tenth click would take ten times as long as the first."""
    model, image = Counting(-1.0), torch.rand(1, 1, 32, 32)
    assert model.ask(image, 3) == [0, 1, 2, 3]
    assert model.ask(image, 4) == [4]
    assert model.ask(image, 4) == []
    assert model.ask(image, 3) == [0, 1, 2, 3]
    assert model.ask(image.clone(), 4) == [0, 1, 2, 3, 4]
    assert model.ask(image, 4, boxed=False) == [-4]


def test_what_was_answered_before_is_the_same_when_it_is_asked_for_again(default, discs):
    """Whoever writes into a mask that they were given must not change what the next click starts from."""
    image, _, _ = discs
    box, points = torch.tensor([[30.0, 20.0, 90.0, 70.0]]), torch.tensor([[[72.0, 40.0], [60.0, 24.0]]])
    labels = torch.tensor([[0, 1]])
    with torch.inference_mode():
        embedding = default.encode_image(image)
        first, _ = default.decode(embedding, points[:, :1], labels[:, :1], box, None, False)
        first[:] = 5.0
        went_on, _ = default.decode(embedding, points, labels, box, None, False)
        from_nothing, _ = default.decode(
            default.encode_image(image.clone()), points, labels, box, None, False
        )
    assert torch.equal(went_on, from_nothing)


@pytest.mark.parametrize(
    ("labels", "opening"),
    [
        pytest.param([1], 1, id="one"),
        pytest.param([1, 0, 0], 2, id="one, and what is not meant"),
        pytest.param([1, 1, 1, 0, 1], 3, id="all before the first correction"),
        pytest.param([1, 1, 1, 1, 1, 1], 6, id="none is a correction"),
        pytest.param([0, 0, 0, 1, 0], 4, id="at least one that says where the object is"),
        pytest.param([0, 0, 0, 0, 0, 1, 1], 6, id="the same, late"),
    ],
)
def test_the_first_points_say_together_what_is_meant(labels, opening):
    image, points = torch.rand(1, 1, 8, 8), torch.full((1, len(labels), 2), 3.0)
    boxes = torch.tensor([[1.0, 1.0, 6.0, 6.0]])
    assert DecodePrompts.of(image, points, torch.tensor([labels]), None, None).opening(0) == opening
    assert DecodePrompts.of(image, points, torch.tensor([labels]), boxes, None).opening(0) == 0


def test_clicks_without_a_box_correct_what_the_first_ones_found(default, discs):
    """Asked anew with all of them, the net finds something else every other time."""
    image, bright, _ = discs
    points = torch.tensor([[[60.0, 40.0], [55.0, 45.0], [80.0, 40.0], [30.0, 90.0], [24.0, 96.0]]])
    labels = torch.tensor([[1, 1, 0, 1, 1]])
    with torch.inference_mode():
        embedding = default.encode_image(image)
        masks = [
            default.decode(embedding, points[:, :k], labels[:, :k], None, None, False)[0][0, 0]
            for k in range(2, 6)
        ]
    assert overlap(masks[0], bright) > 0.9
    # The background click has nothing to correct, nor has the last one.
    assert torch.equal(masks[1], masks[0])
    assert torch.equal(masks[3], masks[2])
    assert bool(masks[1][90, 30] < 0 < masks[2][90, 30])
    assert overlap(masks[2] * torch.from_numpy(bright), bright) > 0.9


def test_points_of_which_the_first_found_nothing_are_looked_at_together_again():
    model = Counting(-1.0)
    assert model.ask(torch.rand(1, 1, 32, 32), 6, boxed=False, first=[1, 1, 0]) == [-2, -3, -4, -5, -6]


def test_only_a_small_box_that_holds_something_much_smaller_is_looked_at_again():
    """Else ribs are taken for rings, as a loose box around them says; of large objects less is known then."""
    shown = torch.tensor([[12.0, 12.0, 15.0, 17.0], [41.0, 10.0, 49.0, 19.0], [20.0, 60.0, 40.0, 80.0]])
    asked = []

    class Showing(PromptUNet):
        def _around_box(self, embedding, prompts):
            asked.append(prompts.boxes)
            y, x = torch.arange(128.0)[:, None], torch.arange(128.0)
            masks = [
                (x >= x0) & (y >= y0) & (x <= x1) & (y <= y1)
                for x0, y0, x1, y1 in (shown if len(asked) == 1 else shown[:1])
            ]
            return torch.stack(masks)[:, None] * (8.0 + len(asked)) - 4.0, torch.full((len(masks), 1), 0.5)

    boxes = torch.tensor([[10.0, 10.0, 19.0, 20.0], [40.0, 10.0, 49.0, 20.0], [10.0, 50.0, 60.0, 99.0]])
    model = Showing(PromptNet())
    with torch.inference_mode():
        embedding = model.encode_image(torch.rand(1, 1, 128, 128))
        logits, _ = model.decode(embedding, None, None, boxes, None, False)
        assert [part.tolist() for part in asked] == [boxes.tolist(), shown[:1].tolist()]
        assert logits.amax((1, 2, 3)).tolist() == [6.0, 5.0, 5.0]
        asked.clear()
        model.decode(embedding, None, None, boxes[:1], torch.ones((1, 1, 128, 128)), False)
    assert len(asked) == 1, "a mask says more than the box that comes with it"


def test_where_a_box_says_little_to_the_net_it_is_shown_what_stands_out():
    """Else lesions that anybody can see are not found: a net takes a box of many spots for something else."""
    image = torch.full((1, 1, 128, 128), 0.3)
    for top, left in ((30, 30), (40, 60), (70, 45)):
        image[..., top : top + 5, left : left + 6] = 0.9
    image[..., :, 100:] = torch.rand((1, 1, 128, 28), generator=torch.Generator().manual_seed(0))
    spots, even = [26.0, 26.0, 70.0, 80.0], [2.0, 90.0, 40.0, 125.0]
    asked, filled = [], []

    class AtALoss(PromptUNet):
        def _around_box(self, embedding, prompts):
            asked.append(prompts)
            first = torch.full((len(prompts.boxes), 1, 128, 128), 4.0 if filled else -4.0)
            shown = first if prompts.mask is None else prompts.mask
            return shown.clone(), torch.where(
                prompts.boxes[:, :1] < 25, 0.3, 0.2 if prompts.mask is None else 0.6
            )

    model = AtALoss(PromptNet())
    with torch.inference_mode():
        embedding = model.encode_image(image)
        logits, scores = model.decode(embedding, None, None, torch.tensor([even, spots]), None, False)
        assert [len(prompts.boxes) for prompts in asked] == [2, 1], "in an even box nothing stands out"
        assert torch.equal(logits[1, 0] > 0, (image[0, 0] > 0.8) & (torch.arange(128) < 100))
        assert not bool((logits[0] > 0).any())
        torch.testing.assert_close(
            scores, torch.tensor([[0.3], [0.4]]), msg="what is shown is not all believed"
        )
        asked.clear()
        filled.append(True)
        model.decode(embedding, None, None, torch.tensor([spots]), None, False)
        assert len(asked) == 1, "what fills the box is a large object, found badly"
        filled.clear()
        asked.clear()
        model.decode(embedding, None, None, torch.tensor([spots]), torch.ones((1, 1, 128, 128)), False)
        assert len(asked) == 1, "a mask says more than what stands out"
        asked.clear()
        point = torch.tensor([[[62.0, 42.0]]])
        model.decode(
            model.encode_image(image.clone()), point, torch.tensor([[0]]), torch.tensor([spots]), None, False
        )
    assert [prompts.points.shape[1] for prompts in asked] == [0, 0, 1]
    assert bool((asked[2].mask[0, 0, 30:35, 30:36] > 0).all()), "a click corrects what stands out"


def test_small_holes_of_what_a_box_holds_are_filled_and_large_ones_are_not():
    """A rib is not the rim of its marrow, but the heart's wall is a wall; and a click may ask for a hole."""
    y, x = np.mgrid[:200, :200]
    small, large = (np.hypot(y - cy, x - cx).astype(np.float32) for cy, cx in ((50, 64), (130, 130)))
    rings = ((small <= 12) & (small > 3)) | ((large <= 40) & (large > 20))

    class Ringing(PromptUNet):
        def _around_box(self, embedding, prompts):
            b = len(prompts.boxes)
            return torch.from_numpy(np.where(rings, 4.0, -2.0)).repeat(b, 1, 1, 1), torch.full((b, 1), 0.5)

    model, box = Ringing(PromptNet()), torch.tensor([[30.0, 30.0, 180.0, 180.0]])
    point, background = torch.tensor([[[64.0, 50.0]]]), torch.tensor([[0]])
    elsewhere = torch.tensor([[[5.0, 190.0]]])
    with torch.inference_mode():
        embedding = model.encode_image(torch.rand(1, 1, 200, 200))
        logits, _ = model.decode(embedding, None, None, box, None, False)
        clicked, _ = model.decode(embedding, point, background, box, None, False)
        trimmed, _ = model.decode(embedding, elsewhere, background, box, None, False)
        shown, _ = model.decode(embedding, None, None, box, torch.from_numpy(rings)[None, None] * 1.0, False)
        none, _ = model.decode(embedding, None, None, box[:0], None, False)
    np.testing.assert_array_equal(logits[0, 0].numpy() > 0, rings | (small <= 3))
    np.testing.assert_array_equal(clicked[0, 0].numpy() > 0, rings)
    np.testing.assert_array_equal(trimmed[0, 0].numpy() > 0, rings | (small <= 3))
    np.testing.assert_array_equal(shown[0, 0].numpy() > 0, rings)
    assert none.shape == (0, 1, 200, 200)


@pytest.mark.parametrize(
    ("clicks", "parts"),
    [
        pytest.param([(30, 30)], [0], id="one part"),
        pytest.param([(30, 30), (30, 90)], [0, 1], id="two parts"),
        pytest.param([(34, 34)], [0], id="the hole of one part"),
        pytest.param([(110, 110)], [0, 1, 2], id="beside all of them"),
    ],
)
def test_points_mean_the_parts_that_they_lie_in_and_small_holes_belong_to_these(clicks, parts):
    """One click into the left kidney is not one into the right one, which looks the same."""
    y, x = np.mgrid[:128, :128]
    discs = [np.hypot(y - cy, x - cx) <= 12 for cy, cx in ((30, 30), (30, 90), (90, 60))]
    found = np.any(discs, 0) & (np.hypot(y - 34, x - 34) > 2)

    class Seeing(PromptUNet):
        def _look(self, embedding, prompts, windows):
            b = len(windows)
            return torch.from_numpy(np.where(found, 4.0, -4.0)).repeat(b, 1, 1, 1), torch.full((b, 1), 0.5)

    points = torch.tensor([[(float(px), float(py)) for py, px in clicks]])
    with torch.inference_mode():
        model = Seeing(PromptNet())
        embedding = model.encode_image(torch.rand(1, 1, 128, 128))
        ones = torch.ones(points.shape[:2], dtype=torch.int64)
        one, _ = model.decode(embedding, points, ones, None, None, False)
        three, _ = model.decode(embedding, points, ones, None, None, True)
    np.testing.assert_array_equal(one[0, 0].numpy() > 0, np.any([discs[n] for n in parts], 0))
    np.testing.assert_array_equal(three[0, 2].numpy() > 0, found)


@pytest.mark.parametrize(
    ("spread", "foreground", "sure", "radius"),
    [
        pytest.param(4, 3, 0.75, 8, id="close together"),
        pytest.param(7, 3, 0.75, 8, id="in a fourteenth of it"),
        pytest.param(11, 3, 0.75, 50, id="in a ninth of it"),
        pytest.param(4, 3, 0.7, 50, id="close together, and the net is not sure of the speck"),
        pytest.param(0, 3, 0.75, 50, id="in one place"),
        pytest.param(4, 1, 0.75, 50, id="one foreground click"),
    ],
)
def test_clicks_close_together_hardly_mean_something_many_times_as_long(spread, foreground, sure, radius):
    """Three clicks into a vessel gave half of the trunk, of which, shown its box, the net is surer."""
    y, x = np.mgrid[:128, :128]

    class Unsure(PromptUNet):
        def _zoomed(self, embedding, prompts, windows):
            discs = [np.hypot(y - 64, x - 64) <= r for r in (8, 8, 50)]
            return torch.from_numpy(np.where(discs, 4.0, -4.0))[:, None], torch.tensor(
                [[sure], [sure], [0.9]]
            )

        def _look(self, embedding, prompts, windows):
            return prompts.mask, torch.full((1, 1), 0.5)

    points = torch.tensor([[[64.0, 64.0], [64.0 + spread, 64.0], [64.0, 64.0 - spread / 2]]])
    labels = (torch.arange(3) < foreground).long()[None]
    model = Unsure(PromptNet())
    found, _ = model.decode(model.encode_image(torch.rand(1, 1, 128, 128)), points, labels, None, None, False)
    np.testing.assert_array_equal(found[0, 0].numpy() > 0, np.hypot(y - 64, x - 64) <= radius)


@pytest.mark.parametrize(("points", "again"), [(1, [(False, True)]), (3, [(True, False), (False, True)])])
def test_what_several_points_found_is_looked_at_by_its_box_and_then_as_what_one_found_by_its_mask(
    points, again
):
    """Three clicks are worth less when their first mask is believed at once; one click when its box is."""
    looks = []

    class Recording(PromptUNet):
        def _look(self, embedding, prompts, windows):
            looks.append((prompts.has_box.all().item(), prompts.mask is not None))
            logits, scores = super()._look(embedding, prompts, windows)
            return logits.abs(), scores

    at = torch.tensor([[[8.0, 8.0], [20.0, 9.0], [12.0, 20.0]]])[:, :points]
    with torch.inference_mode():
        model = Recording(PromptNet())
        embedding = model.encode_image(torch.rand(1, 1, 32, 32))
        model.decode(embedding, at, torch.ones((1, points), dtype=torch.int64), None, None, False)
    assert looks == [(False, False), *again]


def test_a_candidate_that_stands_alone_or_on_the_fence_is_believed_less():
    """One click may mean many things: a score that does not say so sends nobody to look at the mask."""
    logits = torch.full((1, 3, 10, 10), -5.0)
    logits[0, 0, :4, :5] = 5.0
    logits[0, 1, :4, :5] = 5.0
    logits[0, 2, :8, :5] = 5.0
    logits[0, 1, 0, :5] = 0.5
    found = certainty(logits)[0]
    torch.testing.assert_close(found, torch.tensor([0.875, 0.875 * 15 / 20, 0.75]))
    assert certainty(torch.full((2, 3, 4, 4), -5.0)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(("points", "score"), [(1, 0.8 * 0.75), (2, 0.8 * 0.75**0.5)])
def test_the_score_of_several_points_minds_other_candidates_less(points, score):
    """They say themselves which object is meant; a score as low as that of one sends people to good masks."""

    class Torn(PromptUNet):
        def _zoomed(self, embedding, prompts, windows):
            logits = torch.full((3, 1, 32, 32), -5.0)
            logits[:, :, 8:12, 8:13] = 5.0
            logits[2, :, 8:16, 8:13] = 5.0
            return logits, torch.tensor([[0.1], [0.1], [0.8]])

        def _look(self, embedding, prompts, windows):
            return prompts.mask, torch.full((1, 1), 0.5)

    model, at = Torn(PromptNet()), torch.tensor([[[8.0, 8.0], [12.0, 15.0]]])[:, :points]
    embedding = model.encode_image(torch.rand(1, 1, 32, 32))
    _, found = model.decode(embedding, at, torch.ones((1, points), dtype=torch.int64), None, None, False)
    assert found.item() == pytest.approx(score)


def test_no_prompt_at_all_is_refused(default, discs):
    with pytest.raises(ValueError, match="No prompt was given"):
        default.decode(default.encode_image(discs[0]), None, None, None, None, False)


def test_an_unknown_model_is_named_with_those_there_are():
    with pytest.raises(ModelError, match=r"no model 'nosuch'.*default"):
        load_model("nosuch")


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (37, 41), (300, 20)])
def test_slices_of_any_size_are_segmented_at_their_own_size(shape):
    torch.manual_seed(0)
    model = PromptUNet(PromptNet())
    h, w = shape
    box = torch.tensor([[0.0, 0.0, w - 1.0, h - 1.0]])
    with torch.inference_mode():
        logits, scores = model.decode(
            model.encode_image(torch.rand(1, 1, h, w)), None, None, box, None, False
        )
    assert logits.shape == (1, 1, h, w)
    assert math.isfinite(float(scores))
    assert bool(logits.isfinite().all())
