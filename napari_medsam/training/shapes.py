"""Random anatomy: label maps painted from warped superellipses, on any torch device, a batch at a time.

A scene is a table of shapes, one row per shape and sample, painted in order so that later shapes cover
earlier ones. Every shape has a depth, so the same scene can be cut at two heights: that is where realistic
"mask of the previous slice" prompts come from. Domain randomisation over label maps follows SynthMorph
(Hoffmann et al. 2022, https://arxiv.org/abs/2004.10282) and SynthSeg (Billot et al. 2023,
https://arxiv.org/abs/2107.09559).

Coordinates are (x, y) in [-1, 1] over the slice and z in the same unit.
"""

from dataclasses import dataclass
from typing import Any

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


def torso(draw: Draw) -> ShapeTable:
    """Trunk-like cuts: wall, ribs, spine, paired muscles, organs with lesions, vessels, bowel, lungs."""
    t = ShapeTable(draw)
    bx, by = draw.uniform(0.7, 0.98), draw.uniform(0.5, 0.85)
    t.add((0, 0), (bx, by), FAT, power=draw.uniform(2, 3), wobble=0.03, nameless=True, depth=9)
    wall, inner = draw.uniform(0.84, 0.97), draw.uniform(0.72, 0.82)
    t.add((0, 0), (bx * wall, by * wall), MUSCLE, wobble=0.03, nameless=True, depth=9)
    lungs = draw.chance(0.4)
    cavity = t.add(
        (0, 0), (bx * inner, by * inner), torch.where(draw.chance(0.8), FAT, MUSCLE), wobble=0.03, depth=9
    )
    for side in (-1, 1):
        lung = t.add(
            (side * bx * draw.uniform(0.3, 0.42), draw.normal(0.05)),
            (bx * draw.uniform(0.24, 0.34), by * draw.uniform(0.4, 0.62)),
            LUNG,
            present=lungs,
            within=cavity,
            depth=4,
        )
        for _ in range(2):
            t.add(
                (side * bx * draw.uniform(0.2, 0.5), draw.normal(0.2)),
                (draw.uniform(0.01, 0.04), draw.uniform(0.01, 0.05)),
                torch.where(draw.chance(0.5), BLOOD, ORGAN + 9),
                within=lung,
                present=lungs,
            )
    for k in range(draw_count(draw, 3, 6)):
        _organ_with_content(t, bx, by, cavity, tissue=ORGAN + k)
    for k in range(draw_count(draw, 2, 6)):
        _bowel_loop(t, bx, by, cavity, tissue=ORGAN + 10 + k % 3)
    _spine(t, by)
    for _ in range(draw_count(draw, 3, 7)):
        r = draw.uniform(0.015, 0.075)
        t.add(
            (draw.normal(0.2), draw.normal(0.2)),
            (r, r * draw.uniform(0.7, 1.6)),
            BLOOD,
            angle=draw.uniform(0, 3.14),
            depth=2,
        )
    _ribs(t, bx, by, inner)
    return t


def draw_count(draw: Draw, low: int, high: int) -> int:
    """Draw one count in [low, high) for the whole batch."""
    return int(torch.randint(low, high, (1,), generator=draw.generator, device=draw.device))


def _organ_with_content(t: ShapeTable, bx: Tensor, by: Tensor, cavity: int, tissue: int) -> None:
    draw = t.draw
    cx, cy = bx * draw.uniform(-0.55, 0.55), by * draw.uniform(-0.5, 0.5)
    rx, ry = draw.uniform(0.08, 0.42), draw.uniform(0.07, 0.3)
    angle, bend = draw.uniform(0, 3.14), draw.normal(0.35)
    organ = t.add(
        (cx, cy),
        (rx, ry),
        tissue,
        angle=angle,
        bend=bend,
        within=cavity,
        present=draw.chance(0.85),
        wobble=0.16,
    )
    if draw_count(draw, 0, 3):
        lesion = draw.uniform(0.15, 0.5)
        t.add(
            (cx + rx * draw.normal(0.3), cy + ry * draw.normal(0.3)),
            (rx * lesion, ry * lesion),
            ORGAN + 8,
            within=organ,
            present=draw.chance(0.6),
        )
    if draw_count(draw, 0, 2):
        width = draw.uniform(0.008, 0.03)
        t.add(
            (cx, cy),
            (rx, width),
            BLOOD,
            angle=angle + draw.normal(0.5),
            bend=draw.normal(2.0),
            within=organ,
            present=draw.chance(0.6),
        )


