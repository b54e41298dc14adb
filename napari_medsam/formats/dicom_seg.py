"""DICOM segmentations (SEG), through highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_medsam.formats.dicom_objects import WithinFile, dicom_library, header_of, understood
from napari_medsam.geometry import TOLERANCE_MM, Geometry, VolumeError
from napari_medsam.segments import LONGEST_NAME, Color, Segment, Segmentation, default_color
from napari_medsam.terminology import OTHER, Code, Term

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["IncompleteSeriesWarning", "read_dicom_seg", "write_dicom_seg"]

_MOST_VOXELS = 2**31
_SOFTWARE = "napari-medsam"
_UNEVEN = 0.05
"""Part of a slice distance by which rounded positions may differ, as in series."""

_UTF8 = "ISO_IR 192"
_MAY_BE_EMPTY = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "StudyDate",
    "StudyID",
    "StudyTime",
)
"""What DICOM wants to be there, be it without a value (type 2)."""

_HALF = 0.5
"""A fractional segment is where its probability or its share of the voxel is at least this."""


class IncompleteSeriesWarning(UserWarning):
    """A DICOM series lacks what a segmentation of it has to say."""


def write_dicom_seg(segmentation: Segmentation, path: Path, images: Sequence[Path], version: str) -> None:
    """Write a segmentation of a DICOM series as a DICOM Segmentation object.

    Parameters
    ----------
    segmentation
        Overlapping layers are kept. Segments without a voxel are left out: DICOM knows none.
    path
        A file that does not exist yet.
    images
        The files of the series on the segmentation's grid: one for each slice, or one multi-frame file. UIDs
        that anonymising took out are made up, with a warning.
    version
        Of this program, for the record.

    Raises
    ------
    VolumeError
        When the series is another one, lacks what DICOM wants to know, or nothing was segmented.
    """
    highdicom = dicom_library("highdicom")
    with understood():
        headers = _sorted_headers(images, segmentation.geometry)
        invented = _completed(headers)
    for keyword in invented:
        warnings.warn(
            f"The series has no common {keyword}: one was made up, by which no archive can find the images.",
            IncompleteSeriesWarning,
            stacklevel=2,
        )
    segments = [segment for segment in segmentation.segments if segmentation.mask(segment).any()]
    if not segments:
        raise VolumeError("nothing is segmented, expected at least one segment with a voxel.")
    with understood():
        seg = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=_pixels(segmentation, segments),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(n, each, version) for n, each in enumerate(segments, start=1)],
            series_instance_uid=highdicom.UID(),
            series_number=int(headers[0].get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=_SOFTWARE,
            manufacturer_model_name=_SOFTWARE,
            software_versions=version,
            device_serial_number="none",
            content_description="Segmentation made interactively",
            content_label="SEGMENTATION",
            # That of the images need not have the letters of the names.
            specific_character_set=_UTF8,
        )
        for item, segment in zip(seg.SegmentSequence, segments, strict=True):
            modifier = (segment.term or OTHER).modifier
            if modifier is not None:
                item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
                    _coded(modifier)
                ]
        seg.SeriesDescription = "Segmentation"
        seg.save_as(path)


def read_dicom_seg(path: Path) -> Segmentation:
    """Read a DICOM Segmentation object, on the grid of the frames it holds.

    Parameters
    ----------
    path
        Segments may overlap. A fractional segment is taken where its value is at least one half.

    Returns
    -------
    Segmentation
        On the smallest grid that holds all its frames: slices without a segment are often left out.

    Raises
    ------
    VolumeError, GeometryError, SegmentationError
        When it is no such object, is damaged, or its frames are not one stack.
    """
    highdicom = dicom_library("highdicom")
    if header_of(path).get("Modality") != "SEG":
        raise VolumeError("it is no DICOM segmentation, expected one of modality SEG.")
    with understood():
        with WithinFile(path) as stream:
            seg = highdicom.seg.segread(stream)
        grid = seg.get_volume_geometry(rtol=_UNEVEN)
        if grid is None:
            raise VolumeError("its frames are not one stack of evenly spaced slices, expected a volume.")
        if prod(grid.spatial_shape) > _MOST_VOXELS:
            raise VolumeError(
                f"its frames span {grid.spatial_shape} voxels, more than {_MOST_VOXELS}; it is damaged."
            )
        geometry, upside_down = _geometry(grid)
        numbers = [int(number) for number in seg.segment_numbers]
        items = [_segment(item, number) for item, number in zip(seg.SegmentSequence, numbers, strict=True)]
        return Segmentation.from_masks(
            _masks(seg, numbers, upside_down),
            geometry,
            lambda n, label, layer: Segment(label, items[n].name, items[n].color, items[n].term, layer),
            source=str(path),
        )


def _completed(headers: Sequence[Dataset]) -> list[str]:
    """Mend what anonymisers took out or made differ between slices; say which UIDs were made up."""
    pydicom = dicom_library("pydicom")
    kinds = {
        "StudyDate": pydicom.valuerep.DA,
        "StudyTime": pydicom.valuerep.TM,
        "PatientBirthDate": pydicom.valuerep.DA,
    }
    for header in headers:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
        for keyword in ("SOPClassUID", "SOPInstanceUID"):
            if not header.get(keyword):
                # The file itself says them a second time.
                setattr(header, keyword, header.file_meta.get(f"MediaStorage{keyword}") or "")
            if not header.get(keyword):
                raise VolumeError(f"a slice of the series has no {keyword}, to which the labels could refer.")
        for keyword, kind in kinds.items():
            try:
                kind(str(header.get(keyword) or ""))
            except ValueError:
                # A day such as 00000000 says as much as none, which DICOM allows.
                setattr(header, keyword, "")
    seed = sorted(str(header.SOPInstanceUID) for header in headers)
    invented = []
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        found = {str(header.get(keyword) or "") for header in headers}
        if len(found) == 1 and "" not in found:
            continue
        # The same series gets the same ones each time, so that its segmentations stay together.
        uid = pydicom.uid.generate_uid(entropy_srcs=[keyword, *seed])
        for header in headers:
            setattr(header, keyword, uid)
        invented.append(keyword)
    return invented


def _sorted_headers(images: Sequence[Path], geometry: Geometry) -> list[Dataset]:
    """Headers of the slices in the order of the grid's first axis."""
    headers = [header_of(path) for path in images]
    if len(headers) == 1 and geometry.shape[0] > 1:
        if int(headers[0].get("NumberOfFrames") or 1) != geometry.shape[0]:
            raise VolumeError(f"the series has one file, expected {geometry.shape[0]} slices in it.")
        return headers
    if len(headers) != geometry.shape[0]:
        raise VolumeError(
            f"the series has {len(headers)} files, expected {geometry.shape[0]}, one for each slice; where "
            "it holds several images of each slice, separate them first."
        )
    to_index = np.linalg.inv(geometry.affine)
    placed: dict[int, Dataset] = {}
    for header in headers:
        position = header.get("ImagePositionPatient")
        if position is None or len(position) != 3:
            raise VolumeError("a slice does not say where it lies in the patient, expected a position.")
        index = to_index @ (*map(float, position), 1.0)
        off_mm = float(np.linalg.norm(geometry.affine[:3, :3] @ (index[:3] - [0, 0, np.rint(index[2])])))
        if off_mm > max(TOLERANCE_MM, _UNEVEN * geometry.spacing[0]):
            raise VolumeError(f"the labels lie {off_mm:.3g} mm off the series, expected them on its slices.")
        placed[round(index[2])] = header
    if sorted(placed) != list(range(geometry.shape[0])):
        raise VolumeError("the slices of the series are not those of the labels, expected the same stack.")
    return [placed[z] for z in sorted(placed)]


