"""Kill a session at random moments, and see what of it can be recovered.

A child process does a scripted session, random but for its seed, and is killed (SIGKILL). What `recovery`
finds then must be, to the last voxel, what the session was like at some moment, and not more than two seconds
before the kill.

    python benchmarks/crash.py --kills 200
"""

import argparse
import hashlib
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.journal import Do
from napari_medsam.prompts import SliceIndex, SlicePrompts
from napari_medsam.propagation import SliceMask
from napari_medsam.recovery import Autosave, leftovers
from napari_medsam.session import Session
from napari_medsam.windowing import Window

SHAPE = (40, 128, 128)
STEPS = 400
ALLOWED_S = 2.0
SLOWEST_STEP_S = 0.05


def make_session() -> Session:
    """Nothing done yet, on noise."""
    voxels = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
    volume = Volume(voxels, Geometry(SHAPE, (3.0, 1.0, 1.0)), "CT", "", ())
    return Session(volume, None, window=Window(0.0, 1000.0, "all"))  # type: ignore[arg-type]


def step(session: Session, random: np.random.Generator) -> None:
    """Do one thing that a person or a model does."""
    label, where = int(random.integers(1, 6)), SliceIndex(0, int(random.integers(SHAPE[0])))
    y, x, size = (int(n) for n in random.integers(5, 60, 3))
    mask = np.zeros(SHAPE[1:], bool)
    mask[y : y + size, x : x + size] = True
    kind = random.choice(["prompt", "carry", "paint", "mark", "rename", "remove", "undo", "redo"])
    if kind == "undo":
        session.undo()
    elif kind == "redo":
        session.redo()
    elif kind == "remove":
        session.remove_object(label)
    elif kind == "rename" and label in session.objects:
        session.rename(label, f"object {size}")
    elif kind == "mark":
        session.mark(label, where, "accepted")
    elif kind == "paint":
        with session.doing(session.journal.action(Do.PAINT, label, where)):
            session.set_plane(where, np.where(mask, label, where.take(session.labels)).astype(np.uint16))
            session.ledger.mark(label, where, "corrected")
    elif kind == "carry":
        with session.doing(session.journal.action(Do.CARRY, label)):
            for index in range(where.index, min(where.index + 8, SHAPE[0])):
                session.write(SliceMask(SliceIndex(0, index), label, mask, 0.8, "propagated"))
    else:
        with session.doing(session.journal.action(Do.PROMPT, label, where)):
            session.add_prompts(label, where, SlicePrompts((y, x, y + size, x + size)))
            session.write(SliceMask(where, label, mask, 0.9, "prompt"))


def digest(session: Session) -> str:
    """Say what is true of a session."""
    marks = [(label, sorted(kept.items())) for label, kept in sorted(session.key_slices.items()) if kept]
    objects = sorted(
        (each.label, each.name, sorted(each.slices.items())) for each in session.objects.values()
    )
    said = hashlib.sha256(session.labels.tobytes())
    said.update(repr((objects, marks)).encode())
    return said.hexdigest()


class Witness:
    """Notes what a session was like after each change; a follower before the one that writes."""

    def __init__(self, session: Session) -> None:
        self.session, self.moments = session, [digest(session)]
        session.journal.follower = self

    def _note(self, *what: object) -> None:
        self.moments.append(digest(self.session))

    began = changed = moved = _note

    def closed(self) -> None:
        """Nothing has changed."""


def child(folder: Path, seed: int) -> None:
    """Do the session; say after each step how many there were."""
    session, random = make_session(), np.random.default_rng(seed)
    autosave = Autosave(session, folder, "scan")
    for n in range(STEPS):
        step(session, random)
        print(n, time.time(), flush=True)
        time.sleep(SLOWEST_STEP_S * random.uniform())
    autosave.flush()
    time.sleep(60)


def known_moments(seed: int, n_steps: int) -> tuple[list[str], list[int]]:
    """States of the same session after every change, and how many there were after every step."""
    session, random = make_session(), np.random.default_rng(seed)
    witness, counts = Witness(session), []
    for _ in range(n_steps):
        step(session, random)
        random.uniform()
        witness.moments.append(digest(session))
        counts.append(len(witness.moments) - 1)
    return witness.moments, counts


def kill_once(folder: Path, seed: int) -> tuple[bool, bool, float]:
    """Run, kill, recover; return whether that worked, whether too much was lost, and how long ago it was."""
    command = [sys.executable, __file__, "--child", "--seed", str(seed), "--folder", str(folder)]
    wait_s = np.random.default_rng(seed).uniform(0, 6)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(wait_s)
        process.kill()
        killed = time.time()
        lines = [first, *process.stdout.readlines()]
    times = [float(line.split()[1]) for line in lines if line.endswith("\n")]
    moments, counts = known_moments(seed, min(len(times) + 1, STEPS))
    session = make_session()
    found = next(leftovers(folder, session.volume, "scan"), None)
    if found is None:
        # Killed before anything was done that is worth keeping, or lost.
        lost_s = killed - times[0]
        return True, lost_s > ALLOWED_S, lost_s
    found.take_over(session)
    found.discard()
    now = digest(session)
    at = [n for n, moment in enumerate(moments) if moment == now]
    if not at:
        return False, True, killed - times[0]
    done = sum(count <= at[-1] for count in counts[: len(times)])
    lost_s = killed - times[done] if done < len(times) else 0.0
    return True, lost_s > ALLOWED_S, lost_s


def main() -> int:
    """Measure, and fail where a step is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.child:
        child(options.folder, options.seed)
        return 0
    results = []
    for n in range(options.kills):
        with TemporaryDirectory() as folder:
            results.append(kill_once(options.folder or Path(folder), options.seed + n))
    recovered = sum(each[0] for each in results)
    too_much = sum(each[1] for each in results)
    lost_ms = 1000 * np.array([each[2] for each in results])
    print(f"{options.kills} kills: {recovered} recovered, {too_much} lost a step older than 2 s")
    print(f"lost: median {np.median(lost_ms):.0f} ms, 95 % {np.percentile(lost_ms, 95):.0f} ms, ", end="")
    print(f"most {lost_ms.max():.0f} ms")
    return 0 if recovered == options.kills and not too_much else 1


if __name__ == "__main__":
    sys.exit(main())
