"""Speed of the SAM family against the publishers' order of work and the machine's own matrix products.

    python benchmarks/speed_sam.py --device cpu|cuda [--quick] [--only PART ...] [--out FOLDER]

Everything is measured in one run, competitors turn by turn, and quoted as ratios: other machines, and the
same machine on another day, differ. Needs torch and numpy only; weights are random, made from the tensors'
names. Prints as it goes and writes ``speed_sam_<device>.json`` and ``.md``. Rows in bfloat16 are left out
where the device would have to emulate it. With ``--device cuda`` the same rows are measured on the GPU, and
the encoders' peak memory there.
"""

import argparse
import copy
import json
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from load_checkpoint import peak_mb
from numpy.typing import NDArray
from reference_schedule import reference_decode, reference_encoders
from torch import Tensor

from napari_medsam.embedding_cache import EmbeddingCache
from napari_medsam.models import sam
from napari_medsam.models.openvino_engine import has_openvino, openvino_encoder
from napari_medsam.models.precision import has_bfloat16
from napari_medsam.models.sam import Sam, build_sam
from napari_medsam.predictor import SlicePredictor
from napari_medsam.prompts import SlicePrompts

Work = Callable[[], object]
CLEAR_REFS = Path("/proc/self/clear_refs")
VIT_B_FLOP = 972e9
"""Image encoder of ViT-B at 1,024 x 1,024, as computed in issue 3."""


class Report:
    """Rows of the result: printed at once, written at the end.

    Parameters
    ----------
    device, folder
        Where it runs, and where the files go.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.rows: list[dict[str, object]] = []
        name = (
            torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
        )
        self.bfloat16 = has_bfloat16(torch.device(device))
        self.machine = f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads"
        if device == "cpu":
            self.machine += (
                f", {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, load of the last "
                f"minute before the run {os.getloadavg()[0]:.1f}"
            )
        if not self.bfloat16:
            self.machine += "; no bfloat16 in hardware, so none is measured"
        print(self.machine, flush=True)

    def add(self, group: str, what: str, value: float, unit: str, note: str = "") -> None:
        """Add one number and write the files anew, so that a run cut short still leaves them."""
        self.rows.append({"group": group, "what": what, "value": value, "unit": unit, "note": note})
        print(f"{group:28s} {what:44s} {value:10.4g} {unit:10s} {note}", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / f"speed_sam_{self.device}"
        stem.with_suffix(".json").write_text(
            json.dumps({"machine": self.machine, "rows": self.rows}, indent=1)
        )
        lines = [self.machine, "", "| group | what | value | unit | note |", "|---|---|---|---|---|"]
        lines += [
            f"| {r['group']} | {r['what']} | {r['value']:.4g} | {r['unit']} | {r['note']} |"
            for r in self.rows
        ]
        stem.with_suffix(".md").write_text("\n".join(lines) + "\n")


def seconds_once(work: Work, device: str) -> float:
    """Wall time of one call, the device's queue drained before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def race(report: Report, group: str, works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median seconds of each competitor, run turn by turn; the first is the yardstick of the ratios."""
    device, times = report.device, {name: [] for name in works}
    for work in works.values():
        for _ in range(3 if device == "cuda" else 1):
            seconds_once(work, device)
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds_once(work, device))
    middle = {name: median(values) for name, values in times.items()}
    for name, value in middle.items():
        ratio = next(iter(middle.values())) / value
        report.add(group, name, value * 1e3, "ms", f"{ratio:.2f} x; best {min(times[name]) * 1e3:.4g} ms")
    return middle


def random_weights(model: Sam, seed: int = 0) -> None:
    """Fill every tensor from its name, so that attention is not flat and no norm is idle."""
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        entropy = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
        noise = np.random.Generator(np.random.PCG64(entropy)).standard_normal(tensor.shape, dtype=np.float32)
        value = torch.from_numpy(noise)
        if name.endswith("running_var"):
            value = 0.5 + 0.5 * value.abs()
        elif any(part in name for part in ("rel_pos", "pos_embed", "running_mean")):
            value = 0.1 * value
        elif any(
            part in name
            for part in ("attention_biases", "_embeddings.", "embed.weight", "tokens.", "iou_token.")
        ):
            value = 0.5 * value
        elif value.ndim == 1:
            value = 1.0 + 0.1 * value if name.endswith("weight") else 0.05 * value
        elif "gaussian_matrix" not in name:
            fan_in = value[0].numel() if "output_upscaling" not in name else len(value)
            value = value * (1.4 if ".qkv." in name else 1.0) / fan_in**0.5
        tensor.copy_(value)


