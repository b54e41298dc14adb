"""Images are read as they are, and labels land exactly on their image, in every reader's eyes."""

import gzip
import os
import shutil
import struct
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from napari_medsam.volume import (
    Geometry,
    GeometryError,
    Volume,
    VolumeError,
    read_labels,
    read_volume,
    write_labels,
)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIS_ORDERS = [
    np.eye(3)[:, list(order)] * signs
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
SPACINGS = {"isotropic": (1.5, 1.5, 1.5), "anisotropic": (5.0, 0.7, 0.8)}
TILTS = {"aligned": np.eye(3), "oblique": Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()}
# Each of another name: asked for x.nii.gz, ITK reads the voxels of an x.nii beside it.
LABEL_FILES = ("one.nii", "two.nii.gz", "three.nrrd", "four.mha", "five.mhd")
SHAPE = (4, 5, 6)


def some_labels(shape: tuple[int, int, int] = SHAPE, largest: int = 3) -> np.ndarray:
    labels = np.random.default_rng(7).integers(0, largest + 1, shape)
    labels[0, 0, 0] = largest
    return labels


def geometry(
    direction: np.ndarray = AXIS_ORDERS[0], spacing=(5.0, 0.7, 0.8), origin=(-120.5, 33.25, 801.125)
):
    return Geometry(SHAPE, spacing, origin, tuple(np.ravel(direction)))


def itk_affine(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def apart_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance between the same voxels under two affines from (x, y, z) index to LPS."""
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape[::-1]))]).T
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def assert_lies_exactly(path: Path, labels: np.ndarray, where: Geometry) -> None:
    """SimpleITK and nibabel read the same voxels at the same places."""
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels)
    assert apart_mm(itk_affine(image), where.affine, where.shape) < 1e-3
    if ".nii" in path.suffixes:
        nifti = nib.load(path)
        np.testing.assert_array_equal(np.asarray(nifti.dataobj).T, labels)
        assert apart_mm(RAS_TO_LPS @ nifti.affine, where.affine, where.shape) < 1e-3
        assert nifti.header.get_xyzt_units()[0] == "mm"


def assert_one_sentence(error: BaseException) -> None:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500


# --- geometry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (0, 5, 6)}, "whole numbers of at least 1"),
        ({"shape": (4, 5)}, "expected 3 finite numbers"),
        ({"shape": (4, 5, 6.5)}, "whole numbers"),
        ({"spacing": (1, 0, 1)}, "positive"),
        ({"spacing": (1, -1, 1)}, "positive"),
        ({"spacing": (1, np.nan, 1)}, "finite"),
        ({"spacing": "abc"}, "expected 3 numbers"),
        ({"origin": (0, 0, np.inf)}, "finite"),
        ({"origin": (0, 0, 1e38)}, "at most 1e\\+09"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0)}, "expected 9"),
        ({"direction": (1, 0.3, 0, 0, 1, 0, 0, 0, 1)}, "not orthonormal"),
        ({"direction": (2, 0, 0, 0, 1, 0, 0, 0, 1)}, "not orthonormal"),
        ({"direction": (1e200,) * 9}, "not orthonormal"),
        ({"direction": (0,) * 9}, "not orthonormal"),
    ],
)
def test_an_impossible_grid_is_refused_with_what_was_given(changes, said):
    with pytest.raises(GeometryError, match=said) as caught:
        Geometry(**({"shape": (4, 5, 6)} | changes))
    assert_one_sentence(caught.value)


def test_affine_leads_from_voxel_index_to_patient():
    """Index (x, y, z) = (1, 2, 3) by hand: x runs to posterior, y to superior, z to the left."""
    grid = Geometry((4, 5, 6), (3.0, 2.0, 0.5), (10.0, 20.0, 30.0), (0, 0, 1, 1, 0, 0, 0, 1, 0))
    np.testing.assert_allclose(grid.affine @ (1, 2, 3, 1), (10 + 9, 20 + 0.5, 30 + 4, 1))
    assert grid.voxel_volume_ml == pytest.approx(0.003)


def test_numbers_of_any_kind_become_plain_ones():
    grid = Geometry(np.array([4, 5, 6]), [1, 2, 3], np.zeros(3), np.eye(3))
    assert grid == Geometry((4, 5, 6), (1.0, 2.0, 3.0))
    assert type(grid.shape[0]) is int
    assert hash(grid) == hash(Geometry((4, 5, 6), (1.0, 2.0, 3.0)))


@pytest.mark.parametrize("direction", AXIS_ORDERS)
@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
def test_planes_are_found_in_every_axis_order(direction, tilt):
    grid = geometry(tilt @ direction)
    axes = [2 - int(np.argmax(np.abs(direction[world]))) for world in range(3)]
    found = [grid.anatomical_axis(plane) for plane in ("sagittal", "coronal", "axial")]
    assert found == axes


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_three_planes_always_have_three_axes(quaternion):
    grid = geometry(Rotation.from_quat(quaternion).as_matrix())
    assert {grid.anatomical_axis(plane) for plane in ("axial", "coronal", "sagittal")} == {0, 1, 2}


def test_an_unknown_plane_is_refused():
    with pytest.raises(GeometryError, match="'axial', 'coronal' or 'sagittal'"):
        geometry().anatomical_axis("transverse")


def test_difference_says_how_grids_differ():
    grid = geometry()
    assert grid.difference(geometry(origin=(-120.5, 33.25, 801.1255))) == ""
    assert "3 mm apart" in grid.difference(geometry(origin=(-120.5, 33.25, 804.125)))
    assert "(4, 5, 6) against (4, 5, 7)" in grid.difference(Geometry((4, 5, 7)))
    turned = geometry(Rotation.from_rotvec([0, 0, 0.001]).as_matrix())
    assert "direction" in grid.difference(turned)


def test_a_rounded_rotation_is_straightened_and_a_shear_is_not():
    rotation = TILTS["oblique"]
    affine = np.eye(4)
    affine[:3, :3] = np.round(rotation, 3)
    assert Geometry.from_affine(SHAPE, affine).difference(geometry(rotation, (1, 1, 1), (0, 0, 0))) != ""
    np.testing.assert_allclose(Geometry.from_affine(SHAPE, affine).affine[:3, :3], rotation, atol=1e-3)
    affine[0, 1] += 0.05
    with pytest.raises(GeometryError, match="resample"):
        Geometry.from_affine(SHAPE, affine)


def test_straightening_that_moves_voxels_is_told(tmp_path):
    """A slight shear is taken for rounding: 0.2 mm at the far end. Where there is a qform, it counts."""
    exact, rounded = np.eye(4), np.eye(4)
    exact[:3, :3] = TILTS["oblique"]
    rounded[:3, :3] = TILTS["oblique"] @ [[1, 0.0015, 0], [0, 1, 0], [0, 0, 1]]
    array = voxels(shape=(2, 300, 300))
    alone = read_volume(save_nifti(tmp_path / "alone.nii", array, None, (1, rounded)))
    assert "straightened" in alone.notes[0]
    assert apart_mm(RAS_TO_LPS @ alone.geometry.affine, exact, array.shape) < 0.5
    path = save_nifti(tmp_path / "both.nii", array, (1, exact), (1, rounded))
    both = read_volume(path)
    assert apart_mm(both.geometry.affine, itk_affine(sitk.ReadImage(str(path))), array.shape) < 1e-3


@pytest.mark.parametrize(
    "affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3), np.full((4, 4), 1e300)]
)
def test_a_matrix_that_is_no_grid_is_refused(affine):
    with pytest.raises(GeometryError):
        Geometry.from_affine(SHAPE, affine)


# --- volumes -----------------------------------------------------------------------------------------------


def test_voxels_cannot_be_changed_through_a_volume():
    array = np.zeros(SHAPE)
    volume = Volume(array, geometry())
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0] = 1
    array[0] = 1  # the caller's own array stays writable


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 5, 7)), "expected the geometry's"),
        (np.zeros((4, 5)), "expected \\(z, y, x\\)"),
        (np.zeros((4, 5, 6, 3)), "uint8"),
        (np.zeros((4, 5, 6, 4), np.uint8), "uint8"),
        (np.zeros((4, 5, 6), complex), "real numbers"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(array, said):
    with pytest.raises(VolumeError, match=said):
        Volume(array, geometry())


# --- labels on their image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_labels_lie_on_the_image_in_all_48_axis_orders(tmp_path, spacing, tilt):
    """Else a label map shows up mirrored, turned or shifted in another viewer."""
    labels = some_labels()
    for number, direction in enumerate(AXIS_ORDERS):
        where = geometry(TILTS[tilt] @ direction, SPACINGS[spacing])
        path = write_labels(labels, where, tmp_path / f"{number}.nii")
        assert_lies_exactly(path, labels, where)
        written = read_labels(path)
        assert where.difference(written.geometry) == ""
        np.testing.assert_array_equal(written.array, labels)


@settings(max_examples=60)
@given(data=st.data())
def test_labels_lie_on_any_image_in_any_format(tmp_path_factory, data):
    """Slightly tilted ones too, where a quaternion in float32 alone is half a millimetre off."""
    small = st.floats(-1, 1)
    vector = np.array(data.draw(st.tuples(small, small, small).filter(lambda v: max(map(abs, v)) > 0.01)))
    angle = data.draw(st.sampled_from([0.0, 1e-5, 1e-3, 0.02, 0.5, 3.0]), label="angle")
    tilt = Rotation.from_rotvec(vector / np.linalg.norm(vector) * angle).as_matrix()
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3), label="shape")
    where = Geometry(
        shape,
        data.draw(st.tuples(*[st.floats(0.05, 12)] * 3), label="spacing"),
        data.draw(st.tuples(*[st.floats(-1500, 1500)] * 3), label="origin"),
        tuple((tilt @ data.draw(st.sampled_from(AXIS_ORDERS), label="order")).ravel()),
    )
    labels = some_labels(shape, data.draw(st.sampled_from([1, 255, 256, 70000]), label="largest"))
    path = tmp_path_factory.getbasetemp() / data.draw(st.sampled_from(LABEL_FILES), label="file")
    assert_lies_exactly(write_labels(labels, where, path), labels, where)


@pytest.mark.parametrize("degrees", [0.001, 0.01, 0.1, 1.0, 20.0])
def test_a_tilted_scan_never_gets_a_qform_that_is_off(tmp_path, degrees):
    """Software that goes by the qform would show the labels up to 0.6 mm beside the organ."""
    tilt = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.8, 0.0])).as_matrix()
    where = Geometry((3, 4, 5), (300.0, 200.0, 200.0), (-250.0, -240.0, 123.4), tuple(tilt.ravel()))
    header = nib.load(write_labels(np.ones((3, 4, 5), int), where, tmp_path / "labels.nii")).header
    quaternion = header["quatern_b"], header["quatern_c"], header["quatern_d"]
    scalar2 = 1 - sum(float(q) ** 2 for q in quaternion)
    rotation = Rotation.from_quat([*map(float, quaternion), np.sqrt(scalar2) if scalar2 > 1e-7 else 0])
    qform = np.eye(4)
    qform[:3, :3] = rotation.as_matrix() * header["pixdim"][1:4]
    qform[:3, 3] = header["qoffset_x"], header["qoffset_y"], header["qoffset_z"]
    good = apart_mm(RAS_TO_LPS @ qform, where.affine, where.shape) < 1e-3
    assert int(header["sform_code"]) == 1
    assert int(header["qform_code"]) == int(good)


@pytest.mark.parametrize("name", LABEL_FILES)
@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(0, "uint8"), (255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")],
)
def test_labels_are_stored_in_the_smallest_type(tmp_path, name, largest, dtype):
    labels = some_labels(largest=largest)
    path = write_labels(labels, geometry(), tmp_path / name)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).dtype == dtype
    written = read_labels(path)
    assert written.array.dtype == dtype
    np.testing.assert_array_equal(written.array, labels)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint64, ">i2"])
def test_labels_of_every_integer_type_are_written(tmp_path, dtype):
    labels = some_labels(largest=1).astype(dtype)
    written = read_labels(write_labels(labels[:, ::-1], geometry(), tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(written.array, labels[:, ::-1])


def test_the_same_labels_give_the_same_bytes(tmp_path):
    """Else every run of a pipeline looks like a change."""
    one = write_labels(some_labels(), geometry(), tmp_path / "one.nii.gz").read_bytes()
    assert write_labels(some_labels(), geometry(), tmp_path / "two.nii.gz").read_bytes() == one


@pytest.mark.parametrize(
    ("labels", "name", "said"),
    [
        (np.zeros((4, 5, 7), int), "a.nii", "shape \\(4, 5, 7\\), expected the geometry's \\(4, 5, 6\\)"),
        (np.zeros((0, 5, 6), int), "a.nii", "expected the geometry's"),
        (np.zeros(SHAPE), "a.nii", "float64, expected integers"),
        (np.full(SHAPE, -1), "a.nii", "from -1 to -1"),
        (np.full(SHAPE, 2**32), "a.nrrd", "4294967296"),
        (np.zeros(SHAPE, int), "a.png", "a.png' cannot be written.*nii.gz"),
        (np.zeros(SHAPE, int), "nowhere/a.nii", "No such file"),
        (np.zeros(SHAPE, int), "nowhere/a.nrrd", "cannot be written"),
    ],
)
def test_labels_that_cannot_be_written_change_nothing(tmp_path, labels, name, said):
    with pytest.raises(VolumeError, match=said) as caught:
        write_labels(labels, geometry(), tmp_path / name)
    assert_one_sentence(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LABEL_FILES)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_older_labels_as_they_were(tmp_path, monkeypatch, name, step):
    path = write_labels(some_labels(), geometry(), tmp_path / name)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(VolumeError, match="No space left on device") as caught:
        write_labels(some_labels() + 1, geometry(), path)
    assert_one_sentence(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", LABEL_FILES)
def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, name):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_labels(some_labels(), geometry(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_labels_that_a_format_cannot_place_are_refused_not_misplaced(tmp_path):
    """NIfTI holds float32: half a millimetre at ten kilometres is lost."""
    far = geometry(origin=(1e7 + 0.5, 0, 0))
    with pytest.raises(VolumeError, match=r"read back differs .*nrrd"):
        write_labels(some_labels(), far, tmp_path / "labels.nii")
    assert list(tmp_path.iterdir()) == []
    assert (
        far.difference(read_labels(write_labels(some_labels(), far, tmp_path / "labels.nrrd")).geometry) == ""
    )


def test_an_axis_too_long_for_nifti_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="32767"):
        write_labels(np.zeros((1, 1, 32768), int), Geometry((1, 1, 32768)), tmp_path / "labels.nii.gz")


@pytest.mark.skipif(os.name != "posix", reason="links and file modes are those of POSIX")
def test_a_link_stays_a_link_and_the_umask_counts(tmp_path):
    (tmp_path / "kept").mkdir()
    link = tmp_path / "labels.nii.gz"
    link.symlink_to(tmp_path / "kept" / "case.nii.gz")
    old = os.umask(0o027)
    try:
        write_labels(some_labels(), geometry(), link)
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert (tmp_path / "kept" / "case.nii.gz").stat().st_mode & 0o777 == 0o640


def test_whole_floats_are_labels_and_others_are_not(tmp_path):
    """Many label maps are stored as floats; an image given by mistake must not become labels."""
    nib.Nifti1Image(some_labels().T.astype(np.float64), np.eye(4)).to_filename(tmp_path / "whole.nii")
    np.testing.assert_array_equal(read_labels(tmp_path / "whole.nii").array, some_labels())
    assert read_labels(tmp_path / "whole.nii").array.dtype == np.uint8
    for name, value in (("half", 0.5), ("negative", -1.0), ("nan", np.nan)):
        nib.Nifti1Image(np.full(SHAPE, value), np.eye(4)).to_filename(tmp_path / f"{name}.nii")
        with pytest.raises(VolumeError, match="whole numbers") as caught:
            read_labels(tmp_path / f"{name}.nii")
        assert_one_sentence(caught.value)


# --- NIfTI images ------------------------------------------------------------------------------------------


def voxels(dtype="int16", shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 120, shape).astype(dtype)


def patched(path: Path, *changes: tuple[int, bytes]) -> Path:
    """Overwrite bytes of a file's header."""
    data = bytearray(path.read_bytes())
    for offset, value in changes:
        data[offset : offset + len(value)] = value
    path.write_bytes(data)
    return path


def save_nifti(path: Path, array: np.ndarray, qform=None, sform=None) -> Path:
    """Write (z, y, x) with nibabel; forms are (code, affine to RAS)."""
    image = nib.Nifti1Image(array.T, None, dtype=array.dtype)
    for form, put in ((qform, image.header.set_qform), (sform, image.header.set_sform)):
        if form is not None:
            put(form[1], form[0])
    image.to_filename(path)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_nifti_type_is_read_as_it_is(tmp_path, version, suffix, kind, order):
    array = voxels(kind)
    path = tmp_path / f"image{suffix}"
    header = version.header_class(endianness=order)
    version(array.T, np.diag([2, 3, 4, 1]), header, dtype=array.dtype).to_filename(path)
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(kind)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(RAS_TO_LPS @ volume.geometry.affine, np.diag([2, 3, 4, 1]))
    assert (volume.modality, volume.source, volume.notes) == ("", str(path), ())


@pytest.mark.parametrize(("slope", "inter"), [(0.5, -7.0), (1.0, -1024.0), (2.0, 0.0)])
@pytest.mark.parametrize(("kind", "expected"), [("u1", "f4"), ("i2", "f4"), ("i4", "f8"), ("f4", "f8")])
def test_scaled_voxels_have_their_real_values(tmp_path, kind, expected, slope, inter):
    path = save_nifti(tmp_path / "image.nii", voxels(kind))
    patched(path, (112, struct.pack("<2f", slope, inter)))
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(expected)
    np.testing.assert_allclose(volume.array, voxels(kind) * slope + inter)


@pytest.mark.parametrize("scale", [(0.0, 5.0), (np.nan, np.nan), (1.0, 0.0), (np.inf, 0.0)])
def test_no_scale_leaves_voxels_alone(tmp_path, scale):
    path = patched(save_nifti(tmp_path / "image.nii", voxels()), (112, struct.pack("<2f", *scale)))
    assert read_volume(path).array.dtype == np.int16
    np.testing.assert_array_equal(read_volume(path).array, voxels())


def test_an_unknown_offset_is_refused(tmp_path):
    path = patched(save_nifti(tmp_path / "image.nii", voxels()), (112, struct.pack("<2f", 2, np.nan)))
    with pytest.raises(VolumeError, match="scl_inter"):
        read_volume(path)


def test_voxels_that_are_no_numbers_are_kept_and_told(tmp_path):
    array = voxels("f4")
    array[1, 2, 3], array[0, 0, 0] = np.nan, np.inf
    volume = read_volume(save_nifti(tmp_path / "image.nii", array))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.notes[-1].startswith("2 voxels are not finite")


FORM_A = np.array([[0.0, 0, 3, 10], [1, 0, 0, 20], [0, 2, 0, 30], [0, 0, 0, 1]])
FORM_B = np.diag([-1.0, 2, 3, 1])
SHEARED = FORM_A @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("q_code", "s_code", "used"),
    [
        (1, 1, "sform"),
        (2, 1, "sform"),
        (1, 2, "qform"),
        (1, 4, "qform"),
        (4, 4, "qform"),
        (0, 2, ""),
        (1, 0, ""),
    ],
)
def test_disagreeing_orientations_are_told_and_settled_as_itk_does(tmp_path, q_code, s_code, used):
    """Else an image lies elsewhere here than in 3D Slicer or ITK-SNAP, and nobody says so."""
    path = save_nifti(tmp_path / "image.nii", voxels(), (q_code, FORM_A), (s_code, FORM_B))
    volume = read_volume(path)
    assert apart_mm(volume.geometry.affine, itk_affine(sitk.ReadImage(str(path))), SHAPE) < 1e-3
    assert len(volume.notes) == bool(used)
    if used:
        assert f"the {used} was used" in volume.notes[0]


def test_agreeing_orientations_need_no_note(tmp_path):
    volume = read_volume(save_nifti(tmp_path / "image.nii", voxels(), (1, FORM_A), (2, FORM_A)))
    np.testing.assert_allclose(RAS_TO_LPS @ volume.geometry.affine, FORM_A, atol=1e-6)
    assert volume.notes == ()


def test_a_sheared_sform_gives_way_to_the_qform_or_is_refused(tmp_path):
    both = read_volume(save_nifti(tmp_path / "both.nii", voxels(), (1, FORM_A), (1, SHEARED)))
    np.testing.assert_allclose(RAS_TO_LPS @ both.geometry.affine, FORM_A, atol=1e-6)
    assert "qform" in both.notes[0]
    with pytest.raises(GeometryError, match="resample") as caught:
        read_volume(save_nifti(tmp_path / "sheared.nii", voxels(), None, (1, SHEARED)))
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("step", [0.0, -2.0, np.nan, np.inf])
@pytest.mark.parametrize("code", [0, 1])
def test_a_spacing_that_cannot_be_is_refused(tmp_path, step, code):
    path = save_nifti(tmp_path / "image.nii", voxels(), (code, FORM_A))
    with pytest.raises(GeometryError, match="positive") as caught:
        read_volume(patched(path, (80, struct.pack("<f", step))))
    assert_one_sentence(caught.value)


def test_an_image_without_orientation_is_read_with_a_note(tmp_path):
    path = save_nifti(tmp_path / "image.nii", voxels())
    volume = read_volume(path)
    assert "no orientation" in volume.notes[0]
    assert apart_mm(volume.geometry.affine, itk_affine(sitk.ReadImage(str(path))), SHAPE) < 1e-6


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_metres_and_micrometres_become_millimetres(tmp_path, unit, factor):
    path = patched(save_nifti(tmp_path / "image.nii", voxels(), None, (1, FORM_A)), (123, bytes([unit])))
    np.testing.assert_allclose(read_volume(path).geometry.affine[:3], (RAS_TO_LPS @ FORM_A)[:3] * factor)


@pytest.mark.parametrize(
    "form", [FORM_A, FORM_B, np.array([[-1.0, 0, 0, 5], [0, 0, -1, 6], [0, 2, 0, 7], [0, 0, 0, 1]])]
)
def test_a_2d_nifti_keeps_its_place_in_the_patient(tmp_path, form):
    """A single coronal slice is coronal; ITK alone fails on it."""
    path = save_nifti(tmp_path / "image.nii", voxels(shape=(5, 6)), (1, form), (1, form))
    volume = read_volume(path)
    assert volume.array.shape == (1, 5, 6)
    np.testing.assert_allclose(
        (RAS_TO_LPS @ volume.geometry.affine)[:, [0, 1, 3]], form[:, [0, 1, 3]], atol=1e-6
    )


def test_a_2d_nifti_without_a_third_axis_gets_one(tmp_path):
    flat = FORM_A.copy()
    flat[:, 2] = 0
    path = save_nifti(tmp_path / "image.nii", voxels(shape=(5, 6)), None, (1, FORM_A))
    patched(path, (280, flat[:3].astype("<f4").tobytes()), (88, struct.pack("<f", 0)))
    affine = RAS_TO_LPS @ read_volume(path).geometry.affine
    np.testing.assert_allclose(affine[:3, 2], (1, 0, 0), atol=1e-6)


def test_singleton_axes_are_kept(tmp_path):
    for shape in ((1, 5, 6), (4, 1, 6), (4, 5, 1)):
        path = save_nifti(tmp_path / "image.nii", voxels(shape=shape), (1, FORM_A), (1, FORM_A))
        assert read_volume(path).array.shape == shape


def test_of_several_volumes_one_must_be_chosen(tmp_path):
    array = voxels(shape=(3, *SHAPE))
    for name in ("image.nii", "image.nii.gz"):
        path = save_nifti(tmp_path / name, array, (1, FORM_A))
        with pytest.raises(VolumeError, match=r"3 volumes .* 0 to 2") as caught:
            read_volume(path)
        assert_one_sentence(caught.value)
        for number in range(3):
            volume = read_volume(path, time_point=number)
            np.testing.assert_array_equal(volume.array, array[number])
            assert f"Time point {number} " in volume.notes[0]
        with pytest.raises(VolumeError, match="0 to 2"):
            read_volume(path, time_point=3)
        with pytest.raises(VolumeError, match="0 to 2"):
            read_volume(path, time_point=-1)


def test_a_fourth_axis_of_one_is_no_choice(tmp_path):
    path = save_nifti(tmp_path / "image.nii", voxels(shape=(1, 1, *SHAPE)), (1, FORM_A))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, voxels())
    assert volume.notes == ()
    assert read_volume(path, time_point=0).array.shape == SHAPE
    with pytest.raises(VolumeError, match="0 to 0"):
        read_volume(path, time_point=1)


