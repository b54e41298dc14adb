"""The command ``napari-medsam``: segment images without a window, score label maps, try a demo.

Exit codes: 0 done, 2 bad input (one sentence on stderr, nothing written), 1 a bug.
"""

from __future__ import annotations

from typing import Annotated

import typer

from napari_medsam import __version__
from napari_medsam.cli import demo, evaluate, export, measure, models, propose, replay, segment

app = typer.Typer(
    name="napari-medsam",
    help="Segment CT and MR volumes from a few boxes and points. Not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=segment.EXAMPLES)(segment.segment)
app.command(epilog=propose.EXAMPLES)(propose.propose)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=measure.EXAMPLES)(measure.measure)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=replay.EXAMPLES)(replay.replay)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.add_typer(models.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"napari-medsam {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
