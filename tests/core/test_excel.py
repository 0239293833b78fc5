"""The reader of Excel workbooks: the text that a person sees in the cells of the first sheet."""

from __future__ import annotations

import datetime
import io
import sys
import zipfile
from pathlib import Path

import openpyxl
import pytest

from pathopatch.core.csv_table import CsvTable, read_csv_table
from pathopatch.core.errors import TableError
from pathopatch.core.excel import read_workbook


def workbook(*rows: list[object], **sheets: list[list[object]]) -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    for name, lines in sheets.items():
        sheet = book.create_sheet(name)
        for line in lines:
            sheet.append(line)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def read(path: Path, content: bytes) -> CsvTable:
    path.write_bytes(content)
    return read_csv_table(path, kind="table", item="thing", required=("a",), optional=("b",), numbers=("b",))


def test_a_workbook_has_the_rows_of_its_first_sheet(tmp_path: Path) -> None:
    table = read(tmp_path / "t.xlsx", workbook(["a", "b"], ["x", 0.5], [], [7.0, None], [True, "0,25"]))
    assert table.rows == [(2, {"a": "x", "b": "0.5"}), (4, {"a": "7", "b": ""}), (5, {"a": "true", "b": "0.25"})]
    assert table.problems == []


def test_a_workbook_is_recognised_whatever_its_name(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", workbook(["a"], ["x"])).rows == [(2, {"a": "x"})]


def test_further_sheets_are_left_out_and_named() -> None:
    lines, notes = read_workbook(workbook(["a"], ["x"], Old=[["y"]]), place="t.xlsx")
    assert lines == [["a"], ["x"]]
    assert notes == ["the sheet 'Sheet' was read, and Old left out"]


def test_a_wrong_size_that_another_program_stated_hides_nothing() -> None:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(workbook(["a", "b"], ["x", "y"]))) as old,
        zipfile.ZipFile(stream, "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<dimension ref="A1:B2"', b'<dimension ref="A1:A1"'))
    assert read_workbook(stream.getvalue(), place="t.xlsx")[0] == [["a", "b"], ["x", "y"]]


def test_a_filled_cell_beside_the_header_is_a_problem(tmp_path: Path) -> None:
    table = read(tmp_path / "t.xlsx", workbook(["a", None], ["x", None], ["x", "y"]))
    assert [(problem.code, problem.row) for problem in table.problems] == [("INPUT_CORRUPT", 3)]


@pytest.mark.parametrize("formula", ["=1/2", "=B1", '=IF(A1="x","","y")'])
def test_a_formula_without_a_stored_value_is_refused_by_its_cell(tmp_path: Path, formula: str) -> None:
    table = read(tmp_path / "t.xlsx", workbook(["a", "b"], ["x", "1"], ["y", formula]))
    assert [(problem.code, problem.message) for problem in table.problems] == [
        ("INPUT_UNSUPPORTED", "a formula without a stored value in B3 of the sheet 'Sheet'")
    ]
    assert "save it" in table.problems[0].remedy


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (b'<c r="B2"><f>1/2</f><v>0.5</v></c>', "0.5"),
        (b'<c r="B2" t="str"><f>A1&amp;"s"</f><v>as</v></c>', "as"),
        (b'<c r="B2" t="str"><f>""</f><v></v></c>', ""),
    ],
)
def test_a_formula_has_the_value_that_excel_stored(cell: bytes, text: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook(["a", "b"], ["x", "=1/2"]))) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<c r="B2"><f>1/2</f><v></v></c>', cell))
    assert read_workbook(stream.getvalue(), place="t.xlsx")[0] == [["a", "b"], ["x", text]]


def test_a_date_that_excel_made_of_an_id_is_refused(tmp_path: Path) -> None:
    table = read(tmp_path / "t.xlsx", workbook(["a"], ["x"], [datetime.date(2024, 3, 1)]))
    with pytest.raises(TableError, match="row 3 is a date .* format the column as text"):
        table.raise_problems()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04 and no archive", "INPUT_CORRUPT: not a workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old", r"INPUT_UNSUPPORTED: an Excel file of the old kind \(.xls\)"),
        (workbook(), "INPUT_MISSING: the file is empty"),
    ],
)
def test_what_is_no_workbook_of_today_is_one_problem(tmp_path: Path, content: bytes, words: str) -> None:
    table = read(tmp_path / "t.xlsx", content)
    with pytest.raises(TableError, match=words):
        table.raise_problems()


def test_a_table_in_excel_without_openpyxl_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    table = read(tmp_path / "t.xlsx", workbook(["a"], ["x"]))
    with pytest.raises(
        TableError,
        match=r"extra excel \(pip install openpyxl\).* in Excel, \"File > Save As > CSV UTF-8",
    ):
        table.raise_problems()
