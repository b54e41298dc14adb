"""What every command shares: where text goes, how a run ends, and how long work is shown."""

from __future__ import annotations

import functools
import json
import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EPIPE
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

BAD_INPUT = 2
BUG = 1

_REPORT = "Please report it, with the command and what --debug adds to it."
_Parameters = ParamSpec("_Parameters")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def reported(command: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """End a command with one sentence instead of a traceback, and with the exit code that tells why.

    0: done. 2: the input was at fault (an error type of this package, or one of the file system). 1: a bug.
    A keyword argument ``debug`` of the command asks for the traceback, too.
    """

    @functools.wraps(command)
    def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            with _plain_warnings():
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == EPIPE:
                raise
            if kwargs.get("debug"):
                say(traceback.format_exc().rstrip())
            if _is_bad_input(error):
                say(f"Error: {_sentence(error)}")
                raise typer.Exit(BAD_INPUT) from None
            say(f"This is a bug in napari-medsam ({type(error).__name__}: {_sentence(error)}). {_REPORT}")
            raise typer.Exit(BUG) from None

    return run


def say(text: str) -> None:
    """Print to stderr, as it is: neither wrapped nor read as markup."""
    Console(stderr=True).print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table to stdout, names as they are: neither read as markup nor as emoji."""
    Console(markup=False, emoji=False).print(table)


def print_json(value: object) -> None:
    """Print one JSON document to stdout; a number that JSON cannot hold (infinity, NaN) becomes null."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False, default=str))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print this package's warnings as the sentences they are, without the line of code they come from."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if category.__module__.startswith("napari_medsam."):
                say(f"Note: {message}")
            else:
                usual(message, category, *where)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def progress_bar(unit: str = "slices") -> Progress:
    """Progress on stderr, which leaves nothing behind and stays silent where stderr is not a terminal.

    Parameters
    ----------
    unit
        What is counted.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _is_bad_input(error: Exception) -> bool:
    """Whether an error tells of the input: those of this package all do, those of numpy or torch never."""
    return isinstance(error, (OSError, MemoryError)) or type(error).__module__.startswith("napari_medsam.")


def _sentence(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "There is not enough memory for this image; crop it, or use a machine with more."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