def make(variant: str, device: str) -> Sam:
    """A published architecture with random weights."""
    model = build_sam(variant)
    random_weights(model)
    return model.to(device).requires_grad_(False)


def picture(size: int, count: int, device: str) -> Tensor:
    """Smooth blobs with noise, (count, 3, size, size), about unit variance."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 12, 12, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return (smooth + 0.1 * torch.randn(count, 3, size, size, generator=generator)).to(device)


def boxes_for(size: int, count: int, device: str) -> Tensor:
    """(count, 4) boxes spread over the frame."""
    place = torch.Generator().manual_seed(2)
    corner = torch.rand(count, 2, generator=place) * 0.6 * size
    side = (0.1 + 0.25 * torch.rand(count, 2, generator=place)) * size
    return torch.cat([corner, corner + side], dim=1).to(device)


def mask_iou(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Mean and worst IoU of the masks in two sets of logits."""
    a, b = a.flatten(2) > 0, b.flatten(2) > 0
    iou = (a & b).sum(2) / (a | b).sum(2).clamp_min(1)
    return float(iou.mean()), float(iou.min())


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of the second."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def ceiling(report: Report, quick: bool) -> dict[str, float]:
    """The machine's matrix products, in operations per second."""
    device, rates = report.device, {}
    side = (8192 if not quick else 4096) if device == "cuda" else 2048
    for dtype in (torch.float32, torch.bfloat16) if report.bfloat16 else (torch.float32,):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = [seconds_once(lambda a=a, b=b: a @ b, device) for _ in range(9)]
        rates[str(dtype)] = 2 * side**3 / min(seconds[3:])
        report.add("matrix product", str(dtype), rates[str(dtype)] / 1e9, "GFLOP/s", f"{side} cubed")
    return rates


def referenced(function: Callable[..., object], *inputs: Tensor) -> Work:
    """The call in the publishers' order of work."""

    def work() -> object:
        with reference_encoders():
            return function(*inputs)

    return work


def encoder(report: Report, variant: str, rates: dict[str, float], quick: bool) -> None:
    """Image encoder: reference and ours in float32 and bfloat16; masks of bfloat16 against float32."""
    device = report.device
    repeats = (5 if quick else 20) if device == "cuda" else (1 if quick else 3)
    model = make(variant, device)
    low = copy.deepcopy(model).set_precision(torch.bfloat16) if report.bfloat16 else None
    x = picture(model.image_size, 1, device)
    group = f"{variant} encoder"
    works: dict[str, Work] = {
        "reference float32": referenced(model.image_encoder, x),
        "ours float32": lambda: model.image_encoder(x),
    }
    if low is not None:
        works["ours bfloat16"] = lambda: low.image_encoder(x)
    if device == "cpu" and has_openvino():
        with tempfile.TemporaryDirectory() as folder:
            engine = openvino_encoder(model.image_encoder, variant, torch.float32, print, Path(folder))
        works["OpenVINO float32"] = lambda: engine(x)
    peak_memory(report, group, works)
    times = race(report, group, works, repeats)
    if variant == "vit_b":
        for name, dtype in (("ours float32", "torch.float32"), ("ours bfloat16", "torch.bfloat16")):
            if name in times:
                report.add(group, f"{name} / floor", times[name] * rates[dtype] / VIT_B_FLOP, "x")
    precision(report, model, low, x)


def precision(report: Report, model: Sam, low: Sam | None, x: Tensor) -> None:
    """How far the order of work, and bfloat16, move embeddings and masks."""
    group = "numbers"
    with reference_encoders():
        reference = model.image_encoder(x)
    ours = model.encode_image(x)
    boxes = boxes_for(model.image_size, 16, report.device)
    report.add(
        group, "embedding, ours to reference, float32", relative(ours.image_embeddings, reference), "rel"
    )
    masks = model.decode(ours, None, None, boxes, None, False)[0]
    expected = reference_decode(model, model.embedding(reference), boxes)[0]
    report.add(group, "masks, ours to reference, float32", relative(masks, expected), "rel")
    if low is None:
        return
    lower = low.encode_image(x)
    report.add(group, "embedding, bfloat16 to float32", relative(lower.image_embeddings, reference), "rel")
    lower_masks = model.decode(lower, None, None, boxes, None, False)[0]
    mean, worst = mask_iou(lower_masks, masks)
    report.add(group, "mask IoU, bfloat16 to float32, 16 boxes", mean, "IoU", f"worst {worst:.4f}")


