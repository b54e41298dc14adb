"""Bytes of a file by their position, without mapping it.

A mapped file that shrinks, or whose network drive vanishes, ends the whole process with a signal; a read of
it is an error that can be told.
"""

import struct
from typing import Any, BinaryIO

__all__ = ["WindowedFile"]

_WINDOW_BYTES = 2**14


class WindowedFile:
    """Reads by position, a window of the file at a time.

    Parameters
    ----------
    stream
        Open for reading.
    size
        Bytes of the file.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._start = 0
        self._window = b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self._size)
        length = max(0, stop - start)
        if not self._start <= start <= stop <= self._start + len(self._window):
            self._stream.seek(start)
            self._start, self._window = start, self._stream.read(max(length, _WINDOW_BYTES))
        return self._window[start - self._start :][:length]

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        """Numbers at a position, as `struct.unpack` says them; struct.error beyond the end."""
        return struct.unpack(form, self[at : at + struct.calcsize(form)])

    def zeros_from(self, at: int) -> bool:
        """Whether nothing but zeros follow."""
        return not any(
            self[start : start + _WINDOW_BYTES].strip(b"\0") for start in range(at, self._size, _WINDOW_BYTES)
        )