@pytest.mark.parametrize("kind", ["interleaved", "planar", "rgba"])
def test_colour_nifti_is_rgb(tmp_path, kind):
    colours = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    path = tmp_path / "image.nii"
    if kind == "planar":
        nib.Nifti1Image(colours.transpose(2, 1, 0, 3)[:, :, :, None], np.eye(4)).to_filename(path)
    else:
        names = "RGB" if kind == "interleaved" else "RGBA"
        packed = np.zeros(SHAPE[::-1], [(name, "u1") for name in names])
        for channel, name in enumerate("RGB"):
            packed[name] = colours[..., channel].T
        nib.Nifti1Image(packed, np.eye(4)).to_filename(path)
    volume = read_volume(path)
    assert volume.modality == "RGB"
    np.testing.assert_array_equal(volume.array, colours)
    assert bool(volume.notes) == (kind == "rgba")
    with pytest.raises(VolumeError, match="colours"):
        read_labels(path)


def test_compression_is_seen_in_the_content_not_the_name(tmp_path):
    plain = save_nifti(tmp_path / "image.nii", voxels())
    shutil.copy(plain, tmp_path / "plain.nii.gz")
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, voxels())


def test_bytes_after_the_voxels_are_told(tmp_path):
    path = save_nifti(tmp_path / "image.nii", voxels())
    path.write_bytes(path.read_bytes() + b"more")
    assert "goes on" in read_volume(path).notes[-1]


