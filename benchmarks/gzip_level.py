"""Which gzip level for label files? Prints size and CPU times for levels 1 to 9, as a Markdown table.

Run ``python benchmarks/gzip_level.py [FOLDER]``. FOLDER (default: the environment variable
NAPARI_MEDSAM_TEST_DATA) is searched for ``*/labels.nii.gz``; without one, a synthetic map of ellipsoids with
rough borders is measured alone.

The rule: the highest level that takes at most a third longer to write than level 1, for label maps shrink to
2 % at any level. `napari_medsam.formats.common.GZIP_LEVEL` is what it gave.
"""

import gzip
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_medsam.volume import read_labels

REPEATS = 3


def ellipsoids(
    shape: tuple[int, int, int] = (200, 400, 400), count: int = 30, seed: int = 0
) -> NDArray[np.uint8]:
    """Label map (z, y, x) with `count` overlapping ellipsoids, their borders as rough as hand-drawn ones."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    sides = np.array(shape)
    for label in range(1, count + 1):
        radius = rng.uniform(0.04, 0.2, 3) * sides
        centre = rng.uniform(0.2, 0.8, 3) * sides
        low = np.maximum(centre - 1.2 * radius, 0).astype(int)
        high = np.minimum(centre + 1.2 * radius, sides).astype(int)
        grid = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        distance2 = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True))
        region = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        region[distance2 + rng.normal(0, 0.03, region.shape) < 1] = label
    return labels


def measure(maps: dict[str, NDArray[np.uint8]], level: int) -> tuple[float, float, float]:
    """Megabytes, and the best of three CPU times in s to compress and to decompress all maps."""
    megabytes, best_write, best_read = 0.0, np.inf, np.inf
    for _ in range(REPEATS):
        start = time.process_time()
        packed = [gzip.compress(labels.tobytes(), level, mtime=0) for labels in maps.values()]
        written = time.process_time()
        for data in packed:
            gzip.decompress(data)
        best_write = min(best_write, written - start)
        best_read = min(best_read, time.process_time() - written)
        megabytes = sum(map(len, packed)) / 1e6
    return megabytes, best_write, best_read


def main() -> None:
    """Measure and print."""
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAPARI_MEDSAM_TEST_DATA", "")
    groups = {"30 rough ellipsoids, 200 x 400 x 400": {"ellipsoids": ellipsoids()}}
    if folder:
        found = sorted(Path(folder).glob("*/labels.nii.gz"))
        groups[f"{len(found)} label maps of the test data"] = {
            str(p): np.asarray(read_labels(p).array) for p in found
        }
    for title, maps in groups.items():
        raw = sum(labels.nbytes for labels in maps.values()) / 1e6
        print(f"\n{title} ({raw:.1f} MB)\n\n| level | MB | write s | read s |\n|---|---|---|---|")
        for level in range(1, 10):
            megabytes, write, read = measure(maps, level)
            print(f"| {level} | {megabytes:.2f} | {write:.2f} | {read:.2f} |")


if __name__ == "__main__":
    main()
