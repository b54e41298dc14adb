"""A session as a file: what was prompted, computed and corrected, by which model, and what came of it.

The file is JSON, described by ``session.schema.json``, for people to read and for `napari_medsam.replay` to
do again. It names no other file that would be read: whoever opens it says which image it is for, and a digest
tells whether that is the one.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import reprlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_medsam import __version__, tasks
from napari_medsam.export import SUFFIXES
from napari_medsam.formats.common import replacing, told
from napari_medsam.geometry import VolumeError, occupied_region
from napari_medsam.journal import FactChange, JournalError, PartWritten, Step, VoxelChange
from napari_medsam.journal.json_form import (
    action_from_json,
    action_to_json,
    change_from_json,
    change_to_json,
    report_from_json,
    report_to_json,
    slice_from_json,
    slice_to_json,
)
from napari_medsam.models.places import weights_digest
from napari_medsam.prompts import LARGEST_LABEL, PromptError
from napari_medsam.prompts.json_form import geometry_from_json, geometry_to_json, object_to_json
from napari_medsam.prompts.json_text import check_version, fields, laid_out, listed, parsed
from napari_medsam.prompts.values import whole_number
from napari_medsam.volume import voxel_digest

if TYPE_CHECKING:
    from napari_medsam.geometry import Volume
    from napari_medsam.prompts import ObjectPrompts, SliceIndex
    from napari_medsam.propagation import SliceReport
    from napari_medsam.session import Session
    from napari_medsam.windowing import Window

SUFFIX = ".session.json"
SESSION_SCHEMA_VERSION = 1
_FORMAT = "napari-medsam session"
_KEYS = {"format", "version", "image", "geometry", "objects", "steps", "review", "labels"}
_OTHER_KEYS = {"key_slices", "models", "written_by", "window"}
LARGEST_FILE_BYTES = 1 << 30
_PACKAGES = ("napari", "numpy", "scikit-image", "scipy", "SimpleITK", "torch")


@dataclass(eq=False)
class SessionContent:
    """What a session file holds.

    Attributes
    ----------
    labels : numpy.ndarray of uint16
        (z, y, x).
    steps : list of Step
        All that led to them. What can be computed again has no voxels.
    reports : list of SliceReport
        What is known of slices, as long as no step says otherwise.
    image, models, window
        What the file says of the image, of the models that were asked, and of what they saw in the end.
    """

    labels: NDArray[np.uint16]
    steps: list[Step] = field(default_factory=list)
    reports: list[SliceReport] = field(default_factory=list)
    image: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    window: Window | None = None

    def take_over(self, session: Session, position: int | None = None, oldest: int | None = None) -> None:
        """Put this in place of all that a session on the same image holds.

        Parameters
        ----------
        session
            Changed in place.
        position, oldest
            How many steps are done, and as far back as one can go; all of them when None.
        """
        done, n_steps = position, len(self.steps)
        session.take_over(
            self.labels,
            self.steps,
            n_steps if done is None else done,
            n_steps if oldest is None else oldest,
            self.reports,
        )
        windows = [tasks.window_of(step.action) for step in self.steps[:done]]
        session.window = next((each for each in [*reversed(windows), self.window] if each), session.window)


def session_path(labels: Path) -> Path:
    """Return where the session goes that made a label map."""
    name = labels.name
    ending = next((each for each in SUFFIXES if name.lower().endswith(each)), labels.suffix)
    return labels.with_name(f"{name[: len(name) - len(ending)]}{SUFFIX}")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A session as it is at one moment, to be written while it goes on.

    Attributes
    ----------
    volume, objects, key_slices, window, model_name
        As of the session; what may change is copied.
    region, part
        Where in the label map anything is, and a copy of that.
    reports : tuple of SliceReport
        By label and slice.
    steps : tuple of Step
        All that are done.
    device
        Where the model computes, "" while nobody knows.
    """

    volume: Volume
    region: tuple[slice, ...]
    part: NDArray[np.uint16]
    objects: tuple[ObjectPrompts, ...]
    key_slices: Mapping[int, Mapping[SliceIndex, str]]
    reports: tuple[SliceReport, ...]
    steps: tuple[Step, ...]
    window: Window
    model_name: str
    device: str

    @classmethod
    def of(cls, session: Session) -> Snapshot:
        """Take one; in the thread that changes the session."""
        ledger, journal = session.ledger, session.journal
        reports = [each for known in ledger.reports.values() for each in known.values()]
        # To copy all of a large label map would hold up the window for half a second.
        region = occupied_region(session.labels) or (slice(0),) * 3
        return cls(
            session.volume,
            region,
            session.labels[region].copy(),
            tuple(session.objects.values()),
            {label: dict(marks) for label, marks in sorted(ledger.key_slices.items())},
            tuple(sorted(reports, key=lambda each: (each.label, each.where))),
            tuple(Step(step.action, list(step.changes)) for step in journal.steps[: journal.position]),
            session.window,
            session.model_name,
            str(getattr(session.predictor, "device", "")),
        )

    @cached_property
    def labels(self) -> NDArray[np.uint16]:
        """The label map, (z, y, x)."""
        labels = np.zeros(self.volume.geometry.shape, np.uint16)
        labels[self.region] = self.part
        return labels


