"""What all formats agree on: which volume of a 4D file, which colours, and how much data a file can hold."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_medsam.geometry import VolumeError

__all__ = [
    "DEFLATE_RATIO",
    "GZIP_LEVEL",
    "check_size",
    "chosen_volume",
    "colours_to_rgb",
    "is_gzip",
    "printable",
]

GZIP_LEVEL = 3
"""Compression of label files. benchmarks/gzip_level.py: above 3, writing takes twice the time to save 1 %."""

DEFLATE_RATIO = 1100
"""Deflate expands no stream by more than 1032:1 (https://zlib.net/zlib_tech.html)."""


def check_size(needed: float, held: float) -> None:
    """Refuse a header that asks for more bytes than its file can hold, before anything is allocated for it.

    Parameters
    ----------
    needed, held
        Bytes the header asks for, and bytes the file can hold at most after decompression.
    """
    if needed > held:
        raise VolumeError(
            f"the header asks for {needed / 1e6:.6g} MB of data but the file holds at most {held / 1e6:.6g} "
            "MB, expected a whole file; it is damaged or cut short."
        )


def chosen_volume(count: int, time_point: int | None, notes: list[str]) -> int:
    """Which of `count` volumes in one file to read, counted from 0; a note says so when there was a choice.

    Raises
    ------
    VolumeError
        When there are several and none was chosen, or the chosen one does not exist.
    """
    if time_point is None and count > 1:
        raise VolumeError(
            f"there are {count} volumes (time points or channels), expected one to be chosen; pass a time "
            f"point of 0 to {count - 1}."
        )
    if not 0 <= (time_point or 0) < count:
        raise VolumeError(
            f"the time point is {time_point}, expected one of 0 to {count - 1}; that is all there is."
        )
    if count > 1:
        notes.append(f"Time point {time_point} of 0 to {count - 1} was read.")
    return time_point or 0


def colours_to_rgb(voxels: NDArray, notes: list[str]) -> NDArray:
    """Turn (z, y, x, channels) into (z, y, x, 3) uint8, or into (z, y, x) for gray with transparency.

    Raises
    ------
    VolumeError
        When the channels are not 8-bit colours.
    """
    channels = voxels.shape[-1]
    if channels in (2, 4):
        notes.append("The transparency of the image was left out.")
        voxels = voxels[..., : channels - 1]
    if voxels.shape[-1] == 1:
        return voxels[..., 0]
    if voxels.shape[-1] != 3 or voxels.dtype != np.uint8:
        raise VolumeError(
            f"each voxel holds {channels} values of type {voxels.dtype}, expected one, or 8-bit RGB."
        )
    return voxels


def printable(text: str) -> str:
    """Text of a file, which may be damaged, as part of one line: odd characters as "?", 160 at most."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split())[:160])


def is_gzip(path: Path) -> bool:
    """Whether the content is gzipped, whatever the name says."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"
