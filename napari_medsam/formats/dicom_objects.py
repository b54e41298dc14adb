"""What DICOM segmentations and structure sets share: pydicom and highdicom, and their errors."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from napari_medsam.formats.common import printable
from napari_medsam.geometry import GeometryError, VolumeError
from napari_medsam.segments import SegmentationError

if TYPE_CHECKING:
    from types import ModuleType

    from pydicom import Dataset

__all__ = ["dicom_library", "header_of", "referenced_series", "understood"]

_FAULTS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom and highdicom raise on files that are damaged or that leave out what they must say."""


def dicom_library(name: str) -> ModuleType:
    """Import pydicom or highdicom.

    Raises
    ------
    VolumeError
        When it is not installed; the message names the extra.
    """
    try:
        return import_module(name)
    except ImportError:
        raise VolumeError(
            f"DICOM segmentations need {name}, which is not installed; "
            'run: pip install "napari-medsam[dicom]".'
        ) from None


@contextmanager
def understood() -> Iterator[None]:
    """Turn whatever a damaged or incomplete DICOM object makes the libraries raise into one sentence."""
    try:
        with warnings.catch_warnings():
            # They tell of values a little out of the standard, of which archives are full.
            warnings.simplefilter("ignore")
            yield
    except (GeometryError, SegmentationError, VolumeError):
        raise
    except _FAULTS as error:
        raise VolumeError(
            "the DICOM object is damaged or lacks something it must say "
            f"({type(error).__name__}: {printable(str(error)).rstrip('.')})."
        ) from None


def header_of(path: Path) -> Dataset:
    """Read a DICOM file without its pixels.

    Raises
    ------
    VolumeError
        When it is no DICOM file, or damaged.
    """
    pydicom = dicom_library("pydicom")
    try:
        with understood():
            return pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        raise VolumeError("the content is not DICOM, expected a DICOM file.") from None


def referenced_series(header: Dataset) -> tuple[str, ...]:
    """UIDs of the image series that a segmentation or structure set was made on, where it says so."""
    found = [item.get("SeriesInstanceUID") for item in header.get("ReferencedSeriesSequence", [])]
    for frame in header.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            found += [item.get("SeriesInstanceUID") for item in study.get("RTReferencedSeriesSequence", [])]
    return tuple(str(uid) for uid in found if uid)
