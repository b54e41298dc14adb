"""What DICOM segmentations and structure sets share: pydicom and highdicom, and their errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from napari_medsam.formats.common import printable
from napari_medsam.geometry import GeometryError, VolumeError
from napari_medsam.segments import SegmentationError

if TYPE_CHECKING:
    from types import ModuleType

    from pydicom import Dataset

__all__ = ["WithinFile", "dicom_library", "header_of", "referenced_series", "understood"]


class WithinFile(BufferedReader):
    """A file that is never asked for more than it holds: a damaged length may ask for gigabytes.

    Parameters
    ----------
    path
        Opened for reading.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most so many bytes, all that are left when negative."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


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
    except (GeometryError, SegmentationError, VolumeError, OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - pydicom and highdicom raise anything, their database too
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
    with understood(), WithinFile(path) as stream:
        try:
            header = pydicom.dcmread(stream, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            raise VolumeError("the content is not DICOM, expected a DICOM file.") from None
        # Elements are decoded when somebody asks for them: now, while errors are told.
        list(header)
    return header


def referenced_series(header: Dataset) -> tuple[str, ...]:
    """UIDs of the image series that a segmentation or structure set was made on, where it says so."""
    with understood():
        found = [item.get("SeriesInstanceUID") for item in header.get("ReferencedSeriesSequence", [])]
        for frame in header.get("ReferencedFrameOfReferenceSequence", []):
            for study in frame.get("RTReferencedStudySequence", []):
                series = study.get("RTReferencedSeriesSequence", [])
                found += [item.get("SeriesInstanceUID") for item in series]
    return tuple(str(uid) for uid in found if uid)
