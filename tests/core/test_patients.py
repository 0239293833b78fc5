"""Spellings of one patient have one key, and other ids have others."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.core.patients import mixed_scripts, patient_key, patient_problems


@pytest.mark.parametrize(
    "spellings",
    [
        ("P1", "p1", "P01", "p0001"),
        ("07", "7"),
        ("0", "000"),
        ("TCGA-02-0001", "tcga-2-1"),
        ("Zo\u00eb", "Zoe\u0308", "ZOE\u0308"),
        ("Weiß", "WEISS"),
        ("\uff301", "P1"),
        ("\u3392", "mhz"),
        ("Ι\u0308\u0301", "\u0390"),
        ("P1", "P1\ufe0f", "P\u200d1", "P\u31641"),
        ("A1", "\u04101", "\u03911", "\u13aa1"),  # Cyrillic, Greek, Cherokee
        ("B7", "\u04127", "\u04327"),  # its small letter looks like no Latin one
        ("PI", "P\u0406", "pi"),
        ("P1", "P\u0661"),  # an Arabic digit
    ],
)
def test_spellings_of_one_patient_have_one_key(spellings: tuple[str, ...]) -> None:
    assert len({patient_key(text) for text in spellings}) == 1


@pytest.mark.parametrize(
    "ids",
    [
        ("P1", "Pl", "PI", "P|"),
        ("10", "1O"),
        ("rn", "m"),
        ("P1", "P10", "P100"),
        ("p-1", "p1", "p.1"),
        ("a0b", "ab"),
        ("7", "70", "0"),
        ("Zoe", "Zo\u00eb"),
        ("\u05d5", "\u05df"),
    ],
)
def test_other_patients_have_other_keys(ids: tuple[str, ...]) -> None:
    assert len({patient_key(text) for text in ids}) == len(ids)


@given(st.text(max_size=12), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_the_key_ignores_case_and_form_of_any_text(text: str, form: str) -> None:
    key = patient_key(text)
    assert patient_key(key) == key
    assert patient_key(unicodedata.normalize(form, text)) == key
    assert patient_key(text.casefold()) == key


def test_a_row_without_a_split_contradicts_none() -> None:
    assert not list(patient_problems([("p1", "train", 2), ("p1", None, 3), ("", "test", 4), ("", "val", 5)]))


def test_a_problem_names_rows_splits_and_spellings() -> None:
    (leak,) = patient_problems([("P1", "train", 2), ("P1", "train", 3), ("p1", "test", 4)])
    assert str(leak).startswith(
        "SPLIT_LEAKAGE: row 4, column 'patient_id', value 'p1': rows 2, 4: the patient is in the splits test, train, "
        "written 'P1' and 'p1' Remedy: "
    )
    (question,) = patient_problems([("07", "", None), ("7", "", None)])
    assert (question.code, question.message) == ("DUPLICATE_ID", "'07' and '7' may be one patient")


def test_a_problem_names_the_letters_that_look_alike() -> None:
    (leak,) = patient_problems([("A1", "train", 2), ("\u04101", "test", 3)])
    assert (leak.code, "(with CYRILLIC CAPITAL LETTER A)" in leak.message) == ("SPLIT_LEAKAGE", True)


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("P1", []), ("Пациент-1", []), ("P\u04161", ["Cyrillic", "Latin"]), ("患者A1", []), ("カさ漢", []),
        ("αβ\u0416", ["Cyrillic", "Greek"]),
    ],
)  # fmt: skip
def test_scripts_within_one_id_are_named_unless_they_are_written_together(text: str, scripts: list[str]) -> None:
    assert list(mixed_scripts(text)) == scripts
