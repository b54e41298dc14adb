"""What the default model is asked in one decode: prompts, and what they say of its answers.

Which boxes are loose or poorly answered, which masks are scattered, which clicks a mask has got wrong: all of
it is known without the net.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_medsam.models.crops import mask_boxes
from napari_medsam.models.prominence import first_guess
from napari_medsam.postprocess import count_parts, fill_holes, largest_component
from napari_medsam.prompts import BACKGROUND, FOREGROUND

SURE_LOGIT = 1.0
"""At least so much is said for pixels of holes that are filled."""
SMALL_SHARE = 0.1
"""Of the slice's long side: a hand is off by as many pixels whatever it draws, and by more of a small box."""
LOOSE_SHARE = 0.8
"""Of a box's area: where what was found needs less, its own box says better what is meant."""
SMALL_HOLE_SHARE = 0.04
"""Side of a square as large as the hole, of the slice's long side: a rib's marrow is, a ventricle is not."""
AT_A_LOSS = 0.35
"""Estimated IoU of a box's mask, below which another one is looked for."""
HALF_FULL = 0.5
"""Share of a box: a mask that fills more of it is of a large object that was not missed."""
HINT_LOGIT = 4.0
SCATTERED_PARTS = 5
"""A mask of so many parts is one of lesions; of four it is more often another object than the one meant."""
CLOSE_UP_SHARE = 0.3
"""Side of the window around a click on a scattered mask, of the longer side of its box."""
CLOSE_UP_LEAST = 8.0
"""The same in pixels, at least."""
CLICKS_SPREAD = 8.0
"""An object may be so many times as long as the part in which all its foreground points lie."""
LEAST_LIKELY = 0.8
"""Less would make two close clicks on a large organ mean a speck in it."""

OPENING_POINTS = 2
"""Points without a box that are answered together, at least; those after them correct that."""

Pixel = tuple[int, int]
"""(y, x)."""


