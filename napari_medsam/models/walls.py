"""A bright disc in a darker wall, as blood in the heart's muscle: how a box is told to mean the wall alone.

A wall and all that it encloses have the same box, and nearly always the box of something bright within
something darker means both: a kidney, a vessel with its wall, a tumour. A disc that is as bright and as round
as blood, in a wall all around it, is the exception that is drawn every day (short-axis slices of the heart).

Where the numbers come from is told in ``docs/reference/default-model-experiments.md``.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_medsam.geometry import occupied_region
from napari_medsam.models.crops import box_window, crop, mask_boxes
from napari_medsam.models.decode_prompts import SURE_LOGIT
from napari_medsam.postprocess import fill_holes, largest_component

CONTEXT = 1.3
BLUR_PX = 1.5
"""Of the crop."""
ONE_PART = 0.9
"""Share of what was found that is its largest part, at least."""
DISC_SHARES = (0.3, 0.7)
"""Of the disc and its wall."""
ROUND = 0.85
"""Share of its convex hull that is bright. The rest, in a heart papillary muscles, belongs to the disc."""
APART = 2.5
"""Standard deviations between the disc and the wall."""
LEAST_STEP = 1 / 256
"""Between the darkest and the brightest place, at least: what a screen can show."""
STRAY = 0.05
"""Share of the wall and the disc that is bright and not of the disc, at most."""
COVERED = 0.8
"""Share of the wall that was found, at least."""
MARGIN = 0.05
"""Of the longer side of the disc's box, or of the one that was drawn: as far as an outline is blurred."""
MOST_IN_ALL = 1.86
"""Areas of the disc and of all within the wall's outline, as shares of what was found, together at most.

Where that is the disc with its wall, the first is well below 1 and the second about 1; where it is the disc
with its blurred edge, the first is about 1 and the second above.
"""
SURE = 0.85
"""Estimated IoU, at least, of the disc and of all with the disc painted out."""
DEEP = 0.5
"""Distance from the outline of a disc, of the largest, from which on a place is in the middle of it."""

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


