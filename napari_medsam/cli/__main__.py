"""``python -m napari_medsam.cli``: the command where its script is not on the path."""

from napari_medsam.cli import app

app()
