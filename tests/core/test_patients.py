"""Spellings of one patient have one key, and other ids have others."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.core.patients import patient_key, patient_problems


@pytest.mark.parametrize(
    "spellings",
    [
        ("P1", "p1", "P01", "p0001"),
        ("07", "7"),
        ("P7", "P\u0667", "P\uff17", "p-\u096d"),
        ("0", "000"),
        ("TCGA-02-0001", "tcga-2-1"),
        ("Zo\u00eb", "Zoe\u0308", "ZOE\u0308"),
        ("Weiß", "WEISS"),
        ("\uff301", "P1"),
        ("\u3392", "mhz"),
        ("Ι\u0308\u0301", "\u0390"),
        ("P1", "P1\ufe0f", "P\u200d1", "P\u31641"),
        ("7", "7.0", "07.00", "\uff17", "70e-1"),
        ("100000", "1E5", "1e+05", "100000.0"),
        ("7.5", "7.50"),
        ("P-1", "P1", "p 01", "P_1", "P.1"),
        ("1-A", "1A"),
        ("TCGA-02-0001-A", "TCGA02-1A"),
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
        ("1-23", "12-3", "123", "1.23"),
        ("a-b", "ab"),
        ("1E5", "1F5", "15"),
        ("10" * 20, "10" * 20 + "1", "10" * 20 + "2"),  # more digits than a float has
        ("A1", "\u04101"),  # Cyrillic
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


def test_pairs_that_are_known_to_be_two_patients_are_none() -> None:
    rows = [("P-1", "train", 2), ("P1", "test", 3), ("P01", "test", 4)]
    (leak,) = patient_problems(rows)
    assert 'distinct_patients = [["P-1", "P1"], ["P-1", "P01"], ["P1", "P01"]]' in leak.remedy
    pairs = [("P1", "P-1"), ("P-1", "P01")]
    (question,) = patient_problems(rows, pairs)
    assert (question.code, question.message) == ("DUPLICATE_ID", "rows 3, 4: 'P1' and 'P01' may be one patient")
    assert not list(patient_problems(rows, [*pairs, ("P1", "P01")]))
    (own,) = patient_problems([*rows, ("P-1", "test", 5)], [*pairs, ("P1", "P01")])
    assert (own.code, own.value) == ("SPLIT_LEAKAGE", "P-1")
