"""The synthetic patients: what the demo shows and what the tests of other modules segment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_medsam.phantom import CT_NAMES, MR_NAMES, Phantom, PhantomError, ct_torso, mr_brain
from napari_medsam.phantom.scene import Scene

SMALL = (24, 64, 64)
MAKERS = pytest.mark.parametrize("make", [ct_torso, mr_brain])
Maker = Callable[..., Phantom]


@pytest.fixture(scope="module")
def torso() -> Phantom:
    return ct_torso(seed=0, shape=(40, 96, 96))


@pytest.fixture(scope="module")
def brain() -> Phantom:
    return mr_brain(seed=0, shape=(40, 96, 96))


def mean_of(phantom: Phantom, name: str) -> float:
    """Mean intensity of the inner voxels of a label: a voxel at its edge is part neighbour."""
    label = {text: number for number, text in phantom.names.items()}[name]
    mask = phantom.labels == label
    inner = mask.copy()
    for axis in range(3):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return float(phantom.volume.array[inner].mean())


def middle_of(phantom: Phantom, name: str) -> tuple[float, float, float]:
    label = {text: number for number, text in phantom.names.items()}[name]
    z, y, x = (float(part.mean()) for part in np.nonzero(phantom.labels == label))
    return z, y, x


@MAKERS
def test_same_seed_gives_the_same_patient(make: Maker) -> None:
    """Numbers printed by the demo can be compared between machines and versions."""
    first, second = make(seed=7, shape=SMALL), make(seed=7, shape=SMALL)
    np.testing.assert_array_equal(first.volume.array, second.volume.array)
    np.testing.assert_array_equal(first.labels, second.labels)


@MAKERS
def test_another_seed_gives_another_patient(make: Maker) -> None:
    """A demo on another seed is a new case, not the same organs under new noise."""
    first, second = make(seed=1, shape=SMALL), make(seed=2, shape=SMALL)
    assert (first.labels != second.labels).mean() > 0.01


@MAKERS
@pytest.mark.parametrize("seed", range(4))
def test_every_named_label_is_in_the_picture(make: Maker, seed: int) -> None:
    """No organ is lost under its neighbours, whatever the seed: the demo would have nothing to box."""
    phantom = make(seed=seed, shape=(40, 96, 96))
    assert set(np.unique(phantom.labels)) == {0, *phantom.names}


@pytest.mark.parametrize(
    ("make", "modality", "dtype"), [(ct_torso, "CT", np.int16), (mr_brain, "MR", np.uint16)]
)
def test_image_and_labels_are_on_one_anisotropic_oblique_grid(
    make: Maker, modality: str, dtype: type
) -> None:
    """The phantom exercises what real files bring: thick slices and a direction off the axes."""
    phantom = make(shape=SMALL)
    volume = phantom.volume
    assert volume.modality == modality
    assert volume.array.dtype == dtype
    assert volume.array.shape == phantom.labels.shape == volume.geometry.shape == SMALL
    assert volume.geometry.spacing[0] > 1.5 * volume.geometry.spacing[1]
    direction = np.reshape(volume.geometry.direction, (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    assert 0 < np.abs(direction - np.eye(3)).max() < 0.1
    centre = volume.geometry.affine @ [*(np.subtract(SMALL, 1) / 2)[::-1], 1]
    np.testing.assert_allclose(centre[:3], 0, atol=1e-9)


def test_hounsfield_units_are_those_of_the_tissue(torso: Phantom) -> None:
    """CT windows and thresholds tried on the phantom show what they show on a patient."""
    expected = {
        "liver": (90, 125),
        "spleen": (95, 130),
        "lung_left": (-900, -780),
        "aorta": (180, 220),
        "vertebrae": (150, 450),
        "gallbladder": (-10, 40),
        "liver_lesion": (35, 75),
    }
    means = {name: mean_of(torso, name) for name in expected}
    assert {name: low < means[name] < high for name, (low, high) in expected.items()} == dict.fromkeys(
        expected, True
    )
    assert torso.volume.array[0, 0, 0] < -900
    assert torso.volume.array.max() <= 3071


def test_organs_lie_on_their_side_of_a_supine_patient(torso: Phantom) -> None:
    """Left, right, up, down are those of the LPS geometry: a mirrored phantom hides mirrored labels."""
    z, y, x = 0, 1, 2
    assert middle_of(torso, "liver")[x] < middle_of(torso, "spleen")[x]
    assert middle_of(torso, "kidney_right")[x] < middle_of(torso, "kidney_left")[x]
    assert middle_of(torso, "lung_right")[z] > middle_of(torso, "liver")[z]
    assert middle_of(torso, "heart")[y] < middle_of(torso, "aorta")[y] < middle_of(torso, "spinal_canal")[y]


def test_t1_contrast_of_the_brain(brain: Phantom) -> None:
    """White matter brighter than grey, grey than fluid: what a T1 reader and a percentile window expect."""
    assert mean_of(brain, "white_matter") > mean_of(brain, "thalamus_left") > mean_of(brain, "ventricles")
    assert mean_of(brain, "white_matter") > mean_of(brain, "cerebellum") > mean_of(brain, "ventricles")


def test_magnitude_noise_leaves_a_rician_floor_in_the_air(brain: Phantom) -> None:
    """MR air is never zero on average: sigma * sqrt(pi / 2) for the magnitude of pure noise."""
    air = brain.volume.array[:, :6, :6].astype(float)
    assert air.mean() == pytest.approx(16.0 * np.sqrt(np.pi / 2), rel=0.05)


@MAKERS
def test_a_coarser_grid_shows_the_same_patient(make: Maker) -> None:
    """Tests may use small phantoms and still be about the demo's anatomy."""
    volumes_ml = []
    for shape in (SMALL, (48, 128, 128)):
        phantom = make(shape=shape)
        counts = np.bincount(phantom.labels.ravel(), minlength=4)[1:4]
        volumes_ml.append(counts * np.prod(phantom.volume.geometry.spacing) / 1000)
    np.testing.assert_allclose(volumes_ml[0], volumes_ml[1], rtol=0.15)