def test_a_changed_voxel_in_a_compressed_file_is_noticed(tmp_path):
    """The checksum is the last thing in the file; without reading it the damage would go unseen."""
    stored = bytearray(gzip.compress(save_nifti(tmp_path / "image.nii", voxels()).read_bytes(), 0))
    stored[-40] ^= 1
    (tmp_path / "image.nii.gz").write_bytes(stored)
    with pytest.raises(VolumeError, match="damaged"):
        read_volume(tmp_path / "image.nii.gz")


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_a_header_that_asks_for_more_than_the_file_holds_is_refused_at_once(tmp_path, name):
    """54 TB would be asked for."""
    path = patched(
        save_nifti(tmp_path / "image.nii", voxels()), (42, struct.pack("<3h", 30000, 30000, 30000))
    )
    if name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(VolumeError, match="asks for"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([(40, struct.pack("<h", 0))], "expected 2 to 7 axes"),
        ([(40, struct.pack("<h", 9))], "expected 2 to 7 axes"),
        ([(40, struct.pack("<h", -3))], "expected 2 to 7 axes"),
        ([(44, struct.pack("<h", -5))], "1 or more voxels"),
        ([(70, struct.pack("<h", 32))], "type 32"),
        ([(108, struct.pack("<f", np.nan))], "more than a file can hold"),
        ([(108, struct.pack("<f", 1e30))], "more than a file can hold"),
        ([(344, b"ni1\0")], "pair"),
        ([(344, b"abcd")], "not NIfTI"),
        ([(0, b"\0\0\0\0")], "not NIfTI"),
        ([(252, struct.pack("<h", 1)), (256, struct.pack("<3f", 3, 0, 0))], "quaternion"),
        ([(254, struct.pack("<h", 1)), (280, b"\0\0\xa0\x7f")], "finite numbers"),
    ],
)
def test_a_header_that_makes_no_sense_is_told(tmp_path, changes, said):
    path = patched(save_nifti(tmp_path / "image.nii", voxels()), *changes)
    with pytest.raises((VolumeError, GeometryError), match=said) as caught:
        read_volume(path)
    assert_one_sentence(caught.value)


