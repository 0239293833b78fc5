"""One of a thing is said in the singular."""

from __future__ import annotations

import pytest

from pathopatch.core.text import patches_and_patients, pluralize


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "slide", "0 slides"), (1, "slide", "1 slide"), (2, "patch", "2 patches"), (3, "process", "3 processes")],
)
def test_a_number_of_things(number: int, noun: str, text: str) -> None:
    assert pluralize(number, noun) == text


def test_patches_of_patients() -> None:
    assert patches_and_patients(431, 1) == "431 patches of 1 patient"
