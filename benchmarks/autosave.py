"""Measure what keeping the work costs, and how long it takes to get it back, on a volume of 512 x 512 x 500.

python benchmarks/autosave.py --out benchmarks/results/autosave.json
"""

import argparse
import json
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.journal import Do
from napari_medsam.prompts import ObjectPrompts, SliceIndex
from napari_medsam.propagation import SliceMask
from napari_medsam.recovery import Autosave, leftovers
from napari_medsam.session import Session
from napari_medsam.session_file import Snapshot, content_from_json, session_to_json, write_session
from napari_medsam.windowing import Window

SHAPE = (500, 512, 512)


def make_volume() -> Volume:
    """Noise: the hardest voxels to take the digest of are as hard as any."""
    plane = np.random.default_rng(0).integers(-1000, 1000, SHAPE[1:]).astype(np.int16)
    return Volume(np.repeat(plane[None], SHAPE[0], 0), Geometry(SHAPE, (1.0, 0.8, 0.8)), "CT", "scan.nii", ())


def organ(index: int) -> np.ndarray:
    """An outline like a liver's: not a circle, and 300 pixels wide."""
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    angle = np.arctan2(y - 256, x - 256)
    radius = 120 + 25 * np.sin(3 * angle + index / 40) + 6 * np.sin(17 * angle + index / 7)
    return np.hypot(y - 256, x - 256) < radius


def milliseconds(times: list[float]) -> dict[str, float]:
    """Median, 95 % and most."""
    found = 1000 * np.array(times)
    return {
        "median_ms": round(float(np.median(found)), 2),
        "p95_ms": round(float(np.percentile(found, 95)), 2),
        "most_ms": round(float(found.max()), 2),
    }


def carry(session: Session, masks: list[np.ndarray]) -> list[float]:
    """Write an object on every slice, as propagation does; return how long each write took."""
    action, times = session.journal.action(Do.CARRY, 1), []
    for index in range(SHAPE[0]):
        part = SliceMask(SliceIndex(0, index), 1, masks[index % len(masks)], 0.8, "propagated")
        started = time.perf_counter()
        with session.doing(action):
            session.write(part)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    volume, masks, found = make_volume(), [organ(index) for index in range(40)], {}

    def make_session() -> Session:
        return Session(volume, None, window=Window(0.0, 1.0, "all"))  # type: ignore[arg-type]

    with TemporaryDirectory() as folder:
        session = make_session()
        autosave = Autosave(session, Path(folder), "scan")
        found["write one slice, kept on disk"] = milliseconds(carry(session, masks))
        started = time.perf_counter()
        autosave.flush(60)
        found["after the last slice, until all is on disk"] = {"s": round(time.perf_counter() - started, 2)}
        found["undo in memory"] = {"MB": round(session.journal.n_bytes / 1e6, 2)}
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found["memory at the peak so far, of it volume and labels 525 MB"] = {"MB": round(peak_mb)}
        times = []
        for go in (session.undo, session.redo):
            started = time.perf_counter()
            go()
            times.append(time.perf_counter() - started)
        found["take back, and do again, all 500 slices"] = milliseconds(times)
        painted = []
        for index in range(100):
            where = SliceIndex(0, index)
            before = where.take(session.labels).copy()
            where.take(session.labels)[250:260, 100:420] = 1
            started = time.perf_counter()
            with session.doing(session.journal.action(Do.PAINT, 1, where)):
                session.painted(where, before, where.take(session.labels))
            painted.append(time.perf_counter() - started)
        found["record a brush stroke"] = milliseconds(painted)
        autosave.flush(60)
        (log,) = Path(folder).glob("*/work.log")
        found["log"] = {"MB": round(log.stat().st_size / 1e6, 2)}
        started = time.perf_counter()
        theirs = np.where(session.labels == 1, np.uint16(7), np.uint16(0))
        started = time.perf_counter()
        session.adopt(theirs, [ObjectPrompts(7)])
        found["go on with 500 slices of another label layer"] = milliseconds([time.perf_counter() - started])
        autosave.close(keep=True)
        again = make_session()
        started = time.perf_counter()
        (left,) = leftovers(Path(folder), volume, "scan")
        found["find and read the work after a crash, in a thread"] = milliseconds(
            [time.perf_counter() - started]
        )
        started = time.perf_counter()
        left.take_over(again)
        found["put it in place"] = milliseconds([time.perf_counter() - started])
        assert np.array_equal(again.labels, session.labels)
        left.discard()
        started = time.perf_counter()
        state = Snapshot.of(session)
        found["save a session: what the window waits for"] = milliseconds([time.perf_counter() - started])
        started = time.perf_counter()
        path = write_session(session_to_json(state), Path(folder) / "a.session.json")
        found["save a session: in the thread"] = {"s": round(time.perf_counter() - started, 2)}
        found["session file"] = {"MB": round(path.stat().st_size / 1e6, 2)}
        started = time.perf_counter()
        content_from_json(json.loads(path.read_text()), volume)
        found["open it, in a thread"] = {"s": round(time.perf_counter() - started, 2)}

    session = make_session()
    session.journal.limit_bytes = 0
    found["write one slice, nothing kept"] = milliseconds(carry(session, masks))
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
