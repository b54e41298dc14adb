"""What a napari layer remembers of the volume it shows: where that lies, and where it came from."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from numpy.typing import NDArray

from napari_medsam.volume import Geometry, GeometryError, Volume

LayerData = tuple[NDArray, dict[str, Any], str]
"""Voxels, constructor arguments and type of one layer, as napari's plugins exchange them."""

METADATA_KEY = "napari_medsam"
"""Where a layer's metadata keeps what this plugin knows of it."""


def layer_metadata(volume: Volume, series: str | None = None) -> dict[str, Any]:
    """What a layer has to remember of the volume it shows.

    Parameters
    ----------
    volume : Volume
        The volume that the layer shows.
    series : str, optional
        UID of the DICOM series, for a volume from a folder of several.

    Returns
    -------
    dict
        For ``layer.metadata``; plain values under `METADATA_KEY`: ``shape`` (z, y, x), ``spacing`` in mm
        (z, y, x), ``origin`` in mm (LPS, ITK order), ``direction`` (9 cosines, ITK row-major), ``modality``,
        ``source``, ``series``, ``notes``.
    """
    remembered = {**asdict(volume.geometry), "modality": volume.modality, "source": volume.source}
    return {METADATA_KEY: {**remembered, "series": series, "notes": list(volume.notes)}}


def layer_geometry(metadata: dict[str, Any]) -> Geometry | None:
    """Where the voxels of a layer lie in the patient.

    Parameters
    ----------
    metadata : dict
        ``layer.metadata`` of any layer.

    Returns
    -------
    Geometry or None
        None when the layer did not come from this plugin.

    Raises
    ------
    GeometryError
        When the metadata is there, but not complete or not valid.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        return Geometry(**{field.name: metadata[METADATA_KEY][field.name] for field in fields(Geometry)})
    except (KeyError, TypeError) as error:
        raise GeometryError(
            f"The layer's metadata[{METADATA_KEY!r}] needs shape, spacing, origin and direction, but lacks "
            f"{error}; open the image again."
        ) from error
