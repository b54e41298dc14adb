"""Take objects one slice further: a mask from several opinions and a score, or a reason to stop.

Three things have a say in every pixel: the model's logits from the box of the mask before, and from that mask
itself where the model takes masks; how much the pixel looks like the object (`Appearance`); and how far it
lies inside or outside of the mask before. With the box alone, masks grew from slice to slice: whatever the
model takes too much makes the next box larger.

An object that is scattered on its key slice, as lesions are, has parts on one slice that touch none of the
slice before. There the model is also asked by one box around all that the object was and is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam.metrics import dice, iou
from napari_medsam.postprocess import CRUMB_SHARE, fill_holes, largest_component
from napari_medsam.prompts import FOREGROUND, SliceIndex, SlicePrompts, point_from_mask
from napari_medsam.propagation.appearance import Appearance, contrast
from napari_medsam.propagation.quality import FARTHEST, MOST_DRIFT, Evidence, doubt, estimated_dice
from napari_medsam.propagation.shapes import (
    Region,
    apart,
    around,
    carried_box,
    grown,
    is_scattered,
    parts,
    reach_px,
    signed_distance_mm,
    touching,
    whole,
)
from napari_medsam.propagation.values import PROPAGATED, Mask, SliceMask, SliceSource

if TYPE_CHECKING:
    from napari_medsam.predictor import Prediction

MOST_LOGIT = 5.0
"""A model's certainty beyond this adds nothing."""
LIKENESS_WEIGHT = 5.0
SHAPE_WEIGHT = 0.2
MOST_SHAPE = 3.0
LEARN_FROM = 0.6
"""Estimated Dice from which on a slice is remembered."""
LEAST_AGREEMENT = 0.2
"""Below this Dice, less agreement adds nothing to the drift."""
RIM_PX = 4
SECOND_EVERY = 8
"""Slices from one second opinion to the next: it is about the object, and as dear as carrying it by five."""
NEW_PART_LIKENESS = 1.0
"""On average; at most it is 2. A part that touches nothing has but its brightness to say whose it is."""
NESTED_SHARE = 0.7
"""Share of the smaller of two objects, within the larger, from which on it counts as a part of it."""


@dataclass(frozen=True)
class StopRules:
    """How an object may change from slice to slice, and when it counts as ended.

    Attributes
    ----------
    steepest
        Millimetres by which an outline may move outwards for each millimetre between slices.
    min_dice
        Least estimated Dice of a mask that is still believed, by what is seen on its slice alone (see
        `Evidence.here`).
    max_change
        Largest ratio of areas, either way, between neighbouring slices.
    min_agreement
        Least Dice of neighbouring masks.
    min_area_px
        Least area in pixels.
    """

    steepest: float = 1.5
    min_dice: float = 0.3
    max_change: float = 4.0
    min_agreement: float = 0.2
    min_area_px: int = 6


Request = tuple[SlicePrompts, "Mask | None"]


