"""Files that an NRRD or MetaImage header names for its voxels: only those beside the header are read.

A header may come from a stranger. ITK opens whatever it names, and hands a name with ``%`` to C's printf,
which reads and writes memory as the name says.
"""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from napari_medsam.formats.common import DEFLATE_RATIO, printable
from napari_medsam.geometry import VolumeError

__all__ = ["held_bytes"]

_MOST_HEADER_BYTES = 2**24
_MOST_HEADER_LINES = 2**14
_MOST_FIELD_BYTES = 400
_MOST_TEXT_BYTES = 250
_MOST_FILES = 2**16
# Wider than what ITK takes for these fields: what it might open must not be passed over here.
_NRRD_FIELD = re.compile(rb"(?:^|[\r\n])\s*data ?file:(?!=)[ \t]*([^\r\n]*)", re.IGNORECASE)
_META_FIELD = re.compile(rb"ElementDataFile[^=:]*[=:]\s*([^\r\n]*)", re.IGNORECASE)
_HEADER_END = re.compile(rb"\n\r?\n")
_NRRD_RAW = re.compile(rb"[\r\n]encoding:\s*raw\s*[\r\n]", re.IGNORECASE)
_META_COMPRESSED = re.compile(rb"CompressedData\s*[=:]\s*true", re.IGNORECASE)
_META_AXES = re.compile(rb"NDims[^=:]*[=:]\s*([^\n]*)", re.IGNORECASE)
_META_TEXT = re.compile(
    rb"(?:^|\n)[^=:\n]*?(Name|Comment|ObjectType|ObjectSubType|AcquisitionDate|DistanceUnits|Orientation|Modality|"
    rb"ElementType|CompressedData|BinaryData|ByteOrderMSB|FileFormat)[^=:\n]*[=:]([^\n]*)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"([^%]*)%(0?\d?)d([^%]*?)\s+(\d{1,9})\s+(\d{1,9})(?:\s+(\d{1,9}))?(?:\s+\d)?")


def held_bytes(path: Path, nrrd: bool) -> float:
    """Bytes of voxels that a file, or the data files its header names, can hold at most.

    Parameters
    ----------
    path
        An NRRD or MetaImage file.
    nrrd
        Whether it is NRRD.

    Raises
    ------
    VolumeError
        When the header names files outside its own folder, or files that are not there.
    """
    with path.open("rb") as stream:
        head = stream.read(_MOST_HEADER_BYTES)
    named = list((_NRRD_FIELD if nrrd else _META_FIELD).finditer(head))
    end = _HEADER_END.search(head)
    if len(head) == _MOST_HEADER_BYTES and not (end if nrrd else named):
        raise VolumeError(f"its header does not end within {_MOST_HEADER_BYTES >> 20} MB, expected that.")
    if nrrd:
        _check_nrrd(head[: end.start() if end else None])
    else:
        _check_meta(head[: named[-1].end() if named else None])
    files = {file for field in named for file in _files(path.parent, field[1], head[field.end() :])}
    plain = _NRRD_RAW.search(head) if nrrd else not _META_COMPRESSED.search(head)
    return sum(file.stat().st_size for file in files or {path}) * (1 if plain else DEFLATE_RATIO)


def _check_meta(header: bytes) -> None:
    """Refuse what ITK's parser of MetaImage headers cannot cope with."""
    for found in _META_AXES.finditer(header):
        if not re.fullmatch(rb"\s*0?\d\s*", found[1]):
            # Below 0, and above 10, it fills memory that is not its own.
            text = printable(found[1].decode("latin-1"), 40)
            raise VolumeError(f"its header's NDims is '{text}', expected 2 to 4.")
    for found in _META_TEXT.finditer(header):
        size = len(found[2])
        if size > _MOST_TEXT_BYTES:
            # It is copied to a place of 255 bytes.
            raise VolumeError(
                f"its header's {found[1].decode()} has {size} bytes, expected at most {_MOST_TEXT_BYTES}."
            )


def _check_nrrd(header: bytes) -> None:
    """Refuse what ITK's parser of NRRD headers cannot cope with."""
    lines = re.split(rb"\r\n?|\n", header)
    if len(lines) > _MOST_HEADER_LINES:
        # Each is compared with all before it: a million take hours.
        raise VolumeError(f"its header has {len(lines)} lines, expected at most {_MOST_HEADER_LINES}.")
    for line in lines:
        # Errors quote a field in a buffer of 1025 bytes, which is not looked after: a longer one overflows.
        is_field = not line.startswith(b"#") and not re.match(rb"(?:(?!: ).)*:=", line, re.DOTALL)
        if is_field and len(line) > _MOST_FIELD_BYTES:
            raise VolumeError(
                f"its header has a field of {len(line)} bytes, expected at most {_MOST_FIELD_BYTES}: "
                f"'{printable(line[:40].decode('latin-1'))}...'."
            )


def _files(folder: Path, value: bytes, rest: bytes) -> list[Path]:
    """The files that a field's value stands for; `rest` of the header lists them after LIST."""
    text = value.decode("utf-8", "surrogateescape").strip()
    if text.upper() in ("LOCAL", ""):
        return []
    if text.startswith("LIST"):
        lines = rest.decode("utf-8", "surrogateescape").split("\n", _MOST_FILES)
        names = [line.strip() for line in lines if line.strip()]
    elif "%" in text:
        names = _numbered(text)
    else:
        names = [text]
    return [_beside(folder, name) for name in names]


def _numbered(text: str) -> list[str]:
    found = _NUMBERED.fullmatch(text)
    first, last, step = (int(found[n] or 1) for n in (4, 5, 6)) if found else (0, 0, 0)
    if found is None or not step or last - first >= _MOST_FILES * step:
        raise VolumeError(
            f"its header names its data files '{printable(text)}', expected a name with one number such as "
            "'slice%03d.raw 1 20 1'."
        )
    return [f"{found[1]}{n:{found[2]}d}{found[3]}" for n in range(first, last + 1, step)]


def _beside(folder: Path, name: str) -> Path:
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.anchor or ".." in path.parts or not name.isprintable() or "%" in name:
            raise VolumeError(
                f"its header names the data file '{printable(name)}', expected a name of a file in the same "
                "folder; move it there and name it so."
            )
    if not (folder / name).is_file():
        raise VolumeError(f"its data file '{printable(name)}' is missing, expected it in the same folder.")
    return folder / name
