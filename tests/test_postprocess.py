"""Tidying masks without changing what they measure, or what was there before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from napari_medsam.postprocess import (
    PostprocessError,
    count_parts,
    fill_holes,
    interpolate_slices,
    largest_component,
    remove_small_parts,
    smooth_contour,
)

TIDIED: list[Callable[[NDArray], NDArray]] = [
    largest_component,
    lambda mask: largest_component(mask, [(0,) * mask.ndim]),
    fill_holes,
    lambda mask: remove_small_parts(mask, 3),
    lambda mask: smooth_contour(mask, 1.5),
]
# A busy machine is no defect.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
masks = arrays(bool, array_shapes(min_dims=2, max_dims=3, max_side=7))


def drawn(*rows: str) -> NDArray[np.bool_]:
    """Make a mask from rows of '#' and '.'."""
    return np.array([[c == "#" for c in row] for row in rows])


def disc(radius: float, centre: tuple[float, float], shape: tuple[int, int] = (64, 64)) -> NDArray[np.bool_]:
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


@pytest.mark.parametrize("tidy", TIDIED)
@unhurried
@given(masks)
def test_mask_is_left_as_it_is_and_a_new_one_returned(
    tidy: Callable[[NDArray], NDArray], mask: NDArray
) -> None:
    before = mask.copy()
    result = tidy(mask)
    np.testing.assert_array_equal(mask, before)
    assert result.shape == mask.shape
    assert result.dtype == np.bool_
    assert not np.shares_memory(result, mask)
    assert result.any() == mask.any() or tidy is TIDIED[3]


@pytest.mark.parametrize("tidy", TIDIED)
@pytest.mark.parametrize(
    "mask", [np.zeros((3, 3), np.uint8), np.zeros(3, bool), np.zeros((1, 1, 1, 1), bool)]
)
def test_label_map_in_place_of_a_mask_is_refused(tidy: Callable[[NDArray], NDArray], mask: NDArray) -> None:
    with pytest.raises(PostprocessError, match="boolean with two or three axes"):
        tidy(mask)


def test_largest_part_is_kept_and_corners_hold_it_together() -> None:
    mask = drawn("##...#", "##..#.", "...#..", "......", "##....", "##...#")
    assert largest_component(mask).sum() == 4
    np.testing.assert_array_equal(
        largest_component(mask[:, 2:]), drawn("...#", "..#.", ".#..", "....", "....", "....")
    )


def test_of_equally_large_parts_the_first_is_kept() -> None:
    np.testing.assert_array_equal(largest_component(drawn(".##.##", ".##.##")), drawn(".##...", ".##..."))


def test_part_that_was_pointed_at_is_kept_and_not_the_largest() -> None:
    mask = drawn("##...#", "##....", "......", ".#...#", ".....#")
    np.testing.assert_array_equal(
        largest_component(mask, [(3.4, 4.6)]), drawn("......", "......", "......", ".....#", ".....#")
    )
    np.testing.assert_array_equal(
        largest_component(mask, [(0, 5), (3, 1), (2, 2)]),
        drawn(".....#", "......", "......", ".#....", "......"),
    )


@pytest.mark.parametrize("seeds", [[], [(2, 2)], [(-4, 0)], [(99, 99)]])
def test_seeds_beside_every_part_leave_the_largest(seeds: list[tuple[int, int]]) -> None:
    """A click next to the object must not empty the mask; (-4, 0) must not count from the end."""
    mask = drawn("##..", "##..", "....", "...#")
    np.testing.assert_array_equal(largest_component(mask, seeds), largest_component(mask))


@pytest.mark.parametrize("seed", [(1,), (1, 2, 3), (1, math.nan)])
def test_seed_that_is_no_pixel_is_refused(seed: tuple[float, ...]) -> None:
    with pytest.raises(PostprocessError, match="2 finite coordinates"):
        largest_component(np.ones((3, 3), bool), [seed])


def test_parts_are_counted_and_crumbs_are_not() -> None:
    assert count_parts(drawn("##.##", ".....", "#.###")) == 4
    assert count_parts(drawn("##...", "..#..", "...##")) == 1
    assert count_parts(drawn(".....")) == 0
    large = np.zeros((20, 20), bool)
    large[:10] = large[12, ::8] = True
    assert count_parts(large) == 1
    many = np.zeros((40, 40), bool)
    many[::4, ::4] = True
    assert count_parts(many) == 100


def test_parts_hang_together_across_slices() -> None:
    mask = np.zeros((3, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = mask[0, 3, 3] = True
    assert largest_component(mask).sum() == 3


def test_enclosed_background_is_filled_and_a_bay_is_not() -> None:
    np.testing.assert_array_equal(
        fill_holes(drawn("#####.#", "#.#.#.#", "#####.#", "....###", ".###.##", ".#.##.#")),
        drawn("#####.#", "#####.#", "#####.#", "....###", ".######", ".#.##.#"),
    )


def test_hole_is_not_open_at_a_corner() -> None:
    mask = drawn(".#.", "#.#", ".#.")
    np.testing.assert_array_equal(fill_holes(mask), drawn(".#.", "###", ".#."))


def test_holes_above_the_largest_area_stay() -> None:
    mask = drawn("########", "#.##..##", "####..##", "########")
    assert (~fill_holes(mask, 4)).sum() == 0
    np.testing.assert_array_equal(fill_holes(mask, 3), drawn("########", "####..##", "####..##", "########"))
    np.testing.assert_array_equal(fill_holes(mask, 0), mask)


def test_cavity_is_filled_and_a_tunnel_through_a_volume_is_not() -> None:
    """The lumen of a vessel wall that leaves the volume at both ends stays open."""
    mask = np.ones((5, 5, 5), bool)
    mask[2, 2, 2] = False
    assert fill_holes(mask).all()
    mask[:, 2, 2] = False
    assert (~fill_holes(mask)).sum() == 5


def test_parts_below_the_smallest_size_go() -> None:
    mask = drawn("##..#", "#....", "...##")
    np.testing.assert_array_equal(remove_small_parts(mask, 1), mask)
    np.testing.assert_array_equal(remove_small_parts(mask, 2), drawn("##...", "#....", "...##"))
    np.testing.assert_array_equal(remove_small_parts(mask, 3), drawn("##...", "#....", "....."))
    assert not remove_small_parts(mask, 4).any()


@pytest.mark.parametrize("size", [-1, math.nan])
def test_size_that_is_no_size_is_refused(size: float) -> None:
    mask = np.ones((3, 3), bool)
    with pytest.raises(PostprocessError, match=r"number of pixels from 0 up, not (-1|nan)\.$"):
        remove_small_parts(mask, size)
    with pytest.raises(PostprocessError, match=r"number of pixels from 0 up, not (-1|nan)\.$"):
        fill_holes(mask, size)


def test_spike_is_rounded_off_and_the_size_kept() -> None:
    mask = disc(15, (32, 32))
    mask[32, 47:58] = True
    smooth = smooth_contour(mask, 4)
    assert smooth.sum() == pytest.approx(mask.sum(), abs=8)
    assert not smooth[32, 50:].any()


@pytest.mark.parametrize("mask", [drawn("...", ".#.", "..."), drawn("....", "####", "....")])
def test_smallest_and_thinnest_objects_survive_smoothing(mask: NDArray) -> None:
    """A fixed threshold on a blurred mask would erase a lymph node of a few pixels."""
    np.testing.assert_array_equal(smooth_contour(mask, 2), mask)


def test_symmetrical_mask_stays_symmetrical() -> None:
    smooth = smooth_contour(np.pad(np.ones((12, 12), bool), 5), 4)
    for image in (smooth[::-1], smooth[:, ::-1], smooth.T):
        np.testing.assert_array_equal(image, smooth)
    assert not smooth[5, 5]


def test_object_cut_by_the_border_keeps_its_straight_end() -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, 10:20] = True
    np.testing.assert_array_equal(smooth_contour(mask, 4), mask)


def test_thick_slices_can_be_smoothed_one_by_one() -> None:
    stack = np.stack([disc(12, (30, 30)), disc(5, (30, 30)), np.zeros((64, 64), bool)])
    smooth = smooth_contour(stack, (0, 3, 3))
    assert not smooth[2].any()
    assert smooth[1].sum() < smooth[0].sum()


def test_radius_zero_changes_nothing() -> None:
    mask = np.random.default_rng(0).random((20, 20)) > 0.5
    np.testing.assert_array_equal(smooth_contour(mask, 0), mask)


@pytest.mark.parametrize("radius", [-1, math.nan, math.inf, (1,), (1, 2, 3), (1, -2)])
def test_radius_that_is_no_radius_is_refused(radius: Any) -> None:
    with pytest.raises(PostprocessError, match="The smoothing radius"):
        smooth_contour(np.ones((3, 3), bool), radius)


def test_radii_between_two_discs_grow_evenly() -> None:
    between = interpolate_slices(disc(8, (32, 32)), disc(20, (32, 32)), 3)
    radii = np.sqrt(between.sum(axis=(1, 2)) / np.pi)
    np.testing.assert_allclose(radii, [11, 14, 17], atol=0.5)


def test_same_mask_at_both_ends_stays_the_same() -> None:
    mask = disc(9, (20, 40))
    np.testing.assert_array_equal(interpolate_slices(mask, mask, 4), np.stack([mask] * 4))


def test_oblique_vessel_does_not_vanish_halfway() -> None:
    """Blending the distances of two discs that do not overlap gives nothing in the middle."""
    between = interpolate_slices(disc(4, (10, 10)), disc(4, (50, 34)), 3)
    centres = [np.argwhere(mask).mean(axis=0) for mask in between]
    np.testing.assert_allclose(centres, [(20, 16), (30, 22), (40, 28)], atol=0.5)
    np.testing.assert_allclose(between.sum(axis=(1, 2)), disc(4, (10, 10)).sum(), rtol=0.1)


def test_pixel_size_decides_which_way_is_shorter() -> None:
    """With flat pixels an outline moves through the wide gap only as far as millimetres say."""
    first, last = np.zeros((2, 40, 40), bool)
    first[10:30, 10:30] = True
    last[18:22, 10:30] = True
    square = interpolate_slices(first, last, 1)[0]
    flat = interpolate_slices(first, last, 1, spacing=(1.0, 10.0))[0]
    assert square.sum() != flat.sum()
    np.testing.assert_array_equal(flat.any(axis=0), last.any(axis=0))


def test_object_on_one_slice_only_is_not_continued() -> None:
    empty, mask = np.zeros((64, 64), bool), disc(9, (20, 40))
    for first, last in ((empty, mask), (mask, empty), (empty, empty)):
        between = interpolate_slices(first, last, 2)
        assert between.shape == (2, 64, 64)
        assert not between.any()


def test_no_slices_between_neighbours() -> None:
    assert interpolate_slices(disc(3, (9, 9)), disc(3, (9, 9)), 0).shape == (0, 64, 64)


@unhurried
@given(arrays(bool, (6, 7)), arrays(bool, (6, 7)), st.integers(0, 4))
def test_interpolation_is_the_same_from_either_end(first: NDArray, last: NDArray, n: int) -> None:
    forth, back = interpolate_slices(first, last, n), interpolate_slices(last, first, n)
    assert forth.shape == (n, 6, 7)
    if (first & last).any():
        np.testing.assert_array_equal(forth, back[::-1])
        assert (forth >= (first & last)).all()
        assert (forth <= (first | last)).all()


@pytest.mark.parametrize(
    ("first", "last", "n", "spacing"),
    [
        (np.ones((3, 3), bool), np.ones((3, 4), bool), 1, (1, 1)),
        (np.ones((2, 3, 3), bool), np.ones((2, 3, 3), bool), 1, (1, 1)),
        (np.ones((3, 3), bool), np.ones((3, 3), int), 1, (1, 1)),
        (np.ones((3, 3), bool), np.ones((3, 3), bool), -1, (1, 1)),
        (np.ones((3, 3), bool), np.ones((3, 3), bool), 1, (1, 0)),
        (np.ones((3, 3), bool), np.ones((3, 3), bool), 1, (1, 1, 1)),
    ],
)
def test_slices_that_cannot_be_interpolated_are_refused(first: Any, last: Any, n: int, spacing: Any) -> None:
    with pytest.raises(PostprocessError, match=r"^[A-Z].*\.$"):
        interpolate_slices(first, last, n, spacing)
