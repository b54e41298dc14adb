"""``napari-medsam replay``: make the labels of a session again, from the image and what was done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_medsam.cli.arguments import ArgumentError
from napari_medsam.cli.console import AsJson, Debug, print_json, progress_bar, reported, say
from napari_medsam.cli.image_options import OUTPUT_HELP, Series, TimePoint, check_output, write_output
from napari_medsam.cli.model_options import Device, Engine, NoCache, Precision, load_predictor

if TYPE_CHECKING:
    from napari_medsam.propagation import Predictor

EXAMPLES = """
**Examples**

```
napari-medsam replay liver.session.json --image ct.nii.gz -o again.nii.gz
```

A session for which a model of your own was asked:

```
napari-medsam replay liver.session.json --image ct.nii.gz --model my_medsam.pth -o again.nii.gz
```
"""


@reported
def replay(
    session: Annotated[Path, typer.Argument(help="Session file, as written beside every label map.")],
    output: Annotated[Path, typer.Option("--output", "-o", help=OUTPUT_HELP)],
    image: Annotated[
        Path | None,
        typer.Option(help="The image it was made on; by default the one of that name beside the session."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Ask this model, a name or a file, whatever the session says."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    no_cache: NoCache = False,
    series: Series = None,
    time_point: TimePoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make the labels of SESSION again: ask the model what it was asked, and correct what was corrected.

    The same model on the same kind of machine makes the same labels, bit by bit. Where they differ, OUTPUT is
    what was made now, and how much differs is said.
    """
    from napari_medsam import replay as replaying
    from napari_medsam.models.places import weights_digest
    from napari_medsam.models.specs import MODELS
    from napari_medsam.session import Session
    from napari_medsam.session_file import (
        Snapshot,
        content_from_json,
        read_document,
        session_path,
        session_to_json,
        session_written,
    )
    from napari_medsam.volume import read_volume

    document = read_document(session)
    image = image or _beside(session, str(document["image"].get("name", "")))
    check_output(output, image, series)
    if session_path(output).exists() and session_path(output).samefile(session):
        raise ArgumentError(f"--output {output} would put another session in place of {session}.")
    volume = read_volume(image, series=series, time_point=time_point)
    content = content_from_json(document, volume)

    def load(name: str) -> Predictor:
        if model is None and name not in MODELS:
            # A session that came by mail must not say which files are opened.
            raise ArgumentError(
                f"{session} asks the model {name!r}, which does not come with a name of this program: "
                "give it by --model."
            )
        return load_predictor(name, device, precision, engine, no_cache=no_cache)

    names = [name for name in content.models if model is None] or [model or "default"]
    again = Session(volume, load(names[0]), model_name=names[0])
    others = [name for name in names if content.models.get(name) != {"weights": weights_digest(name)}]
    with progress_bar("steps") as bar:
        task = bar.add_task(session.name, total=len(content.steps))
        for _ in replaying.replay(again, content.steps, load if model is None else None):
            bar.advance(task)
    found = replaying.difference(again, content)
    made = session_path(output)
    with session_written(session_to_json(Snapshot.of(again)), made):
        write_output(output, again.labels, volume.geometry, again.objects.values(), image, series)
    if as_json:
        print_json({"output": str(output), "session": str(made), "different_voxels": found.voxels})
        return
    for name in others:
        say(f"The weights of {name} are not those that were asked then.")
    if found.voxels:
        first, last = found.slices[0], found.slices[-1]
        say(f"{found.voxels} voxels differ from the session's, on slices {first} to {last}.")
    else:
        say("Every voxel is as it was in the session.")
    say(f"Wrote {output} and {made}.")


def _beside(session: Path, name: str) -> Path:
    """Only a name counts, not a path: a session that came by mail must not open what it likes."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise ArgumentError(f"{session} does not say which image it was made on: give it by --image.")
    return session.with_name(name)
