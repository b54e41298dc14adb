"""DICOM folders become one volume, sorted and placed by what the files say, or one sentence says why not."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import save
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from napari_medsam.volume import VolumeError, list_series, read_volume

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
TILT = Rotation.from_rotvec([0.4, -0.3, 0.2]).as_matrix()
OBLIQUE = [*TILT[:, 0], *TILT[:, 1]]
SHAPE = (5, 12, 10)


def stack(dtype="int16") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1000, SHAPE).astype(dtype)


def dataset(pixels: np.ndarray, **attributes) -> Dataset:
    """A CT slice, or frames, with further attributes by keyword; None leaves one out."""
    colour = pixels.shape[-1] == 3
    frames, rows, columns = (1, *pixels.shape)[-3 - colour :][:3]
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid()
    image.SeriesInstanceUID = "1.2.3"
    image.SeriesDescription = "Abdomen"
    image.Modality = "CT"
    image.Rows, image.Columns = rows, columns
    if frames > 1:
        image.NumberOfFrames = frames
    image.SamplesPerPixel = 3 if colour else 1
    image.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        image.PlanarConfiguration = 0
    image.BitsAllocated = image.BitsStored = 8 * pixels.dtype.itemsize
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(pixels.dtype.kind == "i")
    image.PixelSpacing = [0.7, 0.8]
    image.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        if value is not None:
            setattr(image, name, value)
        elif name in image:
            delattr(image, name)
    return image


def save_series(
    folder: Path, heights=None, orientation=OBLIQUE, names=None, first=0, **attributes
) -> np.ndarray:
    """Write slices at heights in mm along the normal, named in another order; return their voxels."""
    folder.mkdir(exist_ok=True)
    heights = [2.5 * z for z in range(SHAPE[0])] if heights is None else heights
    normal = np.cross(orientation[:3], orientation[3:])
    pixels = np.random.default_rng(first).integers(0, 1000, (len(heights), *SHAPE[1:])).astype(np.int16)
    for number, (height, page) in enumerate(zip(heights, pixels, strict=True), first):
        position = np.array([-100.5, 20.25, 300.0]) + height * normal
        image = dataset(
            page,
            ImageOrientationPatient=[f"{c:.10f}" for c in orientation],
            ImagePositionPatient=[f"{c:.8f}" for c in position],
            InstanceNumber=number,
            **attributes,
        )
        save(image, folder / (names[number] if names else f"{(number * 7 + 3) % 10}-{number}.dcm"))
    return pixels


def refusal(path: Path, said: str, **choices) -> str:
    with pytest.raises(VolumeError, match=said) as caught:
        read_volume(path, **choices)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# --- one series --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "orientation", [AXIAL, OBLIQUE, (0, 1, 0, 0, 0, -1)], ids=["axial", "oblique", "sagittal"]
)
def test_a_series_is_sorted_by_place_and_lies_where_itk_puts_it(tmp_path, orientation):
    pixels = save_series(tmp_path / "ct", orientation=orientation)
    volume = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.array, pixels)
    assert (volume.modality, volume.notes) == ("CT", ())
    assert volume.geometry.spacing == pytest.approx((2.5, 0.7, 0.8))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "ct"))
    image = sitk.ReadImage(names)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
    np.testing.assert_allclose(image.GetOrigin(), volume.geometry.origin, atol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), volume.geometry.direction, atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing(), volume.geometry.spacing[::-1], atol=1e-6)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_every_lossless_encoding_gives_the_same_voxels(tmp_path, syntax):
    pixels = np.random.default_rng(0).integers(-500, 500, SHAPE[1:]).astype(np.int16)
    image = dataset(pixels, ImageOrientationPatient=AXIAL, ImagePositionPatient=[1, 2, 3], SliceThickness=4)
    image.OtherPatientIDsSequence = Sequence([Dataset(), Dataset()])
    image.OtherPatientIDsSequence[0].PatientID = "nested"
    if syntax == RLELossless:
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.compress(RLELossless, encoding_plugin="pydicom")
    if syntax == ExplicitVRBigEndian:
        image.PixelData = pixels.astype(">i2").tobytes()
        image["PixelData"].VR = "OW"
    volume = read_volume(save(image, tmp_path / "slice.dcm", syntax))
    np.testing.assert_array_equal(volume.array, pixels[None])
    assert volume.geometry.spacing == (4.0, 0.7, 0.8)
    assert volume.geometry.origin == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("segments", [0, 16, 2**32 - 1])
def test_an_rle_frame_of_impossible_segments_is_refused(tmp_path, segments):
    """Found by benchmarks/fuzz.py: GDCM divides by their number, which ends the process."""
    image = dataset(np.ones(SHAPE[1:], np.int16), ImageOrientationPatient=AXIAL, SliceThickness=4)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.compress(RLELossless, encoding_plugin="pydicom")
    path = save(image, tmp_path / "slice.dcm", RLELossless)
    content = path.read_bytes()
    frame = content.index(b"\xfe\xff\x00\xe0", content.index(b"\xe0\x7f\x10\x00") + 16) + 8
    path.write_bytes(content[:frame] + segments.to_bytes(4, "little") + content[frame + 4 :])
    with pytest.raises(
        VolumeError, match=rf"frame at byte {frame} has {segments} segments, expected 1 to 15"
    ):
        read_volume(path)


def test_hounsfield_units_come_out_as_integers(tmp_path):
    pixels = save_series(tmp_path / "ct", RescaleSlope=1, RescaleIntercept=-1024, BitsStored=12, HighBit=11)
    volume = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.array, pixels - 1024)
    assert volume.array.dtype == np.int16


def test_slices_with_scales_of_their_own_keep_their_values(tmp_path):
    """As in PET: a reader that takes the type of the first slice for all cuts the others off."""
    first = save_series(tmp_path / "pt", heights=[0, 1], Modality="PT")
    second = save_series(
        tmp_path / "pt", heights=[2, 3], first=2, Modality="PT", RescaleSlope="0.25", RescaleIntercept="3"
    )
    volume = read_volume(tmp_path / "pt")
    np.testing.assert_allclose(volume.array, np.concatenate([first, second * 0.25 + 3]))
    assert volume.modality == "PT"


def test_slices_without_names_or_preamble_are_found(tmp_path):
    """Discs from a PACS hold IM1, IM2, ...; some old files start without the DICM mark."""
    pixels = save_series(tmp_path / "disc", names=[f"IM{z}" for z in range(5)])
    old = tmp_path / "disc" / "IM0"
    image = pydicom.dcmread(old)
    del image.file_meta
    image.preamble = None
    image.save_as(old, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert old.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_volume(tmp_path / "disc").array, pixels)
    np.testing.assert_array_equal(read_volume(tmp_path / "disc" / "IM3").array, pixels[3:4])


def test_what_is_no_image_is_passed_over(tmp_path):
    pixels = save_series(tmp_path / "ct")
    (tmp_path / "ct" / "README.txt").write_text("not DICOM")
    (tmp_path / "ct" / "more").mkdir()
    report = dataset(pixels[0], Modality="SR", Rows=None, Columns=None, PixelData=None)
    save(report, tmp_path / "ct" / "report.dcm")
    save(dataset(pixels[0], Modality="SEG", SeriesInstanceUID="9"), tmp_path / "ct" / "mask.dcm")
    np.testing.assert_array_equal(read_volume(tmp_path / "ct").array, pixels)
    refusal(tmp_path / "ct" / "report.dcm", "no image")


# --- which series ------------------------------------------------------------------------------------------


def test_of_several_series_one_must_be_chosen(tmp_path):
    venous = save_series(tmp_path / "ct", SeriesInstanceUID="1.2.4", SeriesDescription="venous")
    save_series(
        tmp_path / "ct", first=5, heights=[0, 1], SeriesInstanceUID="1.2.5", SeriesDescription="scout"
    )
    text = refusal(tmp_path / "ct", "2 DICOM series")
    assert "'1.2.4' (CT, 5 slices, 'venous')" in text
    assert "'1.2.5' (CT, 2 slices, 'scout')" in text
    for choice in ("1.2.4", "venous"):
        np.testing.assert_array_equal(read_volume(tmp_path / "ct", series=choice).array, venous)
    refusal(tmp_path / "ct", "called 'arterial'", series="arterial")
    found = {series.uid: series for series in list_series(tmp_path / "ct")}
    assert (found["1.2.5"].slices, found["1.2.5"].modality, len(found["1.2.5"].files)) == (2, "CT", 2)
    assert found["1.2.4"].description == "venous"


def test_a_wrong_name_is_refused_even_where_there_is_one_series(tmp_path):
    save_series(tmp_path / "ct")
    refusal(tmp_path / "ct", "1 DICOM series, expected exactly one", series="venous")


def test_a_folder_without_images_is_told(tmp_path):
    refusal(tmp_path, "no DICOM image")
    assert list_series(tmp_path) == []
    with pytest.raises(VolumeError, match="not a folder"):
        list_series(tmp_path / "nowhere")


def test_a_description_in_any_script_is_readable(tmp_path):
    for charset, uid in (("ISO_IR 192", "1"), ("ISO_IR 100", "2")):
        save_series(
            tmp_path / uid, SpecificCharacterSet=charset, SeriesDescription="Schädel", SeriesInstanceUID=uid
        )
        assert [series.description for series in list_series(tmp_path / uid)] == ["Schädel"]


# --- stacks that are none ----------------------------------------------------------------------------------


def test_missing_slices_are_counted(tmp_path):
    save_series(tmp_path / "ct", heights=[0, 2, 4, 10, 12, 16])
    refusal(tmp_path / "ct", "3 slices are missing: .* 6 mm where the usual one is 2 mm")


def test_uneven_slices_are_told(tmp_path):
    save_series(tmp_path / "ct", heights=[0, 2, 4, 7, 9])
    refusal(tmp_path / "ct", "2 to 3 mm apart")


def test_rounded_positions_are_even_enough(tmp_path):
    save_series(tmp_path / "ct", heights=[0.0, 0.62, 1.25, 1.88, 2.5])
    assert read_volume(tmp_path / "ct").geometry.spacing[0] == pytest.approx(0.625)


def test_a_localiser_in_the_series_is_told(tmp_path):
    save_series(tmp_path / "ct")
    save_series(tmp_path / "ct", heights=[0], orientation=AXIAL, first=5)
    refusal(tmp_path / "ct", "2 orientations \\(5 of")


def test_slices_of_two_sizes_or_spacings_are_told(tmp_path):
    save_series(tmp_path / "size")
    image = pydicom.dcmread(next((tmp_path / "size").iterdir()))
    image.Rows, image.PixelData = 3, image.PixelData[: 3 * 10 * 2]
    image.save_as(tmp_path / "size" / "other.dcm")
    refusal(tmp_path / "size", "2 sizes \\(5 of \\(12, 10\\), 1 of \\(3, 10\\)\\)")
    save_series(tmp_path / "spacing")
    save_series(tmp_path / "spacing", heights=[99], first=5, PixelSpacing=[0.5, 0.5])
    refusal(tmp_path / "spacing", "pixel spacings")


def test_the_same_slice_twice_is_told(tmp_path):
    save_series(tmp_path / "ct")
    shutil.copy(tmp_path / "ct" / "3-0.dcm", tmp_path / "ct" / "3-0 copy.dcm")
    refusal(tmp_path / "ct", "1 of the 5 slice positions hold more than one image")
    shutil.rmtree(tmp_path / "ct")
    save_series(tmp_path / "ct", heights=[0])
    shutil.copy(tmp_path / "ct" / "3-0.dcm", tmp_path / "ct" / "3-0 copy.dcm")
    refusal(
        tmp_path / "ct", "'3-0 copy.dcm' and '3-0.dcm' show the same slice|'3-0.dcm' and '3-0 copy.dcm' show"
    )


def test_gantry_tilt_is_told_not_ignored(tmp_path):
    """Read as straight, the stack would be a sheared patient."""
    for number in range(4):
        image = dataset(
            stack()[0],
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, number * 2.5 * np.tan(np.radians(15)), number * 2.5],
            InstanceNumber=number,
        )
        save(image, tmp_path / f"{number}.dcm")
    refusal(tmp_path, "sheared by 15.0 degrees \\(gantry tilt\\)")


def test_shifted_slices_are_told(tmp_path):
    for number, shift in enumerate((0, 3, 0, 3, 0)):
        image = dataset(
            stack()[0],
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[shift, 0, number],
            InstanceNumber=number,
        )
        save(image, tmp_path / f"{number}.dcm")
    refusal(tmp_path, "shifted by up to 3 mm")


def test_slices_that_lie_nowhere_are_told(tmp_path):
    for number in range(3):
        save(dataset(stack()[0], InstanceNumber=number), tmp_path / f"{number}.dcm")
    refusal(tmp_path, "3 of the 3 slices do not say where they lie")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "perpendicular"),
        ("ImageOrientationPatient", [0] * 6, "perpendicular"),
        ("ImageOrientationPatient", [1, 0, 0], "expected 6 numbers"),
        ("ImagePositionPatient", [1, 2], "expected 3 numbers"),
        ("PixelSpacing", [0, 0], "positive"),
        ("ImageOrientationPatient", ["1e300"] * 6, "perpendicular"),
        ("NumberOfFrames", 0, "at least 1"),
        ("NumberOfFrames", 2**31 - 1, "asks for"),
        ("Rows", 0, "0 rows and 10 columns"),
    ],
)
def test_attributes_that_make_no_sense_are_told(tmp_path, name, value, said):
    attributes = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [0, 0, 0], name: value}
    refusal(save(dataset(stack()[0], **attributes), tmp_path / "a.dcm"), said)


def test_a_file_with_zeros_appended_is_read(tmp_path):
    path = save(
        dataset(stack()[0], ImageOrientationPatient=AXIAL, ImagePositionPatient=[0, 0, 0]), tmp_path / "a.dcm"
    )
    path.write_bytes(path.read_bytes() + bytes(2))
    np.testing.assert_array_equal(read_volume(path).array, stack()[:1])


def test_a_damaged_slice_is_named(tmp_path):
    """Left out in silence, it would be a gap in the patient."""
    save_series(tmp_path / "ct")
    path = tmp_path / "ct" / "3-0.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    refusal(tmp_path / "ct", "its file '3-0.dcm'")
    with pytest.raises(VolumeError, match=r"its file '3-0.dcm'"):
        list_series(tmp_path / "ct")


# --- several images at one place ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clock", ["TriggerTime", "TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber"]
)
def test_a_cine_series_is_read_one_time_point_at_a_time(tmp_path, clock):
    phases = []
    for phase in (2, 0, 1):
        attributes = {clock: 100 * (phase + 1)} if clock != "InstanceNumber" else {}
        folder = tmp_path / "part"
        pixels = save_series(folder, first=5 * phase, heights=[0, 3, 6, 9, 12], **attributes)
        for path in folder.iterdir():
            path.rename(folder.parent / f"{phase}-{path.name}")
        folder.rmdir()
        phases.append((phase, pixels))
    refusal(tmp_path, "3 volumes .* 0 to 2")
    for phase, pixels in phases:
        volume = read_volume(tmp_path, time_point=phase)
        np.testing.assert_array_equal(volume.array, pixels)
        assert f"Time point {phase} " in volume.notes[0]


# --- single files ------------------------------------------------------------------------------------------


def test_a_projection_without_place_is_one_slice(tmp_path):
    image = dataset(stack("uint16")[0], Modality="DX", PixelSpacing=None, ImagerPixelSpacing=[0.14, 0.15])
    volume = read_volume(save(image, tmp_path / "chest.dcm"))
    assert volume.array.shape == (1, 12, 10)
    assert (volume.modality, volume.geometry.spacing) == ("XR", (1.0, 0.14, 0.15))
    assert len(volume.notes) == 2


def test_ultrasound_in_colour_is_rgb_and_its_frames_are_slices(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (4, 12, 10, 3)).astype(np.uint8)
    volume = read_volume(save(dataset(colours, Modality="US", PixelSpacing=None), tmp_path / "us.dcm"))
    np.testing.assert_array_equal(volume.array, colours)
    assert volume.modality == "RGB"
    assert any("1 mm was assumed" in note for note in volume.notes)
    gray = save(dataset(colours[..., 0].copy(), Modality="US"), tmp_path / "gray.dcm")
    assert read_volume(gray).modality == "US"


def enhanced(pixels: np.ndarray, heights, indices=None, slopes=None) -> Dataset:
    """A multi-frame CT whose frames say where they lie, in functional groups."""
    image = dataset(pixels, PixelSpacing=None)
    shared = Dataset()
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing = [0.7, 0.8]
    plane.ImageOrientationPatient = AXIAL
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number, height in enumerate(heights):
        frame, place, content, values = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, height]
        content.TemporalPositionIndex = indices[number] if indices else 1
        values.RescaleSlope, values.RescaleIntercept = slopes[number] if slopes else 1, -1024
        frame.PlanePositionSequence, frame.FrameContentSequence = Sequence([place]), Sequence([content])
        frame.PixelValueTransformationSequence = Sequence([values])
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = Sequence(frames)
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    return image


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_frames_of_a_multi_frame_file_are_sorted_by_place(tmp_path, syntax):
    image = enhanced(stack(), [6, 0, 3, 12, 9])
    volume = read_volume(save(image, tmp_path / "enhanced.dcm", syntax))
    np.testing.assert_array_equal(volume.array, stack()[[1, 2, 0, 4, 3]] - 1024)
    assert volume.geometry.spacing == (3.0, 0.7, 0.8)


def test_frames_of_several_times_are_chosen_among(tmp_path):
    pixels = np.concatenate([stack(), stack()[:1]])
    path = save(enhanced(pixels, [0, 3, 6, 0, 3, 6], indices=[2, 2, 2, 1, 1, 1]), tmp_path / "enhanced.dcm")
    refusal(path, "2 volumes")
    np.testing.assert_array_equal(read_volume(path, time_point=0).array, pixels[3:] - 1024)


def test_frames_with_scales_of_their_own_are_refused(tmp_path):
    """GDCM applies the first frame's scale to all: values would be wrong in silence."""
    path = save(enhanced(stack(), [0, 1, 2, 3, 4], slopes=[1, 2, 3, 4, 5]), tmp_path / "enhanced.dcm")
    refusal(path, "different scales")


