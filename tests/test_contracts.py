"""Each family sees slices exactly as its authors showed them; otherwise masks get worse and nobody notices.

The recipes are computed here step by step, with the libraries that the publishers used.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from napari_medsam.contracts import CONTRACTS, Frame, grey_levels
from napari_medsam.phantom import ct_torso, mr_brain
from napari_medsam.windowing import apply_window, default_window

MEAN, DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
SIDE = {"sam": 1024, "medsam": 1024, "lite_medsam": 256, "sam_med2d": 256}


@cache
def ct_slice() -> tuple[np.ndarray, np.ndarray]:
    """A slice as we window it, and as ``pre_CT_MR.py`` turns it into bytes; 96 x 130 pixels."""
    volume = ct_torso(shape=(16, 96, 130)).volume
    clipped = np.clip(volume.array.astype(np.float64), -160, 240)
    scaled = (clipped - clipped.min()) / (clipped.max() - clipped.min()) * 255.0
    return apply_window(volume.array[8], default_window(volume, "CT")), np.uint8(scaled)[8]


@cache
def mr_slice() -> tuple[np.ndarray, np.ndarray]:
    volume = mr_brain(shape=(16, 120, 90)).volume
    image = volume.array.astype(np.float64)
    lower, upper = np.percentile(image[image > 0], 0.5), np.percentile(image[image > 0], 99.5)
    clipped = np.clip(image, lower, upper)
    scaled = (clipped - clipped.min()) / (clipped.max() - clipped.min()) * 255.0
    scaled[image == 0] = 0
    return apply_window(volume.array[8], default_window(volume, "MR")), np.uint8(scaled)[8]


@cache
def colour_slice() -> tuple[np.ndarray, np.ndarray]:
    levels = np.random.default_rng(0).integers(0, 256, (70, 50, 3)).astype(np.uint8)
    return (levels / 255).astype(np.float32), levels


def prepared(family: str, image: np.ndarray) -> np.ndarray:
    tensor, _ = CONTRACTS[family].tensor(image, SIDE[family])
    assert tensor.shape == (1, 3, SIDE[family], SIDE[family])
    assert tensor.dtype == torch.float32
    return tensor[0].permute(1, 2, 0).numpy()


def colour(levels: np.ndarray) -> np.ndarray:
    return levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, axis=-1)


def test_ct_reaches_every_model_with_the_publisher_s_bytes():
    image, levels = ct_slice()
    np.testing.assert_array_equal(grey_levels(image), levels)
    assert len(np.unique(levels)) > 100


def test_mr_reaches_every_model_with_the_publisher_s_bytes():
    image, levels = mr_slice()
    different = np.abs(grey_levels(image).astype(int) - levels)
    assert different.max() <= 1
    assert (different > 0).mean() < 1e-3


@pytest.mark.parametrize("make", [ct_slice, mr_slice, colour_slice])
def test_sam_s_recipe(make):
    from PIL import Image

    image, _ = make()
    levels = colour(grey_levels(image))
    scale = 1024 / max(levels.shape[:2])
    height, width = int(levels.shape[0] * scale + 0.5), int(levels.shape[1] * scale + 0.5)
    resized = np.array(Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR))
    x = torch.as_tensor(resized).permute(2, 0, 1)
    x = (x - torch.tensor(MEAN).float().view(-1, 1, 1)) / torch.tensor(DEVIATION).float().view(-1, 1, 1)
    expected = F.pad(x, (0, 1024 - width, 0, 1024 - height)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(prepared("sam", image), expected, rtol=0, atol=1e-6)


@cache
def tinted_slice() -> tuple[np.ndarray, np.ndarray]:
    """Each channel has a range of its own, as in a photograph of stained tissue, which cubics overshoot."""
    levels = np.random.default_rng(0).integers([90, 10, 200], [120, 60, 250], (70, 50, 3)).astype(np.uint8)
    return (levels / 255).astype(np.float32), levels


@pytest.mark.parametrize("make", [mr_slice, colour_slice, tinted_slice])
def test_medsam_s_recipe(make):
    from skimage.transform import resize

    image, _ = make()
    # The smaller side keeps the three-channel cubic resize of the recipe bearable.
    tensor, _ = CONTRACTS["medsam"].tensor(image, 256)
    resized = resize(
        colour(grey_levels(image)), (256, 256), order=3, preserve_range=True, anti_aliasing=True
    ).astype(np.uint8)
    expected = (resized - resized.min()) / np.clip(resized.max() - resized.min(), a_min=1e-8, a_max=None)
    np.testing.assert_allclose(tensor[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [ct_slice, mr_slice, colour_slice])
@pytest.mark.parametrize("enlarged", [1, 4])
def test_lite_medsam_s_recipe(make, enlarged):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is a test dependency")
    image, _ = make()
    image = np.kron(image, np.ones((enlarged, enlarged, 1)[: image.ndim], np.float32))
    levels = colour(grey_levels(image))
    scale = 256 / max(levels.shape[:2])
    height, width = int(levels.shape[0] * scale + 0.5), int(levels.shape[1] * scale + 0.5)
    resized = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)
    scaled = (resized - resized.min()) / np.clip(resized.max() - resized.min(), a_min=1e-8, a_max=None)
    expected = np.pad(scaled, ((0, 256 - height), (0, 256 - width), (0, 0)))
    difference = np.abs(prepared("lite_medsam", image) - expected)
    # OpenCV adds float32 numbers: a sum that should end on .5 may round the other way.
    assert difference.max() < 1.5 / 255
    assert (difference > 1e-6).mean() < 5e-3


@pytest.mark.parametrize("make", [ct_slice, mr_slice, colour_slice])
def test_sam_med2d_s_recipe(make):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is a test dependency")
    image, _ = make()
    normalised = (colour(grey_levels(image)) - MEAN) / DEVIATION
    expected = cv2.resize(normalised, (256, 256), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_allclose(prepared("sam_med2d", image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "exact"), [("sam", False), ("medsam", True), ("sam_med2d", True)])
def test_boxes_are_scaled_along_each_axis(family, exact):
    contract, side = CONTRACTS[family], SIDE[family]
    frame = contract.frame((301, 420), side)
    corners = np.array([[[10.5, 20.0], [400.0, 300.0]]])
    height, width = (side, side) if exact else (int(301 * side / 420 + 0.5), side)
    np.testing.assert_array_equal(
        contract.corners(corners, frame), corners * np.array([width / 420, height / 301])
    )


def test_lite_medsam_s_boxes_lie_on_whole_pixels_at_the_longest_side_s_scale():
    """``resize_box_to_256`` of ``CVPR24_LiteMedSAM_infer.py``: half a pixel of 256 is two of a CT slice."""
    contract = CONTRACTS["lite_medsam"]
    corners = np.array([[[10.5, 20.0], [419.0, 300.0]]])
    found = contract.corners(corners, contract.frame((301, 420), 256))
    expected = [[[int(10.5 * (256 / 420)), int(20 * (256 / 420))], [int(419 * (256 / 420)), 182]]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("family", SIDE)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (700, 1), (3, 2000), (1025, 2)])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_slices_one_pixel_wide_reach_the_model_and_come_back(family, shape, channels):
    image = np.linspace(0, 1, int(np.prod((*shape, *channels))), dtype=np.float32).reshape(*shape, *channels)
    contract = CONTRACTS[family]
    tensor, frame = contract.tensor(image, 64)
    assert tensor.shape == (1, 3, 64, 64)
    assert tensor.isfinite().all()
    assert contract.logits(logits(1, 16), frame, boxed=True).shape == (1, 1, *shape)
    assert contract.earlier_mask(torch.zeros(1, 1, *shape), frame, 16).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("family", SIDE)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_slice_without_any_contrast_gives_finite_numbers(family, value):
    assert np.isfinite(prepared(family, np.full((20, 30), value, np.float32))).all()


def logits(count: int, side: int) -> torch.Tensor:
    return 4 * torch.randn(1, count, side, side, generator=torch.Generator().manual_seed(0))


def test_sam_s_masks_come_back_through_the_square():
    low = logits(3, 256)
    frame = CONTRACTS["sam"].frame((300, 420), 1024)
    assert frame == Frame((300, 420), (731, 1024), 1024)
    expected = F.interpolate(low, (1024, 1024), mode="bilinear", align_corners=False)[..., :731, :1024]
    expected = F.interpolate(expected, (300, 420), mode="bilinear", align_corners=False)
    assert torch.equal(CONTRACTS["sam"].logits(low, frame, boxed=True), expected)


def test_medsam_s_masks_are_enlarged_as_probabilities():
    low = logits(1, 256)
    frame = CONTRACTS["medsam"].frame((300, 420), 1024)
    assert frame.scale == (1024 / 420, 1024 / 300)
    expected = F.interpolate(torch.sigmoid(low), (300, 420), mode="bilinear", align_corners=False) > 0.5
    ours = CONTRACTS["medsam"].logits(low, frame, boxed=True) > 0
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, CONTRACTS["sam"].logits(low, frame, boxed=True) > 0)


def test_lite_medsam_s_masks_are_cut_before_they_are_enlarged():
    low = logits(1, 256)
    frame = CONTRACTS["lite_medsam"].frame((300, 420), 256)
    assert frame.inner == (183, 256)
    expected = F.interpolate(low[..., :183, :256], (300, 420), mode="bilinear", align_corners=False)
    ours = CONTRACTS["lite_medsam"].logits(low, frame, boxed=True)
    assert torch.equal(ours > 0, torch.sigmoid(expected) > 0.5)


def test_sam_med2d_s_masks_come_back_through_256_pixels():
    low = logits(3, 64)
    frame = CONTRACTS["sam_med2d"].frame((300, 420), 256)
    expected = F.interpolate(low, (256, 256), mode="bilinear", align_corners=False)
    expected = F.interpolate(expected, (300, 420), mode="bilinear", align_corners=False)
    assert torch.equal(CONTRACTS["sam_med2d"].logits(low, frame, boxed=True), expected)


@pytest.mark.parametrize("family", SIDE)
def test_an_earlier_mask_lies_where_the_slice_lies(family):
    """Otherwise a refined mask is pulled away from the object."""
    contract = CONTRACTS[family]
    frame = contract.frame((100, 160), SIDE[family])
    mask = torch.full((1, 1, 100, 160), -8.0)
    mask[..., 20:80, 100:150] = 8.0
    earlier = contract.earlier_mask(mask, frame, SIDE[family] // 4)
    assert earlier.shape == (1, 1, SIDE[family] // 4, SIDE[family] // 4)
    back = contract.logits(earlier, frame, boxed=True)
    overlap = ((back > 0) & (mask > 0)).sum() / ((back > 0) | (mask > 0)).sum()
    assert overlap > 0.93