def _bowel_loop(t: ShapeTable, bx: Tensor, by: Tensor, cavity: int, tissue: int) -> None:
    draw = t.draw
    center = (bx * draw.uniform(-0.6, 0.6), by * draw.uniform(-0.6, 0.6))
    rx, ry = draw.uniform(0.04, 0.2), draw.uniform(0.03, 0.09)
    angle, bend = draw.uniform(0, 3.14), draw.normal(0.8)
    depth = draw.uniform(0.1, 0.8)
    shape: dict[str, Any] = {"angle": angle, "bend": bend, "depth": depth, "wobble": 0.15}
    t.add(center, (rx, ry), tissue, within=cavity, present=draw.chance(0.8), **shape)
    filling = torch.where(draw.chance(0.5), AIR, ORGAN + 14)
    inner = draw.uniform(0.4, 0.85)
    t.add(
        center,
        (rx * inner, ry * inner),
        filling,
        present=draw.chance(0.6),
        within=t.objects,
        same_object=True,
        **shape,
    )


def _spine(t: ShapeTable, by: Tensor) -> None:
    draw = t.draw
    cx, cy, r = draw.normal(0.04), by * draw.uniform(0.3, 0.6), draw.uniform(0.08, 0.16)
    back = cy + r * 1.6
    for side in (-1, 1):
        t.add(
            (cx + side * r * draw.uniform(1.0, 1.5), back + r * draw.uniform(0.1, 0.8)),
            (r * draw.uniform(0.6, 1.2), r * draw.uniform(0.5, 0.9)),
            MUSCLE,
            angle=side * draw.uniform(0, 0.7),
            depth=5,
        )
    arch: dict[str, Any] = {"present": draw.chance(0.75), "wobble": 0.1}
    t.add((cx, cy), (r * draw.uniform(1, 1.3), r), BONE, wobble=0.06)
    vertebra = t.objects
    t.add((cx, cy), (r * 0.9, r * 0.78), MARROW, wobble=0.06, same_object=True, within=vertebra)
    for side in (-1, 1):
        t.add(
            (cx + side * r * 0.75, cy + r * 1.25),
            (r * draw.uniform(0.6, 1.1), r * draw.uniform(0.14, 0.3)),
            BONE,
            angle=side * draw.uniform(-0.9, 0.3),
            same_object=True,
            **arch,
        )
    t.add((cx, back + r * 0.7), (r * 0.16, r * draw.uniform(0.4, 0.9)), BONE, same_object=True, **arch)
    t.add((cx, cy + r * 1.3), (r * 0.48, r * 0.42), FAT, nameless=True, wobble=0.05, depth=5)
    t.add(
        (cx, cy + r * 1.3), (r * draw.uniform(0.25, 0.42), r * draw.uniform(0.22, 0.36)), ORGAN + 13, depth=5
    )


def _ribs(t: ShapeTable, bx: Tensor, by: Tensor, inner: Tensor) -> None:
    draw = t.draw
    for k in range(draw_count(draw, 5, 11)):
        around = torch.as_tensor(6.2832 * k / 10) + draw.normal(0.2)
        reach = inner * draw.uniform(1.0, 1.12)
        center = (bx * reach * around.cos(), by * reach * around.sin())
        radius = (draw.uniform(0.03, 0.14), draw.uniform(0.015, 0.035))
        shape: dict[str, Any] = {
            "angle": around + 1.5708 + draw.normal(0.15),
            "wobble": 0.08,
            "depth": draw.uniform(0.04, 0.3),
        }
        present = draw.chance(0.85)
        t.add(center, radius, BONE, present=present, **shape)
        t.add(
            center,
            (radius[0] * 0.75, radius[1] * draw.uniform(0.3, 0.6)),
            MARROW,
            present=present & draw.chance(0.6),
            within=t.objects,
            same_object=True,
            **shape,
        )


