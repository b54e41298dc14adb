"""From label maps to images: random contrast, texture, blur, artefacts and noise, a batch at a time.

Intensities are drawn per tissue as in SynthSeg (Billot et al. 2023, https://arxiv.org/abs/2107.09559), with
two additions that matter for prompts: neighbouring organs often get nearly the same value, and every object
of a tissue differs a little from its siblings. All images are float32 in [0, 1], (n, 1, H, W).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_medsam.training.shapes import (
    AIR,
    BLOOD,
    BONE,
    CLASSES,
    FAT,
    LUNG,
    MARROW,
    MUSCLE,
    ORGAN,
    Draw,
    smooth_noise,
)

MAX_OBJECTS = 96


def tissue_means(draw: Draw) -> Tensor:
    """(n, CLASSES) mean intensity of every tissue: CT-like in half of the samples, any in the rest."""
    anything = draw.uniform(0.02, 0.98, CLASSES)
    soft = draw.uniform(0.35, 0.65, 1)
    spread = torch.exp(draw.uniform(-3.9, -1.7, 1))
    ct = soft + spread * draw.normal(1.0, CLASSES)
    ct[:, FAT] = soft[:, 0] - draw.uniform(0.12, 0.35)
    ct[:, MUSCLE] = soft[:, 0] + draw.normal(0.03)
    ct[:, BLOOD] = soft[:, 0] + draw.uniform(-0.05, 0.4)
    ct[:, BONE] = soft[:, 0] + draw.uniform(0.3, 0.8)
    ct[:, MARROW] = soft[:, 0] + draw.uniform(0.05, 0.5)
    ct[:, AIR] = draw.uniform(0.0, 0.05)
    ct[:, LUNG] = draw.uniform(0.0, 0.15)
    ct[:, ORGAN + 9] = ct[:, LUNG] + draw.uniform(0.05, 0.3)
    similar = soft + torch.exp(draw.uniform(-3.0, -1.2, 1)) * draw.normal(1.0, CLASSES)
    kind = draw.uniform(0, 1, 1)
    return torch.where(kind < 0.5, ct, torch.where(kind < 0.8, anything, similar)).clamp(0, 1.3)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Convolve (n, c, H, W) with a Gaussian of `sigma` pixels."""
    reach = max(1, int(3 * sigma + 0.5))
    x = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(image.dtype)
    n, c, h, w = image.shape
    flat = F.pad(image.reshape(n * c, 1, h, w), (reach,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.reshape(n, c, h, w)


def render(draw: Draw, objects: Tensor, tissues: Tensor, density: Tensor) -> Tensor:
    """Clean slice with texture and partial volume from label maps of (n, H, W)."""
    n, h, _ = objects.shape
    means, flat = tissue_means(draw), tissues.reshape(n, -1)
    image = means.gather(1, flat).reshape(objects.shape)
    own = draw.normal(1.0, MAX_OBJECTS) * draw.uniform(0, 0.05, 1)
    image = image + own.gather(1, objects.reshape(n, -1)).reshape(objects.shape)
    grain = draw.uniform(0, 1, CLASSES) ** 3 * draw.uniform(0, 0.08, 1)
    coarse, fine = (smooth_noise(draw, 1, cells, h)[:, 0] for cells in (draw_cells(draw, 8, 24), 48))
    mix = draw.uniform(0, 1, 1, 1)
    texture = mix * coarse + (1 - mix) * fine
    image = image + texture * grain.gather(1, flat).reshape(objects.shape) + rims(draw, objects)
    projection = 0.2 + density * draw.uniform(0.4, 1.2, 1, 1) + 0.1 * coarse * draw.uniform(0, 1, 1, 1)
    image = torch.where(draw.chance(0.06, 1, 1) & (density.amax((1, 2), keepdim=True) > 0), projection, image)
    return image[:, None]


def rims(draw: Draw, objects: Tensor) -> Tensor:
    """Grey values that a fifth of the objects have more, or less, along their edge, (n, H, W).

    Cortical bone, calcified vessels and enhancing capsules: the rim belongs to what it encloses, and a box
    around both means both. Half of the samples have it in patches.
    """
    n, h, _ = objects.shape
    reach = 2 * draw_cells(draw, 1, 4) + 1
    labels = objects[:, None].float()
    highest, lowest = F.max_pool2d(labels, reach, 1, reach // 2), -F.max_pool2d(-labels, reach, 1, reach // 2)
    rim = ((highest != lowest) & (labels > 0))[:, 0]
    patches = smooth_noise(draw, 1, draw_cells(draw, 6, 40), h)[:, 0] > draw.normal(0.5, 1, 1)
    rim = rim & (patches | draw.chance(0.5, 1, 1))
    step = draw.uniform(0.08, 0.6, MAX_OBJECTS) * torch.where(draw.chance(0.7, MAX_OBJECTS), 1.0, -1.0)
    step = step * draw.chance(0.2, MAX_OBJECTS)
    return step.gather(1, objects.reshape(n, -1)).reshape(objects.shape) * rim


def draw_cells(draw: Draw, low: int, high: int) -> int:
    """Draw one noise resolution for the whole batch."""
    return int(torch.randint(low, high, (1,), generator=draw.generator, device=draw.device))


def _streaks(draw: Draw, image: Tensor) -> Tensor:
    """Metal-like streaks that fan out from one bright point."""
    _, _, h, w = image.shape
    axis = torch.linspace(-1, 1, h, device=image.device)
    y, x = torch.meshgrid(axis, torch.linspace(-1, 1, w, device=image.device), indexing="ij")
    dx = x[None] - draw.uniform(-0.6, 0.6, 1, 1)
    dy = y[None] - draw.uniform(-0.6, 0.6, 1, 1)
    radius = (dx * dx + dy * dy).sqrt()
    rays = torch.cos(torch.atan2(dy, dx) * draw.integer(3, 14, 1, 1) + draw.uniform(0, 6.28, 1, 1))
    return (rays * draw.uniform(0.02, 0.2, 1, 1) / (0.15 + radius))[:, None]


def degrade(draw: Draw, image: Tensor) -> Tensor:
    """What a scanner does: blur, bias field, ghosts, streaks, speckle, noise, contrast curve, clipping."""
    n, _, size, _ = image.shape
    image = blurred(image, float(torch.rand((), generator=draw.generator, device=draw.device)) * 1.1 + 0.3)
    bias = torch.exp(
        smooth_noise(draw, 1, 2, size) * draw.uniform(0, 0.3, 1, 1, 1) * draw.chance(0.5, 1, 1, 1)
    )
    image = image * bias
    ghost = torch.roll(image, size // draw_cells(draw, 2, 9), dims=2 + draw_cells(draw, 0, 2))
    image = image + ghost * draw.uniform(0, 0.15, 1, 1, 1) * draw.chance(0.1, 1, 1, 1)
    image = image + _streaks(draw, image) * draw.chance(0.07, 1, 1, 1)
    white = draw.normal(1.0, 1, size, size)
    soft = blurred(white, 0.9) * 2.6
    noise = torch.where(draw.chance(0.5, 1, 1, 1), white, soft)
    level = draw.uniform(0, 1, 1, 1, 1) ** 2 * 0.09
    rician = ((image + level * noise) ** 2 + (level * draw.normal(1.0, 1, size, size)) ** 2).sqrt()
    speckle = image * (1 + 4 * level * noise)
    kind = draw.uniform(0, 1, 1, 1, 1)
    image = torch.where(kind < 0.65, image + level * noise, torch.where(kind < 0.9, rician, speckle))
    image = image.clamp(-0.5, 1.8)
    flat = image.reshape(n, -1)[:, ::7]
    ends = torch.quantile(flat, torch.tensor([0.005, 0.995], device=image.device), dim=1)
    low = ends[0].view(n, 1, 1, 1)
    span = (ends[1].view(n, 1, 1, 1) - low).clamp_min(0.05)
    # Windows that cut into the range at either end, as CT presets do.
    low = low + span * (draw.uniform(-0.05, 0.2, 1, 1, 1) * draw.chance(0.3, 1, 1, 1))
    span = span * draw.uniform(0.65, 1.15, 1, 1, 1)
    image = ((image - low) / span).clamp(0, 1)
    image = image ** torch.exp(draw.normal(0.25, 1, 1, 1))
    return torch.where(draw.chance(0.15, 1, 1, 1), 1 - image, image)
