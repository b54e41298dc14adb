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
from scipy.ndimage import distance_transform_edt
from skimage.graph import MCP_Geometric

from napari_medsam.postprocess import largest_component
from napari_medsam.prompts import (
    BACKGROUND,
    FOREGROUND,
    Box,
    SlicePrompts,
    box_from_mask,
    point_from_mask,
    scribble_points,
)

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
    """Add a click at the deepest place of a mask's largest error; none where there is no error."""
    error, label = _largest_error(mask, target)
    point = point_from_mask(error)
    return prompts if point is None else prompts.with_point(point, label)


def scribble(target: Target) -> SlicePrompts:
    """Scribble along the middle of the object's largest part."""
    return _scribbled(SlicePrompts(), largest_component(target.mask), FOREGROUND)


def scribbled_over(prompts: SlicePrompts, mask: NDArray[np.bool_], target: Target) -> SlicePrompts:
    """Scribble along the middle of a mask's largest error; nothing where there is no error."""
    error, label = _largest_error(mask, target)
    return _scribbled(prompts, error, label) if error.any() else prompts


def middle_line(part: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Pixels (n, 2) of the way through the middle of a connected part, (H, W), that is not empty.

    It joins two ends of what lies at least half as deep in the part as its deepest place.
    """
    depth = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    core = largest_component(depth >= max(1.0, depth.max() / 2))
    within = MCP_Geometric(np.where(core, 1.0, np.inf))
    start = end = tuple(np.argwhere(core)[0])
    for _ in range(2):
        far, _ = within.find_costs([end])
        start, end = end, np.unravel_index(np.where(np.isfinite(far), far, -1).argmax(), far.shape)
    # The deeper, the shorter: hands keep away from outlines.
    way = MCP_Geometric(np.where(part, 1 / np.maximum(depth, 0.5) ** 2, np.inf))
    way.find_costs([start], [end])
    return np.array(way.traceback(end))


def _scribbled(prompts: SlicePrompts, part: NDArray[np.bool_], label: int) -> SlicePrompts:
    line = middle_line(part)
    for place in scribble_points(line):
        # Between two pixels that touch at a corner lies one that may not be of the part.
        y, x = line[np.abs(line - place).sum(1).argmin()]
        prompts = prompts.with_point((float(y), float(x)), label)
    return prompts


def _largest_error(mask: NDArray[np.bool_], target: Target) -> tuple[NDArray[np.bool_], int]:
    """Return the largest part of what was missed or taken too much, and the label it should have."""
    missed = largest_component(target.mask & ~mask)
    taken = largest_component(mask & ~target.mask)
    return (missed, FOREGROUND) if missed.sum() >= taken.sum() else (taken, BACKGROUND)


@dataclass(frozen=True)
class Course:
    """First prompts for an object, and the corrections that follow.

    Attributes
    ----------
    kinds
        Names of what is measured: of the first prompts, after one correction, after two and so on. Empty
        where another course measures the same, and where nobody needs the number.
    first
        Draws the first prompts.
    needs
        What a model must take.
    shows_mask
        Whether the model is shown its mask before with each correction, beside all prompts so far.
    correct
        Adds the next correction to the prompts, given the mask and the object.
    """

    kinds: tuple[str, ...]
    first: Callable[[Target], SlicePrompts]
    needs: frozenset[str]
    shows_mask: bool = False
    correct: Callable[[SlicePrompts, NDArray[np.bool_], Target], SlicePrompts] = corrected


TIGHT, BOX, BOX_20 = "tight box", "box (5 of 256 px)", "box (20 of 1024 px)"
BOX_1, BOX_2, BOX_5 = "box + 1 click", "box + 2 clicks", "box + 5 clicks"
CLICK, CLICK_1, CLICK_2, CLICK_5 = "1 click", "1 click + 1", "1 click + 2", "1 click + 5"
CLICKS_3 = "3 clicks"
SCRIBBLE, SCRIBBLE_1, SCRIBBLE_2 = "1 scribble", "1 scribble + 1", "1 scribble + 2"
BOX_SCRIBBLE, BOX_SCRIBBLES = "box + 1 scribble", "box + 2 scribbles"
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
    Course(("", BOX_1, BOX_2, "", "", BOX_5), _looser, _BOX | _POINT),
    Course((CLICK, CLICK_1, CLICK_2, "", "", CLICK_5), _click, _POINT),
    Course((CLICKS_3,), partial(clicks, count=3), _POINT),
    Course(("", BOX_SCRIBBLE, BOX_SCRIBBLES), _looser, _BOX | _POINT, correct=scribbled_over),
    Course((SCRIBBLE, SCRIBBLE_1, SCRIBBLE_2), scribble, _POINT, correct=scribbled_over),
    Course(("", BOX_1 + SHOWN, BOX_2 + SHOWN), _looser, _BOX | _POINT | {"mask"}, shows_mask=True),
    Course(("", CLICK_1 + SHOWN, CLICK_2 + SHOWN), _click, _POINT | {"mask"}, shows_mask=True),
    *(Course((sloppy(share),), partial(sloppy_box, share=share), _BOX) for share in SHARES),
)
"""All that is measured."""

NEEDS: Mapping[str, frozenset[str]] = {kind: c.needs for c in COURSES for kind in c.kinds if kind}
"""What a model must take, for each kind of prompt."""