@dataclass(frozen=True)
class DecodePrompts:
    """Prompts of one decode with every field filled in.

    `listens` is False for a mask that came without clicks: it is taken to be from another slice, and whoever
    carries it knows better, from the slice where somebody pointed at the object, how bright that is.
    Listening to the intensities within a mask that has drifted keeps it where it has drifted to.
    """

    boxes: Tensor
    has_box: Tensor
    points: Tensor
    labels: Tensor
    mask: Tensor | None
    listens: bool

    @classmethod
    def of(
        cls,
        image: Tensor,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
    ) -> "DecodePrompts":
        """Fill in what is missing; ValueError when nothing says where the object is."""
        given = next((t for t in (boxes, point_coords, mask_input) if t is not None), None)
        if given is None:
            raise ValueError("No prompt was given: this model needs a box, a foreground point or a mask.")
        b, device = len(given), image.device
        if point_coords is None or point_labels is None:
            point_coords = torch.zeros((b, 0, 2), device=device)
            point_labels = torch.zeros((b, 0), dtype=torch.int64, device=device)
        some_box = torch.full((b,), boxes is not None, device=device)
        if boxes is None:
            boxes = torch.zeros((b, 4), device=device)
        listens = mask_input is None or point_coords.shape[1] > 0
        return cls(boxes, some_box, point_coords, point_labels, mask_input, listens)

    def rows(self, chosen: Tensor) -> "DecodePrompts":
        """Return some of the prompts, (B,) bool or any number of indices."""
        names = ("boxes", "has_box", "points", "labels")
        mask = None if self.mask is None else self.mask[chosen]
        return replace(self, mask=mask, **{name: getattr(self, name)[chosen] for name in names})

    def repeated(self, times: int) -> "DecodePrompts":
        """Return all prompts, then all of them again, `times` times altogether."""
        return replace(
            self,
            boxes=self.boxes.repeat(times, 1),
            has_box=self.has_box.repeat(times),
            points=self.points.repeat(times, 1, 1),
            labels=self.labels.repeat(times, 1),
            mask=None if self.mask is None else self.mask.repeat(times, 1, 1, 1),
        )

    def with_mask(self, logits: Tensor) -> "DecodePrompts":
        """Return the same prompts with an earlier mask of this slice."""
        return replace(self, mask=logits)

    def box_alone(self) -> "DecodePrompts":
        """Return the same prompts without clicks and without a mask."""
        return replace(self.with_clicks(0), mask=None, listens=True)

    def with_boxes(self, boxes: Tensor) -> "DecodePrompts":
        """Return the same prompts with boxes, (B, 4)."""
        return replace(self, boxes=boxes, has_box=torch.ones_like(self.has_box))

    def with_clicks(self, count: int) -> "DecodePrompts":
        """Return the same prompts with the first points alone."""
        return replace(self, points=self.points[:, :count], labels=self.labels[:, :count])

    def opening(self, row: int) -> int:
        """How many of a row's points say together what is meant: those after them are corrections.

        Beside a box none. Else all before the first background point, and one foreground point at least.
        """
        if self.has_box[row]:
            return 0
        labels = self.labels[row].tolist()
        unbroken = labels.index(BACKGROUND) if BACKGROUND in labels else len(labels)
        pointing = labels.index(FOREGROUND) + 1 if FOREGROUND in labels else len(labels)
        return min(max(unbroken, pointing, OPENING_POINTS), len(labels))

    def begins(self, other: "DecodePrompts") -> bool:
        """Whether other prompts are the same ones and any number of further clicks."""
        count = self.points.shape[1]
        first = other.with_clicks(count)
        fields = ("boxes", "has_box", "points", "labels")
        return all(torch.equal(getattr(self, name), getattr(first, name)) for name in fields)

    def kept(self) -> "DecodePrompts":
        """Return a copy that stays as it is when somebody writes into the tensors that were given."""
        return self.rows(torch.arange(len(self.boxes)))

    def loose_boxes(self, logits: Tensor) -> Tensor:
        """Which boxes, (B,) bool, are small and hold something much smaller; none beside a mask."""
        if self.mask is not None:
            return torch.zeros_like(self.has_box)
        found = logits[:, 0] > 0
        given, tight = _sides(self.boxes), _sides(mask_boxes(found))
        return self._small(logits) & (tight.prod(1) < LOOSE_SHARE * given.prod(1)) & found.flatten(1).any(1)

    def tightened(self, chosen: Tensor, logits: Tensor) -> "DecodePrompts":
        """Return some of the prompts, (B,) bool, each with the tight box of what was found."""
        return replace(self.rows(chosen), boxes=mask_boxes(logits[chosen, 0] > 0))

    def hinted(self, image: Tensor, logits: Tensor, scores: Tensor) -> tuple[Tensor, "DecodePrompts"]:
        """Rows, (n,), of boxes with a poor, sparse answer, and these boxes with what stands out as a mask.

        Not those in which nothing stands out, and none that come with clicks or a mask.
        """
        chosen: list[int] = []
        guesses: list[Tensor] = []
        filled = ((logits > 0).flatten(1).sum(1) / _sides(self.boxes).prod(1)).tolist()
        poor = [n for n in self.boxes_alone() if scores[n, 0] < AT_A_LOSS and filled[n] < HALF_FULL]
        # From a GPU the whole slice would be fetched for every box.
        pixels = image[0, 0].cpu().numpy() if poor else np.zeros((0, 0), np.float32)
        for row in poor:
            guess = first_guess(pixels, self.boxes[row].tolist(), filled[row])
            if guess is not None:
                chosen.append(row)
                guesses.append(torch.from_numpy(guess).to(image.device))
        rows = torch.tensor(chosen, dtype=torch.int64, device=image.device)
        if not chosen:
            return rows, self
        hint = torch.where(torch.stack(guesses), HINT_LOGIT, -HINT_LOGIT)[:, None]
        return rows, replace(self.rows(rows), mask=hint)

    def without_small_holes(self, logits: Tensor) -> Tensor:
        """Logits, (B, 1, H, W), of masks that take in what they enclose, where that is small.

        Ribs, and vessels whose walls are calcified or enhanced, have a bright rim: the net takes them for
        rings. A hole with a background point in it stays.
        """
        most = (SMALL_HOLE_SHARE * max(logits.shape[2:])) ** 2
        filled = torch.zeros_like(logits, dtype=torch.bool)
        for n, mask in enumerate((logits[:, 0] > 0).cpu().numpy()):
            holes = fill_holes(mask, most) & ~mask
            clicked = self._clicked(n, BACKGROUND, holes)
            if clicked:
                holes &= ~largest_component(holes, clicked)
            filled[n, 0] = torch.from_numpy(holes).to(logits.device)
        return torch.where(filled, logits.abs().clamp_min(SURE_LOGIT), logits)

    def clicked_parts(self, logits: Tensor) -> Tensor:
        """Logits, (B, 1, H, W), of masks of which only the parts with a foreground point in them are left.

        Without a box nothing else says that other parts are meant. A mask without such a part stays as it is.
        """
        dropped = torch.zeros_like(logits, dtype=torch.bool)
        for n, mask in enumerate((logits[:, 0] > 0).cpu().numpy()):
            clicked = self._clicked(n, FOREGROUND, mask)
            if clicked:
                dropped[n, 0] = torch.from_numpy(mask & ~largest_component(mask, clicked)).to(logits.device)
        return torch.where(dropped, -logits.abs().clamp_min(SURE_LOGIT), logits)

    def boxes_alone(self) -> list[int]:
        """Return the rows that have a box and neither clicks nor a mask."""
        if self.mask is not None or self.points.shape[1] > 0:
            return []
        return torch.nonzero(self.has_box).flatten().tolist()

    def large_boxes_alone(self, logits: Tensor) -> list[int]:
        """Return those of `boxes_alone` that are not small: vessels have bright discs and walls, too."""
        small = self._small(logits).tolist()
        return [row for row in self.boxes_alone() if not small[row]]

    def scattered(self) -> list[int]:
        """Return the rows that have clicks and a scattered mask before."""
        return [n for n, mask in self._clicked_masks() if count_parts(mask) >= SCATTERED_PARTS]

    def already_right(self) -> list[int]:
        """Return the rows whose mask before has got no click wrong."""
        return [n for n in range(len(self.boxes)) if not self.contradicting(n)]

    def hollowed(self) -> list[tuple[int, Pixel]]:
        """Return the rows with a background click in their mask before, and the last such click."""
        clicked = [(n, self._clicked(n, BACKGROUND, mask)) for n, mask in self._clicked_masks()]
        return [(n, pixels[-1]) for n, pixels in clicked if pixels]

    def contradicting(self, row: int) -> list[tuple[Pixel, int]]:
        """Clicks on pixels that a row's mask before has got wrong, and their labels."""
        assert self.mask is not None
        before = (self.mask[row, 0] > 0).cpu().numpy()
        missed = [(pixel, FOREGROUND) for pixel in self._clicked(row, FOREGROUND, ~before)]
        return missed + [(pixel, BACKGROUND) for pixel in self._clicked(row, BACKGROUND, before)]

    def close_up(self, row: int, pixel: Pixel) -> Tensor:
        """Return a square window, (1, 4), around a pixel of a row's slice."""
        half = (CLOSE_UP_SHARE / 2 * _sides(self.boxes[row : row + 1]).amax()).clamp_min(CLOSE_UP_LEAST / 2)
        at = self.boxes.new_tensor([pixel[::-1]])
        return torch.cat([at - half, at + half], 1)

    def _small(self, logits: Tensor) -> Tensor:
        """Which boxes, (B,) bool, are small for slices as large as those of (B, 1, H, W)."""
        return _sides(self.boxes).amin(1) < SMALL_SHARE * max(logits.shape[2:])

    def _clicked_masks(self) -> list[tuple[int, NDArray[np.bool_]]]:
        """Rows that have clicks and a mask before, and these masks."""
        if self.mask is None:
            return []
        masks, clicked = (self.mask[:, 0] > 0).cpu().numpy(), (self.labels >= 0).any(1).tolist()
        return [(n, mask) for n, mask in enumerate(masks) if clicked[n]]

    def _clicked(self, row: int, label: int, mask: NDArray[np.bool_]) -> list[Pixel]:
        """Pixels of a mask that a row has clicks with a label in."""
        pixels = self.points[row, self.labels[row] == label].round().long().tolist()
        height, width = mask.shape
        return [(y, x) for x, y in pixels if 0 <= y < height and 0 <= x < width and mask[y, x]]

    def point_windows(self, image: Tensor, share: float) -> Tensor:
        """Square windows (B, 4) around the foreground points, wide enough for all points."""
        used = (self.labels == 1)[..., None]
        count = used.sum(1).clamp_min(1)
        center = (self.points * used).sum(1) / count
        reach = ((self.points - center[:, None]).abs() * (self.labels >= 0)[..., None]).amax((1, 2))
        half = (1.3 * reach).clamp_min(share * max(image.shape[2:]) / 2)[:, None]
        return torch.cat([center - half, center + half], 1)

    def found_boxes(self, logits: Tensor) -> Tensor:
        """Boxes (B, 4) of earlier masks and their foreground points; the slice where a mask is empty."""
        boxes = mask_boxes(logits[:, 0] > 0)
        if self.points.shape[1] == 0:
            return boxes
        low, high = self._around_points()
        return torch.cat([torch.minimum(boxes[:, :2], low), torch.maximum(boxes[:, 2:], high)], 1)

    def likely_sizes(self, logits: Tensor) -> Tensor:
        """How likely masks of their size are with such points, (B, C) up to 1, given (B, C, H, W).

        Whoever clicks several times spreads the clicks: an object that is many times as long as the part
        with all of them in it is less likely to be meant. Foreground points in one place say nothing.
        """
        low, high = self._around_points()
        reach = (high - low).amax(1)[:, None]
        extents = _sides(mask_boxes(logits.flatten(0, 1) > 0)).amax(1).view(logits.shape[:2])
        likely = (CLICKS_SPREAD * reach / extents).clamp(LEAST_LIKELY, 1)
        return torch.where(reach >= 1, likely, 1.0)

    def _around_points(self) -> tuple[Tensor, Tensor]:
        """Least and greatest (x, y) of the foreground points, (B, 2) each; infinite without any."""
        chosen = (self.labels == FOREGROUND)[..., None]
        low = torch.where(chosen, self.points, torch.inf).amin(1)
        return low, torch.where(chosen, self.points, -torch.inf).amax(1)


def _sides(boxes: Tensor) -> Tensor:
    """Width and height of boxes with inclusive corners, (B, 2) pixels."""
    return boxes[:, 2:] - boxes[:, :2] + 1


def certainty(logits: Tensor) -> Tensor:
    """How far each of a point's candidates can be believed, (B, C) from 0 to 1.

    The net says how good a mask is of the object that it sees, not whether that is the one that was meant:
    candidates that no other looks like, or that grow or shrink with the threshold, are more often not.
    """
    masks = (logits > 0).flatten(2).float()
    both, area = masks @ masks.transpose(1, 2), masks.sum(2)
    either = area[:, :, None] + area[:, None, :] - both
    overlap = both / either.clamp_min(1)
    others = logits.shape[1] - 1
    agreement = (overlap.sum(2) - overlap.diagonal(dim1=1, dim2=2)) / others
    sure, wide = ((logits > limit).flatten(2).sum(2) for limit in (1.0, -1.0))
    return (1 + agreement) / 2 * sure / wide.clamp_min(1)
