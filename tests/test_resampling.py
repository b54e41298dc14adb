"""Slices are resized as OpenCV does it; models trained on its pixels see others otherwise."""

import numpy as np
import pytest

from napari_medsam.resampling import area_resize, nearest_resize

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is a test dependency")

SHAPES = [
    (512, 512),
    (512, 384),
    (1024, 768),
    (300, 420),
    (257, 100),
    (256, 256),
    (200, 150),
    (37, 91),
    (1, 9),
]


def picture(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("colours", [(), (3,)])
@pytest.mark.parametrize("shape", SHAPES)
def test_area_resize_gives_opencv_s_pixels(shape, colours):
    image = picture(shape + colours)
    new = tuple(max(1, int(length * 256 / max(shape) + 0.5)) for length in shape)
    expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(area_resize(image, new).astype(int) - expected)
    whole = max(shape) % 256 == 0 or max(shape) < 256
    assert difference.max() <= (0 if whole else 1)
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_resize_gives_opencv_s_pixels(shape):
    image = picture(shape)
    expected = cv2.resize(image, (256, 256), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(nearest_resize(image, (256, 256)), expected)


def test_the_image_itself_is_left_alone():
    image = picture((8, 8))
    area_resize(image, (8, 8))[:] = 0
    np.testing.assert_array_equal(image, picture((8, 8)))
