import pickle

import pytest

from pathopatch.core import errors
from pathopatch.core.errors import MppMissingError, PathopatchError, Problem, Remark, TableError, merged, shared_text

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PathopatchError) and kind not in (PathopatchError, TableError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_have_code_value_place_and_remedy_and_can_be_pickled(
    kind: type[PathopatchError],
) -> None:
    error = kind("mpp is 0", place="slide a", remedy="fill the column mpp")
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert str(one) == f"{kind.code}: mpp is 0 [slide a] Remedy: fill the column mpp"
        assert type(one) is kind
    assert any(
        issubclass(kind, builtin) for builtin in (OSError, ValueError, RuntimeError, MemoryError, ArithmeticError)
    )


def test_every_code_belongs_to_one_class() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes)) == 25


def test_a_manifest_error_lists_every_problem_after_a_process_boundary() -> None:
    problems = [
        Problem(code=MppMissingError.code, row=n, column="mpp", value="", message="no mpp", remedy="fill it")
        for n in (2, 3)
    ]
    again = pickle.loads(pickle.dumps(TableError(problems, place="cohort.csv")))
    assert str(again).count("MPP_MISSING") == 2
    assert "row 3, column 'mpp'" in str(again)
    assert again.problems[0].code == "MPP_MISSING"


def remarks(*pairs: tuple[str, str]) -> list[Remark]:
    return [Remark(place, f"row {place}: {text}", text) for place, text in pairs]


def test_a_text_of_four_places_or_more_stands_once_with_their_number() -> None:
    few = remarks(("2", "no file"), ("3", "no mpp"), ("4", "no file"), ("5", "no file"))
    assert merged(few, "row") == ["row 2: no file", "row 4: no file", "row 5: no file", "row 3: no mpp"]
    many = [Remark(str(n), f"row {n}: no file", "no file") for n in range(2, 602)]
    assert merged(many, "row") == ["no file (in 600 rows: 2, 3, 4, …)"]


def test_slides_share_an_error_but_for_its_place_and_their_own_name() -> None:
    messages = {name: f"NO: mpp of {name} [/x/{name}.tif] Remedy: give it" for name in ("s1", "s2", "s3", "s4")}
    errors = [Remark(name, text, shared_text(text, name), True) for name, text in messages.items()]
    shared = "NO: mpp of … [/x/….tif] Remedy: give it (in 4 slides: s1, s2, s3, …)"
    assert merged(errors, "slide") == [shared]
    others = [Remark(f"t{n}", "", f"NO: mpp of … [/y/{n}.tif] Remedy: give it", True) for n in range(4)]
    assert merged([*errors, *others], "slide") == ["NO: mpp of … Remedy: give it (in 8 slides: s1, s2, s3, …)"]
    assert shared_text("12 of 2", "2") == "12 of …"  # a name within a word is not the name


def test_what_many_places_share_keeps_its_end() -> None:
    warning, error = "uncertain: set method in [tile.tissue]", "NO: empty [split train] Remedy: set mpp of [ready]"
    for text, is_error in ((warning, False), (error, True), ("NO: empty [split train]", True)):
        alike = [Remark(f"s{number}", f"s{number}: {text}", text, is_error) for number in range(4)]
        assert merged(alike, "slide") == [f"{text} (in 4 slides: s0, s1, s2, …)"]
    remedied = [Remark(f"s{n}", "", f"NO: empty [/x/{n}.tif] Remedy: set mpp of [ready]", True) for n in range(4)]
    assert merged(remedied, "slide") == ["NO: empty Remedy: set mpp of [ready] (in 4 slides: s0, s1, s2, …)"]


def test_a_manifest_of_600_rows_without_their_files_is_two_lines() -> None:
    problems = [
        Problem(
            code="INPUT_MISSING",
            row=n,
            column="path",
            value=f"a{n}.tif",
            message=f"no file /x/a{n}.tif",
            remedy="correct the path",
        )
        for n in range(2, 602)
    ]
    twelve = str(TableError(problems[:12], place="cohort.csv"))
    assert twelve.endswith(f"(in 12 rows: {', '.join(map(str, range(2, 14)))})")
    assert str(TableError(problems, place="cohort.csv")).splitlines() == [
        "600 problems in the table [cohort.csv]",
        "  INPUT_MISSING: column 'path': no file /x/… Remedy: correct the path (in 600 rows: "
        f"{', '.join(map(str, range(2, 22)))}, …)",
    ]


def test_a_place_that_says_a_text_twice_counts_once() -> None:
    twice = remarks(("s1", "no mpp"), ("s1", "no mpp"), ("s2", "no mpp"))
    assert merged(twice, "slide") == ["row s1: no mpp", "row s2: no mpp"]