class Track:
    """One object on its way from a key slice in one direction.

    Parameters
    ----------
    source
        Where slices and predictions come from.
    start
        The key slice and its mask, not empty.
    spacing
        mm (z, y, x) of the volume.
    rules
        When to stop.
    ask_twice
        Whether to ask for second opinions.

    Attributes
    ----------
    ended : bool
        Whether the object was found to have ended.
    """

    def __init__(
        self,
        source: SliceSource,
        start: SliceMask,
        spacing: Sequence[float],
        rules: StopRules,
        ask_twice: bool = True,
    ) -> None:
        axis = start.where.axis
        self.start, self.rules, self.ended = start, rules, False
        self.slice_mm = float(spacing[axis])
        self.pixel_mm = [float(s) for k, s in enumerate(spacing) if k != axis]
        self.radius_mm = sqrt(int(start.mask.sum()) * self.pixel_mm[0] * self.pixel_mm[1] / pi)
        self._reach = reach_px(rules.steepest, self.slice_mm, self.pixel_mm)
        self._mask, self._parts, self._drift = start.mask, [start.mask], 0.0
        image = grey(source.image(start.where))
        self._appearance = Appearance(image, start.mask)
        self._likeness = float(self._appearance.likeness(image)[start.mask].mean())
        self._takes_masks = "mask" in source.supported_prompts
        self._scattered = is_scattered(start.mask)
        self._asks_twice = ask_twice and "point" in source.supported_prompts

    def requests(self) -> list[Request]:
        """Prompts and earlier mask of every question to the model about the next slice."""
        self._parts = parts(self._mask, self.slice_mm, self.pixel_mm)
        asked = [(self._prompts(part), part if self._takes_masks else None) for part in self._parts]
        return [*asked, (self._prompts(self._everywhere()), None)] if self._scattered else asked

    def advance(
        self, where: SliceIndex, image: NDArray[np.float32], found: Sequence[Prediction]
    ) -> SliceMask:
        """Make up the object's mask from the answers to `requests`, and go on from it.

        Parameters
        ----------
        where
            The next slice.
        image : numpy.ndarray
            (H, W), that slice in [0, 1].
        found
            One prediction for each request.
        """
        before = self._mask
        region = around(self._everywhere(), (self._reach[0] + RIM_PX, self._reach[1] + RIM_PX))
        count = len(self._parts)
        logits, model = self._opinion(found[:count], region)
        likeness = self._appearance.likeness(image[region])
        inside_mm = signed_distance_mm(before[region], self.pixel_mm)
        doubtful_mm = self.slice_mm / 2 + sum(self.pixel_mm) / 2
        shape = np.clip(inside_mm / doubtful_mm, -MOST_SHAPE, MOST_SHAPE)
        votes = logits + LIKENESS_WEIGHT * likeness + SHAPE_WEIGHT * shape
        # Brightness may take away what the model found, but adds nothing new: neighbours can look the same.
        possible = ((logits > 0) | before[region]) & grown(before[region], self._reach)
        part = touching((votes > 0) & possible, before[region])
        part = fill_holes(part, CRUMB_SHARE * int(part.sum()))
        judged = self._judged(where, before[region], part, likeness, model)
        for everywhere in found[count:]:
            alike = everywhere.masks[0][region] & (likeness > 0)
            more = part | apart(alike, part, likeness, self.rules.min_area_px, NEW_PART_LIKENESS)
            with_more = self._judged(where, before[region], more, likeness, model)
            # Many new parts at once are a jump like any other; the old ones may go on without them.
            if judged[2] or not with_more[2]:
                part, judged = more, with_more
        seen, here, reason = judged
        mask = whole(region, part, before.shape)
        if seen is None or reason:
            self.ended = True
            nothing = np.zeros_like(mask)
            return SliceMask(where, self.start.label, nothing, 1 - here, reason, stopped=True, evidence=seen)
        self._mask, self._drift = mask, seen.drift
        if here >= LEARN_FROM:
            self._appearance.learn(image, mask)
        score = estimated_dice(seen)
        return SliceMask(where, self.start.label, mask, score, PROPAGATED, doubt=doubt(seen), evidence=seen)

    def wants_second_opinion(self, part: SliceMask) -> bool:
        """Whether the model should be asked about a mask in another way."""
        # Counted through the key slice, not from it: else the slices beside it would have the most to say.
        due = (part.where.index - self.start.where.index) % SECOND_EVERY == 1
        return self._asks_twice and due and not part.stopped

    def _everywhere(self) -> Mask:
        """Where the object may be found next: a scattered one wherever it was on its key slice, too."""
        return self._mask | self.start.mask if self._scattered else self._mask

    def _prompts(self, part: Mask) -> SlicePrompts:
        return SlicePrompts(box=carried_box(part, self.slice_mm, self.pixel_mm))

    def _opinion(self, found: Sequence[Prediction], region: Region) -> tuple[NDArray[np.float32], float]:
        """Logits of the region from all answers, and the model's own estimate of IoU."""
        best, scores, areas = None, [], []
        for part, answer in zip(self._parts, found, strict=True):
            logits = np.clip(answer.logits[0][region], -MOST_LOGIT, MOST_LOGIT)
            if len(self._parts) > 1:
                # What a part's box shows of the neighbours is their own box's business.
                logits = np.where(grown(part[region], self._reach), logits, -MOST_LOGIT)
            best = logits if best is None else np.maximum(best, logits)
            scores.append(float(answer.scores[0]))
            areas.append(int(part.sum()))
        return np.asarray(best, np.float32), float(np.average(scores, weights=areas))

    def _judged(
        self, where: SliceIndex, before: Mask, part: Mask, likeness: NDArray[np.float32], model: float
    ) -> tuple[Evidence | None, float, str]:
        """What speaks for a mask, its estimated Dice by this slice alone, and why the object ends, or ""."""
        seen = self._evidence(where, before, part, likeness, model)
        here = 0.0 if seen is None else estimated_dice(seen.here)
        return seen, here, self._reason_to_stop(int(before.sum()), int(part.sum()), seen, here)

    def _evidence(
        self, where: SliceIndex, before: Mask, mask: Mask, likeness: NDArray[np.float32], model: float
    ) -> Evidence | None:
        """Collect what speaks for a mask; None when it is empty."""
        if not mask.any():
            return None
        inside, edge = contrast(likeness, mask)
        agreement = dice(before, mask)
        far_mm = abs(where.index - self.start.where.index) * self.slice_mm
        return Evidence(
            model=model,
            likeness=inside,
            fading=self._likeness - inside,
            contrast=edge,
            agreement=agreement,
            change=min(abs(log(int(mask.sum()) / int(before.sum()))), 2.0),
            far=min(far_mm / self.radius_mm, FARTHEST),
            start=self.start.score,
            drift=min(self._drift - log(max(agreement, LEAST_AGREEMENT)), MOST_DRIFT),
        )

    def _reason_to_stop(self, before_px: int, area_px: int, seen: Evidence | None, here: float) -> str:
        """Say why the object ends before this slice; "" when it goes on."""
        rules = self.rules
        if seen is None or area_px < rules.min_area_px:
            return f"no more than {area_px} px of the object were found"
        if max(before_px, area_px) > rules.max_change * min(before_px, area_px):
            return f"the area jumped from {before_px} to {area_px} px"
        if seen.agreement < rules.min_agreement:
            return f"the mask moved away: its Dice with the slice before is {seen.agreement:.2f}"
        if here < rules.min_dice:
            return f"the estimated Dice of this slice alone fell to {here:.2f}: {doubt(seen.here)}"
        return ""