# --- NRRD and MetaImage ------------------------------------------------------------------------------------


def save_itk(path: Path, array: np.ndarray, colour: bool = False, **metadata: str) -> Path:
    image = sitk.GetImageFromArray(array, isVector=colour)
    if image.GetDimension() == 3:
        image.SetDirection(TILTS["oblique"].ravel())
        image.SetSpacing((0.8, 0.7, 5.0))
        image.SetOrigin((-120.5, 33.25, 801.125))
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), useCompression="packed" in path.name)
    return path


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize(
    "name", ["a.nrrd", "packed.nrrd", "a.nhdr", "a.mha", "packed.mha", "a.mhd", "packed.mhd"]
)
def test_every_itk_type_is_read_as_it_is(tmp_path, name, kind):
    volume = read_volume(save_itk(tmp_path / name, voxels(kind)))
    assert volume.array.dtype == np.dtype(kind)
    np.testing.assert_array_equal(volume.array, voxels(kind))
    assert volume.geometry.difference(geometry(TILTS["oblique"])) == ""


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_files_of_other_shapes(tmp_path, suffix):
    colours = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    volume = read_volume(save_itk(tmp_path / f"colour{suffix}", colours, colour=True))
    assert volume.modality == "RGB"
    np.testing.assert_array_equal(volume.array, colours)
    flat = read_volume(save_itk(tmp_path / f"flat{suffix}", voxels(shape=(5, 6))))
    np.testing.assert_array_equal(flat.array, voxels(shape=(1, 5, 6)))
    moving = voxels(shape=(3, *SHAPE))
    path = save_itk(tmp_path / f"moving{suffix}", moving)
    with pytest.raises(VolumeError, match="3 volumes"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, time_point=2).array, moving[2])
    path = save_itk(tmp_path / f"field{suffix}", np.moveaxis(moving, 0, -1).astype("f4"), colour=True)
    with pytest.raises(VolumeError, match="time points or channels"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, time_point=1).array, moving[1])
    path = save_itk(tmp_path / f"complex{suffix}", voxels().astype(complex)) if suffix == ".nrrd" else None
    if path is not None:
        with pytest.raises(VolumeError, match="real numbers"):
            read_volume(path)


