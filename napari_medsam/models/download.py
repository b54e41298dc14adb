"""Fetch weights: with progress, cancelled by asking for no more, resumed where it stopped, checked by digest.

A file gets its name only once its digest is right; until then it is ``NAME.part``.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from napari_medsam.models.specs import ModelSpec

CHUNK_BYTES = 2**20
TIMEOUT_S = 30
NOT_SATISFIABLE, PARTIAL = 416, 206
MOST_EXPECTED = 2
"""How many times the size that was said may come before it is given up."""


class DownloadError(OSError):
    """A file that could not be fetched; the message is one sentence for the user."""


def download(spec: ModelSpec, folder: Path) -> Iterator[tuple[int, int]]:
    """Fetch a model's weights into a folder; nothing happens when they are there already.

    Parameters
    ----------
    spec
        The model.
    folder
        Made when it is not there.

    Yields
    ------
    done_bytes, total_bytes : int
        After each megabyte; the total is 0 while nobody has said it. To cancel, stop asking: what has come so
        far is kept, and the next call goes on from there.

    Raises
    ------
    DownloadError
        When the makers offer no address for programs, the network or the disk fails, or the file is not the
        one that was published.
    """
    target = folder / spec.file
    if target.is_file():
        return
    if not spec.url:
        raise DownloadError(
            f"The weights of {spec.name} are offered on a page for people only: fetch {spec.file} from "
            f"{spec.page} and put it into {folder}."
        )
    part = folder / (spec.file + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield from _received(spec, part)
        right = matches(part, spec.digest)
        if right:
            os.replace(part, target)
        else:
            part.unlink()
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{spec.file} cannot be put into {folder} ({error.strerror}): make room there, or set "
            "NAPARI_MEDSAM_MODELS to a folder elsewhere."
        ) from error
    if not right:
        raise DownloadError(
            f"What {spec.url} sent is not the file that was published as {spec.file}: it was thrown away, "
            "try again, and report it when it happens twice."
        )


def _received(spec: ModelSpec, part: Path) -> Iterator[tuple[int, int]]:
    import requests

    done = part.stat().st_size if part.exists() else 0
    try:
        # Compressed on the way, a file would have other lengths and offsets.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
        with requests.get(spec.url, headers=headers, stream=True, timeout=TIMEOUT_S) as reply:
            if reply.status_code == NOT_SATISFIABLE:
                # All of it had come before, or more than all: the digest will tell.
                return
            reply.raise_for_status()
            if spec.url.startswith("https:") and not reply.url.startswith("https:"):
                raise DownloadError(
                    f"{spec.url} leads to an address without encryption, which is not followed: fetch "
                    f"{spec.file} from {spec.page} and put it into {part.parent}."
                )
            if reply.status_code != PARTIAL:
                done = 0
            announced = int(reply.headers.get("Content-Length", 0))
            total = done + announced if announced else spec.size_bytes
            _check_room(part.parent, total - done, spec)
            for chunk in reply.iter_content(CHUNK_BYTES):
                _append(chunk, part, done)
                done += len(chunk)
                yield done, total
                if done > MOST_EXPECTED * max(spec.size_bytes, announced):
                    # Without end, it would fill the disk; the digest will tell.
                    return
    except requests.RequestException as error:
        raise DownloadError(
            f"{spec.file} could not be fetched from {spec.url} ({_reason(error)}): try again, it goes on "
            f"where it stopped, or fetch it from {spec.page} and put it into {part.parent}."
        ) from error


def _append(chunk: bytes, part: Path, done: int) -> None:
    # Opened anew each time: who has finished this file meanwhile must not get more behind its end.
    with part.open("r+b" if done else "wb") as file:
        if file.seek(0, os.SEEK_END) != done:
            raise DownloadError(
                f"{part} is written by another program, too: wait until that has fetched it, or try again."
            )
        file.write(chunk)


def _check_room(folder: Path, needed_bytes: int, spec: ModelSpec) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DownloadError(
            f"{spec.file} needs {needed_bytes / 1e6:.0f} MB more and {folder} has {free / 1e6:.0f} MB free: "
            "make room, or set NAPARI_MEDSAM_MODELS to a folder elsewhere."
        )


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    return type(error).__name__


def matches(path: Path, digest: str) -> bool:
    """Whether a file has a digest, ``algorithm:hexadecimal``; True when none is known."""
    import pooch

    return not digest or pooch.file_hash(str(path), alg=digest.partition(":")[0]) == digest.partition(":")[2]
