"""The few DICOM attributes that say what a file shows and where its slices lie, read without GDCM.

There is a parser of our own, after DICOM PS3.5 (https://dicom.nema.org/medical/dicom/current/output/html/part05.html),
for two reasons: a folder of a thousand slices is understood without decoding one, and every length in a file
is compared with what the file holds before GDCM sees it, which allocates up to 4 GB for a single damaged
length.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from math import isfinite
from pathlib import Path

from napari_medsam.formats.common import DEFLATE_RATIO, FileState, check_size, file_state, printable
from napari_medsam.formats.windowed import WindowedFile
from napari_medsam.geometry import VolumeError

__all__ = ["DicomFile", "Slice", "looks_like_dicom", "read_dicom_header"]


class _Tag(IntEnum):
    TRANSFER_SYNTAX = 0x0002_0010
    MODALITY = 0x0008_0060
    DESCRIPTION = 0x0008_103E
    THICKNESS = 0x0018_0050
    BETWEEN_SLICES = 0x0018_0088
    TRIGGER_TIME = 0x0018_1060
    DETECTOR_SPACING = 0x0018_1164
    SERIES_UID = 0x0020_000E
    ACQUISITION = 0x0020_0012
    INSTANCE = 0x0020_0013
    POSITION = 0x0020_0032
    ORIENTATION = 0x0020_0037
    TEMPORAL_POSITION = 0x0020_0100
    TEMPORAL_INDEX = 0x0020_9128
    SAMPLES = 0x0028_0002
    PHOTOMETRIC = 0x0028_0004
    FRAMES = 0x0028_0008
    ROWS = 0x0028_0010
    COLUMNS = 0x0028_0011
    PIXEL_SPACING = 0x0028_0030
    BITS = 0x0028_0100
    INTERCEPT = 0x0028_1052
    SLOPE = 0x0028_1053


_WANTED = frozenset(map(int, _Tag))
_SHARED_GROUPS = 0x5200_9229
_PER_FRAME_GROUPS = 0x5200_9230
_PIXEL_DATA = 0x7FE0_0010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_NO_IMAGES = ("SEG", "RTDOSE")
"""Modalities that have pixels and yet are no image: they are drawn or computed on one."""

_MAX_DEPTH = 32
_MAX_META_BYTES = 64
_FRAGMENT_BYTES = 8
_FIRST_ELEMENTS = tuple(
    struct.pack("<HH", *tag) for tag in ((2, 0), (2, 16), (8, 0), (8, 1), (8, 5), (8, 8), (8, 22))
)

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_UNCOMPRESSED = (_IMPLICIT_LITTLE, "1.2.840.10008.1.2.1", _EXPLICIT_BIG)
_RLE = "1.2.840.10008.1.2.5"
_JPEG_FAMILY = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91))
_KNOWN_SYNTAXES = (*_UNCOMPRESSED, _RLE, *_JPEG_FAMILY)
"""What GDCM decodes; given another, it guesses."""

_ALWAYS_READ_BYTES = 2**26
"""Compressed slices that need no more memory than this are tried, whatever their compression claims."""


@dataclass(frozen=True)
class Slice:
    """One frame of one DICOM file; what a file does not say is None.

    Parameters
    ----------
    path, frame
        Where the pixels are, frames counted from 0.
    size : (2,) int
        Rows and columns.
    position : (3,) float or None
        Centre of the first pixel in LPS mm.
    orientation : (6,) float or None
        Directions of a row and of a column in LPS.
    pixel_spacing_mm : (2,) float or None
        Distances between rows and between columns.
    thickness_mm
        Distance to the next slice, or else the thickness of the slice.
    order : (5,) float
        Temporal position, trigger time, acquisition, instance and frame: which of several slices at the same
        place comes first.
    rescale : (2,) float
        Slope and intercept.
    state
        Of the file when its header was read, by which a change is noticed before its pixels are.
    """

    path: Path
    frame: int
    size: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    order: tuple[float, ...]
    rescale: tuple[float, float]
    state: FileState


@dataclass(frozen=True)
class DicomFile:
    """One DICOM image file: the series it belongs to and its slices."""

    path: Path
    series_uid: str
    description: str
    modality: str
    slices: tuple[Slice, ...]


def looks_like_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM: with the preamble, or, as old files do, with a usual element."""
    with path.open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or start[:4] in _FIRST_ELEMENTS


