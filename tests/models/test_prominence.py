"""What stands out in a box: if these fail, lesions that anybody can see are missed.

And one organ is taken for another: the ventricles for the nuclei on both sides of them.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medsam.metrics import dice
from napari_medsam.models.prominence import first_guess, what_stands_out

BRIGHTER, DARKER = 0, 1


def brain():
    """Grey nuclei beside dark ventricles in white matter with bright vessels, and the box of the nuclei.

    The ventricles go on beyond the box, as they do.
    """
    image = np.full((80, 80), 0.7, np.float32)
    y, x = np.mgrid[:80, :80]
    nuclei = ((y - 39.5) / 20) ** 2 + ((np.abs(x - 39.5) - 23.5) / 6.5) ** 2 < 1
    ventricles = (np.abs(x - 39.5) < 10) & (y >= 20) & (y < 76)
    image[nuclei], image[ventricles] = 0.5, 0.1
    image[30:50, 25:27] = image[64:70, 60:64] = 0.95
    image += np.random.default_rng(0).uniform(-0.005, 0.005, image.shape).astype(np.float32)
    return image, nuclei, ventricles, (10.0, 20.0, 69.0, 59.0)


def test_bright_spots_in_a_box_stand_out_and_what_goes_on_outside_of_it_does_not():
    spots, stripes = np.zeros((2, 40, 50), np.float32)
    spots[12:15, 12:15] = spots[24:27, 30:33] = 1.0
    stripes[:, ::5] = 1.0
    box = (10.0, 10.0, 34.0, 29.0)
    seen = what_stands_out(spots, box)
    np.testing.assert_array_equal(seen.masks[BRIGHTER], spots[seen.region] > 0)
    assert not seen.masks[DARKER].any()
    assert seen.prominence[BRIGHTER] > 10
    assert seen.prominence[DARKER] == 0
    assert 0.7 < what_stands_out(stripes, box).prominence[BRIGHTER] < 1.1


def test_what_is_dark_stands_out_as_what_is_bright_does():
    image = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    box = (8.0, 9.0, 30.0, 28.0)
    seen, turned = what_stands_out(image, box), what_stands_out(1 - image, box)
    np.testing.assert_array_equal(seen.masks[[BRIGHTER, DARKER]], turned.masks[[DARKER, BRIGHTER]])
    np.testing.assert_allclose(seen.prominence[:2], turned.prominence[1::-1])
    np.testing.assert_array_equal(seen.short[:2], turned.short[1::-1])


def test_grey_nuclei_are_one_tissue_and_the_darker_ventricles_between_them_are_another():
    image, nuclei, ventricles, (x0, y0, x1, y1) = brain()
    seen = what_stands_out(image, (x0, y0, x1, y1))
    inside = np.zeros_like(nuclei)
    inside[20:60, 10:70] = True
    np.testing.assert_array_equal(seen.masks[DARKER], (ventricles & inside)[seen.region])
    assert seen.short[DARKER] == pytest.approx(20 / 60), "they stay away from the left and the right side"
    assert dice(seen.masks[3], nuclei[seen.region]) > 0.97
    assert seen.short[3] == 0


def test_what_comes_close_to_every_side_of_a_box_is_guessed_first():
    """Else a box around both caudate nuclei finds the ventricles between them."""
    image, nuclei, _, box = brain()
    assert dice(first_guess(image, box, filled=0.4), nuclei) > 0.97


def test_spots_that_stay_away_from_a_side_are_guessed_where_nothing_else_comes_closer():
    image = np.full((60, 60), 0.3, np.float32)
    image[20:24, 20:24] = image[34:38, 40:44] = 0.9
    box = (10.0, 16.0, 50.0, 44.0)
    np.testing.assert_array_equal(first_guess(image, box, filled=0.1), image > 0.5)
    assert first_guess(image, box, filled=0.4) is None, "what fills the box is a large object, found badly"


def test_nothing_is_guessed_in_an_even_box():
    assert first_guess(np.full((30, 30), 0.5, np.float32), (5.0, 5.0, 20.0, 20.0), filled=0.0) is None


def test_the_sides_of_a_box_between_pixels_are_those_of_the_pixels_it_takes_in():
    image = np.zeros((40, 40), np.float32)
    image[12:16, 11:16] = 1.0
    seen = what_stands_out(image, (10.2, 11.5, 20.9, 21.7))
    np.testing.assert_array_equal(seen.masks[BRIGHTER], image[seen.region] > 0)
    assert seen.short[BRIGHTER] == 0.6, "rows 12 to 21 and columns 11 to 20 are in the box"


@given(
    corner=st.tuples(st.integers(-5, 40), st.integers(-5, 30)),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 30)),
    levels=st.sampled_from([1, 2, 5, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_nothing_outside_of_a_box_stands_out_in_it(corner, sides, levels):
    image = np.random.default_rng(1).integers(0, levels, (24, 32)).astype(np.float32) / levels
    (x0, y0), (x1, y1) = corner, (corner[0] + sides[0] - 1, corner[1] + sides[1] - 1)
    seen = what_stands_out(image, (float(x0), float(y0), float(x1), float(y1)))
    outside = np.ones((24, 32), bool)
    outside[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)] = False
    assert not (seen.masks & outside[seen.region]).any()
    assert np.isfinite(seen.prominence).all()
    assert ((seen.short >= 0) & (seen.short <= 1)).all()
    pixels = image[~outside]
    if pixels.size:
        # In float64, as they are looked at: of a few grey values one may lie at the limit.
        pixels = pixels.astype(np.float64)
        share = (pixels > pixels.mean() + pixels.std()).mean()
        assert seen.masks[BRIGHTER].sum() / pixels.size == share
    classes = seen.masks[2:].sum(0)
    assert set(np.unique(classes[~outside[seen.region]])) <= {0, 1}, "each pixel is of one tissue"
