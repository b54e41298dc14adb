"""Headers that name other files: if these fail, a stranger's header reads other files, or crashes napari."""

import numpy as np
import pytest

from napari_medsam.formats.data_files import held_bytes
from napari_medsam.volume import VolumeError, read_volume

META = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"
VOXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
HEADERS = {".mhd": META + "ElementDataFile = ", ".nhdr": NRRD + "data file: "}


@pytest.fixture
def folder(tmp_path):
    """A folder with voxels, beside another one that a header has no business in."""
    (tmp_path / "secret.raw").write_bytes(VOXELS)
    inside = tmp_path / "patient"
    (inside / "raw").mkdir(parents=True)
    for place in (inside, inside / "raw"):
        (place / "schädel.raw").write_bytes(VOXELS)
        for n, plane in enumerate(VOXELS, start=1):
            (place / f"s{n:02}.raw").write_bytes(plane)
    return inside


@pytest.mark.parametrize("ending", HEADERS)
@pytest.mark.parametrize(
    "named",
    [
        "schädel.raw",
        "raw/schädel.raw",
        "s%02d.raw 1 2 1",
        "raw/s%02d.raw 1 2 1",
        "LIST\ns01.raw\nraw/s02.raw",
    ],
)
def test_voxels_beside_the_header_are_read(folder, ending, named):
    path = folder / f"scan{ending}"
    path.write_text(HEADERS[ending] + named + "\n", encoding="utf-8")
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)


@pytest.mark.parametrize("ending", [".mhd", ".mha", ".nhdr", ".nrrd"])
@pytest.mark.parametrize(
    "named",
    [
        "../secret.raw",
        "raw/../../secret.raw",
        "..\\secret.raw",
        "C:secret.raw",
        "\\\\server\\share\\secret.raw",
        "{outside}/secret.raw",
        "LIST\n{outside}/secret.raw",
        "LIST3\n{outside}/secret.raw",
        "LIST\ns01.raw\n../secret.raw",
        "../secre%01d.raw 1 2 1",
    ],
)
def test_no_file_outside_the_header_s_folder_is_read(folder, ending, named):
    path = folder / f"scan{ending}"
    header = HEADERS[".mhd" if ending.startswith(".m") else ".nhdr"]
    path.write_text(header + named.format(outside=folder.parent) + "\n\n")
    with pytest.raises(VolumeError, match=r"header names the data file .*, expected .* same folder"):
        read_volume(path)


@pytest.mark.parametrize(
    "header",
    [
        META + "Comment = x\n" * 10000 + "ElementDataFile = ../secret.raw\n",
        META + "ElementDataFile : ../secret.raw\n",
        META + "ElementDataFile\0 = ../secret.raw\n",
        META + "elementdatafile = LOCAL\nElementDataFile = ../secret.raw\n",
        NRRD + "# " + "x" * 200000 + "\n" + "data file: ../secret.raw\n",
        NRRD + "\x0b\nDATAFILE: ../secret.raw\n",
        NRRD + "# \x85\rdata file: ../secret.raw\n",
    ],
)
def test_no_way_to_write_the_field_passes_the_check(folder, header):
    path = folder / ("scan.mhd" if header.startswith(META) else "scan.nhdr")
    path.write_text(header, encoding="latin-1", newline="")
    with pytest.raises(VolumeError, match="expected a name of a file in the same folder"):
        read_volume(path)


@pytest.mark.parametrize("ending", HEADERS)
@pytest.mark.parametrize(
    "named", ["%s%s%s%s.raw 1 4 1", "%n.raw 1 2 1", "%1$c%1$c/secret.raw 46 46 1", "a%d%d.raw 1 2 1"]
)
def test_a_pattern_that_reads_memory_is_refused(folder, ending, named):
    """ITK hands it to printf: the first one ended the process."""
    path = folder / f"scan{ending}"
    path.write_text(HEADERS[ending] + named + "\n")
    with pytest.raises(VolumeError, match=r"expected a name with one number such as 'slice%03d\.raw 1 20 1'"):
        read_volume(path)


