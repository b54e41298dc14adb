"""From one box to a whole object: ours beside other rules, the worth of its scores, and what it costs.

    python benchmarks/propagation.py run --data CASES --protocol eval_boxes.py --out rows.jsonl
    python benchmarks/propagation.py table rows.jsonl [--curve curve.png]
    python benchmarks/propagation.py fit --data CASES --protocol eval_boxes.py
    python benchmarks/propagation.py cost

`eval_boxes.py` is the one-box protocol: which labels count, on which slice the box is, how it is jittered.
`run` adds to what the file holds already. Numbers in the code (rules, fit) are chosen on the development half
of the cases alone, every second one in alphabetical order, and the table gives both halves apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import numpy as np
from numpy.typing import NDArray
from propagation_rules import RULES, Stack, boxes_everywhere

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.propagation import PROMPT, StopRules, propagate
from napari_medsam.propagation.quality import WEIGHTS
from napari_medsam.session import CORRECTED, Session
from napari_medsam.windowing import Window

if TYPE_CHECKING:
    from types import ModuleType

OURS, BOUND = "ours", "a box on every slice"
CORRECTIONS = 3
BEYOND = 4
"""Slices past an object's true end that the fit sees."""
NEVER = StopRules(min_dice=0, max_change=1e9, min_agreement=0.05)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class Task:
    """One label of one case, with its box, as the protocol gives them."""

    def __init__(self, protocol: ModuleType, case: object, value: int, slices: NDArray) -> None:
        self.case, self.slices = case, slices
        self.name = case.names[value]
        self.truth = case.labels == value
        self.z = int(self.truth.sum((1, 2)).argmax())
        self._boxed = lambda z: harness._prompts(
            protocol.jitter_box(self.truth[z], case.name, value, z, 2024, "256")
        )

    def session(self) -> Session:
        """A fresh session with the one box."""
        meta = {"case": self.case.name, "modality": self.case.modality, "spacing": tuple(self.case.spacing)}
        session = Session(harness.volume_of(self.case.image, meta), harness.PREDICTOR)
        session.add_prompts(1, SliceIndex(0, self.z), self._boxed(self.z))
        return session

    def boxes(self) -> Iterator[tuple[int, SlicePrompts]]:
        """A box on every slice that counts."""
        return ((int(z), self._boxed(int(z))) for z in self.slices)


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """Every label of three slices or more, in the protocol's order."""
    spec = importlib.util.spec_from_file_location("eval_boxes", options.protocol)
    protocol = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(protocol)
    for case in protocol.iter_cases(str(options.data), options.only):
        if case.kind != "3d" or case.image.ndim != 3:
            continue
        qualifying = [(v, z) for v, z in case.qualifying().items() if len(z) >= 3]
        for value, slices in qualifying[:: max(1, len(qualifying) // options.labels_per_case)]:
            yield Task(protocol, case, value, slices)


def dice(a: NDArray, b: NDArray) -> float:
    """Dice of two masks, 1 when both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def end_error(found: NDArray, truth: NDArray) -> float:
    """Mean distance in slices between the first slices of both, and the last ones."""
    a, b = (np.flatnonzero(mask.any((1, 2))) for mask in (found, truth))
    return float(abs(a[0] - b[0]) + abs(a[-1] - b[-1])) / 2 if a.size else float(len(truth))


def measured(task: Task, found: NDArray, seconds: float) -> dict:
    """What the tables need of one result."""
    return {
        "dice": dice(found, task.truth),
        "ends": end_error(found, task.truth),
        "slices": int(found.any((1, 2)).sum()),
        "seconds": seconds,
    }


def ours(task: Task, corrections: int, policy: str) -> dict:
    """Carry, then correct one slice after the other, each chosen by `policy`, with a local redo."""
    session = task.session()
    started = time.perf_counter()
    write_all(session, session.propagate(0, 1))
    row = measured(task, session.labels == 1, time.perf_counter() - started)
    reports = [r for r in session.review(1, 0).shown if r.reason != PROMPT]
    row["scores"] = [
        (r.dice, dice(session.labels[r.where.index] == 1, task.truth[r.where.index]), r.wants_look)
        for r in reports
    ]
    curve = [row["dice"]]
    random = np.random.default_rng(0)
    for _ in range(corrections):
        open_slices = session.review(1, 0).worth_a_look()
        if not open_slices:
            curve.append(curve[-1])
            continue
        chosen = open_slices[0] if policy == "pointed at" else random.choice(np.array(open_slices, object))
        where = chosen.where
        session.labels[where.index] = task.truth[where.index]
        session.mark(1, where, CORRECTED)
        write_all(session, session.recompute(where, 1))
        curve.append(dice(session.labels == 1, task.truth))
    return row | {"curve": curve}


def write_all(session: Session, parts: Iterator) -> None:
    """Write everything that comes."""
    for part in parts:
        session.write(part)


def run(options: argparse.Namespace) -> None:
    """Measure what is not in the file yet, a line for each label and method."""
    done = {(row["case"], row["label"], row["method"]) for row in read_rows(options.out)}
    methods = options.methods or [OURS, "random", *RULES, BOUND]
    for task in tasks(options):
        for method in methods:
            key = (task.case.name, task.name, method)
            if key in done:
                continue
            if method in (OURS, "random"):
                row = ours(task, options.corrections, "pointed at" if method == OURS else "random")
            else:
                stack = Stack(task.session())
                started = time.perf_counter()
                if method == BOUND:
                    found = boxes_everywhere(stack, task.boxes())
                else:
                    prompts = stack.session.objects[1].slices[SliceIndex(0, task.z)]
                    found = RULES[method](stack, task.z, stack.ask(task.z, prompts).masks[0])
                row = measured(task, found, time.perf_counter() - started)
            row |= dict(zip(("case", "label", "method"), key, strict=True), modality=task.case.modality)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(*key, f"{row['dice']:.3f}", *(f"{d:.3f}" for d in row.get("curve", [])[1:]), flush=True)


def read_rows(path: Path) -> list[dict]:
    """Lines of an earlier run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def fit(options: argparse.Namespace) -> None:
    """Fit the estimate of Dice on objects that are carried on past their ends; print code for it."""
    from scipy.optimize import minimize

    rows, true = [], []
    for task in tasks(options):
        session = task.session()
        start = session.segment(SliceIndex(0, task.z), 1)
        shown = np.flatnonzero(task.truth.any((1, 2)))
        first, last = max(0, shown[0] - BEYOND), min(len(task.truth) - 1, shown[-1] + BEYOND)
        spacing = session.volume.geometry.spacing
        for part in propagate(session, [start], int(first), int(last), spacing, NEVER):
            if part.evidence is not None and not part.stopped:
                rows.append(astuple(part.evidence))
                true.append(dice(part.mask, task.truth[part.where.index]))
        print(task.case.name, task.name, len(rows), flush=True)
        if options.out:
            np.savez(options.out, rows=rows, true=true)
    x, y = np.column_stack([np.ones(len(rows)), rows]), np.array(true)
    signs = np.array([0, *(np.sign(weight) for weight in WEIGHTS.values())])

    def loss(w: NDArray) -> float:
        return float(((1 / (1 + np.exp(-x @ w)) - y) ** 2).mean() + 1e-4 * (w[1:] ** 2).sum())

    bounds = [(None, None) if s == 0 else ((0, None) if s > 0 else (None, 0)) for s in signs]
    w = minimize(loss, np.zeros(x.shape[1]), bounds=bounds).x
    good = y > 0.7
    print(f"{len(y)} slices, root mean square error {np.sqrt(loss(w)):.3f}")
    print("BIAS", round(w[0], 2), dict(zip(WEIGHTS, np.round(w[1:], 2).tolist(), strict=True)))
    print("TYPICAL", np.round(x[good, 1:].mean(0), 2))


def cost(options: argparse.Namespace) -> None:
    """Seconds and memory for volumes of many slices and objects: bright tubes in noise."""
    print("| slices | objects | seconds | ms a slice | ms a slice and object | peak MB |")
    print("|---|---|---|---|---|---|")
    for depth, count in [(10, 1), (50, 1), (100, 1), (500, 1), (10, 4), (50, 4), (10, 16), (50, 16)]:
        plane = np.random.default_rng(0).normal(0, 10, (256, 256)).astype(np.float32)
        y, x = np.mgrid[:256, :256]
        centres = [(32 + 64 * (n // 4), 32 + 64 * (n % 4)) for n in range(count)]
        for cy, cx in centres:
            plane[(y - cy) ** 2 + (x - cx) ** 2 <= 18**2] += 100
        geometry = Geometry((depth, 256, 256), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)
        volume = Volume(np.broadcast_to(plane, (depth, 256, 256)), geometry, "MR", "", ())
        session = Session(volume, harness.PREDICTOR, window=Window(-30.0, 130.0, "all"))
        for label, (cy, cx) in enumerate(centres, start=1):
            session.add_prompts(label, SliceIndex(0, 0), SlicePrompts((cy - 20, cx - 20, cy + 20, cx + 20)))
        started = time.perf_counter()
        for _ in session.propagate(0, range(1, count + 1), rules=NEVER):
            pass
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        each = 1000 * seconds / depth
        print(
            f"| {depth} | {count} | {seconds:.1f} | {each:.0f} | {each / count:.0f} | {peak:.0f} |",
            flush=True,
        )


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, call in (("run", run), ("fit", fit)):
        command = commands.add_parser(name)
        command.set_defaults(call=call)
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--protocol", type=Path, required=True)
        command.add_argument("--only", nargs="*", help="cases whose names contain one of these")
        command.add_argument("--labels-per-case", type=int, default=1000)
        command.add_argument("--methods", nargs="*")
        command.add_argument("--corrections", type=int, default=CORRECTIONS)
        command.add_argument("--out", type=Path, default="propagation.jsonl" if name == "run" else None)
    command = commands.add_parser("table")
    command.set_defaults(call=lambda options: report(options))
    command.add_argument("out", type=Path)
    command.add_argument("--curve", type=Path)
    commands.add_parser("cost").set_defaults(call=cost)
    options = parser.parse_args()
    options.call(options)


def report(options: argparse.Namespace) -> None:
    """Print the tables of a finished run; draw the curve."""
    from propagation_report import print_tables

    print_tables(read_rows(options.out), options.curve)


if __name__ == "__main__":
    main()
