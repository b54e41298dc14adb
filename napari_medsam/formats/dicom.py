"""DICOM images: a folder with one or more series, or a single file; GDCM decodes the pixels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_medsam.formats.common import chosen_volume, colours_to_rgb, placed, unchanged
from napari_medsam.formats.dicom_header import DicomFile, Slice, looks_like_dicom, read_dicom_header
from napari_medsam.formats.itk import itk_name, quiet_itk
from napari_medsam.geometry import SHEAR_TOLERANCE, Geometry, Volume, VolumeError

__all__ = ["DicomSeries", "list_series", "read_dicom_file", "read_dicom_folder"]

_MODALITIES = {"CT": "CT", "MR": "MR", "PT": "PT", "US": "US"} | dict.fromkeys(
    ("CR", "DX", "MG", "RF", "XA"), "XR"
)
_SAME_PLACE_MM = 0.01
_SAME_COSINE = 1e-3
_UNEVEN = 0.05
"""Largest difference between two slice distances, relative to the usual one, that is taken for rounding."""


@dataclass(frozen=True)
class DicomSeries:
    """One image series of a folder.

    Parameters
    ----------
    uid
        SeriesInstanceUID, "" in files that were anonymised without one.
    description
        SeriesDescription.
    modality
        Modality as the file says it: "CT", "MR", "PT", "US", "CR", ...
    slices
        How many slices (frames) it holds.
    files
        Its files, by name.
    """

    uid: str
    description: str
    modality: str
    slices: int
    files: tuple[Path, ...]


def list_series(folder: str | Path) -> list[DicomSeries]:
    """List the image series in a folder, in the order of their first files' names.

    Files that are not DICOM, or hold no image, are passed over; subfolders are not searched.

    Raises
    ------
    VolumeError
        When the folder does not exist or one of its DICOM files is damaged.
    """
    series = []
    for files in _series_files(Path(folder)).values():
        first = files[0]
        n_slices = sum(len(file.slices) for file in files)
        paths = tuple(file.path for file in files)
        series.append(DicomSeries(first.series_uid, first.description, first.modality, n_slices, paths))
    return series


def read_dicom_folder(folder: Path, series: str | None = None, time_point: int | None = None) -> Volume:
    """Read one series of a folder as a volume.

    Parameters
    ----------
    folder
        A folder with the series' files; other files in it do no harm.
    series
        UID or description of the series to read; needed when there are several.
    time_point
        Which of several images at the same place to read, counted from 0 in the order of acquisition.

    Raises
    ------
    VolumeError, GeometryError
        When there is no such series, when it is not one stack of parallel, evenly spaced slices, or when a
        file is damaged.
    """
    found = _series_files(folder)
    if not found:
        raise VolumeError(
            "the folder holds no DICOM image, expected the folder that directly holds the slices."
        )
    candidates = [
        files for files in found.values() if series in (None, files[0].series_uid, files[0].description)
    ]
    if len(candidates) != 1:
        listed = "; ".join(_described(files) for files in list(found.values())[:20])
        wanted = "one to be chosen" if series is None else f"exactly one that is called '{series}'"
        raise VolumeError(
            f"the folder holds {len(found)} DICOM series, expected {wanted}; pass the UID or description of "
            f"one of: {listed}."
        )
    return _read_slices(candidates[0], time_point, str(folder))


def read_dicom_file(path: Path, time_point: int | None = None) -> Volume:
    """Read a single DICOM file: one slice, or all frames of a multi-frame image.

    Raises
    ------
    VolumeError, GeometryError
        When the file is damaged or holds no image, or its frames are not one stack.
    """
    file = read_dicom_header(path)
    if file is None:
        raise VolumeError("the DICOM file holds no image, expected one with pixels.")
    return _read_slices([file], time_point, str(path))


def _series_files(folder: Path) -> dict[str, list[DicomFile]]:
    if not folder.is_dir():
        raise VolumeError("it is not a folder, expected one that holds DICOM files.")
    found: dict[str, list[DicomFile]] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not looks_like_dicom(path):
            continue
        try:
            file = read_dicom_header(path)
        except VolumeError as error:
            raise VolumeError(f"in its file '{path.name}' {error}") from None
        if file is not None:
            found.setdefault(file.series_uid, []).append(file)
    return found


def _described(files: list[DicomFile]) -> str:
    first = files[0]
    n_slices = sum(len(file.slices) for file in files)
    return f"'{first.series_uid}' ({first.modality}, {n_slices} slices, '{first.description}')"


# Numbers of a damaged header are judged as values; numpy need not warn of them too.
@np.errstate(over="ignore", invalid="ignore")
def _read_slices(files: list[DicomFile], time_point: int | None, source: str) -> Volume:
    notes: list[str] = []
    slices = [part for file in files for part in file.slices]
    _check_uniform(slices)
    if any(part.position is None or part.orientation is None for part in slices):
        slices, geometry = _unplaced(slices, time_point, notes)
    else:
        slices, geometry = _placed(slices, time_point, notes)
    voxels = _pixels(slices, notes)
    modality = "RGB" if voxels.ndim == 4 else _MODALITIES.get(files[0].modality, "")
    return Volume(voxels, geometry, modality, source, tuple(notes))


def _check_uniform(slices: list[Slice]) -> None:
    """Refuse slices that cannot be one volume: of several sizes, orientations, spacings or scales."""
    sizes = Counter(part.size for part in slices)
    if len(sizes) > 1:
        raise VolumeError(
            f"the slices have {len(sizes)} sizes ({_tally(sizes)}), expected one; separate the series."
        )
    orientations = Counter(tuple(round(c, 2) + 0.0 for c in part.orientation or ()) for part in slices)
    first = slices[0]
    for part in slices[1:]:
        if not _alike(part.orientation, first.orientation, _SAME_COSINE):
            raise VolumeError(
                f"the slices have {len(orientations)} orientations ({_tally(orientations)}), expected "
                "parallel slices; move localisers and other planes to folders of their own."
            )
        if not _alike(part.pixel_spacing_mm, first.pixel_spacing_mm, _SAME_COSINE):
            raise VolumeError(
                f"the slices have different pixel spacings ({first.pixel_spacing_mm} and "
                f"{part.pixel_spacing_mm} mm), expected one; separate the series."
            )
        if part.path == first.path and part.rescale != first.rescale:
            raise VolumeError(
                f"the frames have different scales ({first.rescale} and {part.rescale}), expected one slope "
                "and intercept; convert the file to NIfTI first."
            )


def _placed(slices: list[Slice], time_point: int | None, notes: list[str]) -> tuple[list[Slice], Geometry]:
    """Sort slices along their normal and work out the grid; `time_point` chooses among those at one place."""
    row, column = np.reshape(slices[0].orientation or (), (2, 3))
    normal = np.cross(row, column)
    if not abs(np.linalg.norm(normal) - 1) <= SHEAR_TOLERANCE:
        raise VolumeError(
            f"the orientation is {slices[0].orientation}, expected two perpendicular unit vectors."
        )
    places = _by_place(slices, normal)
    index = chosen_volume(len(places[0]), time_point, notes)
    chosen = [place[index] for place in places]
    positions = np.array([part.position for part in chosen])
    if len(chosen) == 1:
        spacing = _thickness(chosen[0], notes)
    else:
        _check_even(positions @ normal)
        step = (positions[-1] - positions[0]) / (len(chosen) - 1)
        spacing = float(step @ normal)
        _check_straight(positions, step, normal)
    return chosen, _geometry(chosen, np.stack([row, column, normal], axis=1), spacing, positions[0], notes)


def _unplaced(slices: list[Slice], time_point: int | None, notes: list[str]) -> tuple[list[Slice], Geometry]:
    """Stack the frames of one file that does not say where they lie (X-ray, ultrasound)."""
    if len({part.path for part in slices}) > 1:
        missing = sum(part.position is None or part.orientation is None for part in slices)
        raise VolumeError(
            f"{missing} of the {len(slices)} slices do not say where they lie in the patient, expected a "
            "position and an orientation for each; read such files one by one."
        )
    chosen_volume(1, time_point, notes)
    notes.append(
        "The file does not say where it lies in the patient: its frames were stacked from (0, 0, 0) on."
    )
    spacing = _thickness(slices[0], notes)
    return slices, _geometry(slices, np.eye(3), spacing, np.zeros(3), notes)


def _by_place(slices: list[Slice], normal: NDArray) -> list[list[Slice]]:
    """Group slices that lie in one plane, along the normal; inside a group in the order of acquisition."""
    places: list[list[Slice]] = []
    last = -np.inf
    heights = np.array([part.position for part in slices]) @ normal
    for height, part in sorted(zip(heights, slices, strict=True), key=itemgetter(0)):
        if height - last > _SAME_PLACE_MM:
            places.append([])
        places[-1].append(part)
        last = height
    counts = Counter(map(len, places))
    if len(counts) > 1:
        raise VolumeError(
            f"{len(places) - counts[1]} of the {len(places)} slice positions hold more than one image, "
            "expected one image at each, or as many time points at each; separate the series."
        )
    for place in places:
        place.sort(key=lambda part: part.order)
        for one, other in pairwise(place):
            if one.order == other.order:
                raise VolumeError(
                    f"its files '{one.path.name}' and '{other.path.name}' show the same slice, expected each "
                    "once."
                )
    return places


def _check_even(heights: NDArray) -> None:
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    tolerance = max(_UNEVEN * usual, _SAME_PLACE_MM)
    if np.abs(gaps - usual).max() <= tolerance:
        return
    missing = np.rint(gaps / usual) - 1
    if (missing >= 0).all() and np.abs(gaps - usual * (missing + 1)).max() <= tolerance:
        raise VolumeError(
            f"{int(missing.sum())} slices are missing: the largest of the {len(gaps)} gaps is "
            f"{gaps.max():.6g} mm where the usual one is {usual:.6g} mm, expected every slice of the stack."
        )
    raise VolumeError(
        f"the slices are {gaps.min():.6g} to {gaps.max():.6g} mm apart, expected one distance; resample the "
        "series first."
    )


def _check_straight(positions: NDArray, step: NDArray, normal: NDArray) -> None:
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    if sideways > SHEAR_TOLERANCE * along:
        angle = np.degrees(np.arctan2(sideways, along))
        raise VolumeError(
            f"the stack is sheared by {angle:.1f} degrees (gantry tilt), expected slices straight above each "
            "other; resample the series first."
        )
    off = np.abs(positions - positions[0] - np.outer(np.arange(len(positions)), step)).max()
    if off > max(_UNEVEN * along, _SAME_PLACE_MM):
        raise VolumeError(
            f"the slices are shifted by up to {off:.3g} mm, expected them straight above each other."
        )


def _thickness(part: Slice, notes: list[str]) -> float:
    if part.thickness_mm is not None and part.thickness_mm > 0:
        return part.thickness_mm
    notes.append("The file gives no distance between slices: 1 mm was assumed.")
    return 1.0


def _geometry(
    slices: Sequence[Slice], axes: NDArray, spacing: float, origin: NDArray, notes: list[str]
) -> Geometry:
    """Build the grid; the columns of `axes` are the directions of x, y and z."""
    pixel_spacing = slices[0].pixel_spacing_mm
    if pixel_spacing is None:
        notes.append("The file gives no pixel spacing: 1 mm was assumed.")
        pixel_spacing = (1.0, 1.0)
    if min(pixel_spacing) <= 0:
        raise VolumeError(f"the pixel spacing is {pixel_spacing} mm, expected two positive numbers.")
    between_rows, between_columns = pixel_spacing
    affine = np.eye(4)
    affine[:3, :3] = axes * (between_columns, between_rows, spacing)
    affine[:3, 3] = origin
    return placed((len(slices), *slices[0].size), affine, notes)


def _pixels(slices: list[Slice], notes: list[str]) -> NDArray:
    """Decode slices into (z, y, x) or (z, y, x, 3), of a type that holds all, whatever their rescale."""
    stack: NDArray | None = None
    decoded: tuple[Path, NDArray] | None = None
    for z, part in enumerate(slices):
        if decoded is None or decoded[0] != part.path:
            decoded = part.path, _decoded(part)
        page = decoded[1][part.frame]
        if stack is None:
            stack = np.empty((len(slices), *page.shape), page.dtype)
        if page.shape != stack.shape[1:]:
            raise VolumeError(
                f"its file '{part.path.name}' differs in colour from the others, expected all alike."
            )
        stack = stack.astype(np.result_type(stack, page), copy=False)
        stack[z] = page
    if stack is None:
        raise VolumeError("the series is empty, expected at least one slice.")
    return stack if stack.ndim == 3 else colours_to_rgb(stack, notes)


def _decoded(part: Slice) -> NDArray:
    """Pixels of a file as (frames, y, x) or (frames, y, x, channels)."""
    from SimpleITK import GetArrayFromImage, ReadImage

    try:
        with unchanged(part.path, part.state), quiet_itk():
            image = ReadImage(itk_name(part.path), imageIO="GDCMImageIO")
            pixels = GetArrayFromImage(image)
    except VolumeError as error:
        raise VolumeError(f"in its file '{part.path.name}' {error}") from None
    channels = image.GetNumberOfComponentsPerPixel()
    pixels = pixels.reshape(-1, *pixels.shape[pixels.ndim - 2 - (channels > 1) :])
    if pixels.shape[1:3] != part.size or len(pixels) <= part.frame:
        raise VolumeError(
            f"its file '{part.path.name}' decodes to {pixels.shape[:3]} pixels, expected {part.size} in each "
            "frame."
        )
    return pixels


def _alike(one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance))


def _tally(kinds: Counter) -> str:
    return ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common(4))
