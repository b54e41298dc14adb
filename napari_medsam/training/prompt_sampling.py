"""Prompts as people give them, simulated on labelled slices.

Boxes are tight, loose or sloppy; the loose ones grow by 0 to 5 pixels a side at 256 pixels, the jitter of
LiteMedSAM's training (https://github.com/bowang-lab/MedSAM). Clicks fall inside the object, the first at
random and later ones into the largest error, the protocol of iterative interactive training (Mahadevan et
al. 2018, https://arxiv.org/abs/1805.04398; Sofiiuk et al. 2021, https://arxiv.org/abs/2102.06583). Instead of
a click there may be a scribble, a bent line that stays in what it means, one of the kinds of ScribblePrompt
(Wong et al. 2024, https://arxiv.org/abs/2312.07381); a model gets points along it. Masks of a neighbouring
slice come from the same anatomy cut a little away, so that drift, growth and the end of an object are seen.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_medsam.models.crops import CROP_SIZE, box_window, crop, image_channels, mask_boxes
from napari_medsam.training.synthetic import SliceBatch

MIN_AREA_PX = 20
MAX_AREA_SHARE = 0.5
MAX_POINTS = 3
SCRIBBLE_SHARE = 0.4
"""Of the prompts with points, and of the corrections."""
SCRIBBLE_WAYS = 6
STEPS_AHEAD, STEPS_BACK = 4, 3
"""Of a scribble from the place where it goes through; with that, as many points as a model gets."""
CLOSEST_UP = 2.7
SMALL_SIDE_PX = 24
RING_SHARE = 0.2
CLOSED_SHARE = 0.7
CLOSE_RING = 2.5
MODES = {"box": 0.48, "previous": 0.22, "points": 0.16, "box and points": 0.14}


@dataclass(frozen=True)
class PromptBatch:
    """N prompts, cropped and ready for the net, with what they mean.

    Attributes
    ----------
    image : (N, 2, S, S) float32
        Standardised crops.
    previous : (N, 1, S, S) float32
        Earlier mask in [-1, 1]; 0 where there is none.
    windows, boxes : (N, 4) float32
        (x0, y0, x1, y1) in pixels of the slice.
    has_box : (N,) bool
    points : (N, K, 2) float32
        (x, y) in pixels of the slice.
    point_labels : (N, K) int64
        1, 0, or -1 for padding.
    target : (N, 1, S, S) float32
        Share of each crop pixel that belongs to the object.
    area : (N,) float32
        Area of the whole object in crop pixels, also what lies outside of the crop.
    mode : (N,) int64
        Index into `MODES`.
    """

    image: Tensor
    previous: Tensor
    windows: Tensor
    boxes: Tensor
    has_box: Tensor
    points: Tensor
    point_labels: Tensor
    target: Tensor
    area: Tensor
    mode: Tensor

    def part(self, at: slice) -> "PromptBatch":
        """Return the prompts at `at`."""
        return PromptBatch(*(getattr(self, f)[at] for f in self.__dataclass_fields__))


def _rand(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _sloppy(boxes: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes as drawn by hand: grown by up to 5 px at 256 px, tight, or off by a share of their side.

    A small object is half of the time taken for one on a slice that is up to `CLOSEST_UP` times as large, on
    which a hand is as many times less exact: such boxes are mostly background. Of larger objects the box must
    go on telling a ring from what it encloses.
    """
    n, device = len(boxes), boxes.device
    sign = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=device)
    small = (_largest_side(boxes) < SMALL_SIDE_PX)[:, None]
    closer = 1 + (CLOSEST_UP - 1) * (2 * _rand(generator, n, 1) - 1).clamp_min(0) * small
    scale = closer * max(shape) / 256
    grown = torch.round(torch.floor(_rand(generator, n, 4) * 6) * scale) * sign
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
    share = 0.09 * torch.randn((n, 4), generator=generator, device=device) + 0.03
    off = (share.clamp(-0.2, 0.35) * sides).round() * sign
    kind = _rand(generator, n, 1)
    moved = boxes + torch.where(kind < 0.55, grown, torch.where(kind < 0.7, 0.0, off))
    limit = torch.tensor([shape[1], shape[0]] * 2, device=device) - 1.0
    moved = torch.minimum(moved.clamp_min(0), limit)
    return torch.cat(
        [torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])], 1
    )


