"""Random anatomy: label maps painted from warped superellipses, on any torch device, a batch at a time.

A scene is a table of shapes, one row per shape and sample, painted in order so that later shapes cover
earlier ones. Every shape has a depth, so the same scene can be cut at two heights: that is where realistic
"mask of the previous slice" prompts come from. Domain randomisation over label maps follows SynthMorph
(Hoffmann et al. 2022, https://arxiv.org/abs/2004.10282) and SynthSeg (Billot et al. 2023,
https://arxiv.org/abs/2107.09559).

Coordinates are (x, y) in [-1, 1] over the slice and z in the same unit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CLASSES = 24
AIR, FAT, MUSCLE, BONE, MARROW, BLOOD, LUNG, ORGAN = range(8)
"""Tissue classes that share an intensity model; classes from `ORGAN` on are organs of their own."""


@dataclass(frozen=True)
class Scene:
    """Label maps of N slices, cut at two heights.

    Attributes
    ----------
    objects, objects_below : (N, H, W) int64
        Object per pixel at the slice, and at a slice a little away; 0 is background.
    tissues : (N, H, W) int64
        Tissue class per pixel, in [0, `CLASSES`).
    density : (N, H, W) float32
        Sum of the shapes' thicknesses, for projection images.
    """

    objects: Tensor
    objects_below: Tensor
    tissues: Tensor
    density: Tensor


class Draw:
    """Random draws from one seeded generator, all of shape (n, ...)."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator, self.device = n, generator, generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw floats in [low, high)."""
        draw = torch.rand((self.n, *shape), generator=self.generator, device=self.device)
        return low + (high - low) * draw

    def normal(self, scale: float, *shape: int) -> Tensor:
        """Draw floats around 0."""
        return scale * torch.randn((self.n, *shape), generator=self.generator, device=self.device)

    def chance(self, p: float, *shape: int) -> Tensor:
        """Draw booleans that are true with probability p."""
        return torch.rand((self.n, *shape), generator=self.generator, device=self.device) < p

    def integer(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw int64 in [low, high)."""
        return torch.randint(low, high, (self.n, *shape), generator=self.generator, device=self.device)


def smooth_noise(draw: Draw, channels: int, cells: int, size: int) -> Tensor:
    """(n, channels, size, size) smooth noise of unit scale with about `cells` bumps along a side."""
    coarse = draw.normal(1.0, channels, cells + 3, cells + 3)
    fine = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return fine


def warped_grid(draw: Draw, size: int, strength: Tensor) -> Tensor:
    """(n, 2, size, size) coordinates (x, y) in [-1, 1], bent by smooth noise of `strength` (n,)."""
    axis = (torch.arange(size, device=draw.device) + 0.5) / size * 2 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    bend = 0.7 * smooth_noise(draw, 2, 4, size) + 0.3 * smooth_noise(draw, 2, 10, size)
    return grid[None] + strength[:, None, None, None] * bend


class ShapeTable:
    """Shapes of one batch of scenes, in painting order; each column is a tensor of (n,)."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.rows: list[dict[str, Tensor]] = []
        self.objects = 0

    def _column(self, value: Tensor | float) -> Tensor:
        if isinstance(value, Tensor):
            return value
        return torch.full((self.draw.n,), float(value), device=self.draw.device)

    def add(
        self,
        center: tuple[Tensor | float, Tensor | float],
        radius: tuple[Tensor | float, Tensor | float],
        tissue: Tensor | int,
        *,
        angle: Tensor | float = 0.0,
        hollow: Tensor | float = 0.0,
        wobble: float = 0.12,
        bend: Tensor | float = 0.0,
        present: Tensor | float = 1.0,
        within: int | None = None,
        same_object: bool = False,
        nameless: bool = False,
        depth: Tensor | int | None = None,
        power: Tensor | float = 2.0,
    ) -> int:
        """Add one shape to every sample and return its object number.

        Parameters
        ----------
        hollow
            Inner radius as a share of the outer one; 0 is solid.
        within
            Paint only where this object was painted before.
        same_object
            Count as part of the last object (marrow in its bone, gas in its bowel).
        nameless
            Paint the tissue but leave object 0: background, never a target.
        depth
            Half extent in z; an int is a long structure that is cut in its middle.
        """
        draw = self.draw
        if not same_object and not nameless:
            self.objects += 1
        rx, ry = self._column(radius[0]), self._column(radius[1])
        middle = 0.0 if isinstance(depth, int) else 1.0
        depth = self._column(draw.uniform(0.6, 2.5) * torch.maximum(rx, ry) if depth is None else depth)
        self.rows.append(
            {
                "cx": self._column(center[0]),
                "cy": self._column(center[1]),
                "rx": rx,
                "ry": ry,
                "angle": self._column(angle),
                "hollow": self._column(hollow),
                "bend": self._column(bend),
                "present": self._column(present.float() if isinstance(present, Tensor) else present),
                "power": self._column(power),
                "tissue": self._column(tissue.float() if isinstance(tissue, Tensor) else tissue),
                "wobble": draw.normal(wobble, 4) / torch.tensor([1.0, 1.5, 2.0, 3.0], device=draw.device),
                "phase": draw.uniform(0, 6.2832, 4),
                "depth": depth,
                # The slice cuts most shapes near their middle, some close to an end.
                "height": middle * depth * draw.normal(0.45).clamp(-0.95, 0.95),
                "drift_x": draw.normal(0.35),
                "drift_y": draw.normal(0.35),
                "within": self._column(-1 if within is None else within),
                "object": self._column(0 if nameless else self.objects),
            }
        )
        return self.objects

    def paint(self, grid: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objects, tissues and density, each (n, H, W), of the cut at height z (n,)."""
        n, _, h, w = grid.shape
        canvas = torch.zeros((3, n, h * w), device=grid.device)
        flat_grid = grid.flatten(2)
        for row in self.rows:
            pixels = _pixels_around(row, grid)
            if pixels is None:
                continue
            x, y = flat_grid[:, 0].gather(1, pixels), flat_grid[:, 1].gather(1, pixels)
            objects, tissues, density = (layer.gather(1, pixels) for layer in canvas)
            inside, thickness = _inside(row, x, y, z)
            inside &= (row["within"][:, None] < 0) | (objects == row["within"][:, None])
            canvas[0].scatter_(1, pixels, torch.where(inside, row["object"][:, None], objects))
            canvas[1].scatter_(1, pixels, torch.where(inside, row["tissue"][:, None], tissues))
            canvas[2].scatter_(1, pixels, density + thickness * inside)
        objects, tissues, density = canvas.view(3, n, h, w)
        return objects.long(), tissues.long(), density


def _pixels_around(row: dict[str, Tensor], grid: Tensor) -> Tensor | None:
    """Flat pixel numbers (n, k) of a window that holds the shape in each sample; None if all are empty.

    Most shapes are small: computing only around them makes painting several times faster.
    """
    n, _, h, w = grid.shape
    stride = 8
    coarse = grid[:, :, ::stride, ::stride]
    reach = 1.5 * torch.maximum(row["rx"], row["ry"]) + row["bend"].abs() * row["ry"] + 0.1
    near = (coarse - torch.stack([row["cx"], row["cy"]], 1)[..., None, None]).abs().amax(1)
    near = (near < reach.view(n, 1, 1)) & (row["present"] > 0).view(n, 1, 1)
    if not bool(near.any()):
        return None
    window = []
    for line, size in ((near.any(2), h), (near.any(1), w)):
        first = (line.float().argmax(1) - 1).clamp_min(0) * stride
        last = (line.shape[1] - line.flip(1).float().argmax(1)) * stride
        extent = min(int(torch.where(line.any(1), last - first, 0).amax()) + stride, size)
        window.append(first.clamp_max(size - extent)[:, None] + torch.arange(extent, device=grid.device))
    return (window[0][:, :, None] * w + window[1][:, None, :]).flatten(1)


def _inside(row: dict[str, Tensor], x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Whether points (n, k) lie in the shape, and the shape's thickness there."""
    c = {k: v[:, None] for k, v in row.items() if v.ndim == 1}
    at = z[:, None]
    x, y = x - c["cx"] - c["drift_x"] * at, y - c["cy"] - c["drift_y"] * at
    cos, sin = c["angle"].cos(), c["angle"].sin()
    u, v = (x * cos + y * sin) / c["rx"], (y * cos - x * sin) / c["ry"]
    v = v + c["bend"] * (u * u - 0.5)
    rho = (u.abs().pow(c["power"]) + v.abs().pow(c["power"])).pow(1 / c["power"])
    theta = torch.atan2(v, u)
    edge = torch.ones_like(rho)
    for k in range(4):
        edge += row["wobble"][:, k, None] * torch.cos((k + 2) * theta + row["phase"][:, k, None])
    shrink = (1 - ((at - c["height"]) / c["depth"]) ** 2).clamp_min(0).sqrt()
    cut = shrink * edge.clamp_min(0.3)
    inside = (rho < cut) & (rho >= c["hollow"] * cut) & (c["present"] > 0)
    return inside, (cut * cut - rho * rho).clamp_min(0).sqrt() * c["rx"]
