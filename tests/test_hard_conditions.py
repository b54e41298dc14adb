"""Files that change, odd names, links, devices, odd voxels: if these fail, napari ends or shows nonsense."""

from __future__ import annotations

import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import write_series

from napari_medsam.export import NnunetCase, Segmentation, read_segmentation, write_nnunet, write_segmentation
from napari_medsam.formats import dicom, itk, nifti
from napari_medsam.formats.windowed import WindowedFile
from napari_medsam.geometry import Geometry, Volume, VolumeError
from napari_medsam.models.zoo import load_model
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.segments import SegmentationError
from napari_medsam.session import Session
from napari_medsam.volume import read_labels, read_volume, voxel_digest, write_labels
from napari_medsam.windowing import apply_window, default_window

SHAPE = (6, 20, 24)
GEOMETRY = Geometry(SHAPE, (3.0, 0.8, 0.8))
VOXELS = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)
posix = pytest.mark.skipif(os.name != "posix", reason="links and pipes are those of POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems know no names that are not UTF-8")


def save(path):
    """An image of the path's kind."""
    if path.suffix == "":
        write_series(path, GEOMETRY, VOXELS)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path))
    return path


# --- another program writes meanwhile ----------------------------------------------------------------------


def shrink(path):
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path):
    """Other voxels of the same size."""
    data = bytearray(path.read_bytes())
    data[-200:] = bytes(200)
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


def vanish(path):
    path.unlink()


BETWEEN_HEADER_AND_VOXELS = {
    "scan.nii": (nifti, "check_size"),
    "scan.nii.gz": (nifti, "check_size"),
    "scan.nrrd": (itk, "check_size"),
    "scan.mha": (itk, "check_size"),
    "series": (dicom, "_check_uniform"),
}


@pytest.mark.parametrize("change", [shrink, overwrite, vanish])
@pytest.mark.parametrize("name", BETWEEN_HEADER_AND_VOXELS)
@posix
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, monkeypatch, name, change):
    path = save(tmp_path / name)
    victim = path / "000.dcm" if path.is_dir() else path
    place, step = BETWEEN_HEADER_AND_VOXELS[name]
    proper = getattr(place, step)

    def then_change(*asked):
        proper(*asked)
        change(victim)

    monkeypatch.setattr(place, step, then_change)
    with pytest.raises(VolumeError) as told:
        read_volume(path)
    where = f"'{path}' cannot be read: " + ("in its file '000.dcm' " if path.is_dir() else "")
    assert str(told.value) == where + (
        "another program changed it while it was read, expected it to stay as it is; read it again."
    )


def test_a_file_that_stays_as_it_is_is_not_accused(tmp_path):
    for name in BETWEEN_HEADER_AND_VOXELS:
        np.testing.assert_array_equal(read_volume(save(tmp_path / name)).array, VOXELS)


def test_a_windowed_file_has_the_bytes_of_the_file(tmp_path):
    data = np.random.default_rng(1).bytes(70000)
    path = tmp_path / "a"
    path.write_bytes(data + bytes(40000))
    with path.open("rb") as stream:
        file = WindowedFile(stream, 110000)
        for start, stop in ((0, 4), (16380, 16390), (2, 3), (100, 69000), (69990, 70010), (109999, 200000)):
            assert file[start:stop] == (data + bytes(40000))[start:stop]
        assert file.unpack(">I", 69000) == struct.unpack_from(">I", data, 69000)
        assert file.zeros_from(70000)
        assert not file.zeros_from(69990)
        with pytest.raises(struct.error):
            file.unpack("<I", 109998)


def test_a_dicom_file_cut_while_its_header_is_read_ends_no_process(tmp_path):
    """Mapped, it ended the process with a signal."""
    path = save(tmp_path / "series") / "000.dcm"
    size = path.stat().st_size
    with path.open("rb", buffering=0) as stream:
        file = WindowedFile(stream, size)
        os.truncate(path, 100)
        assert file[90:110] == path.read_bytes()[90:]
        with pytest.raises(struct.error):
            file.unpack("<I", size - 10)


# --- names, links, devices ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
def test_names_in_any_script_are_written_and_read(tmp_path, ending):
    path = tmp_path / "Größe 患者 😀" / f"Шея 頭 é{ending}"
    path.parent.mkdir()
    meant = Segmentation.from_labels(VOXELS > 100, GEOMETRY, names={1: "Schädel 頭"})
    write_segmentation(meant, path)
    np.testing.assert_array_equal(read_segmentation(path).labels, meant.labels)


@linux
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".dcm"])
def test_a_name_that_is_no_utf_8_is_refused_where_itk_would_end_the_process(tmp_path, ending):
    path = tmp_path / f"sch\udce4del{ending}"
    (save(tmp_path / "series") / "000.dcm" if ending == ".dcm" else save(tmp_path / f"a{ending}")).rename(
        path
    )
    with pytest.raises(VolumeError, match=r"/sch\?del\.\w+' cannot be read: .*expected UTF-8; rename"):
        read_volume(path)
    if ending != ".dcm":
        folder = tmp_path / "sch\udce4del"
        folder.mkdir()
        with pytest.raises(VolumeError, match=r"cannot be written: .*expected UTF-8; rename"):
            write_labels(VOXELS, GEOMETRY, folder / f"a{ending}")
        assert list(folder.iterdir()) == []


