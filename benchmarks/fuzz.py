"""Damage files of every kind that is read, and see what comes of it.

Each input must be read, or refused with one sentence: no crash, no hang over 10 s, no more memory than a
small file may ask for, no new file anywhere. Half of the damage knows the format: sizes, offsets, types and
spacings that are huge, negative or no number; the rest is blind. Inputs are read in a process of their own.

    python benchmarks/fuzz.py --each 400
"""

import argparse
import gzip
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_series import rectangle, structure_set, write_series

from napari_medsam.export import read_segmentation, series_files, write_segmentation
from napari_medsam.formats import bids, itksnap
from napari_medsam.formats.common import told
from napari_medsam.geometry import Geometry, Volume
from napari_medsam.models.checkpoints import read_sam
from napari_medsam.models.sam import build_sam
from napari_medsam.prompts import ObjectPrompts, SliceIndex, SlicePrompts, prompts_from_json, prompts_to_json
from napari_medsam.recovery import Autosave, leftovers
from napari_medsam.replay import replay
from napari_medsam.segments import Segmentation
from napari_medsam.session import Session
from napari_medsam.session_file import (
    Snapshot,
    content_from_json,
    document_from_text,
    session_to_json,
)
from napari_medsam.volume import read_volume
from napari_medsam.windowing import Window

SHAPE = (6, 20, 24)
LIMIT_S = 10
ROOM_BYTES = 512 << 20
"""What reading a file of a few kilobytes may take beside what the process holds already."""

NUMBERS = [0, 1, -1, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 30000, 1 << 20]
FLOATS = [0.0, -1.0, 1e38, -1e38, float("nan"), float("inf"), 1e-38]
WORDS = [
    b"",
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"9" * 20,
    b"../../etc/passwd",
    b"null",
    b"\xff\xfe",
    b"\xed\xa0\x80",
]
Random = np.random.Generator


def geometry() -> Geometry:
    """A small grid that is nowhere in particular."""
    return Geometry(SHAPE, (3.0, 0.8, 0.8), (1.0, 2.0, 3.0))


def volume() -> Volume:
    """The image of all files."""
    voxels = np.random.default_rng(0).normal(40, 20, SHAPE).astype(np.int16)
    return Volume(voxels, geometry(), "CT", "scan.nii.gz", ())


