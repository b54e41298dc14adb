"""The default model: a small U-Net that segments what a prompt points at, inside a crop around the prompt.

Prompts enter as image channels (box, foreground points, background points, earlier mask), an idea of
interactive segmentation since Xu et al. 2016 (Deep Interactive Object Selection,
https://arxiv.org/abs/1603.04042) that ScribblePrompt (Wong et al. 2024, https://arxiv.org/abs/2312.07381)
showed to carry a small medical U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597). The zoom to
the prompt follows the "zoom-in" of f-BRS (Sofiiuk et al. 2020, https://arxiv.org/abs/2001.10331). The code
and the weights are this project's own (BSD-3-Clause).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_medsam.models.crops import (
    CROP_SIZE,
    OUTSIDE_LOGIT,
    box_window,
    crop,
    image_channels,
    mask_boxes,
    paste,
    prompt_channels,
)
from napari_medsam.models.evidence import what_stands_out
from napari_medsam.models.prompt_net import PromptNet
from napari_medsam.postprocess import count_parts, fill_holes, largest_component
from napari_medsam.prompts import BACKGROUND, FOREGROUND


def _certainty(logits: Tensor) -> Tensor:
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


@dataclass(frozen=True)
class SliceEmbedding:
    """One grey slice as the net wants it.

    Attributes
    ----------
    image : (1, 1, H, W) float32
        In [0, 1].
    """

    image: Tensor

    def to(self, device: torch.device) -> "SliceEmbedding":
        """Move to a device, as tensors do."""
        return SliceEmbedding(self.image.to(device))


BOX_CONTEXTS = (1.45, 1.95)
BOX_CANDIDATE_CONTEXTS = (1.4, 1.8, 2.4)
POINT_WINDOW_SHARES = (0.12, 0.32, 0.8)
MASK_CONTEXT = 1.6
SURE_LOGIT = 1.0
"""At least so much is said for pixels of holes that are filled."""
CROPS_AT_ONCE = 8
"""On a CPU: more of them do not fit into its caches, and each takes up to 1.7 times as long."""
SMALL_SHARE = 0.1
"""Of the slice's long side: a hand is off by as many pixels whatever it draws, and by more of a small box."""
LOOSE_SHARE = 0.8
"""Of a box's area: where what was found needs less, its own box says better what is meant."""
SMALL_HOLE_SHARE = 0.04
"""Side of a square as large as the hole, of the slice's long side: a rib's marrow is, a ventricle is not."""
AT_A_LOSS = 0.35
"""Estimated IoU of a box's mask, below which another one is looked for."""
SPARSE_SHARE = 1 / 3
"""Of a box's area: a mask that fills more of it is of a large object, and no scattered ones were missed."""
STANDS_OUT = 4 / 3
"""Prominence of what is shown to the net as a first mask then; 1 is no more than chance."""
HINT_LOGIT = 4.0
SCATTERED_PARTS = 5
"""A mask of so many parts is one of lesions; of four it is more often another object than the one meant."""
CLOSE_UP_SHARE = 0.3
"""Side of the window around a click on a scattered mask, of the longer side of its box."""
CLOSE_UP_LEAST = 8.0
"""The same in pixels, at least."""
CLICKS_ONE_BY_ONE = 4
"""So many of a box's clicks, the last ones, are answered one after the other; those before them at once."""


Pixel = tuple[int, int]
"""(y, x)."""


