"""What is written comes back to the voxel, with names and colours, and lies where other libraries see it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from xml.etree import ElementTree

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_medsam.export import (
    Segment,
    Segmentation,
    SegmentationError,
    read_segmentation,
    write_segmentation,
)
from napari_medsam.terminology import term_for
from napari_medsam.volume import Geometry, VolumeError, read_labels

SHAPE = (5, 6, 7)
TILT = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
DIRECTIONS = {
    "plain": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "permuted": np.eye(3)[:, [2, 0, 1]],
    "oblique": TILT,
    "oblique, left-handed": TILT @ np.diag([1.0, -1.0, 1.0]),
}
NAMES = {1: "left kidney", 2: 'tumour "A" & <b>\\n', 7: "Läsion 2"}
COLORS = {1: (255, 0, 0), 2: (1, 2, 3), 7: (17, 128, 250)}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(params=DIRECTIONS)
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return Geometry(
        SHAPE, (5.0, 0.7, 0.8), (-120.5, 33.25, 801.125), tuple(DIRECTIONS[request.param].ravel())
    )


def random_labels(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 7], np.uint8), SHAPE)


def named(geometry: Geometry) -> Segmentation:
    return Segmentation.from_labels(random_labels(), geometry, names=NAMES, colors=COLORS)


def overlapping(geometry: Geometry) -> Segmentation:
    one, other = random_labels(1), random_labels(2)
    one[one == 7] = 0
    segments = [Segment(k, NAMES[k], COLORS[k], term_for(NAMES[k]), 0) for k in (1, 2)]
    segments += [Segment(k, f"second {k}", (k, k, k), None, 1) for k in (1, 2, 7)]
    return Segmentation(np.stack([one, other]), geometry, tuple(segments))


def same(read: Segmentation, meant: Segmentation, *, terms: bool = True) -> None:
    np.testing.assert_array_equal(read.layers, meant.layers)
    assert meant.geometry.difference(read.geometry) == ""
    assert [(s.layer, s.label, s.name, s.color) for s in read.segments] == [
        (s.layer, s.label, s.name, s.color) for s in meant.segments
    ]
    if terms:
        assert [s.term for s in read.segments] == [s.term for s in meant.segments]


def itk_affine(image: sitk.Image) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.seg.nrrd"])
def test_label_map_comes_back_whole(geometry: Geometry, name: str, tmp_path: Path) -> None:
    """Voxels, place, names, colours and codes: losing one of them is why people keep spreadsheets."""
    meant = named(geometry)
    written = write_segmentation(meant, tmp_path / name)
    assert written[0] == tmp_path / name
    same(read_segmentation(tmp_path / name), meant)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.seg.nrrd"])
def test_itk_sees_the_labels_where_they_are(geometry: Geometry, name: str, tmp_path: Path) -> None:
    write_segmentation(named(geometry), tmp_path / name)
    image = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), random_labels())
    np.testing.assert_allclose(itk_affine(image), geometry.affine, atol=1e-4)


def test_overlaps_survive_in_a_slicer_file(geometry: Geometry, tmp_path: Path) -> None:
    """Tumour in liver: 3D Slicer keeps both, a label map cannot."""
    meant = overlapping(geometry)
    write_segmentation(meant, tmp_path / "a.seg.nrrd")
    same(read_segmentation(tmp_path / "a.seg.nrrd"), meant)


def test_pynrrd_reads_the_fields_that_slicer_documents(geometry: Geometry, tmp_path: Path) -> None:
    """An independent reader finds layers, names, colours, extents and codes as Slicer describes them."""
    meant = overlapping(geometry)
    write_segmentation(meant, tmp_path / "a.seg.nrrd")
    voxels, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(np.moveaxis(voxels, 0, -1).T, meant.layers)
    assert header["space"] == "left-posterior-superior"
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    np.testing.assert_allclose(np.asarray(header["space directions"][1:], float).T, geometry.affine[:3, :3])
    np.testing.assert_allclose(header["space origin"], geometry.origin)
    for n, segment in enumerate(meant.segments):
        assert int(header[f"Segment{n}_Layer"]) == segment.layer
        assert int(header[f"Segment{n}_LabelValue"]) == segment.label
        color = [float(part) * 255 for part in header[f"Segment{n}_Color"].split()]
        np.testing.assert_allclose(color, segment.color, atol=1e-3)
        x0, x1, y0, y1, z0, z1 = map(int, header[f"Segment{n}_Extent"].split())
        where = np.argwhere(meant.mask(segment))
        assert [(z0, y0, x0), (z1, y1, x1)] == [tuple(where.min(axis=0)), tuple(where.max(axis=0))]
    assert header["Segment0_Name"] == "left kidney"
    assert len({header[f"Segment{n}_ID"] for n in range(5)}) == 5
    parts = header["Segment0_Tags"].removeprefix("TerminologyEntry:").rstrip("|").split("~")
    assert parts[1:4] == ["SCT^123037004^Anatomical Structure", "SCT^64033007^Kidney", "SCT^7771000^Left"]
    assert len(parts) == 7


def test_nibabel_finds_what_totalsegmentator_looks_for(geometry: Geometry, tmp_path: Path) -> None:
    """TotalSegmentator takes the first header extension for XML and walks down this path."""
    write_segmentation(named(geometry), tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, random_labels())
    np.testing.assert_allclose(RAS_TO_LPS @ image.affine, geometry.affine, atol=1e-4)
    [extension] = image.header.extensions
    assert extension.get_code() == 0
    root = ElementTree.fromstring(extension.get_content())
    assert root.tag == "CaretExtension"
    rows = root.findall("./VolumeInformation/LabelTable/Label")
    assert {int(row.get("Key")): row.text for row in rows} == NAMES
    assert [round(float(rows[0].get(c)) * 255) for c in ("Red", "Green", "Blue")] == [255, 0, 0]


def test_names_that_totalsegmentator_wrote_come_back(geometry: Geometry, tmp_path: Path) -> None:
    """Labels of its 117 organs are the commonest start; here as nibabel and its documentation have them."""
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension> <VolumeInformation Index="0"> <LabelTable>\n'
        '<Label Key="1" Red="1.0" Green="0.0" Blue="0.50196078" Alpha="1"><![CDATA[spleen]]></Label>\n'
        '<Label Key="2" Red="0.0" Green="1.0" Blue="0.0" Alpha="1"><![CDATA[kidney_right]]></Label>\n'
        " </LabelTable> </VolumeInformation></CaretExtension>\n              "
    )
    image = nibabel.Nifti1Image(random_labels().T, RAS_TO_LPS @ geometry.affine)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, xml.encode()))
    nibabel.save(image, tmp_path / "ts.nii.gz")
    found = read_segmentation(tmp_path / "ts.nii.gz")
    assert [(s.label, s.name) for s in found.segments] == [(1, "spleen"), (2, "kidney_right"), (7, "label 7")]
    assert found.segments[0].color == (255, 0, 128)
    assert found.segments[1].term == term_for("right kidney")


def test_names_that_connectome_workbench_wrote_come_back(tmp_path: Path) -> None:
    """The same table, under the code that the standard gives to it."""
    xml = (
        b'<CaretExtension><VolumeInformation Index="0"><LabelTable><Label Key="7" Red="1" Green="0" Blue="0" '
        b'Alpha="1">CORTEX_LEFT</Label></LabelTable></VolumeInformation></CaretExtension>'
    )
    image = nibabel.Nifti1Image(random_labels().T, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(30, xml))
    nibabel.save(image, tmp_path / "hcp.nii.gz")
    found = read_segmentation(tmp_path / "hcp.nii.gz").segments[-1]
    assert (found.label, found.name, found.color) == (7, "CORTEX_LEFT", (255, 0, 0))


def test_single_label_can_be_read_by_a_reader_that_wants_two_rows(tmp_path: Path) -> None:
    """TotalSegmentator's reader fails on a table of one row, so background is the other."""
    labels = np.ones((1, 2, 2), np.uint8)
    write_segmentation(Segmentation.from_labels(labels, Geometry(labels.shape)), tmp_path / "one.nii")
    [extension] = nibabel.load(tmp_path / "one.nii").header.extensions
    rows = ElementTree.fromstring(extension.get_content()).findall(".//Label")
    assert [(row.get("Key"), row.text) for row in rows] == [("0", "background"), ("1", "label 1")]
    assert [s.name for s in read_segmentation(tmp_path / "one.nii").segments] == ["label 1"]


