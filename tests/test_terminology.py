"""Codes are right, and found by the names people type."""

from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts

from napari_medsam.terminology import OTHER, Code, Term, find_terms, term_for

NOT_IN_PYDICOM = {
    "74281007", "110765007", "181674001", "78333006", "75297007", "68455001", "244849004", "67769002",
    "48535007", "78247007", "25888004", "25523003", "15339008", "59558009", "24915002", "5953002",
    "22565002", "77644006", "58830002", "43993008",
}  # fmt: skip
"""Codes that TotalSegmentator writes (myocardium, ribs, muscles), of which pydicom's tables have none."""


def everything() -> list[Term]:
    return find_terms("", limit=10_000)


def test_every_code_is_one_that_dicom_defines() -> None:
    """A wrong digit makes a liver of a kidney, in every archive the file goes to."""
    known = {code for meanings in concepts["SCT"].values() for code in meanings}
    codes = {
        code.value for term in everything() for code in (term.category, term.type, term.modifier) if code
    }
    assert codes - known == NOT_IN_PYDICOM


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("liver", "Liver"),
        ("Spleen", "Spleen"),
        ("left kidney", "Kidney"),
        ("pancreas", "Pancreas"),
        ("aorta", "Aorta"),
        ("prostate", "Prostate"),
        ("brain", "Brain"),
        ("lesion", "Lesion"),
        ("cyst", "Cyst"),
        ("vertebrae_T12", "T12Vertebra"),
        ("heart_ventricle_left", "LeftVentricle"),
    ],
)
def test_names_have_the_codes_of_dicoms_own_tables(name: str, keyword: str) -> None:
    """Against pydicom, which took them from the standard."""
    term = term_for(name)
    assert term is not None
    assert term.type.value in concepts["SCT"][keyword]


def test_no_two_terms_share_a_code() -> None:
    """Two names for one code would come back as one."""
    pairs = [(term.type.value, term.modifier) for term in everything()]
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("name", ["left kidney", "kidney_left", "Kidney, Left", "LEFT-KIDNEY"])
def test_a_name_is_known_in_any_order_and_case(name: str) -> None:
    expected = Term(
        Code("123037004", "SCT", "Anatomical Structure"),
        Code("64033007", "SCT", "Kidney"),
        Code("7771000", "SCT", "Left"),
    )
    assert term_for(name) == expected
    assert expected.name == "Left kidney"


def test_a_name_that_says_nothing_has_no_term() -> None:
    assert term_for("label 3") is None
    assert term_for("") is None
    assert OTHER.type.meaning == "Tissue"


def test_search_finds_terms_from_the_beginnings_of_words() -> None:
    """Whoever types into a search box stops as soon as the right line is there."""
    assert [term.name for term in find_terms("kid l")] == ["Left kidney"]
    assert [term.name for term in find_terms("kidney")] == ["Kidney", "Left kidney", "Right kidney"]
    assert find_terms("spleen")[0].name == "Spleen"
    assert find_terms("liver", limit=1) == [term_for("liver")]
    assert find_terms("no such thing") == []
    assert len(find_terms("", limit=7)) == 7