def test_a_metaimage_may_know_its_modality(tmp_path):
    path = save_itk(tmp_path / "image.mha", voxels())
    text = path.read_bytes().replace(b"ElementType", b"Modality = MET_MOD_CT\nElementType", 1)
    path.write_bytes(text)
    assert read_volume(path).modality == "CT"


NRRD = "NRRD0004\ntype: {type}\ndimension: 3\nsizes: {sizes}\nencoding: raw\nendian: big\n{place}\n\n"


@pytest.mark.parametrize(
    ("place", "spacing", "first_axis"),
    [
        ("space: RAS\nspace directions: (1,0,0) (0,2,0) (0,0,3)", (3, 2, 1), (-1, 0, 0)),
        ("space: LPS\nspace directions: (0,1,0) (0,0,2) (3,0,0)", (3, 2, 1), (0, 1, 0)),
        ("spacings: 1 2 3", (3, 2, 1), (1, 0, 0)),
    ],
)
def test_hand_written_nrrd(tmp_path, place, spacing, first_axis):
    text = NRRD.format(type="short", sizes="6 5 4", place=place)
    (tmp_path / "image.nrrd").write_bytes(text.encode() + voxels().astype(">i2").tobytes())
    volume = read_volume(tmp_path / "image.nrrd")
    np.testing.assert_array_equal(volume.array, voxels())
    assert volume.geometry.spacing == pytest.approx(spacing)
    np.testing.assert_allclose(volume.geometry.affine[:3, 0], first_axis)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sizes": "60000 60000 60000"}, "asks for 4.32e\\+08 MB"),
        ({"sizes": "6 5 8"}, "asks for"),
        ({"sizes": "6 5 0"}, "ITK fails"),
        ({"type": "block"}, "."),
        ({"place": "spacings: 1 0 1"}, "ITK fails"),
        ({"place": "space: LPS\nspace directions: (1,0,0) (0.3,2,0) (0,0,3)"}, "orthonormal"),
    ],
)
def test_nrrd_that_cannot_be_right_is_refused(tmp_path, fields, said):
    text = NRRD.format(**({"type": "short", "sizes": "6 5 4", "place": "spacings: 1 2 3"} | fields))
    (tmp_path / "image.nrrd").write_bytes(text.encode() + voxels().tobytes())
    with pytest.raises((VolumeError, GeometryError), match=said) as caught:
        read_volume(tmp_path / "image.nrrd")
    assert_one_sentence(caught.value)