def test_table_and_description_beside_a_nifti_are_those_of_bids(tmp_path: Path) -> None:
    geometry = Geometry(SHAPE)
    written = write_segmentation(named(geometry), tmp_path / "p_dseg.nii.gz", sources=["p_ct.nii.gz"])
    assert [path.name for path in written] == ["p_dseg.nii.gz", "p_dseg.tsv", "p_dseg.json"]
    lines = written[1].read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t")[:3] == ["index", "name", "color"]
    assert lines[1].split("\t")[:3] == ["1", "left kidney", "#ff0000"]
    assert json.loads(written[2].read_text(encoding="utf-8"))["Sources"] == ["p_ct.nii.gz"]


def test_files_of_others_beside_a_nifti_are_not_overwritten(tmp_path: Path) -> None:
    """dcm2niix puts the scan's protocol into a .json; that one cannot be made again."""
    protocol = tmp_path / "a.json"
    protocol.write_text('{"EchoTime": 0.1}')
    with pytest.raises(VolumeError, match=r"'a\.json' beside it belongs to something else"):
        write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    protocol.unlink()
    write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.nii.gz")
    write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.nii.gz")


def test_itksnap_descriptions_name_the_labels_of_a_plain_file(tmp_path: Path) -> None:
    meant = named(Geometry(SHAPE))
    write_segmentation(meant, tmp_path / "names.txt")
    write_segmentation(meant, tmp_path / "labels.mha")
    found = read_segmentation(tmp_path / "labels.mha", names_from=tmp_path / "names.txt")
    quoted = {**NAMES, 2: NAMES[2].replace('"', "'")}
    assert {s.label: (s.name, s.color) for s in found.segments} == {k: (quoted[k], COLORS[k]) for k in NAMES}
    lines = [line for line in (tmp_path / "names.txt").read_text("utf-8").splitlines() if line[0] != "#"]
    assert lines[0].split()[:7] == ["0"] * 7
    assert lines[1].split(maxsplit=7) == ["1", "255", "0", "0", "1", "1", "1", '"left kidney"']


