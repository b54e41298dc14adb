"""Where a prompt-driven net looks, and what it sees there: crops of slices and prompts drawn as channels.

Coordinates are (x, y) in pixels of the slice, pixel centres on integers.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CROP_SIZE = 96
POINT_RADIUS = 2.5
OUTSIDE_LOGIT = -12.0


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes (x0, y0, x1, y1) of (N, H, W) masks, (N, 4) float32; of an empty mask, the whole slice."""
    boxes = []
    for dim, size in ((1, masks.shape[2]), (2, masks.shape[1])):
        line = masks.any(dim)
        first = line.float().argmax(1)
        last = size - 1 - line.flip(1).float().argmax(1)
        boxes.append((first, last))
    (x0, x1), (y0, y1) = boxes
    return torch.stack([x0, y0, x1, y1], 1).float()


def box_window(boxes: Tensor, context: Tensor | float) -> Tensor:
    """Region around each box that the net looks at.

    Long sides are scaled by `context`; a short side gets at least half of the long one, so that thin boxes
    keep their surroundings.

    Parameters
    ----------
    boxes : (N, 4) float32
        Corners (x0, y0, x1, y1), inclusive pixel centres.
    context : float or (N,)
        Window side over box side.

    Returns
    -------
    (N, 4) float32
        Edges (x0, y0, x1, y1) in continuous pixel coordinates; may reach outside the slice.
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    sides = torch.maximum(sides, sides.flip(1) / 2).clamp_min(6.0)
    half = sides * (context[:, None] if isinstance(context, Tensor) else context) / 2
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([center - half, center + half], dim=1)


def crop(images: Tensor, windows: Tensor, size: int = CROP_SIZE, *, padding: str = "border") -> Tensor:
    """Resample windows of slices to squares.

    Parameters
    ----------
    images : (N, C, H, W) float32
    windows : (N, 4) float32
        As `box_window` returns them.
    size
        Side of the result in pixels.
    padding
        What lies outside of the slice: ``"border"`` repeats the edge (images), ``"zeros"`` is nothing
        (masks).

    Returns
    -------
    (N, C, size, size) float32
        Sampled at twice the resolution and averaged, against aliasing of large windows.
    """
    h, w = images.shape[-2:]
    steps = (torch.arange(2 * size, device=images.device, dtype=images.dtype) + 0.5) / (2 * size)
    x = windows[:, :1] + steps * (windows[:, 2:3] - windows[:, :1])
    y = windows[:, 1:2] + steps * (windows[:, 3:4] - windows[:, 1:2])
    gx, gy = (x + 0.5) / w * 2 - 1, (y + 0.5) / h * 2 - 1
    n = len(windows)
    grid = torch.stack(
        [gx[:, None, :].expand(n, 2 * size, 2 * size), gy[:, :, None].expand(n, 2 * size, 2 * size)], -1
    )
    fine = F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return F.avg_pool2d(fine, 2)


def paste(logits: Tensor, windows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Put crop logits, (N, C, S, S), back on slices of `shape`; `OUTSIDE_LOGIT` beyond the windows."""
    h, w = shape
    whole = logits.new_full((*logits.shape[:2], h, w), OUTSIDE_LOGIT)
    # Window by window, for on a large slice nearly all pixels lie outside of it.
    for n, (x0, y0, x1, y1) in enumerate(windows.tolist()):
        columns, rows = _pixels_between(x0, x1, w), _pixels_between(y0, y1, h)
        if not columns or not rows:
            continue
        x, y = (torch.arange(at.start, at.stop).to(logits) for at in (columns, rows))
        gx, gy = (x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([gx.expand(len(rows), -1), gy[:, None].expand(-1, len(columns))], -1)[None]
        part = F.grid_sample(
            logits[n : n + 1], grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        whole[n, :, rows.start : rows.stop, columns.start : columns.stop] = part[0]
    return whole


def _pixels_between(low: float, high: float, size: int) -> range:
    """Pixels of a line of `size` whose centres lie from `low` to `high`."""
    return range(max(math.ceil(low), 0), min(math.floor(high) + 1, size))


def _box_channel(boxes: Tensor, windows: Tensor, size: int) -> Tensor:
    """(N, 1, size, size) share of each crop pixel that the box covers."""
    steps = torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5
    cover = []
    for axis in (1, 0):
        low, high = windows[:, axis, None], windows[:, axis + 2, None]
        pitch = (high - low) / size
        at = low + steps * pitch
        first = (at - (boxes[:, axis, None] - 0.5)) / pitch + 0.5
        last = (boxes[:, axis + 2, None] + 0.5 - at) / pitch + 0.5
        cover.append(first.clamp(0, 1) * last.clamp(0, 1))
    return (cover[0][:, :, None] * cover[1][:, None, :])[:, None]


def _point_channel(points: Tensor, chosen: Tensor, windows: Tensor, size: int) -> Tensor:
    """(N, 1, size, size) discs at the chosen points of (N, K, 2)."""
    scale = size / (windows[:, 2:] - windows[:, :2])
    at = (points - windows[:, None, :2]) * scale[:, None] - 0.5
    axis = torch.arange(size, device=points.device, dtype=points.dtype)
    distance = (
        (axis[None, None, :, None] - at[..., 1, None, None]) ** 2
        + (axis[None, None, None, :] - at[..., 0, None, None]) ** 2
    ).sqrt()
    discs = (POINT_RADIUS + 0.5 - distance).clamp(0, 1) * chosen[..., None, None]
    return discs.amax(1, keepdim=True)


def image_channels(image: Tensor) -> Tensor:
    """Standardise crops, (N, 1, S, S), twice: by the whole crop and by its central half."""
    s = image.shape[-1]
    middle = image[..., s // 4 : s - s // 4, s // 4 : s - s // 4]
    channels = []
    for part in (image, middle):
        mean = part.mean((2, 3), keepdim=True)
        spread = part.std((2, 3), keepdim=True).clamp_min(0.01)
        channels.append(((image - mean) / spread).clamp(-4, 4))
    return torch.cat(channels, 1)


def prompt_channels(
    windows: Tensor,
    boxes: Tensor,
    has_box: Tensor,
    points: Tensor,
    point_labels: Tensor,
    size: int = CROP_SIZE,
) -> Tensor:
    """Box, foreground and background channels, (N, 3, size, size).

    Parameters
    ----------
    windows, boxes : (N, 4) float32
    has_box : (N,) bool
    points : (N, K, 2) float32
        (x, y); K may be 0.
    point_labels : (N, K) int64
        1 foreground, 0 background, -1 padding.
    size
        Side of the crop in pixels.
    """
    box = _box_channel(boxes, windows, size) * has_box.view(-1, 1, 1, 1)
    if points.shape[1] == 0:
        return torch.cat([box, torch.zeros_like(box), torch.zeros_like(box)], 1)
    discs = [_point_channel(points, point_labels == label, windows, size) for label in (1, 0)]
    return torch.cat([box, *discs], 1)
