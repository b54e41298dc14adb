"""Label layers as segmentations, there and back: names, colours and codes go with the voxels.

A layer's features name its labels, its colormap colours them, its metadata says where they lie and keeps the
codes. napari's own File > Open and File > Save, and the dock's Save, all go through here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_medsam.export import (
    OTHER_SERIES,
    GridError,
    placed_on,
    read_if_labels,
    series_files,
    series_named_in,
    write_segmentation,
)
from napari_medsam.prompts import PromptError
from napari_medsam.segments import Color, Segmentation, default_color
from napari_medsam.session_file import Snapshot, session_path, session_to_json, session_written
from napari_medsam.terminology import Term
from napari_medsam.volume import Geometry, GeometryError, Volume, VolumeError
from napari_medsam.widgets.metadata import METADATA_KEY, LayerData, layer_geometry, layer_metadata
from napari_medsam.widgets.open_sessions import session_of

DICOM, ITKSNAP = ".dcm", ".txt"
DICOM_ENDINGS = (DICOM, ".ima")
ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", *DICOM_ENDINGS, ITKSNAP)
"""How names of images and labels end; of two that fit, the longer one first."""

INDEX, NAME = "index", "name"
"""Columns of a label layer's features."""

NOT_IN_PLACE = "On screen the labels are not in place: {}"
UNKNOWN = (0.5, 0.5, 0.5, 1.0)
"""Colour of labels that nobody gave one."""


def stem(path: Path) -> str:
    """Return a file's name without its ending, of which some have two parts."""
    ending = next((each for each in ENDINGS if path.name.lower().endswith(each)), "")
    return path.name[: -len(ending)] if ending else path.stem


