"""Where a session's work goes: a label map beside the image, and its names and prompts beside that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_medsam.prompts import prompts_to_json
from napari_medsam.volume import VolumeError, write_labels

if TYPE_CHECKING:
    from napari_medsam.session import Session

SUFFIX = "_seg.nii.gz"
PROMPTS_SUFFIX = ".prompts.json"
_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


def default_path(session: Session) -> Path | None:
    """Return where the label map goes unless somebody says otherwise; None for an image from no file."""
    source = session.volume.source
    if not source:
        return None
    path = Path(source)
    stem = next((path.name[: -len(e)] for e in _ENDINGS if path.name.lower().endswith(e)), path.stem)
    return path.parent / f"{stem}{SUFFIX}"


def prompts_path(path: Path) -> Path:
    """Return where names and prompts go that belong to a label map."""
    stem = next((path.name[: -len(e)] for e in _ENDINGS if path.name.lower().endswith(e)), path.stem)
    return path.parent / f"{stem}{PROMPTS_SUFFIX}"


def save_session(session: Session, path: Path) -> Path:
    """Write the label map, and names and prompts as ``napari-medsam segment --prompts`` takes them.

    Parameters
    ----------
    session
        May go on being changed: what is written is how it was when this began.
    path
        Of the label map; its ending tells the format.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    VolumeError
        When a file cannot be written; an older one is left as it was then.
    """
    geometry = session.volume.geometry
    # Written and read back, the file has to equal something that nobody paints on meanwhile.
    labels, objects = session.labels.copy(), list(session.objects.values())
    write_labels(labels, geometry, path)
    beside = prompts_path(path)
    temporary = beside.with_name(f".{beside.name}.part")
    try:
        temporary.write_text(prompts_to_json(objects, geometry), encoding="utf-8")
        temporary.replace(beside)
    except OSError as error:
        raise VolumeError(f"'{beside}' cannot be written: {error.strerror}; check disk and rights.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
