"""napari's File > Open and File > Save: labels keep names, colours and place, and images stay images."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_series import rectangle, structure_set, write_series
from napari.layers import Image, Labels

from napari_medsam.export import Segment, Segmentation, read_segmentation, series_files, write_segmentation
from napari_medsam.terminology import term_for
from napari_medsam.volume import Geometry, VolumeError, read_volume, write_labels
from napari_medsam.widgets.label_files import (
    colour_map,
    colours_of,
    completed,
    layers_of,
    named_features,
    names_of,
)
from napari_medsam.widgets.metadata import layer_geometry

ROOT = Path(__file__).parent.parent
PLUGIN = "napari-medsam"
SHAPE = (5, 8, 9)
OBLIQUE = Geometry(SHAPE, (3.0, 0.7, 0.8), (-20.5, 33.25, 801.125), (0.8, 0, 0.6, 0, 1.0, 0, -0.6, 0, 0.8))
NAMES = {1: "left kidney", 2: "something odd", 7: "Liver"}
COLOURS = {1: (200, 10, 30), 2: (0, 255, 0), 7: (12, 34, 56)}

pytestmark = pytest.mark.usefixtures("viewer")


def some_labels():
    return np.random.default_rng(5).choice(np.array([0, 1, 2, 7], np.uint8), SHAPE)


def named(labels=None, geometry=OBLIQUE):
    labels = some_labels() if labels is None else labels
    return Segmentation.from_labels(labels, geometry, names=NAMES, colors=COLOURS)


def add(viewer, segmentation, name="organs", metadata=None):
    return [
        viewer.add_layer(Labels(data, **attributes))
        for data, attributes, _ in layers_of(segmentation, name, metadata)
    ]


def table(segmentation):
    return [(each.label, each.name, each.color, each.term) for each in segmentation.segments]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".seg.nrrd"])
def test_napari_saves_and_opens_labels_with_names_and_colours(viewer, tmp_path, ending):
    """Whoever uses File > Save instead of the panel's button loses nothing."""
    add(viewer, named())
    written = viewer.layers.save(str(tmp_path / f"out{ending}"), plugin=PLUGIN)
    assert written[0] == str(tmp_path / f"out{ending}")
    assert table(read_segmentation(written[0])) == table(named())
    viewer.layers.clear()
    (layer,) = viewer.open(written[0], plugin=PLUGIN)
    assert isinstance(layer, Labels)
    np.testing.assert_array_equal(layer.data, some_labels())
    assert names_of(layer.features) == NAMES
    assert colours_of(layer.colormap, [1, 2, 7]) == COLOURS
    assert layer_geometry(layer.metadata).difference(OBLIQUE) == ""
    again = viewer.layers.save(str(tmp_path / f"again{ending}"), plugin=PLUGIN)
    assert table(read_segmentation(again[0])) == table(named())


def test_a_dicom_segmentation_finds_its_series_and_comes_back(viewer, tmp_path):
    """From the scan in the viewer to what an archive takes, and back onto the scan."""
    pytest.importorskip("highdicom")
    write_series(tmp_path / "ct", OBLIQUE, uid="1.2.3.4")
    (image,) = viewer.open(tmp_path / "ct", plugin=PLUGIN)
    labels = some_labels()
    labels[0] = labels[4] = 0
    add(viewer, named(labels, layer_geometry(image.metadata)), metadata=image.metadata)
    viewer.layers.selection = {viewer.layers["organs"]}
    viewer.layers.save(str(tmp_path / "seg.dcm"), selected=True, plugin=PLUGIN)
    (layer,) = viewer.open(tmp_path / "seg.dcm", plugin=PLUGIN)
    # DICOM numbers segments anew, and leaves out the empty slices: on the screen they have to be there.
    np.testing.assert_array_equal(layer.data, np.select([labels == n for n in (1, 2, 7)], [1, 2, 3]))
    assert layer_geometry(layer.metadata) == layer_geometry(image.metadata)
    assert list(names_of(layer.features).values()) == list(NAMES.values())
    viewer.layers.selection = {layer}
    viewer.layers.save(str(tmp_path / "again.dcm"), selected=True, plugin=PLUGIN)
    assert [each.term for each in read_segmentation(tmp_path / "again.dcm").segments] == [
        term_for("left kidney"),
        None,
        term_for("liver"),
    ]


