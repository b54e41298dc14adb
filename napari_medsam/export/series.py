"""The image that a DICOM segmentation or structure set belongs to, and the files of a series."""

from __future__ import annotations

from pathlib import Path

from napari_medsam.formats.common import told
from napari_medsam.formats.dicom_header import looks_like_dicom, read_dicom_header
from napari_medsam.formats.dicom_objects import header_of, referenced_series
from napari_medsam.geometry import Volume, VolumeError
from napari_medsam.volume import list_series, read_volume

__all__ = ["image_of", "series_files"]


def image_of(
    labels: Path, image: Path, *, series: str | None = None, time_point: int | None = None
) -> Volume:
    """Read the image that labels belong to.

    Parameters
    ----------
    labels
        A label file; a DICOM segmentation or structure set says which series it was made on.
    image
        An image file or a folder, which may hold other series, too.
    series
        UID or description of the series to read, whatever `labels` says.
    time_point
        Which volume of a 4D image.

    Raises
    ------
    VolumeError, GeometryError
        When there is no such image, or it cannot be read.
    """
    if series is None and image.is_dir() and labels.is_file() and looks_like_dicom(labels):
        with told(labels, "read"):
            wanted = referenced_series(header_of(labels))
        series = next((found.uid for found in list_series(image) if found.uid in wanted), None)
    return read_volume(image, series=series, time_point=time_point)


def series_files(image: Path, series: str | None = None) -> tuple[Path, ...]:
    """Return the files of a DICOM series, for `write_segmentation`; a single file stands for itself.

    Parameters
    ----------
    image
        A folder with one or more series, or a DICOM file.
    series
        UID or description; needed when there are several.

    Raises
    ------
    VolumeError
        When it is no DICOM image, or the choice is not clear.
    """
    if not image.is_dir():
        with told(image, "read"):
            is_image = image.is_file() and looks_like_dicom(image) and read_dicom_header(image) is not None
        if not is_image:
            raise VolumeError(f"'{image}' is no DICOM image, which a DICOM segmentation has to refer to.")
        return (image,)
    found = list_series(image)
    chosen = [each for each in found if series in (None, each.uid, each.description)]
    if len(chosen) != 1:
        raise VolumeError(
            f"'{image}' holds {len(chosen)} DICOM series{'' if series is None else f' called {series}'}, "
            "expected one; choose it by its UID."
        )
    return chosen[0].files
