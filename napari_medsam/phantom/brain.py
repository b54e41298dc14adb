"""A T1-weighted MR of a head with one ring-enhancing lesion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from napari_medsam.phantom.scene import Level, Phantom, Scene

MR_NAMES: Mapping[int, str] = {
    1: "csf",
    2: "grey_matter",
    3: "white_matter",
    4: "ventricles",
    5: "thalamus_right",
    6: "thalamus_left",
    7: "putamen_right",
    8: "putamen_left",
    9: "brainstem",
    10: "cerebellum",
    11: "lesion",
}
_LABEL = {name: label for label, name in MR_NAMES.items()}
_FIELD_OF_VIEW_MM = (192.0, 230.4, 230.4)
_NOISE = 16.0
_SCALP, _SKULL, _CSF, _GREY, _WHITE, _NUCLEI = 820.0, 90.0, 150.0, 440.0, 640.0, 510.0


def mr_brain(seed: int = 0, shape: tuple[int, int, int] = (64, 192, 192)) -> Phantom:
    """Make the MR phantom.

    Parameters
    ----------
    seed : int
        Same seed, same shape: same patient, voxel for voxel.
    shape : tuple of int
        Voxels (z, y, x), each at least 16. The field of view is always 192 x 230.4 x 230.4 mm: the default
        has voxels of 3 x 1.2 x 1.2 mm, a smaller shape has the same patient in larger ones.

    Returns
    -------
    Phantom
        uint16 signal in arbitrary units (white matter about 640) with a bias field of about 20 % and Rician
        noise, the magnitude of a complex signal (Gudbjartsson & Patz 1995); labels as in `MR_NAMES`.

    Raises
    ------
    PhantomError
        When the shape is not three numbers of at least 16, or the seed is negative.
    """
    scene = Scene(shape, _FIELD_OF_VIEW_MM, seed=seed, background=0.0, wobble_mm=2.0)
    white = _paint_head(scene)
    _paint_deep_brain(scene)
    _paint_hindbrain(scene)
    _paint_lesion(scene, white)
    signal = scene.blurred_in_plane() * (1.0 + 0.1 * scene.waves((250.0, 400.0), count=3))
    noise = _NOISE * scene.rng.standard_normal((2, *scene.shape), dtype=np.float32)
    magnitude = np.hypot(signal + noise[0], noise[1])
    return scene.phantom(np.clip(np.rint(magnitude), 0, 65535).astype(np.uint16), "MR", MR_NAMES)


def _paint_head(scene: Scene) -> Level:
    """Paint scalp, skull, CSF and the folded cortex; return the level of the white matter, in mm."""
    size = float(scene.rng.uniform(0.96, 1.04))
    centre = (-14.0, 4.0, 0.0)
    for radii, value in (((98.0, 100.0, 80.0), _SCALP), ((92.0, 93.5, 73.5), _SKULL)):
        scene.paint(_distance(scene, centre, (radii[0] * size, radii[1] * size, radii[2] * size)), value)
    dura = _distance(scene, centre, (85.0 * size, 86.5 * size, 66.5 * size))
    scene.paint(dura, _CSF, label=_LABEL["csf"])

    # Sulci are thin winding sheets: the places where a random field passes through zero.
    folds = np.abs(scene.waves((28.0, 44.0), count=10))
    z, y, x = scene.where
    fissure = np.where(z > 34.0 - 0.006 * y * y, np.abs(x) - 1.5, 99.0)
    cortex = np.minimum(dura - 2.0 - np.maximum(0.28 - folds, 0.0) * 55.0, fissure)
    scene.paint(cortex, _GREY, label=_LABEL["grey_matter"])
    white = np.minimum(dura - 6.0 - np.maximum(0.75 - folds, 0.0) * 24.0, fissure - 4.0)
    scene.paint(white, _WHITE, label=_LABEL["white_matter"])
    return white


def _distance(scene: Scene, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Level:
    """Level of an ellipsoid in about millimetres, so that layers of a given thickness can be taken off."""
    reach = np.sqrt(1.0 - scene.ellipsoid(centre, radii))
    return (1.0 - reach) * np.float32(np.mean(radii))


def _paint_deep_brain(scene: Scene) -> None:
    """Paint caudate nuclei (as grey matter), thalami, putamina and the ventricles between them."""
    wide = float(scene.rng.uniform(0.8, 1.3))
    for side, name in ((-1.0, "right"), (1.0, "left")):
        centre, radii = scene.varied((16.0, -22.0, side * 17.0), (10.0, 11.0, 6.0), move_mm=1.0)
        scene.paint_ellipsoid(centre, radii, _NUCLEI - 30.0, _LABEL["grey_matter"])
        centre, radii = scene.varied((6.0, 10.0, side * 11.0), (9.0, 14.0, 8.5), move_mm=1.0)
        scene.paint_ellipsoid(centre, radii, _NUCLEI, _LABEL[f"thalamus_{name}"])
        centre, radii = scene.varied((4.0, -9.0, side * 28.0), (10.0, 17.0, 6.0), move_mm=1.0)
        scene.paint_ellipsoid(centre, radii, _NUCLEI - 20.0, _LABEL[f"putamen_{name}"])
        horn = [
            (14.0, -34.0, side * 9.0),
            (24.0, -12.0, side * 9.0),
            (25.0, 16.0, side * 14.0),
            (10.0, 44.0, side * 25.0),
        ]
        scene.paint_path(horn, 5.0 * wide, _CSF - 20.0, _LABEL["ventricles"])
    scene.paint_ellipsoid((3.0, 8.0, 0.0), (11.0, 15.0, 2.5), _CSF - 20.0, _LABEL["ventricles"])


def _paint_hindbrain(scene: Scene) -> None:
    for side in (-1.0, 1.0):
        centre, radii = scene.varied((-52.0, 50.0, side * 22.0), (24.0, 25.0, 26.0), move_mm=1.0)
        region = scene.region(centre, radii)
        level = scene.ellipsoid(centre, radii, region)
        leaves = 45.0 * np.sin(scene.where[0][region] * np.float32(2 * np.pi / 9.0))
        scene.paint(level, _GREY + 60.0 + leaves, region, _LABEL["cerebellum"])
    scene.paint_path([(-100.0, 30.0, 0.0), (-45.0, 20.0, 0.0)], 12.0, _WHITE - 30.0, _LABEL["brainstem"])
    scene.paint_path([(-45.0, 20.0, 0.0), (-12.0, 12.0, 0.0)], 15.0, _WHITE - 30.0, _LABEL["brainstem"])


def _paint_lesion(scene: Scene, white: Level) -> None:
    """Paint oedema (unlabelled) around a lesion with an enhancing rim and a dark core, in one hemisphere."""
    side = 1.0 if scene.rng.random() < 0.5 else -1.0
    centre, radii = scene.varied((36.0, 18.0, side * 38.0), (12.0, 13.0, 11.0), move_mm=5.0)
    swelling = (radii[0] + 8.0, radii[1] + 10.0, radii[2] + 7.0)
    scene.paint_ellipsoid(centre, swelling, _WHITE - 150.0, within=white)
    scene.paint_ellipsoid(centre, radii, 850.0, _LABEL["lesion"])
    core = (radii[0] - 4.0, radii[1] - 4.0, radii[2] - 4.0)
    scene.paint_ellipsoid(centre, core, 260.0, _LABEL["lesion"])
