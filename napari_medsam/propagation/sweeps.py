"""All slices of a range: a sweep up, a sweep down, and what both say of the slices between key slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, pi, sqrt

import numpy as np

from napari_medsam.metrics import dice
from napari_medsam.postprocess import interpolate_slices
from napari_medsam.prompts import SliceIndex
from napari_medsam.propagation.carrier import StopRules, Track, advance_all, settle
from napari_medsam.propagation.shapes import Region, around, is_scattered, signed_distance_mm, whole
from napari_medsam.propagation.values import BOTH_SIDES, INTERPOLATED, Mask, SliceMask, SliceSource

DIFFERENT = 0.8
"""Below this Dice, that the two sides differ is worth saying."""
SHAPE_DICE, SHAPE_FADING = 0.97, 0.2
"""Dice of the shape half way between two key slices, and how it falls with the gap in object radii.

Measured with the references of real cases as key slices: 0.94 at a gap of a quarter of the radius, 0.83 at
three quarters, 0.70 at one and a half, 0.54 at three.
"""
LOST_SHARE = 0.5
"""Score of a slice on which the model lost the object, as a share of the neighbours'."""

Keys = Mapping[int, Mapping[int, SliceMask]]


def propagate(
    source: SliceSource,
    starts: Sequence[SliceMask],
    first: int,
    last: int,
    spacing: Sequence[float],
    rules: StopRules | None = None,
    ask_twice: bool = True,
) -> Iterator[SliceMask]:
    """Carry objects from their key slices through a range of slices.

    Before its first key slice and after its last one, an object is carried until it ends. Between two key
    slices it is carried from both, and the masks are fused, the nearer and the better one counting more;
    where the model loses it from both sides, the gap is filled by blending shapes. A key slice with an empty
    mask says that the object is not there: nothing is carried from it or past it.

    Parameters
    ----------
    source
        Where slices and predictions come from.
    starts
        Key slices of one axis, any number for each object; not yielded again.
    first, last
        Slices to stay within, inclusive; `starts` lie within.
    spacing
        mm (z, y, x) of the volume.
    rules
        When an object counts as ended.
    ask_twice
        Whether to ask for second opinions (`SliceMask.second_opinion`).

    Yields
    ------
    SliceMask
        At most one for each object and slice. The one after the object's last has ``stopped`` set and an
        empty mask. Where several objects meet, every pixel is given to one of them; see `settle`.
    """
    keys: dict[int, dict[int, SliceMask]] = {}
    for start in starts:
        keys.setdefault(start.label, {})[start.where.index] = start
    if not keys:
        return
    sweep = _Sweep(source, keys, starts[0].where.axis, spacing, rules or StopRules(), ask_twice)
    lowest = min(min(each) for each in keys.values())
    highest = max(max(each) for each in keys.values())
    waiting: dict[int, list[_Kept]] = {}
    for index, found in sweep.through(range(lowest, last + 1)):
        if index > highest:
            yield from settle(found)
        elif found:
            waiting[index] = [_Kept.of(part) for part in found]
    join = _Join(keys, waiting, starts[0].where.axis, spacing)
    for index, found in sweep.through(range(highest, first - 1, -1)):
        yield from settle(join.at(index, found))


class _Sweep:
    """One pass over slices in one direction."""

    def __init__(
        self,
        source: SliceSource,
        keys: Keys,
        axis: int,
        spacing: Sequence[float],
        rules: StopRules,
        ask_twice: bool,
    ) -> None:
        self.source, self.keys, self.axis = source, keys, axis
        self.spacing, self.rules, self.ask_twice = spacing, rules, ask_twice

    def through(self, order: range) -> Iterator[tuple[int, list[SliceMask]]]:
        """Yield every slice in order, with what was found on it of the objects that are on their way."""
        tracks: dict[int, Track] = {}
        for index in order:
            reached = {label: each[index] for label, each in self.keys.items() if index in each}
            moving = [track for label, track in tracks.items() if label not in reached]
            where = SliceIndex(self.axis, index)
            found = advance_all(self.source, where, moving) if moving else []
            tracks = {track.start.label: track for track in moving if not track.ended}
            for label, key in reached.items():
                if key.mask.any():
                    # Between two key slices both of them say what the object is.
                    last = not any((other - index) * order.step > 0 for other in self.keys[label])
                    ask_twice = self.ask_twice and last
                    tracks[label] = Track(self.source, key, self.spacing, self.rules, ask_twice)
            yield index, found


@dataclass(frozen=True, eq=False)
class _Kept:
    """A `SliceMask` with its mask cut down to the object, to be kept by the hundred."""

    part: SliceMask
    region: Region
    shape: tuple[int, ...]

    @classmethod
    def of(cls, part: SliceMask) -> _Kept:
        region = around(part.mask, (0, 0)) if part.mask.any() else (slice(0), slice(0))
        return cls(replace(part, mask=part.mask[region].copy()), region, part.mask.shape)

    def restored(self) -> SliceMask:
        return replace(self.part, mask=whole(self.region, self.part.mask, self.shape))


@dataclass(frozen=True, eq=False)
class _Gap:
    """The shapes between two key slices, cut down to the object, and the Dice that such shapes have."""

    sides: tuple[int, int]
    region: Region
    masks: Mask
    worth: float


