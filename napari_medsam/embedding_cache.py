"""Embeddings of slices that were seen before: in memory, and on disk for the next time.

An embedding of the SAM family takes seconds to compute and 2 MB to keep. Each lies under an address that the
caller makes from all it depends on, so that nothing kept is ever out of date.
"""

import hashlib
import os
import tempfile
import time
from collections import OrderedDict
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".embedding"
ABANDONED_AFTER_S = 3600.0


class EmbeddingCache:
    """Least recently used embeddings go first, in memory and on disk; kept as float16.

    Safe to share between threads and, as a folder, between processes: files appear whole or not at all, and
    carry a digest of their address and content, so that a damaged one counts as absent. A disk that is full
    or cannot be written is a slower cache, never an error.

    Parameters
    ----------
    folder
        Where files are kept; None for memory only. Embeddings show, to those who can read them, what was in
        the images: the folder is made readable for its owner alone.
    memory_bytes, disk_bytes
        How much to keep.
    """

    def __init__(
        self, folder: Path | None = None, memory_bytes: int = 512 * 2**20, disk_bytes: int = 4 * 2**30
    ) -> None:
        self.folder = folder
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self._kept: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        self._lock = Lock()

    def get(self, address: str) -> NDArray[np.float16] | None:
        """Fetch what was put under an address, read-only; None when it is not there any more.

        Parameters
        ----------
        address
            A hexadecimal digest.
        """
        with self._lock:
            found = self._kept.get(address)
            if found is not None:
                self._kept.move_to_end(address)
                return found
        found = self._read(address)
        if found is not None:
            self._remember(address, found)
        return found

    def put(self, address: str, embedding: NDArray) -> NDArray[np.float16]:
        """Keep an embedding.

        Parameters
        ----------
        address
            A hexadecimal digest of all that the embedding depends on.
        embedding : numpy.ndarray
            Of any shape and float type.

        Returns
        -------
        numpy.ndarray of float16
            What `get` will return. Go on with this one, so that the first time and later times agree.
        """
        half = np.array(embedding, np.float16, order="C")
        half.flags.writeable = False
        self._remember(address, half)
        # What cannot be written today is computed again tomorrow.
        with suppress(OSError):
            self._write(address, half)
        return half

    def clear(self) -> None:
        """Forget everything, on disk too."""
        with self._lock:
            self._kept.clear()
        for path in self._files():
            with suppress(OSError):
                path.unlink()

    def _remember(self, address: str, embedding: NDArray[np.float16]) -> None:
        with self._lock:
            self._kept[address] = embedding
            self._kept.move_to_end(address)
            held = sum(kept.nbytes for kept in self._kept.values())
            while held > self.memory_bytes:
                held -= self._kept.popitem(last=False)[1].nbytes

    def _read(self, address: str) -> NDArray[np.float16] | None:
        if self.folder is None:
            return None
        path = self.folder / (address + SUFFIX)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        # The time of change tells which files were wanted last; a folder that others filled need not have it.
        with suppress(OSError):
            os.utime(path)
        digest, body = content[:32], content[32:]
        if digest != _digest(address, body):
            with suppress(OSError):
                path.unlink()
            return None
        embedding: NDArray[np.float16] = np.load(BytesIO(body), allow_pickle=False)
        embedding.flags.writeable = False
        return embedding

    def _write(self, address: str, embedding: NDArray[np.float16]) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        buffer = BytesIO()
        np.save(buffer, embedding, allow_pickle=False)
        body = buffer.getvalue()
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            try:
                file.write(_digest(address, body) + body)
                file.close()
                os.replace(partial, self.folder / (address + SUFFIX))
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        self._make_room()

    def _make_room(self) -> None:
        files = []
        for path in self._files():
            # Another process may be tidying up, too.
            with suppress(OSError):
                state = path.stat()
                if path.suffix != SUFFIX and time.time() - state.st_mtime > ABANDONED_AFTER_S:
                    path.unlink()
                elif path.suffix == SUFFIX:
                    files.append((state.st_mtime_ns, state.st_size, path))
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= self.disk_bytes:
                return
            with suppress(OSError):
                path.unlink()
                held -= size

    def _files(self) -> list[Path]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return [p for p in self.folder.iterdir() if p.suffix in (SUFFIX, ".partial")]


def default_cache_folder() -> Path:
    """Return the folder for embeddings in the user's cache."""
    import pooch

    return Path(pooch.os_cache("napari-medsam")) / "embeddings"


def _digest(address: str, body: bytes) -> bytes:
    return hashlib.sha256(address.encode() + body).digest()
