"""``napari-medsam models``: which models there are, and their weights on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn
from rich.table import Column, Table

from napari_medsam.cli.console import AsJson, Debug, print_json, print_table, reported, say

if TYPE_CHECKING:
    from napari_medsam.models.specs import ModelSpec

Name = Annotated[str, typer.Argument(help="A name that 'napari-medsam models list' shows.")]
NameOrPath = Annotated[
    str, typer.Argument(help="A model's name, or the path of your own file (medsam=PATH says how it is fed).")
]

app = typer.Typer(
    name="models",
    help="List models; download, verify and locate their weights. Nothing is downloaded unasked.",
    no_args_is_help=True,
)


@app.command("list")
@reported
def list_models(as_json: AsJson = False, debug: Debug = False) -> None:
    """Show every model: whether it is here, what prompts it takes, its licence, what it was trained on."""
    from napari_medsam.models.zoo import MODELS, weights_path

    here = {name: weights_path(name).is_file() for name in MODELS}
    if as_json:
        print_json([_described(spec, here[name]) for name, spec in MODELS.items()])
        return
    table = Table(Column("model", no_wrap=True), "here", "MB", "prompts", "licence", "trained on")
    for name, spec in MODELS.items():
        size = f"{spec.size_bytes / 1e6:.0f}" if spec.size_bytes else ""
        prompts = ", ".join(sorted(spec.supported_prompts))
        table.add_row(name, "yes" if here[name] else "no", size, prompts, spec.licence, spec.trained_on)
    print_table(table)


@app.command()
@reported
def download(name: Name, debug: Debug = False) -> None:
    """Fetch a model's weights and check them. Interrupted, it goes on where it stopped the next time."""
    from napari_medsam.models.download import download as fetch
    from napari_medsam.models.zoo import spec_of, weights_path

    spec, path = spec_of(name), weights_path(name)
    if path.is_file():
        say(f"The weights of {name} are here already: {path}.")
        return
    say(f"Weights of {name}: licence {spec.licence}; see {spec.page}.")
    columns = "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(spec.file, total=spec.size_bytes or None)
        for done, total in fetch(spec, path.parent):
            bar.update(task, completed=done, total=total or None)
    say(f"Wrote {path}.")


@app.command()
@reported
def verify(name: NameOrPath, debug: Debug = False) -> None:
    """Read a model's file as a whole: its digest where one was published, its tensors in any case."""
    from napari_medsam.models.zoo import verify as check

    typer.echo(check(name))


@app.command()
@reported
def path(name: Name, debug: Debug = False) -> None:
    """Print where a model's weights lie, or where to put them."""
    from napari_medsam.models.zoo import weights_path

    typer.echo(weights_path(name))


def _described(spec: ModelSpec, here: bool) -> dict[str, object]:
    from napari_medsam.models.zoo import weights_path

    return {
        "name": spec.name,
        "here": here,
        "path": str(weights_path(spec.name)),
        "size_bytes": spec.size_bytes or None,
        "digest": spec.digest or None,
        "digest_from_third_party": spec.third_party if spec.digest else None,
        "supported_prompts": sorted(spec.supported_prompts),
        "image_size_px": spec.image_size,
        "licence": spec.licence,
        "trained_on": spec.trained_on,
        "page": spec.page or None,
    }