def advance_all(source: SliceSource, where: SliceIndex, tracks: Sequence[Track]) -> list[SliceMask]:
    """Take several objects to the same next slice, with all questions to the model in one pass."""
    asked = [track.requests() for track in tracks]
    flat = [request for requests in asked for request in requests]
    answers = iter(source.predict_many(where, [p for p, _ in flat], [m for _, m in flat]))
    image = grey(source.image(where))
    found = [
        track.advance(where, image, [next(answers) for _ in requests])
        for track, requests in zip(tracks, asked, strict=True)
    ]
    return _asked_twice(source, where, tracks, found)


def _asked_twice(
    source: SliceSource, where: SliceIndex, tracks: Sequence[Track], found: Sequence[SliceMask]
) -> list[SliceMask]:
    """Add second opinions to the masks that want one: how well one click finds the same."""
    asked = [n for n, part in enumerate(found) if tracks[n].wants_second_opinion(part)]
    if not asked:
        return list(found)
    largest = [largest_component(found[n].mask) for n in asked]
    answers = source.predict_many(where, [_click(part) for part in largest], [None] * len(asked))
    found = list(found)
    for n, part, answer in zip(asked, largest, answers, strict=True):
        found[n] = replace(found[n], second_opinion=iou(answer.masks[0], part))
    return found


def _click(part: Mask) -> SlicePrompts:
    """One click at the deepest place of a mask that is not empty."""
    point = point_from_mask(part)
    assert point is not None
    return SlicePrompts().with_point(point, FOREGROUND)


def settle(found: Sequence[SliceMask]) -> list[SliceMask]:
    """Give every pixel of one slice to one object only.

    Where two masks meet, the one with the better score keeps the pixels; but of an object that lies within
    another, the inner one does, as somebody who drew both must have meant.
    """
    masks = [part.mask for part in found]
    for i in range(len(found)):
        for j in range(i + 1, len(found)):
            shared = masks[i] & masks[j]
            count = int(shared.sum())
            if not count:
                continue
            sizes = [int(masks[k].sum()) for k in (i, j)]
            if count > NESTED_SHARE * min(sizes):
                loser = i if sizes[0] > sizes[1] else j
            else:
                loser = i if found[i].score < found[j].score else j
            masks[loser] = masks[loser] & ~shared
    return [replace(part, mask=mask) for part, mask in zip(found, masks, strict=True)]


def grey(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the colours, (H, W)."""
    return image if image.ndim == 2 else image.mean(2)
