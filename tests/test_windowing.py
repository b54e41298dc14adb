"""Windows: what a model gets to see, without a change to the user's voxels."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.windowing import (
    PRESETS,
    Window,
    WindowError,
    apply_window,
    default_window,
    guess_modality,
    parse_window,
    percentile_window,
)

# A busy machine is no defect.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def volume(array: NDArray, modality: str = "") -> Volume:
    return Volume(array, Geometry(array.shape[:3]), modality)


def hounsfield_like() -> NDArray[np.int16]:
    """A slab of air, lung, fat and muscle, 30 x 40 x 50."""
    array = np.full((30, 40, 50), -1000, np.int16)
    array[:, 5:35, 5:45] = -100
    array[:, 8:32, 8:42] = 50
    array[:, 12:20, 12:20] = -850
    return array


@pytest.mark.parametrize(
    ("name", "lower", "upper"),
    [
        ("soft_tissue", -160, 240),
        ("lung", -1350, 150),
        ("mediastinum", -125, 225),
        ("bone", -500, 1300),
        ("brain", 0, 80),
        ("liver", -45, 105),
        ("angiography", -160, 500),
        ("wide", -500, 1000),
    ],
)
def test_preset_is_the_window_a_radiologist_knows_by_that_name(name: str, lower: float, upper: float) -> None:
    assert PRESETS[name] == Window(lower, upper, name)


@pytest.mark.parametrize(
    ("lower", "upper"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf), (-math.inf, 0), (-1.7e308, 1.7e308)]
)
def test_window_that_cannot_be_divided_by_is_refused(lower: float, upper: float) -> None:
    with pytest.raises(WindowError, match="limit"):
        Window(lower, upper, "x")


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", "<f2", "<f4", ">f4", "<f8", ">f8", "?"]
)
def test_every_voxel_type_and_byte_order_gets_the_same_intensities(dtype: str) -> None:
    image = np.array([[0, 1, 1], [0, 0, 1]]).astype(dtype)
    before = image.copy()
    result = apply_window(image, Window(-1.0, 3.0, "x"))
    np.testing.assert_array_equal(result, np.array([[0.25, 0.5, 0.5], [0.25, 0.25, 0.5]], np.float32))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(image, before)


def test_values_beyond_the_window_and_damaged_voxels_do_not_reach_the_model() -> None:
    image = np.array([-np.inf, -2000.0, -160.0, 40.0, 240.0, 1e300, np.inf, np.nan])
    np.testing.assert_array_equal(apply_window(image, PRESETS["soft_tissue"]), [0, 0, 0, 0.5, 1, 1, 1, 0])


def test_narrow_window_far_from_zero_keeps_its_contrast() -> None:
    """PET counts and uint32 images would turn black and white if float32 did the subtraction."""
    image = np.array([2**30, 2**30 + 1, 2**30 + 2], np.uint32)
    np.testing.assert_array_equal(apply_window(image, Window(2**30, 2**30 + 2, "x")), [0, 0.5, 1])


@unhurried
@given(
    arrays(st.sampled_from(["i2", "u2", "f4", "f8"]), array_shapes(max_dims=4)),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
def test_any_image_comes_out_as_finite_numbers_from_0_to_1(
    image: NDArray, lower: float, width: float
) -> None:
    result = apply_window(image, Window(lower, lower + width, "x"))
    assert result.shape == image.shape
    assert np.all((result >= 0) & (result <= 1))


@pytest.mark.parametrize("dtype", ["c8", "O", "U3", "M8[s]"])
def test_image_that_holds_no_real_numbers_is_refused(dtype: str) -> None:
    with pytest.raises(WindowError, match="real numbers"):
        apply_window(np.zeros((2, 2), dtype), PRESETS["brain"])


def test_percentiles_leave_out_a_zero_background_as_medsam_does() -> None:
    image = np.concatenate([np.zeros(1_000_000), np.arange(1, 1002)])
    assert percentile_window(image, 0.5, 99.5) == Window(6.0, 996.0, "percentile")


def test_a_little_ringing_below_zero_does_not_widen_the_window() -> None:
    image = np.concatenate([np.zeros(1000), np.full(40, -16.0), np.arange(1, 1002)])
    assert percentile_window(image, 0.0, 100.0) == Window(1.0, 1001.0, "percentile")


def test_z_scored_brain_keeps_its_dark_half() -> None:
    brain = np.linspace(-2.0, 2.0, 1001)
    image = np.concatenate([np.zeros(5000), brain])
    assert percentile_window(image, 0.0, 100.0) == Window(-2.0, 2.0, "percentile")


def test_percentiles_between_far_apart_int16_voxels_do_not_wrap_around() -> None:
    assert percentile_window(np.array([-30000, 30000], np.int16), 25, 75) == Window(
        -15000, 15000, "percentile"
    )


def test_voxels_that_are_not_numbers_do_not_count() -> None:
    image = np.concatenate([np.arange(1.0, 102.0), [np.nan, np.inf, -np.inf]])
    assert percentile_window(image, 0, 100) == Window(1.0, 101.0, "percentile")


@pytest.mark.parametrize(
    ("image", "lower", "upper"),
    [
        (np.full((2, 3), np.nan), 0, 1),
        (np.zeros((0, 3)), 0, 1),
        (np.zeros((2, 3), np.uint8), -0.5, 0.5),
        (np.full((2, 3), 7, np.int16), 6.5, 7.5),
        (np.array([0, 0, 0, 1], np.uint8), 0, 1),
        (np.array([False, True]), 0, 1),
        (np.r_[np.full(1000, 5.0), 9.0], 5, 9),
        (np.full(3, -4e9), -4e9 - 4e3, -4e9 + 4e3),
    ],
    ids=["all NaN", "no voxels", "black", "constant", "one value in front", "boolean", "a spike", "huge"],
)
def test_image_without_contrast_still_gets_a_window(image: NDArray, lower: float, upper: float) -> None:
    assert percentile_window(image) == Window(lower, upper, "percentile")


@unhurried
@given(arrays(st.sampled_from(["i2", "u1", "f4", "f8", "?"]), array_shapes(max_dims=3, min_side=0)))
def test_no_image_is_left_without_a_window(image: NDArray) -> None:
    found = percentile_window(image)
    assert found.lower < found.upper


def test_large_image_is_thinned_without_a_visible_difference() -> None:
    image = np.random.default_rng(3).random((100, 300, 300), np.float32) ** 3
    found, exact = percentile_window(image), np.percentile(image, [0.5, 99.5])
    grey_level = (exact[1] - exact[0]) / 256
    assert found.lower == pytest.approx(exact[0], abs=grey_level)
    assert found.upper == pytest.approx(exact[1], abs=grey_level)


@pytest.mark.parametrize(("lower", "upper"), [(-1, 50), (50, 101), (60, 50), (50, 50), (math.nan, 50)])
def test_percentiles_out_of_order_are_refused(lower: float, upper: float) -> None:
    with pytest.raises(WindowError, match="Percentiles"):
        percentile_window(np.arange(10), lower, upper)


@pytest.mark.parametrize(
    ("header", "guess"), [("CT", "CT"), ("MR", "MR"), ("PT", "other"), ("US", "other"), ("XR", "other")]
)
def test_header_is_believed_before_values(header: str, guess: str) -> None:
    assert guess_modality(volume(np.full((2, 3, 4), -1000, np.int16), header)) == guess


def test_colour_image_is_seen_by_its_shape() -> None:
    assert guess_modality(volume(np.zeros((1, 3, 4, 3), np.uint8))) == "RGB"


@pytest.mark.parametrize(
    "array",
    [
        hounsfield_like(),
        hounsfield_like() + np.float32(0.3),
        np.where(np.indices((30, 40, 50))[2] < 4, -3024, hounsfield_like()).astype(np.int16),
        np.where(hounsfield_like() > -1000, hounsfield_like(), np.nan),
    ],
    ids=["plain", "resampled", "padded outside the field of view", "NaN outside"],
)
def test_nifti_in_hounsfield_units_is_taken_for_ct(array: NDArray) -> None:
    assert guess_modality(volume(array)) == "CT"


@pytest.mark.parametrize(
    "array",
    [
        hounsfield_like() + 1024,
        (hounsfield_like() + 1000.0) / 1050,
        np.random.default_rng(0).integers(-4096, 4096, (20, 30, 30)).astype(np.int16),
        np.random.default_rng(0).normal(0, 1, (20, 30, 30)),
        np.random.default_rng(0).gamma(2, 150, (20, 30, 30)),
        np.zeros((2, 3, 4)),
        np.full((2, 3, 4), np.nan),
    ],
    ids=["stored values", "rescaled to 1", "MR phase", "z-scored MR", "MR magnitude", "black", "all NaN"],
)
def test_image_in_other_units_does_not_get_a_ct_window(array: NDArray) -> None:
    assert guess_modality(volume(array)) == "other"


def test_default_windows_are_those_the_medsam_weights_were_trained_with() -> None:
    ct = volume(hounsfield_like())
    mr = volume(np.arange(0.0, 1001.0).reshape(7, 11, 13))
    assert default_window(ct) == Window(-160, 240, "soft_tissue")
    assert default_window(mr) == percentile_window(mr.array)
    assert default_window(volume(np.zeros((1, 2, 2, 3), np.uint8))) == Window(0, 255, "rgb")


def test_user_overrules_the_guess() -> None:
    ct = volume(hounsfield_like(), "CT")
    assert default_window(ct, "MR") == percentile_window(ct.array)
    assert default_window(volume(np.ones((2, 3, 4))), "CT").name == "soft_tissue"


def test_misspelt_modality_is_refused_and_not_taken_for_other() -> None:
    with pytest.raises(WindowError, match="CT, MR, RGB, other, not 'ct'"):
        default_window(volume(np.ones((2, 3, 4))), "ct")


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        ("soft_tissue", -160, 240),
        (" Soft tissue ", -160, 240),
        ("soft-tissue", -160, 240),
        ("400/40", -160, 240),
        ("1500/-600", -1350, 150),
        ("-160:240", -160, 240),
        ("-1.5e2 : -.5", -150, -0.5),
        ("auto", -160, 240),
        ("percentile", -1000, 50),
    ],
)
def test_window_is_understood_as_typed(text: str, lower: float, upper: float) -> None:
    found = parse_window(text, volume(hounsfield_like()))
    assert (found.lower, found.upper) == (lower, upper)


@pytest.mark.parametrize(
    "text",
    ["", "lungs", "400", "400/", "/40", "a:b", "1:2:3", "1/2/3", "400,40", "--", "0x10:0x20", "400/40:3"],
)
def test_unreadable_window_names_every_form_that_is_read(text: str) -> None:
    with pytest.raises(WindowError, match=r"soft_tissue.*wide, WIDTH/LEVEL such as 400/40, LOWER:UPPER"):
        parse_window(text, volume(np.ones((2, 3, 4))))


@pytest.mark.parametrize(
    "text", ["0/40", "-400/40", "nan/40", "inf/40", "40/nan", "240:-160", "1:1", "nan:1", "0:1e999"]
)
def test_window_without_width_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(WindowError, match=r"^[^.].*\.$"):
        parse_window(text, volume(np.ones((2, 3, 4))))


def test_ct_is_told_from_everything_else_on_real_images(real_data: Path) -> None:
    """A NIfTI file never says what it is: a wrong guess would show the model a black or a white slice.

    The stacks of 2D slices were rescaled to 0..1 by their publisher.
    """
    import SimpleITK as sitk

    for folder in sorted(path.parent for path in real_data.glob("*/meta.json")):
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "image.nii.gz")))
        if meta["kind"] == "rgb2d":
            array, expected = array[None], "RGB"
        else:
            expected = "CT" if meta["modality"] == "CT" and meta["kind"] == "3d" else "other"
        assert guess_modality(volume(array)) == expected, folder.name
