"""What intensities say about a mask: if these fail, parts that look like the object are forgotten."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medsam.models.evidence import LIMIT, intensity_evidence


def scene():
    """Two bright squares; a mask that found one of them."""
    image = torch.full((1, 1, 32, 32), -1.0)
    image[..., 4:12, 4:12] = 1.5
    image[..., 20:26, 20:26] = 1.5
    found = torch.full_like(image, 1 / 64)
    found[..., 4:12, 4:12] = 63 / 64
    return image, found


def test_a_part_that_looks_like_the_object_speaks_for_it_and_the_surroundings_against_it():
    image, found = scene()
    said = intensity_evidence(found, image, torch.ones_like(image))
    assert said[..., 20:26, 20:26].min() > 0.5
    assert said[image < 0].max() < -0.5
    assert len(said.unique()) == 2


def test_the_ratio_is_that_of_the_blurred_shares():
    image, found = scene()
    said = intensity_evidence(found, image, torch.ones_like(image)).numpy()
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
    said = intensity_evidence(found, image, near)
    image[..., 16:, :16] = 0.7
    again = intensity_evidence(found, image, near)
    torch.testing.assert_close(again[..., :16, :16], said[..., :16, :16])


@given(st.integers(0, 2**31), st.sampled_from([-1e6, -3.0, 0.0, 2.9999, 3.0, 1e6]))
@settings(max_examples=50)
def test_no_picture_and_no_mask_breaks_it(seed, value):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((2, 1, 8, 8), generator=generator)
    image[0] = value
    found = torch.rand((2, 1, 8, 8), generator=generator).round()
    said = intensity_evidence(found, image, torch.zeros_like(image))
    assert (said == 0).all()
    said = intensity_evidence(found, image, torch.ones_like(image))
    assert said.isfinite().all()
    assert said.abs().max() <= LIMIT
    mirrored = intensity_evidence(found.flip(3), image.flip(3), torch.ones_like(image))
    torch.testing.assert_close(mirrored.flip(3), said)


def test_the_order_of_the_pixels_does_not_matter_to_the_last_bit():
    """Whoever replays a session on a GPU, which adds up in any order, gets the same voxels."""
    generator = torch.Generator().manual_seed(0)
    image, found = torch.randn((2, 1, 1, 4096), generator=generator).split(1)
    found, near = torch.sigmoid(found), torch.rand((1, 1, 1, 4096), generator=generator)
    order = torch.randperm(4096, generator=generator)
    said = intensity_evidence(found, image, near)
    assert torch.equal(
        intensity_evidence(found[..., order], image[..., order], near[..., order]), said[..., order]
    )
