"""The default model: a small U-Net that segments what a prompt points at, inside a crop around the prompt.

Prompts enter as image channels (box, foreground points, background points, earlier mask), an idea of
interactive segmentation since Xu et al. 2016 (Deep Interactive Object Selection,
https://arxiv.org/abs/1603.04042) that ScribblePrompt (Wong et al. 2024, https://arxiv.org/abs/2312.07381)
showed to carry a small medical U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597). The zoom to
the prompt follows the "zoom-in" of f-BRS (Sofiiuk et al. 2020, https://arxiv.org/abs/2001.10331). The code
and the weights are this project's own (BSD-3-Clause).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_medsam.models import walls
from napari_medsam.models.crops import (
    CROP_SIZE,
    OUTSIDE_LOGIT,
    box_window,
    crop,
    image_channels,
    paste,
    prompt_channels,
)
from napari_medsam.models.decode_prompts import DecodePrompts, Pixel, certainty
from napari_medsam.models.prompt_net import PromptNet
from napari_medsam.postprocess import largest_component
from napari_medsam.prompts import FOREGROUND


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


@dataclass(frozen=True)
class _Answer:
    """What prompts of a slice were answered with."""

    embedding: SliceEmbedding
    prompts: DecodePrompts
    logits: Tensor
    scores: Tensor

    def leads_to(self, embedding: SliceEmbedding, prompts: DecodePrompts, opening: int) -> bool:
        """Whether these prompts are the same ones and further clicks, after the `opening` ones."""
        same_slice = self.embedding.image is embedding.image
        return same_slice and self.prompts.points.shape[1] >= opening and self.prompts.begins(prompts)


BOX_CONTEXTS = (1.45, 1.95)
BOX_CANDIDATE_CONTEXTS = (1.4, 1.8, 2.4)
POINT_WINDOW_SHARES = (0.12, 0.32, 0.8)
MASK_CONTEXT = 1.6
CROPS_AT_ONCE = 8
"""On a CPU: more of them do not fit into its caches, and each takes up to 1.7 times as long."""


class PromptUNet(nn.Module):
    """`PromptNet` behind the `PromptableModel` contract: crops, prompts, zoom and candidates.

    A box is looked at in two crops whose probabilities are averaged, a small and loose one again with the
    tight box of what was found, and one that is answered poorly again with what stands out in it as a first
    mask. Where a bright disc lies in a darker wall, as blood in the heart's muscle, the box means the wall.
    Clicks beside a box correct what it alone was answered with, one after the other, as in training, and
    change nothing while all of them agree with it; of a scattered mask they change the parts that they touch
    alone, which are looked at from close by, and a background click in the middle of such a disc leaves its
    wall. Points without a box are looked at in three crops of growing size, each followed by a second look
    around what was found, with its mask or, after several points, with its box; these are the three
    candidates. The one answer to such points is the parts they lie in of the best of them, after several
    points looked at once more, with its mask; its score is lower the less the others agree with it. What the
    first points say so is corrected by those after them as the answer to a box is, with the box of what was
    found. Small holes of the one answer are filled, but for those with a background point; candidates are
    shown as they are.

    Whoever clicks once more has been answered before: the last answer for one object is kept, and the next
    one goes on from there.

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
        self._last: _Answer | None = None

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
        prompts = DecodePrompts.of(embedding.image, point_coords, point_labels, boxes, mask_input)
        if boxes is None and mask_input is not None:
            return self._around_mask(embedding, prompts)
        if not multimask_output and mask_input is None:
            return self._answer(embedding, prompts)
        if not multimask_output:
            return self._with_box(embedding, prompts)
        if boxes is None:
            return self._candidates(embedding, prompts)
        count = prompts.points.shape[1]
        if mask_input is None and count:
            prompts = prompts.with_mask(self._answer(embedding, prompts.with_clicks(count - 1))[0])
        windows = [box_window(prompts.boxes, context) for context in BOX_CANDIDATE_CONTEXTS]
        return self._looks(self._look, embedding, prompts, windows)

    def _answer(self, embedding: SliceEmbedding, prompts: DecodePrompts) -> tuple[Tensor, Tensor]:
        """Return the one answer to boxes, points or both, without a mask from elsewhere."""
        count = prompts.points.shape[1]
        openings = [prompts.opening(row) for row in range(len(prompts.boxes))]
        if len(openings) == 1 or set(openings) <= {0} or set(openings) == {count}:
            return self._one_by_one(embedding, prompts, max(openings, default=0))
        each = [
            self._one_by_one(embedding, prompts.rows(torch.tensor([row])), opening)
            for row, opening in enumerate(openings)
        ]
        logits, scores = (torch.cat(part) for part in zip(*each, strict=True))
        return logits, scores

    def _one_by_one(
        self, embedding: SliceEmbedding, prompts: DecodePrompts, opening: int
    ) -> tuple[Tensor, Tensor]:
        """Answer the opening clicks together, then correct that with one click after the other."""
        boxed = bool(prompts.has_box.all())
        open_with = self._with_box if boxed else self._from_points
        last = self._last
        if last is not None and last.leads_to(embedding, prompts, opening):
            logits, scores, answered = last.logits, last.scores, last.prompts.points.shape[1]
        else:
            logits, scores = open_with(embedding, prompts.with_clicks(opening))
            answered = opening
        for count in range(answered + 1, prompts.points.shape[1] + 1):
            clicked = prompts.with_clicks(count)
            step = clicked.with_mask(logits)
            if boxed:
                logits, scores = self._corrected(embedding, step, scores)
            elif (logits > 0).any():
                step = step.with_boxes(step.found_boxes(logits))
                logits, scores = self._corrected(embedding, step, scores)
                logits = step.clicked_parts(logits)
            else:
                logits, scores = self._from_points(embedding, clicked)
        # Of many objects at once the logits would be kept for nothing.
        self._last = _Answer(embedding, prompts.kept(), logits, scores) if len(logits) == 1 else None
        return logits.clone(), scores.clone()

    def _corrected(
        self, embedding: SliceEmbedding, prompts: DecodePrompts, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits and scores of boxes, given the mask before and its scores.

        What all clicks agree with stays: asked for the same again, the net takes back some of it.
        """
        assert prompts.mask is not None
        right = prompts.already_right()
        if len(right) == len(prompts.boxes):
            return prompts.mask, scores
        logits, estimated = self._with_box(embedding, prompts)
        for row in right:
            logits[row], estimated[row] = prompts.mask[row], scores[row]
        return logits, estimated

    def _with_box(self, embedding: SliceEmbedding, prompts: DecodePrompts) -> tuple[Tensor, Tensor]:
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
        # Last, for what the net made of the box or the click says whether there is a disc.
        asked: list[tuple[int, Pixel | None]] = [(row, None) for row in prompts.large_boxes_alone(logits)]
        for row, pixel in asked + prompts.hollowed():
            before = logits if pixel is None else prompts.mask
            assert before is not None
            one = prompts.rows(torch.tensor([row])).box_alone()
            wall = self._wall(embedding, one, before[row : row + 1], pixel)
            if wall is not None:
                logits[row], scores[row] = wall[0][0], wall[1][0]
        return (prompts.without_small_holes(logits) if prompts.listens else logits), scores

    def _wall(
        self, embedding: SliceEmbedding, prompts: DecodePrompts, found: Tensor, background: Pixel | None
    ) -> tuple[Tensor, Tensor] | None:
        """Logits and score of the wall around a bright disc in what was `found`, where one box means that.

        The disc is asked for by its own box. With it painted as dark as the wall the net sees one object, and
        its outline better. Whoever clicks into the middle of the disc as background says that the wall is
        meant; else it must be seen for sure.
        """
        box = walls.disc_box(embedding.image, found, prompts.boxes)
        if box is None:
            return None
        disc, sure_of_disc = self._around_box(embedding, prompts.with_boxes(box))
        disc = walls.filled(disc)
        if sure_of_disc < walls.SURE if background is None else not walls.is_deep(disc, background):
            return None
        painted = SliceEmbedding(walls.painted_out(embedding.image, found, disc, prompts.boxes))
        whole, sure = self._around_box(painted, prompts)
        whole = walls.filled(whole)
        if background is None and (sure < walls.SURE or not walls.is_wall(found, disc, whole)):
            return None
        return walls.wall_between(whole, disc, sure, sure_of_disc)

    def _part_by_part(
        self, embedding: SliceEmbedding, prompts: DecodePrompts, row: int, wide: Tensor
    ) -> Tensor:
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

    def _around_box(self, embedding: SliceEmbedding, prompts: DecodePrompts) -> tuple[Tensor, Tensor]:
        """Return the mean of what is seen in two crops around each box."""
        windows = [box_window(prompts.boxes, context) for context in BOX_CONTEXTS]
        logits, scores = self._looks(self._look, embedding, prompts, windows)
        mean = torch.sigmoid(logits).mean(1, keepdim=True)
        return torch.logit(mean, eps=1e-6), scores.mean(1, keepdim=True)

    def _candidates(self, embedding: SliceEmbedding, prompts: DecodePrompts) -> tuple[Tensor, Tensor]:
        """Return what points may mean, from small to large: logits (B, 3, H, W) and scores (B, 3)."""
        windows = [prompts.point_windows(embedding.image, share) for share in POINT_WINDOW_SHARES]
        return self._looks(self._zoomed, embedding, prompts, windows)

    def _from_points(self, embedding: SliceEmbedding, prompts: DecodePrompts) -> tuple[Tensor, Tensor]:
        """Return the best candidate of points that are looked at together."""
        logits, scores = self._candidates(embedding, prompts)
        # Several points say themselves which object is meant: there the candidate that fits them best counts,
        # and what the others look like says less.
        several = prompts.points.shape[1] > 1
        agreed = certainty(logits)
        believed = scores * (agreed.sqrt() if several else agreed)
        best = (scores * prompts.likely_sizes(logits) if several else believed).argmax(1)
        each = torch.arange(len(best), device=best.device)
        chosen, score = logits[each, best][:, None], believed[each, best][:, None]
        if several:
            chosen = self._touched_up(embedding, prompts.with_mask(chosen))
        return prompts.clicked_parts(prompts.without_small_holes(chosen)), score

    def _around_mask(self, embedding: SliceEmbedding, prompts: DecodePrompts) -> tuple[Tensor, Tensor]:
        assert prompts.mask is not None
        return self._look(embedding, prompts, box_window(prompts.found_boxes(prompts.mask), MASK_CONTEXT))

    def _touched_up(self, embedding: SliceEmbedding, found: DecodePrompts) -> Tensor:
        """Look at what several points found once more, with its mask: logits (B, 1, H, W).

        The estimates after this look are worse at telling which candidate was meant, and are not used.
        """
        assert found.mask is not None
        logits, _ = self._around_mask(embedding, found)
        empty = (found.mask > 0).flatten(1).sum(1) == 0
        return torch.where(empty.view(-1, 1, 1, 1), found.mask, logits)

    def _looks(
        self,
        look: Callable[[SliceEmbedding, DecodePrompts, Tensor], tuple[Tensor, Tensor]],
        embedding: SliceEmbedding,
        prompts: DecodePrompts,
        windows: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Look at several windows of each prompt: logits (B, windows, H, W) and scores (B, windows)."""
        # All crops of a prompt in one pass: threads wait for each other less often.
        both = look(embedding, prompts.repeated(len(windows)), torch.cat(list(windows)))
        logits, scores = (torch.cat(part.split(len(prompts.boxes)), 1) for part in both)
        return logits, scores

    def _look(
        self, embedding: SliceEmbedding, prompts: DecodePrompts, windows: Tensor
    ) -> tuple[Tensor, Tensor]:
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
        self, embedding: SliceEmbedding, prompts: DecodePrompts, windows: Tensor
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
