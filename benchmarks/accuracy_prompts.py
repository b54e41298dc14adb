"""Prompts drawn from an object's true mask, as somebody would give them: boxes, clicks, corrections.

What is random depends on the seed, the case, the label and the slice alone: every model gets the same first
prompts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from napari_medsam.postprocess import largest_component
from napari_medsam.prompts import BACKGROUND, FOREGROUND, Box, SlicePrompts, box_from_mask, point_from_mask

OUTWARDS = np.array([-1, -1, 1, 1])
"""Direction of each side of a box (y0, x0, y1, x1)."""


@dataclass(frozen=True, eq=False)
class Target:
    """One object on one slice.

    Attributes
    ----------
    case
        Name of its case.
    label
        Its value in the label map.
    index
        Of the slice.
    mask : numpy.ndarray of bool
        (H, W), not empty.
    seed
        Of the whole run.
    """

    case: str
    label: int
    index: int
    mask: NDArray[np.bool_]
    seed: int

    def random(self) -> np.random.Generator:
        """Start the random numbers of this object."""
        name = f"{self.case}|{self.label}|{self.index}"
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    @property
    def box(self) -> Box:
        """The tight box."""
        box = box_from_mask(self.mask)
        assert box is not None
        return box


def looser_box(target: Target, most_px: int, long_side_px: int) -> SlicePrompts:
    """Move each side of the tight box outwards by 0 to `most_px` whole pixels, all equally likely.

    They are pixels of the slice resized to `long_side_px` on its longer side: 5 of 256 are LiteMedSAM's
    protocol, 20 of 1024 MedSAM's.
    """
    # x before y, as in those protocols: who has their boxes for a seed gets the same ones here.
    x0, y0, x1, y1 = target.random().integers(0, most_px + 1, 4)
    scale = max(target.mask.shape) / long_side_px
    return SlicePrompts(tuple(target.box + OUTWARDS * np.rint(np.array([y0, x0, y1, x1]) * scale)))


def sloppy_box(target: Target, share: float) -> SlicePrompts:
    """Move each side of the tight box in or out by up to `share` of the box's length in that direction.

    A larger share moves the same sides further in the same directions.
    """
    y0, x0, y1, x1 = target.box
    lengths = np.array([y1 - y0 + 1, x1 - x0 + 1] * 2)
    return SlicePrompts(tuple(target.box + share * lengths * target.random().uniform(-1, 1, 4)))


def clicks(target: Target, count: int) -> SlicePrompts:
    """Click `count` times into the object, without a look at any mask.

    The first click lies at the deepest place of the largest part. Each further one lies at the deepest place
    of the whole object when the pixels clicked before count as outside, so that clicks spread.
    """
    left = target.mask.copy()
    prompts, part = SlicePrompts(), largest_component(left)
    for _ in range(count):
        point = point_from_mask(part)
        if point is None:
            break
        prompts = prompts.with_point(point, FOREGROUND)
        left[int(point[0]), int(point[1])] = False
        part = left
    return prompts


def corrected(prompts: SlicePrompts, mask: NDArray[np.bool_], target: Target) -> SlicePrompts:
    """Add a click at the deepest place of a mask's largest error; none where there is no error.

    Errors are connected parts of what was missed and of what was taken too much.
    """
    missed = largest_component(target.mask & ~mask)
    taken = largest_component(mask & ~target.mask)
    error, label = (missed, FOREGROUND) if missed.sum() >= taken.sum() else (taken, BACKGROUND)
    point = point_from_mask(error)
    return prompts if point is None else prompts.with_point(point, label)


@dataclass(frozen=True)
class Course:
    """First prompts for an object, and the corrections that follow.

    Attributes
    ----------
    kinds
        Names of what is measured: of the first prompts, after one correction, after two. The first is empty
        where another course measures the same.
    first
        Draws the first prompts.
    needs
        What a model must take.
    shows_mask
        Whether the model is shown its mask before with each correction, beside all prompts so far.
    """

    kinds: tuple[str, ...]
    first: Callable[[Target], SlicePrompts]
    needs: frozenset[str]
    shows_mask: bool = False


TIGHT, BOX, BOX_20 = "tight box", "box (5 of 256 px)", "box (20 of 1024 px)"
BOX_1, BOX_2 = "box + 1 click", "box + 2 clicks"
CLICK, CLICK_1, CLICK_2, CLICKS_3 = "1 click", "1 click + 1", "1 click + 2", "3 clicks"
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
SHOWN = ", mask shown"

_looser = partial(looser_box, most_px=5, long_side_px=256)
_click = partial(clicks, count=1)
_BOX, _POINT = frozenset({"box"}), frozenset({"point"})


def sloppy(share: float) -> str:
    """Return the name of the kind of prompt whose box is off by up to a share of its sides."""
    return f"box off by {share:.0%}" if share else TIGHT


COURSES = (
    Course((TIGHT,), lambda target: SlicePrompts(target.box), _BOX),
    Course((BOX,), _looser, _BOX),
    Course((BOX_20,), partial(looser_box, most_px=20, long_side_px=1024), _BOX),
    Course(("", BOX_1, BOX_2), _looser, _BOX | _POINT),
    Course((CLICK, CLICK_1, CLICK_2), _click, _POINT),
    Course((CLICKS_3,), partial(clicks, count=3), _POINT),
    Course(("", BOX_1 + SHOWN, BOX_2 + SHOWN), _looser, _BOX | _POINT | {"mask"}, shows_mask=True),
    Course(("", CLICK_1 + SHOWN, CLICK_2 + SHOWN), _click, _POINT | {"mask"}, shows_mask=True),
    *(Course((sloppy(share),), partial(sloppy_box, share=share), _BOX) for share in SHARES),
)
"""All that is measured."""

NEEDS: Mapping[str, frozenset[str]] = {kind: c.needs for c in COURSES for kind in c.kinds if kind}
"""What a model must take, for each kind of prompt."""
