"""How long a ViT-B checkpoint takes to open, against reading its file, and how much memory that takes.

    python benchmarks/load_checkpoint.py

Writes 375 MB of random weights to a temporary folder. Opening maps the file, so the second figure also reads
every weight once, as the first slice will.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from napari_medsam.models.checkpoints import read_sam
from napari_medsam.models.sam import build_sam


def peak_mb() -> float:
    """Peak memory of this process so far (Linux; what `resource` says includes the parent process)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def measure(path: Path) -> None:
    """Open a checkpoint in a process that has done nothing else, and print what that took."""
    build_sam("tiny_vit_b")
    size_mb = path.stat().st_size / 1e6
    reading, opening, touching = [], [], []
    for _ in range(5):
        start = time.perf_counter()
        path.read_bytes()
        reading.append(time.perf_counter() - start)
    # The first reading filled this process with the file as bytes: memory is measured on what comes after.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    for _ in range(5):
        start = time.perf_counter()
        model, _ = read_sam(path)
        opening.append(time.perf_counter() - start)
        for parameter in model.parameters():
            parameter.sum()
        touching.append(time.perf_counter() - start)
    read, opened, touched = min(reading), min(opening), min(touching)
    print(f"file {size_mb:.0f} MB, read in {read * 1e3:.0f} ms")
    print(f"opened in {opened * 1e3:.0f} ms: {opened / read:.2f} x reading")
    print(f"opened and every weight read in {touched * 1e3:.0f} ms: {touched / read:.2f} x reading")
    print(f"peak memory grew by {peak_mb() - before:.0f} MB: {(peak_mb() - before) / size_mb:.2f} x the file")


def main() -> None:
    """Write the file, then measure in a fresh process."""
    if len(sys.argv) == 2:
        measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit_b.pth"
        torch.save(build_sam("vit_b").state_dict(), path)
        subprocess.run([sys.executable, __file__, str(path)], check=True)


if __name__ == "__main__":
    main()
