"""A training set for nnU-Net: imagesTr, labelsTr and dataset.json.

The form: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_medsam.formats.common import replacing, same_voxels, told
from napari_medsam.formats.nifti import read_nifti, write_nifti
from napari_medsam.geometry import Geometry, Volume, VolumeError
from napari_medsam.windowing import guess_modality

if TYPE_CHECKING:
    from napari_medsam.segments import Segmentation

__all__ = ["NnunetCase", "is_nnunet", "write_nnunet"]

_FOLDER = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]+")
_CASE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CHANNELS = {"CT": "CT", "MR": "MRI", "PT": "PET"}
"""nnU-Net normalises a channel called CT as CT (HU), and every other one by its own mean and deviation."""


@dataclass(frozen=True)
class NnunetCase:
    """One patient of a training set.

    Attributes
    ----------
    name : str
        Letters, digits, dot, hyphen and underscore; once in a set.
    image : Volume
        Gray voxels.
    segmentation : Segmentation
        On the image's grid.
    """

    name: str
    image: Volume
    segmentation: Segmentation


def is_nnunet(path: Path) -> bool:
    """Whether a path is meant to become a training set: a name like Dataset123_Liver, without an ending."""
    return path.name.startswith("Dataset") and not path.suffix


def write_nnunet(cases: Iterable[NnunetCase], folder: str | Path) -> dict[str, int]:
    """Write a training set: complete, or not at all.

    Labels count from 1 without a gap, as nnU-Net wants them: a name has the same number in all cases, in the
    order in which names first appear.

    Parameters
    ----------
    cases
        Taken one by one, so that no more than one has to fit into memory.
    folder
        A new folder called Dataset123_Name, the number of your choice.

    Returns
    -------
    dict
        The number of each name, background 0.

    Raises
    ------
    VolumeError, SegmentationError
        When a case does not fit its image or the others, or the folder exists; nothing is written then.
    """
    folder = Path(folder)
    with told(folder, "written"):
        if _FOLDER.fullmatch(folder.name) is None:
            raise VolumeError("nnU-Net wants a folder named like Dataset123_Liver, three digits and a name.")
        if folder.exists():
            raise VolumeError("it exists already, expected a new folder.")
        with replacing(folder, "") as temporary:
            return _fill(cases, temporary)


def _fill(cases: Iterable[NnunetCase], folder: Path) -> dict[str, int]:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    labels = {"background": 0}
    channels: dict[str, str] = {}
    count = 0
    for case in cases:
        _check(case)
        channel = _CHANNELS.get(guess_modality(case.image), "image")
        if channels.setdefault("0", channel) != channel:
            raise VolumeError(
                f"case '{case.name}' is {channel}, the ones before are {channels['0']}; make a set for each."
            )
        target = folder / "labelsTr" / f"{case.name}.nii.gz"
        if target.exists():
            raise VolumeError(f"there are two cases '{case.name}', expected a name for each.")
        voxels = case.image.array
        if voxels.dtype == np.float16:
            voxels = voxels.astype(np.float32)
        geometry = case.image.geometry
        _write(voxels, geometry, folder / "imagesTr" / f"{case.name}_0000.nii.gz")
        _write(_renumbered(case, labels), geometry, target)
        count += 1
    if not count:
        raise VolumeError("there is no case, expected at least one image with labels.")
    description = {
        "channel_names": channels,
        "labels": labels,
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return labels


def _write(voxels: np.ndarray, geometry: Geometry, path: Path) -> None:
    """Write voxels (z, y, x) and compare what can be read back."""
    write_nifti(voxels, geometry, path)
    found = read_nifti(path)
    same_place = not geometry.difference(found.geometry)
    if not same_place or not same_voxels(voxels, found.array):
        raise VolumeError(
            f"what was read back of '{path.name}' differs, expected the same; try another disk."
        )


def _check(case: NnunetCase) -> None:
    if _CASE.fullmatch(case.name) is None:
        raise VolumeError(f"case '{case.name}' has a name of other than letters, digits, dot, - and _.")
    if case.image.array.ndim != 3:
        raise VolumeError(f"the image of case '{case.name}' has colours, expected gray voxels.")
    difference = case.image.geometry.difference(case.segmentation.geometry)
    if difference:
        raise VolumeError(f"labels and image of case '{case.name}' are not on the same grid: {difference}")
    names = Counter(segment.name for segment in case.segmentation.segments)
    twice = next((name for name, count in names.items() if count > 1 or name == "background"), None)
    if twice is not None:
        raise VolumeError(f"case '{case.name}' has two labels called '{twice}', expected a name for each.")


def _renumbered(case: NnunetCase, labels: dict[str, int]) -> np.ndarray:
    """Labels of a case in the set's numbers, to which new names are added."""
    flat = case.segmentation.flattened()
    for segment in flat.segments:
        labels.setdefault(segment.name, len(labels))
    known = sorted(flat.segments, key=lambda segment: segment.label)
    old = np.array([0, *(segment.label for segment in known)])
    new = np.array([0, *(labels[segment.name] for segment in known)], np.min_scalar_type(len(labels) - 1))
    return np.stack([new[np.searchsorted(old, plane)] for plane in flat.labels])
