"""Damage files of every kind that is read, and see what comes of it.

Each input must be read, or refused with one sentence: no crash, no hang over 10 s, no more memory than a
small file may ask for, no new file anywhere, nothing read of a file that was not given. Half of the damage
knows the format: sizes, offsets, types and spacings that are huge, negative or no number, names of other
files, bombs; the rest is blind. Inputs are read in a process of their own.

    python benchmarks/fuzz.py --each 400
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from fuzz_inputs import SECRET, damaged, geometry, seeds, session, volume

from napari_medsam.export import read_segmentation
from napari_medsam.formats import bids, itksnap
from napari_medsam.formats.common import told
from napari_medsam.models.checkpoints import read_sam
from napari_medsam.prompts import prompts_from_json, prompts_to_json
from napari_medsam.recovery import leftovers
from napari_medsam.replay import replay
from napari_medsam.session_file import content_from_json, document_from_text
from napari_medsam.volume import read_volume

LIMIT_S = 10
ROOM_BYTES = 512 << 20
"""What reading a file of a few kilobytes may take beside what the process holds already."""


def read(path: Path, ending: str, folder: Path) -> None:
    """Read a file as the program would."""
    if ending in (".seg.nrrd", ".seg.dcm", ".labels.nii.gz", ".rtstruct.dcm"):
        read_segmentation(path, geometry=geometry())
    elif ending in (".tsv", ".txt"):
        with told(path, "read"):
            (bids.parse_table if ending == ".tsv" else itksnap.parse_description)(path)
    elif ending == ".prompts.json":
        prompts_to_json(prompts_from_json(path.read_bytes(), geometry()), geometry()).encode()
    elif ending == ".session.json":
        content = content_from_json(document_from_text(path.read_bytes()), volume())
        list(replay(session(), content.steps))
    elif ending == ".log":
        place = folder / "work" / "place"
        place.mkdir(parents=True)
        shutil.copyfile(path, place / "work.log")
        for found in leftovers(folder / "work", volume(), "scan"):
            found.take_over(session())
            found.release()
        shutil.rmtree(folder / "work")
    elif ending in (".safetensors", ".pth"):
        read_sam(path)
    elif SECRET * 2 in read_volume(path).array.tobytes():
        raise AssertionError("a file outside the folder was read")


def outcome_of(path: Path, ending: str, folder: Path) -> str:
    """What came of reading one file: read, refused, or what went wrong."""
    try:
        read(path, ending, folder)
    except Exception as error:  # noqa: BLE001 (what it is, is the question)
        text = str(error)
        if any(
            word in text.lower()
            for word in ("memory is too small", "bad_alloc", "allocate memory", "not enough memory")
        ):
            return f"memory: {text}"
        ours = type(error).__module__.startswith("napari_medsam.")
        one_line = text.replace("\0", "\n").isprintable() and text.endswith(".") and len(text) < 1000
        return "refused" if ours and one_line else f"{type(error).__name__}: {text}"
    return "read"


def most_held() -> int:
    """Bytes that the process held at most since this was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) << 10


def work(todo: list[tuple[str, int, bytes]], place: Path, pipe: Connection) -> None:
    """Read inputs one after the other, and say what came of each, how long it took and what it held."""
    warnings.simplefilter("error")

    def too_slow(*signal_and_frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_slow)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = place / "in"
    folder.mkdir()
    os.chdir(folder)
    (place / "secret.raw").write_bytes(SECRET * 2000)
    (folder / "a.raw").write_bytes(volume().array.tobytes())
    spare = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for ending, number, content in todo:
        path = folder / f"x{ending}"
        path.write_bytes(content.replace(b"{folder}", os.fsencode(place)))
        before = {*place.rglob("*")}
        Path("/proc/self/clear_refs").write_text("5")
        held = most_held()
        limit = spare + 2 * len(content) + ROOM_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        signal.alarm(LIMIT_S)
        started = time.monotonic()
        try:
            outcome = outcome_of(path, ending, folder)
        finally:
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        seconds = time.monotonic() - started
        if {*place.rglob("*")} != before:
            outcome = f"left files: {sorted(map(str, {*place.rglob('*')} - before))[:3]}"
        pipe.send((ending, number, outcome, seconds, most_held() - held))
        shutil.rmtree(folder / "work", ignore_errors=True)
        path.unlink()
    pipe.send(None)


def run(inputs: list[tuple[str, int, bytes]], on_result: Callable[[str, int, str, float, int], None]) -> None:
    """Read all inputs, in a new process after one that ended by itself."""
    context = multiprocessing.get_context("fork")
    while inputs:
        with TemporaryDirectory() as folder:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(inputs, Path(folder), theirs))
            process.start()
            theirs.close()
            done = 0
            while True:
                try:
                    result = ours.recv() if ours.poll(3 * LIMIT_S) else "hangs"
                except EOFError:
                    result = "crashes"
                if result is None:
                    return
                if isinstance(result, str):
                    process.kill()
                    process.join()
                    ending, number, _ = inputs[done]
                    on_result(ending, number, f"{result} ({process.exitcode})", 0.0, 0)
                    inputs = inputs[done + 1 :]
                    break
                on_result(*result)
                done += 1


def main() -> int:
    """Print the table, and fail where an input does harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--each", type=int, default=400, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="ending of one kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, Counter[str]] = {}
    failures: list[str] = []
    slowest: dict[str, float] = {}
    most: dict[str, float] = {}

    def note(ending: str, number: int, outcome: str, seconds: float, held: int) -> None:
        slowest[ending] = max(slowest.get(ending, 0.0), seconds)
        most[ending] = max(most.get(ending, 0.0), held / 1e6)
        kind = outcome if outcome in ("read", "refused") else "failed"
        table.setdefault(ending, Counter())[kind] += 1
        if kind == "failed":
            failures.append(f"{ending} number {number}: {outcome[:300]}")
            print(failures[-1], flush=True)

    with TemporaryDirectory() as folder:
        for ending, content in seeds(Path(folder)).items():
            if options.only in (None, ending):
                randoms = [np.random.default_rng([options.seed, n]) for n in range(options.each)]
                run([(ending, n, damaged(ending, content, r)) for n, r in enumerate(randoms)], note)
    print("| kind | read | refused with one sentence | failed | slowest, s | most memory, MB |")
    print("|---|---|---|---|---|---|")
    for ending, counts in table.items():
        row = [counts["read"], counts["refused"], counts["failed"]]
        print(
            f"| `{ending}` | "
            + " | ".join(map(str, row))
            + f" | {slowest[ending]:.2f} | {most[ending]:.0f} |"
        )
    total = sum(counts.total() for counts in table.values())
    print(f"\n{total} inputs, {len(failures)} failures, slowest {max(slowest.values()):.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