@linux
def test_a_name_that_is_no_utf_8_is_fine_for_nifti(tmp_path):
    path = tmp_path / "sch\udce4del.nii.gz"
    write_labels(VOXELS, GEOMETRY, path)
    np.testing.assert_array_equal(read_labels(path).array, VOXELS)


@posix
def test_a_name_that_is_too_long_gets_one_sentence_that_can_be_read(tmp_path):
    path = tmp_path / ("x" * 5000 + ".nii.gz")
    for act in (lambda: write_labels(VOXELS, GEOMETRY, path), lambda: read_volume(path)):
        with pytest.raises(
            VolumeError, match=r"^'/.*x\.\.\.x+\.nii\.gz' cannot be .* give it a shorter name\.$"
        ) as told:
            act()
        assert len(str(told.value)) < 450
    assert list(tmp_path.iterdir()) == []
    longest = tmp_path / ("x" * 248 + ".nii.gz")
    np.testing.assert_array_equal(read_labels(write_labels(VOXELS, GEOMETRY, longest)).array, VOXELS)


def test_a_name_with_a_null_or_a_line_break_makes_no_second_sentence(tmp_path):
    for act in (lambda path: write_labels(VOXELS, GEOMETRY, path), read_volume):
        with pytest.raises(
            VolumeError, match=r"a\?b\.nii' cannot be .*null character; choose another name\.$"
        ):
            act(tmp_path / "a\0b.nii")
    with pytest.raises(VolumeError, match=r"a\?b\.nii' cannot be read: it does not exist"):
        read_volume(tmp_path / "a\nb.nii")


@posix
@pytest.mark.parametrize("name", ["a.nii.gz", "a.seg.nrrd", "a.mha", "a.txt"])
def test_a_link_out_of_the_folder_keeps_its_place_and_its_target_is_replaced_whole(
    tmp_path, monkeypatch, name
):
    """Where a link leads is the user's choice; nothing half-written may lie there."""
    there, here = tmp_path / "archive" / name, tmp_path / "work" / name
    there.parent.mkdir()
    here.parent.mkdir()
    write_segmentation(Segmentation.from_labels(VOXELS > 50, GEOMETRY, names={1: "old"}), there)
    here.symlink_to(there)
    older = there.read_bytes()
    fresh = Segmentation.from_labels(VOXELS > 100, GEOMETRY, names={1: "new"})
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(VolumeError, match="No space left on device"):
            write_segmentation(fresh, here)
    assert there.read_bytes() == older
    write_segmentation(fresh, here)
    assert here.is_symlink()
    assert there.read_bytes() == here.read_bytes() != older
    hidden = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert hidden == []


@posix
def test_links_in_circles_and_pipes_in_a_dicom_folder_do_no_harm(tmp_path):
    folder = save(tmp_path / "series")
    (folder / "self").symlink_to(".")
    (folder / "deeper").symlink_to("self/self/self/self")
    (folder / "circle").symlink_to("circle")
    (folder / "nowhere").symlink_to("nothing")
    os.mkfifo(folder / "pipe")
    np.testing.assert_array_equal(read_volume(folder).array, VOXELS)
    np.testing.assert_array_equal(read_volume(folder / "deeper" / "self").array, VOXELS)


@posix
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.png", "a.dcm", "a"])
def test_a_device_or_pipe_is_no_image(tmp_path, name):
    """A pipe would be waited for, and a device read, without end."""
    path = tmp_path / name
    path.symlink_to("/dev/zero")
    with pytest.raises(VolumeError, match="it is a device or a pipe, expected an image file or a folder"):
        read_volume(path)


# --- voxels ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor():
    return SlicePredictor(load_model("default"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 7.0, -3e38, 3e38])
def test_a_volume_of_one_value_is_read_windowed_and_segmented(tmp_path, predictor, value):
    path = tmp_path / "flat.nii"
    write_labels(np.zeros(SHAPE, np.uint8), GEOMETRY, path)
    data = bytearray(path.read_bytes()[:352])
    data[70:74] = struct.pack("<2h", 16, 32)
    path.write_bytes(data + np.full(SHAPE, value, "<f4").tobytes())
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, np.full(SHAPE, value, np.float32))
    finite = bool(np.isfinite(value))
    assert (
        volume.notes[-1:]
        == (
            ()
            if finite
            else (f"{VOXELS.size} voxels are not finite numbers (NaN or infinite); they were kept.",)
        )
        or finite
    )
    assert voxel_digest(volume) == voxel_digest(read_volume(path))
    shown = apply_window(volume.array[0], default_window(volume))
    assert np.isfinite(shown).all()
    assert len(np.unique(shown)) == 1
    session = Session(volume, predictor)
    session.add_prompts(1, SliceIndex(0, 2), SlicePrompts((2, 3, 12, 13)))
    part = session.segment(SliceIndex(0, 2), 1)
    assert part.mask.shape == SHAPE[1:]
    assert np.isfinite(part.score)
    session.write(part)
    assert set(np.unique(session.labels)) <= {0, 1}


