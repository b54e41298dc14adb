"""What all formats agree on: which volume of a 4D file, which colours, and how much data a file can hold."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from napari_medsam.geometry import Geometry, GeometryError, VolumeError
from napari_medsam.segments import SegmentationError

__all__ = [
    "DEFLATE_RATIO",
    "GZIP_LEVEL",
    "WORTH_A_NOTE_MM",
    "FileState",
    "check_size",
    "chosen_volume",
    "colours_to_rgb",
    "file_state",
    "is_gzip",
    "no_stderr",
    "placed",
    "printable",
    "replacing",
    "told",
    "unchanged",
]

FileState = tuple[int, int, int]

GZIP_LEVEL = 3
"""Compression of label files. benchmarks/gzip_level.py: above 3, writing takes twice the time to save 1 %."""

_TOLD = re.compile(r"'[^']+' cannot be (read|written)")
_LONGEST_SHOWN = 300
_STDERR = 2
_STDERR_LOCK = Lock()

WORTH_A_NOTE_MM = 0.1
"""Differences in place below this are rounding, not a decision the user should hear of."""

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


def placed(shape: tuple[int, int, int], affine: NDArray[np.float64], notes: list[str]) -> Geometry:
    """`Geometry.from_affine`, with a note when straightening rounded directions moves voxels visibly."""
    geometry = Geometry.from_affine(shape, affine)
    moved_mm = geometry.distance_mm(affine)
    if moved_mm > WORTH_A_NOTE_MM:
        notes.append(
            "The axes are not quite perpendicular: they were straightened, which moves voxels by "
            f"{moved_mm:.2g} mm."
        )
    return geometry


def same_voxels(one: NDArray, other: NDArray) -> bool:
    """Compare two arrays slice by slice: to compare all at once takes a byte more for each voxel."""
    nan = one.dtype.kind == "f"
    return one.shape == other.shape and all(
        np.array_equal(a, b, equal_nan=nan) for a, b in zip(one, other, strict=True)
    )


def printable(text: str, most: int = 160) -> str:
    """Text of a file, which may be damaged, as part of one line: odd characters as "?", not too many."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split())[:most])


@contextmanager
def no_stderr() -> Iterator[None]:
    """Keep what C libraries write to the process's standard error off the terminal.

    By one thread at a time: two would restore each other's.
    """
    with _STDERR_LOCK:
        try:
            terminal = os.dup(_STDERR)
        except OSError:
            # Without a console (pythonw, some services) there is nothing to keep quiet.
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, _STDERR)
            yield
        finally:
            os.dup2(terminal, _STDERR)
            os.close(terminal)
            os.close(nowhere)


