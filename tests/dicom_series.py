"""A small CT series with all that a DICOM segmentation has to say of its images, and a structure set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_medsam.volume import Geometry


def write_series(
    folder: Path,
    geometry: Geometry,
    voxels: NDArray[np.int16] | None = None,
    *,
    uid: str | None = None,
    digits: int = 8,
) -> str:
    """Write one file for each slice, named in another order than they lie, and return the series' UID.

    The geometry has to be right-handed, as DICOM series are; positions are rounded to so many digits. Without
    voxels (z, y, x), those of each slice have its number.
    """
    folder.mkdir(exist_ok=True)
    series, study, frame = uid or generate_uid(), generate_uid(), generate_uid()
    direction = np.reshape(geometry.direction, (3, 3))
    depth, rows, columns = geometry.shape
    for z in range(depth):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientName, image.PatientID = "Test^Patient", "1"
        image.PatientBirthDate, image.PatientSex = "19700101", "O"
        image.StudyDate, image.StudyTime, image.StudyID = "20200101", "120000", "1"
        image.AccessionNumber = image.ReferringPhysicianName = ""
        image.Modality, image.SeriesNumber, image.InstanceNumber = "CT", 1, z + 1
        image.Manufacturer = "Test"
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.Rows, image.Columns, image.SamplesPerPixel = rows, columns, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "HU"
        image.PixelSpacing = [geometry.spacing[1], geometry.spacing[2]]
        image.SliceThickness = geometry.spacing[0]
        image.PositionReferenceIndicator = ""
        image.ImageOrientationPatient = [f"{part:.10f}" for part in direction[:, :2].T.ravel()]
        image.ImagePositionPatient = [f"{part:.{digits}f}" for part in (geometry.affine @ (0, 0, z, 1))[:3]]
        slice_ = np.full((rows, columns), z, np.int16) if voxels is None else voxels[z]
        image.PixelData = slice_.astype(np.int16).tobytes()
        save(image, folder / f"{(7 * z) % 101:03}.dcm")
    return series


def structure_set(path: Path, geometry: Geometry, series: str, rois: dict[str, list[list[tuple]]]) -> Path:
    """Write contours given as voxel positions (z, y, x)."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    header.Modality = "RTSTRUCT"
    one, study, frame = Dataset(), Dataset(), Dataset()
    one.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [one]
    frame.RTReferencedStudySequence = [study]
    header.ReferencedFrameOfReferenceSequence = [frame]
    header.StructureSetROISequence, header.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, [10 * number, 20, 30]
        drawn.ContourSequence = []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            index = np.array([(x, y, z, 1) for z, y, x in points])
            places = (index @ geometry.affine.T)[:, :3]
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{part:.6f}" for part in places.ravel()]
            drawn.ContourSequence.append(contour)
        header.StructureSetROISequence.append(roi)
        header.ROIContourSequence.append(drawn)
    return save(header, path)


def save(image: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a dataset as a file of its own."""
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = syntax
    image.save_as(path, enforce_file_format=True)
    return path


def rectangle(z: float, y0: float, x0: float, y1: float, x1: float) -> list[tuple]:
    return [(z, y0, x0), (z, y0, x1), (z, y1, x1), (z, y1, x0)]