def test_a_segmentation_is_no_image_to_refer_to(viewer, tmp_path):
    """Opened without its scan, it cannot become one again: an archive would look for slices in vain."""
    pytest.importorskip("highdicom")
    write_series(tmp_path / "ct", OBLIQUE)
    meant = named(geometry=read_volume(tmp_path / "ct").geometry)
    write_segmentation(meant, tmp_path / "seg.dcm", series=series_files(tmp_path / "ct"))
    (layer,) = viewer.open(tmp_path / "seg.dcm", plugin=PLUGIN)
    with pytest.raises(OSError, match="is no DICOM image"):
        layer.save(str(tmp_path / "again.dcm"), plugin=PLUGIN)


def test_dicom_without_a_series_is_one_sentence(viewer, tmp_path):
    (layer,) = add(viewer, named())
    with pytest.raises(OSError, match="came from no file; choose another format"):
        layer.save(str(tmp_path / "seg.dcm"), plugin=PLUGIN)
    assert list(tmp_path.iterdir()) == []


def test_itksnap_gets_descriptions_and_voxels(viewer, tmp_path):
    (layer,) = add(viewer, named())
    layer.save(str(tmp_path / "organs.txt"), plugin=PLUGIN)
    found = read_segmentation(tmp_path / "organs.nii.gz", names_from=tmp_path / "organs.txt")
    np.testing.assert_array_equal(found.labels, some_labels())
    assert [(each.name, each.color) for each in found.segments] == [(NAMES[n], COLOURS[n]) for n in NAMES]


def test_a_name_without_an_ending_gets_that_of_the_kind(viewer, tmp_path):
    """Qt's own dialog adds no ending when another kind is chosen below the name."""
    from napari_medsam.widgets import contrib

    (layer,) = add(viewer, named())
    for write, ending in ((contrib.write_slicer, ".seg.nrrd"), (contrib.write_voxels, ".nrrd")):
        written = write(str(tmp_path / "organs"), [layer.as_layer_data_tuple()])
        assert written == [str(tmp_path / f"organs{ending}")]
        assert Path(written[0]).exists()


def test_layers_that_overlap_become_segments_that_overlap(viewer, tmp_path):
    """A tumour within a liver: 3D Slicer gets both, and gives both back."""
    liver, tumour = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[1:4, 2:7, 2:8] = 1
    tumour[2, 3:5, 3:5] = 1
    for name, labels in (("liver", liver), ("tumour", tumour)):
        add(viewer, Segmentation.from_labels(labels, OBLIQUE, names={1: name}), name)
    (path,) = viewer.layers.save(str(tmp_path / "both.seg.nrrd"), plugin=PLUGIN)
    viewer.layers.clear()
    one, two = viewer.open(path, plugin=PLUGIN)
    np.testing.assert_array_equal(one.data > 0, liver > 0)
    np.testing.assert_array_equal(two.data > 0, tumour > 0)
    assert [(each.name, *names_of(each.features).values()) for each in (one, two)] == [
        ("both 1", "liver"),
        ("both 2", "tumour"),
    ]
    with pytest.raises(OSError, match="overlap in 4 voxels"):
        viewer.layers.save(str(tmp_path / "both.nii.gz"), plugin=PLUGIN)


