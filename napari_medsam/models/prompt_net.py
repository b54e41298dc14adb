"""The net of the default model: crops with prompts drawn as channels, to mask logits and an estimate of IoU.

A small U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597); what it is shown is said in
`prompt_unet`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_medsam.models.evidence import click_evidence, intensity_evidence

WIDTHS = (16, 32, 64, 128, 160)
INPUT_CHANNELS = 6
EVIDENCE_WEIGHT = 0.6
EVIDENCE_ROUNDS = 3
"""Each round counts the intensities inside and outside of the mask that the one before has found."""
EVIDENCE_MARGIN = 6
"""Pixels of the crop around box and mask whose intensities count."""


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions with group normalisation; the second is residual."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(8, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(x)))


class PromptNet(nn.Module):
    """The net itself: (N, 6, S, S) channels to mask logits and an estimate of the mask's IoU.

    To the logits is added, where wanted, what the intensities inside and outside of the mask so found say.

    Parameters
    ----------
    widths
        Channels per level, finest first; the resolution halves from level to level.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        ins = (INPUT_CHANNELS, *widths[:-1])
        self.encoder = nn.ModuleList(ConvBlock(i, o) for i, o in zip(ins, widths, strict=True))
        fine, coarse = widths[:-1][::-1], widths[1:][::-1]
        self.reduce = nn.ModuleList(nn.Conv2d(c, f, 1) for c, f in zip(coarse, fine, strict=True))
        self.decoder = nn.ModuleList(ConvBlock(2 * f, f) for f in fine)
        self.mask_head = nn.Conv2d(widths[0], 1, 1)
        self.iou_head = nn.Sequential(
            nn.Linear(widths[-1] + 2 * widths[1] + 1, 96), nn.ReLU(), nn.Linear(96, 1)
        )

    def forward(self, x: Tensor, *, listens: bool = True) -> tuple[Tensor, Tensor]:
        """Segment crops.

        Parameters
        ----------
        x : (N, 6, S, S) float32
            Channels of `prompt_channels`; S a multiple of 16.
        listens
            Whether the intensities inside and outside of what is found have a say.

        Returns
        -------
        logits : (N, 1, S, S) float32
        iou_logits : (N,) float32
            Sigmoid gives the estimated IoU.
        """
        # With channels last, pooling a single channel takes two to three times as long.
        picture, box, clicks = (x[:, c].contiguous() for c in (slice(1), slice(2, 3), slice(3, 5)))
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(F.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        bottom = skips.pop()
        x, half = bottom, bottom
        for reduce, block in zip(self.reduce, self.decoder, strict=True):
            half = x
            x = F.interpolate(reduce(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], dim=1))
        logits = self.mask_head(x).float().contiguous()
        if listens:
            own = logits + EVIDENCE_WEIGHT * click_evidence(picture, clicks) if clicks.any() else logits
            for _ in range(EVIDENCE_ROUNDS):
                logits = own + EVIDENCE_WEIGHT * _evidence(logits.detach(), picture, box, clicks)
        probability = torch.sigmoid(F.avg_pool2d(logits.detach(), 2))
        weight = probability.sum((2, 3)).clamp_min(1e-3)
        inside = (half * probability).sum((2, 3)) / weight
        # How decided the mask is: 1 when every pixel is sure, 0 when all sit on the fence.
        surety = (2 * probability - 1).abs().mul(probability).sum((2, 3)) / weight
        pooled = torch.cat([bottom.mean((2, 3)), half.mean((2, 3)), inside, surety], dim=1)
        return logits, self.iou_head(pooled).squeeze(1)


def _evidence(logits: Tensor, picture: Tensor, box: Tensor, clicks: Tensor) -> Tensor:
    """What the intensities around what was found say about it, (N, 1, S, S)."""
    probability = torch.sigmoid(logits)
    around = torch.maximum(box, (probability > 0.5).to(box.dtype))
    side, margin = 2 * EVIDENCE_MARGIN + 1, EVIDENCE_MARGIN
    # Along rows and then along columns is the same as both at once, in a quarter of the time.
    near = F.max_pool2d(around, (side, 1), stride=1, padding=(margin, 0))
    near = F.max_pool2d(near, (1, side), stride=1, padding=(0, margin))
    return intensity_evidence(probability, picture, near, clicks)
