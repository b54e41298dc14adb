"""Work in progress on disk, as it is done, and what is left of work that ended in a crash.

Every session has a folder of its own below the user's data folder: a log of all that was done, and a lock
that the operating system lets go when the process ends, however it ends. A log without anybody who holds its
lock is what a crash has left.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_medsam.journal import Action, Change, JournalError, Step, VoxelChange
from napari_medsam.journal.json_form import (
    action_from_json,
    action_to_json,
    change_from_json,
    change_to_json,
)
from napari_medsam.journal.log import log_line, read_log
from napari_medsam.prompts import PromptError
from napari_medsam.prompts.json_form import geometry_from_json, geometry_to_json
from napari_medsam.session_file import SessionContent, content_from_json
from napari_medsam.volume import voxel_digest

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from napari_medsam.geometry import Volume
    from napari_medsam.session import Session

FOLDER_VARIABLE = "NAPARI_MEDSAM_RECOVERY"
LOG_VERSION = 1
RETRY_S = 5.0
"""How long after a disk refused to take the log it is asked again."""
QUIET_S = 3.0
"""How long nobody has done anything before the voxels of the image are looked at."""
_FORMAT = "napari-medsam work"
_LOG, _LOCK = "work.log", "lock"


def recovery_folder() -> Path:
    """Return where work in progress is kept.

    It is the folder that the environment variable ``NAPARI_MEDSAM_RECOVERY`` names, or else one among the
    user's data.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("napari-medsam") / "recovery"


class Autosave:
    """Writes what is done in a session to disk, in a thread of its own; a `Follower` of its journal.

    Nothing is on disk before the first step. A disk that is full or gone does not stop anybody: it is tried
    again, and what could not be written waits in memory.

    Parameters
    ----------
    session
        What is done in it from now on is written, after what was done so far.
    folder
        As of `recovery_folder`; made readable for its owner alone.
    image_name
        What the image is called, for people.
    failed
        Told in the thread why nothing can be written, once until it can be again.
    leftover
        Work to go on with, instead of beginning anew; it must have been taken over by the session.
    document
        Session file to go on with; its content must have been taken over by the session.
    """

    def __init__(
        self,
        session: Session,
        folder: Path,
        image_name: str,
        failed: Callable[[str], None] = lambda reason: None,
        *,
        leftover: Leftover | None = None,
        document: dict[str, Any] | None = None,
    ) -> None:
        self.session, self.image_name, self._failed = session, image_name, failed
        self._place = leftover.folder if leftover else folder / _new_name()
        self._end = leftover.end if leftover else 0
        self._is_known = leftover is not None
        self._lock: BaseFileLock | None = leftover.lock if leftover else None
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        if leftover is None:
            known = [thing for step in session.journal.steps for thing in (step.action, *step.changes)]
            begin = (
                [*known, {"oldest": session.journal.oldest}] if document is None else [{"session": document}]
            )
            for thing in (self._head(), *begin):
                self._queue.put(thing)
        session.journal.follower = self

    @property
    def has_begun(self) -> bool:
        """Whether anything was done that is worth keeping."""
        return self._thread is not None

    def began(self, action: Action) -> None:
        """See `Follower`."""
        self._put(action)

    def changed(self, change: Change) -> None:
        """See `Follower`."""
        self._put(change)

    def moved(self, position: int) -> None:
        """See `Follower`."""
        self._put({"position": position})

    def closed(self) -> None:
        """See `Follower`."""
        self._put({"oldest": self.session.journal.position})

    def saved(self) -> None:
        """Write down that all that was done so far is in a file of the user's."""
        if self.has_begun:
            self._put({"saved": True})

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all is on disk; return whether it is."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout_s)

    def close(self, *, keep: bool) -> None:
        """Write no more; what is on disk goes unless it is to be kept."""
        if self.session.journal.follower is self:
            self.session.journal.follower = None
        if self._thread is not None:
            self._put(None)
            self._thread.join()
        if self._lock is not None:
            self._lock.release()
        if not keep:
            shutil.rmtree(self._place, ignore_errors=True)

    def _put(self, thing: Any) -> None:
        self._queue.put(thing)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="napari-medsam-autosave", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        waiting, is_told, is_last = b"", False, False
        asked: list[threading.Event] = []
        while not is_last:
            things = self._next(RETRY_S if waiting else None if self._is_known else QUIET_S)
            is_last = None in things
            asked += [thing for thing in things if isinstance(thing, threading.Event)]
            waiting += b"".join(_line(thing) for thing in things)
            try:
                self._append(waiting)
                waiting, is_told = b"", False
                if not self._is_known and (is_last or asked or not things):
                    # Not while somebody draws: reading a large volume takes a core for a while.
                    self._append(log_line({"digest": voxel_digest(self.session.volume)}))
                    self._is_known = True
            except OSError as error:
                if not is_told:
                    self._failed(error.strerror or type(error).__name__)
                is_told = True
                continue
            while self._is_known and asked:
                asked.pop().set()

    def _next(self, timeout_s: float | None) -> list[Any]:
        found = []
        with suppress(Empty):
            found.append(self._queue.get(timeout=timeout_s))
            while True:
                found.append(self._queue.get_nowait())
        return found

    def _append(self, lines: bytes) -> None:
        if self._lock is None:
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(self._place)
        if not lines:
            return
        with open(self._place / _LOG, "r+b" if (self._place / _LOG).exists() else "w+b") as file:
            # What an earlier try has left of a line is written over.
            file.seek(self._end)
            file.truncate()
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._end += len(lines)

    def _head(self) -> dict[str, Any]:
        volume = self.session.volume
        return {
            "format": _FORMAT,
            "version": LOG_VERSION,
            "image": self.image_name,
            "geometry": geometry_to_json(volume.geometry),
        }


