"""DICOM segmentations and structure sets: on the right series, in the right place, valid for an archive."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import rectangle, structure_set, write_series
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from napari_medsam.export import (
    GridError,
    Segment,
    Segmentation,
    image_of,
    placed_on,
    read_segmentation,
    series_files,
    write_segmentation,
)
from napari_medsam.formats.dicom_objects import understood
from napari_medsam.formats.dicom_seg import IncompleteSeriesWarning
from napari_medsam.terminology import term_for
from napari_medsam.volume import Geometry, VolumeError, read_volume

highdicom = pytest.importorskip("highdicom")

SHAPE = (6, 9, 11)
TILT = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
DIRECTIONS = {"plain": np.eye(3), "flipped": np.diag([-1.0, -1.0, 1.0]), "oblique": TILT}
VALIDATOR = Path(sys.executable).with_name("dciodvfy")


@pytest.fixture(params=DIRECTIONS)
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return Geometry(
        SHAPE, (3.0, 0.7, 0.8), (-120.5, 33.25, 801.125), tuple(DIRECTIONS[request.param].ravel())
    )


@pytest.fixture
def oblique() -> Geometry:
    return Geometry(SHAPE, (3.0, 0.7, 0.8), (-120.5, 33.25, 801.125), tuple(TILT.ravel()))


def some_labels() -> NDArray[np.uint8]:
    """Labels 1, 3 and 8 at random; none on the first slice and on one in the middle."""
    labels = np.random.default_rng(4).choice(np.array([0, 1, 3, 8], np.uint8), SHAPE)
    labels[0] = labels[3] = 0
    return labels


def written(folder: Path, geometry: Geometry, path: Path, **more) -> Segmentation:
    """Write labels of a fresh series as a DICOM segmentation."""
    write_series(folder, geometry)
    names = {1: "left kidney", 3: "something odd", 8: "Liver"}
    meant = Segmentation.from_labels(some_labels(), read_volume(folder).geometry, names=names, **more)
    assert write_segmentation(meant, path, series=series_files(folder)) == [path]
    return meant


def test_segmentation_comes_back_on_its_series(geometry: Geometry, tmp_path: Path) -> None:
    """Slices without a segment are not in the file, and must not shift those that are."""
    meant = written(tmp_path / "ct", geometry, tmp_path / "seg.dcm")
    image = image_of(tmp_path / "seg.dcm", tmp_path / "ct")
    found = placed_on(read_segmentation(tmp_path / "seg.dcm"), image.geometry)
    expected = np.select([meant.labels == k for k in (1, 3, 8)], [1, 2, 3])
    np.testing.assert_array_equal(found.labels, expected)
    assert [segment.name for segment in found.segments] == ["left kidney", "something odd", "Liver"]
    terms = [segment.term for segment in found.segments]
    assert terms == [term_for("left kidney"), None, term_for("liver")]
    for one, other in zip(found.segments, meant.segments, strict=True):
        # DICOM keeps colours as CIELab in 16 bits.
        np.testing.assert_allclose(one.color, other.color, atol=1)


def test_rounded_positions_do_not_keep_labels_from_their_series(tmp_path: Path) -> None:
    """Scanners write positions with a few digits: slices are then not quite where the others say."""
    thin = Geometry(SHAPE, (0.703, 0.7, 0.8), (-120.5, 33.25, 801.125), tuple(TILT.ravel()))
    write_series(tmp_path / "ct", thin, digits=2)
    grid = read_volume(tmp_path / "ct").geometry
    meant = Segmentation.from_labels(some_labels(), grid)
    write_segmentation(meant, tmp_path / "seg.dcm", series=series_files(tmp_path / "ct"))
    found = placed_on(read_segmentation(tmp_path / "seg.dcm"), grid)
    np.testing.assert_array_equal(found.labels, np.select([meant.labels == k for k in (1, 3, 8)], [1, 2, 3]))


def test_highdicom_sees_every_frame_on_its_image(geometry: Geometry, tmp_path: Path) -> None:
    """A viewer overlays by SOP instance and by position: both have to name the slice drawn on."""
    meant = written(tmp_path / "ct", geometry, tmp_path / "seg.dcm")
    headers = [pydicom.dcmread(path) for path in series_files(tmp_path / "ct")]
    headers.sort(key=lambda header: header.InstanceNumber)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    for z, header in enumerate(headers):
        pixels = seg.get_pixels_by_source_instance(
            [header.SOPInstanceUID], combine_segments=True, assert_missing_frames_are_empty=True
        )
        expected = np.select([meant.labels[z] == k for k in (1, 3, 8)], [1, 2, 3])
        np.testing.assert_array_equal(pixels[0], expected)
    volume = seg.get_volume(combine_segments=True)
    for index in np.argwhere(volume.array == 3)[:5]:
        place = volume.affine @ (*index, 1)
        x, y, z = np.rint((np.linalg.inv(meant.geometry.affine) @ place)[:3]).astype(int)
        assert meant.labels[z, y, x] == 8
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == headers[0].SeriesInstanceUID
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"


def test_overlapping_segments_stay_both(oblique: Geometry, tmp_path: Path) -> None:
    write_series(tmp_path / "ct", oblique)
    grid = read_volume(tmp_path / "ct").geometry
    one, other = np.zeros((2, *SHAPE), np.uint8)
    one[1:4, 2:7], other[2:5, 4:9] = 1, 1
    segments = (Segment(1, "liver", (9, 9, 9)), Segment(1, "tumour", (200, 9, 9), term_for("tumour"), 1))
    meant = Segmentation(np.stack([one, other]), grid, segments)
    write_segmentation(meant, tmp_path / "seg.dcm", series=series_files(tmp_path / "ct"))
    found = placed_on(read_segmentation(tmp_path / "seg.dcm"), grid)
    for segment, mask in zip(found.segments, (one, other), strict=True):
        np.testing.assert_array_equal(found.mask(segment), mask > 0)


@pytest.mark.skipif(not VALIDATOR.exists(), reason="dicom3tools has no program for this platform")
def test_an_independent_validator_has_no_error_to_tell(oblique: Geometry, tmp_path: Path) -> None:
    """An archive that refuses the object loses the work."""
    written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    verdict = subprocess.run([VALIDATOR, tmp_path / "seg.dcm"], capture_output=True, text=True, check=False)
    assert "Segmentation" in verdict.stderr
    assert [line for line in verdict.stderr.splitlines() if line.startswith("Error")] == []


def test_right_series_is_chosen_from_a_folder_of_several(oblique: Geometry, tmp_path: Path) -> None:
    """Studies come as one folder; the labels say which series is theirs."""
    folder = tmp_path / "study"
    written(folder, oblique, tmp_path / "seg.dcm")
    for path in list(folder.iterdir()):
        path.rename(path.with_stem(f"z{path.stem}"))
    write_series(folder, Geometry((3, 4, 5), (1.0, 1.0, 1.0)))
    with pytest.raises(VolumeError, match="holds 2 DICOM series"):
        read_volume(folder)
    assert image_of(tmp_path / "seg.dcm", folder).geometry.shape == SHAPE


def test_another_series_is_refused(oblique: Geometry, tmp_path: Path) -> None:
    """A segmentation that names the wrong images is worse than none."""
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    moved = Geometry(SHAPE, oblique.spacing, (-120.5, 33.25, 802.125), oblique.direction)
    write_series(tmp_path / "other", moved)
    with pytest.raises(VolumeError, match="mm off the series"):
        write_segmentation(meant, tmp_path / "new.dcm", series=series_files(tmp_path / "other"))
    with pytest.raises(VolumeError, match="has 5 files, expected 6"):
        write_segmentation(meant, tmp_path / "new.dcm", series=series_files(tmp_path / "ct")[1:])
    empty = Segmentation.from_labels(np.zeros(SHAPE, np.uint8), meant.geometry, names={1: "liver"})
    with pytest.raises(VolumeError, match="nothing is segmented"):
        write_segmentation(empty, tmp_path / "new.dcm", series=series_files(tmp_path / "ct"))
    assert not (tmp_path / "new.dcm").exists()
    far = Geometry(SHAPE, oblique.spacing, (5000.3, 33.25, 802.125), oblique.direction)
    with pytest.raises(GridError, match="mm apart"):
        placed_on(read_segmentation(tmp_path / "seg.dcm"), far)


def without(folder: Path, *keywords: str) -> None:
    """Do to a series what anonymisers do."""
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        for keyword in keywords:
            setattr(header, keyword, "")
        header.save_as(path)


def test_series_without_uids_is_told_and_keeps_its_images(oblique: Geometry, tmp_path: Path) -> None:
    """Anonymisers empty UIDs; those of slices stand in the files a second time, others are made up."""
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    slices = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "ct").iterdir()}
    without(tmp_path / "ct", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
    studies = []
    for name in ("one.dcm", "two.dcm"):
        with pytest.warns(IncompleteSeriesWarning, match="has no common StudyInstanceUID"):
            write_segmentation(meant, tmp_path / name, series=series_files(tmp_path / "ct"))
        seg = pydicom.dcmread(tmp_path / name)
        studies.append(seg.StudyInstanceUID)
        references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert {item.ReferencedSOPInstanceUID for item in references} <= slices
    assert studies[0] == studies[1]


def test_slices_in_frames_of_reference_of_their_own_are_one_series(oblique: Geometry, tmp_path: Path) -> None:
    """Some anonymisers give every slice another one (as in the Sunnybrook hearts)."""
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    for path in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(path)
        header.FrameOfReferenceUID = generate_uid()
        header.save_as(path)
    with pytest.warns(IncompleteSeriesWarning, match="has no common FrameOfReferenceUID"):
        write_segmentation(meant, tmp_path / "new.dcm", series=series_files(tmp_path / "ct"))


def test_a_day_that_is_none_does_not_cost_the_labels(oblique: Geometry, tmp_path: Path) -> None:
    """Anonymisers write 00000000 for a date."""
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    for path in (tmp_path / "ct").iterdir():
        data = path.read_bytes()
        assert data.count(b"20200101") == data.count(b"19700101") == 1
        path.write_bytes(data.replace(b"20200101", b"00000000").replace(b"19700101", b"00000000"))
    write_segmentation(meant, tmp_path / "new.dcm", series=series_files(tmp_path / "ct"))
    assert pydicom.dcmread(tmp_path / "new.dcm").StudyDate == ""


def test_a_patient_without_a_name_does_not_cost_the_labels(oblique: Geometry, tmp_path: Path) -> None:
    """Anonymisers take out what DICOM wants to be there, be it empty."""
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    for path in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(path)
        del header.PatientID, header.PatientName, header.StudyDate, header.AccessionNumber
        header.save_as(path)
    write_segmentation(meant, tmp_path / "new.dcm", series=series_files(tmp_path / "ct"))
    found = pydicom.dcmread(tmp_path / "new.dcm")
    assert (found.PatientID, found.PatientName, found.StudyDate) == ("", "", "")


def test_series_that_lacks_what_dicom_wants_is_told(oblique: Geometry, tmp_path: Path) -> None:
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    for path in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(path)
        del header.PixelSpacing
        header.save_as(path)
    with pytest.raises(VolumeError, match="PixelSpacing") as caught:
        write_segmentation(meant, tmp_path / "new.dcm", series=series_files(tmp_path / "ct"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("letters", [None, "ISO_IR 100", "ISO_IR 192"])
def test_names_keep_their_letters(letters: str | None, oblique: Geometry, tmp_path: Path) -> None:
    """Whatever letters the scanner knew; a backslash, which DICOM cannot have in a name, becomes a slash."""
    write_series(tmp_path / "ct", oblique)
    for path in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(path)
        if letters is not None:
            header.SpecificCharacterSet = letters
            header.PatientName = "Müller^Zoë"
        header.save_as(path)
    grid = read_volume(tmp_path / "ct").geometry
    names = {1: 'Läsion "2" <b>, größer', 3: "a\\b", 8: "肝臓"}
    meant = Segmentation.from_labels(some_labels(), grid, names=names)
    write_segmentation(meant, tmp_path / "seg.dcm", series=series_files(tmp_path / "ct"))
    found = read_segmentation(tmp_path / "seg.dcm")
    assert [each.name for each in found.segments] == [names[1], "a/b", names[8]]
    header = pydicom.dcmread(tmp_path / "seg.dcm")
    assert header.SegmentSequence[0].SegmentLabel == names[1]
    assert header.PatientName == ("Test^Patient" if letters is None else "Müller^Zoë")


def test_a_slice_of_the_series_is_not_written_over(oblique: Geometry, tmp_path: Path) -> None:
    """A click on the wrong file in the dialog must not cost the scan a slice."""
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    files = series_files(tmp_path / "ct")
    before = files[2].read_bytes()
    with pytest.raises(VolumeError, match="an image of the series itself"):
        write_segmentation(meant, files[2], series=files)
    assert files[2].read_bytes() == before


def test_missing_library_is_one_sentence_that_names_the_extra(
    oblique: Geometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = written(tmp_path / "ct", oblique, tmp_path / "seg.dcm")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(VolumeError, match=r'pip install "napari-medsam\[dicom\]"'):
        write_segmentation(meant, tmp_path / "new.dcm", series=series_files(tmp_path / "ct"))


@pytest.mark.parametrize("cut", [100, 700, 2000, -9])
def test_damaged_segmentation_is_refused_in_one_sentence(cut: int, oblique: Geometry, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    written(tmp_path / "ct", oblique, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(VolumeError) as caught:
        read_segmentation(path)
    assert "\n" not in str(caught.value)


def test_frames_that_span_the_universe_are_refused(oblique: Geometry, tmp_path: Path) -> None:
    """A volume from a first frame here and a last one 1000 km away would take all memory."""
    path = tmp_path / "seg.dcm"
    written(tmp_path / "ct", oblique, path)
    header = pydicom.dcmread(path)
    place = header.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    far = np.array(place.ImagePositionPatient, float) + TILT[:, 2] * 3.0 * 1e9
    place.ImagePositionPatient = [f"{part:.6e}" for part in far]
    header.save_as(path)
    with pytest.raises(VolumeError) as caught:
        read_segmentation(path)
    assert "\n" not in str(caught.value)


# --- structure sets ----------------------------------------------------------------------------------------


def test_contours_are_filled_in_where_they_were_drawn(geometry: Geometry, tmp_path: Path) -> None:
    """A ring with its hole, and a structure that overlaps it, on a turned grid."""
    uid = write_series(tmp_path / "ct", geometry)
    grid = read_volume(tmp_path / "ct").geometry
    ring = [rectangle(2, 0.5, 0.5, 7.5, 9.5), rectangle(2, 2.5, 2.5, 5.5, 6.5)]
    path = structure_set(
        tmp_path / "rt.dcm", grid, uid, {"PTV": ring, "liver": [rectangle(2, 1.5, 1.5, 3.5, 3.5)]}
    )
    image = image_of(path, tmp_path / "ct")
    found = read_segmentation(path, geometry=image.geometry)
    ptv, liver = np.zeros((2, *SHAPE), bool)
    ptv[2, 1:8, 1:10] = True
    ptv[2, 3:6, 3:7] = False
    liver[2, 2:4, 2:4] = True
    assert [(s.name, s.color) for s in found.segments] == [("PTV", (10, 20, 30)), ("liver", (20, 20, 30))]
    assert found.segments[1].term == term_for("liver")
    for segment, mask in zip(found.segments, (ptv, liver), strict=True):
        np.testing.assert_array_equal(found.mask(segment), mask)


def test_contours_beyond_the_image_are_told(oblique: Geometry, tmp_path: Path) -> None:
    contours = [rectangle(1, 0.5, 0.5, 3.5, 3.5), rectangle(40, 0.5, 0.5, 3.5, 3.5)]
    path = structure_set(tmp_path / "rt.dcm", oblique, "1.2", {"a": contours})
    found = read_segmentation(path, geometry=oblique)
    assert "1 contours lie beyond" in found.notes[0]
    assert np.count_nonzero(found.labels) == 9
    beyond = structure_set(tmp_path / "far.dcm", oblique, "1.2", {"a": contours[1:]})
    with pytest.raises(VolumeError, match="none of its 1 contours lies on the image"):
        read_segmentation(beyond, geometry=oblique)


def test_contours_on_other_planes_are_refused(oblique: Geometry, tmp_path: Path) -> None:
    """Drawn on sagittal slices, they say nothing of what lies inside on axial ones."""
    tilted = [(0, 1, 1), (3, 1, 5), (3, 5, 5)]
    path = structure_set(tmp_path / "rt.dcm", oblique, "1.2", {"a": [tilted]})
    with pytest.raises(VolumeError, match="climbs by 3 slices"):
        read_segmentation(path, geometry=oblique)
    with pytest.raises(VolumeError, match="expected the image to fill them in on"):
        read_segmentation(path)


def test_real_series_gives_a_valid_segmentation(real_data: Path, tmp_path: Path) -> None:
    """JPEG 2000 slices of a hospital, 31 organs, judged by an independent validator."""
    case = real_data / "ct_abdomen_dicom"
    if not case.is_dir() or not VALIDATOR.exists():
        pytest.skip("needs the case ct_abdomen_dicom and dicom3tools")
    image = image_of(case / "labels.nii.gz", case / "dicom")
    meant = placed_on(read_segmentation(case / "labels.nii.gz"), image.geometry)
    path = tmp_path / "seg.dcm"
    with pytest.warns(IncompleteSeriesWarning):
        write_segmentation(meant, path, series=series_files(case / "dicom"))
    found = placed_on(read_segmentation(path), image.geometry)
    expected = np.searchsorted([segment.label for segment in meant.segments], meant.labels) + 1
    np.testing.assert_array_equal(found.flattened().labels, np.where(meant.labels > 0, expected, 0))
    verdict = subprocess.run([VALIDATOR, path], capture_output=True, text=True, check=False)
    assert [line for line in verdict.stderr.splitlines() if line.startswith("Error")] == []


def test_a_length_that_lies_asks_for_no_memory_and_an_unknown_type_gets_one_sentence(tmp_path: Path) -> None:
    """Found by benchmarks/fuzz.py: 4 GB were asked for, and pydicom's own error came through."""
    from napari_medsam.formats.dicom_objects import WithinFile

    geometry = Geometry(SHAPE, (3.0, 0.8, 0.8))
    uid = write_series(tmp_path / "series", geometry)
    path = structure_set(tmp_path / "s.dcm", geometry, uid, {"a": [rectangle(1.0, 2.0, 2.0, 5.0, 5.0)]})
    sound = path.read_bytes()
    with WithinFile(path) as stream:
        assert stream.read(1 << 62) == sound
        assert stream.read(1) == b""
    at = sound.index(b"CSRTSTRUCT"[2:]) - 4
    for damage in (b"OB\0\0\xff\xff\xff\x7f", b"C\xe3\x08\x00"):
        path.write_bytes(sound[:at] + damage + sound[at + len(damage) :])
        with pytest.raises(VolumeError, match=r"cannot be read: .* damaged"):
            read_segmentation(path, geometry=geometry)


@pytest.mark.parametrize(
    "error", [sqlite3.ProgrammingError("type 'list' is not supported"), AssertionError("\n")]
)
def test_whatever_a_dicom_library_raises_is_one_sentence(error: Exception) -> None:
    """Found by benchmarks/fuzz.py: highdicom's database did not take a value."""
    with pytest.raises(VolumeError, match=r"^the DICOM object is damaged .*\)\.$"), understood():
        raise error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_the_disk_and_the_memory_are_not_blamed_on_the_file(error: Exception) -> None:
    with pytest.raises(type(error)), understood():
        raise error
