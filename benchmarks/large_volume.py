"""One object of a volume that hardly fits into memory, from a box to a label map, by the command line.

    python benchmarks/large_volume.py --gigabytes 10

The file takes little room on the disk: all slices but thirty are holes in it.
"""

import argparse
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from napari_medsam.formats.nifti_header import build_header
from napari_medsam.geometry import Geometry

SIDE, DRAWN = 1600, 30


def large_file(path: Path, gigabytes: float) -> int:
    """Write a CT of air with a ball's slices in its middle, and return the middle slice."""
    slices = math.ceil(gigabytes * 1e9 / (2 * SIDE**2))
    header = build_header(Geometry((slices, SIDE, SIDE), (0.4,) * 3), np.dtype(np.int16))
    y, x = np.mgrid[:SIDE, :SIDE]
    body, organ = np.hypot(y - 800, x - 800) < 600, np.hypot(y - 700, x - 900) < 120
    plane = np.where(organ, 120, np.where(body, 40, -1000))
    first = (slices - DRAWN) // 2
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * slices * SIDE**2)
        for index in range(first, first + DRAWN):
            file.seek(len(header) + 2 * index * SIDE**2)
            noise = np.random.default_rng(index).normal(0, 10, plane.shape)
            file.write((plane + noise).astype("<i2").tobytes())
    return first + DRAWN // 2


def main() -> None:
    """Say how long it took, and the most memory that was held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    gigabytes = parser.parse_args().gigabytes
    with TemporaryDirectory() as folder:
        path = Path(folder) / "large.nii"
        middle = large_file(path, gigabytes)
        command = [sys.executable, "-m", "napari_medsam.cli", "segment", str(path)]
        command += ["--box", f"{middle},575,775,825,1025", "--range", f"{middle - 10}:{middle + 10}"]
        started = time.perf_counter()
        subprocess.run([*command, "-o", str(Path(folder) / "labels.nii.gz")], check=True)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(f"{path.stat().st_size / 1e9:.2f} GB of voxels: {seconds:.0f} s, {peak / 1e9:.2f} GB at most")


if __name__ == "__main__":
    main()