def _pixels(segmentation: Segmentation, segments: Sequence[Segment]) -> NDArray:
    """Labels from 1 on (z, y, x), or, where segments overlap, one mask for each behind each other."""
    if len(segmentation.layers) > 1:
        return np.stack([segmentation.mask(segment) for segment in segments], axis=-1).astype(np.uint8)
    pixels = np.zeros(segmentation.geometry.shape, np.min_scalar_type(len(segments)))
    for number, segment in enumerate(segments, start=1):
        pixels[segmentation.mask(segment)] = number
    return pixels


def _description(number: int, segment: Segment, version: str) -> Any:
    highdicom = dicom_library("highdicom")
    term = segment.term or OTHER
    # A backslash separates values in DICOM.
    name = segment.name.replace("\\", "/")[:64]
    family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_coded(term.category),
        segmented_property_type=_coded(term.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(_SOFTWARE, family, version),
        tracking_uid=highdicom.UID(),
        tracking_id=name,
        anatomic_regions=None if term.region is None else [_coded(term.region)],
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.color),
    )


def _coded(code: Code) -> Any:
    return dicom_library("highdicom").sr.CodedConcept(code.value, code.scheme, code.meaning)


def _geometry(grid: Any) -> tuple[Geometry, bool]:
    """Grid of highdicom's volume, slices along row x column as in series here, and whether that turned it."""
    slices, rows, columns = grid.spatial_shape
    affine = np.asarray(grid.affine, np.float64)[:, [2, 1, 0, 3]]
    upside_down = bool(np.linalg.det(affine[:3, :3]) < 0)
    if upside_down:
        affine[:3, 3] += affine[:3, 2] * (slices - 1)
        affine[:3, 2] *= -1
    return Geometry.from_affine((slices, rows, columns), affine), upside_down


def _masks(seg: Any, numbers: Sequence[int], upside_down: bool) -> Iterator[NDArray[np.bool_]]:
    for number in numbers:
        voxels = seg.get_volume(segment_numbers=[number], rtol=_UNEVEN).array[..., 0]
        mask = voxels >= _HALF
        yield mask[::-1] if upside_down else mask


def _segment(item: Dataset, number: int) -> Segment:
    """What one item of the segment sequence says."""
    kind = _code(item, "SegmentedPropertyTypeCodeSequence")
    category = _code(item, "SegmentedPropertyCategoryCodeSequence")
    term = None
    if kind is not None and category is not None:
        nested = item.SegmentedPropertyTypeCodeSequence[0]
        modifier = _code(nested, "SegmentedPropertyTypeModifierCodeSequence")
        said = Term(category, kind, modifier, _code(item, "AnatomicRegionSequence"))
        term = None if said == OTHER else said
    name = str(item.get("SegmentLabel") or "").strip() or (term.name if term else f"segment {number}")
    return Segment(number, name[:LONGEST_NAME], _color(item) or default_color(number), term)


def _code(item: Dataset, keyword: str) -> Code | None:
    codes = item.get(keyword) or []
    if not codes:
        return None
    code = codes[0]
    value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue")
    parts = (
        str(value or ""),
        str(code.get("CodingSchemeDesignator") or ""),
        str(code.get("CodeMeaning") or ""),
    )
    return Code(*parts) if all(parts) else None


def _color(item: Dataset) -> Color | None:
    value = item.get("RecommendedDisplayCIELabValue")
    if value is None or len(value) != 3:
        return None
    red, green, blue = dicom_library("highdicom").color.CIELabColor.from_dicom_value(value).to_rgb(clip=True)
    return int(red), int(green), int(blue)
