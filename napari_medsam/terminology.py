"""What a segment shows, in codes: a small table of SNOMED CT terms as DICOM uses them, and a search in it.

A code is understood where a name is not: "Milz", "spleen" and "organ 3" are one organ to a machine when all
say 78961009. The table holds what is segmented most; its codes are those of DICOM PS3.16
(https://dicom.nema.org/medical/dicom/current/output/html/part16.html), and for ribs and some muscles those
that TotalSegmentator writes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

__all__ = ["OTHER", "Code", "Term", "find_terms", "term_for"]

_TABLE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True)
class Code:
    """A coded concept: its value, the scheme that value is of, and what it means in words."""

    value: str
    scheme: str
    meaning: str

    @property
    def text(self) -> str:
        """The code on one line: "SCT:64033007:Kidney"."""
        return f"{self.scheme}:{self.value}:{self.meaning}"

    @classmethod
    def from_text(cls, text: str | None) -> Code | None:
        """Read what `text` gives; None for anything else."""
        scheme, _, rest = (text or "").partition(":")
        value, _, meaning = rest.partition(":")
        return cls(value, scheme, meaning) if value and meaning else None


@dataclass(frozen=True)
class Term:
    """What a segment shows.

    Attributes
    ----------
    category, type : Code
        DICOM's Segmented Property Category ("Anatomical Structure") and Type ("Kidney").
    modifier : Code or None
        Left or right.
    region : Code or None
        Where it is, when the type does not say (a cyst of the kidney).
    """

    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None

    @property
    def name(self) -> str:
        """The term in words: "Left kidney"."""
        words = (
            self.type.meaning
            if self.modifier is None
            else f"{self.modifier.meaning} {self.type.meaning.lower()}"
        )
        return words if self.region is None else f"{words} of {self.region.meaning.lower()}"

    def codes(self) -> dict[str, str]:
        """Return the codes there are, each on one line, by what they say."""
        return {
            field.name: code.text for field in fields(self) if (code := getattr(self, field.name)) is not None
        }

    @classmethod
    def from_codes(cls, codes: Mapping[str, str | None]) -> Term | None:
        """Read what `codes` gives; None without a category or a type."""
        category, kind, modifier, region = (Code.from_text(codes.get(field.name)) for field in fields(cls))
        return None if category is None or kind is None else cls(category, kind, modifier, region)


_CATEGORIES = {
    "structure": Code("123037004", "SCT", "Anatomical Structure"),
    "tissue": Code("85756007", "SCT", "Tissue"),
    "alteration": Code("49755003", "SCT", "Morphologically Altered Structure"),
}
_SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}

OTHER = Term(_CATEGORIES["tissue"], Code("85756007", "SCT", "Tissue"))
"""What files that must say something call a segment without a term, as 3D Slicer does; read back as none."""


def term_for(name: str) -> Term | None:
    """Return the term that a name stands for: "left kidney", "kidney_left" and "Kidney Left" are one.

    Parameters
    ----------
    name
        A name from the table or one of its other names, such as those of TotalSegmentator, in any order of
        words and letter case.

    Returns
    -------
    Term or None
        None when the table does not know the name.
    """
    return _known().get(_key(name))


def find_terms(text: str, limit: int = 20) -> list[Term]:
    """Search the table for terms with words that begin as those of a text do, the shortest first.

    Parameters
    ----------
    text
        Beginnings of words, in any order: "kid l" finds the left kidney. An empty text finds everything.
    limit
        Most terms to return.

    Returns
    -------
    list of Term
        Those whose whole name was typed come first.
    """
    wanted = _words(text)
    found: dict[Term, tuple[bool, int, str]] = {}
    for key, term in _known().items():
        words = key.split()
        if all(any(word.startswith(start) for word in words) for start in wanted):
            rank = (sorted(wanted) != words, len(key), key)
            found[term] = min(rank, found.get(term, rank))
    return sorted(found, key=lambda term: found[term])[:limit]


@cache
def _known() -> dict[str, Term]:
    terms: dict[str, Term] = {}
    with _TABLE.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            meaning = row["name"][0].upper() + row["name"][1:]
            term = Term(_CATEGORIES[row["category"]], Code(row["code"], "SCT", meaning))
            names = [row["name"], *filter(None, row["aliases"].split("; "))]
            for name in names:
                terms.setdefault(_key(name), term)
                if row["paired"]:
                    for side, code in _SIDES.items():
                        terms.setdefault(_key(f"{side} {name}"), Term(term.category, term.type, code))
    return terms


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def _key(name: str) -> str:
    return " ".join(sorted(_words(name)))
