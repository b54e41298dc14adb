"""Do again what a session file says was done, from the image alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from napari_medsam import tasks
from napari_medsam.journal import Action, FactChange, JournalError, Step, VoxelChange

if TYPE_CHECKING:
    from napari_medsam.propagation import Predictor, SliceMask
    from napari_medsam.session import Session
    from napari_medsam.session_file import SessionContent


@dataclass(frozen=True)
class Difference:
    """How labels that were made again differ from those of the session.

    Attributes
    ----------
    voxels
        How many are different.
    slices : tuple of int
        Where along axis 0.
    """

    voxels: int
    slices: tuple[int, ...]


def replay(
    session: Session, steps: Sequence[Step], load: Callable[[str], Predictor] | None = None
) -> Iterator[int]:
    """Do the steps of a session file again.

    What the model was asked is asked again, and written in the same order; what a person did is taken from
    the file. On the same machine with the same model the labels are the same, bit by bit.

    Parameters
    ----------
    session
        On the same image, with nothing in it. Its predictor is asked, unless `load` gives others.
    steps
        Of `SessionContent`.
    load
        Loads a model by the name that a step gives; called when the name changes. The session's predictor
        answers everything when None.

    Yields
    ------
    int
        How many steps are done.

    Raises
    ------
    JournalError
        When a step lacks what it takes to do it again.
    """
    running: dict[int, tuple[Action, Iterator[SliceMask]]] = {}
    for number, step in enumerate(steps, start=1):
        # The steps of one run belong together, wherever somebody did something else in between.
        action, parts = running.get(step.action.run) or _begun(session, step.action)
        running[step.action.run] = action, parts
        if step.action.kind.is_computed:
            _see(session, action, load)
        with session.doing(action):
            for change in step.changes:
                if isinstance(change, (FactChange, VoxelChange)):
                    session.do_again(change)
                else:
                    for part in islice(parts, change.count):
                        session.write(part)
        yield number


def difference(session: Session, content: SessionContent) -> Difference:
    """Compare labels that were made again with those of the session file."""
    differs = session.labels != content.labels
    slices = np.flatnonzero(differs.any(axis=(1, 2)))
    return Difference(int(np.count_nonzero(differs)), tuple(int(index) for index in slices))


def _begun(session: Session, action: Action) -> tuple[Action, Iterator[SliceMask]]:
    again = session.journal.action(action.kind, action.label, action.where, **action.details)
    return again, _later(session, again)


def _later(session: Session, action: Action) -> Iterator[SliceMask]:
    """Begin to compute when the first mask is wanted: until then the session is not as it was."""
    yield from tasks.parts_of(session, action)


def _see(session: Session, action: Action, load: Callable[[str], Predictor] | None) -> None:
    """Let the model be asked as it was asked then."""
    window, name = tasks.window_of(action), action.details.get("model", "")
    session.protect_others = action.details.get("protect_others", True) is True
    session.window = window or session.window
    if not isinstance(name, str):
        raise JournalError(f"Step {action.run} has no usable model: {name!r}.")
    if load is not None and name and name != session.model_name:
        session.predictor, session.model_name = load(name), name