def session_to_json(state: Snapshot) -> dict[str, Any]:
    """Say a session as JSON values."""
    volume = state.volume
    return {
        "format": _FORMAT,
        "version": SESSION_SCHEMA_VERSION,
        "written_by": _versions() | {"device": state.device},
        "image": {
            "name": Path(volume.source).name,
            "modality": volume.modality,
            "voxels": voxel_digest(volume),
        },
        "geometry": geometry_to_json(volume.geometry),
        "window": [float(state.window.lower), float(state.window.upper), state.window.name],
        "models": _models(state),
        "objects": [object_to_json(thing) for thing in state.objects],
        "key_slices": [
            {"label": label, "slice": slice_to_json(where), "kind": marks[where]}
            for label, marks in state.key_slices.items()
            for where in sorted(marks)
        ],
        "steps": [_step_to_json(step) for step in state.steps],
        "review": [
            {"label": each.label, "slice": slice_to_json(each.where), **report_to_json(each)}
            for each in state.reports
        ],
        "labels": _labels_to_json(state.labels),
    }


def write_session(document: Mapping[str, Any], path: Path) -> Path:
    """Write what `session_to_json` says, complete or not at all.

    Raises
    ------
    VolumeError
        When it cannot be written; an older file stays as it was.
    """
    with session_written(document, path):
        return path


@contextmanager
def session_written(document: Mapping[str, Any], path: Path) -> Iterator[None]:
    """Write a session as `write_session` does; it takes its place once what is done within has gone well."""
    with told(path, "written"), replacing(path, ".json") as temporary:
        temporary.write_text(laid_out(dict(document), 0) + "\n", encoding="utf-8")
        yield


def read_document(path: Path) -> dict[str, Any]:
    """Read a session file, for `content_from_json`.

    Raises
    ------
    VolumeError
        When the file cannot be read.
    JournalError
        When it is no session file.
    """
    with told(path, "read"):
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise VolumeError(f"it is larger than {LARGEST_FILE_BYTES >> 20} MB, expected a session file.")
        text = path.read_bytes()
    return document_from_text(text)


def document_from_text(text: str | bytes) -> dict[str, Any]:
    """Read a session file's text; JournalError when it is none."""
    with _told():
        document = parsed(text, "A session file")
        if document.get("format") != _FORMAT:
            raise PromptError(
                f'This is not a session file: it must be a JSON object with "format": "{_FORMAT}".'
            )
        check_version(document, SESSION_SCHEMA_VERSION, "session file")
        fields(document, "The session", _KEYS, _OTHER_KEYS)
        fields(document["image"], "image", {"voxels"}, {"name", "modality"})
        return document


def content_from_json(document: Mapping[str, Any], volume: Volume) -> SessionContent:
    """Read the values of a session file for the image that it was made on; JournalError when it is not."""
    with _told():
        image = document["image"]
        difference = volume.geometry.difference(geometry_from_json(document["geometry"]))
        if difference:
            raise PromptError(f"This session was made on another grid than this image's: {difference}")
        if image["voxels"] != voxel_digest(volume):
            raise PromptError(
                "This session was made on an image with other voxels: open the one that it belongs to"
                + (f", {reprlib.repr(image['name'])}." if image.get("name") else ".")
            )
        content = SessionContent(
            _labels_from_json(document["labels"], volume.geometry.shape),
            [_step_from_json(value, n) for n, value in enumerate(listed(document["steps"], "steps"))],
            [_report(value, n) for n, value in enumerate(listed(document["review"], "review"))],
            image,
            _models_from_json(document.get("models", {})),
            tasks.window_from_json(document.get("window"), "window"),
        )
        _check_objects(content, document["objects"], volume.geometry.shape)
        return content


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except PromptError as error:
        raise JournalError(str(error)) from None


