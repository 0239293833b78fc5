"""Answers how decisions leave the log and come back: as CSV for spreadsheets, as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

from pathopatch.groups.decisions.decision import RecordedDecision
from pathopatch.groups.decisions.table import decisions_csv, decisions_json, read_decisions
from pathopatch.review.decisions import Decisions

__all__ = ["import_into", "read_decisions", "to_csv", "to_json"]


def to_csv(decisions: Decisions) -> str:
    """Return the whole log as CSV, harmless in a spreadsheet; see `pathopatch.groups.decisions.table`."""
    return decisions_csv(decisions.rows())


def to_json(decisions: Decisions) -> str:
    """Return the whole log as JSON."""
    return decisions_json(decisions.rows())


def import_into(decisions: Decisions, table: Sequence[RecordedDecision]) -> int:
    """Append what another log says and this one does not; return how many rows that were.

    By time, the latest verdict stands, wherever it was made. The same rows a second time change nothing.

    Parameters
    ----------
    decisions : Decisions
        The log.
    table : sequence of RecordedDecision
        As `read_decisions` returns it.

    Raises
    ------
    SlideTimeoutError, DiskFullError, InputUnsupportedError, InputCorruptError
        They could not be written; nothing was.
    """
    return decisions.merge(table)