def _chosen_pixels(weights: Tensor, generator: torch.Generator, calm: float = 0.0) -> Tensor:
    """One pixel (x, y) per (N, H, W) map where the weights are high; the highest of all when calm is 1."""
    n, h, w = weights.shape
    at = (weights * (calm + (1 - calm) * _rand(generator, n, h, w))).flatten(1).argmax(1)
    return torch.stack([at % w, at // w], 1).float()


def _scribbled(region: Tensor, middle: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Further points of a scribble through a pixel of each region, as far as it stays within.

    Of a few ways through it, a little bent, the longest is taken.

    Parameters
    ----------
    region : (N, H, W)
        Above 0 where a scribble may pass.
    middle : (N, 2) float32
        (x, y) of a pixel in each region.

    Returns
    -------
    points : (N, K, 2) float32
    within : (N, K) bool
        Whether a point, and all points between it and the middle, lie in the region.
    """
    n, h, w = region.shape
    device = region.device
    steps = torch.cat([torch.arange(1, STEPS_AHEAD + 1), -torch.arange(1, STEPS_BACK + 1)]).to(device)
    side = _largest_side(mask_boxes(region > 0))
    pitch = (side / len(steps) * (0.4 + 0.6 * _rand(generator, n))).clamp_min(2).view(-1, 1, 1)
    angle = math.pi * _rand(generator, n, SCRIBBLE_WAYS, 1)
    bend = 0.1 * torch.randn((n, SCRIBBLE_WAYS, 1), generator=generator, device=device)
    along, across = pitch * steps, pitch * bend * steps**2
    x = middle[:, 0].view(-1, 1, 1) + along * angle.cos() - across * angle.sin()
    y = middle[:, 1].view(-1, 1, 1) + along * angle.sin() + across * angle.cos()
    column, row = x.round().long(), y.round().long()
    within = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    pixel = row.clamp(0, h - 1) * w + column.clamp(0, w - 1)
    within &= region.flatten(1).gather(1, pixel.flatten(1)).view_as(pixel) > 0
    ways = within.long().split((STEPS_AHEAD, STEPS_BACK), 2)
    within = torch.cat([way.cumprod(2) for way in ways], 2) > 0
    longest = torch.arange(n, device=device), within.sum(2).argmax(1)
    return torch.stack([x, y], -1)[longest], within[longest]


def correction(
    logits: Tensor, target: Tensor, windows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Next click or scribble of a user who sees the mask: in the middle of the largest error.

    Parameters
    ----------
    logits, target : (N, 1, S, S)
        Mask of the net, and the share of each pixel that is object.
    windows : (N, 4)
    generator
        Makes the click land near, not exactly on, the middle.

    Returns
    -------
    points : (N, K, 2) float32
        (x, y) in pixels of the slice.
    labels : (N, K) int64
        1 where object was missed, 0 where background was taken, -1 for padding.
    """
    truth = target > 0.5
    error = ((logits > 0) != truth).float()
    none = error.flatten(1).amax(1).view(-1, 1, 1, 1) == 0
    error = torch.where(none, truth.float(), error)
    wide = F.avg_pool2d(F.avg_pool2d(error, 4), 7, 1, 3)
    depth = F.avg_pool2d(error, 9, 1, 4) + F.interpolate(wide, scale_factor=4.0)
    size = logits.shape[-1]
    pixel = _chosen_pixels(((0.02 + depth) * error)[:, 0], generator, calm=0.7)
    flat = (pixel[:, 1] * size + pixel[:, 0]).long()
    labels = truth.flatten(1).gather(1, flat[:, None]).long()
    same = error * (truth == labels.bool().view(-1, 1, 1, 1))
    more, within = _scribbled(same[:, 0], pixel, generator)
    within &= _rand(generator, len(pixel), 1) < SCRIBBLE_SHARE
    points = torch.cat([pixel[:, None], more], 1)
    labels = torch.cat([labels, torch.where(within, labels, -1)], 1)
    origin, side = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
    return origin + (points + 0.5) / size * side, labels


def _picked_objects(batch: SliceBatch, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Slice index and object number of n objects worth prompting.

    Every slice is as likely as any other, and a large object more than a small one. Twice as many are picked
    as are asked for, and those that stand out least are dropped: what cannot be seen teaches nothing but to
    guess outlines. Large hollow objects are favoured: their boxes differ little from those of what they
    enclose, and a net that sees few of them fills every ring. Small ones come last, and what a ring closely
    encloses is favoured: else a loose box around a vessel or a cord comes to mean the ring around it.
    """
    maps = batch.objects
    count = int(maps.max()) + 1
    areas = torch.zeros((len(maps), count), device=maps.device)
    areas.scatter_add_(1, maps.flatten(1), torch.ones_like(maps.flatten(1), dtype=torch.float32))
    areas[:, 0] = 0
    fits = (areas >= MIN_AREA_PX) & (areas <= MAX_AREA_SHARE * maps[0].numel())
    usable = torch.nonzero(fits.any(1)).flatten()
    where = usable[torch.randint(len(usable), (2 * n,), generator=generator, device=maps.device)]
    weights = (areas.pow(0.25) * fits)[where]
    number = torch.multinomial(weights, 1, generator=generator).squeeze(1)
    masks = (maps[where] == number.view(-1, 1, 1)).float()[:, None]
    side, hollow = _largest_side(mask_boxes(masks[:, 0] > 0)), _hollow(masks)
    large = (side >= SMALL_SIDE_PX).float()
    favoured = (large * hollow + _within_a_ring(maps[where], masks, side)).clamp_max(1)
    worth = 1 + 0.5 * favoured * (_rand(generator, len(where)) < 0.5) - 0.8 * (1 - large) * hollow
    # No more than "can be seen" is asked for: ranked by contrast, painted objects would push out real ones.
    value = visibility(batch.images[where], masks).clamp_max(1.0) * worth
    kept = value.argsort(descending=True)[:n]
    return where[kept], number[kept]


def _largest_side(boxes: Tensor) -> Tensor:
    """From the first pixel of the longer side to its last, (N,)."""
    return (boxes[:, 2:] - boxes[:, :2]).amax(1)


def _hollow(masks: Tensor) -> Tensor:
    """1 where the middle of a mask's box is not part of the mask, else 0: (N,)."""
    boxes = mask_boxes(masks[:, 0] > 0)
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).round().long().unbind(1)
    return 1 - masks[torch.arange(len(masks), device=masks.device), 0, y, x]


def _within_a_ring(maps: Tensor, masks: Tensor, side: Tensor) -> Tensor:
    """1 where another object lies closely around a mask, (N, 1, H, W), of largest side (N,), else 0: (N,)."""
    outline = (F.max_pool2d(masks, 5, 1, 2) - masks)[:, 0]
    shares = torch.zeros((len(maps), int(maps.max()) + 1), device=maps.device)
    shares.scatter_add_(1, maps.flatten(1), outline.flatten(1))
    shares[:, 0] = 0
    most, ring = shares.max(1)
    around = (maps == ring.view(-1, 1, 1)).logical_or(masks[:, 0] > 0)
    closed = most > CLOSED_SHARE * outline.sum((1, 2))
    return (closed & (_largest_side(mask_boxes(around)) < CLOSE_RING * side)).float()


def visibility(images: Tensor, masks: Tensor) -> Tensor:
    """How far outlines stand out, (N,) in [0, 3]: mean step in standard deviations of the inside.

    The step is measured pixel by pixel, for a ring may lie between something darker and something brighter.
    Of a ring the fainter of its two edges counts. Without the inner one it is the disc that has the same box;
    without the outer one, a loose box around the disc that it encloses would have to mean the ring.

    Parameters
    ----------
    images, masks : (N, 1, H, W) float32
        Grey values in [0, 1]; masks of 0 and 1.
    """
    outline = F.max_pool2d(masks, 5, 1, 2) - masks
    inner = outline * _enclosed(masks)
    outer = outline - inner
    area = masks.sum((1, 2, 3)).clamp_min(1)
    off = images - ((images * masks).sum((1, 2, 3)) / area).view(-1, 1, 1, 1)
    spread = ((off**2 * masks).sum((1, 2, 3)) / area).sqrt().view(-1, 1, 1, 1)
    # Averaged, for noise alone is no step.
    step = (F.avg_pool2d(off, 3, 1, 1, count_include_pad=False).abs() / (spread + 0.02)).clamp_max(3)
    whole, inside, outside = (
        (step * edge).sum((1, 2, 3)) / edge.sum((1, 2, 3)).clamp_min(1) for edge in (outline, inner, outer)
    )
    ring = inner.sum((1, 2, 3)) > RING_SHARE * outline.sum((1, 2, 3))
    return torch.where(ring, torch.minimum(inside, outside), whole)


def _enclosed(masks: Tensor) -> Tensor:
    """1 where a pixel outside of a mask, (N, 1, H, W), has some of the mask on all four sides, else 0."""
    sides = [masks.cummax(d).values for d in (2, 3)]
    sides += [masks.flip(d).cummax(d).values.flip(d) for d in (2, 3)]
    return torch.stack(sides).amin(0) * (1 - masks)


def _previous_masks(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Neighbouring masks as a model would have drawn them: some a little thick, some a little thin."""
    kind = _rand(generator, len(masks), 1, 1)
    thick = F.max_pool2d(masks[:, None], 3, 1, 1)[:, 0]
    thin = -F.max_pool2d(-masks[:, None], 3, 1, 1)[:, 0]
    return torch.where(kind < 0.15, thick, torch.where(kind < 0.3, thin, masks))


def _first_points(masks: Tensor, mode: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to `MAX_POINTS` opening clicks, or a scribble beside them; labels are -1 where there is none."""
    n, device = len(masks), masks.device
    names = list(MODES)
    bare = mode == names.index("points")
    count = MAX_POINTS + STEPS_AHEAD + STEPS_BACK
    points = torch.zeros((n, count, 2), device=device)
    labels = torch.full((n, count), -1, device=device)
    at = torch.nonzero(bare | (mode == names.index("box and points"))).flatten()
    if len(at) == 0:
        return points, labels
    inside = masks[at]
    depth = F.avg_pool2d(inside[:, None], 7, 1, 3)[:, 0] * inside
    around = F.max_pool2d(F.avg_pool2d(inside[:, None], 4, ceil_mode=True), 9, 1, 4)
    around = F.interpolate(around, size=masks.shape[1:])[:, 0].gt(0) * (1 - inside)
    for k in range(MAX_POINTS):
        negative = (_rand(generator, len(at)) < 0.3) & ~(bare[at] & (k == 0))
        weights = torch.where(negative.view(-1, 1, 1), around, depth + 1e-3 * inside)
        points[at, k] = _chosen_pixels(weights, generator)
        used = _rand(generator, len(at)) < (1.0, 0.35, 0.2)[k]
        labels[at, k] = torch.where(used, 1 - negative.long(), -1)
    points[at, MAX_POINTS:], within = _scribbled(inside, points[at, 0], generator)
    within &= (labels[at, :1] == 1) & (_rand(generator, len(at), 1) < SCRIBBLE_SHARE)
    labels[at, MAX_POINTS:] = torch.where(within, 1, -1)
    return points, labels


def draw_prompts(batch: SliceBatch, n: int, generator: torch.Generator) -> PromptBatch:
    """Draw n prompts of all modes on the objects of labelled slices.

    Parameters
    ----------
    batch
        Slices of one size.
    n
        Number of prompts.
    generator
        Seeded, on the device of the batch.
    """
    device = batch.images.device
    shape = (batch.objects.shape[1], batch.objects.shape[2])
    where, number = _picked_objects(batch, n, generator)
    masks = batch.objects[where] == number.view(-1, 1, 1)
    below = batch.objects_below[where] == number.view(-1, 1, 1)
    first = masks.flatten(1).float().argmax(1, keepdim=True)
    tissue = batch.tissues[where].flatten(1).gather(1, first)
    whole_tissue = _rand(generator, n) < 0.1
    tissue_mask = batch.tissues[where] == tissue.view(-1, 1, 1)
    masks = torch.where(whole_tissue.view(-1, 1, 1), tissue_mask, masks).float()
    below = _previous_masks(below.float(), generator)
    ends = torch.tensor(list(MODES.values()), device=device).cumsum(0)
    mode = torch.bucketize(_rand(generator, n), ends).clamp_max(len(MODES) - 1)
    follows = (mode == list(MODES).index("previous")) & (below.sum((1, 2)) >= MIN_AREA_PX) & ~whole_tissue
    mode = torch.where((mode == 1) & ~follows, 0, mode)
    # A mask carried over may find that its object has ended; every other prompt means something on the slice.
    boxes = _sloppy(mask_boxes(torch.where(follows.view(-1, 1, 1), below, masks) > 0), shape, generator)
    points, labels = _first_points(masks, mode, generator)
    bare = mode == list(MODES).index("points")
    has_box = ~bare & ~(follows & (_rand(generator, n) < 0.25))
    windows = box_window(boxes, 1.3 + _rand(generator, n))
    side = (boxes[:, 2:] - boxes[:, :2] + 1).amax(1).clamp_min(8) * torch.exp(_rand(generator, n) * 1.7)
    around = torch.cat([points[:, 0] - side[:, None] / 2, points[:, 0] + side[:, None] / 2], 1)
    windows = torch.where(bare[:, None], around, windows)
    target = crop(masks[:, None], windows, padding="zeros")
    known = crop(below[:, None], windows, padding="zeros") * 2 - 1
    pixel = (windows[:, 2:] - windows[:, :2]).prod(1) / CROP_SIZE**2
    return PromptBatch(
        image=image_channels(crop(batch.images[where], windows)),
        previous=known * follows.view(-1, 1, 1, 1),
        windows=windows,
        boxes=boxes,
        has_box=has_box,
        points=points,
        point_labels=labels,
        target=target,
        area=masks.sum((1, 2)) / pixel,
        mode=mode,
    )
