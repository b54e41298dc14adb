"""What `import napari_medsam` adds to the start of an interpreter (goal: below 100 ms)."""

import statistics
import subprocess
import sys
import time

RUNS = 20


def milliseconds(code: str) -> float:
    """Median wall time of fresh interpreters that run one piece of code."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


bare = milliseconds("pass")
print(f"import napari_medsam: {milliseconds('import napari_medsam') - bare:.0f} ms on top of {bare:.0f} ms")
