"""Two of OpenCV's resize modes without OpenCV.

LiteMedSAM and SAM-Med2D were trained on slices that OpenCV had resized. The rules were read in OpenCV's
source (``modules/imgproc/src/resize.cpp``, Apache-2.0); the code here is this project's own.
"""

import numpy as np
from numpy.typing import NDArray

SHORT_BITS = 11
"""OpenCV's enlarging of bytes counts in 2048ths."""


def nearest_resize(image: NDArray, shape: tuple[int, int]) -> NDArray:
    """Resize as OpenCV's ``INTER_NEAREST``: the pixel that a new pixel's top left corner falls on.

    Parameters
    ----------
    image : numpy.ndarray
        (H, W) or (H, W, C).
    shape
        (h, w) wanted.

    Returns
    -------
    numpy.ndarray
        `shape` + (C,), same type.
    """
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.intp), old - 1)
        for old, new in zip(image.shape, shape, strict=False)
    )
    return image[rows][:, columns]


def area_resize(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize as OpenCV's ``INTER_AREA``: means of areas when shrinking, a sharp bilinear when enlarging.

    The same to the pixel, but for ties of OpenCV's float32 sums (one pixel in 5,000 is off by one grey level
    where the ratio of sizes is not whole).

    Parameters
    ----------
    image : numpy.ndarray of uint8
        (H, W) or (H, W, C).
    shape
        (h, w) wanted; both at most or both at least the image's.

    Returns
    -------
    numpy.ndarray of uint8
        `shape` + (C,).
    """
    if image.shape[:2] == shape:
        return image.copy()
    if shape[0] > image.shape[0] or shape[1] > image.shape[1]:
        return _enlarged(image, shape)
    if (image.shape[0], image.shape[1]) == (2 * shape[0], 2 * shape[1]):
        quarters = image.astype(np.uint16)
        sums = quarters[::2, ::2] + quarters[1::2, ::2] + quarters[::2, 1::2] + quarters[1::2, 1::2]
        # This one case rounds halves up, all others to even.
        return ((sums + 2) >> 2).astype(np.uint8)
    rows, columns = (_area_weights(old, new) for old, new in zip(image.shape, shape, strict=False))
    return np.rint(_separable(image.astype(np.float64), rows, columns)).astype(np.uint8)


def _area_weights(old: int, new: int) -> NDArray[np.float64]:
    """(new, old) shares of the old pixels in each new one."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(covered, 0, 1) / (old / new)


def _separable(image: NDArray, rows: NDArray, columns: NDArray) -> NDArray:
    along_rows = np.tensordot(rows, image, axes=(1, 0))
    return np.moveaxis(np.tensordot(columns, along_rows, axes=(1, 1)), 0, 1)


def _enlarged(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    (top, low), (left, right) = (_neighbours(old, new) for old, new in zip(image.shape, shape, strict=False))
    levels = image.astype(np.int64)
    extra = (slice(None),) + (None,) * (image.ndim - 2)
    across = levels[:, left[0]] * left[1][extra] + levels[:, right[0]] * right[1][extra]
    down = (slice(None),) + (None,) * (image.ndim - 1)
    upper = ((across[top[0]] >> 4) * top[1][down]) >> 16
    lower = ((across[low[0]] >> 4) * low[1][down]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]:
    """Index and weight, in 2048ths, of the two old pixels that each new one is made of."""
    at = np.arange(new)
    first = np.floor(at * (old / new)).astype(np.intp)
    share = (at + 1) - (first + 1) * (new / old)
    share = np.where(share <= 0, 0.0, share - np.floor(share))
    share[first >= old - 1] = 0
    first = np.minimum(first, old - 1)
    unit = 1 << SHORT_BITS
    second_weight = np.rint(share.astype(np.float32) * unit).astype(np.int64)
    first_weight = np.rint((1 - share.astype(np.float32)) * unit).astype(np.int64)
    return (first, first_weight), (np.minimum(first + 1, old - 1), second_weight)
