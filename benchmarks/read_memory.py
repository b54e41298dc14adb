"""How much memory reading an image takes, against the bytes of its voxels in the file and as they are kept.

Each file is read in a process of its own; what the process held before is not counted.

    python benchmarks/read_memory.py --slices 200
"""

import argparse
import gzip
import multiprocessing
import struct
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk

from napari_medsam.geometry import Geometry
from napari_medsam.volume import read_volume, write_labels

SIDE = 512


def files(folder: Path, slices: int) -> Iterator[tuple[str, Path, int]]:
    """What to read: kind, path and bytes of the voxels in the file, uncompressed."""
    plane = np.random.default_rng(0).integers(0, 4000, (SIDE, SIDE)).astype(np.uint16)
    voxels = np.stack([np.roll(plane, n) for n in range(slices)])
    plain = folder / "plain.nii"
    write_labels(voxels, Geometry(voxels.shape), plain)
    data = bytearray(plain.read_bytes())
    yield "NIfTI, 16 bits", plain, voxels.nbytes
    data[112:120] = struct.pack("<2f", 0.5, -1024.0)
    (folder / "scaled.nii").write_bytes(data)
    yield "NIfTI, 16 bits, scaled", folder / "scaled.nii", voxels.nbytes
    with gzip.open(folder / "scaled.nii.gz", "wb", 1) as stream:
        stream.write(data)
    yield "NIfTI, 16 bits, scaled, gzipped", folder / "scaled.nii.gz", voxels.nbytes
    for kind, ending, packed in (
        ("float32", ".nii", False),
        ("float32", ".nrrd", False),
        ("float32, packed", ".nrrd", True),
        ("float32", ".mha", False),
        ("float32, packed", ".mha", True),
        ("float32", ".dcm", False),
    ):
        path = folder / f"float{packed}{ending}"
        if ending == ".dcm":
            kind, image = "16 bits, all frames in one file", sitk.GetImageFromArray(voxels)
        else:
            image = sitk.GetImageFromArray(voxels.astype(np.float32))
        sitk.WriteImage(image, str(path), useCompression=packed, compressionLevel=1)
        yield f"{ending[1:]}, {kind}", path, voxels.nbytes * (1 if ending == ".dcm" else 2)


def status(field: str) -> int:
    """Bytes of a line of the process's state."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024


def read(path: Path, pipe: Connection) -> None:
    """Read a file, and say the most memory that was held for it and how large what was read is."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    volume = read_volume(path)
    pipe.send((status("VmHWM") - before, volume.array.nbytes))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slices", type=int, default=200)
    slices = parser.parse_args().slices
    print(
        "| file | voxels in the file, MB | peak, MB | of the file | of what is kept |\n|---|---|---|---|---|"
    )
    with TemporaryDirectory() as folder:
        for kind, path, size in files(Path(folder), slices):
            ours, theirs = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(target=read, args=(path, theirs))
            process.start()
            peak, kept = ours.recv()
            process.join()
            path.unlink()
            print(
                f"| {kind} | {size / 1e6:.0f} | {peak / 1e6:.0f} | {peak / size:.2f} | {peak / kept:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