def test_slicer_file_of_before_layers_is_read(tmp_path: Path) -> None:
    """Files of 3D Slicer 4.10 have a volume for each segment, and no LabelValue and Layer."""
    masks = np.stack([random_labels(1) > 0, random_labels(2) > 0]).astype(np.uint8)
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": [[np.nan] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "space origin": [0, 0, 0],
        "Segment0_ID": "a",
        "Segment0_Name": "liver",
        "Segment0_Color": "0.5 0 1",
        "Segment1_ID": "b",
        "Segment1_Name": "cyst",
    }
    nrrd.write(str(tmp_path / "old.seg.nrrd"), np.moveaxis(masks.T, -1, 0), header)
    found = read_segmentation(tmp_path / "old.seg.nrrd")
    assert [(s.name, s.layer, s.label) for s in found.segments] == [("liver", 0, 1), ("cyst", 1, 1)]
    np.testing.assert_array_equal(found.layers, masks)
    assert found.segments[0].color == (128, 0, 255)


def test_overlaps_need_a_choice_before_they_become_a_label_map(tmp_path: Path) -> None:
    """Whoever loses voxels has to know."""
    segmentation = overlapping(Geometry(SHAPE))
    one, other = segmentation.layers
    shared = np.count_nonzero((one > 0) & (other > 0))
    with pytest.raises(SegmentationError, match=f"overlap in {shared} voxels"):
        write_segmentation(segmentation, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []
    first, last = segmentation.flattened("first"), segmentation.flattened("last")
    assert [s.label for s in first.segments] == [1, 2, 3, 4, 5]
    second = np.select([other == 1, other == 2, other == 7], [3, 4, 5])
    np.testing.assert_array_equal(first.labels, np.where(one > 0, one, second))
    np.testing.assert_array_equal(last.labels, np.where(other > 0, second, one))


def test_masks_take_as_few_layers_as_they_need() -> None:
    a, b, c = (np.zeros(SHAPE, bool) for _ in range(3))
    a[0], b[:2], c[3] = True, True, True
    found = Segmentation.from_masks(
        [a, b, c], Geometry(SHAPE), lambda n, label, layer: Segment(label, "abc"[n], (0, 0, 0), None, layer)
    )
    assert [(s.name, s.label, s.layer) for s in found.segments] == [("a", 1, 0), ("b", 2, 1), ("c", 3, 0)]
    for segment, mask in zip(found.segments, (a, b, c), strict=True):
        np.testing.assert_array_equal(found.mask(segment), mask)


def test_an_older_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(named(Geometry(SHAPE)), path)
    before = path.read_bytes()
    with pytest.raises(VolumeError, match="expected the files of one"):
        write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.dcm")
    with pytest.raises(VolumeError, match="ends in none of"):
        write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.stl")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.seg.nrrd"]


def test_nothing_is_left_beside_a_label_map_that_has_no_place(tmp_path: Path) -> None:
    """Names without voxels, found weeks later, are names of nothing."""
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(VolumeError, match="cannot be written: Is a directory"):
        write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.nii.gz")
    assert [each.name for each in tmp_path.iterdir()] == ["a.nii.gz"]


def test_segmentation_without_an_object_comes_back_empty(tmp_path: Path) -> None:
    """A case without a lesion is a result."""
    empty = Segmentation.from_labels(np.zeros(SHAPE, np.uint8), Geometry(SHAPE))
    for name in ("a.nii.gz", "a.seg.nrrd"):
        write_segmentation(empty, tmp_path / name)
        found = read_segmentation(tmp_path / name)
        assert not found.layers.any()
        assert found.segments == ()