def is_gzip(path: Path) -> bool:
    """Whether the content is gzipped, whatever the name says."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def told(path: Path, verb: str) -> Iterator[None]:
    """Put the path in front of what went wrong, and turn errors of the file system into a `VolumeError`."""
    name = _shown(path)
    if "\0" in str(path):
        raise VolumeError(f"'{name}' cannot be {verb}: its name has a null character; choose another name.")
    try:
        yield
    except (GeometryError, SegmentationError, VolumeError) as error:
        if _TOLD.match(str(error)):
            # It is about another file, which is written meanwhile.
            raise
        raise type(error)(f"'{name}' cannot be {verb}: {error}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        advice = "give it a shorter name" if error.errno == errno.ENAMETOOLONG else "check disk and rights"
        raise VolumeError(f"'{name}' cannot be {verb}: {reason}, expected a usable file; {advice}.") from None
    except MemoryError:
        raise VolumeError(
            f"'{name}' cannot be {verb}: memory is too small for it; crop or resample it."
        ) from None


@contextmanager
def unchanged(path: Path, state: FileState | None = None) -> Iterator[None]:
    """Refuse what was read of a file while another program changed it: half of it may be of another image.

    Parameters
    ----------
    path
        The file that is read.
    state
        What it was when reading began, where that was earlier.

    Raises
    ------
    VolumeError
        When it is not what it was, whatever else went wrong with it.
    """
    state = state or file_state(path)
    try:
        yield
    finally:
        if file_state(path) != state:
            raise VolumeError(
                "another program changed it while it was read, expected it to stay as it is; read it again."
            ) from None


def file_state(path: Path) -> FileState:
    """By what a changed file is known: number, size, time of change; zeros where there is none any more."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def replacing(path: Path, suffix: str) -> Iterator[Path]:
    """Give a temporary name beside `path`; the file or folder takes its place when all went well.

    Those replaced within each other take their places together, once the outermost is complete, or none does.

    Parameters
    ----------
    path
        What is to be there in the end, complete; an older file stays as it was if something goes wrong.
    suffix
        How the temporary name ends, for those who tell a format by it.

    Raises
    ------
    VolumeError
        When the file is complete, but cannot take its place.
    """
    target = Path(os.path.realpath(path))  # a link stays a link, its target is replaced
    temporary = _beside(target, suffix)
    with _together() as complete:
        try:
            yield temporary
            for each in temporary.rglob("*") if temporary.is_dir() else [temporary]:
                if each.is_file():
                    _flush(each)
        except BaseException as error:
            _remove(temporary)
            if isinstance(error, OSError) and error.filename in (str(temporary), temporary):
                # Nobody has ever seen that name: the file that was asked for is what cannot be written.
                error.filename = str(path)
            raise
        complete.append((path, temporary, target))


_Complete = list[tuple[Path, Path, Path]]
_COMPLETE: ContextVar[_Complete | None] = ContextVar("_COMPLETE", default=None)


@contextmanager
def _together() -> Iterator[_Complete]:
    """Collect files until the outermost one is complete, and let them take their places then."""
    outer = _COMPLETE.get()
    if outer is not None:
        yield outer
        return
    complete: _Complete = []
    token = _COMPLETE.set(complete)
    try:
        yield complete
        _take_places(complete)
    finally:
        _COMPLETE.reset(token)
        for _, temporary, _ in complete:
            _remove(temporary)
    if os.name == "posix":
        # The files are in place; a file system that cannot flush a folder is no reason to call it unwritten.
        with suppress(OSError):
            for folder in {target.parent for _, _, target in complete}:
                _flush(folder)


def _take_places(complete: _Complete) -> None:
    """Rename all, or none: what was replaced before one was refused comes back."""
    replaced: list[tuple[Path, Path | None]] = []
    try:
        for path, temporary, target in complete:
            with told(path, "written"):
                is_last = len(replaced) == len(complete) - 1
                old = None if is_last or not target.exists() else _second_name(target)
                try:
                    temporary.replace(target)
                except BaseException:
                    if old is not None:
                        _remove(old)
                    raise
                replaced.append((target, old))
    except BaseException:
        for target, old in reversed(replaced):
            # What cannot be brought back is not removed: it is there under its second name.
            with suppress(OSError):
                if old is None:
                    _remove(target)
                else:
                    old.replace(target)
        raise
    for _, old in replaced:
        if old is not None:
            _remove(old)


def _second_name(target: Path) -> Path:
    """Give a file another name, and keep the first one."""
    second = _beside(target, ".old")
    try:
        os.link(target, second)
    except OSError:
        # Not all file systems know links.
        try:
            shutil.copy2(target, second)
        except BaseException:
            _remove(second)
            raise
    return second


def _beside(target: Path, suffix: str) -> Path:
    return target.parent / f".napari-medsam-{secrets.token_hex(6)}{suffix}"


def _remove(path: Path) -> None:
    """Remove a file or folder of our own, if it is there; one that cannot be removed is no error."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _shown(path: Path) -> str:
    """A path as part of one sentence, whatever characters it has and however long it is."""
    text = "".join(c if c.isprintable() else "?" for c in str(path))
    return (
        text
        if len(text) <= _LONGEST_SHOWN
        else f"{text[: _LONGEST_SHOWN // 2]}...{text[-_LONGEST_SHOWN // 2 :]}"
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