def test_layers_on_different_grids_are_not_put_into_one_file(viewer, tmp_path):
    moved = Geometry(SHAPE, OBLIQUE.spacing, (0.0, 0.0, 0.0), OBLIQUE.direction)
    add(viewer, named(), "one")
    add(viewer, named(geometry=moved), "two")
    with pytest.raises(OSError, match="'one' and 'two' lie on different grids"):
        viewer.layers.save(str(tmp_path / "both.seg.nrrd"), plugin=PLUGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("scan_seg.nii.gz", Labels),
        ("scan_dseg.nii", Labels),
        ("labels.nii.gz", Labels),
        ("brain-mask.nii.gz", Labels),
        ("scan_seg.nrrd", Labels),
        ("scan_SEG.MHA", Labels),
        ("scan.nii.gz", Image),
        ("segment.nii.gz", Image),
        ("masked.nii.gz", Image),
    ],
)
def test_whole_numbers_are_labels_when_the_name_says_so(viewer, tmp_path, name, kind):
    """A scan must never open as labels, and a label map without names in it should not open as a scan."""
    write_labels(some_labels(), OBLIQUE, tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    (layer,) = viewer.open(tmp_path / name, plugin=PLUGIN)
    assert type(layer) is kind
    np.testing.assert_array_equal(layer.data, some_labels())


@pytest.mark.parametrize("voxels", [np.linspace(-5, 5, 360), np.linspace(0, 1, 360)])
def test_a_scan_with_a_misleading_name_stays_a_scan(viewer, tmp_path, voxels):
    """Probabilities, or a CT that somebody called ct_seg."""
    scan = nibabel.Nifti1Image(voxels.reshape(SHAPE).astype(np.float32), np.eye(4))
    nibabel.save(scan, tmp_path / "ct_seg.nii.gz")
    (layer,) = viewer.open(tmp_path / "ct_seg.nii.gz", plugin=PLUGIN)
    assert type(layer) is Image


def test_names_in_the_file_make_it_labels_whatever_it_is_called(viewer, tmp_path):
    """TotalSegmentator's own output is called as the user likes."""
    write_segmentation(named(), tmp_path / "patient7.nii.gz")
    (layer,) = viewer.open(tmp_path / "patient7.nii.gz", plugin=PLUGIN)
    assert names_of(layer.features) == NAMES


def test_a_table_beside_whole_numbers_makes_them_labels(viewer, tmp_path):
    """BIDS keeps the names there; a scan with some table of that name beside it stays a scan."""
    for name, voxels in (("labels7", some_labels()), ("scan7", np.linspace(-5, 5, 360).reshape(SHAPE))):
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
        (tmp_path / f"{name}.tsv").write_text("index\tname\n7\tLiver\n")
    (labels,) = viewer.open(tmp_path / "labels7.nii.gz", plugin=PLUGIN)
    assert names_of(labels.features) == {7: "Liver"}
    (scan,) = viewer.open(tmp_path / "scan7.nii.gz", plugin=PLUGIN)
    assert type(scan) is Image


def test_labels_of_a_part_of_the_image_are_put_in_their_place(viewer, tmp_path, warnings):
    """3D Slicer stores the box around its segments only."""
    write_labels(some_labels(), OBLIQUE, tmp_path / "scan.nii.gz")
    start = (OBLIQUE.affine @ (3, 2, 1, 1))[:3]
    part = Geometry((3, 4, 5), OBLIQUE.spacing, tuple(start), OBLIQUE.direction)
    labels = some_labels()[1:4, 2:6, 3:8]
    write_segmentation(named(labels, part), tmp_path / "part.seg.nrrd")
    viewer.open(tmp_path / "scan.nii.gz", plugin=PLUGIN)
    (layer,) = viewer.open(tmp_path / "part.seg.nrrd", plugin=PLUGIN)
    whole = np.zeros(SHAPE, np.uint8)
    whole[1:4, 2:6, 3:8] = labels
    np.testing.assert_array_equal(layer.data, whole)
    assert len(warnings) == 1
    assert "was put in its place" in warnings[0]


def test_labels_on_another_grid_are_shown_and_the_distance_is_told(viewer, tmp_path, warnings):
    """They are not on the image, and nobody shall believe that they are."""
    write_labels(some_labels(), OBLIQUE, tmp_path / "scan.nii.gz")
    moved = Geometry(SHAPE, OBLIQUE.spacing, (-20.5, 33.25, 811.125), OBLIQUE.direction)
    write_segmentation(named(geometry=moved), tmp_path / "moved.seg.nrrd")
    viewer.open(tmp_path / "scan.nii.gz", plugin=PLUGIN)
    (layer,) = viewer.open(tmp_path / "moved.seg.nrrd", plugin=PLUGIN)
    assert layer_geometry(layer.metadata).difference(moved) == ""
    (sentence,) = warnings
    assert sentence.startswith("On screen the labels are not in place: ")
    assert "10 mm" in sentence


def test_a_structure_set_is_filled_in_on_the_open_image(viewer, tmp_path):
    """Contours of radiotherapy, dropped onto the planning CT."""
    pytest.importorskip("pydicom")
    series = write_series(tmp_path / "ct", OBLIQUE)
    geometry = read_volume(tmp_path / "ct").geometry
    rois = {"heart": [rectangle(2, 1.5, 2.5, 4.5, 6.5)]}
    path = structure_set(tmp_path / "plan.dcm", geometry, series, rois)
    with pytest.raises(VolumeError, match="contours, not voxels"):
        viewer.open(path, plugin=PLUGIN)
    viewer.open(tmp_path / "ct", plugin=PLUGIN)
    (layer,) = viewer.open(path, plugin=PLUGIN)
    filled = np.zeros(SHAPE, bool)
    filled[2, 2:5, 3:7] = True
    np.testing.assert_array_equal(layer.data > 0, filled)
    assert list(names_of(layer.features).values()) == ["heart"]


def test_a_damaged_slicer_file_is_one_sentence(viewer, tmp_path):
    path = tmp_path / "cut.seg.nrrd"
    write_segmentation(named(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VolumeError) as caught:
        viewer.open(path, plugin=PLUGIN)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("cannot be read") == 1


def test_other_columns_of_a_layer_stay_when_its_labels_are_named():
    """Measurements of another plugin in the table of the layer are not ours to drop."""
    layer = Labels(np.zeros((2, 3), np.uint8), features={"index": [0, 1, 4], "area": [0.0, 2.5, 7.0]})
    found = named_features(layer.features, {1: "liver", 2: "spleen"})
    assert found["index"].tolist() == [0, 1, 2, 4]
    assert [name if isinstance(name, str) else "" for name in found["name"]] == ["", "liver", "spleen", ""]
    assert found["area"].tolist()[:2] == [0.0, 2.5]
    assert names_of(found) == {1: "liver", 2: "spleen"}
    assert names_of(named_features(found, {4: "aorta"})) == {4: "aorta"}


def test_a_new_label_has_a_colour_of_its_own():
    """On a layer with colours from a file the next object would be grey, as all others after it."""
    colormap, is_new = completed(colour_map({1: (200, 10, 30)}), [1, 2, 3])
    assert is_new
    found = colours_of(colormap, [1, 2, 3])
    assert found[1] == (200, 10, 30)
    assert len(set(found.values())) == 3
    assert completed(colormap, [1, 2, 3]) == (colormap, False)


def test_segments_without_a_voxel_keep_their_names(viewer, tmp_path):
    """A template with all organs of a protocol, to be filled in."""
    empty = Segmentation(
        np.zeros((1, *SHAPE), np.uint8), OBLIQUE, (Segment(3, "spleen", (1, 2, 3), term_for("spleen")),)
    )
    (layer,) = add(viewer, empty)
    layer.save(str(tmp_path / "empty.seg.nrrd"), plugin=PLUGIN)
    assert table(read_segmentation(tmp_path / "empty.seg.nrrd")) == table(empty)


def test_labels_do_not_replace_the_image_they_lie_on(viewer, tmp_path):
    """ITK-SNAP's names go beside a label map: of an image's own name, that would be the image."""
    path = write_labels(some_labels(), OBLIQUE, tmp_path / "scan.nii.gz")
    before = path.read_bytes()
    (image,) = viewer.open(path, plugin=PLUGIN)
    (layer,) = add(viewer, named(), metadata=image.metadata)
    for name in ("scan.txt", "scan.nii.gz"):
        with pytest.raises(OSError, match=r"scan\.nii\.gz' is the image itself"):
            layer.save(str(tmp_path / name), plugin=PLUGIN)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_napari_replaces_only_what_it_has_asked_about(viewer, tmp_path):
    """It asks about the name that was typed; what becomes of that may be there already."""
    from napari_medsam.widgets import contrib

    layer = add(viewer, named())[0].as_layer_data_tuple()
    contrib.write_slicer(str(tmp_path / "organs"), [layer])
    contrib.write_nifti(str(tmp_path / "other.nii.gz"), [layer])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=r"organs\.seg\.nrrd' is there already"):
        contrib.write_slicer(str(tmp_path / "organs"), [layer])
    with pytest.raises(OSError, match=r"other\.nii\.gz' is there already"):
        contrib.write_itksnap(str(tmp_path / "other.txt"), [layer])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    for _ in range(2):
        contrib.write_itksnap(str(tmp_path / "mine.txt"), [layer])
        contrib.write_slicer(str(tmp_path / "organs.seg.nrrd"), [layer])


def test_a_name_with_a_dot_gets_the_ending_of_the_kind(viewer, tmp_path):
    from napari_medsam.widgets import contrib

    layer = add(viewer, named())[0].as_layer_data_tuple()
    assert contrib.write_slicer(str(tmp_path / "J. Doe"), [layer]) == [str(tmp_path / "J. Doe.seg.nrrd")]


@pytest.mark.parametrize("is_last", [True, False])
def test_contours_go_onto_the_series_that_they_name(viewer, tmp_path, warnings, is_last):
    """Two series of a study are open; on the wrong one the contours would lie beside the heart."""
    pytest.importorskip("pydicom")
    series = write_series(tmp_path / "ct", OBLIQUE)
    geometry = read_volume(tmp_path / "ct").geometry
    write_series(tmp_path / "late", Geometry(SHAPE, (3.0, 0.5, 0.5)))
    path = structure_set(
        tmp_path / "plan.dcm", geometry, series, {"heart": [rectangle(2, 1.5, 2.5, 4.5, 6.5)]}
    )
    for name in ("late", "ct") if is_last else ("ct", "late"):
        viewer.open(tmp_path / name, plugin=PLUGIN)
    (layer,) = viewer.open(path, plugin=PLUGIN)
    assert layer_geometry(layer.metadata).difference(geometry) == ""
    assert np.count_nonzero(layer.data) == 12
    assert warnings == []


def test_contours_on_another_series_are_told(viewer, tmp_path, warnings):
    """The same place in another patient."""
    pytest.importorskip("pydicom")
    write_series(tmp_path / "ct", OBLIQUE)
    geometry = read_volume(tmp_path / "ct").geometry
    rois = {"heart": [rectangle(2, 1.5, 2.5, 4.5, 6.5)]}
    path = structure_set(tmp_path / "plan.dcm", geometry, "1.2.3", rois)
    viewer.open(tmp_path / "ct", plugin=PLUGIN)
    viewer.open(path, plugin=PLUGIN)
    (sentence,) = warnings
    assert "made on another DICOM series than this one" in sentence


def test_odd_tables_of_other_plugins_do_no_harm():
    """A column called name and one called index can hold anything."""
    features = {"index": [1, 2.0, float("nan"), "five", 7.5, 3], "name": ["a", "b", "c", "d", "e", None]}
    assert names_of(features) == {1: "a", 2: "b"}
