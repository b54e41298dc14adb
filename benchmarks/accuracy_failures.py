"""A picture of what a model segments worst from a box: the object, the box and the model's answer.

    python benchmarks/accuracy_failures.py [--data CASES] [--model NAME_OR_FILE] [--count N] --out PICTURE

Cases and boxes are those of `accuracy.py`; without `--data`, the project's two phantoms. Of each label the
slice with the middle Dice is shown. Pictures of patients are theirs: look at the licence of the cases before
you pass one on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accuracy import MIN_AREA_PX, ONLY, SEED, AccuracyError, Case, case_folders, read_case
from accuracy_prompts import Target, looser_box
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_medsam.metrics import dice
from napari_medsam.models.zoo import ModelError, load_model
from napari_medsam.phantom import ct_torso, mr_brain
from napari_medsam.predictor import PredictorError, SlicePredictor
from napari_medsam.volume import GeometryError, Volume, VolumeError

if TYPE_CHECKING:
    from napari_medsam.prompts import Box

PANEL_PX, TEXT_PX, GAP_PX, COLUMNS = 240, 14, 8, 4
CONTEXT = 0.4
"""Of the box's longer side, shown around it."""
TRUE, FOUND, BOX = (84, 214, 120), (255, 120, 80), (235, 235, 235)


@dataclass(frozen=True, eq=False)
class Answer:
    """One object on one slice, and what the model made of it."""

    case: Case
    target: Target
    image: NDArray[np.float32]
    box: Box
    mask: NDArray[np.bool_]

    @property
    def dice(self) -> float:
        """Of mask and object."""
        return dice(self.mask, self.target.mask)

    def draw(self) -> Image.Image:
        """Draw the surroundings of the box, the outlines of object and mask, and what it is."""
        y0, x0, y1, x1 = self.box
        half = max(y1 - y0, x1 - x0) * (0.5 + CONTEXT) + 2
        middle = (y0 + y1) / 2, (x0 + x1) / 2
        at = (np.arange(PANEL_PX) + 0.5) / PANEL_PX * 2 * half - half
        rows, columns = (np.rint(at + m).astype(int) for m in middle)
        height, width = self.mask.shape
        seen = np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))
        inside = ((rows >= 0) & (rows < height))[:, None] & (columns >= 0) & (columns < width)
        grey = self.image[seen] if self.image.ndim == 3 else np.stack([self.image[seen]] * 3, 2)
        pixels = np.rint(255 * grey * inside[..., None]).astype(np.uint8)
        pixels[_outline(self.target.mask[seen] & inside)] = TRUE
        pixels[_outline(self.mask[seen] & inside)] = FOUND
        panel = Image.new("RGB", (PANEL_PX, PANEL_PX + 2 * TEXT_PX + GAP_PX))
        panel.paste(Image.fromarray(pixels))
        pen, scale = ImageDraw.Draw(panel), PANEL_PX / (2 * half)
        corners = [(v - m + half) * scale for v, m in zip(self.box, middle * 2, strict=True)]
        top, left, bottom, right = corners
        pen.rectangle((left, top, right, bottom), outline=BOX)
        font = ImageFont.load_default(TEXT_PX)
        name = self.case.meta.get("labels", {}).get(str(self.target.label), f"label {self.target.label}")
        pen.text((0, PANEL_PX + 2), f"{name.replace('_', ' ')[:24]}: {self.dice:.2f}", font=font)
        pen.text((0, PANEL_PX + 2 + TEXT_PX), f"{self.case.name}, slice {self.target.index}", font=font)
        return panel


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask, two deep, that have one outside of it beside them."""
    inner = np.pad(mask, 2)
    return mask & ~(inner[:-4, 2:-2] & inner[4:, 2:-2] & inner[2:-2, :-4] & inner[2:-2, 4:])


def phantoms() -> Iterator[Case]:
    """The CT and the MR phantom, each with its reference."""
    for name, modality, phantom in (("CT phantom", "CT", ct_torso(0)), ("MR phantom", "MR", mr_brain(0))):
        labels = Volume(phantom.labels, phantom.volume.geometry, "other", name, ())
        names = {str(label): text for label, text in phantom.names.items()}
        yield Case(name, phantom.volume, labels, {"modality": modality, "labels": names})


def answers(case: Case, predictor: SlicePredictor, slices: int) -> Iterator[Answer]:
    """Ask for every object from a loose box."""
    for index, targets in case.targets(slices, SEED).items():
        session = case.session(index, predictor)
        prompts = [looser_box(target, 5, 256) for target in targets]
        found = session.predict_many(ONLY, prompts, [None] * len(prompts))
        for target, asked, answer in zip(targets, prompts, found, strict=True):
            assert asked.box is not None
            yield Answer(case, target, session.image(ONLY), asked.box, answer.masks[0])


def worst(found: list[Answer], count: int) -> list[Answer]:
    """Of the labels with the lowest mean Dice the slice in the middle, the worst label first."""

    def label(answer: Answer) -> tuple[str, int]:
        return answer.case.name, answer.target.label

    groups = [
        sorted(group, key=lambda a: a.dice) for _, group in groupby(sorted(found, key=label), key=label)
    ]
    groups.sort(key=lambda group: np.mean([answer.dice for answer in group]))
    return [group[(len(group) - 1) // 2] for group in groups[:count]]


def sheet(shown: list[Answer]) -> Image.Image:
    """All panels, row by row."""
    panels = [answer.draw() for answer in shown]
    across, down = PANEL_PX + GAP_PX, panels[0].height + GAP_PX
    rows = -(-len(panels) // COLUMNS)
    picture = Image.new("RGB", (min(COLUMNS, len(panels)) * across + GAP_PX, rows * down + GAP_PX))
    for number, panel in enumerate(panels):
        picture.paste(panel, (GAP_PX + number % COLUMNS * across, GAP_PX + number // COLUMNS * down))
    return picture


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a folder of cases; without it, the project's phantoms")
    parser.add_argument("--model", default="default", help="a name, or a file of weights")
    parser.add_argument("--slices", type=int, default=6, help="at most so many for each label; 0 for all")
    parser.add_argument("--count", type=int, default=8, help="of labels")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        predictor = SlicePredictor(load_model(options.model))
        cases = map(read_case, case_folders(options.data)) if options.data else phantoms()
        found = [answer for case in cases for answer in answers(case, predictor, options.slices)]
    except (AccuracyError, ModelError, PredictorError, VolumeError, GeometryError) as error:
        sys.exit(str(error))
    if not found:
        sys.exit(f"No label of these cases has {MIN_AREA_PX} pixels or more on any slice.")
    sheet(worst(found, max(options.count, 1))).save(options.out)


if __name__ == "__main__":
    main()
