"""Make the pictures of the documentation again: ``python docs/screenshots.py``.

Run it after a change that shows, with the default model; commit what has changed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from napari_medsam.demo import run_demo
from napari_medsam.models.zoo import load_model
from napari_medsam.predictor import SlicePredictor

IMAGES = Path(__file__).parent / "images"
MAX_BYTES = 400_000


def overview() -> Path:
    """Take the overview picture of the demo, seed 0."""
    target = IMAGES / "overview.png"
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(Path(folder), SlicePredictor(load_model()))
        shutil.copyfile(result.picture, target)
    return target


def main() -> None:
    """Make every picture, and refuse one that would weigh on the repository."""
    IMAGES.mkdir(exist_ok=True)
    for picture in (overview(),):
        size = picture.stat().st_size
        if size > MAX_BYTES:
            sys.exit(f"{picture} has {size} bytes, expected at most {MAX_BYTES}: make it smaller.")
        sys.stdout.write(f"{picture} {size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
