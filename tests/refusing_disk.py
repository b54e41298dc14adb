"""A disk that refuses one call: the first, second, ... of those that make, flush and rename files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DESCRIPTORS = Path("/proc/self/fd")
_RENAMING = ("os.rename", "os.mkdir")


class Disk:
    """Counts the calls that change a folder, and refuses one of them."""

    def __init__(self, folder: Path, refused: int, error: int) -> None:
        self.folder, self.refused, self.error = folder, refused, error
        self.calls, self.path = 0, None

    def call(self, path: object) -> None:
        """Take note of a call, which fails where it is its turn."""
        if isinstance(path, str | Path) and Path(path).is_relative_to(self.folder):
            self.calls += 1
            if self.calls == self.refused:
                self.path = Path(path)
                raise OSError(self.error, os.strerror(self.error), str(path))


_disks: list[Disk] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _disks:
        return
    flags = arguments[2] if event == "open" else 0
    if event in _RENAMING or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
        _disks[-1].call(arguments[0])


# Python tells its hooks of these calls whoever makes them, and gives a hook's error to the caller.
sys.addaudithook(_hook)


@contextmanager
def refusing(folder: Path, refused: int, error: int) -> Iterator[Disk]:
    """Let the disk refuse one call below a folder, counted from 1."""
    disk, fsync = Disk(folder, refused, error), os.fsync

    def flush(descriptor: int) -> None:
        disk.call(os.readlink(DESCRIPTORS / str(descriptor)))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patched:
        if DESCRIPTORS.is_dir():
            patched.setattr(os, "fsync", flush)
        _disks.append(disk)
        try:
            yield disk
        finally:
            _disks.pop()
