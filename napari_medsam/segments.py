"""Labels with names: `Segment` says what a label is, `Segmentation` holds labels, grid and segments.

A label map has one label a voxel. Segments of other programs may overlap: then there are several layers, each
a label map of its own.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_medsam.terminology import Term, term_for

if TYPE_CHECKING:
    from napari_medsam.geometry import Geometry

__all__ = ["LONGEST_NAME", "Color", "Segment", "Segmentation", "SegmentationError", "default_color"]

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

_MAX_LABEL = np.iinfo(np.uint32).max
LONGEST_NAME = 256
_GOLDEN = 0.618033988749895


class SegmentationError(ValueError):
    """Segments that cannot be what they are asked to be; the message is one sentence for the user."""


def default_color(label: int) -> Color:
    """Return a colour for a label that has none: the same one every time, far from its neighbours'."""
    red, green, blue = colorsys.hsv_to_rgb((label * _GOLDEN) % 1.0, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True)
class Segment:
    """What one label is.

    Parameters
    ----------
    label : int
        Its number in its layer, from 1.
    name : str
        Never empty; line breaks and other control characters become spaces.
    color : tuple of 3 int
        Red, green, blue, 0 to 255.
    term : Term or None
        What it is in codes.
    layer : int
        Which layer of the segmentation holds it.

    Raises
    ------
    SegmentationError
        When a number is out of range or the name is empty or longer than 256 characters.
    """

    label: int
    name: str
    color: Color
    term: Term | None = None
    layer: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.label <= _MAX_LABEL:
            raise SegmentationError(f"A segment's label is {self.label}, expected 1 to {_MAX_LABEL}.")
        name = " ".join("".join(c if c.isprintable() else " " for c in self.name).split())
        if not 1 <= len(name) <= LONGEST_NAME:
            raise SegmentationError(
                f"The name of label {self.label} has {len(name)} characters, expected 1 to {LONGEST_NAME}."
            )
        if len(self.color) != 3 or not all(0 <= part <= 255 for part in self.color):
            raise SegmentationError(f"The colour of '{name}' is {self.color}, expected three of 0 to 255.")
        object.__setattr__(self, "name", name)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels, their place in the patient, and what they are.

    Parameters
    ----------
    layers : (n, z, y, x) unsigned integers
        Label maps that may overlap each other; kept without a copy, read-only.
    geometry
        The grid of each layer.
    segments : tuple of Segment
        One for every label of every layer, in the order to show them; those without a voxel are allowed.
    source
        The path it was read from, "" when it was made in memory.
    notes
        What had to be decided while reading, one sentence each.

    Raises
    ------
    SegmentationError
        When the layers do not fit the geometry, or a label has no segment or two.
    """

    layers: NDArray[np.unsignedinteger]
    geometry: Geometry
    segments: tuple[Segment, ...]
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        layers = np.asarray(self.layers)
        if layers.ndim != 4 or layers.shape[1:] != self.geometry.shape or layers.dtype.kind != "u":
            raise SegmentationError(
                f"The layers are {layers.dtype} of shape {layers.shape}, expected unsigned integers of (n, "
                f"*{self.geometry.shape})."
            )
        keys = [(segment.layer, segment.label) for segment in self.segments]
        if len(set(keys)) < len(keys) or not all(0 <= layer < len(layers) for layer, _ in keys):
            raise SegmentationError("Every segment needs a label of its own in a layer that exists.")
        for index, layer in enumerate(layers):
            nameless = _labels_in(layer) - {label for at, label in keys if at == index}
            if nameless:
                raise SegmentationError(f"Labels {sorted(nameless)[:9]} of layer {index} have no segment.")
        view = layers.view()
        view.flags.writeable = False
        object.__setattr__(self, "layers", view)
        object.__setattr__(self, "segments", tuple(self.segments))
        object.__setattr__(self, "notes", tuple(self.notes))

    @classmethod
    def from_labels(
        cls,
        labels: ArrayLike,
        geometry: Geometry,
        *,
        names: Mapping[int, str] | None = None,
        colors: Mapping[int, Color] | None = None,
        terms: Mapping[int, Term] | None = None,
        source: str = "",
        notes: tuple[str, ...] = (),
    ) -> Segmentation:
        """Name the labels of a label map.

        Parameters
        ----------
        labels : (z, y, x) integers
            From 0 up.
        geometry
            Their grid.
        names, colors, terms
            What is known of each label. One without a name is called "label 3", one without a colour gets
            `default_color`, one without a term the one its name stands for in the built-in table. A name for
            a label that has no voxel makes a segment all the same.
        source, notes
            As for `Segmentation`.
        """
        array = np.asarray(labels)
        if array.dtype.kind not in "bui" or (array.size and (array.min() < 0 or array.max() > _MAX_LABEL)):
            raise SegmentationError(
                f"Labels must be whole numbers from 0 to {_MAX_LABEL}, not {array.dtype}."
            )
        largest = int(array.max()) if array.size else 0
        array = array.astype(np.min_scalar_type(largest), copy=False)
        names = {label: name for label, name in (names or {}).items() if label and name.strip()}
        segments = [
            Segment(
                label,
                name := names.get(label, f"label {label}"),
                (colors or {}).get(label, default_color(label)),
                (terms or {}).get(label) or term_for(name),
            )
            for label in sorted(_labels_in(array) | names.keys())
        ]
        return cls(array[np.newaxis], geometry, tuple(segments), source, notes)

    @classmethod
    def from_masks(
        cls,
        masks: Iterable[NDArray[np.bool_]],
        geometry: Geometry,
        describe: Callable[[int, int, int], Segment],
        *,
        source: str = "",
        notes: tuple[str, ...] = (),
    ) -> Segmentation:
        """Put masks (z, y, x) that may overlap into as few layers as it takes, each into the first it fits.

        Parameters
        ----------
        masks
            One for each segment, taken one by one.
        geometry
            Their grid.
        describe
            Makes the segment of a mask: called with its number, counted from 0, its label and its layer.
        source, notes
            As for `Segmentation`.
        """
        layers: list[NDArray[np.uint16]] = [np.zeros(geometry.shape, np.uint16)]
        segments = []
        for n, mask in enumerate(masks):
            at = next((k for k, layer in enumerate(layers) if not layer[mask].any()), len(layers))
            if at == len(layers):
                layers.append(np.zeros(geometry.shape, np.uint16))
            layers[at][mask] = n + 1
            segments.append(describe(n, n + 1, at))
        stacked = np.stack(layers).astype(np.min_scalar_type(len(segments)), copy=False)
        return cls(stacked, geometry, tuple(segments), source, notes)

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        """Voxels (z, y, x) of one segment."""
        return self.layers[segment.layer] == segment.label

    @property
    def labels(self) -> NDArray[np.unsignedinteger]:
        """The label map (z, y, x) of a segmentation that has one layer; see `flattened` for the others."""
        if len(self.layers) != 1:
            raise SegmentationError(f"There are {len(self.layers)} layers, expected one; flatten them first.")
        return self.layers[0]

    @property
    def numbers(self) -> tuple[int, ...]:
        """A number for each segment that no other has: its label if no two share one, else counted from 1."""
        labels = tuple(segment.label for segment in self.segments)
        return labels if len(set(labels)) == len(labels) else tuple(range(1, len(labels) + 1))

    def named(self, names: Mapping[int, str]) -> Segmentation:
        """Give segments other names, and the codes that these stand for; keys are `numbers`."""
        segments = [
            replace(segment, name=names[number], term=term_for(names[number])) if number in names else segment
            for segment, number in zip(self.segments, self.numbers, strict=True)
        ]
        return replace(self, segments=tuple(segments))

    def flattened(self, overlap: Literal["refuse", "first", "last"] = "refuse") -> Segmentation:
        """Put all segments into one label map.

        Parameters
        ----------
        overlap
            Who gets a voxel that several segments claim: the first or the last of them in order of
            `segments`; by default that is refused.

        Returns
        -------
        Segmentation
            One layer; labels are `numbers`.

        Raises
        ------
        SegmentationError
            When segments overlap and neither was chosen.
        """
        if len(self.layers) == 1:
            return self
        shared = int(np.count_nonzero(np.count_nonzero(self.layers, axis=0) > 1))
        if shared and overlap == "refuse":
            raise SegmentationError(
                f"Segments overlap in {shared} voxels, and a label map holds one label a voxel; choose who "
                "gets them, the first or the last segment."
            )
        flat = np.zeros(self.geometry.shape, np.min_scalar_type(max(self.numbers, default=0)))
        pairs = list(zip(self.segments, self.numbers, strict=True))
        for segment, number in pairs if overlap == "last" else reversed(pairs):
            flat[self.mask(segment)] = number
        segments = tuple(replace(segment, label=number, layer=0) for segment, number in pairs)
        return replace(self, layers=flat[np.newaxis], segments=segments)


def _labels_in(labels: NDArray) -> set[int]:
    """Return the numbers above 0 in a label map (z, y, x)."""
    if labels.dtype.itemsize > 2:
        return set(np.unique(labels).tolist()) - {0}
    # Counting slice by slice takes a sixth of the time that sorting a large volume takes.
    return {
        n for plane in labels if plane.any() for n in np.flatnonzero(np.bincount(plane.ravel())).tolist()
    } - {0}
