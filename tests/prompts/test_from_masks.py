"""Prompts worked out from masks and RECIST lines point into the object that they came from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from napari_medsam.prompts import (
    PromptError,
    box_from_mask,
    box_from_recist,
    point_from_mask,
    points_from_mask,
)

# A busy machine is no defect.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
coordinates = st.floats(-1e6, 1e6)
points = st.tuples(coordinates, coordinates)


def test_box_goes_around_the_outermost_pixels() -> None:
    mask = np.zeros((10, 20), bool)
    mask[3, 5] = mask[6, 12] = True
    assert box_from_mask(mask) == (3, 5, 6, 12)
    assert box_from_mask(mask, 2) == (1, 3, 8, 14)
    assert box_from_mask(mask, 100) == (0, 0, 9, 19)
    assert box_from_mask(mask, -1) == (4, 6, 5, 11)
    assert box_from_mask(mask, -3) == (4.5, 8, 4.5, 9)
    assert box_from_mask(np.zeros((3, 4))) is None


@pytest.mark.parametrize("mask", [np.ones(3), np.ones((2, 3, 4)), np.full((2, 2), "x")])
def test_mask_that_is_no_slice_is_refused(mask: NDArray) -> None:
    for make in (box_from_mask, point_from_mask, lambda m: points_from_mask(m, 1, 0)):
        with pytest.raises(PromptError, match="two axes of numbers"):
            make(mask)


def test_margin_that_is_no_number_is_refused() -> None:
    with pytest.raises(PromptError, match="margin"):
        box_from_mask(np.ones((2, 2)), math.nan)


def test_innermost_point_lies_in_the_thick_part_not_at_the_centre_of_mass() -> None:
    mask = np.zeros((20, 40), bool)
    mask[9:10, :] = True
    mask[3:16, 2:15] = True
    assert point_from_mask(mask) == (9, 8)


def test_innermost_point_of_a_bar_is_its_middle() -> None:
    mask = np.zeros((9, 31), bool)
    mask[3:6, 2:29] = True
    assert point_from_mask(mask) == (4, 15)


def test_object_cut_by_the_border_is_marked_away_from_the_border() -> None:
    assert point_from_mask(np.ones((5, 7), bool)) == (2, 3)


@unhurried
@given(arrays(bool, (7, 9)))
def test_every_mask_gives_a_point_inside_it_or_none(mask: NDArray) -> None:
    found = point_from_mask(mask)
    if found is None:
        assert not mask.any()
    else:
        assert mask[int(found[0]), int(found[1])]


@unhurried
@given(arrays(bool, (7, 9)), st.integers(0, 80), st.integers(0, 5))
def test_random_points_are_different_pixels_of_the_mask_and_repeatable(
    mask: NDArray, n: int, seed: int
) -> None:
    found = points_from_mask(mask, n, seed)
    assert len(set(found)) == len(found) == min(n, np.count_nonzero(mask))
    assert all(mask[int(y), int(x)] for y, x in found)
    assert found == points_from_mask(mask, n, seed)


def test_another_seed_draws_other_points() -> None:
    mask = np.ones((50, 50), bool)
    assert points_from_mask(mask, 5, 0) != points_from_mask(mask, 5, 1)


def test_negative_number_of_points_is_refused() -> None:
    with pytest.raises(PromptError, match="number of points"):
        points_from_mask(np.ones((2, 2)), -1, 0)


def test_recist_line_becomes_the_box_around_its_ellipse() -> None:
    assert box_from_recist(10, 20, 10, 40, short_to_long=0.5) == (5, 20, 15, 40)
    assert box_from_recist(20, 10, 40, 10, short_to_long=0.5, margin_px=1) == (19, 4, 41, 16)
    assert box_from_recist(0, 0, 10, 10, short_to_long=1) == pytest.approx(
        (5 - 50**0.5, 5 - 50**0.5, 5 + 50**0.5, 5 + 50**0.5)
    )


def test_recist_line_on_flat_pixels_is_an_ellipse_in_the_patient() -> None:
    assert box_from_recist(10, 20, 10, 40, short_to_long=0.5, spacing=(2.0, 1.0)) == (7.5, 20, 12.5, 40)


@unhurried
@given(points, points, st.floats(0.01, 1))
def test_recist_box_holds_its_line_whichever_end_comes_first(
    a: tuple[float, float], b: tuple[float, float], ratio: float
) -> None:
    if math.dist(a, b) < 1e-3:
        return
    y0, x0, y1, x1 = box_from_recist(*a, *b, short_to_long=ratio)
    slack = 1e-6
    for y, x in (a, b):
        assert y0 - slack <= y <= y1 + slack
        assert x0 - slack <= x <= x1 + slack
    assert box_from_recist(*b, *a, short_to_long=ratio) == pytest.approx((y0, x0, y1, x1))


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ((1, 1, 1, 1), {}),
        ((1, 1, 1, math.nan), {}),
        ((1, 1, 1, 5), {"short_to_long": 0}),
        ((1, 1, 1, 5), {"short_to_long": 1.5}),
        ((1, 1, 1, 5), {"short_to_long": math.nan}),
        ((1, 1, 1, 5), {"spacing": (0, 1)}),
        ((1, 1, 1, 5), {"spacing": (1, math.nan)}),
        ((1, 1, 1, 5), {"margin_px": math.inf}),
    ],
)
def test_recist_line_without_a_size_is_refused(line: Any, options: Any) -> None:
    with pytest.raises(PromptError, match=r"^[A-Z].*\.$"):
        box_from_recist(*line, **options)