def blobs(draw: Draw) -> ShapeTable:
    """Free arrangements: solid and hollow blobs, tubes, blobs inside blobs, clusters of small spots."""
    t = ShapeTable(draw)
    t.add((0, 0), (3.0, 3.0), draw.integer(0, CLASSES), nameless=True, depth=9)
    if draw_count(draw, 0, 2):
        t.add((0, 0), (draw.uniform(0.6, 1), draw.uniform(0.6, 1)), draw.integer(0, CLASSES), depth=9)
    for _ in range(draw_count(draw, 4, 12)):
        cx, cy = draw.uniform(-0.8, 0.8), draw.uniform(-0.8, 0.8)
        rx = torch.exp(draw.uniform(-3.2, -0.7))
        ry = rx * draw.uniform(0.3, 1)
        angle, bend = draw.uniform(0, 3.14), draw.normal(0.3)
        hollow = draw.uniform(0.4, 0.9) * draw.chance(0.2)
        outer = t.add(
            (cx, cy), (rx, ry), draw.integer(0, CLASSES), angle=angle, bend=bend, hollow=hollow, wobble=0.18
        )
        share = draw.uniform(0.2, 0.85)
        t.add(
            (cx + rx * draw.normal(0.15), cy + ry * draw.normal(0.15)),
            (rx * share, ry * share),
            draw.integer(0, CLASSES),
            angle=angle,
            bend=bend,
            within=outer,
            present=draw.chance(0.4),
        )
    for _ in range(draw_count(draw, 0, 3)):
        t.add(
            (draw.uniform(-0.7, 0.7), draw.uniform(-0.7, 0.7)),
            (draw.uniform(0.1, 0.6), draw.uniform(0.01, 0.05)),
            draw.integer(0, CLASSES),
            angle=draw.uniform(0, 3.14),
            bend=draw.normal(4.0),
        )
    spot = draw.integer(0, CLASSES)
    for _ in range(draw_count(draw, 0, 8)):
        r = draw.uniform(0.015, 0.07)
        t.add((draw.normal(0.35), draw.normal(0.35)), (r, r * draw.uniform(0.5, 1)), spot, wobble=0.25)
    return t


def heart(draw: Draw) -> ShapeTable:
    """Short-axis heart: a wall around a cavity, a crescent beside it, papillary muscles, lungs and chest."""
    t = ShapeTable(draw)
    t.add((0, 0), (3, 3), FAT, nameless=True, depth=9)
    for _ in range(draw_count(draw, 3, 8)):
        center = (draw.uniform(-0.9, 0.9), draw.uniform(-0.9, 0.9))
        tissue = torch.where(draw.chance(0.4), LUNG, draw.integer(0, CLASSES))
        radius = (draw.uniform(0.1, 0.6), draw.uniform(0.1, 0.4))
        t.add(center, radius, tissue, angle=draw.uniform(0, 3.14), nameless=True)
    cx, cy, r = draw.normal(0.15), draw.normal(0.15), draw.uniform(0.1, 0.35)
    side = draw.uniform(0, 6.2832)
    reach = r * draw.uniform(0.9, 1.3)
    t.add(
        (cx + reach * side.cos(), cy + reach * side.sin()),
        (r * draw.uniform(0.6, 1), r * draw.uniform(0.8, 1.5)),
        BLOOD,
        angle=side,
        depth=draw.uniform(0.3, 1.5),
    )
    ellipse: dict[str, Any] = {"angle": draw.uniform(0, 3.14), "wobble": 0.05}
    stretch, depth = draw.uniform(0.8, 1.0), draw.uniform(0.3, 2.0)
    t.add((cx, cy), (r, r * stretch), ORGAN, depth=depth, **ellipse)
    share = draw.uniform(0.45, 0.82)
    t.add((cx, cy), (r * share, r * share * stretch), BLOOD, depth=depth * 0.85, **ellipse)
    for _ in range(2):
        size = r * draw.uniform(0.05, 0.18)
        t.add(
            (cx + r * draw.normal(0.25), cy + r * draw.normal(0.25)),
            (size, size * 0.7),
            ORGAN,
            same_object=True,
            present=draw.chance(0.5),
        )
    return t


def cells(draw: Draw, size: int, bumps: int) -> tuple[Tensor, Tensor]:
    """Tightly packed regions, cut at two heights: argmax of noise fields; (n, size, size) int64 each."""
    fields = smooth_noise(draw, 12, bumps, size)
    step = 0.25 * smooth_noise(draw, 12, bumps, size)
    return fields.argmax(1) + 1, (fields + step).argmax(1) + 1
