"""How do decisions look as CSV and as JSON, and how are they read back? Every mistake in a file is told.

Free text that a spreadsheet would take for a formula begins with an apostrophe there, which reading takes off.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.groups.decisions.decision import UNDO, RecordedDecision, current_decisions, latest_decision, utc_text
from pathopatch.slides.manifest.separator import REMEDY, other_separator

COLUMNS = (
    "slide_id", "x", "y", "verdict", "reason", "comment", "reviewer", "made", "fingerprint", "run", "threshold",
    "stands", "id", "undoes",
)  # fmt: skip
"""Of an exported file. ``stands``: the row counts, nothing later replaced or withdrew it."""

_REQUIRED = ("slide_id", "verdict", "reviewer")
_TEXT = ("reason", "comment", "reviewer", "fingerprint", "run")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")
_MOST_TOLD = 20


def decisions_csv(rows: Iterable[RecordedDecision]) -> str:
    """Return decisions as CSV with the columns `COLUMNS`, harmless in a spreadsheet.

    Parameters
    ----------
    rows : iterable of RecordedDecision
        In the order in which they were written.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\r\n")  # so that a lone CR in a cell is quoted too
    writer.writeheader()
    for row in _told(rows):
        texts = {name: _escaped(row[name]) for name in _TEXT}
        writer.writerow(row | texts | {"stands": str(row["stands"]).lower()})
    return stream.getvalue()


def decisions_json(rows: Iterable[RecordedDecision]) -> str:
    """Return decisions as JSON: the list ``decisions``, each with the names of `COLUMNS`; text is not escaped."""
    return json.dumps({"decisions": _told(rows)}, indent=1, ensure_ascii=False) + "\n"


def _told(rows: Iterable[RecordedDecision]) -> list[dict[str, Any]]:
    """Return each row's values by column."""
    every = list(rows)
    stands = {row.id for row in current_decisions(every)}
    return [{name: (row.to_dict() | {"stands": row.id in stands})[name] for name in COLUMNS} for row in every]


