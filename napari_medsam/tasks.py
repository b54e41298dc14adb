"""What a session can be asked to compute, as actions of its journal: asked for now, or done again later.

Whoever computes, a window's thread, the command line or `napari_medsam.replay`, gets the masks of an action
from `parts_of` and writes them with `Session.write`, within `Session.doing`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_medsam.correction import OPERATIONS, correct, interpolate
from napari_medsam.journal import Action, Do, JournalError
from napari_medsam.propagation import PROMPT, SliceMask
from napari_medsam.windowing import Window

if TYPE_CHECKING:
    from napari_medsam.automatic import Proposal, Proposals
    from napari_medsam.predictor import SlicePredictor
    from napari_medsam.prompts import SliceIndex
    from napari_medsam.session import Session

INTERPOLATE = "interpolate"
LARGEST_GRID = 128
"""Points along each side of a slice, when everything on it is looked for."""


def prompt(session: Session, label: int, where: SliceIndex) -> Action:
    """Answer an object's prompts on a slice; where there are none any more, its mask goes."""
    return session.journal.action(Do.PROMPT, label, where, **_seen(session))


def reading(session: Session, label: int, where: SliceIndex, number: int) -> Action:
    """Take one of `Session.candidates`, counted from 0, for what the prompts mean."""
    return session.journal.action(Do.READING, label, where, number=number, **_seen(session))


def carry(
    session: Session, axis: int, labels: Iterable[int], first: int, last: int, *, planes: bool = False
) -> Action:
    """Carry objects through slices `first` to `last` along an axis; along all three when `planes`."""
    several = list(labels)
    return session.journal.action(
        Do.CARRY,
        several[0],
        axis=axis,
        labels=several,
        first=first,
        last=last,
        planes=planes,
        **_seen(session),
    )


def recompute(session: Session, label: int, where: SliceIndex) -> Action:
    """Carry an object anew from one slice up to its neighbouring key slices."""
    return session.journal.action(Do.RECOMPUTE, label, where, **_seen(session))


def correction(session: Session, label: int, where: SliceIndex, operation: str, *, whole: bool) -> Action:
    """Correct an object by one of `napari_medsam.correction.OPERATIONS`, or fill its gaps."""
    return session.journal.action(
        Do.CORRECT, label, where, operation=operation, whole=whole, **_rule(session)
    )


def propose(session: Session, where: SliceIndex, grid: int, min_score: float, min_stability: float) -> Action:
    """Look for everything on a slice, see `napari_medsam.automatic.propose_masks`."""
    limits = {"min_score": min_score, "min_stability": min_stability}
    return session.journal.action(Do.PROPOSE, 0, where, grid=grid, **limits, **_seen(session))


def run(session: Session, action: Action) -> Iterator[SliceMask]:
    """Compute the masks of an action, see `parts_of`, and write each before it is yielded."""
    for part in parts_of(session, action):
        with session.doing(action):
            session.write(part)
        yield part


def parts_of(session: Session, action: Action) -> Iterator[SliceMask]:
    """Compute the masks of an action; nothing is written.

    Raises
    ------
    JournalError
        When the action lacks what it takes to compute it.
    PromptError
        As the session's own methods do.
    """
    label, where = action.label, action.where
    if action.kind == Do.CARRY:
        axis, first, last = (_number(action, key) for key in ("axis", "first", "last"))
        if action.details.get("planes"):
            return session.propagate_in_planes(axis, label, first, last)
        return session.propagate(axis, _labels(action), first, last)
    if where is None:
        raise JournalError(f"Step {action.run} does not say which slice it is about.")
    where.checked(session.labels.shape)
    if action.kind == Do.PROMPT:
        return _answer(session, label, where)
    if action.kind == Do.READING:
        return _candidate(session, label, where, _number(action, "number"))
    if action.kind == Do.RECOMPUTE:
        return session.recompute(where, label)
    if action.kind == Do.PROPOSE:
        return _proposed(session, action, where)
    whole, operation = action.details.get("whole") is True, action.details.get("operation")
    if operation == INTERPOLATE:
        return interpolate(session.labels, label, where, whole=whole)
    if operation not in OPERATIONS:
        raise JournalError(f"Step {action.run} applies {reprlib.repr(operation)}, which is no correction.")
    return correct(session.labels, label, str(operation), where, whole=whole)