def test_some_voxels_that_are_no_numbers_leave_the_others_as_they_are(predictor):
    array = np.where(VOXELS > 190, np.nan, VOXELS).astype(np.float32)
    volume = Volume(array, GEOMETRY)
    shown = apply_window(array[2], default_window(volume))
    assert np.isfinite(shown).all()
    proper = apply_window(array[2], default_window(Volume(np.nan_to_num(array, nan=100.0), GEOMETRY)))
    assert np.ptp(shown) > 0.5 * np.ptp(proper)


MOST = 65535


def many_labels():
    """Every label that an object can have, one voxel each."""
    labels = np.zeros((48, 48, 48), np.uint16)
    labels.ravel()[1 : MOST + 1] = np.arange(1, MOST + 1)
    return Segmentation.from_labels(labels, Geometry(labels.shape))


def test_65535_labels_keep_their_names(tmp_path):
    meant = many_labels()
    write_segmentation(meant, tmp_path / "a.nii.gz")
    found = read_segmentation(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found.labels, meant.labels)
    assert [each.name for each in found.segments] == [f"label {n}" for n in range(1, MOST + 1)]
    with pytest.raises(
        SegmentationError, match=r"there are 65535 segments, expected at most 1800 .* \.nii\.gz"
    ):
        write_segmentation(meant, tmp_path / "a.seg.nrrd")
    image = Volume(meant.labels.astype(np.int16), meant.geometry)
    numbers = write_nnunet([NnunetCase("a", image, meant)], tmp_path / "Dataset001_Cells")
    assert numbers["label 65535"] == MOST
    written = read_labels(tmp_path / "Dataset001_Cells" / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(written.array, meant.labels)


def test_extents_are_those_of_the_labels_however_large_their_numbers(tmp_path):
    labels = np.zeros(SHAPE, np.uint32)
    labels[1:3, 4:9, 5] = 4_000_000_000
    labels[5, 19, 23] = 3
    meant = Segmentation.from_labels(labels, GEOMETRY, names={7: "nothing yet"})
    write_segmentation(meant, tmp_path / "a.seg.nrrd")
    header = (tmp_path / "a.seg.nrrd").read_bytes().split(b"\n\n")[0].decode()
    assert [line for line in header.splitlines() if "_Extent:=" in line] == [
        "Segment0_Extent:=23 23 19 19 5 5",
        "Segment1_Extent:=0 -1 0 -1 0 -1",
        "Segment2_Extent:=5 5 4 8 1 2",
    ]


@pytest.mark.parametrize("lines", ["Key{}:=value", "# comment {}"])
def test_a_header_of_too_many_lines_is_refused(tmp_path, lines):
    """ITK's time grows with their square: a million took hours."""
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path))
    head, _, voxels = path.read_bytes().partition(b"\n\n")
    more = "\n".join(lines.format(n) for n in range(20000)).encode()
    path.write_bytes(head + b"\n" + more + b"\n\n" + voxels)
    with pytest.raises(VolumeError, match=r"its header has 200\d\d lines, expected at most 16384\."):
        read_volume(path)


@pytest.mark.parametrize(
    ("kind", "slope", "kept"),
    [("<i2", 0.5, 4), ("<i2", 1.0, 2), (">i2", 1.0, 2), (">f4", 1.0, 4), ("<f4", 2.0, 8)],
)
def test_reading_nifti_takes_no_memory_beside_the_voxels(tmp_path, kind, slope, kept):
    """10 GB of voxels have to fit into 24 GB, scaled or from another byte order."""
    shape = (64, 256, 256)
    path = tmp_path / "a.nii"
    write_labels(np.zeros(shape, np.uint8), Geometry(shape), path)
    header = bytearray(path.read_bytes()[:352])
    code, bits = {"i2": (4, 16), "f4": (16, 32)}[kind[1:]]
    header[70:74], header[112:116] = struct.pack("<2h", code, bits), struct.pack("<f", slope)
    if kind[0] == ">":
        header = swapped(header)
    voxels = np.arange(np.prod(shape)).reshape(shape) % 30000
    path.write_bytes(bytes(header) + voxels.astype(kind).tobytes())
    tracemalloc.start()
    try:
        volume = read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert volume.array.dtype.itemsize == kept
    np.testing.assert_array_equal(volume.array, voxels * slope)
    assert peak < volume.array.nbytes + 3e6


def swapped(header):
    """A header of 352 bytes in the other byte order."""
    from napari_medsam.formats.nifti_header import _header_dtype

    record = np.frombuffer(bytes(header[:348]), _header_dtype(348, "<"))[0]
    turned = np.zeros(1, _header_dtype(348, ">"))[0]
    for name in record.dtype.names:
        turned[name] = record[name]
    return bytearray(turned.tobytes() + bytes(header[348:]))