def test_edges_hold_partial_volume() -> None:
    """Painted intensity adds up to the true volume of a shape, so volumes measured here mean something."""
    scene = Scene((32, 64, 64), (96.0, 64.0, 64.0), seed=0, background=0.0, wobble_mm=0.0)
    scene.paint_ellipsoid((1.3, -2.1, 0.4), (30.0, 14.0, 20.0), 1.0, label=5)
    true_mm3 = 4 / 3 * np.pi * 30 * 14 * 20
    voxel_mm3 = 3.0 * 1.0 * 1.0
    assert scene.image.sum() * voxel_mm3 == pytest.approx(true_mm3, rel=0.005)
    assert (scene.labels == 5).sum() * voxel_mm3 == pytest.approx(true_mm3, rel=0.02)
    assert ((scene.image > 0.05) & (scene.image < 0.95)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (8, 64, 64)}, "at least 16"),
        ({"shape": (64, 64)}, "three sizes"),
        ({"shape": (20.5, 64, 64)}, "three sizes"),
        ({"seed": -1}, "0 or more"),
    ],
)
@MAKERS
def test_impossible_phantoms_are_refused_in_one_sentence(make: Maker, arguments: dict, message: str) -> None:
    """A typo in --seed or a shape ends in words, not in a traceback out of numpy."""
    with pytest.raises(PhantomError, match=message):
        make(**arguments)


@MAKERS
def test_a_phantom_cannot_be_changed_by_accident(make: Maker) -> None:
    """The truth that Dice is measured against stays the truth while somebody works on the image."""
    phantom = make(shape=SMALL)
    for array in (phantom.volume.array, phantom.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def test_label_numbers_are_stable() -> None:
    """Documentation, screenshots and saved demo files name organs by these numbers."""
    assert CT_NAMES[1] == "liver"
    assert MR_NAMES[11] == "lesion"
    assert list(CT_NAMES) == list(range(1, 15))
    assert list(MR_NAMES) == list(range(1, 12))
