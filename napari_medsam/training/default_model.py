"""The run that makes the default model: one command, seeded, resumable.

    python -m napari_medsam.training.label_bank DATA_TRAIN bank.npz
    python -m napari_medsam.training.default_model --bank bank.npz --out run --steps 4000

Every step draws its own slices and prompts from (seed, step), so a run that was stopped and resumed sees the
same data as one that was not. All state is kept as safetensors and JSON; nothing is pickled.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from napari_medsam.models.crops import prompt_channels
from napari_medsam.models.precision import bfloat16_pays
from napari_medsam.models.prompt_net import PromptNet
from napari_medsam.models.prompt_unet import CROPS_AT_ONCE
from napari_medsam.training.label_bank import LabelBank
from napari_medsam.training.prompt_sampling import MODES, PromptBatch, correction, draw_prompts
from napari_medsam.training.synthetic import synthetic_slices

EMA_DECAY = 0.998
VALIDATION_SEED = 10**9


@dataclass(frozen=True)
class RunConfig:
    """What decides the result of a run.

    Attributes
    ----------
    steps
        Optimiser steps of the whole run; the learning rate falls to 0 over them.
    batch
        Prompts per step.
    slices
        Slices drawn at a time.
    reuse
        Steps that share one draw of slices.
    size
        Side of the slices in pixels.
    learning_rate
        Peak of AdamW's rate, after 200 steps of warm-up, with a cosine decay.
    seed
        Of weights, slices and prompts.
    start
        Weights file to begin with, in place of random weights; a run may be done in stages.
    """

    steps: int = 4000
    batch: int = 32
    slices: int = 25
    reuse: int = 12
    size: int = 192
    learning_rate: float = 1.5e-3
    seed: int = 0
    start: str = ""


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice plus cross-entropy, averaged over (N, 1, S, S)."""
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum((1, 2, 3))
    total = probability.sum((1, 2, 3)) + target.sum((1, 2, 3))
    soft_dice = 1 - (2 * overlap + 1) / (total + 1)
    return soft_dice.mean() + F.binary_cross_entropy_with_logits(logits, target)


