"""What a step of work has changed: voxels of the label map, and facts about objects and slices."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_medsam.geometry import occupied_region

if TYPE_CHECKING:
    from napari_medsam.prompts import ObjectPrompts, SliceIndex
    from napari_medsam.propagation import SliceReport

OBJECT, KEY, REPORT = "object", "key", "report"
"""Kinds of facts: an object and its prompts, why a slice is a key slice, what is known of a mask."""


class Do(str, Enum):
    """What somebody can do."""

    PROMPT = "prompts"
    READING = "reading"
    CARRY = "carry"
    RECOMPUTE = "recompute"
    CORRECT = "correct"
    PROPOSE = "propose"
    PAINT = "paint"
    ADOPT = "adopt"
    MARK = "mark"
    RENAME = "rename"
    REMOVE = "remove"
    ADD = "add"
    CHANGE = "change"

    @property
    def is_computed(self) -> bool:
        """Whether the masks of it can be computed again; of all else, the voxels are kept as they are."""
        return self in _COMPUTED


_COMPUTED = (Do.PROMPT, Do.READING, Do.CARRY, Do.RECOMPUTE, Do.CORRECT, Do.PROPOSE)
_FACT_BYTES = 300
_LEVEL = 1
_TYPE = np.dtype("<u2")


class JournalError(ValueError):
    """A journal or a session file is damaged, or belongs to something else."""


@dataclass(frozen=True)
class VoxelChange:
    """Labels of a part of the volume, before and after; as small as it can be, and compressed.

    Attributes
    ----------
    start, shape : tuple of 3 ints
        First voxel (z, y, x) and extent of the part.
    before, after : bytes
        Labels, uint16 with the low byte first, z slowest, compressed by zlib.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    before: bytes
    after: bytes

    @classmethod
    def between(
        cls, before: NDArray[np.uint16], after: NDArray[np.uint16], start: tuple[int, int, int] = (0, 0, 0)
    ) -> VoxelChange | None:
        """Compare two states of a part that begins at `start`, both (z, y, x); None when they are equal."""
        region = occupied_region(before != after)
        if region is None:
            return None
        part = before[region]
        z, y, x = (first + each.start for first, each in zip(start, region, strict=True))
        return cls((z, y, x), part.shape, _packed(part), _packed(after[region]))

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """Where it is in the volume."""
        z, y, x = (slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))
        return z, y, x

    def put(self, labels: NDArray[np.uint16], *, forward: bool) -> None:
        """Change the voxels again, or back; those that were the same before and after stay as they are.

        Raises
        ------
        JournalError
            When the part lies outside of the volume or its labels are damaged.
        """
        ends = [a + n for a, n in zip(self.start, self.shape, strict=True)]
        if min(self.start) < 0 or min(self.shape) < 1 or any(np.greater(ends, labels.shape)):
            raise JournalError(
                f"A change of {self.shape} voxels at {self.start} does not fit into a volume of "
                f"{labels.shape}."
            )
        before, after = self._unpacked(self.before), self._unpacked(self.after)
        changed = before != after
        labels[self.region][changed] = (after if forward else before)[changed]

    def labels_after(self) -> NDArray[np.uint16]:
        """Return the labels after the change, of this part's shape; JournalError when they are damaged."""
        return self._unpacked(self.after)

    @property
    def n_bytes(self) -> int:
        """What it takes to keep."""
        return len(self.before) + len(self.after) + _FACT_BYTES

    def _unpacked(self, packed: bytes) -> NDArray[np.uint16]:
        expected = int(np.prod(self.shape, dtype=object)) * _TYPE.itemsize
        try:
            # No more than what is expected: a few bytes may pretend to be gigabytes.
            content = zlib.decompressobj().decompress(packed, expected + 1)
        except zlib.error:
            content = b""
        if len(content) != expected:
            raise JournalError("Labels that were kept of a change are damaged.")
        return np.frombuffer(content, _TYPE).reshape(self.shape)


@dataclass(frozen=True)
class FactChange:
    """One fact about an object, before and after.

    Attributes
    ----------
    kind
        `OBJECT`, `KEY` or `REPORT`.
    label
        The object.
    where
        The slice; None for `OBJECT`.
    before, after
        An `ObjectPrompts`, the name of a reason, or a `SliceReport`; None where there is none.
    """

    kind: str
    label: int
    where: SliceIndex | None
    before: ObjectPrompts | SliceReport | str | None
    after: ObjectPrompts | SliceReport | str | None

    n_bytes = _FACT_BYTES


@dataclass(frozen=True)
class PartWritten:
    """Masks that were computed have been written; what that changed stands before it.

    Attributes
    ----------
    count
        How many, 1 or more.
    """

    count: int = 1

    n_bytes = 8


Change = VoxelChange | FactChange | PartWritten


@dataclass(frozen=True, eq=False)
class Action:
    """What somebody did.

    Attributes
    ----------
    kind
        What was done.
    run
        Number; what is written bit by bit in one run is one step.
    label
        The object.
    where
        The slice; None where it is about no slice, or several.
    details
        What else it takes to do it again, as JSON values.
    """

    kind: Do
    run: int
    label: int = 0
    where: SliceIndex | None = None
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(eq=False)
class Step:
    """An action and what it has changed, in order."""

    action: Action
    changes: list[Change] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """What it takes to keep."""
        return sum(change.n_bytes for change in self.changes)

    @property
    def lasting(self) -> list[Change]:
        """What it takes to do the step again: not what computing it again brings by itself."""
        return [change for change in self.changes if self._is_lasting(change)]

    def _is_lasting(self, change: Change) -> bool:
        is_computed = self.action.kind.is_computed
        if isinstance(change, FactChange):
            return change.kind != REPORT or change.after is None or not is_computed
        return isinstance(change, PartWritten) == is_computed

    @property
    def voxels(self) -> list[VoxelChange]:
        """Changes of the label map."""
        return [change for change in self.changes if isinstance(change, VoxelChange)]


def _packed(part: NDArray[np.uint16]) -> bytes:
    return zlib.compress(np.ascontiguousarray(part, _TYPE).tobytes(), _LEVEL)