def test_a_header_whose_voxels_are_missing_is_told(tmp_path):
    save_itk(tmp_path / "image.mhd", voxels())
    (tmp_path / "image.raw").unlink()
    with pytest.raises(VolumeError, match=r"data file 'image.raw' is missing"):
        read_volume(tmp_path / "image.mhd")


def test_itk_is_kept_quiet_and_can_speak_again(tmp_path, capfd):
    """MetaIO complains on standard error by itself; a sentence is enough."""
    path = save_itk(tmp_path / "packed.mha", voxels())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VolumeError, match="ITK fails") as caught:
        read_volume(path)
    assert_one_sentence(caught.value)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"
    assert sitk.ProcessObject.GetGlobalWarningDisplay()


# --- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "array"),
    [
        ("gray.png", "L", voxels("u1", (5, 6))),
        ("gray.bmp", "L", voxels("u1", (5, 6))),
        ("deep.png", "I;16", voxels("u2", (5, 6)) * 300),
        ("deep.tif", "I;16", voxels("u2", (5, 6)) * 300),
        ("float.tif", "F", voxels("f4", (5, 6)) / 7),
        ("colour.png", "RGB", voxels("u1", (5, 6, 3))),
        ("colour.tiff", "RGB", voxels("u1", (5, 6, 3))),
        ("black.png", "1", voxels("u1", (5, 6)) > 60),
    ],
)
def test_pictures_are_one_slice(tmp_path, name, mode, array):
    picture = Image.fromarray(array)
    assert picture.mode == mode
    picture.save(tmp_path / name)
    volume = read_volume(tmp_path / name)
    expected = array * np.uint8(255) if mode == "1" else array
    np.testing.assert_array_equal(volume.array, expected[None])
    assert volume.array.dtype == expected.dtype
    assert volume.geometry == Geometry((1, 5, 6))
    assert volume.modality == ("RGB" if mode == "RGB" else "")
    assert "1 mm" in volume.notes[0]