def overlaps(logits: Tensor, target: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Dice and IoU, (N,) each, against the whole object; both 1 where object and mask are empty."""
    mask, truth = logits > 0, target > 0.5
    both = (mask & truth).sum((1, 2, 3)).float()
    size = mask.sum((1, 2, 3)).float()
    whole = torch.maximum(area, truth.sum((1, 2, 3)).float())
    empty = (size + whole) < 0.5
    dice = torch.where(empty, 1.0, 2 * both / (size + whole).clamp_min(1))
    return dice, torch.where(empty, 1.0, both / (size + whole - both).clamp_min(1))


Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


def predict_with_clicks(
    net: Forward, prompts: PromptBatch, clicks: int, generator: torch.Generator, *, train: bool
) -> tuple[Tensor, Tensor]:
    """Logits and IoU logits after `clicks` corrections; gradients only through the last prediction."""
    points, labels, previous = prompts.points, prompts.point_labels, prompts.previous
    for k in range(clicks + 1):
        channels = prompt_channels(prompts.windows, prompts.boxes, prompts.has_box, points, labels)
        inputs = torch.cat([prompts.image, channels, previous], 1)
        last = k == clicks
        autocast = torch.autocast(inputs.device.type, torch.bfloat16, enabled=bfloat16_pays(inputs.device))
        with torch.set_grad_enabled(train and last), autocast:
            logits, iou_logits = net(inputs.contiguous(memory_format=torch.channels_last))
        logits, iou_logits = logits.float(), iou_logits.float()
        if not last:
            more, meant = correction(logits, prompts.target, prompts.windows, generator)
            points, labels = torch.cat([points, more], 1), torch.cat([labels, meant], 1)
            previous = torch.sigmoid(logits) * 2 - 1
    return logits, iou_logits


def _learning_rate(config: RunConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / 200)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


class PromptDraws(Dataset[list[PromptBatch]]):
    """The training data: draw k is `reuse` batches of prompts on one batch of slices, all from (seed, k)."""

    def __init__(self, config: RunConfig, bank: LabelBank | None, device: torch.device) -> None:
        self.config, self.bank, self.device = config, bank, device

    def __getitem__(self, k: int) -> list[PromptBatch]:
        """Draw number k."""
        config = self.config
        generator = torch.Generator(self.device).manual_seed(config.seed * 1_000_003 + k)
        slices = synthetic_slices(config.slices, generator, config.size, self.bank)
        return [draw_prompts(slices, config.batch, generator) for _ in range(config.reuse)]

    def loader(self, first_step: int, ahead: bool) -> DataLoader[list[PromptBatch]]:
        """Draws from `first_step` to the end of the run; made ahead by another process when asked."""
        draws = range(first_step // self.config.reuse, math.ceil(self.config.steps / self.config.reuse))
        return DataLoader(
            self,
            batch_size=None,
            sampler=draws,
            num_workers=1 if ahead else 0,
            prefetch_factor=2 if ahead else None,
        )


def validate(net: Forward, draws: PromptDraws) -> dict[str, float]:
    """Dice on fresh slices of a fixed seed: per opening prompt, and after one and two corrections."""
    generator = torch.Generator(draws.device).manual_seed(VALIDATION_SEED)
    parts = [p for k in range(2) for p in draws[VALIDATION_SEED + k]]
    prompts = PromptBatch(
        *(torch.cat([getattr(p, f) for p in parts]) for f in PromptBatch.__dataclass_fields__)
    )
    scores = {}
    for clicks in range(3):
        logits, iou_logits = predict_with_clicks(net, prompts, clicks, generator, train=False)
        dice, iou = overlaps(logits, prompts.target, prompts.area)
        for k, name in enumerate(MODES):
            scores[f"{name} +{clicks}"] = float(dice[prompts.mode == k].mean())
        scores[f"iou error +{clicks}"] = float((torch.sigmoid(iou_logits) - iou).abs().mean())
    return {k: round(v, 4) for k, v in scores.items()}


class Run:
    """State of one training run on disk and in memory.

    Parameters
    ----------
    out
        Folder of the run; resumed when it holds a state.
    config
        Must be the one the run was started with.
    device
        Where to compute.
    """

    def __init__(self, out: Path, config: RunConfig, device: torch.device) -> None:
        self.out, self.config, self.device = out, config, device
        torch.manual_seed(config.seed)
        self.net = PromptNet().to(device)
        if config.start:
            self.net.load_state_dict(load_file(config.start))
        self.names = [n for n, _ in self.net.named_parameters()]
        self.parameters = [p for _, p in self.net.named_parameters()]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.02)
        self.step, self.seconds = 0, 0.0
        if (out / "state.json").exists():
            self._load()

    def _tensors(self) -> dict[str, list[Tensor]]:
        """Every tensor of the state by file name."""
        moments = {
            key: [self.optimizer.state[p][key] for p in self.parameters] for key in ("exp_avg", "exp_avg_sq")
        }
        return {"weights": [p.detach() for p in self.parameters], "average": self.average, **moments}

    def save(self) -> None:
        """Write the state, each file under its own name first and renamed at the end."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {"step": self.step, "seconds": round(self.seconds, 1), "config": asdict(self.config)}
        for name, tensors in self._tensors().items():
            named = {n: t.contiguous().cpu() for n, t in zip(self.names, tensors, strict=True)}
            save_file(named, self.out / f"{name}.part")
        (self.out / "state.part").write_text(json.dumps(state, indent=1))
        for name in self._tensors():
            (self.out / f"{name}.part").replace(self.out / f"{name}.safetensors")
        (self.out / "state.part").replace(self.out / "state.json")

    def _load(self) -> None:
        state = json.loads((self.out / "state.json").read_text())
        if state["config"] != asdict(self.config):
            raise ValueError(
                f"The run in {self.out} was started with {state['config']}, not with {asdict(self.config)}: "
                "give the same options, or another folder."
            )
        self.step, self.seconds = state["step"], state["seconds"]
        files = {
            k: load_file(self.out / f"{k}.safetensors")
            for k in ("weights", "average", "exp_avg", "exp_avg_sq")
        }
        for k, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            parameter.data.copy_(files["weights"][name])
            self.average[k].copy_(files["average"][name])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": files["exp_avg"][name].to(self.device),
                "exp_avg_sq": files["exp_avg_sq"][name].to(self.device),
            }

    def averaged_net(self) -> PromptNet:
        """Return a copy of the net with the running average of the weights."""
        net = PromptNet().to(self.device)
        net.load_state_dict({n: a.to(self.device) for n, a in zip(self.names, self.average, strict=True)})
        return net

    def optimise(
        self, forward: Forward, prompts: PromptBatch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Take one step; loss and mean Dice come back as tensors, so that a GPU is not waited for."""
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.config, self.step)
        clicks = (0, 0, 1, 2)[self.step % 4]
        self.optimizer.zero_grad(set_to_none=True)
        total, all_dice = torch.zeros((), device=self.device), []
        count = len(prompts.image)
        at_once = CROPS_AT_ONCE if self.device.type == "cpu" else count
        for first in range(0, count, at_once):
            part = prompts.part(slice(first, first + at_once))
            logits, iou_logits = predict_with_clicks(forward, part, clicks, generator, train=True)
            dice, iou = overlaps(logits.detach(), part.target, part.area)
            loss = segmentation_loss(logits, part.target)
            loss = loss + 0.3 * F.binary_cross_entropy_with_logits(iou_logits, iou)
            loss = loss * (len(dice) / count)
            loss.backward()
            total += loss.detach()
            all_dice.append(dice)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        decay = min(EMA_DECAY, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1
        return total, torch.cat(all_dice).mean()


def train(
    out: Path,
    config: RunConfig,
    bank_path: Path | None,
    device: torch.device,
    *,
    minutes: float = math.inf,
    compile_net: bool = False,
    draw_ahead: bool = False,
    log_every: int = 100,
    check_every: int = 1000,
) -> Run:
    """Run or resume training until `config.steps`, or until the time is over.

    Parameters
    ----------
    out
        Folder for state, log and configuration.
    config
        What decides the result.
    bank_path
        File of `label_bank.build_bank`, or None for painted scenes only.
    device
        Where to compute.
    minutes
        Stop after this time with the state saved.
    compile_net
        Use `torch.compile`; pays on a GPU.
    draw_ahead
        Draw training data in a second process; pays on a CPU with two cores or more.
    log_every, check_every
        Steps between lines of ``log.jsonl`` and between validations with a saved state.
    """
    started = time.monotonic()
    run = Run(out, config, device)
    bank = None if bank_path is None else LabelBank(bank_path, device)
    forward: Forward = torch.compile(run.net) if compile_net else run.net
    draws = PromptDraws(config, bank, device)
    before, sums = run.seconds, torch.zeros(2, device=device)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("a") as log:
        for batches in draws.loader(run.step, draw_ahead):
            # Every draw has a stream of its own, so that clicks too are the same after a resumed run.
            generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + run.step)
            for prompts in batches:
                sums += torch.stack(run.optimise(forward, prompts, generator))
                if run.step % log_every == 0:
                    run.seconds = before + time.monotonic() - started
                    loss, dice = (sums / log_every).tolist()
                    row = {"step": run.step, "loss": round(loss, 4), "dice": round(dice, 4)}
                    print(json.dumps(row | {"seconds": round(run.seconds, 1)}), file=log, flush=True)
                    sums.zero_()
            if run.step % check_every < config.reuse:
                scores = validate(run.averaged_net(), draws)
                print(json.dumps({"step": run.step, "validation": scores}), file=log, flush=True)
                run.seconds = before + time.monotonic() - started
                run.save()
            if time.monotonic() - started > 60 * minutes:
                break
        run.seconds = before + time.monotonic() - started
        run.save()
    return run


def export(run: Run, path: Path) -> None:
    """Write the averaged weights as float16 safetensors, with what made them in the header."""
    named = {n: a.half().contiguous().cpu() for n, a in zip(run.names, run.average, strict=True)}
    machine = (
        torch.cuda.get_device_name()
        if run.device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    about = {
        "step": run.step,
        "seconds": round(run.seconds),
        "torch": torch.__version__,
        "machine": machine,
        # A path of the machine it ran on would say nothing to anybody else.
        "config": asdict(run.config) | {"start": Path(run.config.start).name},
    }
    save_file(named, path, metadata={"made by": json.dumps(about)})


def main() -> None:
    """Command line of the training run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", type=Path, help="file of label_bank; without it, painted scenes only")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumed when it exists")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time, to be resumed")
    parser.add_argument("--compile", action="store_true", help="compile the net; pays on a GPU")
    for name, value in asdict(RunConfig()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    config = RunConfig(**{name: getattr(options, name) for name in asdict(RunConfig())})
    device = torch.device(options.device)
    run = train(
        options.out,
        config,
        options.bank,
        device,
        minutes=options.minutes,
        compile_net=options.compile,
        draw_ahead=device.type == "cpu",
    )
    export(run, options.out / "prompt_unet.safetensors")


if __name__ == "__main__":
    main()
