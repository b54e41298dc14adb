"""Good files of every kind that is read, and ways to damage them: see fuzz.py."""

import gzip
import json
import re
import struct
import sys
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from PIL import Image
from pydicom.uid import RLELossless
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_series import rectangle, structure_set, write_series

from napari_medsam.export import series_files, write_segmentation
from napari_medsam.geometry import Geometry, Volume
from napari_medsam.models.sam import build_sam
from napari_medsam.prompts import ObjectPrompts, SliceIndex, SlicePrompts, prompts_to_json
from napari_medsam.recovery import Autosave
from napari_medsam.segments import Segmentation
from napari_medsam.session import Session
from napari_medsam.session_file import Snapshot, session_to_json
from napari_medsam.windowing import Window

SHAPE = (6, 20, 24)
SECRET = b"not yours"
"""Content of a file outside the folder, over and over, which no header may have read."""

NUMBERS = [0, 1, -1, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 30000, 1 << 20]
FLOATS = [0.0, -1.0, 1e38, -1e38, float("nan"), float("inf"), 1e-38]
WORDS = [
    b"",
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"9" * 20,
    b"9" * 5000,
    b"1e308",
    b"true",
    b"null",
    b"{}",
    b"[" * 200,
    b"\\ud800",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "Größe".encode(),
    b"bzip2",
    b"big",
    b"double",
    b"MET_DOUBLE_ARRAY",
]
NAMES = [
    b"../secret.raw",
    b"{folder}/secret.raw",
    b"LIST\n../secret.raw",
    b"LIST3\n{folder}/secret.raw",
    b"../secre%c.raw 116 116 1",
    b"%s%s%s%s.raw 1 4 1",
    b"%n%n.raw 1 4 1",
    b"a%09d.raw 0 999999999 1",
    b"-",
    b"x.raw",
]
"""Of data files in headers; the first five would be read."""

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
    for ending in (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"):
        sitk.WriteImage(image, str(folder / f"a{ending}"))
        found[ending] = (folder / f"a{ending}").read_bytes()
    for ending in (".png", ".tif"):
        Image.fromarray(volume().array[0].astype(np.uint8)).save(folder / f"a{ending}")
        found[ending] = (folder / f"a{ending}").read_bytes()
    uid = write_series(folder / "series", geometry(), volume().array)
    found[".dcm"] = next((folder / "series").iterdir()).read_bytes()
    for kind in ("JPEG", "JPEG2000"):
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(folder / f"{kind}.dcm"))
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(kind)
        writer.Execute(image[:, :, :1])
        found[f".{kind.lower()}.dcm"] = (folder / f"{kind}.dcm").read_bytes()
    packed = pydicom.dcmread(next((folder / "series").iterdir()))
    packed.compress(RLELossless, encoding_plugin="pydicom")
    packed.save_as(folder / "rle.dcm")
    found[".rle.dcm"] = (folder / "rle.dcm").read_bytes()
    sitk.WriteImage(image, str(folder / "packed.mha"), useCompression=True)
    found[".packed.mha"] = (folder / "packed.mha").read_bytes()
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


def in_nifti(content: bytes, random: Random) -> bytes:
    """Fields of a NIfTI header: sizes, types, the place of the voxels, scale, orientation, byte order."""
    data = bytearray(content)
    fields = [(at, "<h") for at in (40, 42, 44, 46, 48, 50, 70, 72, 252, 254)]
    fields += [(at, "<f") for at in (76, 80, 84, 88, 108, 112, 116, *range(256, 328, 4))]
    for _ in range(random.integers(1, 4)):
        at, form = fields[int(random.integers(len(fields)))]
        if form == "<f":
            value = float(random.choice([*FLOATS, 1e9, 352.5, 1e15]))
        else:
            value = int(random.choice([0, 1, -1, 2, 4, 5, 7, 8, 16, 64, 128, 512, 1792, 2304, 32767, -32768]))
        struct.pack_into(form, data, at, value)
    if random.uniform() < 0.1:
        struct.pack_into(">i", data, 0, 348)
    if random.uniform() < 0.1:
        struct.pack_into("<i", data, 0, 540)
    return bytes(data)