def test_transparency_is_left_out_and_told(tmp_path):
    for mode, shape in (("RGBA", (5, 6, 4)), ("LA", (5, 6, 2))):
        Image.fromarray(voxels("u1", shape), mode=None).save(tmp_path / f"{mode}.png")
        volume = read_volume(tmp_path / f"{mode}.png")
        expected = voxels("u1", shape)[..., :-1]
        np.testing.assert_array_equal(volume.array[0], expected if mode == "RGBA" else expected[..., 0])
        assert "transparency" in volume.notes[-1]


def test_a_palette_becomes_its_colours_and_jpeg_is_close(tmp_path):
    colours = np.zeros((16, 16, 3), np.uint8) + np.array([200, 30, 90], np.uint8)
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    Image.fromarray(colours).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[0], colours)
    np.testing.assert_allclose(read_volume(tmp_path / "a.jpg").array[0].astype(int), colours, atol=4)


def test_a_tiff_stack_is_a_volume(tmp_path):
    pages = [Image.fromarray(page) for page in voxels("u2")]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_volume(tmp_path / "stack.tif").array, voxels("u2"))
    pages[0].save(tmp_path / "odd.tif", save_all=True, append_images=[Image.fromarray(voxels("u2", (9, 9)))])
    with pytest.raises(VolumeError, match="pages differ"):
        read_volume(tmp_path / "odd.tif")
    with pytest.raises(VolumeError, match="0 to 0"):
        read_volume(tmp_path / "stack.tif", time_point=1)


