"""One of a thing is said in the singular."""

from __future__ import annotations

import pytest

from pathopatch.core.text import parse_number, patches_and_units, pluralize


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "slide", "0 slides"), (1, "slide", "1 slide"), (2, "patch", "2 patches"), (3, "process", "3 processes")],
)
def test_a_number_of_things(number: int, noun: str, text: str) -> None:
    assert pluralize(number, noun) == text


def test_patches_of_patients() -> None:
    assert patches_and_units(431, 1) == "431 patches of 1 patient"
    assert patches_and_units(1, 10, "block") == "1 patch of 10 blocks"


@pytest.mark.parametrize(("text", "number"), [("1", 1.0), ("-2.5e1", -25.0), (" .5 ", 0.5)])
def test_a_text_is_the_number_that_it_writes(text: str, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["1_0", "0.2_5", "_1", "1,5", "", "one"])
def test_a_text_that_only_python_takes_for_a_number_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="number|convert"):
        parse_number(text)
