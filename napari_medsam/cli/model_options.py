"""The model that a command asks: its options on the command line, and how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from napari_medsam.predictor import SlicePredictor

PANEL = "How"

Model = Annotated[
    str,
    typer.Option(
        help="Name of a model, or a file with weights; medsam=FILE, sam=FILE, lite_medsam=FILE or "
        "sam_med2d=FILE say by which recipe it was trained.",
        rich_help_panel=PANEL,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=PANEL)]
Precision = Annotated[
    str,
    typer.Option(
        help="Of a SAM-family model's image encoder: float32, bfloat16, or auto (bfloat16 where that is "
        "faster).",
        rich_help_panel=PANEL,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs a SAM-family model's image encoder: torch, openvino, or auto (openvino where it is "
        "installed and the device is the CPU).",
        rich_help_panel=PANEL,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Neither use nor keep embeddings of slices: those of SAM-family models are kept in the user's "
        "cache folder, for the next prompt on the same image.",
        rich_help_panel=PANEL,
    ),
]
Window = Annotated[
    str,
    typer.Option(
        help="Intensities the model sees: soft_tissue, lung, mediastinum, bone, brain, liver, angiography, "
        "wide, WIDTH/LEVEL, LOWER:UPPER, percentile, or auto (soft_tissue for CT, percentile for the rest).",
        rich_help_panel=PANEL,
    ),
]


def load_predictor(
    model: str,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    *,
    no_cache: bool = False,
) -> SlicePredictor:
    """Load what `Model`, `Device`, `Precision`, `Engine` and `NoCache` say.

    Raises
    ------
    ModelError, PredictorError
        When there is no such model, or it cannot be used that way.
    """
    from napari_medsam.embedding_cache import EmbeddingCache, default_cache_folder
    from napari_medsam.models import zoo
    from napari_medsam.predictor import SlicePredictor

    cache = None if no_cache else EmbeddingCache(default_cache_folder())
    return SlicePredictor(zoo.load_model(model), device, cache, precision, engine)
