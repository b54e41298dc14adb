"""Kinds of scenes: what lies where in a trunk, around a heart and among free shapes."""

from typing import Any

import torch
from torch import Tensor

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
    ShapeTable,
)


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
