"""From what is typed after ``--box``, ``--point``, ``--label``, ``--axis`` and ``--range`` to prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from napari_medsam.prompts import (
    BACKGROUND,
    FOREGROUND,
    LARGEST_LABEL,
    ObjectPrompts,
    SliceIndex,
    SlicePrompts,
)

if TYPE_CHECKING:
    from napari_medsam.volume import Geometry

PLANES = ("axial", "coronal", "sagittal")

LabelNames = Annotated[
    list[str] | None,
    typer.Option(metavar="NUMBER=NAME", help="Name of a label, such as 1=liver. Repeatable."),
]
"""The option ``--label``; `parse_names` reads it."""

_BOX_FORM = "[LABEL@]Z,Y0,X0,Y1,X1"
_POINT_FORM = "[LABEL@]Z,Y,X[,+|-]"


class ArgumentError(ValueError):
    """A command line value that does not fit its form or the image."""


@dataclass(frozen=True)
class TypedPrompt:
    """One ``--box`` or ``--point`` as it was typed.

    Attributes
    ----------
    text : str
        The option with its value, for messages.
    owner : str or None
        What stands before the @: the number or the name of a label.
    index : int
        Slice number, counted along the chosen axis.
    numbers : tuple of float
        (y0, x0, y1, x1) of a box or (y, x) of a point.
    positive : bool
        Whether a point is inside the object.
    """

    text: str
    owner: str | None
    index: int
    numbers: tuple[float, ...]
    positive: bool = True

    @property
    def is_box(self) -> bool:
        """Whether this came from ``--box``."""
        return len(self.numbers) == 4


def parse_box(text: str, *, single_slice: bool = False) -> TypedPrompt:
    """Read ``[LABEL@]Z,Y0,X0,Y1,X1``; where there is a `single_slice`, Z may be left out.

    Raises
    ------
    ArgumentError
        When the text is anything else.
    """
    owner, numbers = _split(text, "--box", _BOX_FORM)
    if single_slice and len(numbers) == 4:
        numbers = [0.0, *numbers]
    if len(numbers) != 5:
        raise ArgumentError(_misread("--box", text, _BOX_FORM))
    return TypedPrompt(f"--box {text}", owner, _slice_number(numbers[0], text), tuple(numbers[1:]))


def parse_point(text: str, *, single_slice: bool = False) -> TypedPrompt:
    """Read ``[LABEL@]Z,Y,X`` with ``,+`` (in the object, the default) or ``,-`` (outside it) behind.

    Where there is a `single_slice`, Z may be left out.

    Raises
    ------
    ArgumentError
        When the text is anything else.
    """
    place, comma, sign = text.rpartition(",")
    if not comma or sign.strip() not in ("+", "-"):
        place, sign = text, "+"
    owner, numbers = _split(place, "--point", _POINT_FORM)
    if single_slice and len(numbers) == 2:
        numbers = [0.0, *numbers]
    if len(numbers) != 3:
        raise ArgumentError(_misread("--point", text, _POINT_FORM))
    index = _slice_number(numbers[0], text)
    return TypedPrompt(f"--point {text}", owner, index, tuple(numbers[1:]), positive=sign.strip() == "+")


def parse_names(texts: Sequence[str]) -> dict[int, str]:
    """Read every ``NUMBER=NAME``.

    Raises
    ------
    ArgumentError
        When a text is anything else, or a number or a name comes twice.
    """
    names: dict[int, str] = {}
    for text in texts:
        number, equals, name = text.partition("=")
        name = name.strip()
        if not equals or not name or not number.strip().isdecimal():
            raise ArgumentError(
                f"--label {text} was not understood: give NUMBER=NAME, for example --label 1=liver."
            )
        label = _checked_label(int(number), f"--label {text}")
        if label in names or name in names.values():
            raise ArgumentError(f"--label {text} names a label twice: give every number and every name once.")
        names[label] = name
    return names


def parse_axis(text: str, geometry: Geometry) -> int:
    """Array axis (0 to 2) that is meant by its number or by an anatomical plane.

    Raises
    ------
    ArgumentError
        When it is neither.
    """
    word = text.strip().lower()
    if word in ("0", "1", "2"):
        return int(word)
    if word in PLANES:
        return geometry.anatomical_axis(word)
    raise ArgumentError(f"--axis {text} was not understood: give 0, 1, 2, axial, coronal or sagittal.")


def parse_range(text: str | None, count: int) -> tuple[int, int]:
    """First and last slice, both inclusive, of ``A:B``, ``A:`` or ``:B`` along an axis of `count` slices.

    Raises
    ------
    ArgumentError
        When the text is anything else or leaves the image.
    """
    if text is None:
        return 0, count - 1
    start, colon, stop = text.partition(":")
    parts = [part.strip() for part in (start, stop)]
    if not colon or any(part and not part.isdecimal() for part in parts):
        raise ArgumentError(f"--range {text} was not understood: give FIRST:LAST, for example --range 10:40.")
    first, last = int(parts[0] or 0), int(parts[1] or count - 1)
    if not 0 <= first <= last < count:
        raise ArgumentError(
            f"--range {text} does not fit: the slices along this axis are 0 to {count - 1}; "
            "give FIRST:LAST within them, the smaller number first."
        )
    return first, last


def build_objects(
    boxes: Sequence[str], points: Sequence[str], labels: Sequence[str], axis: int, geometry: Geometry
) -> list[ObjectPrompts]:
    """Sort the typed boxes and points into objects, one for every label.

    Either every box says its label (``2@...`` or ``liver@...``) or none does, and then the k-th box is for
    label k. A point without a label goes to the only label there is. A name that no ``--label`` declares
    takes the smallest free number.

    Parameters
    ----------
    boxes, points, labels : sequence of str
        The values of ``--box``, ``--point`` and ``--label``, in the order typed.
    axis : int
        Array axis the first number of boxes and points counts along.
    geometry : Geometry
        Grid of the image.

    Returns
    -------
    list of ObjectPrompts
        In ascending order of label; at least one.

    Raises
    ------
    ArgumentError, PromptError
        When a value cannot be read, leaves the image, or it is not clear which label it is for.
    """
    names = parse_names(labels)
    flat = geometry.shape[axis] == 1
    typed_boxes = [_on_the_image(parse_box(text, single_slice=flat), axis, geometry) for text in boxes]
    typed_points = [_on_the_image(parse_point(text, single_slice=flat), axis, geometry) for text in points]
    if not typed_boxes and not typed_points:
        raise ArgumentError("Nothing to segment: give at least one --box, --point or --prompts FILE.")

    slices: dict[int, dict[SliceIndex, SlicePrompts]] = {}
    for typed, label in _owners(typed_boxes, typed_points, names):
        where = SliceIndex(axis, typed.index)
        so_far = slices.setdefault(label, {}).get(where, SlicePrompts())
        if typed.is_box and so_far.box is not None:
            raise ArgumentError(
                f"{typed.text} is the second box for label {label} on slice {typed.index}: "
                "give one box an object and slice, and other objects a label of their own."
            )
        slices[label][where] = _extended(so_far, typed)

    unused = [f"{label}={name}" for label, name in names.items() if label not in slices]
    if unused:
        raise ArgumentError(f"--label {unused[0]} has no --box and no --point: give it one, or leave it out.")
    return [ObjectPrompts(label, names.get(label, ""), slices[label]) for label in sorted(slices)]


def _extended(prompts: SlicePrompts, typed: TypedPrompt) -> SlicePrompts:
    if typed.is_box:
        y0, x0, y1, x1 = typed.numbers
        return prompts.with_box((y0, x0, y1, x1))
    y, x = typed.numbers
    return prompts.with_point((y, x), FOREGROUND if typed.positive else BACKGROUND)


def _owners(
    boxes: Sequence[TypedPrompt], points: Sequence[TypedPrompt], names: dict[int, str]
) -> list[tuple[TypedPrompt, int]]:
    """Pair every prompt with its label, adding names that were not declared to `names`."""
    said = [box for box in boxes if box.owner is not None]
    if said and len(said) < len(boxes):
        silent = next(box for box in boxes if box.owner is None)
        raise ArgumentError(
            f"{silent.text} does not say its label while {said[0].text} does: write LABEL@ in all."
        )
    taken = set(names)
    taken.update(int(typed.owner) for typed in (*boxes, *points) if typed.owner and typed.owner.isdecimal())

    pairs = []
    for number, box in enumerate(boxes, start=1):
        pairs.append((box, number if box.owner is None else _label_of(box, box.owner, names, taken)))
    for point in points:
        if point.owner is not None:
            pairs.append((point, _label_of(point, point.owner, names, taken)))
            continue
        known = {label for _, label in pairs} | set(names) or {1}
        if len(known) > 1:
            raise ArgumentError(
                f"{point.text} could be for any of the labels {sorted(known)}: write which one, LABEL@Z,Y,X."
            )
        pairs.append((point, known.pop()))
    return pairs


def _label_of(typed: TypedPrompt, owner: str, names: dict[int, str], taken: set[int]) -> int:
    if owner.isdecimal():
        return _checked_label(int(owner), typed.text)
    for label, name in names.items():
        if name == owner:
            return label
    label = next(number for number in range(1, LARGEST_LABEL + 1) if number not in taken)
    names[label] = owner
    taken.add(label)
    return label


def _on_the_image(typed: TypedPrompt, axis: int, geometry: Geometry) -> TypedPrompt:
    """Check a prompt against the image, so that a mix-up of axes is told before minutes of work."""
    SliceIndex(axis, typed.index).checked(geometry.shape)
    first, second = (k for k in range(3) if k != axis)
    slice_shape = geometry.shape[first], geometry.shape[second]
    if _extended(SlicePrompts(), typed).clipped(slice_shape).is_empty:
        raise ArgumentError(
            f"{typed.text} lies outside the slice, which has {slice_shape[0]} x {slice_shape[1]} pixels "
            f"along array axes {first} and {second}; give voxel numbers in array order, or another --axis."
        )
    return typed


def _split(text: str, option: str, form: str) -> tuple[str | None, list[float]]:
    """Label (or None) and numbers of ``[LABEL@]number,number,...``."""
    owner, at, place = text.rpartition("@")
    try:
        numbers = [float(part) for part in place.split(",")]
    except ValueError:
        raise ArgumentError(_misread(option, text, form)) from None
    if (at and not owner.strip()) or not all(map(math.isfinite, numbers)):
        raise ArgumentError(_misread(option, text, form))
    return (owner.strip() if at else None), numbers


def _misread(option: str, text: str, form: str) -> str:
    example = "40,120,80,210,170" if option == "--box" else "40,165,125,+"
    return f"{option} {text} was not understood: give {form} in voxels, for example {option} {example}."


def _slice_number(value: float, text: str) -> int:
    if value != int(value):
        raise ArgumentError(
            f"{text} starts with {value:g}: the first number is a slice, give a whole number."
        )
    return int(value)


def _checked_label(label: int, text: str) -> int:
    if not 1 <= label <= LARGEST_LABEL:
        raise ArgumentError(f"{text} uses label {label}: labels are whole numbers from 1 to {LARGEST_LABEL}.")
    return label


def label_text(label: int, names: Mapping[int, str]) -> str:
    """Name of a label for a person: its name, or its number where it has none."""
    return names.get(label) or f"label {label}"
