"""Read the first sheet of an Excel workbook as rows of text. Needs the extra `excel`."""

from __future__ import annotations

import datetime
import io
import warnings
import zipfile
from typing import IO, Any
from xml.etree.ElementTree import ParseError, iterparse

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputTooLargeError, InputUnsupportedError

_ZIP, _OLD_EXCEL = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SAVE = 'in Excel, "File > Save As > CSV UTF-8"'
_SHOWN = 5  # cells of an error's text
_MOST_ROWS, _MOST_COLUMNS = 2**20, 2**14  # of a sheet in Excel itself
_MOST_CELLS = 5 * 2**20  # a manifest of 100,000 slides has about 1.5 million
_READING_ERRORS = (zipfile.BadZipFile, ParseError, KeyError, ValueError, TypeError, IndexError, AttributeError, OSError)


def is_workbook(content: bytes) -> bool:
    """Return whether a file's bytes begin as an Excel workbook of any version."""
    return content.startswith((_ZIP, _OLD_EXCEL))


def read_workbook(content: bytes, *, place: str) -> tuple[list[list[str]], list[str]]:
    """Return the cells of a workbook's first sheet as text, row by row, and notes for a person.

    Rows are as long as the first one, unless further cells are filled. Formulas have the values that Excel stored.
    `place` is the file's path, for messages. InputMissingError without the extra `excel`; InputUnsupportedError for
    Excel 97 to 2003, a cell of which Excel made a date, or a formula without a value; InputCorruptError for what cannot
    be read; InputTooLargeError beyond the rows or columns of a sheet in Excel, or five million cells.
    """
    if content.startswith(_OLD_EXCEL):
        raise InputUnsupportedError(
            "an Excel file of the old kind (.xls)", place=place, remedy=f"save it as CSV: {_SAVE}"
        )
    try:
        import openpyxl
    except ImportError as error:
        raise InputMissingError(
            "an Excel file (.xlsx), and openpyxl is not installed",
            place=place,
            remedy=f"install the extra excel (pip install openpyxl), or save it as CSV: {_SAVE}",
        ) from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            with warnings.catch_warnings(action="ignore"):  # of styles and extensions that it leaves out
                book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
                sheet = book.worksheets[0]
                sheet.reset_dimensions()  # other programs state wrong ones
                rows = _rows(sheet, place)
            with archive.open(sheet._worksheet_path) as stream:  # openpyxl takes a missing value for an empty cell
                unknown = _formulas_without_value(stream)
        others = [other.title for other in book.worksheets[1:]]
    except InputTooLargeError:
        raise
    except _READING_ERRORS as error:
        raise InputCorruptError(
            f"not a workbook that can be read: {error}", place=place, remedy=f"save it as CSV: {_SAVE}"
        ) from error
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise InputUnsupportedError(
            f"a formula without a stored value in {', '.join(unknown[:_SHOWN])}{more} of the sheet {sheet.title!r}",
            place=place,
            remedy="open the workbook in Excel and save it, or write the value in place of the formula",
        )
    lines = [[_text(value, number, place) for value in row] for number, row in enumerate(rows, 1)]
    width = len(_trimmed(lines[0])) if lines else 0
    lines = [[*line, *[""] * (width - len(line))] for line in map(_trimmed, lines)]
    return lines, [f"the sheet {sheet.title!r} was read, and {', '.join(others)} left out"] if others else []


def _formulas_without_value(sheet: IO[bytes]) -> list[str]:
    """Return the names of a sheet's cells, such as B2, that hold a formula and no value; an empty text is a value."""
    cells = []
    for _, element in iterparse(sheet):
        kind = element.tag.rpartition("}")[2]
        if kind == "row":
            element.clear()
        elif kind == "c" and element.get("t") != "str":
            parts = {child.tag.rpartition("}")[2]: child.text for child in element}
            if "f" in parts and not parts.get("v"):
                cells.append(element.get("r", "a cell"))
    return cells


def require_width(cells: int, *, row: int, place: str) -> None:
    """Refuse a row of a table that is longer than any in Excel: InputTooLargeError."""
    if cells > _MOST_COLUMNS:
        raise _too_large(f"row {row} has more than {_MOST_COLUMNS} cells", place)


def _too_large(message: str, place: str) -> InputTooLargeError:
    return InputTooLargeError(
        message, place=place, remedy="give a table with the columns and rows that are read, alone"
    )


def _require_size(rows: int, cells: int, place: str) -> None:
    """Refuse more rows than a sheet has in Excel, and more cells, than are read in a minute."""
    if rows > _MOST_ROWS or cells > _MOST_CELLS:
        raise _too_large(f"more than {_MOST_ROWS} rows or {_MOST_CELLS} cells", place)


def _rows(sheet: Any, place: str) -> list[list[Any]]:
    """Return the values of a sheet, row by row; a reference such as XFD1048576 makes all rows and cells before it."""
    rows: list[list[Any]] = []
    cells = 0
    for row in sheet.iter_rows(values_only=True):
        require_width(len(row), row=len(rows) + 1, place=place)
        rows.append(list(row))
        cells += len(row)
        _require_size(len(rows), cells, place)
    return rows


def _text(value: object, row: int, place: str) -> str:
    """Return a cell's value as a person would write it."""
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        raise InputUnsupportedError(
            f"a cell of row {row} is a date ({value}), which Excel may have made of an id",
            place=place,
            remedy="format the column as text and write the cell again",
        )
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _trimmed(line: list[str]) -> list[str]:
    """Return a row without the empty cells at its end."""
    while line and not line[-1].strip():
        line = line[:-1]
    return line