class PromptUNet(nn.Module):
    """`PromptNet` behind the `PromptableModel` contract: crops, prompts, zoom and candidates.

    A box is looked at in two crops whose probabilities are averaged, a small and loose one again with the
    tight box of what was found, and one that is answered poorly again with what stands out in it as a first
    mask; clicks beside a box correct what it alone was answered with, one after the other, as in training.
    Of a scattered mask they change the parts that they touch alone, which are looked at from close by. Points
    without a box are looked at in three crops of growing size, each followed by a second look around what was
    found, with its mask or, after several points, with its box; these are the three candidates. The one
    answer to such points is the best of them, after several points looked at once more, with its mask and
    its box; its score is lower the less the others agree with it. Small holes of the one answer to a box are
    filled, but for those with a background point; candidates are shown as they are.

    Parameters
    ----------
    net
        With its weights.
    """

    image_size = CROP_SIZE
    family = "grey"
    supported_prompts = frozenset({"box", "point", "mask"})

    def __init__(self, net: PromptNet) -> None:
        super().__init__()
        self.net = net.eval()

    def encode_image(self, image: Tensor) -> SliceEmbedding:
        """Keep the slice, (1, 1, H, W) float32 in [0, 1]: this model looks at crops of it when prompted."""
        return SliceEmbedding(image)

    def decode(
        self,
        embedding: SliceEmbedding,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Masks of B prompts; see `PromptableModel.decode`. Logits have the size of the slice."""
        prompts = _Prompts.of(embedding.image, point_coords, point_labels, boxes, mask_input)
        if boxes is None:
            return self._without_box(embedding, prompts, multimask_output)
        if mask_input is None:
            for k in _steps(prompts.points.shape[1]):
                found, _ = self._with_box(embedding, prompts.with_clicks(k), False)
                prompts = prompts.with_mask(found)
        return self._with_box(embedding, prompts, multimask_output)

    def _with_box(
        self, embedding: SliceEmbedding, prompts: "_Prompts", multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        if multimask_output:
            windows = [box_window(prompts.boxes, context) for context in BOX_CANDIDATE_CONTEXTS]
            return self._looks(self._look, embedding, prompts, windows)
        logits, scores = self._around_box(embedding, prompts)
        loose = prompts.loose_boxes(logits)
        if loose.any():
            tight = prompts.tightened(loose, logits)
            logits[loose], scores[loose] = self._around_box(embedding, tight)
        at_a_loss, hinted = prompts.hinted(embedding.image, logits, scores)
        if len(at_a_loss):
            logits[at_a_loss], again = self._around_box(embedding, hinted)
            # By itself the net trusts what it is shown: 0.60 on average where 0.39 is right.
            scores[at_a_loss] = (scores[at_a_loss] + again) / 2
        for row in prompts.scattered():
            logits[row] = self._part_by_part(embedding, prompts, row, logits[row])
        return (prompts.without_small_holes(logits) if prompts.listens else logits), scores

    def _part_by_part(self, embedding: SliceEmbedding, prompts: "_Prompts", row: int, wide: Tensor) -> Tensor:
        """Return a row's mask before, (1, H, W), with the parts that its clicks add or take away.

        A click on one of many parts says little of the others, and those that were found because they stand
        out the net would take back. What is added is best seen from close by, unless it does not fit into
        the window; from there a background click takes away little more than its own disc, so for that the
        `wide` answer comes first.
        """
        assert prompts.mask is not None
        mask, one = prompts.mask[row], prompts.rows(torch.tensor([row]))
        for pixel, label in prompts.contradicting(row):
            window = prompts.close_up(row, pixel)
            answers = [self._look(embedding, one, window)[0][0], wide]
            parts = [_changed_part(mask, answer, pixel, label) for answer in answers]
            fits = not (parts[0] & _rim(window, parts[0])).any()
            first = 0 if label == FOREGROUND and fits else 1
            chosen = first if parts[first].any() else 1 - first
            mask = torch.where(parts[chosen], answers[chosen], mask)
        return mask

    def _around_box(self, embedding: SliceEmbedding, prompts: "_Prompts") -> tuple[Tensor, Tensor]:
        """Return the mean of what is seen in two crops around each box."""
        windows = [box_window(prompts.boxes, context) for context in BOX_CONTEXTS]
        logits, scores = self._looks(self._look, embedding, prompts, windows)
        mean = torch.sigmoid(logits).mean(1, keepdim=True)
        return torch.logit(mean, eps=1e-6), scores.mean(1, keepdim=True)

    def _without_box(
        self, embedding: SliceEmbedding, prompts: "_Prompts", multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        if prompts.mask is not None:
            return self._look(embedding, prompts, box_window(prompts.found_boxes(prompts.mask), MASK_CONTEXT))
        windows = [prompts.point_windows(embedding.image, share) for share in POINT_WINDOW_SHARES]
        logits, scores = self._looks(self._zoomed, embedding, prompts, windows)
        if multimask_output:
            return logits, scores
        believed = scores * _certainty(logits)
        # Several points say themselves which object is meant: there the candidate that fits them best counts.
        best = (believed if prompts.points.shape[1] == 1 else scores).argmax(1)
        each = torch.arange(len(best), device=best.device)
        chosen, score = logits[each, best][:, None], believed[each, best][:, None]
        if prompts.points.shape[1] > 1:
            chosen = self._touched_up(embedding, prompts.with_mask(chosen))
        return chosen, score

    def _touched_up(self, embedding: SliceEmbedding, found: "_Prompts") -> Tensor:
        """Look at what several points found once more, with its mask and its box: logits (B, 1, H, W).

        The estimates after this look are worse at telling which candidate was meant, and are not used.
        """
        assert found.mask is not None
        boxes = found.found_boxes(found.mask)
        logits, _ = self._look(embedding, found.with_boxes(boxes), box_window(boxes, MASK_CONTEXT))
        empty = (found.mask > 0).flatten(1).sum(1) == 0
        return torch.where(empty.view(-1, 1, 1, 1), found.mask, logits)

    def _looks(
        self,
        look: Callable[[SliceEmbedding, "_Prompts", Tensor], tuple[Tensor, Tensor]],
        embedding: SliceEmbedding,
        prompts: "_Prompts",
        windows: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Look at several windows of each prompt: logits (B, windows, H, W) and scores (B, windows)."""
        # All crops of a prompt in one pass: threads wait for each other less often.
        both = look(embedding, prompts.repeated(len(windows)), torch.cat(list(windows)))
        logits, scores = (torch.cat(part.split(len(prompts.boxes)), 1) for part in both)
        return logits, scores

    def _look(self, embedding: SliceEmbedding, prompts: "_Prompts", windows: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the net over a crop for each prompt: logits (B, 1, H, W) and scores (B, 1)."""
        b = len(windows)
        image = embedding.image.expand(b, -1, -1, -1)
        channels = prompt_channels(windows, prompts.boxes, prompts.has_box, prompts.points, prompts.labels)
        if prompts.mask is None:
            previous = torch.zeros_like(channels[:, :1])
        else:
            previous = crop(torch.sigmoid(prompts.mask), windows, padding="zeros") * 2 - 1
        inputs = torch.cat([image_channels(crop(image, windows)), channels, previous], 1)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits, iou_logits = self._through(inputs, prompts.listens)
        whole = paste(logits.contiguous(), windows, (image.shape[2], image.shape[3]))
        return whole, torch.sigmoid(iou_logits)[:, None]

    def _through(self, crops: Tensor, listens: bool) -> tuple[Tensor, Tensor]:
        """Pass any number of crops (N, 6, S, S) through the net."""
        at_once = CROPS_AT_ONCE if crops.device.type == "cpu" else len(crops)
        logits, iou_logits = zip(
            *(self.net(part, listens=listens) for part in crops.split(at_once)), strict=True
        )
        return torch.cat(logits), torch.cat(iou_logits)

    def _zoomed(
        self, embedding: SliceEmbedding, prompts: "_Prompts", windows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Look at the windows, then again around what was found in each."""
        first, score = self._look(embedding, prompts, windows)
        found = prompts.with_mask(first)
        boxes = found.found_boxes(first)
        # Several points say which object is meant: its box is then the prompt that is answered best.
        again = prompts.with_boxes(boxes) if prompts.points.shape[1] > 1 else found
        second, better = self._look(embedding, again, box_window(boxes, MASK_CONTEXT))
        empty = (first > 0).flatten(1).sum(1) == 0
        return torch.where(empty.view(-1, 1, 1, 1), first, second), torch.where(empty[:, None], score, better)


def _sides(boxes: Tensor) -> Tensor:
    """Width and height of boxes with inclusive corners, (B, 2) pixels."""
    return boxes[:, 2:] - boxes[:, :2] + 1


def _changed_part(before: Tensor, answer: Tensor, pixel: Pixel, label: int) -> Tensor:
    """Return the part of an answer, (1, H, W) bool, that a click adds (foreground) or takes away."""
    wanted = label == FOREGROUND
    changed = (answer != OUTSIDE_LOGIT) & ((answer > 0) == wanted) & ((before > 0) != wanted)
    change = changed[0].cpu().numpy()
    part = largest_component(change, [pixel]) if change[pixel] else np.zeros_like(change)
    return torch.from_numpy(part).to(before.device)[None]


def _rim(window: Tensor, like: Tensor) -> Tensor:
    """Pixels, (1, H, W) bool, less than two from the sides of a window (1, 4) or outside of it."""
    y = torch.arange(like.shape[1], device=like.device)[:, None]
    x = torch.arange(like.shape[2], device=like.device)
    x0, y0, x1, y1 = window[0]
    return ((x < x0 + 2) | (x > x1 - 2) | (y < y0 + 2) | (y > y1 - 2))[None]


def _steps(clicks: int) -> Sequence[int]:
    """With how many of a box's clicks the masks were made that lead to the one with all of them."""
    return (0, *range(max(1, clicks - CLICKS_ONE_BY_ONE + 1), clicks)) if clicks else ()


@dataclass(frozen=True)
class _Prompts:
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
    ) -> "_Prompts":
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

    def rows(self, chosen: Tensor) -> "_Prompts":
        """Return some of the prompts, (B,) bool or any number of indices."""
        names = ("boxes", "has_box", "points", "labels")
        mask = None if self.mask is None else self.mask[chosen]
        return replace(self, mask=mask, **{name: getattr(self, name)[chosen] for name in names})

    def repeated(self, times: int) -> "_Prompts":
        """Return all prompts, then all of them again, `times` times altogether."""
        return replace(
            self,
            boxes=self.boxes.repeat(times, 1),
            has_box=self.has_box.repeat(times),
            points=self.points.repeat(times, 1, 1),
            labels=self.labels.repeat(times, 1),
            mask=None if self.mask is None else self.mask.repeat(times, 1, 1, 1),
        )

    def with_mask(self, logits: Tensor) -> "_Prompts":
        """Return the same prompts with an earlier mask of this slice."""
        return replace(self, mask=logits)

    def with_boxes(self, boxes: Tensor) -> "_Prompts":
        """Return the same prompts with boxes, (B, 4)."""
        return replace(self, boxes=boxes, has_box=torch.ones_like(self.has_box))

    def with_clicks(self, count: int) -> "_Prompts":
        """Return the same prompts with the first points alone."""
        return replace(self, points=self.points[:, :count], labels=self.labels[:, :count])

    def loose_boxes(self, logits: Tensor) -> Tensor:
        """Which boxes, (B,) bool, are small and hold something much smaller; none beside a mask."""
        if self.mask is not None:
            return torch.zeros_like(self.has_box)
        found = logits[:, 0] > 0
        given, tight = _sides(self.boxes), _sides(mask_boxes(found))
        small = given.amin(1) < SMALL_SHARE * max(logits.shape[2:])
        return small & (tight.prod(1) < LOOSE_SHARE * given.prod(1)) & found.flatten(1).any(1)

    def tightened(self, chosen: Tensor, logits: Tensor) -> "_Prompts":
        """Return some of the prompts, (B,) bool, each with the tight box of what was found."""
        return replace(self.rows(chosen), boxes=mask_boxes(logits[chosen, 0] > 0))

    def hinted(self, image: Tensor, logits: Tensor, scores: Tensor) -> tuple[Tensor, "_Prompts"]:
        """Rows, (n,), of boxes with a poor, sparse answer, and these boxes with what stands out as a mask.

        Not those in which nothing stands out, and none that come with clicks or a mask.
        """
        if self.mask is not None or self.points.shape[1] > 0:
            return torch.zeros(0, dtype=torch.int64, device=scores.device), self
        sparse = (logits > 0).flatten(1).sum(1) < SPARSE_SHARE * _sides(self.boxes).prod(1)
        poor = torch.nonzero(self.has_box & sparse & (scores[:, 0] < AT_A_LOSS)).flatten()
        masks, prominence = what_stands_out(image.expand(len(poor), -1, -1, -1), self.boxes[poor])
        most, which = prominence.max(1)
        chosen = most >= STANDS_OUT
        poor, masks = poor[chosen], masks[chosen, which[chosen]]
        hint = torch.where(masks, HINT_LOGIT, -HINT_LOGIT)[:, None]
        return poor, replace(self.rows(poor), mask=hint)

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

    def scattered(self) -> list[int]:
        """Return the rows that have clicks and a scattered mask before."""
        if self.mask is None:
            return []
        masks, clicked = (self.mask[:, 0] > 0).cpu().numpy(), (self.labels >= 0).any(1).tolist()
        return [n for n, mask in enumerate(masks) if clicked[n] and count_parts(mask) >= SCATTERED_PARTS]

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
        chosen = (self.labels == 1)[..., None]
        if chosen.shape[1] == 0:
            return boxes
        low = torch.where(chosen, self.points, torch.inf).amin(1)
        high = torch.where(chosen, self.points, -torch.inf).amax(1)
        return torch.cat([torch.minimum(boxes[:, :2], low), torch.maximum(boxes[:, 2:], high)], 1)


def load_prompt_unet(path: Path) -> PromptUNet:
    """Load weights written by the training run.

    Parameters
    ----------
    path
        A safetensors file with the weights of `PromptNet`, of any float type.

    Raises
    ------
    safetensors.SafetensorError
        When the file is damaged.
    RuntimeError
        When the names or shapes are those of another net.
    """
    net = PromptNet()
    net.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=True)
    for parameter in net.parameters():
        # Channels-last convolutions take half the time of contiguous ones on a CPU.
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return PromptUNet(net.requires_grad_(False))