def _versions() -> dict[str, str]:
    found = {"napari-medsam": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _models(state: Snapshot) -> dict[str, Any]:
    """Which models were asked, and the digests of their weights."""
    names = {str(step.action.details["model"]) for step in state.steps if "model" in step.action.details}
    # Steps do not say where a file of the user's own lies, the session does.
    known = {tasks.shown_name(state.model_name): state.model_name}
    return {name: {"weights": weights_digest(known.get(name, name))} for name in sorted(names)}


def _models_from_json(value: Any) -> dict[str, Any]:
    known = value if isinstance(value, dict) else {"": value}
    for name, entry in known.items():
        fields(entry, f"models.{reprlib.repr(name)}", {"weights"}, set())
    return known


def _step_to_json(step: Step) -> dict[str, Any]:
    """Say a step; of what can be computed again, how many masks were written instead of their voxels."""
    said: list[dict[str, Any]] = []
    for change in step.lasting:
        if isinstance(change, PartWritten) and said and "written" in said[-1]:
            said[-1]["written"] += change.count
        elif isinstance(change, FactChange):
            said.append({key: part for key, part in change_to_json(change).items() if key != "before"})
        else:
            said.append(change_to_json(change))
    return {**action_to_json(step.action), "changes": said}


def _step_from_json(value: Any, n: int) -> Step:
    name = f"steps[{n}]"
    if not isinstance(value, dict):
        raise PromptError(f"{name} must be a JSON object, not {reprlib.repr(value)}.")
    action = action_from_json({key: part for key, part in value.items() if key != "changes"}, name)
    changes = listed(value.get("changes"), f"{name}.changes")
    return Step(action, [change_from_json(each, f"{name}.changes[{k}]") for k, each in enumerate(changes)])


def _report(value: Any, n: int) -> SliceReport:
    name = f"review[{n}]"
    entry = fields(value, name, {"label", "slice", "score", "reason"}, {"stopped", "doubt", "second_opinion"})
    label = whole_number(entry["label"], f"{name}.label", 1, LARGEST_LABEL)
    where = slice_from_json(entry["slice"], f"{name}.slice")
    rest = {key: part for key, part in entry.items() if key not in ("label", "slice")}
    return report_from_json(rest, name, label, where)


def _labels_to_json(labels: NDArray[np.uint16]) -> dict[str, Any]:
    digest, packer, packed = hashlib.sha256(), zlib.compressobj(1), bytearray()
    counts: Counter[int] = Counter()
    # Slice by slice: what a large label map takes is not there a second time.
    for plane in labels:
        content = np.ascontiguousarray(plane, "<u2").tobytes()
        digest.update(content)
        packed += packer.compress(content)
        if plane.any():
            found = np.bincount(plane.ravel())
            counts.update({int(label): int(found[label]) for label in np.flatnonzero(found) if label})
    packed += packer.flush()
    return {
        "sha256": digest.hexdigest(),
        "voxels": {str(label): counts[label] for label in sorted(counts)},
        "zlib": base64.b64encode(packed).decode("ascii"),
    }


def _labels_from_json(value: Any, shape: tuple[int, int, int]) -> NDArray[np.uint16]:
    entry = fields(value, "labels", {"sha256", "zlib"}, {"voxels"})
    whole = VoxelChange((0, 0, 0), shape, b"", _packed(entry["zlib"]))
    labels = whole.labels_after()
    if hashlib.sha256(labels.data).hexdigest() != entry["sha256"]:
        raise JournalError("The labels in this session file are damaged.")
    return labels.astype(np.uint16)


def _packed(value: Any) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except ValueError:
        raise JournalError("The labels in this session file are damaged.") from None


def _check_objects(content: SessionContent, listed_objects: Any, shape: tuple[int, int, int]) -> None:
    """What the file lists for people has to be what its steps lead to."""
    found: dict[int, Any] = {}
    for change in _facts(content.steps):
        if change.where is not None:
            change.where.checked(shape)
        elif change.after is None:
            found.pop(change.label, None)
        else:
            found[change.label] = object_to_json(change.after)  # type: ignore[arg-type]
    given = {each.get("label"): each for each in listed(listed_objects, "objects") if isinstance(each, dict)}
    if given != found:
        raise JournalError("The objects in this session file are not those that its steps lead to.")


def _facts(steps: Iterable[Step]) -> Iterable[FactChange]:
    return (change for step in steps for change in step.changes if isinstance(change, FactChange))
