"""Names and colours of labels in a NIfTI header: Caret's XML label table, as TotalSegmentator writes it.

TotalSegmentator and Nora look for it in the header's first extension, under code 0. That code says "of
unknown type", so a reader has to look at the content; others pass it over. Connectome Workbench writes the
same table under 30, the code that the NIfTI standard gives to Caret.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from napari_medsam.segments import Color, Segment, SegmentationError

__all__ = ["ECODES", "build_label_table", "parse_label_table"]

ECODES = 0, 30
"""Codes of header extensions that may hold the table; the first is the one to write."""

_MOST_LABELS = 2**16
_FIELDS = ("Red", "Green", "Blue")


def build_label_table(segments: Iterable[Segment]) -> bytes:
    """Build the content of the header extension."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    rows = [(segment.label, segment.name, segment.color, 1) for segment in segments]
    if len(rows) == 1:
        # TotalSegmentator's reader stumbles over a table of a single row.
        rows.insert(0, (0, "background", (0, 0, 0), 0))
    for label, name, color, alpha in rows:
        about = {"Key": str(label), "Alpha": str(alpha)}
        about |= {field: repr(part / 255) for field, part in zip(_FIELDS, color, strict=True)}
        ElementTree.SubElement(table, "Label", about).text = name
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)


def parse_label_table(content: bytes) -> dict[int, tuple[str, Color]] | None:
    """Read names and colours by label.

    Parameters
    ----------
    content
        A header extension of any kind, which may be damaged.

    Returns
    -------
    dict or None
        None when it is no label table.
    """
    if b"CaretExtension" not in content[:1024]:
        return None
    found: dict[int, tuple[str, Color]] = {}
    try:
        # As text, whatever encoding the XML claims: in UTF-16, what follows would be passed over.
        text = content.rstrip(b"\0 \r\n\t").decode()
        # A document type could define entities that unfold without end; a label table has none.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            return None
        rows = ElementTree.fromstring(text).findall(".//LabelTable/Label")
        for row in rows[:_MOST_LABELS]:
            red, green, blue = (round(float(row.get(field, "1")) * 255) for field in _FIELDS)
            label, name = int(row.get("Key", "")), row.text or ""
            if label > 0 and name.strip():
                segment = Segment(label, name, (red, green, blue))
                found[label] = segment.name, segment.color
    except (ElementTree.ParseError, ValueError, OverflowError, SegmentationError):
        return None
    return found
