"""Read a table that a person wrote, and collect everything wrong in it; keep formulas out of those we write."""

from __future__ import annotations

import csv
import io
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.errors import InputMissingError, PathopatchError, Problem, Remark, TableError, merged
from pathopatch.core.excel import is_workbook, read_workbook, require_width
from pathopatch.core.input_files import open_regular, require_narrow, wide_coding

if TYPE_CHECKING:
    import pandas as pd

# A spreadsheet runs a cell that begins so as a formula. Full-width signs count too: some programs convert them. Spaces,
# quotes and our own apostrophe may stand before.
_SIGNS = "=+\\-@＝＋－＠"
_FIRST, _LATER = rf"(?=['\" ]*[{_SIGNS}\t\r\n])", rf"(?=['\" ]*[{_SIGNS}])"
# Where cells are split at semicolons, as in many countries, or at tabs, quotes inside a line do not count: each piece
# of a text is the beginning of a cell.
_UNSAFE = re.compile(rf"\A{_FIRST}|(?<=[;\t\r\n]){_LATER}")
_ESCAPED = re.compile(rf"\A'{_FIRST}|(?<=[;\t\r\n])'{_LATER}")
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")
"""Endings of the files that tables are read from."""
_SEPARATORS = ",;\t"
_ID_COLUMNS = ("slide_id", "patient_id", "block")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_log = logging.getLogger(__name__)


@dataclass
class CsvTable:
    """The rows of a table, and the problems found in it so far.

    Parameters
    ----------
    path : Path
        The file.
    header : list of str
        Names of the columns, without spaces around them.
    rows : list of (int, dict of str to str)
        Number of each row, and its cells by column as they stand in the file. As a spreadsheet counts, the header is
        row 1. Rows without any text are left out.
    problems : list of Problem
        Everything wrong; reading goes on after each.
    notes : list of Remark
        What was read in another way than it is written, for a person to check.
    """

    path: Path
    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)

    def add_note(self, text: str) -> None:
        """Note something about the file as a whole."""
        self.notes.append(Remark("", text, text))

    def add_problem(
        self, code: str, row: int | None, column: str, value: str, message: str, remedy: str, *own: str
    ) -> None:
        """Note a problem; `own` are words of the message that belong to this row alone, such as its slide_id."""
        self.problems.append(
            Problem(code=code, row=row, column=column, value=value, message=message, remedy=remedy, own=own)
        )

    def check_header(self, required: Sequence[str], allowed: Collection[str], remedy: str) -> None:
        """Note columns that are unknown, there twice, or missing; `remedy` goes with the unknown ones."""
        known, counts = set(allowed), Counter(self.header)
        for name in counts:
            if name not in known:
                self.add_problem("INPUT_UNSUPPORTED", None, name, "", "unknown column", remedy)
        for name, count in counts.items():
            if count > 1:
                self.add_problem("INPUT_UNSUPPORTED", None, name, "", "the column stands twice", "remove one")
        for name in required:
            if name not in counts:
                self.add_problem("INPUT_MISSING", None, name, "", "the column is missing", "add it")

    def raise_problems(self) -> None:
        """Log the notes, and raise if anything was wrong.

        Raises
        ------
        TableError
            Lists every problem by row.
        """
        for line in merged(self.notes, "row"):
            _log.warning("%s: %s", self.path.name, line)
        self.notes.clear()
        if self.problems:
            raise TableError(sorted(self.problems, key=lambda problem: problem.row or 0), place=str(self.path))


def escape_formulas(text: str) -> str:
    """Return a text of which no spreadsheet takes a part for a formula, be it split at commas, semicolons or tabs.

    `unescape_formulas` restores it exactly: what has apostrophes there already gets one more.
    """
    return _UNSAFE.sub("'", text)


def unescape_formulas(text: str) -> str:
    """Return the text of which `escape_formulas` made another."""
    return _ESCAPED.sub("", text)


def csv_text(table: pd.DataFrame, *, float_format: str | None = None) -> str:
    """Return a table as CSV without its index, for spreadsheets too: text is escaped, see `escape_formulas`."""

    def escaped(value: object) -> object:
        return escape_formulas(value.replace("\r", " ")) if isinstance(value, str) else value  # a lone CR ends a row

    texts: dict[Any, Any] = {name: table[name].map(escaped) for name in table if table[name].dtype.kind == "O"}
    safe = table.assign(**texts).rename(columns=escaped)
    return str(safe.to_csv(index=False, lineterminator="\n", float_format=float_format))


