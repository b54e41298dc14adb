"""A contrast-enhanced CT of a torso, from mid-chest to the lower poles of the kidneys."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from napari_medsam.phantom.scene import Level, Phantom, Point, Scene

CT_NAMES: Mapping[int, str] = {
    1: "liver",
    2: "spleen",
    3: "kidney_right",
    4: "kidney_left",
    5: "lung_right",
    6: "lung_left",
    7: "heart",
    8: "aorta",
    9: "inferior_vena_cava",
    10: "vertebrae",
    11: "spinal_canal",
    12: "stomach",
    13: "gallbladder",
    14: "liver_lesion",
}
_LABEL = {name: label for label, name in CT_NAMES.items()}
_FIELD_OF_VIEW_MM = (256.0, 345.6, 345.6)
_NOISE_HU = 12.0
_FAT_HU, _MUSCLE_HU, _LUNG_HU, _AIR_HU, _FLUID_HU = -95.0, 55.0, -860.0, -1000.0, 15.0
_VERTEBRA_PITCH_MM, _DISC_MM = 33.0, 7.0


def ct_torso(seed: int = 0, shape: tuple[int, int, int] = (64, 192, 192)) -> Phantom:
    """Make the CT phantom.

    Parameters
    ----------
    seed : int
        Same seed, same shape: same patient, voxel for voxel. Others differ in sizes, places, intensities and
        noise.
    shape : tuple of int
        Voxels (z, y, x), each at least 16. The field of view is always 256 x 345.6 x 345.6 mm: the default
        has voxels of 4 x 1.8 x 1.8 mm, a smaller shape has the same patient in larger ones.

    Returns
    -------
    Phantom
        int16 Hounsfield units with noise of about 12 HU; labels as in `CT_NAMES`.

    Raises
    ------
    PhantomError
        When the shape is not three numbers of at least 16, or the seed is negative.
    """
    scene = Scene(shape, _FIELD_OF_VIEW_MM, seed=seed, background=_AIR_HU, wobble_mm=3.0)
    cavity = _paint_wall(scene)
    _paint_bowel(scene, cavity)
    dome = _paint_chest(scene, cavity)
    _paint_upper_abdomen(scene, np.minimum(cavity, dome))
    _paint_kidneys(scene)
    _paint_great_vessels(scene)
    _paint_spine(scene)
    hounsfield = scene.blurred_in_plane() + _noise(scene)
    return scene.phantom(np.clip(np.rint(hounsfield), -1024, 3071).astype(np.int16), "CT", CT_NAMES)


def _noise(scene: Scene) -> NDArray[np.float32]:
    """Noise with the short in-plane correlation that reconstruction leaves behind."""
    white = scene.rng.standard_normal(scene.shape, dtype=np.float32)
    mixed = white + 0.5 * np.roll(white, 1, axis=2) + 0.5 * np.roll(white, 1, axis=1)
    return mixed * np.float32(_NOISE_HU / np.sqrt(1.5))


def _paint_wall(scene: Scene) -> Level:
    """Paint skin, fat, the muscle wall and the ribs; return the level of the cavity inside."""
    stout = float(scene.rng.uniform(0.95, 1.05))
    body = scene.ellipsoid((0.0, 5.0, 0.0), (900.0, 108.0 * stout, 158.0 * stout), power=2.5)
    scene.paint(body, 10.0)
    scene.paint(body - 0.05, _FAT_HU)
    wall = scene.ellipsoid((0.0, 5.0, 0.0), (900.0, 92.0, 138.0), power=2.3)
    scene.paint(wall, _MUSCLE_HU)
    cavity = scene.ellipsoid((0.0, -2.0, 0.0), (900.0, 76.0, 122.0), power=2.2)
    scene.paint(cavity, _FAT_HU)
    z, y, x = scene.where
    # Ribs slope down to the front, so an axial slice meets each of them over a short arc.
    height = z + 0.45 * y + 20.0
    nearest = np.abs(np.mod(height, 27.0) - 13.5)
    rib = np.minimum(np.minimum(-0.01 - cavity, cavity + 0.17), (5.0 - nearest) / 60.0)
    lowest = np.minimum((z + 60.0) / 200.0, (np.abs(x) - 25.0) / 100.0)
    scene.paint(np.minimum(rib, lowest), 380.0)
    return cavity


def _paint_bowel(scene: Scene, cavity: Level) -> None:
    """Paint unlabelled loops of bowel: what a box around an organ must not leak into."""
    for _ in range(16):
        z, y, x = scene.rng.uniform((-120.0, -62.0, -85.0), (-55.0, 5.0, 85.0)).tolist()
        rz, ry, rx = scene.rng.uniform(11.0, 21.0, 3).tolist()
        scene.paint_ellipsoid((z, y, x), (rz, ry, rx), 60.0, within=cavity)
        gas = scene.rng.random() < 0.4
        inner = (rz - 4.0, ry - 4.0, rx - 4.0)
        scene.paint_ellipsoid((z, y, x), inner, _AIR_HU + 50.0 if gas else 25.0, within=cavity)


def _paint_chest(scene: Scene, cavity: Level) -> Level:
    """Paint lungs and heart; return the level of the space below the diaphragm."""
    domes = []
    for side, name, top_mm in ((-1.0, "lung_right", 28.0), (1.0, "lung_left", 16.0)):
        top_mm += float(scene.rng.uniform(-5.0, 5.0))
        dome = scene.ellipsoid((-110.0, 0.0, side * 62.0), (110.0 + top_mm, 130.0, 95.0))
        pleura = scene.ellipsoid((150.0, 2.0, side * 68.0), (190.0, 74.0, 52.0), power=2.4)
        lung = np.minimum(np.minimum(pleura, -dome), cavity - 0.06)
        # Blood settles towards the back of a patient who lies on it.
        density = _LUNG_HU + 0.4 * scene.where[1] + 12.0 * scene.waves((15.0, 40.0), count=4)
        scene.paint(lung, density, label=_LABEL[name])
        _paint_lung_vessels(scene, side, lung - 0.02)
        domes.append(dome)
    centre, radii = scene.varied((48.0, -28.0, 22.0), (46.0, 40.0, 50.0))
    scene.paint_ellipsoid(centre, radii, 95.0, label=_LABEL["heart"])
    for shift in ((6.0, 2.0, 14.0), (6.0, -6.0, -20.0)):
        z, y, x = np.add(centre, shift).tolist()
        scene.paint_ellipsoid((z, y, x), (26.0, 20.0, 17.0), 165.0, label=_LABEL["heart"])
    return np.maximum(domes[0], domes[1]) - 0.03


def _paint_lung_vessels(scene: Scene, side: float, lung: Level) -> None:
    hilum = (62.0, 8.0, side * 30.0)
    for _ in range(22):
        reach = scene.rng.uniform((-70.0, -55.0, 20.0), (60.0, 55.0, 70.0))
        z, y, x = np.add(hilum, reach * (1.0, 1.0, side)).tolist()
        bend = (z * 0.4 + 40.0, y * 0.3 + 6.0, x * 0.5 + side * 16.0)
        scene.paint_path([hilum, bend], 3.2, 40.0, within=lung)
        scene.paint_path([bend, (z, y, x)], 1.8, 30.0, within=lung)


def _paint_upper_abdomen(scene: Scene, space: Level) -> None:
    """Paint stomach, spleen, liver with its vessels and one lesion, and the gallbladder."""
    centre, radii = scene.varied((-25.0, -22.0, 60.0), (42.0, 38.0, 36.0))
    scene.paint_ellipsoid(centre, radii, 70.0, _LABEL["stomach"], within=space)
    lumen = (radii[0] - 5.0, radii[1] - 5.0, radii[2] - 5.0)
    region = scene.region(centre, lumen)
    inside = np.minimum(scene.ellipsoid(centre, lumen, region), space[region] - 0.03)
    scene.paint(inside, 25.0, region, _LABEL["stomach"])
    # Lying on the back, gas rises to the front and the fluid below it is level.
    above_fluid = (centre[1] - 8.0 - scene.where[1][region]) / 40.0
    scene.paint(np.minimum(inside, above_fluid), _AIR_HU + 20.0, region, _LABEL["stomach"])

    centre, radii = scene.varied((-22.0, 34.0, 88.0), (46.0, 40.0, 26.0))
    scene.paint_ellipsoid(centre, radii, float(scene.rng.uniform(105, 125)), _LABEL["spleen"], within=space)

    right, right_radii = scene.varied((-40.0, -4.0, -60.0), (66.0, 70.0, 58.0))
    left, left_radii = scene.varied((-18.0, -38.0, 8.0), (32.0, 28.0, 55.0))
    liver = np.maximum(scene.ellipsoid(right, right_radii), scene.ellipsoid(left, left_radii))
    liver = np.minimum(liver, space - 0.02)
    texture = 3.0 * scene.waves((8.0, 20.0), count=3)
    scene.paint(liver, float(scene.rng.uniform(98, 112)) + texture, label=_LABEL["liver"])
    _paint_liver_vessels(scene, liver - 0.05)
    gallbladder, gallbladder_radii = scene.varied((-66.0, -48.0, -42.0), (22.0, 15.0, 14.0))
    scene.paint_ellipsoid(gallbladder, gallbladder_radii, 12.0, _LABEL["gallbladder"])
    lesion, lesion_radii = scene.varied(
        (right[0] + 12.0, 14.0, right[2] - 18.0), (14.0, 13.0, 13.0), move_mm=7.0
    )
    scene.paint_ellipsoid(lesion, lesion_radii, 55.0, _LABEL["liver_lesion"], within=liver)


def _paint_liver_vessels(scene: Scene, liver: Level) -> None:
    porta = (-38.0, -8.0, -28.0)
    for _ in range(12):
        z, y, x = scene.rng.uniform((-85.0, -50.0, -105.0), (15.0, 45.0, -20.0)).tolist()
        fork = ((z - 38.0) / 2 + 6.0, (y - 8.0) / 2, (x - 28.0) / 2)
        scene.paint_path([porta, fork], 4.0, 165.0, within=liver)
        scene.paint_path([fork, (z, y, x)], 2.4, 155.0, within=liver)


def _paint_kidneys(scene: Scene) -> None:
    for side, name, height in ((-1.0, "kidney_right", -82.0), (1.0, "kidney_left", -74.0)):
        centre, radii = scene.varied((height, 48.0, side * 62.0), (50.0, 25.0, 27.0), move_mm=3.0)
        region = scene.region(centre, radii)
        sinus_centre = (centre[0], centre[1] - 4.0, centre[2] - side * 22.0)
        sinus = scene.ellipsoid(sinus_centre, (24.0, 11.0, 20.0), region)
        kidney = np.minimum(scene.ellipsoid(centre, radii, region), -sinus)
        scene.paint(kidney, 175.0, region, _LABEL[name])
        medulla = (radii[0] - 9.0, radii[1] - 8.0, radii[2] - 8.0)
        scene.paint(np.minimum(scene.ellipsoid(centre, medulla, region), -sinus), 145.0, region, _LABEL[name])


def _paint_great_vessels(scene: Scene) -> None:
    heights = np.linspace(-140.0, 140.0, 8)
    sway = scene.rng.uniform(-3.0, 3.0, (2, heights.size))
    cava: list[Point] = [
        (z, 26.0 - 0.06 * z, -20.0 + dx) for z, dx in zip(heights, sway[0], strict=True) if z < 50
    ]
    scene.paint_path(cava, 10.0, 135.0, _LABEL["inferior_vena_cava"])
    aorta: list[Point] = [(z, 27.0 + 0.04 * z, 10.0 + dx) for z, dx in zip(heights, sway[1], strict=True)]
    scene.paint_path(aorta, 11.0 + float(scene.rng.uniform(-1, 1.5)), 205.0, _LABEL["aorta"])


def _paint_spine(scene: Scene) -> None:
    """Paint the muscles of the back, vertebral bodies with discs, arches with spines, and the canal."""
    for side in (-1.0, 1.0):
        scene.paint(scene.ellipsoid((0.0, 80.0, side * 36.0), (900.0, 18.0, 26.0)), _MUSCLE_HU + 5.0)
    z = scene.where[0] + float(scene.rng.uniform(0, _VERTEBRA_PITCH_MM))
    from_disc = np.abs(np.mod(z, _VERTEBRA_PITCH_MM) - _VERTEBRA_PITCH_MM / 2) - _DISC_MM / 2
    column = scene.ellipsoid((0.0, 56.0, 0.0), (900.0, 17.0, 22.0))
    scene.paint(column, 80.0)
    body = np.minimum(column, from_disc / 30.0)
    arch = scene.ellipsoid((0.0, 80.0, 0.0), (900.0, 13.0, 17.0))
    in_arch = (6.0 - np.abs(from_disc - 6.0)) / 30.0
    spine = scene.ellipsoid((0.0, 92.0, 0.0), (900.0, 16.0, 4.5))
    transverse = scene.ellipsoid((0.0, 76.0, 0.0), (900.0, 5.0, 34.0))
    bone = np.maximum(body, np.minimum(np.maximum(np.maximum(arch, spine), transverse), in_arch))
    scene.paint(bone, 420.0, label=_LABEL["vertebrae"])
    marrow = np.minimum(scene.ellipsoid((0.0, 56.0, 0.0), (900.0, 14.5, 19.5)), (from_disc - 2.0) / 30.0)
    scene.paint(marrow, 190.0 + 12.0 * scene.waves((6.0, 14.0), count=3), label=_LABEL["vertebrae"])
    scene.paint(
        scene.ellipsoid((0.0, 80.0, 0.0), (900.0, 8.0, 10.0)), _FLUID_HU, label=_LABEL["spinal_canal"]
    )
    scene.paint(scene.ellipsoid((0.0, 80.0, 0.0), (900.0, 5.0, 6.5)), 42.0, label=_LABEL["spinal_canal"])
