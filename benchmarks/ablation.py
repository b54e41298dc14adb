"""What each part of the default model's way of answering is worth: one part left out at a time.

    python benchmarks/ablation.py --data CASES [--slices N]

Cases, prompts and means are those of `accuracy.py`. What was trained differently is not here: that each stage
of training brought is told in ``docs/reference/default-model-experiments.md``.
"""

from __future__ import annotations

import argparse
import os
import sys
from unittest import mock

import accuracy
import numpy as np
import torch
from accuracy_prompts import BOX, BOX_1, BOX_2, CLICK, CLICKS_3, COURSES
from accuracy_report import macro

from napari_medsam.models import prompt_net, prompt_unet
from napari_medsam.models.prompt_unet import PromptUNet
from napari_medsam.models.zoo import load_model
from napari_medsam.predictor import SlicePredictor
from napari_medsam.volume import GeometryError, VolumeError

KINDS = (BOX, BOX_1, BOX_2, CLICK, CLICKS_3)
PARTS: dict[str, tuple[str, object]] = {
    "nothing": ("prompt_net.EVIDENCE_WEIGHT", prompt_net.EVIDENCE_WEIGHT),
    "evidence of intensities": ("prompt_net.EVIDENCE_WEIGHT", 0.0),
    "its second and third round": ("prompt_net.EVIDENCE_ROUNDS", 1),
    "what looks like the clicked places": (
        "prompt_net.click_evidence",
        lambda picture, clicks: torch.zeros_like(picture),
    ),
    "clicks in the histograms": ("evidence.CLICK_SHARE", 0.0),
    "the second look of small, loose boxes": (
        "decode_prompts.DecodePrompts.loose_boxes",
        lambda prompts, logits: torch.zeros_like(prompts.has_box),
    ),
    "what stands out in a box": ("decode_prompts.AT_A_LOSS", 0.0),
    "tissues that come close to every side of a box": ("prominence.TISSUE_STANDS_OUT", np.inf),
    "walls around bright discs": ("walls.disc_box", lambda image, logits, box: None),
    "other parts than the clicked ones dropped": (
        "decode_prompts.DecodePrompts.clicked_parts",
        lambda prompts, logits: logits,
    ),
    "filled holes": ("decode_prompts.DecodePrompts.without_small_holes", lambda prompts, logits: logits),
    "the wider crop of a box": ("prompt_unet.BOX_CONTEXTS", prompt_unet.BOX_CONTEXTS[:1]),
    "clicks one by one": (
        "decode_prompts.DecodePrompts.opening",
        lambda prompts, row: prompts.points.shape[1],
    ),
    "clicks on a scattered mask kept to the parts they touch": (
        "decode_prompts.DecodePrompts.scattered",
        lambda prompts: [],
    ),
    "what the spread of several clicks says": ("decode_prompts.LEAST_LIKELY", 1.0),
    "certainty of single clicks": ("prompt_unet.certainty", lambda logits: torch.ones(logits.shape[:2])),
    "all looks of clicks but the first": ("prompt_unet.PromptUNet._zoomed", PromptUNet._look),
}
"""What is put in place of what, in the modules of the default model."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=os.environ.get("NAPARI_MEDSAM_TEST_DATA", ""))
    parser.add_argument("--slices", type=int, default=2, help="at most so many for each label; 0 for all")
    options = parser.parse_args()
    predictor = SlicePredictor(load_model("default"))
    try:
        cases = [accuracy.read_case(folder) for folder in accuracy.case_folders(options.data)]
    except (accuracy.AccuracyError, VolumeError, GeometryError) as error:
        sys.exit(str(error))
    courses = [course for course in COURSES if set(course.kinds) & set(KINDS)]
    print("| left out | " + " | ".join(KINDS) + f" | error of the predicted IoU, {BOX} | {CLICK} |")
    print("|---|" + "---|" * (len(KINDS) + 2))
    for name, (place, value) in PARTS.items():
        without = mock.patch(f"napari_medsam.models.{place}", value)
        with without, mock.patch("accuracy.COURSES", courses):
            rows = [
                row
                for case in cases
                for row in accuracy.measure(case, "default", predictor, options.slices, accuracy.SEED)
            ]
        by_kind = {kind: [row for row in rows if row.kind == kind] for kind in KINDS}
        cells = [macro(by_kind[kind]) for kind in KINDS]
        cells += [np.mean([abs(r.predicted_iou - r.iou) for r in by_kind[kind]]) for kind in (BOX, CLICK)]
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