class _Join:
    """What the sweep up has left waiting, and how it is joined with what the sweep down finds."""

    def __init__(
        self, keys: Keys, waiting: Mapping[int, list[_Kept]], axis: int, spacing: Sequence[float]
    ) -> None:
        self.keys = keys
        self._slice_mm = float(spacing[axis])
        y, x = (float(mm) for k, mm in enumerate(spacing) if k != axis)
        self._pixel_mm = (y, x)
        self._below = {(kept.part.label, index): kept for index, found in waiting.items() for kept in found}
        self._above: dict[int, SliceMask] = {}
        self._blends: dict[tuple[int, int], SliceMask] = {}
        self._gaps: dict[int, _Gap] = {}

    def at(self, index: int, found: Sequence[SliceMask]) -> list[SliceMask]:
        """Return each object's mask on a slice, given what the sweep down has found there."""
        from_above = {part.label: part for part in found}
        joined = []
        for label, keys in self.keys.items():
            kept = self._below.pop((label, index), None)
            below, above = kept.restored() if kept else None, from_above.get(label)
            part = keys.get(index) or self._joined(label, index, below, above)
            if part is not None and index not in keys:
                joined.append(part)
            if part is not None and not part.stopped:
                self._above[label] = part
        return joined

    def _joined(
        self, label: int, index: int, below: SliceMask | None, above: SliceMask | None
    ) -> SliceMask | None:
        sides = self._sides(label, index)
        if sides is None:
            return below or above
        # The nearer a side is, the more it counts.
        share = (index - sides[0]) / (sides[1] - sides[0])
        alive = [(p, w) for p, w in ((below, 1 - share), (above, share)) if p is not None and not p.stopped]
        return self._fused(alive, sides) if alive else self._blended(label, index, sides[0])

    def _sides(self, label: int, index: int) -> tuple[int, int] | None:
        """Return the key slices on both sides, when the object is on both."""
        below = max((k for k in self.keys[label] if k < index), default=None)
        above = min((k for k in self.keys[label] if k > index), default=None)
        if below is None or above is None:
            return None
        shown = all(self.keys[label][k].mask.any() for k in (below, above))
        return (below, above) if shown else None

    def _fused(self, alive: Sequence[tuple[SliceMask, float]], sides: tuple[int, int]) -> SliceMask:
        """Blend what was carried, each with its nearness, and the shape between the key slices."""
        first = alive[0][0]
        opinions = [(part.mask, part.score, near) for part, near in alive]
        scattered = all(is_scattered(self.keys[first.label][k].mask) for k in sides)
        if not scattered:
            opinions.append((*self._between(first.label, sides, first.where.index), 0.5))
        union = np.logical_or.reduce([mask for mask, _, _ in opinions])
        region = around(union, (1, 1))
        # By the odds of being right: a good opinion outvotes two poor ones.
        says = np.array([near * (score + 0.01) / (1.01 - score) for _, score, near in opinions])
        says /= says.sum()
        depths = np.stack([signed_distance_mm(mask[region], self._pixel_mm) for mask, _, _ in opinions])
        if scattered:
            # A lesion that one side has not found is far outside of that side's mask, however near it is.
            depths = np.sign(depths)
        blend = whole(region, np.tensordot(says, depths, 1) > 0, union.shape)
        score = float(says @ [(score + dice(blend, mask)) / 2 for mask, score, _ in opinions])
        same = dice(alive[0][0].mask, alive[-1][0].mask)
        differ = f"the masks carried from both sides differ (Dice {same:.2f})"
        weaker = min((part for part, _ in alive), key=lambda part: part.score)
        doubt = weaker.doubt if same >= DIFFERENT else differ
        return SliceMask(first.where, first.label, blend, score, BOTH_SIDES, doubt=doubt)

    def _between(self, label: int, sides: tuple[int, int], index: int) -> tuple[Mask, float]:
        """Return the shape between two key slices, and the Dice that such shapes have on average."""
        lower, upper = (self.keys[label][k] for k in sides)
        gap = self._gaps.get(label)
        if gap is None or gap.sides != sides:
            region = around(lower.mask | upper.mask, (1, 1))
            n = sides[1] - sides[0] - 1
            masks = interpolate_slices(lower.mask[region], upper.mask[region], n, self._pixel_mm)
            px = (int(lower.mask.sum()) + int(upper.mask.sum())) / 2
            radii = (n + 1) * self._slice_mm / sqrt(px * self._pixel_mm[0] * self._pixel_mm[1] / pi)
            worth = min(lower.score, upper.score) * SHAPE_DICE * exp(-SHAPE_FADING * radii)
            gap = self._gaps[label] = _Gap(sides, region, masks, worth)
        return whole(gap.region, gap.masks[index - sides[0] - 1], lower.mask.shape), gap.worth

    def _blended(self, label: int, index: int, lower: int) -> SliceMask:
        """Fill a gap between what was found below and above it, down to key slice `lower`."""
        if (label, index) not in self._blends:
            above = self._above[label]
            end = next(k for k in range(index - 1, lower - 1, -1) if k == lower or self._is_found(label, k))
            below = self.keys[label].get(end) or self._below[label, end].restored()
            n = above.where.index - end - 1
            masks = interpolate_slices(below.mask, above.mask, n, self._pixel_mm)
            score = LOST_SHARE * min(below.score, above.score)
            for offset, mask in enumerate(masks, start=1):
                self._blends[label, end + offset] = _blend(above, end + offset, mask, score)
        return self._blends.pop((label, index))

    def _is_found(self, label: int, index: int) -> bool:
        kept = self._below.get((label, index))
        return kept is not None and not kept.part.stopped


def _blend(like: SliceMask, index: int, mask: Mask, score: float) -> SliceMask:
    where = SliceIndex(like.where.axis, index)
    lost = "the model lost the object here, and its shape was blended from the slices around"
    return SliceMask(where, like.label, mask, score, INTERPOLATED, doubt=lost)
