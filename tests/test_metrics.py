"""Measures against shapes whose answers are known, in mm, on voxels that are not cubes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from napari_medsam.metrics import (
    MetricError,
    RecistDiameters,
    dice,
    hd95_mm,
    iou,
    recist_mm,
    surface_dice,
    volume_ml,
)

# A busy machine is no defect.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
SPACING = (5.0, 0.8, 0.5)


def block(z: slice, y: slice, x: slice, shape: tuple[int, int, int] = (20, 40, 40)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[z, y, x] = True
    return mask


def ellipse(
    long: float,
    short: float,
    angle: float,
    spacing: tuple[float, float] = (1, 1),
    shape: tuple[int, int] = (90, 90),
) -> NDArray[np.bool_]:
    """Fill an ellipse with half axes in mm, its long one `angle` radians from the x axis."""
    y, x = (np.indices(shape) - np.array(shape)[:, None, None] / 2) * np.array(spacing)[:, None, None]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


@pytest.mark.parametrize(
    ("a", "b", "expected_dice", "expected_iou"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], 1 / 2, 1 / 3),
        ([1, 1, 1, 1], [1, 1, 1, 0], 6 / 7, 3 / 4),
        ([1, 0], [1, 0], 1, 1),
        ([1, 0], [0, 1], 0, 0),
        ([0, 0], [0, 1], 0, 0),
        ([1, 0], [0, 0], 0, 0),
        ([0, 0], [0, 0], 1, 1),
        ([], [], 1, 1),
    ],
)
def test_overlap_of_small_masks_by_hand(a: Any, b: Any, expected_dice: float, expected_iou: float) -> None:
    assert dice(a, b) == pytest.approx(expected_dice)
    assert iou(a, b) == pytest.approx(expected_iou)


@unhurried
@given(arrays(np.uint8, (4, 5), elements=st.integers(0, 2)), arrays(bool, (4, 5)))
def test_dice_and_iou_tell_the_same_either_way_round(a: NDArray, b: NDArray) -> None:
    assert dice(a, b) == dice(b, a)
    assert iou(a, b) == iou(b, a)
    assert dice(a, b) == pytest.approx(2 * iou(a, b) / (1 + iou(a, b)))


@pytest.mark.parametrize(
    "measure",
    [dice, iou, lambda a, b: hd95_mm(a, b, (1, 1)), lambda a, b: surface_dice(a, b, (1, 1), 1)],
)
def test_masks_of_two_shapes_are_refused_and_never_broadcast(measure: Any) -> None:
    with pytest.raises(MetricError, match=r"not \(3, 4\) and \(1, 4\)"):
        measure(np.ones((3, 4)), np.ones((1, 4)))


def test_identical_masks_have_no_distance() -> None:
    a = block(slice(3, 9), slice(5, 30), slice(7, 20))
    assert hd95_mm(a, a, SPACING) == 0
    assert surface_dice(a, a, SPACING, 0) == 1


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 5.0), (1, 0.8), (2, 0.5)])
def test_slab_that_is_thicker_by_one_voxel_is_off_by_that_voxels_size(axis: int, step_mm: float) -> None:
    """A measure that forgets the spacing would call all three the same."""
    a = np.zeros((30, 30, 30), bool)
    a[(slice(None),) * axis + (slice(10, 12),)] = True
    b = a.copy()
    b[(slice(None),) * axis + (12,)] = True
    assert hd95_mm(a, b, SPACING) == pytest.approx(step_mm)


def test_surface_dice_weighs_faces_by_their_area() -> None:
    """One block measures 10 x 8 x 10 mm, the other has one slice (5 mm) more on top."""
    a = block(slice(4, 6), slice(10, 20), slice(10, 30))
    b = block(slice(4, 7), slice(10, 20), slice(10, 30))
    area_a, area_b = 2 * (8 * 10 + 10 * 10 + 10 * 8), 2 * (8 * 10 + 15 * 10 + 15 * 8)
    shared = 8 * 10 + 2 * (10 * 10 + 10 * 8)
    assert surface_dice(a, b, SPACING, 0) == pytest.approx(2 * shared / (area_a + area_b))
    # The higher block's top lies one slice above the other's.
    assert surface_dice(a, b, SPACING, 2.0) < 1
    assert surface_dice(a, b, SPACING, 5.0) == 1


def test_hausdorff_percentile_ignores_a_spike_of_less_than_five_percent() -> None:
    a = block(slice(5, 15), slice(5, 35), slice(5, 35))
    b = a.copy()
    b[10, 20, 35:40] = True
    assert hd95_mm(a, b, (1, 1, 1)) == 0
    assert surface_dice(a, b, (1, 1, 1), 0) < 1


def test_hausdorff_percentile_takes_the_worse_direction() -> None:
    """A second part that was missed lies far from what was found, while all that was found is right."""
    a = block(slice(2, 6), slice(2, 6), slice(2, 6))
    b = a | block(slice(2, 6), slice(2, 6), slice(32, 36))
    assert hd95_mm(a, b, (1, 1, 1)) == hd95_mm(b, a, (1, 1, 1)) == pytest.approx(30, abs=1)


def test_distance_between_two_pixels_is_that_of_their_nearest_faces() -> None:
    a, b = np.zeros((2, 10, 10), bool)
    a[2, 2] = b[2, 7] = True
    # The right face of one and the left face of the other are 4 apart; the farthest of the four faces is 5
    # away.
    assert hd95_mm(a, b, (1.0, 1.0)) == pytest.approx(5.0)
    assert surface_dice(a, b, (1.0, 1.0), 4.0) == pytest.approx(2 / 8)
    assert surface_dice(a, b, (1.0, 1.0), 5.0) == 1


def test_spheres_are_as_far_apart_as_their_radii() -> None:
    z, y, x = (np.indices((40, 60, 60)) - np.array([20, 30, 30])[:, None, None, None]) * np.array(
        [2.0, 1.0, 1.0]
    )[:, None, None, None]
    distance = np.sqrt(z**2 + y**2 + x**2)
    assert hd95_mm(distance <= 20, distance <= 26, (2, 1, 1)) == pytest.approx(6, abs=1)
    assert surface_dice(distance <= 20, distance <= 26, (2, 1, 1), 7.5) == 1
    assert surface_dice(distance <= 20, distance <= 26, (2, 1, 1), 4.0) == 0


def test_object_at_the_border_has_a_surface_there() -> None:
    a = np.ones((4, 4), bool)
    b = np.ones((4, 4), bool)
    b[:, 3] = False
    assert surface_dice(a, b, (1, 1), 0) == pytest.approx((10 + 10) / (16 + 14))


@pytest.mark.parametrize(
    ("a", "b", "distance", "agreement"),
    [(0, 0, 0.0, 1.0), (0, 1, math.inf, 0.0), (1, 0, math.inf, 0.0)],
)
def test_empty_masks_are_defined(a: int, b: int, distance: float, agreement: float) -> None:
    first, second = np.full((3, 4, 5), a), np.full((3, 4, 5), b)
    assert hd95_mm(first, second, SPACING) == distance
    assert surface_dice(first, second, SPACING, 1.0) == agreement


@unhurried
@given(arrays(bool, (4, 5, 6)), arrays(bool, (4, 5, 6)), st.floats(0, 10))
def test_surface_measures_are_the_same_either_way_round_and_wherever_the_object_lies(
    a: NDArray, b: NDArray, tolerance: float
) -> None:
    distance, agreement = hd95_mm(a, b, SPACING), surface_dice(a, b, SPACING, tolerance)
    assert hd95_mm(b, a, SPACING) == distance
    assert surface_dice(b, a, SPACING, tolerance) == pytest.approx(agreement)
    assert 0 <= agreement <= 1
    shifted_a, shifted_b = (np.pad(mask, [(7, 1), (0, 3), (2, 9)]) for mask in (a, b))
    assert hd95_mm(shifted_a, shifted_b, SPACING) == pytest.approx(distance)
    assert surface_dice(shifted_a, shifted_b, SPACING, tolerance) == pytest.approx(agreement)


def _by_brute_force(mask: NDArray) -> tuple[NDArray, NDArray]:
    """Centres (mm) and areas (mm²) of a mask's faces, voxel by voxel."""
    centres, areas = [], []
    for voxel in np.argwhere(mask):
        for axis in range(3):
            for side in (-1, 1):
                next_ = voxel.copy()
                next_[axis] += side
                inside = all(0 <= i < n for i, n in zip(next_, mask.shape, strict=True))
                if not (inside and mask[tuple(next_)]):
                    centres.append((voxel + next_) / 2 * SPACING)
                    areas.append(np.prod(SPACING) / SPACING[axis])
    return np.array(centres), np.array(areas)


