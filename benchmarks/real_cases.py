"""Run the command line on every image of a folder of real cases: one box a label, label map, 3D Dice.

Every subfolder with a ``labels.nii.gz`` is a case. Its images are ``image.*`` and a folder ``dicom``;
``meta.json`` may give ``kind`` ("3d", else every slice is a picture of its own) and the names of ``labels``.
A volume is sliced along its thickest slices, among equals axially. Each label gets one box, `MARGIN_PX` wider
than it, on the slice where it is largest, and is propagated from there; on pictures it gets one on every
slice that shows it.

    python benchmarks/real_cases.py FOLDER [--only NAME] [--model NAME] [--markdown FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from napari_medsam.prompts import SliceIndex, box_from_mask
from napari_medsam.volume import Volume, read_labels

MARGIN_PX = 2.0


class CommandFailedError(RuntimeError):
    """The command line did not end with exit code 0."""


@dataclass(frozen=True)
class Row:
    """What came of one image.

    Attributes
    ----------
    case, image
        Names of the folder and of the image in it.
    axis
        Array axis it was sliced along.
    dice
        3D Dice by name of the label.
    largest
        Name of the label with the most voxels.
    seconds
        Wall time of ``segment`` from start to exit.
    """

    case: str
    image: str
    axis: int
    dice: dict[str, float]
    largest: str
    seconds: float

    @property
    def mean(self) -> float:
        """Mean over the labels."""
        return float(np.mean(list(self.dice.values())))


def main() -> None:
    """Read the arguments, run all cases, print the table."""
    parser = argparse.ArgumentParser(description="Segment and score every image of a folder of real cases.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--model", default="default")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--json", type=Path, help="write every label's Dice there")
    chosen = parser.parse_args()
    rows, failures = [], []
    for case, image in images(chosen.folder, chosen.only):
        try:
            rows.append(run(case, image, chosen.model))
            print(line(rows[-1]), file=sys.stderr)
        except CommandFailedError as error:
            failures.append(f"{case.name}/{image.name}: {error}")
            print(failures[-1], file=sys.stderr)
    if not rows:
        sys.exit("\n".join(failures) or f"{chosen.folder} has no cases with labels.nii.gz and an image.")
    text = table(rows)
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(text + "\n", encoding="utf-8")
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(row) | {"mean": row.mean} for row in rows], indent=1))
    if failures:
        sys.exit(f"{len(failures)} images failed and are not in the table:\n" + "\n".join(failures))


def images(folder: Path, only: str) -> Iterator[tuple[Path, Path]]:
    """Every case with every image in it."""
    for labels in sorted(folder.glob("*/labels.nii.gz")):
        case = labels.parent
        if only in case.name:
            for image in sorted([*case.glob("image.*"), *case.glob("dicom")]):
                yield case, image


def run(case: Path, image: Path, model: str) -> Row:
    """Segment one image from boxes and score it, both by the command line."""
    meta = json.loads((case / "meta.json").read_text()) if (case / "meta.json").exists() else {}
    truth = read_labels(case / "labels.nii.gz")
    volumetric = meta.get("kind", "3d") == "3d"
    axis = slicing_axis(truth) if volumetric else 0
    sizes = np.bincount(truth.array.ravel())
    labels = [int(label) for label in np.flatnonzero(sizes) if label]
    names = {label: meta.get("labels", {}).get(str(label), f"label {label}") for label in labels}
    named = [word for label, name in names.items() for word in ("--label", f"{label}={name}")]
    drawn = [box for label in labels for box in boxes_of(truth, label, axis, volumetric)]
    words = [*named, *(word for box in drawn for word in ("--box", box))]
    words += ["--axis", str(axis), "--model", model]
    words += [] if volumetric else ["--no-propagate"]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.nii.gz")
        started = time.perf_counter()
        command("segment", str(image), *words, "-o", out, "--json")
        seconds = time.perf_counter() - started
        scores = command("evaluate", str(case / "labels.nii.gz"), out, *named, "--json")
    dice = {score["name"]: score["dice"] for score in scores["labels"]}
    return Row(case.name, image.name, axis, dice, names[max(labels, key=lambda label: sizes[label])], seconds)


def boxes_of(truth: Volume, label: int, axis: int, volumetric: bool) -> Iterator[str]:
    """The boxes of one label as ``--box`` takes them."""
    mask = truth.array == label
    areas = mask.sum(axis=tuple(k for k in range(3) if k != axis))
    for index in [int(areas.argmax())] if volumetric else np.flatnonzero(areas).tolist():
        box = box_from_mask(SliceIndex(axis, index).take(mask), MARGIN_PX)
        if box is not None:
            yield f"{label}@{index}," + ",".join(f"{corner:g}" for corner in box)


def slicing_axis(volume: Volume) -> int:
    """The axis with the thickest slices; of equally thick ones (within 1 %) the most axial one."""
    spacing = np.asarray(volume.geometry.spacing)
    thickest = np.flatnonzero(spacing > 0.99 * spacing.max())
    along_body = np.abs(np.reshape(volume.geometry.direction, (3, 3))[2, ::-1])
    return int(max(thickest, key=lambda axis: along_body[axis]))


def command(*words: str) -> dict:
    """What ``napari-medsam`` answers in JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "napari_medsam.cli", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandFailedError(f"{words[0]} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def table(rows: list[Row]) -> str:
    """A Markdown table with means over all images and over the volumes."""
    head = [
        "| case | image | axis | labels | mean 3D Dice | largest label | its 3D Dice | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    mean = np.mean([row.mean for row in rows])
    largest = np.mean([row.dice[row.largest] for row in rows])
    total = sum(row.seconds for row in rows)
    foot = f"| mean of {len(rows)} images | | | | **{mean:.3f}** | | **{largest:.3f}** | {total:.0f} in all |"
    return "\n".join([*head, *map(line, rows), foot])


def line(row: Row) -> str:
    """One image's line of the table."""
    cells = [row.case, row.image, row.axis, len(row.dice), f"{row.mean:.3f}"]
    cells += [row.largest, f"{row.dice[row.largest]:.3f}", f"{row.seconds:.1f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