def in_dicom(content: bytes, random: Random) -> bytes:
    """Values of DICOM attributes, or their lengths, which are short and explicit in the files made here."""
    data = bytearray(content)
    starts = [
        found.start()
        for found in re.finditer(
            rb"[\x02-\x63]\0..(?:US|UL|DS|IS|UI|CS|SQ|OW|OB|LO|SH|FD)", content[:20000], re.DOTALL
        )
    ]
    for _ in range(random.integers(1, 4)):
        at = starts[int(random.integers(len(starts)))]
        kind = bytes(data[at + 4 : at + 6])
        size = int.from_bytes(data[at + 6 : at + 8], "little")
        choice = random.uniform()
        if choice < 0.15:
            struct.pack_into("<H", data, at + 6, int(random.choice([0, 1, 2, 3, 255, 65534, 65535])))
        elif choice < 0.2:
            data[at + 4 : at + 6] = random.choice([b"SQ", b"UN", b"OB", b"US", b"DS", b"PN"])
        elif kind in (b"US", b"UL"):
            new = struct.pack("<I", int(random.choice([0, 1, 3, 7, 16, 64, 255, 4096, 65535])))
            data[at + 8 : at + 8 + size] = new[:size]
        elif kind in (b"SQ", b"OW", b"OB"):
            struct.pack_into(
                "<I", data, at + 8, int(random.choice([0, 1, 8, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 20]))
            )
        elif size:
            new = WORDS[int(random.integers(len(WORDS)))] or b"\\".join([b"1e300"] * 6)
            data[at + 8 : at + 8 + size] = new[:size].ljust(size)
    return bytes(data)


def in_archive(content: bytes, random: Random) -> bytes:
    """Entries of a checkpoint, in an archive whose checksums are right."""
    packed = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        chosen = next(name for name in names if name.endswith("data.pkl"))
        if random.uniform() < 0.2:
            chosen = names[int(random.integers(len(names)))]
        for name in names:
            data = old.read(name)
            if name == chosen:
                how = int(random.integers(3))
                data = (blind, in_header, in_text)[how](data, random) if data else b"x"
            if name == chosen and random.uniform() < 0.1:
                name = str(random.choice(["../" * 9 + "tmp/escaped", "/tmp/escaped", "a" * 60000, "x"]))
            new.writestr(name, data)
    return packed.getvalue()


def in_safetensors(content: bytes, random: Random) -> bytes:
    """The JSON header of a checkpoint, with its right length or a wrong one."""
    length = int.from_bytes(content[:8], "little")
    header = in_text(content[8 : 8 + length], random)
    size = len(header) if random.uniform() < 0.8 else [0, 1, 2**31, 2**63, 2**64 - 1][int(random.integers(5))]
    return size.to_bytes(8, "little") + header + content[8 + length :]


def in_png(content: bytes, random: Random) -> bytes:
    """Numbers in the first chunk of a picture, with the right checksum."""
    data = bytearray(content)
    at = int(random.integers(16, 29))
    data[at] = int(random.choice([0, 1, 2, 3, 16, 127, 255]))
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def other_file(content: bytes, random: Random) -> bytes:
    """A header that has its voxels in another file."""
    name = NAMES[int(random.integers(len(NAMES)))]
    if content.startswith(b"NRRD"):
        head = re.sub(rb"\ndata file:[^\n]*", b"", content.partition(b"\n\n")[0])
        head = head.replace(b"encoding: gzip", b"encoding: raw")
        key = [b"data file: ", b"datafile: ", b"DATA FILE:"][int(random.integers(3))]
        return head + b"\n" + key + name + b"\n\n"
    key = [b"ElementDataFile = ", b"ElementDataFile:", b"ElementDataFile\0 = "][int(random.integers(3))]
    return content.partition(b"ElementDataFile")[0] + key + name + b"\n"


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
        opening = [b"{", b"[", b'{"a":'][int(random.integers(3))]
        content = content.replace(b"{", opening * int(random.choice([3000, 100000])), 1)
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


BY_FORMAT = {
    ".nii": in_nifti,
    ".dcm": in_dicom,
    ".pth": in_archive,
    ".safetensors": in_safetensors,
    ".png": in_png,
}
TEXTS = (".json", ".log", ".tsv", ".txt", ".nrrd", ".nhdr", ".mha", ".mhd")


def damaged(ending: str, content: bytes, random: Random) -> bytes:
    """Return one damaged file."""
    last = Path(ending).suffix or ending
    if last in (".gz", ".pth") and random.uniform() < 0.02:
        return bomb(ending, content, random)
    if last in (".nrrd", ".nhdr", ".mha", ".mhd") and random.uniform() < 0.15:
        return other_file(content, random)
    if random.uniform() < 0.4:
        return blind(content, random)
    if last == ".gz":
        plain = gzip.decompress(content)
        known = in_nifti(plain, random) if random.uniform() < 0.7 else in_header(plain, random, 352)
        return gzip.compress(known, 1)
    if last in TEXTS:
        changed = in_text(content, random)
        if ending == ".log":
            # The checksums of lines that somebody wrote on purpose are right.
            lines = [line[9:] for line in changed.split(b"\n") if line]
            changed = b"".join(f"{zlib.crc32(line):08x} ".encode() + line + b"\n" for line in lines)
        return changed
    if last in BY_FORMAT and random.uniform() < 0.7:
        return BY_FORMAT[last](content, random)
    return in_header(content, random, 2000 if last == ".dcm" else 400)
