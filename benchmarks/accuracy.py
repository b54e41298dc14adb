"""How well models segment slices: every kind of prompt, on every case of a folder of labelled images.

    python benchmarks/accuracy.py --data CASES [--model NAME_OR_FILE ...] [--slices N] [--out FOLDER]

A case is a folder with ``image.nii.gz`` and ``labels.nii.gz``. Its ``meta.json``, if there is one, may give
``modality``, ``kind`` ("3d", else every slice is a picture of its own) and the names of ``labels``. Prompts
come from the labels (`accuracy_prompts`); the model is asked through a `Session`, as the window and the
command line ask it, and sees what `harness.predict` would show it. The folder gets ``accuracy.json`` (all
single results), ``accuracy.md`` (tables) and plots; it is written anew after every case.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import numpy as np
from accuracy_prompts import COURSES, Course, Target
from numpy.typing import NDArray
from real_cases import slicing_axis

from napari_medsam.metrics import dice, iou
from napari_medsam.models.zoo import ModelError, load_model
from napari_medsam.postprocess import largest_component
from napari_medsam.predictor import PredictorError, SlicePredictor
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.session import Session
from napari_medsam.tasks import shown_name
from napari_medsam.volume import GeometryError, Volume, VolumeError, read_labels, read_volume
from napari_medsam.windowing import guess_modality

if TYPE_CHECKING:
    from napari_medsam.models import PromptableModel

MIN_AREA_PX = 25
CONNECTED_SHARE = 0.95
SEED = 2024
ONLY = SliceIndex(0, 0)


class AccuracyError(ValueError):
    """Something that cannot be measured; the message is one sentence for the user."""


@dataclass(frozen=True)
class Row:
    """One answer of a model.

    Attributes
    ----------
    model, case, group
        Names; the group is "CT volumes", "MR volumes", "other volumes", "single slices" or "RGB".
    label, slice
        Value in the label map, and index along the axis the case is sliced along.
    kind
        Of prompt, a key of `accuracy_prompts.NEEDS`.
    dice, iou
        Of the mask with the true one.
    predicted_iou
        The model's own estimate.
    area
        Of the true mask, in pixels.
    connected
        Whether one part of the true mask holds nearly all of it, so that one box or click is a fair prompt.
    """

    model: str
    case: str
    group: str
    label: int
    slice: int
    kind: str
    dice: float
    iou: float
    predicted_iou: float
    area: int
    connected: bool


@dataclass(frozen=True, eq=False)
class Case:
    """One labelled image.

    Attributes
    ----------
    name
        Of its folder.
    image, labels
        On one grid.
    meta
        What ``meta.json`` says; empty without one.
    """

    name: str
    image: Volume
    labels: Volume
    meta: dict

    @property
    def volumetric(self) -> bool:
        """Whether its slices belong together."""
        several = self.image.array.ndim == 3 and min(self.image.array.shape) > 1
        return several and self.meta.get("kind", "3d") == "3d"

    @cached_property
    def modality(self) -> str:
        """As ``meta.json`` says it; else as the window guesses it."""
        return self.meta.get("modality") or guess_modality(self.image)

    @property
    def group(self) -> str:
        """What it counts as in the tables."""
        if self.image.array.ndim == 4:
            return "RGB"
        if not self.volumetric:
            return "single slices"
        known = [name for name in ("CT", "MR") if self.modality.startswith(name)]
        return f"{known[0] if known else 'other'} volumes"

    @cached_property
    def axis(self) -> int:
        """Array axis that it is sliced along."""
        return slicing_axis(self.labels) if self.volumetric else 0

    def targets(self, slices: int, seed: int) -> dict[int, list[Target]]:
        """Objects by slice: of each label at most `slices` slices, evenly spread; all of them for 0."""
        found: dict[int, list[Target]] = {}
        for label in np.unique(self.labels.array[self.labels.array > 0]).tolist():
            mask = self.labels.array == label
            areas = mask.sum(axis=tuple(k for k in range(3) if k != self.axis))
            for index in spread(np.flatnonzero(areas >= MIN_AREA_PX), slices):
                plane = SliceIndex(self.axis, index).take(mask).copy()
                found.setdefault(index, []).append(Target(self.name, label, index, plane, seed))
        return dict(sorted(found.items()))

    def session(self, index: int, predictor: SlicePredictor) -> Session:
        """Start a session on one slice, with the image and the window of `harness.predict`."""
        plane = SliceIndex(self.axis, index).take(self.image.array)
        return Session(harness.volume_of(plane[None], {"modality": self.modality}), predictor)


def spread(slices: NDArray[np.intp], most: int) -> list[int]:
    """Choose at most `most` slices, evenly from the first to the last; all of them for 0."""
    if not most or len(slices) <= most:
        return slices.tolist()
    return slices[np.rint(np.linspace(0, len(slices) - 1, most)).astype(int)].tolist()


def read_case(folder: Path) -> Case:
    """Read one case.

    Raises
    ------
    AccuracyError, VolumeError, GeometryError
        When a file is missing or cannot be read, or the labels do not lie on the image.
    """
    meta = folder / "meta.json"
    try:
        known = json.loads(meta.read_text(encoding="utf-8")) if meta.exists() else {}
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise AccuracyError(f'{meta} is no JSON object, such as {{"modality": "CT"}}: mend or remove it.')
    image, labels = read_volume(folder / "image.nii.gz"), read_labels(folder / "labels.nii.gz")
    apart = image.geometry.difference(labels.geometry)
    if apart:
        raise AccuracyError(f"The labels of {folder.name} do not lie on its image. {apart}")
    return Case(folder.name, image, labels, known)


def case_folders(data: str) -> list[Path]:
    """List the folders of all cases.

    Raises
    ------
    AccuracyError
        When there is none.
    """
    found = [path.parent for path in sorted(Path(data).glob("*/labels.nii.gz"))] if data else []
    if not found:
        raise AccuracyError(
            f"There is no case in {data or 'no folder'}: give --data, or set NAPARI_MEDSAM_TEST_DATA to, a "
            "folder whose subfolders hold an image.nii.gz and a labels.nii.gz each."
        )
    return found


@dataclass(frozen=True, eq=False)
class _Asked:
    """Where one course has got to: the prompts so far, and the mask that goes with them."""

    course: Course
    prompts: SlicePrompts
    shown: NDArray[np.bool_] | None = None


def answers(
    session: Session, target: Target, supported: frozenset[str]
) -> Iterator[tuple[str, NDArray[np.bool_], float]]:
    """Ask about one object in all ways that a model takes.

    Parameters
    ----------
    session
        On the object's slice.
    target
        The object.
    supported
        What the model takes.

    Yields
    ------
    kind, mask, score
        A key of `accuracy_prompts.NEEDS`, the model's mask (H, W) and its own estimate of the mask's IoU.
    """
    running = [_Asked(course, course.first(target)) for course in COURSES if course.needs <= supported]
    step = 0
    while running:
        # Some courses begin alike.
        different = {(each.prompts, id(each.shown)): each for each in running}
        found = session.predict_many(
            ONLY, [each.prompts for each in different.values()], [each.shown for each in different.values()]
        )
        known = dict(zip(different, found, strict=True))
        going_on = []
        for each in running:
            answer = known[each.prompts, id(each.shown)]
            mask = answer.masks[0]
            if each.course.kinds[step]:
                yield each.course.kinds[step], mask, float(answer.scores[0])
            if step + 1 < len(each.course.kinds):
                prompts = each.course.correct(each.prompts, mask, target)
                shown = mask if each.course.shows_mask and prompts != each.prompts else each.shown
                going_on.append(_Asked(each.course, prompts, shown))
        running, step = going_on, step + 1


def measure(case: Case, model: str, predictor: SlicePredictor, slices: int, seed: int) -> Iterator[Row]:
    """Measure a model on a case; see `Row`."""
    for index, targets in case.targets(slices, seed).items():
        session = case.session(index, predictor)
        for target in targets:
            area = int(target.mask.sum())
            connected = bool(largest_component(target.mask).sum() >= CONNECTED_SHARE * area)
            about = (model, case.name, case.group, target.label, index)
            for kind, mask, score in answers(session, target, predictor.supported_prompts):
                overlap = dice(mask, target.mask), iou(mask, target.mask)
                yield Row(*about, kind, *overlap, score, area, connected)


def models(names: Sequence[str]) -> dict[str, PromptableModel]:
    """Load models, by the names that they have in the tables.

    Raises
    ------
    AccuracyError, ModelError
        When two would have the same name, or one cannot be loaded.
    """
    found: dict[str, PromptableModel] = {}
    for name in names:
        if shown_name(name) in found:
            raise AccuracyError(
                f"Two models would be called {shown_name(name)} in the tables: give each one once, and files "
                "different names."
            )
        found[shown_name(name)] = load_model(name)
    return found


def run(options: argparse.Namespace) -> list[str]:
    """Measure everything and write the results.

    Returns
    -------
    list of str
        Cases that failed, a sentence for each.
    """
    from accuracy_report import write_report

    folders, loaded = case_folders(options.data), models(options.model or ["default"])
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    failures = []
    for number, folder in enumerate(folders, start=1):
        try:
            case = read_case(folder)
            for name, model in loaded.items():
                predictor = SlicePredictor(model, options.device)
                started, before = time.perf_counter(), len(rows)
                rows += measure(case, name, predictor, options.slices, options.seed)
                seconds = time.perf_counter() - started
                said = f"{name}, {case.name}: {len(rows) - before} masks in {seconds:.0f} s"
                print(f"{number} of {len(folders)}: {said}", file=sys.stderr)
        except (AccuracyError, VolumeError, GeometryError, PredictorError) as error:
            failures.append(str(error))
            print(f"{number} of {len(folders)}: {error}", file=sys.stderr)
        settings = {"slices": options.slices, "seed": options.seed, "min_area_px": MIN_AREA_PX}
        text = ",\n".join(json.dumps(asdict(row)) for row in rows)
        whole = f'{{"settings": {json.dumps(settings)}, "rows": [\n{text}\n]}}\n'
        (options.out / "accuracy.json").write_text(whole, encoding="utf-8")
        if rows:
            write_report(rows, options.out)
    return failures


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=os.environ.get("NAPARI_MEDSAM_TEST_DATA", ""))
    parser.add_argument("--model", action="append", help="a name, or a file of weights; may be repeated")
    parser.add_argument("--slices", type=_count, default=6, help="at most so many for each label; 0 for all")
    parser.add_argument("--seed", type=_count, default=SEED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmark_results"))
    try:
        failures = run(parser.parse_args(arguments))
    except (AccuracyError, ModelError, PredictorError) as error:
        sys.exit(str(error))
    if failures:
        sys.exit(f"{len(failures)} cases failed and are not in the tables:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