@dataclass(eq=False)
class Leftover:
    """Work that somebody has not ended; nobody else can take it as long as this one holds its lock.

    Attributes
    ----------
    folder, lock, end
        Where it is, who holds it, and where in its log the last whole line ends.
    ended : datetime
        When the last step was written, local time.
    content : SessionContent
        What it came to.
    position, oldest : int
        How many of its steps are done, and as far back as one can go.
    is_saved
        Whether all of it is in a file of the user's.
    """

    folder: Path
    lock: BaseFileLock
    end: int
    ended: datetime
    content: SessionContent
    position: int = 0
    oldest: int = 0
    is_saved: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was done that one could want back."""
        is_untouched = self.position <= self.oldest and len(self.content.steps) == self.position
        return self.is_saved or (is_untouched and not self.content.labels.any())

    def take(self, line: dict[str, Any], name: str, volume: Volume) -> None:
        """Follow one more line of the log; an error of any kind when it does not fit."""
        steps = self.content.steps
        if "digest" not in line:
            self.is_saved = "saved" in line
        if "action" in line:
            del steps[self.position :]
            steps.append(Step(action_from_json(line["action"], name)))
            self.position += 1
        elif "change" in line:
            change = change_from_json(line["change"], name)
            if isinstance(change, VoxelChange):
                change.put(self.content.labels, forward=True)
            steps[self.position - 1].changes.append(change)
        elif "position" in line:
            self.position = _moved(self.content.labels, steps, self.position, int(line["position"]))
        elif "oldest" in line:
            self.oldest = int(line["oldest"])
        elif "session" in line:
            self.content = content_from_json(line["session"], volume)
            self.position = self.oldest = len(self.content.steps)

    def take_over(self, session: Session) -> None:
        """Put the work in place of all that a session on the same image holds, with its past."""
        self.content.take_over(session, self.position, self.oldest)

    def release(self) -> None:
        """Leave it for another time."""
        self.lock.release()

    def discard(self) -> None:
        """Delete it."""
        self.lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)


def leftovers(folder: Path, volume: Volume, image_name: str) -> Iterator[Leftover]:
    """Find what a crash has left of work on an image, the latest first.

    Parameters
    ----------
    folder
        As of `recovery_folder`.
    volume
        The image: work on the same voxels on the same grid is found, wherever the image came from.
    image_name
        Tells whether it is the image where the crash came before the voxels were known.

    Yields
    ------
    Leftover
        Locked: `release` or `discard` it, or give it to an `Autosave`. Work in which nothing was done is
        deleted; a log that another version of this program wrote is left alone.
    """
    try:
        places = sorted((each for each in folder.iterdir() if (each / _LOG).is_file()), reverse=True)
    except OSError:
        return
    digest = ""
    for place in places:
        with suppress(OSError, PromptError, JournalError, _NotThis):
            name = _name_of_image(place, volume)
            digest = digest or voxel_digest(volume)
            lock = _lock(place)
            try:
                found = _read(place, lock, volume, digest, is_named=name == image_name)
            except BaseException:
                lock.release()
                raise
            if found.is_empty:
                found.discard()
            else:
                yield found


class _NotThis(Exception):
    """Work on another image, or somebody else's just now."""


def _new_name() -> str:
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def _lock(place: Path) -> BaseFileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(place / _LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _NotThis from None
    return lock


def _line(thing: Any) -> bytes:
    if isinstance(thing, Action):
        return log_line({"action": action_to_json(thing)})
    if isinstance(thing, dict):
        return log_line(thing)
    if thing is None or isinstance(thing, threading.Event):
        return b""
    return log_line({"change": change_to_json(thing)})


def _name_of_image(place: Path, volume: Volume) -> str:
    for head, _ in read_log(place / _LOG):
        is_ours = head.get("format") == _FORMAT and head.get("version") == LOG_VERSION
        if is_ours and not volume.geometry.difference(geometry_from_json(head.get("geometry"))):
            return str(head.get("image"))
        break
    raise _NotThis


def _read(place: Path, lock: BaseFileLock, volume: Volume, digest: str, *, is_named: bool) -> Leftover:
    """Read a log as far as it goes."""
    ended = datetime.fromtimestamp((place / _LOG).stat().st_mtime).astimezone()
    found = Leftover(place, lock, 0, ended, SessionContent(np.zeros(volume.geometry.shape, np.uint16)))
    is_same = False
    for number, (line, end) in enumerate(read_log(place / _LOG)):
        if "digest" in line:
            is_same = line["digest"] == digest
            if not is_same:
                raise _NotThis
        try:
            found.take(line, f"line {number + 1}", volume)
        except (PromptError, JournalError, ValueError, TypeError, IndexError):
            # The line is whole, but not ours: what comes after it would not fit.
            break
        found.end = end
    if not is_same and not is_named:
        raise _NotThis
    return found


def _moved(labels: NDArray[np.uint16], steps: list[Step], position: int, wanted: int) -> int:
    if not 0 <= wanted <= len(steps):
        raise JournalError(f"There is no step {wanted}.")
    while position != wanted:
        forward = wanted > position
        step = steps[position] if forward else steps[position - 1]
        for change in step.voxels if forward else reversed(step.voxels):
            change.put(labels, forward=forward)
        position += 1 if forward else -1
    return position