@pytest.mark.parametrize(
    ("attributes", "syntax", "said"),
    [
        ({"Rows": 60}, ExplicitVRLittleEndian, "asks for"),
        ({"Rows": 65000, "Columns": 65000, "NumberOfFrames": 1000}, ExplicitVRLittleEndian, "asks for"),
        ({"Rows": 65000, "Columns": 65000, "NumberOfFrames": 1000}, RLELossless, "asks for"),
        ({}, DeflatedExplicitVRLittleEndian, "transfer syntax"),
    ],
)
def test_a_header_that_asks_for_more_than_the_file_holds_is_refused_at_once(
    tmp_path, attributes, syntax, said
):
    image = dataset(stack()[0], ImageOrientationPatient=AXIAL, ImagePositionPatient=[0, 0, 0])
    if syntax == RLELossless:
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.compress(RLELossless, encoding_plugin="pydicom")
    for name, value in attributes.items():
        setattr(image, name, value)
    refusal(save(image, tmp_path / "a.dcm", syntax), said)


# --- real cases --------------------------------------------------------------------------------------------


def test_real_series_in_jpeg_2000_lie_on_their_nifti(real_data):
    folders = sorted(real_data.glob("*/dicom"))
    assert folders
    for folder in folders:
        volume, nifti = read_volume(folder), read_volume(folder.with_name("image.nii.gz"))
        np.testing.assert_array_equal(volume.array, nifti.array)
        assert volume.geometry.difference(nifti.geometry) == ""
        assert volume.modality == folder.parent.name[:2].upper()