def read_dicom_header(path: Path) -> DicomFile | None:
    """Read what is needed to place a file's slices.

    Returns
    -------
    DicomFile or None
        None when the file holds no image: reports, presentation states, segmentations, plans, doses.

    Raises
    ------
    VolumeError
        When the file is damaged: a length that passes its end, or a number that is none.
    """
    if path.stat().st_size < 8:
        raise VolumeError("the file is shorter than a DICOM element, expected a whole DICOM file.")
    state = file_state(path)
    with path.open("rb") as stream:
        try:
            elements = _Parser(WindowedFile(stream, path.stat().st_size)).parse()
        except struct.error:
            raise VolumeError("the file ends in the middle of an element, expected a whole file.") from None
    if elements.pixels is None or _Tag.ROWS not in elements.top or elements.text(_Tag.MODALITY) in _NO_IMAGES:
        return None
    elements.check_pixels(path.stat().st_size)
    return DicomFile(
        path=path,
        series_uid=elements.text(_Tag.SERIES_UID),
        description=elements.text(_Tag.DESCRIPTION),
        modality=elements.text(_Tag.MODALITY),
        slices=tuple(elements.slice(path, frame, state) for frame in range(elements.frames)),
    )


@dataclass
class _Elements:
    """Raw values of the wanted attributes: of the file, and of the functional groups of its frames."""

    order: str = "<"
    syntax: str = ""
    top: dict[int, bytes] = field(default_factory=dict)
    shared: dict[int, bytes] = field(default_factory=dict)
    per_frame: list[dict[int, bytes]] = field(default_factory=list)
    pixels: int | None = None  # bytes of pixel data

    def _value(self, tag: int, frame: int = 0) -> bytes | None:
        """Value for a frame, else for all frames, else of the file."""
        groups = self.per_frame[frame] if frame < len(self.per_frame) else {}
        return groups.get(tag, self.shared.get(tag, self.top.get(tag)))

    def text(self, tag: int) -> str:
        raw = self.top.get(tag, b"").rstrip(b" \0")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        return printable(text).strip()

    def _numbers(self, tag: _Tag, count: int, frame: int = 0) -> tuple[float, ...] | None:
        """Decimal strings as numbers, None when the attribute is absent or empty."""
        raw = (self._value(tag, frame) or b"").strip(b" \0")
        if not raw:
            return None
        try:
            numbers = tuple(map(float, raw.decode("ascii").split("\\")))
        except ValueError:
            numbers = ()
        if len(numbers) < count or not all(map(isfinite, numbers)):
            value = printable(raw[:60].decode("latin-1"))
            raise VolumeError(f"the attribute {tag.name.lower()} is '{value}', expected {count} numbers.")
        return numbers[:count]

    def _number(self, tag: _Tag, default: float, frame: int = 0) -> float:
        numbers = self._numbers(tag, 1, frame)
        return default if numbers is None else numbers[0]

    def _short(self, tag: _Tag, default: int) -> int:
        raw = self.top.get(tag, b"")
        return struct.unpack_from(f"{self.order}H", raw)[0] if len(raw) >= 2 else default

    @property
    def frames(self) -> int:
        frames = self._number(_Tag.FRAMES, 1)
        if not 1 <= frames < 2**31:
            raise VolumeError(f"the attribute frames is {frames:g}, expected at least 1.")
        return int(frames)

    def check_pixels(self, file_size: int) -> None:
        """Compare the pixel data with what rows, columns and frames ask for."""
        rows, columns = self._short(_Tag.ROWS, 0), self._short(_Tag.COLUMNS, 0)
        if not (rows and columns):
            raise VolumeError(f"the image has {rows} rows and {columns} columns, expected 1 or more.")
        bytes_per_pixel = max(self._short(_Tag.SAMPLES, 1) * -(-self._short(_Tag.BITS, 16) // 8), 1)
        needed = rows * columns * self.frames * bytes_per_pixel
        if self.syntax not in _UNCOMPRESSED:
            check_size(self.frames * _FRAGMENT_BYTES, file_size)
            check_size(needed, max(_ALWAYS_READ_BYTES, file_size * DEFLATE_RATIO))
        elif "422" in self.text(_Tag.PHOTOMETRIC):
            check_size(needed * 2 / 3, self.pixels or 0)
        else:
            check_size(needed, self.pixels or 0)

    def slice(self, path: Path, frame: int, state: FileState) -> Slice:
        thickness = self._numbers(_Tag.BETWEEN_SLICES, 1, frame) or self._numbers(_Tag.THICKNESS, 1, frame)
        temporal_index = self._value(_Tag.TEMPORAL_INDEX, frame) or b""
        return Slice(
            path=path,
            frame=frame,
            size=(self._short(_Tag.ROWS, 0), self._short(_Tag.COLUMNS, 0)),
            position=self._numbers(_Tag.POSITION, 3, frame),
            orientation=self._numbers(_Tag.ORIENTATION, 6, frame),
            pixel_spacing_mm=self._numbers(_Tag.PIXEL_SPACING, 2, frame)
            or self._numbers(_Tag.DETECTOR_SPACING, 2),
            thickness_mm=thickness[0] if thickness else None,
            order=(
                struct.unpack_from(f"{self.order}I", temporal_index)[0]
                if len(temporal_index) == 4
                else self._number(_Tag.TEMPORAL_POSITION, 0),
                self._number(_Tag.TRIGGER_TIME, 0, frame),
                self._number(_Tag.ACQUISITION, 0),
                self._number(_Tag.INSTANCE, 0),
                float(frame),
            ),
            rescale=(self._number(_Tag.SLOPE, 1, frame), self._number(_Tag.INTERCEPT, 0, frame)),
            state=state,
        )


class _Parser:
    """One walk over a file's elements, items and fragments; each must lie inside what holds it."""

    def __init__(self, data: WindowedFile) -> None:
        self.data = data
        self.elements = _Elements()
        self.explicit = True

    def parse(self) -> _Elements:
        start = self._file_meta()
        self._dataset(start, len(self.data), self.elements.top, 0)
        return self.elements

    def _file_meta(self) -> int:
        """Read group 2, always explicit little endian, and take on the transfer syntax it names."""
        at = 132 if self.data[128:132] == b"DICM" else 0
        while self.data[at : at + 2] == b"\x02\0":
            tag, vr, length, at = self._element(at, len(self.data))
            if vr in _SHORT_VRS and length > _MAX_META_BYTES:
                raise VolumeError(f"the file meta information has a name of {length} bytes, expected 64.")
            if tag == _Tag.TRANSFER_SYNTAX:
                self.elements.syntax = self.data[at : at + length].decode("latin-1").strip(" \0")
            at += length
        if not at:
            explicit = self.data[at + 4 : at + 6] in _SHORT_VRS
            self.elements.syntax = _UNCOMPRESSED[explicit]
        if self.elements.syntax not in _KNOWN_SYNTAXES:
            syntax = printable(self.elements.syntax[:_MAX_META_BYTES])
            raise VolumeError(f"the transfer syntax is '{syntax}', expected one for plain, RLE or JPEG data.")
        self.explicit = self.elements.syntax != _IMPLICIT_LITTLE
        self.elements.order = ">" if self.elements.syntax == _EXPLICIT_BIG else "<"
        return at

    def _element(self, at: int, end: int) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and first byte of the value of the element at `at`."""
        order = self.elements.order
        group, number = self.data.unpack(f"{order}HH", at)
        tag = group << 16 | number
        if group == 0xFFFE or not self.explicit:
            vr, length, value = b"", self.data.unpack(f"{order}I", at + 4)[0], at + 8
        else:
            vr = self.data[at + 4 : at + 6]
            if vr not in _SHORT_VRS | _LONG_VRS:
                raise VolumeError(f"the element at byte {at} has no valid type, expected undamaged DICOM.")
            if vr in _LONG_VRS:
                length, value = self.data.unpack(f"{order}I", at + 8)[0], at + 12
            else:
                length, value = self.data.unpack(f"{order}H", at + 6)[0], at + 8
        if length != _UNDEFINED and length > end - value:
            raise VolumeError(
                f"the element at byte {at} asks for {length} bytes where {max(end - value, 0)} are left, "
                "expected a whole DICOM file; it is damaged or cut short."
            )
        return tag, vr, length, value

    def _dataset(self, at: int, end: int, found: dict[int, bytes] | None, depth: int) -> int:
        """Walk elements up to `end` or an end mark, keep wanted values in `found`, return where it ends."""
        if depth > _MAX_DEPTH:
            raise VolumeError(
                f"the DICOM sequences are more than {_MAX_DEPTH} deep, expected an undamaged file."
            )
        while at < end:
            tag, vr, length, value = self._element(at, end)
            if tag == _ITEM_END:
                return value
            if tag == _PIXEL_DATA and depth == 0:
                self.elements.pixels = length
            if tag == _PIXEL_DATA and length == _UNDEFINED:
                at = self._fragments(value, end)
            elif self._is_sequence(tag, vr, length, value):
                at = self._sequence(tag, vr, length, value, end, found, depth)
            else:
                if found is not None and tag in _WANTED:
                    found.setdefault(tag, self.data[value : value + length])
                at = value + length
            if tag == _PIXEL_DATA and depth == 0 and self.data.zeros_from(at):
                # Some archives append zeros.
                return end
        return at

    def _is_sequence(self, tag: int, vr: bytes, length: int, value: int) -> bool:
        """Whether items follow; implicit VR does not say, but a value that starts with an item tells."""
        if length == _UNDEFINED or vr == b"SQ":
            return True
        return not self.explicit and length >= 8 and self.data[value : value + 4] == b"\xfe\xff\x00\xe0"

    def _sequence(
        self, tag: int, vr: bytes, length: int, at: int, end: int, found: dict[int, bytes] | None, depth: int
    ) -> int:
        explicit = self.explicit
        # A sequence whose VR was lost, written as UN, is implicit inside (PS3.5 6.2.2 note 4).
        self.explicit = explicit and vr != b"UN"
        limit = end if length == _UNDEFINED else at + length
        while at < limit:
            item, _, item_length, at = self._element(at, limit)
            if item == _SEQUENCE_END:
                break
            if item != _ITEM:
                raise VolumeError(
                    f"the sequence at byte {at} holds {item:08X}, expected an item of undamaged DICOM."
                )
            at = self._dataset(
                at,
                limit if item_length == _UNDEFINED else at + item_length,
                self._target(tag, found),
                depth + 1,
            )
        self.explicit = explicit
        return at

    def _target(self, tag: int, found: dict[int, bytes] | None) -> dict[int, bytes] | None:
        """Where the values inside an item of sequence `tag` belong: only functional groups count."""
        if tag == _SHARED_GROUPS:
            return self.elements.shared
        if tag == _PER_FRAME_GROUPS:
            self.elements.per_frame.append({})
            return self.elements.per_frame[-1]
        return None if found is self.elements.top else found

    def _fragments(self, at: int, end: int) -> int:
        """Walk the fragments of compressed pixel data."""
        first = at
        while at < end:
            tag, _, length, at = self._element(at, end)
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM or length == _UNDEFINED:
                raise VolumeError(f"the pixel data at byte {at} is no fragment, expected undamaged DICOM.")
            is_frame = self.elements.syntax == _RLE and at > first + _FRAGMENT_BYTES
            if is_frame and (segments := self.data.unpack("<I", at)[0]) not in range(1, 16):
                # GDCM divides by it.
                raise VolumeError(f"the RLE frame at byte {at} has {segments} segments, expected 1 to 15.")
            at += length
        raise VolumeError(
            "the compressed pixel data has no end, expected a whole DICOM file; it is cut short."
        )
