"""Pack label maps and the few licensed real cases into one file that the training run reads.

The bank holds uint8 volumes only, so that it can travel to a machine without medical image libraries:

* the 20 whole-head label maps that SynthSeg publishes with its code (Billot et al. 2023, Apache-2.0);
* two cine MR phases of one Sunnybrook Cardiac Data patient (CC0 1.0);
* FLAIR and T1 of one patient of the Ljubljana MS lesion set (Lesjak et al. 2017, CC BY 4.0).

    python -m napari_medsam.training.label_bank DATA_FOLDER bank.npz
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_medsam.volume import read_volume

# FreeSurfer numbers: the right-hemisphere twin of each left-hemisphere structure.
LEFT_OF_RIGHT = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25, 58: 26,
    60: 28, 62: 30, 137: 136, 164: 163,
}  # fmt: skip

LEFT_WHITE_MATTER = 2
FIRST_OUTSIDE_BRAIN = 500
"""SynthSeg's own numbers, for skull, skin and what else lies outside of the brain, start here."""


def _cropped(*volumes: NDArray) -> list[NDArray]:
    """Cut all volumes to the box where the first is above 0."""
    where = np.argwhere(volumes[0] > 0)
    box = tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))
    return [np.ascontiguousarray(v[box]) for v in volumes]


def build_bank(data: Path, out: Path) -> None:
    """Write the bank (compressed npz) from a folder with `brain_label_maps/` and case folders.

    Parameters
    ----------
    data
        Folder with ``brain_label_maps/*.nii.gz`` and ``*/image.nii.gz`` + ``*/labels.nii.gz``.
    out
        File to write, ``.npz``.
    """
    maps = [read_volume(p).array for p in sorted((data / "brain_label_maps").glob("*.nii.gz"))]
    numbers = np.unique(np.concatenate([np.unique(m) for m in maps])).astype(int)
    compact = np.zeros(numbers.max() + 1, np.uint8)
    compact[numbers] = np.arange(len(numbers))
    tissue = np.array([compact[LEFT_OF_RIGHT.get(int(n), int(n))] for n in numbers], np.uint8)
    arrays: dict[str, NDArray] = {"tissue_of_object": tissue, "freesurfer_numbers": numbers.astype(np.int32)}
    for k, volume in enumerate(maps):
        (arrays[f"brain{k:02d}"],) = _cropped(compact[volume.astype(int)])
    for k, folder in enumerate(sorted(p.parent for p in data.glob("*/image.nii.gz"))):
        image, labels = (
            read_volume(folder / "image.nii.gz").array,
            read_volume(folder / "labels.nii.gz").array,
        )
        low, high = np.percentile(image[image > 0], [0.5, 99.5])
        image = np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        image, labels = _cropped(image, labels.astype(np.uint8))
        arrays[f"image{k}"], arrays[f"labels{k}"] = image, labels
    np.savez_compressed(out, allow_pickle=False, **arrays)


class LabelBank:
    """The bank in device memory, with random slices cut from it.

    Parameters
    ----------
    path
        File written by `build_bank`.
    device
        Where the volumes live.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path, allow_pickle=False) as stored:
            load = {k: torch.from_numpy(stored[k]).to(device) for k in stored.files}
        self.device = device
        self.tissue_of_object = load["tissue_of_object"].long()
        numbers = load["freesurfer_numbers"]
        self.white_matter = int((numbers == LEFT_WHITE_MATTER).nonzero()[0])
        self.first_outside_brain = int((numbers < FIRST_OUTSIDE_BRAIN).sum())
        self.brains = [v for k, v in sorted(load.items()) if k.startswith("brain")]
        self.cases = [
            (load[k], load[k.replace("image", "labels")]) for k in sorted(load) if k.startswith("image")
        ]

    def brain_slices(self, n: int, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Objects of n slices and of slices 1 to 4 mm away, (n, size, size) int64 each."""
        pairs = []
        for _ in range(n):
            pick, axis, place, step = (_number(generator) for _ in range(4))
            volume = self.brains[int(pick * len(self.brains))]
            axis = int(axis * 3)
            depth = volume.shape[axis]
            index = int(depth * (0.15 + 0.7 * place))
            below = min(max(index + (-1 if step < 0.5 else 1) * (1 + int(step * 8) % 4), 0), depth - 1)
            pairs.append(torch.stack([volume.select(axis, index), volume.select(axis, below)]))
        stack = torch.stack([_fitted(p, size) for p in pairs]).long()
        return stack[:, 0], stack[:, 1]

    def case_slices(self, n: int, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images in [0, 1] (n, 1, size, size), and labels at the slice and beside it, int64."""
        stacks = []
        for _ in range(n):
            pick, place, step = (_number(generator) for _ in range(3))
            image, labels = self.cases[int(pick * len(self.cases))]
            filled = torch.nonzero(labels.flatten(1).any(1)).flatten()
            index = int(filled[int(place * len(filled))])
            below = min(max(index + (1 if step < 0.5 else -1), 0), len(labels) - 1)
            stacks.append(_fitted(torch.stack([image[index], labels[index], labels[below]]), size))
        stack = torch.stack(stacks)
        return stack[:, :1].float() / 255, stack[:, 1].long(), stack[:, 2].long()


def _number(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, device=generator.device))


def _fitted(planes: Tensor, size: int) -> Tensor:
    """Centre (c, h, w) planes in a square of `size`, cropping or padding with 0."""
    c, h, w = planes.shape
    out = planes.new_zeros((c, size, size))
    ch, cw = min(h, size), min(w, size)
    y, x, oy, ox = (h - ch) // 2, (w - cw) // 2, (size - ch) // 2, (size - cw) // 2
    out[:, oy : oy + ch, ox : ox + cw] = planes[:, y : y + ch, x : x + cw]
    return out


if __name__ == "__main__":
    build_bank(Path(sys.argv[1]), Path(sys.argv[2]))
