"""The reader of CSV tables: every problem with its row and column, and nothing guessed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pathopatch
from pathopatch.core.csv_table import CsvTable, csv_text, read_csv_table
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
        ("\n , \n", "INPUT_MISSING", "the file is empty"),
        ('a\n"1\n', "INPUT_CORRUPT", "not a CSV file"),
        (b"a\n\xff\0\n", "INPUT_CORRUPT", "not a CSV file"),
        (b"a\n\x81\n", "INPUT_CORRUPT", "not a CSV file"),
        ("a".encode("utf-16")[:-1], "INPUT_CORRUPT", "not a CSV file"),
    ],
)
def test_an_unusable_file_is_one_problem(tmp_path: Path, content: str | bytes, code: str, words: str) -> None:
    table = read(tmp_path, content)
    assert (problems(table), table.rows) == ([(code, None, "")], [])
    with pytest.raises(TableError, match=words):
        table.raise_problems()


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_are_separated_by_commas_semicolons_or_tabs(tmp_path: Path, mark: str) -> None:
    table = read(tmp_path, f'b{mark}"a"\n1{mark}"x,y;z\tw"\n')
    assert table.rows == [(2, {"b": "1", "a": "x,y;z\tw"})]
    assert problems(table) == []


def test_a_semicolon_inside_a_column_name_separates_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, 'a,"b; long"\n').header == ["a", "b; long"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_is_read_in_the_usual_encodings(tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    table = read(tmp_path, "a\nKöln\n".encode(encoding))
    assert table.rows == [(2, {"a": "Köln"})]
    table.raise_problems()
    assert ("table.csv: it is not UTF-8, and was read as Latin-1" in caplog.text) == (encoding == "cp1252")


def test_a_decimal_comma_becomes_a_point_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1,5;0,5\n2;0.5\n3;1,2,3\n")
    table = read_csv_table(path, kind="table", item="thing", required=("a",), optional=("b",), numbers=("b",))
    assert [cells["b"] for _, cells in table.rows] == ["0.5", "0.5", "1,2,3"]
    assert table.rows[0][1]["a"] == "1,5"  # no column of numbers
    table.raise_problems()
    assert caplog.messages == ["t.csv: decimal comma in row 2: read as 0.5"]
    path.write_text("a;b\n" + "1;0,5\n" * 9)
    read_csv_table(path, kind="t", item="t", required=("a",), optional=("b",), numbers=("b",)).raise_problems()
    assert caplog.messages[1:] == ["t.csv: decimal commas in column b: read as points (in 9 rows: 2, 3, 4, …)"]


def test_ids_are_brought_to_the_form_nfc(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("slide_id,path\nme\u0301sa,me\u0301sa.tif\n", encoding="utf-8")
    ((_, cells),) = read_csv_table(path, kind="t", item="t", required=("slide_id",), optional=("path",)).rows
    assert cells == {"slide_id": "m\u00e9sa", "path": "me\u0301sa.tif"}  # a file keeps the name that it has


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"no table none\.csv"):
        read_csv_table(tmp_path / "none.csv", kind="table", item="thing", required=(), optional=())


def test_no_text_of_a_table_is_a_formula_and_numbers_stay() -> None:
    texts = ["=cmd()", "+1", "-1", "@x", "\tx", "a;=b", "p1", None]
    table = pd.DataFrame({"block": texts, "kind": pd.Categorical(texts), "n": np.arange(8) - 1.5, "@run": 1})
    read = pd.read_csv(io.StringIO(csv_text(table)), dtype={"block": str, "kind": str})
    expected = ["'=cmd()", "'+1", "'-1", "'@x", "'\tx", "a;'=b", "p1"]
    assert read["block"].tolist()[:7] == read["kind"].tolist()[:7] == expected
    assert (read["n"].tolist(), list(read)[3]) == (table["n"].tolist(), "'@run")


def test_tables_are_written_by_one_function_alone() -> None:
    package = Path(pathopatch.__file__).parent
    writers = {path.name for path in package.rglob("*.py") if ".to_csv(index" in path.read_text(encoding="utf-8")}
    assert writers == {"csv_table.py"}
