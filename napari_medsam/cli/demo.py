"""``napari-medsam demo``: the whole way on a synthetic CT, without any data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_medsam.cli.console import AsJson, Debug, print_json, print_table, progress_bar, reported, say
from napari_medsam.cli.model_options import load_predictor

if TYPE_CHECKING:
    from napari_medsam.demo import DemoResult

EXAMPLES = """
**Examples**

```
napari-medsam demo

napari-medsam demo --out /tmp/demo --seed 3 --no-viewer
```

Afterwards, with the files that the demo wrote:

```
napari-medsam segment napari-medsam-demo/ct.nii.gz \\
    --prompts napari-medsam-demo/prompts.json -o again.nii.gz
napari-medsam evaluate napari-medsam-demo/reference.nii.gz again.nii.gz
```
"""

_QT_BINDINGS = ("PySide6", "PyQt6", "PyQt5", "PySide2")
_WINDOWLESS_QT = ("offscreen", "minimal", "vnc")


@reported
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to; made if it is not there.")] = Path(
        "napari-medsam-demo"
    ),
    seed: Annotated[int, typer.Option(help="Which synthetic patient, from 0.")] = 0,
    no_viewer: Annotated[
        bool, typer.Option("--no-viewer", help="Do not open napari, even where there is a display.")
    ] = False,
    model: Annotated[str, typer.Option(help="Name of a model, or a file with weights.")] = "default",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a synthetic CT, segment its organs from one box each, and show how well that went.

    Writes the CT, its true labels, what was found, the boxes and an overview picture.
    """
    from napari_medsam.demo import run_demo

    predictor = load_predictor(model, device)
    with progress_bar() as bar:
        task = bar.add_task("phantom", total=None)

        def show(name: str, slices_done: int) -> None:
            bar.update(task, description=name, completed=slices_done)

        result = run_demo(out, predictor, seed=seed, on_progress=show)
    if as_json:
        print_json(asdict(result))
    else:
        _print_table(result)
        say(f"Wrote {out}: {', '.join(path.name for path in result.files)}.")
    if not no_viewer:
        _open_viewer(result)


def _print_table(result: DemoResult) -> None:
    table = Table("organ", caption=f"one box each, on one axial slice; {result.seconds:.1f} s in all")
    for heading in ("3D Dice", "found mL", "true mL", "seconds"):
        table.add_column(heading, justify="right")
    for organ in sorted(result.organs, key=lambda organ: organ.label):
        volumes = f"{organ.found_ml:.1f}", f"{organ.true_ml:.1f}"
        table.add_row(organ.name, f"{organ.dice:.3f}", *volumes, f"{organ.seconds:.2f}")
    table.add_section()
    table.add_row("mean", f"{result.mean_dice:.3f}", "", "", "")
    print_table(table)


def _open_viewer(result: DemoResult) -> None:
    """Show image and labels in napari, in a process of its own: a broken display cannot fail the demo."""
    missing = why_no_viewer(sys.platform, os.environ)
    if missing:
        say(f"napari was not opened: {missing}.")
        return
    command = [
        sys.executable,
        "-m",
        "napari_medsam.widgets.show",
        str(result.image),
        str(result.segmentation),
    ]
    if subprocess.run(command, check=False).returncode:
        say("napari was not opened, or did not close well: see above for the reason.")


def why_no_viewer(platform: str, environment: Mapping[str, str]) -> str:
    """What a window lacks on a machine; empty when nothing.

    Parameters
    ----------
    platform : str
        As `sys.platform` names it.
    environment : Mapping[str, str]
        Environment variables.
    """
    if not any(find_spec(binding) for binding in _QT_BINDINGS):
        return "there is no Qt binding, pip install 'napari-medsam[qt]' brings one"
    if environment.get("QT_QPA_PLATFORM", "").split(":")[0] in _WINDOWLESS_QT:
        return "QT_QPA_PLATFORM asks for no window"
    if platform.startswith("linux") and not any(map(environment.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return "there is no display"
    return ""
