"""Seconds a user waits for the default model: prompt to mask, and propagation.

    python benchmarks/latency.py [--threads 2] [--model default] [--side 512] [--out results.json]

Slices are the torso phantom's, enlarged to so many pixels a side; a first mask includes windowing and
encoding.
"""

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import zoom

from napari_medsam.geometry import Geometry, Volume
from napari_medsam.models.zoo import load_model
from napari_medsam.phantom import ct_torso
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SliceIndex, SlicePrompts, box_from_mask
from napari_medsam.propagation import StopRules
from napari_medsam.session import Session

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
NEVER = StopRules(min_dice=0, max_change=1e9, min_agreement=0, min_area_px=1)


def session_of(model: str, side: int, depth: int) -> tuple[Session, SlicePrompts]:
    """Make a side x side x depth CT whose middle slice is repeated, and a box around its liver."""
    phantom = ct_torso(seed=0)
    middle = phantom.volume.array.shape[0] // 2
    plane = phantom.volume.array[middle].astype(np.float32)
    scale = side / np.array(plane.shape)
    voxels = np.repeat(zoom(plane, scale, order=1)[None].astype(np.int16), depth, 0)
    geometry = Geometry(voxels.shape, (3.0, 0.8, 0.8), (0.0, 0.0, 0.0), IDENTITY)
    session = Session(Volume(voxels, geometry, "CT", "phantom", ()), SlicePredictor(load_model(model)))
    liver = next(k for k, name in phantom.names.items() if "liver" in name)
    box = box_from_mask(zoom((phantom.labels[middle] == liver).astype(np.float32), scale, order=1) > 0.5)
    return session, SlicePrompts(box)


def timed(call: Callable[[int], object], runs: int) -> dict[str, float]:
    """Median and 95th percentile in ms over `runs` calls after three to warm up."""
    seconds = []
    for k in range(runs + 3):
        start = time.perf_counter()
        call(k)
        seconds.append(time.perf_counter() - start)
    kept = np.array(seconds[3:]) * 1000
    return {"median_ms": round(float(np.median(kept)), 1), "p95_ms": round(float(np.percentile(kept, 95)), 1)}


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="default")
    parser.add_argument("--side", type=int, default=512, help="pixels of a slice's sides")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    load_model(options.model)
    result: dict[str, object] = {"load_ms": round((time.perf_counter() - start) * 1000, 1)}
    session, prompts = session_of(options.model, options.side, 101)

    def first_mask(k: int) -> None:
        session.add_prompts(1, SliceIndex(0, k), prompts)
        session.segment(SliceIndex(0, k), 1)

    assert prompts.box is not None
    y0, x0, y1, x1 = prompts.box

    def next_mask(k: int) -> None:
        # Asked for the same again, a model may remember what it said.
        session.add_prompts(1, SliceIndex(0, 0), replace(prompts, box=(y0, x0, y1 + k % 2, x1)))
        session.segment(SliceIndex(0, 0), 1)

    result["first mask on a slice"] = timed(first_mask, 60)
    result["next mask on that slice"] = timed(next_mask, 60)
    fresh, prompts = session_of(options.model, options.side, 101)
    fresh.add_prompts(1, SliceIndex(0, 0), prompts)
    start = time.perf_counter()
    carried = sum(not p.stopped for p in fresh.propagate(0, 1, rules=NEVER)) - 1
    result[f"{carried} slices of propagation"] = {"seconds": round(time.perf_counter() - start, 2)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result |= {
        "peak_mb": round(peak),
        "threads": options.threads,
        "side": options.side,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
