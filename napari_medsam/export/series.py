"""The image that a DICOM segmentation or structure set belongs to, and the files of a series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from napari_medsam.formats.common import told
from napari_medsam.formats.dicom_header import looks_like_dicom, read_dicom_header
from napari_medsam.formats.dicom_objects import header_of, referenced_series
from napari_medsam.geometry import Volume, VolumeError
from napari_medsam.volume import list_series, read_volume

__all__ = ["OTHER_SERIES", "image_of", "series_files", "series_named_in"]

OTHER_SERIES = "The labels were made on another DICOM series than this one: is it the right patient?"


def image_of(
    labels: Path, image: Path, *, series: str | None = None, time_point: int | None = None
) -> Volume:
    """Read the image that labels belong to; a note says so when they name another DICOM series.

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
    wanted = series_named_in(labels)
    there = list_series(image) if wanted and image.is_dir() else []
    if series is None:
        series = next((each.uid for each in there if each.uid in wanted), None)
    volume = read_volume(image, series=series, time_point=time_point)
    used = [each.uid for each in there if series in (None, each.uid, each.description)]
    # An anonymiser may have emptied the UID.
    if any(uid and uid not in wanted for uid in used):
        volume = replace(volume, notes=(*volume.notes, OTHER_SERIES))
    return volume


def series_named_in(labels: Path) -> tuple[str, ...]:
    """Return the UIDs of the series that a DICOM segmentation or structure set was made on.

    Returns
    -------
    tuple of str
        Empty for any other file, and where it does not say.

    Raises
    ------
    VolumeError
        When it is a damaged DICOM file.
    """
    if not labels.is_file() or not looks_like_dicom(labels):
        return ()
    with told(labels, "read"):
        # Images can be read without the extra that the others need.
        is_image = read_dicom_header(labels) is not None
        return () if is_image else referenced_series(header_of(labels))


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
