"""The reader of CSV tables: every problem with its row and column, and nothing guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathopatch.core.csv_table import CsvTable, read_csv_table
from pathopatch.core.errors import InputMissingError, TableError


def read(folder: Path, content: str | bytes) -> CsvTable:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_csv_table(
        path, kind="table", item="thing", required=("a",), optional=("b",), pattern=("c:NAME", "c:[A-Z]+")
    )


def problems(table: CsvTable) -> list[tuple[str, int | None, str]]:
    return [(problem.code, problem.row, problem.column) for problem in table.problems]


def test_rows_have_the_numbers_of_a_spreadsheet(tmp_path: Path) -> None:
    table = read(tmp_path, '\ufeff a ,b\r\n1, x \r\n , \r\n3,"y\rz"\r\n')
    assert table.header == ["a", "b"]
    assert table.rows == [(2, {"a": "1", "b": " x "}), (4, {"a": "3", "b": "y\rz"})]
    assert problems(table) == []
    table.raise_problems()


def test_columns_are_checked_by_name_and_pattern(tmp_path: Path) -> None:
    assert problems(read(tmp_path, "b,b,c:X,c:1,d\n")) == [
        ("INPUT_UNSUPPORTED", None, "c:1"),
        ("INPUT_UNSUPPORTED", None, "d"),
        ("INPUT_UNSUPPORTED", None, "b"),
        ("INPUT_MISSING", None, "a"),
    ]


def test_a_row_of_another_length_is_a_problem_and_no_row(tmp_path: Path) -> None:
    table = read(tmp_path, "a,b\n1\n1,2\n1,2,3\n")
    assert (problems(table), [number for number, _ in table.rows]) == (
        [("INPUT_CORRUPT", 2, ""), ("INPUT_CORRUPT", 4, "")],
        [3],
    )


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("", "INPUT_MISSING", "the file is empty Remedy: write a header and one row per thing"),
        ("a;b\n1;2\n", "INPUT_UNSUPPORTED", "separated by semicolons, not by commas"),
        ("b\ta\n", "INPUT_UNSUPPORTED", "separated by tabs, not by commas"),
        ('a\n"1\n', "INPUT_CORRUPT", "not a UTF-8 CSV file"),
        (b"a\n\xff\n", "INPUT_CORRUPT", "not a UTF-8 CSV file"),
    ],
)
def test_an_unusable_file_is_one_problem(tmp_path: Path, content: str | bytes, code: str, words: str) -> None:
    table = read(tmp_path, content)
    assert (problems(table), table.rows) == ([(code, None, "")], [])
    with pytest.raises(TableError, match=words):
        table.raise_problems()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"no table none\.csv"):
        read_csv_table(tmp_path / "none.csv", kind="table", item="thing", required=(), optional=())