@pytest.mark.parametrize("seed", range(5))
def test_surface_measures_agree_with_their_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 4, 5, 6)) > 0.7
    (centres_a, areas_a), (centres_b, areas_b) = _by_brute_force(a), _by_brute_force(b)
    apart = np.linalg.norm(centres_a[:, None] - centres_b, axis=-1)
    from_a, from_b = apart.min(axis=1), apart.min(axis=0)
    directed = []
    for distances, areas in ((from_a, areas_a), (from_b, areas_b)):
        enough = [d for d in sorted(distances) if areas[distances <= d].sum() >= 0.95 * areas.sum() - 1e-9]
        directed.append(enough[0])
    assert hd95_mm(a, b, SPACING) == pytest.approx(max(directed))
    for tolerance in (0.0, 0.6, 1.1):
        near = areas_a[from_a <= tolerance].sum() + areas_b[from_b <= tolerance].sum()
        expected = near / (areas_a.sum() + areas_b.sum())
        assert surface_dice(a, b, SPACING, tolerance) == pytest.approx(expected)


@pytest.mark.parametrize(
    "spacing", [(1, 1), (1, 1, 1, 1), (1, 1, 0), (1, 1, -1), (1, 1, math.nan), (1, math.inf, 1)]
)
def test_spacing_that_no_voxel_has_is_refused(spacing: Any) -> None:
    mask = np.ones((2, 2, 2), bool)
    for measure in (
        lambda: hd95_mm(mask, mask, spacing),
        lambda: surface_dice(mask, mask, spacing, 1),
        lambda: volume_ml(mask, spacing),
    ):
        with pytest.raises(MetricError, match="3 numbers of mm above 0"):
            measure()


