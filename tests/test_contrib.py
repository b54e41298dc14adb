"""Scans go into napari and labels come out of it without losing their place in the patient."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from napari_medsam.segments import Segmentation
from napari_medsam.volume import Geometry, GeometryError, Volume, VolumeError, read_labels, read_volume
from napari_medsam.widgets.contrib import (
    get_file_reader,
    get_folder_reader,
    image_layer,
    write_nifti,
)
from napari_medsam.widgets.label_files import layers_of
from napari_medsam.widgets.metadata import METADATA_KEY, layer_geometry

ROOT = Path(__file__).parent.parent
OBLIQUE = Geometry(
    shape=(5, 6, 7),
    spacing=(5.0, 0.7, 0.8),
    origin=(-100.0, 40.5, -300.0),
    direction=(0.8, 0.0, 0.6, 0.0, 1.0, 0.0, -0.6, 0.0, 0.8),
)

pytestmark = pytest.mark.usefixtures("viewer")


@pytest.fixture
def ct():
    voxels = np.linspace(-1000, 1500, np.prod(OBLIQUE.shape)).reshape(OBLIQUE.shape).astype(np.int16)
    return Volume(
        array=voxels, geometry=OBLIQUE, modality="CT", source="scan.nii.gz", notes=("from the sform",)
    )


@pytest.fixture
def labels():
    drawn = np.zeros(OBLIQUE.shape, np.uint16)
    drawn[1:3, 2:5, 1:6] = 1
    drawn[4, 0, 0] = 300
    return drawn


@pytest.fixture
def nifti(tmp_path, ct):
    """The CT as another program writes it: the affine in RAS, voxels (x, y, z)."""
    path = tmp_path / "scan.nii.gz"
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(ct.array.T, to_ras @ ct.geometry.affine), path)
    return path


def test_nifti_opens_in_napari_on_its_voxel_grid(viewer, nifti, ct):
    """Wrong axes or spacing would distort every distance that is measured in napari."""
    (layer,) = viewer.open(nifti, plugin="napari-medsam")
    assert layer.name == "scan"
    assert layer.data.dtype == np.int16
    np.testing.assert_array_equal(layer.data, ct.array)
    np.testing.assert_allclose(layer.scale, OBLIQUE.spacing, rtol=1e-6)
    assert {str(unit) for unit in layer.units} == {"millimeter"}
    assert not np.any(layer.translate)
    assert layer_geometry(layer.metadata).difference(OBLIQUE) == ""


def test_one_time_point_of_a_series_is_shown_and_named(viewer, tmp_path, ct, warnings):
    """Nobody may take the first phase of a perfusion scan for the whole of it."""
    phases = np.stack([ct.array.T, ct.array.T + 1, ct.array.T + 2], axis=-1)
    nibabel.save(nibabel.Nifti1Image(phases, np.eye(4)), tmp_path / "phases.nii")
    (layer,) = viewer.open(tmp_path / "phases.nii", plugin="napari-medsam")
    np.testing.assert_array_equal(layer.data, ct.array)
    assert warnings == ["Time point 0 of 0 to 2 was read."]


def test_ct_is_shown_in_the_soft_tissue_window(ct):
    """The full range of a CT, [-1000, 3000], shows a radiologist nothing."""
    _, attributes, _ = image_layer(ct, "scan")
    assert attributes["contrast_limits"] == (-160.0, 240.0)


def test_layer_remembers_where_its_voxels_come_from(ct):
    """Modality, file and decisions taken while reading stay visible in napari."""
    _, attributes, _ = image_layer(ct, "scan")
    remembered = attributes["metadata"][METADATA_KEY]
    assert remembered["modality"] == "CT"
    assert remembered["source"] == "scan.nii.gz"
    assert remembered["notes"] == ["from the sform"]


def test_rgb_image_keeps_its_colours(viewer):
    """A histology or endoscopy picture would otherwise appear as a stack of three gray ones."""
    picture = np.zeros((1, 4, 5, 3), np.uint8)
    picture[..., 0] = 200
    geometry = Geometry((1, 4, 5), (1.0, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    voxels, attributes, _ = image_layer(Volume(picture, geometry, "RGB", "picture.png", ()), "picture")
    layer = viewer.add_image(voxels, **attributes)
    assert layer.rgb
    assert layer.ndim == 3


@pytest.mark.parametrize("name", ["seg.nii.gz", "seg.nrrd"])
def test_labels_are_saved_on_the_grid_of_their_image(viewer, tmp_path, nifti, labels, name):
    """A label map that is shifted, flipped or resampled is worse than none."""
    (image,) = viewer.open(nifti, plugin="napari-medsam")
    on_image = Segmentation.from_labels(labels, read_volume(nifti).geometry)
    ((drawn, attributes, _),) = layers_of(on_image, "seg")
    layer = viewer.add_labels(drawn, **attributes)
    np.testing.assert_array_equal(layer.scale, image.scale)
    written = layer.save(str(tmp_path / name), plugin="napari-medsam")
    assert written[0] == str(tmp_path / name)
    saved = read_labels(tmp_path / name)
    np.testing.assert_array_equal(saved.array, labels)
    assert saved.geometry.difference(OBLIQUE) == ""


def test_labels_of_the_new_labels_button_lie_on_the_image_below(viewer, tmp_path, nifti, labels):
    """Napari gives such a layer no metadata; drawing on it for an hour must not have been in vain."""
    viewer.open(nifti, plugin="napari-medsam")
    write_nifti(str(tmp_path / "seg.nii.gz"), [(labels, {"name": "Labels", "metadata": {}}, "labels")])
    assert read_labels(tmp_path / "seg.nii.gz").geometry.difference(OBLIQUE) == ""


def test_labels_without_an_image_are_not_written_to_a_made_up_place(tmp_path, labels):
    """A silent identity direction would put the organ on the other side of the patient."""
    with pytest.raises(OSError, match=r"'mine'.*open the image"):
        write_nifti(str(tmp_path / "seg.nii.gz"), [(labels, {"name": "mine", "metadata": {}}, "labels")])
    assert list(tmp_path.iterdir()) == []


def test_labels_that_fit_two_places_are_not_written(viewer, tmp_path, ct, labels):
    """Two series of one shape in different places: a guess would be right half of the time."""
    moved = Geometry(OBLIQUE.shape, OBLIQUE.spacing, (0.0, 0.0, 0.0), OBLIQUE.direction)
    for volume in (ct, Volume(ct.array, moved, "CT", "moved.nii.gz", ())):
        voxels, attributes, _ = image_layer(volume, volume.source)
        viewer.add_image(voxels, **attributes)
    with pytest.raises(OSError, match="different places"):
        write_nifti(str(tmp_path / "seg.nii.gz"), [(labels, {"name": "mine", "metadata": {}}, "labels")])
    assert list(tmp_path.iterdir()) == []


def test_damaged_metadata_is_named(labels, tmp_path):
    """Another plugin's metadata under our key must give a sentence, not a traceback from a writer."""
    with pytest.raises(OSError, match="lacks 'shape'"):
        write_nifti(
            str(tmp_path / "seg.nii.gz"), [(labels, {"metadata": {METADATA_KEY: {"source": ""}}}, "labels")]
        )


