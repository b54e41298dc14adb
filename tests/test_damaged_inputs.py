"""200 damaged files: each is read, or refused with one sentence; no crash, no hang, no gigabytes asked for.

They are read in processes of their own: a crash inside ITK then fails one test and does not end them all.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from napari_medsam.volume import Geometry, write_labels

KINDS = (".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".rle.dcm", ".png", ".tif")
PER_KIND = 25
SECONDS = 120
MEGABYTES = 600

READ_THEM = """
import json, pathlib, re, resource, sys, warnings
warnings.simplefilter("error")
from napari_medsam.volume import read_volume
for path in sys.argv[1:]:
    try:
        volume = read_volume(path)
        outcome = {"path": path, "kind": "read", "text": str(volume.array.shape)}
    except Exception as error:
        outcome = {"path": path, "kind": type(error).__name__, "text": str(error)}
    print(json.dumps(outcome))
status = pathlib.Path("/proc/self/status")
if status.exists():
    # Here getrusage counts what the parent held before it turned into this process.
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) // 2**10)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20)
"""


def sound(path: Path) -> bytes:
    """A good file of the path's kind: a volume of 8 x 40 x 32 voxels, or one slice of it."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(40, 20, (8, 40, 32)).astype(np.int16)
    if path.suffix in (".png", ".tif"):
        Image.fromarray(voxels.astype(np.uint8)[0]).save(path)
    elif path.suffix == ".dcm":
        save_dicom(path, voxels[0], compressed=path.name.endswith(".rle.dcm"))
    elif ".nii" in path.suffixes:
        write_labels(np.abs(voxels), Geometry(voxels.shape, (3.0, 0.8, 0.8)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), useCompression=path.suffix == ".mha")
    return path.read_bytes()


def save_dicom(path: Path, pixels: np.ndarray, compressed: bool) -> None:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["fixed"])
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.Modality, image.PhotometricInterpretation = "CT", "MONOCHROME2"
    image.ReferencedSeriesSequence = [Dataset()]
    image.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PixelRepresentation = 1, 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.ImagePositionPatient, image.ImageOrientationPatient = [1, 2, 3], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.RescaleIntercept, image.RescaleSlope = [1, 1], -1024, 1
    image.PixelData = pixels.tobytes()
    if compressed:
        image.compress(RLELossless, encoding_plugin="pydicom")
    image.save_as(path, enforce_file_format=True)


def damaged(data: bytes, other: bytes, seed: int) -> bytes:
    """Damage data in one of five ways; `other` is a good file of another kind."""
    rng = np.random.default_rng(seed)
    spoilt = bytearray(data)
    header = min(len(data), 600)
    match seed % 5:
        case 0:  # cut short, as by a full disk
            return bytes(spoilt[: rng.integers(0, len(data))])
        case 1:  # a few bits of the header flipped
            for at in rng.integers(0, header, rng.integers(1, 8)):
                spoilt[at] ^= 1 << int(rng.integers(0, 8))
        case 2:  # bytes anywhere replaced
            for at in rng.integers(0, len(data), rng.integers(1, 40)):
                spoilt[at] = int(rng.integers(0, 256))
        case 3:  # a stretch of the header overwritten
            at = int(rng.integers(0, header))
            spoilt[at : at + 16] = rng.integers(0, 256, 16, dtype=np.uint8).tobytes()
        case 4:  # another kind of file under this name, from some byte on
            at = int(rng.choice([0, 4, 128, 132, header]))
            spoilt[at:] = other[at:]
    return bytes(spoilt)


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    return {kind: sound(folder / f"sound{kind}") for kind in KINDS}


def read_in_another_process(paths: list[Path]) -> tuple[list[dict[str, str]], int]:
    """Outcome for each file, and the most memory in MB that the process held; nothing else may be printed."""
    done = subprocess.run(
        [sys.executable, "-c", READ_THEM, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"died with {done.returncode} after {done.stdout[-500:]}"
    assert done.stderr == ""
    *outcomes, megabytes = map(json.loads, done.stdout.splitlines())
    assert [outcome["path"] for outcome in outcomes] == list(map(str, paths))
    return outcomes, megabytes


@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured with POSIX's getrusage")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_with_one_sentence(tmp_path, sound_files, kind):
    paths = []
    for number in range(PER_KIND):
        other = sound_files[KINDS[(KINDS.index(kind) + 1 + number // 5) % len(KINDS)]]
        path = tmp_path / f"{number:02}{kind}"
        path.write_bytes(damaged(sound_files[kind], other, 1000 * KINDS.index(kind) + number))
        paths.append(path)
    (tmp_path / f"sound{kind}").write_bytes(sound_files[kind])
    outcomes, megabytes = read_in_another_process([*paths, tmp_path / f"sound{kind}"])
    assert outcomes.pop()["kind"] == "read"
    for outcome in outcomes:
        assert outcome["kind"] in ("read", "VolumeError", "GeometryError"), outcome
        if outcome["kind"] != "read":
            assert outcome["text"].startswith(f"'{outcome['path']}' cannot be read: "), outcome
            assert outcome["text"].endswith("."), outcome
            assert outcome["text"].isprintable(), outcome
            assert len(outcome["text"]) < 500, outcome
    refused = sum(outcome["kind"] != "read" for outcome in outcomes)
    assert refused >= PER_KIND / 3, "the damage does not reach the reader"
    assert megabytes < MEGABYTES


@pytest.mark.skipif(sys.platform == "win32", reason="memory is limited with POSIX's setrlimit")
def test_no_kind_of_file_does_harm_when_damaged():
    """Labels, structure sets, tables, prompts, sessions and checkpoints too; more: benchmarks/fuzz.py."""
    script = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
    done = subprocess.run(
        [sys.executable, str(script), "--each", "10", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "240 inputs, 0 failures" in done.stdout
