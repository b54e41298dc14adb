"""What each model family wants to be fed, and how its answer becomes a mask: one contract a family.

Feeding one model with another's recipe is the commonest bug among programs that swap checkpoints, and a
silent one. Every contract starts from a slice windowed to [0, 1]: the recipes' volume step (window or
percentiles, then 0 to 255) is the window that `napari_medsam.windowing` chose.

The recipes were read in the publishers' code: facebookresearch/segment-anything (SAM; MobileSAM has the
same), bowang-lab/MedSAM (``MedSAM_Inference.py``; branch LiteMedSAM, ``CVPR24_LiteMedSAM_infer.py``) and
OpenGVLab/SAM-Med2D (``predictor_sammed.py``), all Apache-2.0. The code here is this project's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_medsam.models.specs import IMAGENET_DEVIATION, IMAGENET_MEAN
from napari_medsam.resampling import area_resize, nearest_resize

LUMA = (0.299, 0.587, 0.114)
"""How bright a colour looks (ITU-R BT.601)."""

ROUNDING = 2e-5
"""Grey levels by which float32 windowing may miss a whole number that float64 would have met."""

CERTAIN_LOGIT = 8.0


@dataclass(frozen=True)
class Frame:
    """Where a slice lies in the square that a model works on.

    Attributes
    ----------
    shape
        (H, W) of the slice.
    inner
        (h, w) of the square's top left part that holds the slice.
    side
        Side of the square.
    """

    shape: tuple[int, int]
    inner: tuple[int, int]
    side: int

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the square per pixel of the slice along (x, y)."""
        return self.inner[1] / self.shape[1], self.inner[0] / self.shape[0]