def bright_disc(image: Pixels, mask: Mask) -> Mask | None:
    """Find the disc that is enclosed by what was found, or None.

    Parameters
    ----------
    image : (H, W)
    mask : (H, W)
        What was found in the box: the wall, with or without the disc.

    Returns
    -------
    numpy.ndarray of bool or None
        (H, W), convex.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu
    from skimage.morphology import convex_hull_image

    found = largest_component(mask)
    if not found.any() or found.sum() < ONE_PART * mask.sum():
        return None
    both = convex_hull_image(found)
    smooth = gaussian_filter(image, BLUR_PX)
    values = smooth[both]
    # All white but for rounding, as a vessel beyond the window, values have no bins to be counted in.
    if np.ptp(values) < LEAST_STEP:
        return None
    bright = both & (smooth > threshold_otsu(values))
    part = largest_component(bright)
    disc = convex_hull_image(part)
    wall = both & ~disc
    low, high = DISC_SHARES
    if not low * both.sum() <= disc.sum() <= high * both.sum() or part.sum() < ROUND * disc.sum():
        return None
    if (bright & ~disc).sum() > STRAY * both.sum() or (mask & wall).sum() < COVERED * wall.sum():
        return None
    inside, around = image[disc], image[wall]
    spread = np.sqrt((inside.var() + around.var()) / 2)
    return disc if inside.mean() - around.mean() >= APART * spread else None


def disc_box(image: Tensor, logits: Tensor, box: Tensor) -> Tensor | None:
    """Box of the bright disc in what was found in a box, or None.

    Parameters
    ----------
    image : (1, 1, H, W) float32
    logits : (1, 1, H, W) float32
        Of what was found.
    box : (1, 4) float32
        (x0, y0, x1, y1), inclusive pixel centres.

    Returns
    -------
    (1, 4) float32 or None
        Wider than the disc by `MARGIN`.
    """
    window = box_window(box, CONTEXT)
    found = crop((logits > 0).to(image.dtype), window, padding="zeros") > 0.5
    disc = bright_disc(crop(image, window)[0, 0].cpu().numpy(), found[0, 0].cpu().numpy())
    if disc is None:
        return None
    pitch = (window[:, 2:] - window[:, :2]) / found.shape[-1]
    corners = mask_boxes(torch.from_numpy(disc)[None].to(box.device))
    low, high = (window[:, :2] + (part + 0.5) * pitch for part in corners.split(2, 1))
    margin = MARGIN * _longer_side(torch.cat([low, high], 1))
    return torch.cat([low - margin, high + margin], 1)


def filled(logits: Tensor) -> Tensor:
    """Logits, (1, 1, H, W), of a mask that takes in whatever it encloses."""
    mask = (logits[0, 0] > 0).cpu().numpy()
    holes = torch.from_numpy(fill_holes(mask) & ~mask).to(logits.device)
    return torch.where(holes, logits.abs().clamp_min(SURE_LOGIT), logits)


def painted_out(image: Tensor, found: Tensor, disc: Tensor, box: Tensor) -> Tensor:
    """Paint a disc as dark as its wall, so that both look like one object.

    Parameters
    ----------
    image : (1, 1, H, W) float32
    found, disc : (1, 1, H, W) float32
        Logits of what was found in the box, and of the disc.
    box : (1, 4) float32

    Returns
    -------
    (1, 1, H, W) float32
        With the median of the wall wherever the disc or its blurred edge is. The wall is what was found
        beyond these.
    """
    within = (disc[0, 0] > 0).cpu().numpy()
    painted = _grown(within, MARGIN * float(_longer_side(box)))
    wall = (found[0, 0] > 0).cpu().numpy() & ~within
    deep = wall & ~painted
    pixels = torch.from_numpy(deep if deep.any() else wall).to(image.device)
    if not pixels.any():
        return image
    return torch.where(torch.from_numpy(painted).to(image.device), image[0, 0][pixels].median(), image)


def is_deep(disc: Tensor, pixel: tuple[int, int]) -> bool:
    """Whether a pixel (y, x) lies in the middle of a disc, (1, 1, H, W) logits."""
    from scipy.ndimage import distance_transform_edt

    mask = (disc[0, 0] > 0).cpu().numpy()
    if not mask[pixel]:
        return False
    depth = np.zeros(mask.shape)
    near = _around(mask, 1)
    depth[near] = distance_transform_edt(mask[near])
    return bool(depth[pixel] > DEEP * depth.max())


def is_wall(found: Tensor, disc: Tensor, whole: Tensor) -> bool:
    """Whether what was found is the wall around a disc, not the disc; logits, (1, 1, H, W), of all three."""
    within = disc > 0
    areas = within.sum() + (whole > 0).sum()
    return bool(areas <= MOST_IN_ALL * (within | (found > 0)).sum())


def wall_between(whole: Tensor, disc: Tensor, sure: Tensor, sure_of_disc: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of what lies within an outline and outside of a disc, and its estimated IoU.

    Parameters
    ----------
    whole, disc : (1, 1, H, W) float32
        Logits.
    sure, sure_of_disc : (1, 1) float32
        Their estimated IoU.
    """
    share = ((disc > 0).sum() / (whole > 0).sum().clamp_min(1)).clamp_max(1)
    wrong, wall = (1 - sure) + share * (1 - sure_of_disc), 1 - share
    # As if half of what is wrong were missing and half too much.
    iou = (wall - wrong / 2) / (wall + wrong / 2).clamp_min(1e-6)
    return torch.minimum(whole, -disc), iou.clamp_min(0)


def _longer_side(box: Tensor) -> Tensor:
    """Longer side of a box with inclusive corners, (1, 4), in pixels."""
    return (box[:, 2:] - box[:, :2] + 1).amax()


def _grown(mask: Mask, distance_px: float) -> Mask:
    """All pixels of a mask, and those so close to it."""
    from scipy.ndimage import distance_transform_edt

    grown = mask.copy()
    margin = int(np.ceil(distance_px))
    if mask.any():
        near = _around(mask, margin)
        grown[near] = distance_transform_edt(~mask[near]) <= distance_px
    return grown


def _around(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Rows and columns of a mask that is not empty, and so many beyond."""
    region = occupied_region(mask)
    assert region is not None
    rows, columns = (slice(max(side.start - margin, 0), side.stop + margin) for side in region)
    return rows, columns