# --- what is no image --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.dcm", "a.png", "a.jpg", "a.tif"]
)
@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 5000, b"\x1f\x8b", b"NRRD0004\n", b"DICM" * 100])
def test_other_content_under_an_image_name_is_told(tmp_path, capfd, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=f"{name}' cannot be read") as caught:
        read_volume(tmp_path / name)
    assert_one_sentence(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_an_image_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("a" * 200)
    (tmp_path / "folder.nii").mkdir()
    for name, said in (
        ("no.nii", "does not exist"),
        ("notes.txt", "unknown"),
        ("folder.nii", "no DICOM image"),
    ):
        with pytest.raises(VolumeError, match=said) as caught:
            read_volume(tmp_path / name)
        assert_one_sentence(caught.value)
    path = save_nifti(tmp_path / "image.nii", voxels())
    with pytest.raises(VolumeError, match="expected a folder"):
        read_volume(path, series="1.2.3")


def test_names_may_hold_anything(tmp_path):
    folder = tmp_path / "Müller, Jürgen – CT.3"
    folder.mkdir()
    for name in ("β 1.NII.GZ", "β 1.nrrd", "β 1.mha"):
        path = write_labels(some_labels(), geometry(), folder / name)
        np.testing.assert_array_equal(read_labels(path).array, some_labels())


# --- real cases --------------------------------------------------------------------------------------------


def test_real_cases_are_read_as_itk_reads_them(real_data):
    paths = sorted(real_data.glob("*/image.nii.gz")) + sorted(real_data.glob("*/labels.nii.gz"))
    for path in paths:
        volume, image = read_volume(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(volume.array.squeeze(), sitk.GetArrayFromImage(image).squeeze())
        if image.GetDimension() == 3:
            assert apart_mm(volume.geometry.affine, itk_affine(image), volume.geometry.shape) < 1e-3
        assert volume.array.dtype == sitk.GetArrayFromImage(image).dtype


def test_real_labels_are_written_back_exactly(real_data, tmp_path):
    for path in sorted(real_data.glob("*/labels.nii.gz")):
        labels = read_labels(path)
        copy = write_labels(labels.array, labels.geometry, tmp_path / "labels.nii.gz")
        assert_lies_exactly(copy, labels.array, read_volume(path.with_name("image.nii.gz")).geometry)