class Contract:
    """SAM's own recipe, which the other families change in parts.

    Pillow's bilinear resize of the longest side, mean and deviation, zeros below and right; logits are
    enlarged to the square, cut, and resized to the slice.

    Attributes
    ----------
    candidates_for_one_point
        Ask for three candidates and take the best one where a single point leaves open what is meant.
    always_candidates
        Do so whatever the prompt.
    """

    candidates_for_one_point = True
    always_candidates = False

    def frame(self, shape: tuple[int, int], side: int) -> Frame:
        """Place a slice of `shape` in a square of `side` pixels."""
        scale = side / max(shape)
        height, width = (max(1, int(length * scale + 0.5)) for length in shape)
        return Frame(shape, (height, width), side)

    def pixels(self, levels: NDArray[np.uint8], frame: Frame) -> NDArray[np.float32]:
        """Resize and normalise.

        Parameters
        ----------
        levels : numpy.ndarray of uint8
            (H, W) grey or (H, W, 3) colour, 0 to 255.
        frame
            Where the slice goes.

        Returns
        -------
        numpy.ndarray of float32
            ``frame.inner`` + (3,).
        """
        from PIL import Image

        size = frame.inner[1], frame.inner[0]
        resized = np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR))
        return _standardised(_colour(resized))

    def tensor(self, image: NDArray, side: int) -> tuple[Tensor, Frame]:
        """Prepare a slice for the model.

        Parameters
        ----------
        image : numpy.ndarray
            (H, W) or (H, W, 3), in [0, 1].
        side
            The model's `image_size`.

        Returns
        -------
        Tensor
            (1, 3, side, side) float32.
        Frame
            Where the slice lies in it.
        """
        frame = self.frame((image.shape[0], image.shape[1]), side)
        square = np.zeros((side, side, 3), np.float32)
        square[: frame.inner[0], : frame.inner[1]] = self.pixels(grey_levels(image), frame)
        return torch.from_numpy(square).permute(2, 0, 1)[None].contiguous(), frame

    def corners(self, corners: NDArray[np.float64], frame: Frame) -> NDArray[np.float64]:
        """Bring corners of boxes, (..., 2) pairs (x, y) in pixels of the slice, into the square."""
        return corners * np.asarray(frame.scale)

    def logits(self, low_res_masks: Tensor, frame: Frame, boxed: bool) -> Tensor:
        """Bring a model's masks to the slice.

        Parameters
        ----------
        low_res_masks : (B, C, h, w) float32
            Logits as the model returns them, of the whole square.
        frame
            Where the slice lies in the square.
        boxed
            Whether each was asked for with a box, and not carried on from an earlier mask.

        Returns
        -------
        (B, C, H, W) float32
            Logits; above 0 is foreground.
        """
        square = _bilinear(low_res_masks, (frame.side, frame.side))
        return _bilinear(square[..., : frame.inner[0], : frame.inner[1]], frame.shape)

    def earlier_mask(self, logits: Tensor, frame: Frame, side: int) -> Tensor:
        """Bring logits of an earlier mask, (1, 1, H, W), into the model's square of `side` pixels."""
        part = tuple(max(1, round(length * side / frame.side)) for length in frame.inner)
        inner = F.interpolate(logits, part, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(inner, (0, side - part[1], 0, side - part[0]), value=-CERTAIN_LOGIT)


class LiteMedSamContract(Contract):
    """LiteMedSAM: OpenCV's area resize of the longest side, stretched to [0, 1] before zeros are added.

    The longest side's scale serves both sides of a box, and decimals are cut off.
    """

    candidates_for_one_point = False

    def pixels(self, levels: NDArray[np.uint8], frame: Frame) -> NDArray[np.float32]:
        """Resize and normalise; see `Contract.pixels`."""
        return _stretched(_colour(area_resize(levels, frame.inner)))

    def corners(self, corners: NDArray[np.float64], frame: Frame) -> NDArray[np.float64]:
        """Bring corners of boxes into the square, onto whole pixels; see `Contract.corners`."""
        return np.trunc(corners * (frame.side / max(frame.shape)))


class _Squashed(Contract):
    def frame(self, shape: tuple[int, int], side: int) -> Frame:
        """Stretch the slice over the whole square."""
        return Frame(shape, (side, side), side)


class MedSamContract(_Squashed):
    """MedSAM: cubic resize to the square, stretched to [0, 1]; the mask is enlarged as probabilities."""

    candidates_for_one_point = False

    def pixels(self, levels: NDArray[np.uint8], frame: Frame) -> NDArray[np.float32]:
        """Resize and normalise; see `Contract.pixels`."""
        from skimage.transform import resize

        # The recipe resizes three channels as a volume; one by one as images they come out the same within
        # 3e-13 grey levels in a twentieth of the time, if cubic overshoots are cut at the range of all three.
        planes = levels[..., None] if levels.ndim == 2 else levels
        resized = [
            resize(planes[..., c], frame.inner, order=3, preserve_range=True, anti_aliasing=True, clip=False)
            for c in range(planes.shape[2])
        ]
        cut = np.clip(np.stack(resized, axis=-1), levels.min(), levels.max())
        return _stretched(_colour(cut.astype(np.uint8).squeeze()))

    def logits(self, low_res_masks: Tensor, frame: Frame, boxed: bool) -> Tensor:
        """Bring a model's masks to the slice; see `Contract.logits`."""
        return torch.logit(_bilinear(torch.sigmoid(low_res_masks), frame.shape), eps=1e-6)


class SamMed2dContract(_Squashed):
    """SAM-Med2D: mean and deviation first, then the nearest pixels; the best of three candidates."""

    always_candidates = True

    def pixels(self, levels: NDArray[np.uint8], frame: Frame) -> NDArray[np.float32]:
        """Resize and normalise; see `Contract.pixels`."""
        # Choosing pixels and normalising them may change places: no pixel is mixed with another.
        return _standardised(_colour(nearest_resize(levels, frame.inner)))


class GreyContract(Contract):
    """The default model: the slice itself, grey, in [0, 1]; a box is never answered with an empty mask."""

    candidates_for_one_point = False

    def frame(self, shape: tuple[int, int], side: int) -> Frame:
        """Keep the slice as it is: this model crops for itself."""
        return Frame(shape, shape, max(shape))

    def tensor(self, image: NDArray, side: int) -> tuple[Tensor, Frame]:
        """Prepare a slice: (1, 1, H, W) float32."""
        grey = image @ np.asarray(LUMA, np.float32) if image.ndim == 3 else image
        frame = self.frame((image.shape[0], image.shape[1]), side)
        return torch.from_numpy(np.ascontiguousarray(grey, np.float32))[None, None], frame

    def logits(self, low_res_masks: Tensor, frame: Frame, boxed: bool) -> Tensor:
        """Lower the threshold of masks that came out empty: somebody drew a box around something."""
        if not boxed:
            return low_res_masks
        peak = low_res_masks.amax((2, 3), keepdim=True)
        half = torch.logit(torch.sigmoid(peak) / 2, eps=1e-6)
        return torch.where(peak > 0, low_res_masks, low_res_masks - half)

    def earlier_mask(self, logits: Tensor, frame: Frame, side: int) -> Tensor:
        """Take the earlier mask as it is."""
        return logits


CONTRACTS: Mapping[str, Contract] = MappingProxyType(
    {
        "grey": GreyContract(),
        "sam": Contract(),
        "medsam": MedSamContract(),
        "lite_medsam": LiteMedSamContract(),
        "sam_med2d": SamMed2dContract(),
    }
)
"""By `PromptableModel.family`."""


def grey_levels(image: NDArray) -> NDArray[np.uint8]:
    """Turn [0, 1] into 0 to 255, cutting decimals off as the recipes do."""
    return np.clip(image.astype(np.float64) * 255 + ROUNDING, 0, 255).astype(np.uint8)


def _colour(image: NDArray) -> NDArray:
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _standardised(image: NDArray) -> NDArray[np.float32]:
    return ((image - np.asarray(IMAGENET_MEAN)) / np.asarray(IMAGENET_DEVIATION)).astype(np.float32)


def _stretched(image: NDArray) -> NDArray[np.float32]:
    lowest, highest = int(image.min()), int(image.max())
    return ((image.astype(np.float64) - lowest) / max(highest - lowest, 1e-8)).astype(np.float32)


def _bilinear(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[2:]) == shape:
        return masks
    return F.interpolate(masks, shape, mode="bilinear", align_corners=False)
