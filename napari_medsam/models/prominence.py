"""What stands out in a box: a first guess for a net that makes nothing of it.

Whoever draws a box around something leaves outside what it is not, as in GrabCut (Rother et al. 2004,
https://doi.org/10.1145/1015706.1015720), and comes close to it on all four sides, as in Lempitsky et al. 2009
(Image segmentation with a bounding box prior, https://doi.org/10.1109/ICCV.2009.5459262).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AROUND_SHARE = 0.15
"""Of a box's longer side: so far what lies around it is looked at."""
AROUND_LEAST = 3.0
TISSUES = 4
LEVELS = 64
"""Of the histogram that tissues are told apart in."""
SPARSE_SHARE = 1 / 3
"""Of a box's area: a mask that fills more of it is of a large object, and no scattered ones were missed."""
STANDS_OUT = 4 / 3
"""Prominence from which on something is worth a guess; 1 is no more than chance."""
TISSUE_STANDS_OUT = 2.0
"""The same for one tissue of several: there are more of them that might by chance."""
NEARLY_AS_MUCH = 0.6
"""Of the prominence of what is brighter or darker, for a tissue to come first."""
SHORT_OF_A_SIDE = 0.1
"""Share of its width or height that a box's object may stay away from a side."""

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class StandingOut:
    """Parts of a box by their intensities, and how much they are the box's own.

    Attributes
    ----------
    region
        The rows and columns that `masks` are of: the box and what lies around it.
    masks : (2 + `TISSUES`, h, w) bool
        Brighter, and darker, than the mean of the box by more than one standard deviation; then the classes
        that its intensities fall into, from dark to bright (several thresholds as in Otsu 1979,
        https://doi.org/10.1109/TSMC.1979.4310076; empty where there are fewer intensities). False outside of
        the box.
    prominence : (2 + `TISSUES`,) float64
        How many times as frequent such pixels are in the box as on its edge and around it (the mean of both).
    short : (2 + `TISSUES`,) float64
        How far a mask stays away from one of the four sides of the box, of its width or height; specks do not
        count, unless there is nothing else. 1 for an empty mask.
    """

    region: tuple[slice, slice]
    masks: NDArray[np.bool_]
    prominence: NDArray[np.float64]
    short: NDArray[np.float64]


def what_stands_out(image: Pixels, box: Sequence[float]) -> StandingOut:
    """Look for what is rather in a box than around it.

    Parameters
    ----------
    image : (H, W)
    box
        (x0, y0, x1, y1), inclusive pixel centres.
    """
    x0, y0, x1, y1 = box
    far = max(AROUND_SHARE * max(x1 - x0 + 1, y1 - y0 + 1), AROUND_LEAST)
    region = (_span(y0 - far, y1 + far), _span(x0 - far, x1 + far))
    pixels = image[region].astype(np.float64)
    y, x = (
        at + side.start
        for at, side in zip(np.ogrid[: pixels.shape[0], : pixels.shape[1]], region, strict=True)
    )

    def within(grown: float) -> Mask:
        return (x >= x0 - grown) & (x <= x1 + grown) & (y >= y0 - grown) & (y <= y1 + grown)

    inside = within(0)
    if not inside.any():
        nothing = np.zeros(2 + TISSUES)
        return StandingOut(region, np.zeros((2 + TISSUES, *pixels.shape), bool), nothing, nothing + 1)
    mean, spread = pixels[inside].mean(), pixels[inside].std()
    odd = np.stack([pixels > mean + spread, pixels < mean - spread, *_tissues(pixels, inside)])
    shares = [_share(odd, zone) for zone in (inside, inside & ~within(-1), within(far) & ~inside)]
    masks = odd & inside
    prominence = 2 * shares[0] / np.maximum(shares[1] + shares[2], 1e-3)
    return StandingOut(region, masks, prominence, np.array([_short(mask, box, region) for mask in masks]))


def first_guess(image: Pixels, box: Sequence[float], filled: float) -> Mask | None:
    """Mask, (H, W), of what stands out most in a box, or None.

    What is brighter or darker than most of the box comes first, unless it stays away from a side of it and
    another tissue does not.

    Parameters
    ----------
    image, box
        As in `what_stands_out`.
    filled
        Share of the box that was found without a guess.
    """
    seen = what_stands_out(image, box)
    near = seen.short <= SHORT_OF_A_SIDE
    most = int(np.argmax(seen.prominence[:2]))
    tissue = 2 + int(np.argmax(np.where(near, seen.prominence, 0)[2:]))
    least = max(TISSUE_STANDS_OUT, NEARLY_AS_MUCH * seen.prominence[most])
    if near[tissue] and not near[most] and seen.prominence[tissue] >= least:
        chosen = tissue
    elif filled < SPARSE_SHARE and seen.prominence[most] >= STANDS_OUT:
        chosen = most
    else:
        return None
    guess = np.zeros(image.shape, bool)
    guess[seen.region] = seen.masks[chosen]
    return guess


def _span(low: float, high: float) -> slice:
    """Return the pixels from one place to another, as far as there are any."""
    first = max(int(np.ceil(low)), 0)
    return slice(first, max(int(np.floor(high)) + 1, first))


def _tissues(pixels: NDArray[np.float64], inside: Mask) -> NDArray[np.bool_]:
    """Split the intensities of a box into classes, (`TISSUES`, h, w); all empty where they are too few."""
    from skimage.filters import threshold_multiotsu

    try:
        limits = threshold_multiotsu(pixels[inside], TISSUES, nbins=LEVELS)
    except ValueError:
        return np.zeros((TISSUES, *pixels.shape), bool)
    return np.digitize(pixels, limits, right=True) == np.arange(TISSUES)[:, None, None]


def _share(masks: NDArray[np.bool_], zone: Mask) -> NDArray[np.float64]:
    """Share of a zone that each mask is, 0 where it has no pixels."""
    return masks[:, zone].mean(1) if zone.any() else np.zeros(len(masks))


def _short(mask: Mask, box: Sequence[float], region: tuple[slice, slice]) -> float:
    """Largest distance between a mask and a side of its box, of its width or height."""
    from scipy.ndimage import binary_opening

    solid = binary_opening(mask)
    ys, xs = np.nonzero(solid if solid.any() else mask)
    if not len(ys):
        return 1.0
    gaps = []
    for at, side, low, high in ((xs, region[1], box[0], box[2]), (ys, region[0], box[1], box[3])):
        # From the first and to the last pixel whose centre the box takes in.
        first, last = np.ceil(low) - side.start, np.floor(high) - side.start
        gaps.append(max(at.min() - first, last - at.max()) / (last - first + 1))
    return float(max(gaps))