def search(session: Session, action: Action) -> Iterator[Proposals]:
    """Look for everything on the slice of `propose`, step by step; errors as of `parts_of`."""
    from napari_medsam.automatic import ProposalFilters, propose_masks

    if action.where is None:
        raise JournalError(f"Step {action.run} does not say which slice it is about.")
    where = action.where.checked(session.labels.shape)
    side = _number(action, "grid")
    if not 1 <= side <= LARGEST_GRID:
        raise JournalError(f"Step {action.run} asks {side} points a side, expected 1 to {LARGEST_GRID}.")
    rules = ProposalFilters(_share(action, "min_score"), _share(action, "min_stability"))
    pixels = session.image(where)
    session.predictor.set_slice(pixels)
    predictor = cast("SlicePredictor", session.predictor)
    return propose_masks(predictor, (pixels.shape[0], pixels.shape[1]), side, filters=rules)


def masks_of(found: Sequence[Proposal], where: SliceIndex) -> Iterator[SliceMask]:
    """Masks of proposals, the first of which is object 1; in an order in which smaller ones lie on top."""
    for label, each in sorted(enumerate(found, start=1), key=lambda pair: -int(pair[1].mask.sum())):
        yield SliceMask(where, label, each.mask, each.score, PROMPT)


def shown_name(model_name: str) -> str:
    """Return a model's name as a journal says it: without the folder of a file of the user's own."""
    family, equals, path = model_name.rpartition("=")
    return f"{family}{equals}{Path(path).name}"


def window_of(action: Action) -> Window | None:
    """Which intensities the model saw when an action was done; None where it was not asked.

    Raises
    ------
    JournalError
        When what the action says is no window.
    """
    return window_from_json(action.details.get("window"), f"The window of step {action.run}")


def window_from_json(value: Any, name: str) -> Window | None:
    """Read [lower, upper, name]; None for None, JournalError when it is no window."""
    if value is None:
        return None
    try:
        lower, upper, called = value
        return Window(float(lower), float(upper), str(called))
    except (TypeError, ValueError):
        raise JournalError(f"{name} is not usable: {reprlib.repr(value)}.") from None


def _rule(session: Session) -> Mapping[str, Any]:
    return {"protect_others": session.protect_others}


def _seen(session: Session) -> Mapping[str, Any]:
    window = session.window
    model = shown_name(session.model_name)
    return {
        **_rule(session),
        "window": [float(window.lower), float(window.upper), window.name],
        **({"model": model} if model else {}),
    }


def _answer(session: Session, label: int, where: SliceIndex) -> Iterator[SliceMask]:
    known = session.objects.get(label)
    if known is not None and where in known.slices:
        yield session.segment(where, label)
    else:
        yield SliceMask(where, label, np.zeros(where.take(session.labels).shape, bool), 1.0, PROMPT)


def _proposed(session: Session, action: Action, where: SliceIndex) -> Iterator[SliceMask]:
    found: Sequence[Proposal] = ()
    for step in search(session, action):
        found = step.found
    yield from masks_of(found, where)


def _candidate(session: Session, label: int, where: SliceIndex, number: int) -> Iterator[SliceMask]:
    found = session.candidates(where, label)
    if number >= len(found):
        raise JournalError(
            f"The prompts on slice {where.index} have {len(found)} readings, not {number + 1}."
        )
    yield found[number]


def _number(action: Action, key: str) -> int:
    value = action.details.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise JournalError(f"Step {action.run} has no usable {key}: {reprlib.repr(value)}.")
    return value


def _share(action: Action, key: str) -> float:
    value = action.details.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise JournalError(f"Step {action.run} has no usable {key}: {reprlib.repr(value)}.")
    return float(value)


def _labels(action: Action) -> list[int]:
    value = action.details.get("labels")
    if not isinstance(value, list) or not value or not all(isinstance(each, int) for each in value):
        raise JournalError(f"Step {action.run} has no usable labels: {reprlib.repr(value)}.")
    return value