@pytest.mark.parametrize("tolerance", [-0.1, math.nan])
def test_tolerance_that_is_no_distance_is_refused(tolerance: float) -> None:
    with pytest.raises(MetricError, match="tolerance"):
        surface_dice(np.ones((2, 2)), np.ones((2, 2)), (1, 1), tolerance)


def test_volume_is_in_millilitres() -> None:
    assert volume_ml(np.ones((10, 10, 10)), (2.0, 5.0, 1.0)) == pytest.approx(10.0)
    assert volume_ml(np.zeros((10, 10, 10)), (2.0, 5.0, 1.0)) == 0
    with pytest.raises(MetricError, match="three axes"):
        volume_ml(np.ones((10, 10)), (1.0, 1.0))


def test_bar_is_as_long_as_its_pixels() -> None:
    mask = np.zeros((20, 30), bool)
    mask[7, 4:24] = True
    found = recist_mm(mask, (2.0, 0.5))
    assert found.long_mm == pytest.approx(10.0)
    assert found.short_mm == pytest.approx(2.0)
    np.testing.assert_allclose(found.endpoints[0], ((7, 3.5), (7, 23.5)))


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, 1.3, math.pi / 2, 2.5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.5, 0.75)])
def test_diameters_of_an_ellipse_in_any_direction(angle: float, spacing: tuple[float, float]) -> None:
    found = recist_mm(ellipse(30, 18, angle, spacing), spacing)
    pixel = max(spacing)
    assert found.long_mm == pytest.approx(60, abs=1.5 * pixel)
    assert found.short_mm == pytest.approx(36, abs=1.5 * pixel)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.5, 0.75)])
def test_end_points_draw_two_perpendicular_lines_of_the_measured_lengths(
    spacing: tuple[float, float],
) -> None:
    mask = ellipse(30, 18, 0.7, spacing)
    found = recist_mm(mask, spacing)
    (a, b), (c, d) = (np.array(line) * spacing for line in found.endpoints)
    assert np.hypot(*(b - a)) == pytest.approx(found.long_mm)
    assert np.hypot(*(d - c)) == pytest.approx(found.short_mm)
    assert np.dot(b - a, d - c) == pytest.approx(0, abs=1e-9)
    for along in np.linspace(0.02, 0.98, 50):
        y, x = np.rint((c + along * (d - c)) / spacing).astype(int)
        assert mask[y, x]


def test_short_diameter_does_not_jump_a_notch() -> None:
    """An H on its side is measured across one bar and not across the gap between its bars."""
    mask = np.zeros((40, 80), bool)
    mask[5:35, 5:75] = True
    mask[15:25, 5:39] = mask[15:25, 42:75] = False
    found = recist_mm(mask, (1, 1))
    assert found.long_mm == pytest.approx(math.hypot(70, 29), abs=1)
    assert found.short_mm < 20


def test_only_the_largest_part_is_measured() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:8, 2:8] = True
    alone = recist_mm(mask, (1, 1))
    mask[35, 35] = True
    assert recist_mm(mask, (1, 1)) == alone


def test_slice_without_a_lesion_has_no_diameter() -> None:
    assert recist_mm(np.zeros((5, 5)), (1, 1)) == RecistDiameters(0.0, 0.0, ())


@unhurried
@given(arrays(bool, (8, 9)), st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)))
def test_short_diameter_is_never_longer_than_the_long_one(
    mask: NDArray, spacing: tuple[float, float]
) -> None:
    found = recist_mm(mask, spacing)
    assert 0 <= found.short_mm <= found.long_mm * (1 + 1e-9)
    assert found.short_mm > 0 or not mask.any()


@pytest.mark.parametrize(
    ("mask", "spacing"), [(np.ones((2, 2, 2)), (1, 1)), (np.ones((2, 2)), (1, 1, 1)), (np.ones(3), (1, 1))]
)
def test_recist_of_what_is_no_slice_is_refused(mask: NDArray, spacing: Any) -> None:
    with pytest.raises(MetricError, match=r"^[A-Z].*\.$"):
        recist_mm(mask, spacing)
