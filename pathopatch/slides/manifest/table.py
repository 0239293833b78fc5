"""Which columns and cells does the CSV file have, and what was found wrong in it? Problems are collected."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from pathopatch.core.errors import InputMissingError, Problem
from pathopatch.slides.manifest.separator import REMEDY, other_separator

_REQUIRED = ("slide_id", "patient_id")
_OPTIONAL = (
    "split", "path", "channels", "mpp", "tumor_mask", "labelled_mask", "annotations", "tissue_mask", "background",
    "exclude",
)  # fmt: skip
_CHANNEL_COLUMN = re.compile(r"path:([A-Za-z][A-Za-z0-9_.-]*)")


class Table:
    """The cells of the file, and the problems found so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.records: list[tuple[int, dict[str, str]]] = []
        lines = self._lines(path)
        header = [name.strip() for name in lines[0]] if lines else []
        self._check_header(header)
        for number, cells in enumerate(lines[1:], start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                self.add("INPUT_CORRUPT", number, "", "", f"{len(cells)} cells under {len(header)} columns",
                         "quote cells that hold a comma")  # fmt: skip
                continue
            named = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            self.records.append((number, named))
        if not self.records and not self.problems:
            self.add("INPUT_MISSING", None, "slide_id", "", "no rows", "write one row per slide")

    def _lines(self, path: Path) -> list[list[str]]:
        """Return the cells of each line; none where something is wrong with the file itself, which is noted."""
        try:
            text = path.read_text("utf-8-sig")
            if separator := other_separator(text, _REQUIRED):
                self.add("INPUT_UNSUPPORTED", None, "", "", f"separated by {separator}, not by commas", REMEDY)
                return []
            if not text.strip():
                self.add("INPUT_MISSING", None, "", "", "the file is empty", "write a header and one row per slide")
                return []
            return list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise InputMissingError(f"no manifest {path.name}", place=str(path), remedy="check the path") from error
        except (UnicodeDecodeError, csv.Error) as error:
            self.add("INPUT_CORRUPT", None, "", "", f"not a UTF-8 CSV file: {error}", "save it as CSV, UTF-8")
            return []

    def _check_header(self, header: list[str]) -> None:
        self.channel_columns = {m[1]: name for name in header if (m := _CHANNEL_COLUMN.fullmatch(name))}
        known = {*_REQUIRED, *_OPTIONAL, *self.channel_columns.values()}
        for name in header:
            if name not in known:
                self.add("INPUT_UNSUPPORTED", None, name, "", "unknown column",
                         f"use {', '.join(_REQUIRED + _OPTIONAL)} or path:NAME")  # fmt: skip
        for name in sorted({name for name in header if header.count(name) > 1}):
            self.add("INPUT_UNSUPPORTED", None, name, "", "the column stands twice", "remove one")
        for name in _REQUIRED if header else ():
            if name not in header:
                self.add("INPUT_MISSING", None, name, "", "the column is missing", "add it")
        if header and "path" not in header and not self.channel_columns:
            self.add("INPUT_MISSING", None, "path", "", "no column names the files", "add path or path:NAME")

    def add(self, code: str, row: int | None, column: str, value: str, message: str, remedy: str, *own: str) -> None:
        """Note a problem; `own` are words of the message that belong to this row alone."""
        self.problems.append(
            Problem(code=code, row=row, column=column, value=value, message=message, remedy=remedy, own=own)
        )