@pytest.mark.parametrize("named", ["s%02d.raw 1 999999999 1", "s%02d.raw 1 2 0", "s%02d.raw 1 3 1"])
def test_slices_that_are_not_there_are_refused(folder, named):
    path = folder / "scan.mhd"
    path.write_text(HEADERS[".mhd"] + named + "\n")
    with pytest.raises(VolumeError, match=r"expected (a name with one number|it in the same folder)"):
        read_volume(path)


def test_listed_slices_are_asked_for_no_more_than_they_hold(folder):
    """A list of small files could ask for any amount of memory."""
    path = folder / "scan.mhd"
    text = META.replace("4 3 2", "40000 40000 2") + "ElementDataFile = LIST\ns01.raw\ns02.raw\n"
    path.write_text(text)
    assert held_bytes(path, nrrd=False) == VOXELS.size
    with pytest.raises(VolumeError, match="the header asks for 3200 MB of data but the file holds at most"):
        read_volume(path)


def test_a_header_without_end_is_refused(folder):
    path = folder / "scan.nhdr"
    path.write_bytes(NRRD.encode() + b"# x\n" * (5 * 2**20))
    with pytest.raises(VolumeError, match="does not end within 16 MB"):
        read_volume(path)


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "line",
    ["{}", "{}: x", "{}: x:=y", "type: {}", "space: {}", "kinds: {} a b", 'labels: "{}', "content: {}"],
)
def test_a_field_that_overflows_itk_s_buffer_is_refused(folder, line, separator):
    """Found by benchmarks/fuzz.py: an error that quotes it ended the process."""
    path = folder / "scan.nhdr"
    path.write_bytes(
        (NRRD + "# x" + separator + line.format("f" * 1200) + "\ndata file: schädel.raw\n").encode()
    )
    with pytest.raises(
        VolumeError, match=r"its header has a field of 12\d\d bytes, expected at most 400: '.*'\.$"
    ):
        read_volume(path)


@pytest.mark.parametrize("axes", ["-1", "2147483648", "99999999999999999999", "nan", ""])
def test_numbers_of_axes_that_end_the_process_or_never_end_are_refused(folder, axes):
    """Found by benchmarks/fuzz.py."""
    path = folder / "scan.mhd"
    path.write_text(META.replace("NDims = 3", f"NDims = {axes}") + "ElementDataFile = s01.raw\n")
    with pytest.raises(VolumeError, match=r"its header's NDims is '.*', expected 2 to 4\.$"):
        read_volume(path)


def test_more_axes_than_itk_has_room_for_are_refused(folder):
    path = folder / "scan.mhd"
    axes = META.replace("NDims = 3", "NDims = 50").replace("4 3 2", " ".join(["1"] * 50))
    path.write_text(axes + f"TransformMatrix = {'0 ' * 2500}\nElementDataFile = s01.raw\n")
    with pytest.raises(VolumeError, match=r"its header's NDims is '50', expected 2 to 4\.$"):
        read_volume(path)


@pytest.mark.parametrize("field", ["Name", "Comment", "ObjectSubType", "AnatomicalOrientation", "Modality"])
@pytest.mark.parametrize("size", [260, 399, 5000])
def test_a_text_that_overflows_its_place_is_refused(folder, field, size):
    path = folder / "scan.mhd"
    path.write_text(META + f"{field} = {'v' * size}\n" + "ElementDataFile = LIST\ns01.raw\ns02.raw\n")
    with pytest.raises(VolumeError, match=rf"its header's \w+ has {size + 1} bytes, expected at most 250\.$"):
        read_volume(path)


def test_numbers_of_four_axes_may_take_a_long_line(folder):
    path = folder / "scan.mhd"
    axes = META.replace("NDims = 3", "NDims = 4").replace("4 3 2", "4 3 2 1")
    matrix = " ".join(f"{float(n):.22f}" for n in np.eye(4).ravel())
    path.write_text(axes + f"TransformMatrix = {matrix}\nElementDataFile = schädel.raw\n", encoding="utf-8")
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)


@pytest.mark.parametrize("line", ["# {}", "key:={}", "key:=content: {}", "{}:=value"])
def test_comments_and_values_of_any_length_are_passed_over(folder, line):
    path = folder / "scan.nhdr"
    path.write_text(NRRD + line.format("f" * 5000) + "\ndata file: schädel.raw\n", encoding="utf-8")
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)