def segmentation() -> Segmentation:
    """Two organs."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[2:4, 5:15, 5:15], labels[3, 2:4, 2:8] = 1, 2
    return Segmentation.from_labels(labels, geometry(), names={1: "liver", 2: "spleen"})


class Silent:
    """Stands in for a model: nothing is asked."""

    key, supported_prompts = None, frozenset({"box"})


def session() -> Session:
    """A little of everything done."""
    made = Session(volume(), Silent(), window=Window(0.0, 100.0, "all"))  # type: ignore[arg-type]
    made.add_prompts(1, SliceIndex(0, 2), SlicePrompts((2, 3, 12, 13)), "liver")
    made.set_plane(SliceIndex(0, 2), segmentation().labels[2])
    made.mark(1, SliceIndex(0, 2), "accepted")
    return made


def seeds(folder: Path) -> dict[str, bytes]:
    """One good file of each kind, by the ending of its name."""
    found = {}
    image = sitk.GetImageFromArray(volume().array)
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"):
        sitk.WriteImage(image, str(folder / f"a{ending}"))
        found[ending] = (folder / f"a{ending}").read_bytes()
    for ending in (".png", ".tif"):
        Image.fromarray(volume().array[0].astype(np.uint8)).save(folder / f"a{ending}")
        found[ending] = (folder / f"a{ending}").read_bytes()
    uid = write_series(folder / "series", geometry(), volume().array)
    found[".dcm"] = next((folder / "series").iterdir()).read_bytes()
    series = series_files(folder / "series", None)
    for ending in (".seg.nrrd", ".seg.dcm", ".labels.nii.gz"):
        name = folder / f"b{ending}"
        write_segmentation(segmentation(), name, series=series if ending == ".seg.dcm" else ())
        found[ending] = name.read_bytes()
    found[".tsv"] = (folder / "b.labels.tsv").read_bytes()
    contours = {"liver": [rectangle(2.0 + 3 * z, 4.0, 4.0, 9.0, 10.0) for z in range(1, 4)]}
    structure_set(folder / "s.dcm", geometry(), uid, contours)
    found[".rtstruct.dcm"] = (folder / "s.dcm").read_bytes()
    write_segmentation(segmentation(), folder / "c.txt")
    found[".txt"] = (folder / "c.txt").read_bytes()
    objects = [ObjectPrompts(1, "liver", {SliceIndex(0, 2): SlicePrompts((2, 3, 12, 13), ((5, 5),), (1,))})]
    found[".prompts.json"] = prompts_to_json(objects, geometry()).encode()
    found[".session.json"] = json.dumps(session_to_json(Snapshot.of(session()))).encode()
    autosave = Autosave(begun := session(), folder / "work", "scan")
    begun.rename(1, "spleen")
    autosave.flush()
    autosave.close(keep=True)
    found[".log"] = next((folder / "work").glob("*/work.log")).read_bytes()
    weights = build_sam("tiny_sam_med2d").state_dict()
    save_file(weights, folder / "w.safetensors")
    torch.save(weights, folder / "w.pth")
    for ending in (".safetensors", ".pth"):
        found[ending] = (folder / f"w{ending}").read_bytes()
    return found


def read(path: Path, ending: str, folder: Path) -> None:
    """Read a file as the program would."""
    if ending in (".seg.nrrd", ".seg.dcm", ".labels.nii.gz", ".rtstruct.dcm"):
        read_segmentation(path, geometry=geometry())
    elif ending in (".tsv", ".txt"):
        with told(path, "read"):
            (bids.parse_table if ending == ".tsv" else itksnap.parse_description)(path)
    elif ending == ".prompts.json":
        prompts_from_json(path.read_bytes(), geometry())
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
    else:
        read_volume(path)


def blind(content: bytes, random: Random) -> bytes:
    """Damage that knows nothing of the format."""
    data, kind = bytearray(content), random.integers(6)
    at = int(random.integers(max(1, len(data))))
    if kind == 0:
        for _ in range(random.integers(1, 20)):
            place = int(random.integers(max(1, len(data))))
            data[place : place + 1] = bytes([int(random.integers(256))])
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = random.bytes(int(random.integers(1, 200)))
    elif kind == 3:
        size = int(random.integers(1, 200))
        data[at : at + size] = bytes(size)
    elif kind == 4:
        data[at:at] = data[at : at + int(random.integers(1, 2000))]
    else:
        del data[at : at + int(random.integers(1, 200))]
    return bytes(data)


def in_header(content: bytes, random: Random, header: int = 400) -> bytes:
    """Numbers of the header, or of the whole of a short file, that cannot be."""
    data = bytearray(content)
    for _ in range(random.integers(1, 3)):
        form = str(random.choice(["h", "i", "q", "f", "d"]))
        value = random.choice(FLOATS) if form in "fd" else int(random.choice(NUMBERS))
        order = "<" if random.uniform() < 0.8 else ">"
        size = struct.calcsize(form)
        at = int(random.integers(max(1, min(header, len(data) - size)))) // 2 * 2
        if form not in "fd":
            half = 1 << (8 * size - 1)
            value = (int(value) + half) % (2 * half) - half
        data[at : at + size] = struct.pack(order + form, value)
    return bytes(data)


def in_text(content: bytes, random: Random) -> bytes:
    """Words and numbers of a text that cannot be."""
    for _ in range(random.integers(1, 4)):
        words = list(re.finditer(rb"[-+.\w]+", content[:20000]))
        if not words:
            return content
        word = words[int(random.integers(len(words)))]
        new = WORDS[int(random.integers(len(WORDS)))]
        if random.uniform() < 0.3:
            other = words[int(random.integers(len(words)))]
            new = content[other.start() : other.end()]
        content = content[: word.start()] + new + content[word.end() :]
    if random.uniform() < 0.1:
        content = content.replace(b"{", b"{" * 3000, 1)
    return content


def bomb(ending: str, content: bytes, random: Random) -> bytes:
    """A few kilobytes that pretend to be, or unpack to, gigabytes."""
    if ending.endswith(".gz"):
        plain = bytearray(gzip.decompress(content))
        plain[40:56] = struct.pack("<8h", 3, 4096, 4096, int(random.integers(1, 400)), 1, 1, 1, 1)
        return gzip.compress(bytes(plain) + bytes(1 << 28), 9)
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 28))
        archive.writestr("archive/version", "3")
    return packed.getvalue()


def damaged(ending: str, content: bytes, random: Random) -> bytes:
    """Return one damaged file."""
    if ending.endswith((".gz", ".pth")) and random.uniform() < 0.02:
        return bomb(ending, content, random)
    if random.uniform() < 0.5:
        return blind(content, random)
    if ending.endswith((".json", ".log", ".tsv", ".txt", ".nrrd", ".mha", ".mhd")):
        changed = in_text(content, random)
        if ending == ".log":
            # The checksums of lines that somebody wrote on purpose are right.
            lines = [line[9:] for line in changed.split(b"\n") if line]
            changed = b"".join(f"{zlib.crc32(line):08x} ".encode() + line + b"\n" for line in lines)
        return changed
    if ending.endswith(".gz"):
        return gzip.compress(in_header(gzip.decompress(content), random, 352))
    return in_header(content, random, 2000 if ending.endswith(".dcm") else 400)


def work(
    todo: list[tuple[str, int, bytes]], folder: Path, pipe: multiprocessing.connection.Connection
) -> None:
    """Read inputs one after the other, and say what came of each."""
    warnings.simplefilter("error")

    def too_slow(*signal_and_frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_slow)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for ending, number, content in todo:
        path = folder / f"x{ending}"
        path.write_bytes(content)
        if ending == ".mhd":
            (folder / "a.raw").write_bytes(volume().array.tobytes())
        before = {*folder.rglob("*")}
        resource.setrlimit(resource.RLIMIT_AS, (held + 2 * len(content) + ROOM_BYTES, resource.RLIM_INFINITY))
        signal.alarm(LIMIT_S)
        started = time.monotonic()
        try:
            read(path, ending, folder)
            outcome = "read"
        except Exception as error:  # noqa: BLE001 (what it is, is the question)
            ours = type(error).__module__.startswith("napari_medsam.")
            outcome = "refused" if ours and "\n" not in str(error) else f"{type(error).__name__}: {error}"
            if "memory is too small" in str(error):
                outcome = f"memory: {error}"
        finally:
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if {*folder.rglob("*")} != before:
            outcome = f"left files: {sorted(map(str, {*folder.rglob('*')} - before))[:3]}"
        pipe.send((ending, number, outcome, time.monotonic() - started))
        shutil.rmtree(folder / "work", ignore_errors=True)
    pipe.send(None)


def run(inputs: list[tuple[str, int, bytes]], on_result: Callable[[str, int, str, float], None]) -> None:
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
                    on_result(ending, number, f"{result} ({process.exitcode})", 0.0)
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
    slowest = 0.0

    def note(ending: str, number: int, outcome: str, seconds: float) -> None:
        nonlocal slowest
        slowest = max(slowest, seconds)
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
    print("| kind | read | refused with one sentence | failed |\n|---|---|---|---|")
    for ending, counts in table.items():
        print(f"| `{ending}` | {counts['read']} | {counts['refused']} | {counts['failed']} |")
    total = sum(counts.total() for counts in table.values())
    print(f"\n{total} inputs, {len(failures)} failures, slowest {slowest:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
