"""A mask starts a session only where it lies on the image, or where the user said how to bring it there."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_medsam.export import GridError, Segmentation, placed_on
from napari_medsam.volume import Geometry

TILT = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
IMAGE = Geometry((7, 9, 11), (3.0, 0.7, 0.8), (-120.5, 33.25, 801.125), tuple(TILT.ravel()))


def named(labels: NDArray, geometry: Geometry) -> Segmentation:
    return Segmentation.from_labels(labels, geometry, names={1: "liver", 5: "spleen"})


def labels(shape: tuple[int, ...] = IMAGE.shape) -> NDArray[np.uint8]:
    return np.random.default_rng(2).choice(np.array([0, 1, 5], np.uint8), shape)


def part_of_image(start: tuple[int, int, int], shape: tuple[int, int, int]) -> Geometry:
    origin = (IMAGE.affine @ (*start[::-1], 1))[:3]
    return Geometry(shape, IMAGE.spacing, tuple(origin), IMAGE.direction)


def itk_image(voxels: NDArray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def test_mask_on_the_images_grid_is_taken_as_it_is() -> None:
    found = placed_on(named(labels(), IMAGE), IMAGE)
    np.testing.assert_array_equal(found.labels, labels())
    assert found.notes == ()
    assert [segment.name for segment in found.segments] == ["liver", "spleen"]


@pytest.mark.parametrize("start", [(2, 3, 4), (0, 0, 0), (-1, -2, 5), (5, 7, 9)])
def test_mask_without_empty_borders_is_put_in_its_place(start: tuple[int, int, int]) -> None:
    """3D Slicer and DICOM cut off what is empty; nothing may move by a voxel, nor vanish unsaid."""
    shape = (3, 4, 5)
    own = labels(shape)
    found = placed_on(named(own, part_of_image(start, shape)), IMAGE)
    expected = np.zeros(IMAGE.shape, np.uint8)
    lost = 0
    for index in np.ndindex(*shape):
        place = tuple(np.add(index, start))
        if all(0 <= k < n for k, n in zip(place, IMAGE.shape, strict=True)):
            expected[place] = own[index]
        else:
            lost += int(own[index] > 0)
    np.testing.assert_array_equal(found.labels, expected)
    assert "was put in its place" in found.notes[0]
    assert [note for note in found.notes if "were left out" in note] == (
        [f"{lost} labelled voxels of the mask lie beyond the image and were left out."] if lost else []
    )


@pytest.mark.parametrize("signs", [*product((1, -1), repeat=3)])
@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_mask_with_other_axes_is_turned_voxel_by_voxel(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    """Converters of DICOM turn and flip axes; ITK's order of axes is the independent witness."""
    filters = sitk.PermuteAxesImageFilter()
    filters.SetOrder(order)
    flipped = sitk.Flip(filters.Execute(itk_image(labels(), IMAGE)), [sign < 0 for sign in signs], False)
    own = Geometry(
        flipped.GetSize()[::-1], flipped.GetSpacing()[::-1], flipped.GetOrigin(), flipped.GetDirection()
    )
    found = placed_on(named(sitk.GetArrayFromImage(flipped), own), IMAGE)
    np.testing.assert_array_equal(found.labels, labels())
    assert IMAGE.difference(found.geometry) == ""


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        (Geometry(IMAGE.shape, IMAGE.spacing, (-120.5, 33.25, 803.125), IMAGE.direction), "2 mm apart"),
        (Geometry((7, 9, 22), (3.0, 0.7, 0.4), IMAGE.origin, IMAGE.direction), "first voxels lie 0 mm apart"),
        (Geometry(IMAGE.shape, IMAGE.spacing, IMAGE.origin), "mm apart"),
    ],
)
def test_mask_on_another_grid_is_refused_with_the_distance(geometry: Geometry, said: str) -> None:
    """A mask that is off by a slice looks right until somebody measures with it."""
    with pytest.raises(GridError, match=said) as caught:
        placed_on(named(labels(geometry.shape), geometry), IMAGE)
    assert "nearest or linear" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["nearest", "linear"])
def test_resampling_is_that_of_itk(how: str) -> None:
    """From a coarse, turned grid to the image's, against an independent resampler."""
    coarse = Geometry((5, 8, 8), (5.0, 1.1, 1.3), (-121.0, 32.0, 800.0))
    own = np.kron(labels((3, 4, 4)), np.ones((2, 2, 2), np.uint8))[:5]
    found = placed_on(named(own, coarse), IMAGE, resample=how)
    reference = itk_image(np.zeros(IMAGE.shape, np.uint8), IMAGE)
    if how == "nearest":
        moved = sitk.Resample(itk_image(own, coarse), reference, sitk.Transform(), sitk.sitkNearestNeighbor)
        expected = sitk.GetArrayFromImage(moved)
    else:
        shares = []
        for label in (1, 5):
            # ITK stops half a voxel beyond the outermost centres, here voxels fade into what is outside.
            padded = sitk.ConstantPad(itk_image((own == label).astype(np.float32), coarse), [1] * 3, [1] * 3)
            moved = sitk.Resample(padded, reference, sitk.Transform(), sitk.sitkLinear)
            shares.append(sitk.GetArrayFromImage(moved))
        expected = np.select([shares[0] >= np.maximum(shares[1], 0.5), shares[1] >= 0.5], [1, 5])
    # Voxel centres that fall between two voxels of the mask may round either way.
    assert np.mean(found.labels != expected) < 0.005
    assert found.labels.any()
    assert f"was resampled ({how})" in found.notes[0]


def test_mask_beyond_the_image_is_refused() -> None:
    """An empty layer would look like a case without a finding."""
    with pytest.raises(GridError, match="wholly beyond the image"):
        placed_on(named(labels((2, 2, 2)), part_of_image((50, 0, 0), (2, 2, 2))), IMAGE)
    far = Geometry((2, 2, 2), (1.0, 1.0, 1.0), (5000.0, 0.0, 0.0))
    with pytest.raises(GridError, match="wholly beyond the image"):
        placed_on(named(labels((2, 2, 2)), far), IMAGE, resample="nearest")