def _escaped(text: str) -> str:
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def _plain(text: str) -> str:
    """Return what `_escaped` was given."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


def read_decisions(path: Path) -> list[RecordedDecision]:
    """Return the decisions of an exported file, or of one that was written by hand, in its order.

    Parameters
    ----------
    path : Path
        CSV (UTF-8, commas), or JSON if its name ends so. Only slide_id, verdict and reviewer are required. Without
        times rows count as later the further down they stand; without ids ``undo`` withdraws the slide's newest above.

    Returns
    -------
    list of RecordedDecision
        Their ids are those of the file, or the number of the row from 1 on; ``made`` is "" where it says none.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputCorruptError
        It is no CSV or JSON file of decisions.
    InputUnsupportedError
        Lists everything wrong in it, with row (of a spreadsheet; in JSON the place in the list), column and remedy.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_bytes().decode("utf-8-sig")  # line ends inside a cell stay as they are
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputMissingError(f"no file {path.name}", place=str(path), remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise InputCorruptError(f"not UTF-8: {error}", place=str(path), remedy="save it as UTF-8") from error
    records = _json_records(text, path) if is_json else _csv_records(text, path)
    reading = _Reading()
    for number, record in enumerate(records, start=1 if is_json else 2):
        reading.add(number, record)
    reading.compare()
    reading.complain(path)
    return list(reading.rows)


def _csv_records(text: str, path: Path) -> list[dict[str, str]]:
    """Return the cells of each row by column."""
    if separator := other_separator(text, ("slide_id",)):
        raise InputUnsupportedError(f"separated by {separator}, not by commas", place=str(path), remedy=REMEDY)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InputCorruptError(f"not CSV: {error}", place=str(path), remedy="save it as CSV, with commas") from error
    header = [name.strip() for name in lines[0]] if lines else []
    _check_columns(header, path)
    records = []
    for number, cells in enumerate(lines[1:], start=2):
        if cells and len(cells) != len(header):
            raise InputCorruptError(
                f"{len(cells)} cells under {len(header)} columns",
                place=f"{path}, row {number}",
                remedy="quote cells that hold a comma",
            )
        record = dict(zip(header, cells, strict=True)) if any(cells) else {}
        records.append(record | {name: _plain(record[name]) for name in _TEXT if name in record})
    return records


def _json_records(text: str, path: Path) -> list[dict[str, str]]:
    """Return the values of each decision as the text of a cell."""
    try:
        found = json.loads(text)
        items = found["decisions"]
        records = [{str(key): _cell(value) for key, value in item.items()} for item in items]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputCorruptError(
            f"not JSON of decisions: {error!r}", place=str(path), remedy="export them again, or use CSV"
        ) from error
    for record in records:
        _check_columns(list(record), path)
    return records


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _check_columns(header: Sequence[str], path: Path) -> None:
    """Refuse columns that are missing, unknown or there twice."""
    problems = [f"column {name!r} is missing" for name in _REQUIRED if name not in header]
    problems += [f"unknown column {name!r}" for name in dict.fromkeys(header) if name not in COLUMNS]
    problems += [f"column {name!r} stands twice" for name in dict.fromkeys(header) if header.count(name) > 1]
    if problems:
        raise InputUnsupportedError(
            "; ".join(problems), place=str(path), remedy=f"use {', '.join(COLUMNS)}, separated by commas"
        )


class _Reading:
    """The rows of a file on their way, and what was found wrong."""

    def __init__(self) -> None:
        self.rows: list[RecordedDecision] = []
        self.problems: list[str] = []
        self._numbers: dict[int, int] = {}  # id -> number of the row
        self._claims: dict[int, bool] = {}  # id -> what the column `stands` says

    def problem(self, number: int, column: str, message: str, remedy: str) -> None:
        """Note a problem."""
        self.problems.append(f"row {number}, column {column!r}: {message}. Remedy: {remedy}.")

    def add(self, number: int, record: Mapping[str, str]) -> None:
        """Take a row in; what is wrong in it is noted."""
        if not record:
            return
        before = len(self.problems)
        cells = _Cells(self, number, record)
        own = cells.whole("id")
        values: dict[str, Any] = {
            "slide_id": record["slide_id"].strip(), "verdict": record["verdict"].strip().casefold(),
            "x": cells.whole("x"), "y": cells.whole("y"), "threshold": cells.number("threshold"), "made": cells.time(),
            "id": number if own is None else own, **{name: record.get(name, "") for name in _TEXT},
        }  # fmt: skip
        if values["id"] in self._numbers:
            self.problem(number, "id", f"{values['id']} is that of row {self._numbers[values['id']]} too",
                         "import files one by one, or leave the columns id and undoes out")  # fmt: skip
        is_undo = values["verdict"] == UNDO
        values["undoes"] = self._withdrawn(number, cells.whole("undoes"), values["slide_id"]) if is_undo else None
        claim = cells.claim()
        if len(self.problems) > before:
            return
        try:
            row = RecordedDecision(**values)
        except PathopatchError as error:
            self.problem(number, error.place, error.message, error.remedy)
            return
        self.rows.append(row)
        self._numbers[row.id] = number
        if claim is not None:
            self._claims[row.id] = claim

    def _withdrawn(self, number: int, named: int | None, slide_id: str) -> int | None:
        """Return which row an undo withdraws; the slide's newest where it does not say."""
        above = [row for row in self.rows if row.slide_id == slide_id]
        if named is None:
            last = latest_decision(above)
            named = None if last is None else last.id
        known = {row.id for row in above if row.verdict != UNDO} - {row.undoes for row in above}
        if named not in known:
            self.problem(number, "undoes", "what this row withdraws does not stand above it", "remove this row too")
        return named

    def compare(self) -> None:
        """Note where the column `stands` says another thing than the rows do, since one of the two is a mistake."""
        if self.problems:
            return
        counted = {row.id for row in current_decisions(self.rows)}
        for name, claim in self._claims.items():
            if claim and name not in counted:
                self.problem(self._numbers[name], "stands", "it says true, but another row replaces or withdraws this",
                             "keep one of the two, or leave the column stands out")  # fmt: skip
            if not claim and name in counted and not self._is_undo(name):
                self.problem(self._numbers[name], "stands", "it says false, but no row replaces or withdraws this one",
                             "remove this row, or put the other one back")  # fmt: skip

    def _is_undo(self, name: int) -> bool:
        return any(row.id == name and row.verdict == UNDO for row in self.rows)

    def complain(self, path: Path) -> None:
        """Raise if anything was wrong."""
        if not self.problems:
            return
        more = len(self.problems) - _MOST_TOLD
        told = [*self.problems[:_MOST_TOLD], *([f"and {more} more"] if more > 0 else [])]
        raise InputUnsupportedError("\n  ".join(["decisions refused:", *told]), place=str(path))


class _Cells:
    """The cells of one row that are no free text."""

    def __init__(self, reading: _Reading, number: int, record: Mapping[str, str]) -> None:
        self.reading, self.row, self.record = reading, number, record

    def _text(self, column: str) -> str:
        return self.record.get(column, "").strip()

    def number(self, column: str) -> float | None:
        """Return a number; None of an empty cell."""
        text = self._text(column)
        try:
            value = float(text) if text else 0.0
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.reading.problem(self.row, column, f"{text!r} is no number", "write it with a point, or nothing")
        return value if text else None

    def whole(self, column: str) -> int | None:
        """Return a whole number, which other programs may have written as 64.0; None of an empty cell."""
        text = self._text(column)
        if text.lstrip("-").isdecimal():
            return int(text)
        value = self.number(column)
        if value is None or not math.isfinite(value):
            return None
        if value != int(value):
            self.reading.problem(self.row, column, f"{text!r} is no whole number", "write it without a fraction")
        return int(value)

    def time(self) -> str:
        """Return when the row was made; "" if it does not say."""
        text = self._text("made")
        if not text:
            return ""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.reading.problem(self.row, "made", f"{text!r} is no time with its zone",
                                 "write it as 2026-03-01T12:00:00Z, or leave it empty")  # fmt: skip
            return ""
        return utc_text(moment)

    def claim(self) -> bool | None:
        """Return what the column `stands` says; None if nothing."""
        text = self._text("stands").casefold()
        if text and text not in _TRUE + _FALSE:
            self.reading.problem(self.row, "stands", f"{text!r} is neither true nor false", "write one of them")
        return text in _TRUE if text else None
