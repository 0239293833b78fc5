"""Write reviewers' decisions as CSV, and read them back with every mistake in the file listed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pathopatch.core.csv_table import CsvTable, escape_formulas, read_csv_table, unescape_formulas
from pathopatch.core.errors import PathopatchError
from pathopatch.core.text import parse_number
from pathopatch.groups.decisions.decision import (
    DISPUTED,
    UNDO,
    RecordedDecision,
    StandingDecisions,
    latest_decision,
    utc_text,
)

COLUMNS = (
    "slide_id", "x", "y", "verdict", "reason", "comment", "reviewer", "made", "fingerprint", "run", "threshold",
    "stands", "id", "undoes", "sorted_as", "region", "settles", DISPUTED,
)  # fmt: skip
"""Columns of an exported file. ``stands``: the row counts, or is its reviewer's latest, and was not withdrawn.

``disputed``: reviewers differ, and the row is a verdict that stands. For the others see `RecordedDecision`.
"""

_REQUIRED = ("slide_id", "verdict", "reviewer")
_TEXT_COLUMNS = ("reason", "comment", "reviewer", "fingerprint", "run")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def decisions_csv(rows: Iterable[RecordedDecision]) -> str:
    """Return decisions as CSV with the columns `COLUMNS`, safe to open in a spreadsheet, wherever it splits."""
    rows = list(rows)
    standing = StandingDecisions(rows)
    disputed = {subject for subject, one in standing.by_subject.items() if one.dispute}
    stream = io.StringIO(newline="")
    # CRLF, so that the csv module also quotes a cell that holds a lone CR.
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        texts = {name: escape_formulas(getattr(row, name)) for name in _TEXT_COLUMNS}
        stands = standing.stands(row)
        marks = {"stands": stands, DISPUTED: stands and row.subject in disputed}
        writer.writerow(row.to_dict() | texts | {name: str(is_true).lower() for name, is_true in marks.items()})
    return stream.getvalue()


def read_decisions(path: Path) -> list[RecordedDecision]:
    """Return the decisions of an exported or handwritten CSV file (UTF-8, commas), in its order.

    Only slide_id, verdict and reviewer are required. Without an id a decision has the number of its row, and ``made``
    is "" without a time: such rows count as later the further down they are. An ``undo`` without an id withdraws its
    reviewer's latest decision on the slide above.

    Raises
    ------
    InputMissingError
        There is no such file.
    TableError
        Lists everything wrong in it, with row of a spreadsheet, column and remedy.
    """
    optional = [name for name in COLUMNS if name not in _REQUIRED]
    table = read_csv_table(path, kind="file", item="decision", required=_REQUIRED, optional=optional)
    # Cells can only be parsed where all columns are known.
    table.raise_problems()
    read: dict[int, tuple[RecordedDecision, _Cells]] = {}
    for number, cells in table.rows:
        texts = {name: unescape_formulas(cells[name]) for name in _TEXT_COLUMNS if name in cells}
        row = _Cells(table, number, cells | texts)
        if (decision := _decision(row, read)) is not None:
            read[decision.id] = decision, row
    # After a problem rows are missing, and what they replaced would seem to count.
    table.raise_problems()
    decisions = [decision for decision, _ in read.values()]
    standing = StandingDecisions(decisions)
    current_ids = {one.decision.id for one in standing.by_subject.values()}
    for decision, row in read.values():
        # Where the column contradicts the other rows, one of the two is a mistake. Of a reading that a colleague's
        # later one did not replace, earlier versions said false.
        stands = row.boolean("stands")
        if stands and not standing.stands(decision):
            row.add_problem("stands", "it says true, but another row replaces or withdraws this one",
                            "keep one of the two, or leave the column stands out")  # fmt: skip
        if stands is False and decision.id in current_ids:
            row.add_problem("stands", "it says false, but no row replaces or withdraws this one",
                            "remove this row, or put the other one back")  # fmt: skip
    table.raise_problems()
    return decisions


def _decision(cells: _Cells, above: Mapping[int, tuple[RecordedDecision, _Cells]]) -> RecordedDecision | None:
    """Return the decision of a row, or None with its problems noted; `above` are those before it, by id."""
    problems_before = len(cells.table.problems)
    stated_id = cells.integer("id")
    values: dict[str, Any] = {
        "slide_id": cells.text("slide_id"),
        "verdict": cells.text("verdict").casefold(),
        "x": cells.integer("x"),
        "y": cells.integer("y"),
        "threshold": cells.number("threshold"),
        "made": cells.time("made"),
        "sorted_as": cells.time("sorted_as"),
        "region": cells.text("region"),
        "settles": cells.text("settles"),
        "id": cells.row if stated_id is None else stated_id,
        "undoes": None,
        **{name: cells.cells.get(name, "") for name in _TEXT_COLUMNS},
    }
    cells.boolean("stands")
    if values["id"] in above:
        cells.add_problem("id", f"{values['id']} is the id of row {above[values['id']][1].row} too",
                          "import files one by one, or leave the columns id and undoes out")  # fmt: skip
    if values["verdict"] == UNDO:
        of_slide = [row for row, _ in above.values() if row.slide_id == values["slide_id"]]
        withdrawn = cells.integer("undoes")
        # Without an id in the file, the reviewer's latest decision is withdrawn.
        if withdrawn is None and (latest := latest_decision(of_slide, values["reviewer"])) is not None:
            withdrawn = latest.id
        if withdrawn not in {row.id for row in of_slide if row.verdict != UNDO} - {row.undoes for row in of_slide}:
            cells.add_problem("undoes", "the row that it withdraws is not above it", "remove this row too")
        values["undoes"] = withdrawn
    if len(cells.table.problems) > problems_before:
        return None
    try:
        decision = RecordedDecision(**values)
        if not set(decision.settled_ids) <= {row.id for row, _ in above.values() if row.subject == decision.subject}:
            cells.add_problem("settles", "a verdict that it settles is not above it", "remove this row too")
        return decision
    except PathopatchError as error:
        message = error.message.removeprefix(f"{cells.cells.get(error.place, '')!r}: ")
        cells.add_problem(error.place, message, error.remedy)
        return None


@dataclass(frozen=True)
class _Cells:
    """One row of a table: its number, and its cells as text by column."""

    table: CsvTable
    row: int
    cells: Mapping[str, str]

    def add_problem(self, column: str, message: str, remedy: str) -> None:
        value = self.cells.get(column, "")
        self.table.add_problem("INPUT_UNSUPPORTED", self.row, column, value, message, remedy)

    def text(self, column: str) -> str:
        return self.cells.get(column, "").strip()

    def number(self, column: str) -> float | None:
        """Return a finite number; None of an empty cell."""
        text = self.text(column)
        try:
            value = parse_number(text) if text else 0.0
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.add_problem(column, "not a number", "write it with a point, or nothing")
            return None
        return value if text else None

    def integer(self, column: str) -> int | None:
        """Return a whole number; None of an empty cell."""
        text = self.text(column)
        # Not through float, which loses the last digits of large numbers.
        if text.lstrip("-").isdecimal():
            return int(text)
        # Spreadsheets write 64 as 64.0 once a column has an empty cell.
        value = self.number(column)
        if value is not None and value != int(value):
            self.add_problem(column, "not a whole number", "write it without a fraction")
        return None if value is None else int(value)

    def time(self, column: str) -> str:
        """Return a time as `utc_text` writes it; "" of an empty cell."""
        text = self.text(column)
        try:
            moment = datetime.fromisoformat(text) if text else None
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None:
            return utc_text(moment)
        if text:
            self.add_problem(column, "not a time with its zone",
                             "write it as 2026-03-01T12:00:00Z, or leave it empty")  # fmt: skip
        return ""

    def boolean(self, column: str) -> bool | None:
        """Return whether a cell says true; None of an empty cell."""
        text = self.text(column).casefold()
        if text and text not in _TRUE + _FALSE:
            self.add_problem(column, "neither true nor false", "write one of them")
        return text in _TRUE if text else None
