"""Read a CSV table that a person wrote, and collect everything wrong in it; keep formulas out of those we write."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathopatch.core.errors import InputMissingError, Problem, TableError

# A spreadsheet runs a cell that begins so as a formula. Full-width signs count too: some programs convert them. Spaces,
# quotes and our own apostrophe may stand before.
_SIGNS = "=+\\-@＝＋－＠"
_FIRST, _LATER = rf"(?=['\" ]*[{_SIGNS}\t\r\n])", rf"(?=['\" ]*[{_SIGNS}])"
# Where cells are split at semicolons, as in many countries, or at tabs, quotes inside a line do not count: each piece
# of a text is the beginning of a cell.
_UNSAFE = re.compile(rf"\A{_FIRST}|(?<=[;\t\r\n]){_LATER}")
_ESCAPED = re.compile(rf"\A'{_FIRST}|(?<=[;\t\r\n])'{_LATER}")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


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
    """

    path: Path
    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add_problem(
        self, code: str, row: int | None, column: str, value: str, message: str, remedy: str, *own: str
    ) -> None:
        """Note a problem; `own` are words of the message that belong to this row alone, such as its slide_id."""
        self.problems.append(
            Problem(code=code, row=row, column=column, value=value, message=message, remedy=remedy, own=own)
        )

    def check_header(self, required: Sequence[str], allowed: Collection[str], remedy: str) -> None:
        """Note columns that are unknown, there twice, or missing; `remedy` goes with the unknown ones."""
        for name in dict.fromkeys(self.header):
            if name not in allowed:
                self.add_problem("INPUT_UNSUPPORTED", None, name, "", "unknown column", remedy)
        for name in dict.fromkeys(self.header):
            if self.header.count(name) > 1:
                self.add_problem("INPUT_UNSUPPORTED", None, name, "", "the column stands twice", "remove one")
        for name in required:
            if name not in self.header:
                self.add_problem("INPUT_MISSING", None, name, "", "the column is missing", "add it")

    def raise_problems(self) -> None:
        """Raise if anything was wrong.

        Raises
        ------
        TableError
            Lists every problem by row.
        """
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


def read_csv_table(
    path: Path,
    *,
    kind: str,
    item: str,
    required: Sequence[str],
    optional: Sequence[str],
    pattern: tuple[str, str] | None = None,
) -> CsvTable:
    """Read a CSV file: UTF-8 with or without a byte order mark, commas, one header line.

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
    lines = _lines(table, kind, item, required)
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
            table.rows.append((number, dict(zip(table.header, cells, strict=True))))
        else:
            # A comma inside a path shifts all cells behind it: none of them can be trusted.
            message = f"{len(cells)} cells under {len(table.header)} columns"
            table.add_problem("INPUT_CORRUPT", number, "", "", message, "quote cells that hold a comma")
    return table


def _lines(table: CsvTable, kind: str, item: str, required: Sequence[str]) -> list[list[str]]:
    """Return the cells of each line; none where the file as a whole is unusable, which is noted."""
    try:
        # Bytes, not text: line ends inside a quoted cell must stay as they are.
        text = table.path.read_bytes().decode("utf-8-sig")
        if separator := _other_separator(text, required):
            table.add_problem("INPUT_UNSUPPORTED", None, "", "", f"separated by {separator}, not by commas",
                              "save it as CSV with commas between the cells")  # fmt: skip
        elif not text.strip():
            table.add_problem("INPUT_MISSING", None, "", "", "the file is empty",
                              f"write a header and one row per {item}")  # fmt: skip
        else:
            return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputMissingError(
            f"no {kind} {table.path.name}", place=str(table.path), remedy="check the path"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        table.add_problem("INPUT_CORRUPT", None, "", "", f"not a UTF-8 CSV file: {error}", "save it as CSV, UTF-8")
    return []


def _other_separator(text: str, required: Sequence[str]) -> str:
    """Return what separates the cells in place of commas (``semicolons``, ``tabs``); nothing if commas do."""
    header = text.splitlines()[0] if text.strip() else ""
    for mark, word in _OTHER_SEPARATORS.items():
        cells = {cell.strip().strip('"') for cell in header.split(mark)}
        # A name of a column may hold a semicolon: only a required one that stands alone proves the separator.
        if mark in header and cells & set(required):
            return word
    return ""