@pytest.mark.parametrize(
    "xml",
    [
        (
            b'<!DOCTYPE x [<!ENTITY a "aaaa">]><CaretExtension><LabelTable><Label Key="1">&a;</Label>'
            b"</LabelTable></CaretExtension>"
        ),
        b"<CaretExtension><LabelTable>",
        (b'<CaretExtension><V><LabelTable><Label Key="x">a</Label></LabelTable></V></CaretExtension>'),
        (
            b'<CaretExtension><V><LabelTable><Label Key="1" Red="1e999">a</Label></LabelTable></V>'
            b"</CaretExtension>"
        ),
        b"\xff" * 40,
    ],
)
def test_damaged_names_do_not_cost_the_voxels(xml: bytes, tmp_path: Path) -> None:
    """A header extension is a hint; the label map beside it is the work."""
    image = nibabel.Nifti1Image(random_labels().T, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, xml))
    nibabel.save(image, tmp_path / "a.nii")
    found = read_segmentation(tmp_path / "a.nii")
    np.testing.assert_array_equal(found.labels, random_labels())
    assert [s.name for s in found.segments] == ["label 1", "label 2", "label 7"]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("Segment0_Layer:=5", "lies in layer 5, but there are only 1"),
        ("Segment0_Layer:=-1", "expected a whole number"),
        ("Segment0_LabelValue:=" + "9" * 400, "expected a whole number"),
        ("Segment0_LabelValue:=0", "label is 0, expected 1"),
    ],
)
def test_damaged_slicer_files_are_refused_in_one_sentence(field: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(named(Geometry(SHAPE)), path)
    head, _, body = path.read_bytes().partition(b"\n\n")
    key = field.partition(":=")[0].encode()
    lines = [field.encode() if line.startswith(key) else line for line in head.split(b"\n")]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + body)
    with pytest.raises((VolumeError, SegmentationError), match=said) as caught:
        read_segmentation(path)
    assert "\n" not in str(caught.value)


def test_table_that_is_none_is_told_and_passed_over(tmp_path: Path) -> None:
    write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.nii.gz")
    (tmp_path / "a.tsv").write_text("nothing\tof\tthe\tkind\n1\t2\t3\t4\n")
    found = read_segmentation(tmp_path / "a.nii.gz")
    assert "is no table of labels" in found.notes[-1]
    assert [s.name for s in found.segments] == [s.name for s in named(Geometry(SHAPE)).segments]


def test_odd_rows_of_a_table_do_not_cost_the_voxels(tmp_path: Path) -> None:
    """Tables are edited by hand, in spreadsheets."""
    write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.nii.gz")
    rows = [
        "index\tname\tcolor",
        "99999999999\ttoo large\t#000000",
        "3\t\x01\t",
        f"4\t{'x' * 999}\tred",
        "5\tn/a\tab  cd",
        "-1\ta\t",
    ]
    (tmp_path / "a.tsv").write_text("\n".join(rows), encoding="utf-8")
    found = read_segmentation(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found.labels, random_labels())
    assert [s.label for s in found.segments] == [1, 2, 3, 4, 7]


def test_the_code_of_a_long_name_comes_back(tmp_path: Path) -> None:
    """Code and name are in two places, which have to agree on the name."""
    segment = Segment(1, "x" * 250, (1, 2, 3), term_for("liver"))
    meant = Segmentation(np.ones((1, *SHAPE), np.uint8), Geometry(SHAPE), (segment,))
    write_segmentation(meant, tmp_path / "a.nii.gz")
    same(read_segmentation(tmp_path / "a.nii.gz"), meant)


def test_descriptions_from_a_windows_editor_are_read(tmp_path: Path) -> None:
    """It puts a mark in front of the first line."""
    write_segmentation(named(Geometry(SHAPE)), tmp_path / "a.nrrd")
    line = '    1   255    0    0        1  1  1    "Läsion"\r\n'
    (tmp_path / "names.txt").write_bytes(line.encode("utf-8-sig"))
    found = read_segmentation(tmp_path / "a.nrrd", names_from=tmp_path / "names.txt")
    assert found.segments[0].name == "Läsion"


def test_plain_readers_still_read_the_files(tmp_path: Path) -> None:
    """`read_labels` and every viewer that knows nothing of names."""
    meant = named(Geometry(SHAPE))
    write_segmentation(meant, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz").array, meant.labels)
    with gzip.open(tmp_path / "a.nii.gz") as stream:
        header = stream.read(352)
    assert header[348] == 1, "the header has to say that an extension follows"