def peak_memory(report: Report, group: str, works: dict[str, Work]) -> None:
    """Peak above what is held already; on the CPU on Linux only, least first, for a heap never shrinks."""
    for name, work in reversed(works.items()):
        if report.device == "cuda":
            torch.cuda.synchronize()
            held = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            grown = (torch.cuda.max_memory_allocated() - held) / 1e6
        elif CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")
            held = peak_mb()
            work()
            grown = peak_mb() - held
        else:
            return
        report.add(group, f"peak memory above the weights, {name}", grown, "MB")


def cached(report: Report, quick: bool) -> None:
    """From a slice whose embedding lies on the disk to its mask, beside the decode alone."""
    model = make("vit_b", report.device)
    slices = np.random.default_rng(0).random((2, 512, 512), np.float32)
    box = SlicePrompts((100.0, 120.0, 300.0, 340.0))
    with tempfile.TemporaryDirectory() as folder:
        predictor = SlicePredictor(
            model, report.device, EmbeddingCache(Path(folder), memory_bytes=0), precision="float32"
        )
        turn = iter(range(10**6))

        def from_disk() -> object:
            predictor.set_slice(slices[next(turn) % 2])
            return predictor.predict(box)

        for _ in slices:
            from_disk()
        works: dict[str, Work] = {"decode alone": lambda: predictor.predict(box), "from the disk": from_disk}
        times = race(report, "embedding on the disk", works, 5 if quick else 20)
    report.add(
        "embedding on the disk", "from the disk / decode", times["from the disk"] / times["decode alone"], "x"
    )


def decoder(report: Report, quick: bool) -> None:
    """Prompt encoder and mask decoder for 1, 4 and 16 boxes."""
    device = report.device
    model = make("vit_b", device)
    generator = torch.Generator().manual_seed(3)
    embedding = model.embedding(torch.randn(1, 256, 64, 64, generator=generator).to(device))
    repeats = (20 if quick else 50) if device == "cuda" else (3 if quick else 9)
    for count in (1, 4, 16):
        boxes = boxes_for(1024, count, device)
        works: dict[str, Work] = {
            "reference float32": lambda boxes=boxes: reference_decode(model, embedding, boxes),
            "ours float32": lambda boxes=boxes: model.decode(embedding, None, None, boxes, None, False),
        }
        if count > 1:
            works["ours float32, one after the other"] = lambda boxes=boxes: [
                model.decode(embedding, None, None, box[None], None, False) for box in boxes
            ]
        race(report, f"decoder, {count} boxes", works, repeats)


def first_mask(report: Report, quick: bool) -> None:
    """From a slice that nobody has asked about to its first mask, with a model that has done nothing yet."""
    slices = np.random.default_rng(0).random((2 if quick else 3, 512, 512), np.float32)
    prompts = SlicePrompts((100.0, 120.0, 300.0, 340.0))
    group = "first mask of a slice"
    fresh = make("vit_b", report.device)
    boxes = boxes_for(fresh.image_size, 1, report.device)
    image = picture(fresh.image_size, 1, report.device)

    def reference() -> object:
        with reference_encoders():
            embedding = fresh.embedding(fresh.image_encoder(image))
        return reference_decode(fresh, embedding, boxes)

    before = seconds_once(reference, report.device)
    report.add(group, "reference float32, the first", before, "s", "1.00 x")
    predictor = SlicePredictor(make("vit_b", report.device), report.device, precision="float32")
    for n, plane in enumerate(slices):

        def work(plane: NDArray[np.float32] = plane) -> object:
            predictor.set_slice(plane)
            return predictor.predict(prompts)

        seconds = seconds_once(work, report.device)
        name = "the first" if n == 0 else "a later one"
        report.add(group, f"ours float32, {name}", seconds, "s", f"{before / seconds:.2f} x")


PARTS = {"decoder": decoder, "first": first_mask, "cached": cached}


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--only", nargs="+", choices=(*sam.VARIANTS, *PARTS), help="parts to run")
    arguments = parser.parse_args()
    # The publishers' float32 is float32: no shortened products in the yardstick, nor in the comparison.
    torch.backends.cudnn.allow_tf32 = False
    report = Report(arguments.device, arguments.out)
    with torch.inference_mode():
        rates = ceiling(report, arguments.quick)
        parts = arguments.only or ["decoder", "vit_b", "vit_t", "lite_medsam", "first", "cached"]
        for part in parts:
            if part in PARTS:
                PARTS[part](report, arguments.quick)
            else:
                encoder(report, part, rates, arguments.quick)


if __name__ == "__main__":
    main()
