"""What intensities say about a mask: if these fail, parts that look like the object are forgotten.

And those that look like what was clicked: a correction then mends a spot and leaves what is around it.
"""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medsam.models import evidence
from napari_medsam.models.crops import POINT_RADIUS
from napari_medsam.models.evidence import CLICK_REACH, LIMIT, click_evidence, intensity_evidence


def scene():
    """Two bright squares; a mask that found one of them."""
    image = torch.full((1, 1, 32, 32), -1.0)
    image[..., 4:12, 4:12] = 1.5
    image[..., 20:26, 20:26] = 1.5
    found = torch.full_like(image, 1 / 64)
    found[..., 4:12, 4:12] = 63 / 64
    return image, found


def clicked(image, **at):
    """Channels of clicks ``inside`` and ``outside``, (1, 2, S, S), each a place (y, x) or several."""
    y, x = torch.meshgrid(*(torch.arange(size) for size in image.shape[2:]), indexing="ij")
    channels = torch.cat([torch.zeros_like(image), torch.zeros_like(image)], 1)
    for n, kind in enumerate(("inside", "outside")):
        for cy, cx in torch.tensor(at.get(kind, ())).reshape(-1, 2).tolist():
            distance = ((y - cy) ** 2 + (x - cx) ** 2).sqrt()
            channels[:, n] = channels[:, n].maximum((POINT_RADIUS + 0.5 - distance).clamp(0, 1))
    return channels


def test_a_part_that_looks_like_the_object_speaks_for_it_and_the_surroundings_against_it():
    image, found = scene()
    said = intensity_evidence(found, image, torch.ones_like(image), clicked(image))
    assert said[..., 20:26, 20:26].min() > 0.5
    assert said[image < 0].max() < -0.5
    assert len(said.unique()) == 2


def test_the_ratio_is_that_of_the_blurred_shares():
    image, found = scene()
    said = intensity_evidence(found, image, torch.ones_like(image), clicked(image)).numpy()
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    shares = []
    for part in (found, 1 - found):
        counts = np.zeros(32)
        for value, weight in zip(image.flatten().tolist(), part.flatten().tolist(), strict=True):
            counts[int((value + 3) / 6 * 32)] += weight
        blurred = np.convolve(counts, kernel / kernel.sum(), mode="same") + 0.5
        shares.append(blurred / blurred.sum())
    expected = np.clip(np.log(shares[0] / shares[1]), -LIMIT, LIMIT)
    np.testing.assert_allclose(said[0, 0, 22, 22], expected[24], rtol=1e-5)
    np.testing.assert_allclose(said[0, 0, 0, 0], expected[10], rtol=1e-5)


def test_what_lies_far_away_has_no_say():
    image, found = scene()
    near = torch.zeros_like(image)
    near[..., :16, :16] = 1
    said = intensity_evidence(found, image, near, clicked(image))
    image[..., 16:, :16] = 0.7
    again = intensity_evidence(found, image, near, clicked(image))
    torch.testing.assert_close(again[..., :16, :16], said[..., :16, :16])


@given(st.integers(0, 2**31), st.sampled_from([-1e6, -3.0, 0.0, 2.9999, 3.0, 1e6]))
@settings(max_examples=50)
def test_no_picture_and_no_mask_breaks_it(seed, value):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((2, 1, 8, 8), generator=generator)
    image[0] = value
    found = torch.rand((2, 1, 8, 8), generator=generator).round()
    said = intensity_evidence(found, image, torch.zeros_like(image), clicked(image))
    assert (said == 0).all()
    said = intensity_evidence(found, image, torch.ones_like(image), clicked(image))
    assert said.isfinite().all()
    assert said.abs().max() <= LIMIT
    mirrored = intensity_evidence(found.flip(3), image.flip(3), torch.ones_like(image), clicked(image))
    torch.testing.assert_close(mirrored.flip(3), said)


def test_the_order_of_the_pixels_does_not_matter_to_the_last_bit():
    """Whoever replays a session on a GPU, which adds up in any order, gets the same voxels."""
    generator = torch.Generator().manual_seed(0)
    image, found = torch.randn((2, 1, 1, 4096), generator=generator).split(1)
    found, near = torch.sigmoid(found), torch.rand((1, 1, 1, 4096), generator=generator)
    order = torch.randperm(4096, generator=generator)
    said = intensity_evidence(found, image, near, clicked(image))
    assert torch.equal(
        intensity_evidence(found[..., order], image[..., order], near[..., order], clicked(image)),
        said[..., order],
    )


def test_a_clicked_place_counts_as_what_it_was_clicked_as():
    """The mask has found the left square; the right one is darker, and nothing else is like it."""
    image, found = scene()
    image[..., 20:26, 20:26] = 0.5
    everywhere = torch.ones_like(image)
    before = intensity_evidence(found, image, everywhere, clicked(image))
    as_object = intensity_evidence(found, image, everywhere, clicked(image, inside=(23, 23)))
    assert before[..., 20:26, 20:26].max() < -0.5
    assert as_object[..., 20:26, 20:26].min() > 0.5
    as_background = intensity_evidence(found, image, everywhere, clicked(image, outside=(8, 8)))
    assert as_background[..., 4:12, 4:12].max() < before[..., 4:12, 4:12].min() - 0.5


def test_what_was_clicked_as_background_no_longer_counts_as_the_object(monkeypatch):
    monkeypatch.setattr(evidence, "CLICK_SHARE", 0.0)
    image, found = scene()
    image[..., 20:26, 20:26] = -1.0
    found[..., 4:12, 4:12] = 0.5
    clicks = [(y, x) for y in range(4, 12, 2) for x in range(4, 12, 2)]
    before = intensity_evidence(found, image, torch.ones_like(image), clicked(image))
    after = intensity_evidence(found, image, torch.ones_like(image), clicked(image, outside=clicks))
    assert before[0, 0, 8, 8] > 2
    assert after[0, 0, 8, 8] < 1


def test_what_looks_like_a_clicked_place_goes_with_it_the_nearer_the_more():
    image = torch.zeros(1, 1, 96, 96)
    image[..., 40:] = 2.0
    said = click_evidence(image, clicked(image, inside=(48, 20)))[0, 0]
    assert 0.85 * LIMIT < said[48, 20] <= LIMIT
    along = said[48, 20:40]
    assert (along.diff() < 0).all()
    assert along[CLICK_REACH] > 0.3
    assert said[:, 40:].abs().max() < 1e-6
    assert (said[: 48 - 2 * CLICK_REACH - 3] == 0).all()


@given(st.tuples(*[st.integers(1, 30)] * 4), st.integers(0, 2**31))
@settings(max_examples=30)
def test_clicks_as_background_say_the_opposite(at, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((1, 1, 32, 32), generator=generator)
    clicks = clicked(image, inside=at[:2], outside=at[2:])
    torch.testing.assert_close(click_evidence(image, clicks), -click_evidence(image, clicks.flip(1)))


def test_a_click_far_from_many_others_says_as_much_as_alone():
    image = torch.zeros(1, 1, 96, 96)
    many = [(70, 70), (70, 76), (76, 70), (76, 76)]
    alone = click_evidence(image, clicked(image, inside=(20, 20)))[0, 0, 20, 20]
    among = click_evidence(image, clicked(image, inside=[(20, 20), *many]))[0, 0, 20, 20]
    assert alone == among


def test_without_clicks_nothing_is_said():
    image = torch.randn((2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    clicks = torch.cat([clicked(image[:1]), clicked(image[1:], inside=(9, 9))])
    said = click_evidence(image, clicks)
    assert (said[0] == 0).all()
    assert said[1].max() > 1
