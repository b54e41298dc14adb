"""Domain-randomised slices with every object known, drawn on any device from a seed.

Three kinds of scenes (trunk, heart, free blobs), laid out by `scenes`, are painted by `shapes` and given an
appearance by `appearance`; with a label bank, whole-head label maps and a few licensed real slices join in.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_medsam.training.appearance import blurred, degrade, render
from napari_medsam.training.label_bank import LabelBank
from napari_medsam.training.scenes import blobs, heart, torso
from napari_medsam.training.shapes import CLASSES, Draw, Scene, smooth_noise, warped_grid


@dataclass(frozen=True)
class SliceBatch:
    """Slices with their labels, all on one device.

    Attributes
    ----------
    images : (n, 1, H, W) float32
        In [0, 1].
    objects, objects_below : (n, H, W) int64
        Object per pixel on the slice and on a neighbouring slice; 0 is background.
    tissues : (n, H, W) int64
        Tissue class per pixel: objects of one tissue look alike.
    """

    images: Tensor
    objects: Tensor
    objects_below: Tensor
    tissues: Tensor


def _painted(draw: Draw, kind: str, size: int) -> Scene:
    grid = warped_grid(draw, size, draw.uniform(0.0, 0.09))
    # Slices show anything from the whole body to a close-up of a part.
    zoom = draw.uniform(0.6, 1.15)
    grid = grid * zoom.view(-1, 1, 1, 1) + draw.normal(0.2, 2, 1, 1) * (1.15 - zoom).view(-1, 1, 1, 1)
    table = {"torso": torso, "heart": heart, "blobs": blobs}[kind](draw)
    here = torch.zeros(draw.n, device=draw.device)
    objects, tissues, density = table.paint(grid, here)
    below, _, _ = table.paint(grid, draw.normal(0.06))
    return Scene(objects, below, tissues, density)


def _moved(draw: Draw, planes: Tensor, size: int, nearest: bool) -> Tensor:
    """(n, c, h, w) under one random rotation, scale, flip and bend a sample; the same for all c planes."""
    n, dev = draw.n, draw.device
    angle, scale = draw.normal(0.4), torch.exp(draw.uniform(-0.7, 0.25))
    flip = torch.where(draw.chance(0.5), 1.0, -1.0)
    grid = warped_grid(draw, size, draw.uniform(0, 0.04)) * scale.view(n, 1, 1, 1)
    x, y = grid[:, 0] * flip.view(n, 1, 1), grid[:, 1]
    cos, sin = angle.cos().view(n, 1, 1), angle.sin().view(n, 1, 1)
    room = (1 - scale).clamp_min(0).view(n, 1, 1)
    gx = x * cos - y * sin + room * draw.uniform(-0.5, 0.5, 1, 1)
    gy = x * sin + y * cos + room * draw.uniform(-0.5, 0.5, 1, 1)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(planes.to(dev), torch.stack([gx, gy], -1), mode=mode, align_corners=False)


def _from_brains(draw: Draw, bank: LabelBank, picks: torch.Generator, size: int) -> Scene:
    maps = torch.stack(bank.brain_slices(draw.n, picks, size), 1).float()
    objects, below = _moved(draw, maps, size, nearest=True).round().long().unbind(1)
    tissue = bank.tissue_of_object
    # Half of the published brain scans come without their skull.
    stripped = draw.chance(0.5, 1, 1)
    objects, below = (m * ~(stripped & (m >= bank.first_outside_brain)) for m in (objects, below))
    tissues = tissue[objects]
    whole = draw.chance(0.5, 1, 1)
    # Left and right twins as one object in some samples, as many atlases label them.
    objects, below = torch.where(whole, tissues, objects), torch.where(whole, tissue[below], below)
    recoded = draw.integer(0, CLASSES, int(tissue.max()) + 1)
    tissues = recoded.gather(1, tissues.reshape(draw.n, -1)).reshape(tissues.shape)
    spots, spots_below = _scattered_spots(draw, size)
    new = int(tissue.numel())
    pairs = (spots, objects), (spots_below, below)
    at, at_below = (s & (tissue[m] == bank.white_matter) for s, m in pairs)
    tissues = torch.where(at, draw.integer(0, CLASSES, 1, 1), tissues)
    objects, below = torch.where(at, new, objects), torch.where(at_below, new, below)
    return Scene(objects, below, tissues, torch.zeros_like(objects, dtype=torch.float32))


def _scattered_spots(draw: Draw, size: int) -> tuple[Tensor, Tensor]:
    """Many spots that are one object, as white matter lesions are, in half of the samples, (n, h, w)."""
    bumps = int(torch.randint(8, 40, (1,), generator=draw.generator, device=draw.device))
    field = smooth_noise(draw, 1, bumps, size)[:, 0]
    below = field + 0.4 * smooth_noise(draw, 1, bumps, size)[:, 0]
    least = torch.where(draw.chance(0.5), draw.uniform(0.9, 1.9), torch.inf).view(-1, 1, 1)
    return field > least, below > least


def _real_texture(draw: Draw, bank: LabelBank, picks: torch.Generator, size: int) -> Tensor:
    """Fine detail of real slices, (n, 1, size, size), in a third of the samples: no noise looks like it."""
    slices = _moved(draw, bank.case_slices(draw.n, picks, size)[0], size, nearest=False)
    return (slices - blurred(slices, 4.0)) * draw.uniform(0, 1, 1, 1, 1) * draw.chance(0.35, 1, 1, 1)


def _real(draw: Draw, bank: LabelBank, picks: torch.Generator, size: int) -> SliceBatch:
    images, objects, below = bank.case_slices(draw.n, picks, size)
    planes = torch.cat([images, objects[:, None].float(), below[:, None].float()], 1)
    state = draw.generator.get_state()
    image = _moved(draw, planes[:, :1], size, nearest=False)
    # The same random numbers once more, so that labels move exactly as the image does.
    draw.generator.set_state(state)
    labels = _moved(draw, planes[:, 1:], size, nearest=True).round().long()
    image = image * draw.uniform(0.5, 1.2, 1, 1, 1) + draw.normal(0.1, 1, 1, 1)
    noisy = (image + draw.normal(1.0, 1, size, size) * draw.uniform(0, 0.05, 1, 1, 1)).clamp(0, 1)
    noisy = noisy ** torch.exp(draw.normal(0.35, 1, 1, 1))
    noisy = torch.where(draw.chance(0.1, 1, 1, 1), 1 - noisy, noisy)
    return SliceBatch(noisy, labels[:, 0], labels[:, 1], labels[:, 0])


def _coarser(batch: SliceBatch, factor: int) -> SliceBatch:
    """Thin the labels and average the image, as a coarser scan of the same anatomy."""
    if factor == 1:
        return batch
    at = slice(factor // 2, batch.objects.shape[-1] // factor * factor, factor)
    maps = (m[:, at, at] for m in (batch.objects, batch.objects_below, batch.tissues))
    return SliceBatch(F.avg_pool2d(batch.images, factor), *maps)


SHARES = {"torso": 0.32, "heart": 0.20, "blobs": 0.10, "brain": 0.14, "real": 0.24}


def synthetic_slices(
    n: int, generator: torch.Generator, size: int = 256, bank: LabelBank | None = None
) -> SliceBatch:
    """Draw n slices of mixed kinds.

    Parameters
    ----------
    n
        Number of slices.
    generator
        Seeded; its device is where everything is computed. The same seed gives the same slices on one device.
    size
        Side of the slices in pixels.
    bank
        Whole-head label maps and real slices to mix in; without it, painted scenes only.

    Returns
    -------
    SliceBatch
        All four maps of one size; that is `size`, or a half or third of it for a coarse scan.
    """
    kinds = [k for k in SHARES if bank is not None or k not in ("brain", "real")]
    weights = torch.tensor([SHARES[k] for k in kinds])
    counts = torch.floor(weights / weights.sum() * n + 1e-3).int()
    counts[0] += n - counts.sum()
    picks = torch.Generator().manual_seed(
        int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    )
    parts = []
    factor = (1, 1, 2, 3)[int(torch.randint(4, (1,), generator=picks))]
    for kind, count in zip(kinds, counts.tolist(), strict=True):
        if not count:
            continue
        draw = Draw(count, generator)
        if bank is not None and kind == "real":
            parts.append(_coarser(_real(draw, bank, picks, size), factor))
            continue
        if bank is not None and kind == "brain":
            scene = _from_brains(draw, bank, picks, size)
        else:
            scene = _painted(draw, kind, size)
        image = render(draw, scene.objects, scene.tissues, scene.density)
        if bank is not None:
            image = image + _real_texture(draw, bank, picks, size)
        part = _coarser(SliceBatch(image, scene.objects, scene.objects_below, scene.tissues), factor)
        parts.append(replace(part, images=degrade(draw, part.images)))
    fields = ("images", "objects", "objects_below", "tissues")
    return SliceBatch(*(torch.cat([getattr(p, f) for p in parts]) for f in fields))