def names_of(features: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of labels, where a layer's features have them as they are written here.

    Those that only say the number, as formats that want a name for each label have them, are left out.
    """
    if INDEX not in features or NAME not in features:
        return {}
    rows = zip(features[INDEX], features[NAME], strict=True)
    # Other plugins keep what they like in columns of these names.
    known = {int(float(n)): name for n, name in rows if isinstance(n, Real) and float(n).is_integer()}
    return {n: name for n, name in known.items() if isinstance(name, str) and name not in ("", f"label {n}")}


def terms_of(metadata: Mapping[str, Any]) -> dict[int, Term]:
    """Return the codes of labels that a layer's metadata keeps."""
    kept = metadata.get(METADATA_KEY, {}).get("terms", {})
    found = {int(label): Term.from_codes(codes) for label, codes in kept.items()}
    return {label: term for label, term in found.items() if term is not None}


def keep_terms(metadata: dict[str, Any], terms: Mapping[int, Term | None]) -> None:
    """Let a layer's metadata keep the codes of labels, for `terms_of`; one of unknown place keeps none."""
    kept = metadata.get(METADATA_KEY)
    if kept is not None:
        kept["terms"] = {label: term.codes() for label, term in terms.items() if term is not None}


def colour_map(colours: Mapping[int, Color]) -> DirectLabelColormap:
    """Return a napari colormap with these colours (0 to 255) of labels."""
    known: dict[int | None, NDArray] = {0: np.zeros(4), None: np.array(UNKNOWN)}
    for label, colour in colours.items():
        known[label] = np.array([*colour, 255]) / 255
    return DirectLabelColormap(color_dict=known)


def colours_of(colormap: Any, labels: Sequence[int]) -> dict[int, Color]:
    """Return the colours (0 to 255) that a napari colormap gives to labels, as far as it has any."""
    found = {}
    for label in labels:
        if not isinstance(colormap, DirectLabelColormap) or label in colormap.color_dict:
            red, green, blue = (round(255 * float(part)) for part in colormap.map(label)[:3])
            found[label] = red, green, blue
    return found


def completed(colormap: Any, labels: Iterable[int]) -> tuple[Any, bool]:
    """Return a label colormap that has a colour for each label, and whether it is a new one."""
    lacking = set() if not isinstance(colormap, DirectLabelColormap) else {*labels} - {*colormap.color_dict}
    if not lacking:
        return colormap, False
    more = colour_map({label: default_color(label) for label in lacking}).color_dict
    return DirectLabelColormap(color_dict={**more, **colormap.color_dict}), True


def named_features(features: Any, names: Mapping[int, str]) -> Any:
    """Return a label layer's features (a data frame) with these names of labels, other columns kept.

    Background and labels without a name ("") get a row without one: for labels without a row napari shows
    "[No Properties]" wherever the mouse is.
    """
    if INDEX not in features:
        features = features.assign(**{INDEX: range(len(features))})
    rows = {0: None, **{label: name or None for label, name in names.items()}}
    named = type(features)({INDEX: list(rows), NAME: list(rows.values())}).astype({INDEX: int, NAME: object})
    others = features.drop(columns=NAME, errors="ignore")
    if set(others) == {INDEX}:
        return named
    return named.merge(others, on=INDEX, how="outer")


def layers_of(
    segmentation: Segmentation, name: str, metadata: Mapping[str, Any] | None = None
) -> list[LayerData]:
    """Turn a segmentation into label layers, one for each layer of segments that do not overlap.

    Parameters
    ----------
    segmentation
        Copied, for a label layer is there to be painted on.
    name
        Of the layer; with several, each gets its number.
    metadata
        Of the image on whose grid the segmentation lies; its own when None.
    """
    whole = Volume(segmentation.layers[0], segmentation.geometry, "", segmentation.source, segmentation.notes)
    kept = {**(metadata or layer_metadata(whole))[METADATA_KEY]}
    kept.pop("window", None)
    found = []
    for n, array in enumerate(segmentation.layers):
        segments = [segment for segment in segmentation.segments if segment.layer == n]
        attributes = {
            "name": name if len(segmentation.layers) == 1 else f"{name} {n + 1}",
            "scale": segmentation.geometry.spacing,
            "units": ("mm",) * 3,
            "metadata": {METADATA_KEY: dict(kept)},
            "features": {
                INDEX: [0, *(each.label for each in segments)],
                NAME: [None, *(each.name for each in segments)],
            },
            "colormap": colour_map({each.label: each.color for each in segments}),
        }
        keep_terms(attributes["metadata"], {each.label: each.term for each in segments})
        # A brush that begins a new object needs room for its number.
        found.append((array.astype(np.promote_types(array.dtype, np.uint16)), attributes, "labels"))
    return found


def read_layers(path: str) -> tuple[list[LayerData], tuple[str, ...]] | None:
    """Read a file that holds labels as label layers.

    Labels whose voxels are those of an image in the viewer are put in their place on it, on the DICOM series
    that they name before others. A structure set is filled in on the image, which has to be open.

    Returns
    -------
    tuple of layers and notes, or None
        None for a file that holds an image, or may do so.

    Raises
    ------
    VolumeError, GeometryError, SegmentationError
        When it holds labels, but cannot be read.
    """
    wanted = series_named_in(Path(path))
    images = _images()
    named = [known for known in images if known[1][METADATA_KEY].get("series") in wanted]
    grids = [geometry for geometry, _ in named or images]
    only = grids[0] if grids and not any(map(grids[0].difference, grids[1:])) else None
    found = read_if_labels(path, geometry=only)
    if found is None:
        return None
    name = stem(Path(path))
    problem = ""
    # The series that they were made on goes before others.
    for geometry, metadata in (*named, *images):
        try:
            placed = placed_on(found, geometry)
        except GridError as error:
            problem = problem or str(error)
        else:
            series = metadata[METADATA_KEY].get("series")
            doubt = [OTHER_SERIES] if wanted and series and series not in wanted else []
            return layers_of(placed, name, metadata), (*placed.notes, *doubt)
    notes = (*found.notes, NOT_IN_PLACE.format(problem)) if problem else found.notes
    return layers_of(found, name), notes


def segmentation_of(layers: Sequence[LayerData]) -> Segmentation:
    """Put label layers together into one segmentation; see `Segmentation` for what overlaps.

    Raises
    ------
    GeometryError
        When it is not known where one of them lies, or they lie on different grids.
    SegmentationError
        When one holds negative numbers.
    """
    parts = [_part(data, attributes) for data, attributes, _ in layers]
    first = parts[0]
    for part, (_, attributes, _) in zip(parts, layers, strict=True):
        if difference := first.geometry.difference(part.geometry):
            raise GeometryError(
                f"'{layers[0][1].get('name')}' and '{attributes.get('name')}' lie on different grids "
                f"({difference.rstrip('.')}); save them one by one."
            )
    segments = [replace(each, layer=n) for n, part in enumerate(parts) for each in part.segments]
    kind = np.result_type(*(part.layers.dtype for part in parts))
    stacked = np.concatenate([part.layers for part in parts]).astype(kind, copy=False)
    return Segmentation(stacked, first.geometry, tuple(segments), first.source)


def write(segmentation: Segmentation, path: Path, source: str, series: str | None) -> list[Path]:
    """Write a segmentation of an image, and where the format has no place for voxels, a label map beside it.

    Parameters
    ----------
    segmentation
        On the image's grid.
    path
        Its ending tells the format.
    source, series
        Where the image came from, "" when from no file, and which DICOM series of it.
    """
    files: Sequence[Path] = ()
    if path.suffix.lower() == DICOM:
        if not source:
            raise VolumeError(
                f"'{path}' cannot be written: a DICOM segmentation refers to DICOM images, but the image "
                "came from no file; choose another format."
            )
        files = series_files(Path(source), series)
    sources = [Path(source).name] if source else []
    written: list[Path] = []
    for target in dict.fromkeys((voxels_path(path), path)):
        written += write_segmentation(segmentation, target, series=files, sources=sources)
    return written


def check_target(path: Path, images: Iterable[str]) -> None:
    """Refuse to write labels over an image that they were drawn on.

    Parameters
    ----------
    path
        Where to write, as for `write`.
    images
        Where the images came from, "" for those from no file.

    Raises
    ------
    VolumeError
        When one of them would be replaced.
    """
    for target, image in product((path, voxels_path(path)), map(Path, filter(None, images))):
        if target.exists() and image.exists() and target.samefile(image):
            raise VolumeError(f"'{target}' is the image itself: give the labels another name.")


def voxels_path(path: Path) -> Path:
    """Return where the voxels go: beside ITK-SNAP's descriptions, which hold none, else into the file."""
    return path.with_suffix(".nii.gz") if path.suffix.lower() == ITKSNAP else path


def save_layers(ending: str, path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write label layers for napari's File > Save.

    Parameters
    ----------
    ending
        Added to a name that has none of `ENDINGS`.
    path
        Its ending tells the format.
    layers
        With their attributes, as napari hands them to a writer.

    Returns
    -------
    list of str
        The files that were written.

    Raises
    ------
    OSError
        When it is not known where the labels lie, or they cannot be written; an older file stays as it was.
    """
    asked = Path(path)
    target = asked if asked.name.lower().endswith(ENDINGS) else asked.with_name(asked.name + ending)
    unasked = [] if target == asked and asked.exists() else [target, voxels_path(target)]
    try:
        check_target(target, [known[METADATA_KEY].get("source", "") for _, known in _images()])
        if there := next((each for each in unasked if each.exists()), None):
            raise VolumeError(f"'{there}' is there already, and nobody was asked: give another name.")
        kept = layers[0][1].get("metadata", {}).get(METADATA_KEY) or _matching(layers[0])[1][METADATA_KEY]
        with _said_how(layers, target):
            written = write(segmentation_of(layers), target, kept.get("source", ""), kept.get("series"))
    except ValueError as error:
        # napari takes a writer's ValueError to mean that there is no such writer, and drops the sentence.
        raise OSError(str(error)) from None
    return [str(each) for each in written]


def label_map_of(layer: Labels, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Return a layer's labels as uint16 (z, y, x), the layer's own array where it can be.

    Raises
    ------
    PromptError
        When it has another shape than the image, or holds values that do not fit.
    """
    array = np.asarray(layer.data)
    found = array if array.ndim == 3 else array[None]
    if found.shape != shape:
        raise PromptError(
            f"'{layer.name}' has the shape {found.shape}, expected that of the image, {shape}: choose a "
            "label layer that was drawn on this image."
        )
    if found.dtype == np.uint16:
        # What a reader gave may be locked against writing.
        return found if found.flags.writeable else found.copy()
    if found.min() < 0 or found.max() > np.iinfo(np.uint16).max:
        raise PromptError(
            f"'{layer.name}' holds values from {found.min()} to {found.max()}, expected 0 to 65535: "
            "renumber its labels first."
        )
    return found.astype(np.uint16)


def _said_how(layers: Sequence[LayerData], target: Path) -> AbstractContextManager[None]:
    """Write beside the labels of a session how they were made, once they themselves are written."""
    session = session_of(layers[0][0]) if len(layers) == 1 else None
    if session is None:
        return nullcontext()
    return session_written(session_to_json(Snapshot.of(session)), session_path(target))


def _part(data: Any, attributes: Mapping[str, Any]) -> Segmentation:
    array = np.asarray(data)
    array = array if array.ndim == 3 else array[None]
    metadata = attributes.get("metadata", {})
    geometry = layer_geometry(metadata) or _matching((data, dict(attributes), "labels"))[0]
    labels = [int(label) for label in np.unique(array)]
    names = names_of(attributes.get("features", {}))
    colormap = attributes.get("colormap")
    return Segmentation.from_labels(
        array,
        geometry,
        names=names,
        colors={} if colormap is None else colours_of(colormap, [*labels, *names]),
        terms=terms_of(metadata),
        source=metadata.get(METADATA_KEY, {}).get("source", ""),
    )


def _images() -> list[tuple[Geometry, dict[str, Any]]]:
    """Grids and metadata of the images in the viewer that this plugin opened."""
    viewer = napari.current_viewer()
    images = [] if viewer is None else [layer for layer in viewer.layers if isinstance(layer, Image)]
    return [(grid, each.metadata) for each in images if (grid := layer_geometry(each.metadata)) is not None]


def _matching(layer: LayerData) -> tuple[Geometry, dict[str, Any]]:
    """Where labels lie that were drawn on an image, and were not made by this plugin.

    napari's own "new labels" button copies the scale of the images, but not their metadata.
    """
    data, attributes, _ = layer
    name, shape = attributes.get("name", "labels"), np.shape(data)
    fitting = [known for known in _images() if known[0].shape == shape]
    if not fitting:
        raise GeometryError(
            f"Labels layer {name!r} of shape {shape} lies on no image that this plugin opened, so its place "
            "in the patient is unknown; open the image it was drawn on with napari-medsam and save again."
        )
    first, *others = (geometry for geometry, _ in fitting)
    if difference := next(filter(None, map(first.difference, others)), ""):
        raise GeometryError(
            f"Labels layer {name!r} fits several images that lie in different places ({difference}); "
            "close those it was not drawn on and save again."
        )
    return fitting[0]