def read_csv_table(
    path: Path,
    *,
    kind: str,
    item: str,
    required: Sequence[str],
    optional: Sequence[str],
    pattern: tuple[str, str] | None = None,
    numbers: Collection[str] = (),
) -> CsvTable:
    """Read a table with one header line: text with commas, semicolons or tabs, or the first sheet of an Excel workbook.

    Text is UTF-8 or, with a byte order mark, UTF-16; what is neither is taken as Latin-1 (Windows-1252), with a note.
    Ids are brought to Unicode's form NFC: equal letters have equal bytes.

    Parameters
    ----------
    path : Path
        The file.
    kind, item : str
        What the file and one of its rows are, for messages: ``manifest``, ``slide``.
    required, optional : sequence of str
        Names of the columns.
    pattern : (str, str), optional
        Further names that are allowed: as messages write them (``path:NAME``), and their regular expression.
    numbers : collection of str
        Columns of numbers, in which a decimal comma becomes a point, with a note.

    Returns
    -------
    CsvTable
        It has no rows where the file as a whole is unusable, which is among its problems.

    Raises
    ------
    InputMissingError
        There is no such file.
    """
    table = CsvTable(path)
    lines = _lines(table, kind, item, required or optional)
    if not lines:
        return table
    table.header = [name.strip() for name in lines[0]]
    allowed, remedy = [*required, *optional], f"use {', '.join([*required, *optional])}"
    if pattern is not None:
        allowed += [name for name in table.header if re.fullmatch(pattern[1], name)]
        remedy += f" or {pattern[0]}"
    table.check_header(required, allowed, remedy)
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) == len(table.header):
            row = dict(zip(table.header, cells, strict=True))
            table.rows.append((number, {name: _cell(table, number, name, row[name], numbers) for name in row}))
        else:
            # A separator inside a path shifts all cells behind it: none of them can be trusted.
            message = f"{len(cells)} cells under {len(table.header)} columns"
            remedy = "quote cells that hold a comma, or what else separates the cells"
            table.add_problem("INPUT_CORRUPT", number, "", "", message, remedy)
    return table


def _cell(table: CsvTable, row: int, column: str, text: str, numbers: Collection[str]) -> str:
    """Return a cell's text: an id in the form NFC, a number with a decimal point."""
    if column in _ID_COLUMNS:
        return unicodedata.normalize("NFC", text)
    if column in numbers and _DECIMAL_COMMA.fullmatch(text):
        value = text.strip().replace(",", ".")
        shared = f"decimal commas in column {column}: read as points"
        table.notes.append(Remark(str(row), f"decimal comma in row {row}: read as {value}", shared))
        return value
    return text


def _lines(table: CsvTable, kind: str, item: str, known: Sequence[str]) -> list[list[str]]:
    """Return the cells of each line; none where the file as a whole is unusable, which is noted."""
    try:
        # Bytes, not text: line ends inside a quoted cell must stay as they are.
        with open_regular(table.path) as stream:
            content = stream.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputMissingError(
            f"no {kind} {table.path.name}", place=str(table.path), remedy="check the path"
        ) from error
    try:
        if is_workbook(content):
            lines, notes = read_workbook(content, place=str(table.path))
            for note in notes:
                table.add_note(note)
        else:
            text = _decoded(table, content)
            separator = _separator(text, known)
            lines = []
            for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
                require_width(len(cells), row=len(lines) + 1, place=str(table.path))
                lines.append(cells)
        if any(cell.strip() for line in lines for cell in line):
            return lines
        table.add_problem("INPUT_MISSING", None, "", "", "the file is empty",
                          f"write a header and one row per {item}")  # fmt: skip
    except PathopatchError as error:
        table.add_problem(error.code, None, "", "", error.message, error.remedy)
    except (UnicodeDecodeError, csv.Error) as error:
        table.add_problem("INPUT_CORRUPT", None, "", "", f"not a CSV file: {error}", "save it as CSV, UTF-8")
    return []


def _decoded(table: CsvTable, content: bytes) -> str:
    """Return the text of a file; UnicodeDecodeError if it is none, InputUnsupportedError as of `require_narrow`."""
    if wide_coding(content) == "UTF-16":
        return content.decode("utf-16")
    require_narrow(content, place=table.path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:  # no text
            raise
        text = content.decode("cp1252")
        table.add_note("it is not UTF-8, and was read as Latin-1: check letters such as é, or save it as CSV UTF-8")
        return text


def _separator(text: str, known: Sequence[str]) -> str:
    """Return what separates the cells of a text: the mark that leaves most of the known columns alone."""
    header = text.splitlines()[0] if text.strip() else ""

    def count(mark: str) -> int:
        # A name of a column may hold a semicolon: only a known one that stands alone proves the separator.
        return len({cell.strip().strip('"') for cell in header.split(mark)} & set(known)) if mark in header else 0

    return max(_SEPARATORS, key=count)