def test_layer_of_another_plugin_has_no_geometry():
    """Its voxels may lie anywhere: None says so, a default would lie."""
    assert layer_geometry({"other_plugin": 1}) is None


def test_stack_of_files_is_left_to_other_plugins():
    """Two scans have two grids; napari asks the next reader."""
    assert get_file_reader(["a.nii", "b.nii"]) is None
    assert get_folder_reader(["a", "b"]) is None


def test_folder_without_dicom_is_left_to_other_plugins(tmp_path):
    """Folders of TIFF slices or zarr stores belong to napari's own readers."""
    (tmp_path / "notes.txt").write_text("no image")
    assert get_folder_reader(str(tmp_path)) is None


def write_dicom(folder, description, uid, positions_mm):
    """A CT series of 4 x 5 pixels as a scanner stores it, one file for each slice."""
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, position in enumerate(positions_mm):
        image = SimpleITK.GetImageFromArray(np.full((1, 4, 5), 10 * number, np.int16))
        image.SetSpacing((0.5, 0.5, 2.0))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{number + 1}",
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": f"-10\\20\\{position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}.{number}.dcm"))
        writer.Execute(image)


def test_each_series_of_a_dicom_folder_becomes_a_layer(viewer, tmp_path):
    """A study's folder holds several series; none is chosen for the user, none is lost."""
    write_dicom(tmp_path, "thorax", "1.2.3.4", (0, 2, 4))
    write_dicom(tmp_path, "abdomen", "1.2.3.5", (100, 103))
    layers = viewer.open(tmp_path, plugin="napari-medsam")
    assert [(layer.name, layer.data.shape) for layer in layers] == [
        ("thorax", (3, 4, 5)),
        ("abdomen", (2, 4, 5)),
    ]
    np.testing.assert_allclose(layers[1].scale, (3.0, 0.5, 0.5))
    assert layer_geometry(layers[1].metadata).origin == (-10.0, 20.0, 100.0)


def test_one_bad_series_does_not_cost_the_others(viewer, tmp_path, warnings):
    """A localiser with a gap lies in most folders of a hospital; the scan beside it has to open."""
    write_dicom(tmp_path, "gap", "1.2.3.4", (0, 2, 17, 19))
    write_dicom(tmp_path, "thorax", "1.2.3.5", (0, 2, 4))
    (layer,) = viewer.open(tmp_path, plugin="napari-medsam")
    assert layer.name == "thorax"
    assert len(warnings) == 1


def test_folder_without_one_good_series_says_why(viewer, tmp_path):
    """Silence would look as if napari had not noticed the drop."""
    write_dicom(tmp_path, "gap", "1.2.3.4", (0, 2, 17, 19))
    with pytest.raises((VolumeError, GeometryError), match="slice"):
        viewer.open(tmp_path, plugin="napari-medsam")


@pytest.mark.parametrize(("key", "organ"), [("ct_torso", "liver"), ("mr_brain", "ventricles")])
def test_sample_data_opens_with_named_labels(viewer, key, organ):
    """Somebody without a scan at hand tries the plugin on these."""
    image, labels = viewer.open_sample("napari-medsam", key)
    assert image.data.shape == labels.data.shape
    assert layer_geometry(image.metadata) == layer_geometry(labels.metadata)
    names = labels.features.set_index("index")["name"]
    assert set(np.unique(labels.data)) - {0} <= set(names.index)
    assert organ in set(names)
