"""One object seen in all three planes: what two of them agree on.

A mask that was carried along one axis has steps from slice to slice, and leaks where one slice leaks. Carried
along the other two axes as well, from a box around what the first one found, it errs elsewhere. Triplanar
nets (Prasoon et al. 2013, https://doi.org/10.1007/978-3-642-40763-5_31) rest on the same idea.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_medsam.metrics import dice
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.propagation.shapes import carried_box
from napari_medsam.propagation.sweeps import propagate
from napari_medsam.propagation.values import (
    BOTH_SIDES,
    BY_VOTE,
    INTERPOLATED,
    PROMPT,
    PROPAGATED,
    SliceMask,
    SliceSource,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_medsam.propagation.carrier import StopRules

VOTES = 2
ROOM_SHARE = 0.1
"""How far beyond the first plane's ends the others may go, as a share of its extent."""


def vote(
    source: SliceSource,
    parts: Sequence[SliceMask],
    shape: Sequence[int],
    spacing: Sequence[float],
    rules: StopRules | None = None,
) -> Iterator[SliceMask]:
    """Carry an object along the two other axes, and keep what at least two of the three show.

    Parameters
    ----------
    source
        Where slices and predictions come from.
    parts
        What was found along one axis, key slices included.
    shape, spacing
        Voxels and mm (z, y, x) of the volume.
    rules
        When the object counts as ended.

    Yields
    ------
    SliceMask
        Along the axis of `parts`: those that were carried, with the mask that was agreed on; the others as
        they are.
    """
    if not any(part.mask.any() for part in parts):
        yield from parts
        return
    votes = np.zeros(tuple(shape), np.uint8)
    for part in parts:
        part.where.take(votes)[part.mask] += 1
    found = votes > 0
    for axis in {0, 1, 2} - {parts[0].where.axis}:
        for part in _along(source, found, axis, parts[0].label, spacing, rules):
            part.where.take(votes)[part.mask] += 1
    for part in parts:
        if part.reason not in (PROPAGATED, BOTH_SIDES, INTERPOLATED):
            yield part
            continue
        mask = part.where.take(votes) >= VOTES
        score = (part.score + dice(mask, part.mask)) / 2
        yield replace(part, mask=mask, score=score, reason=BY_VOTE)


def _along(
    source: SliceSource,
    found: NDArray[np.bool_],
    axis: int,
    label: int,
    spacing: Sequence[float],
    rules: StopRules | None,
) -> Iterator[SliceMask]:
    """Carry what was found along another axis, from the slice on which it is largest."""
    areas = found.sum(axis=tuple(k for k in range(3) if k != axis))
    shown = np.flatnonzero(areas)
    where = SliceIndex(axis, int(areas.argmax()))
    pixel_mm = [float(s) for k, s in enumerate(spacing) if k != axis]
    box = carried_box(where.take(found), float(spacing[axis]), pixel_mm)
    (answer,) = source.predict_many(where, [SlicePrompts(box)], [None])
    start = SliceMask(where, label, answer.masks[0], float(answer.scores[0]), PROMPT)
    room = round(ROOM_SHARE * (shown[-1] - shown[0] + 1))
    first, last = max(0, int(shown[0]) - room), min(len(areas) - 1, int(shown[-1]) + room)
    yield start
    yield from propagate(source, [start], first, last, spacing, rules, ask_twice=False)
