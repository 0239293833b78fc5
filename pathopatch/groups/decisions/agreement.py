"""Compare what reviewers decided of the same slides and patches."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict
from itertools import combinations
from typing import Any, NamedTuple

from pathopatch.core.csv_table import escape_formulas
from pathopatch.groups.decisions.decision import UNDO, RecordedDecision
from pathopatch.metrics.agreement import agreement

COLUMNS = (
    "slide_id", "x", "y", "reviewer_1", "verdict_1", "note_1", "reviewer_2", "verdict_2", "note_2", "agree",
)  # fmt: skip
"""Columns of `pairs_csv`."""

_Subject = tuple[str, int | None, int | None, str]


class Pair(NamedTuple):
    """Two reviewers' decisions on one slide or patch."""

    first: RecordedDecision
    second: RecordedDecision

    @property
    def agrees(self) -> bool:
        """Whether the verdicts are equal."""
        return self.first.verdict == self.second.verdict


def own_decisions(rows: Iterable[RecordedDecision]) -> dict[str, dict[_Subject, RecordedDecision]]:
    """Return each reviewer's latest decision on each slide and patch that was not withdrawn, by reviewer and subject.

    A later decision of somebody else does not replace it.
    """
    ordered = sorted(rows, key=lambda row: row.order)
    withdrawn = {row.undoes for row in ordered}
    own: dict[str, dict[_Subject, RecordedDecision]] = {}
    for row in ordered:
        if row.verdict != UNDO and row.id not in withdrawn and row.kind != "region":
            own.setdefault(row.reviewer.strip(), {})[row.subject] = row
    return dict(sorted(own.items()))


def decision_pairs(rows: Iterable[RecordedDecision]) -> list[Pair]:
    """Return the decisions of each two reviewers on the same slide or patch, by slide and place.

    Verdicts on slides are about the map: pairs that saw different heatmaps are left out. Those on patches are about
    the tissue.
    """
    own = own_decisions(rows)
    pairs = [
        Pair(own[one][subject], own[other][subject])
        for one, other in combinations(own, 2)
        for subject in own[one].keys() & own[other].keys()
    ]
    comparable = [pair for pair in pairs if pair.first.kind == "patch" or _saw_one_map(pair)]
    return sorted(comparable, key=_order)


def agreement_summary(rows: Iterable[RecordedDecision]) -> dict[str, Any]:
    """Return, as JSON values, who decided how much, how each two reviewers agree, and what they differ in.

    ``reviewers``: name, slides, patches. ``agreements``: first, second, kind, and the values of `Agreement`, None where
    it has NaN. ``differences``: slide_id, x, y, and of both decisions reviewer, verdict, reason and comment.
    """
    rows = list(rows)
    own = own_decisions(rows)
    pairs = decision_pairs(rows)
    reviewers = [
        {
            "name": name,
            "slides": sum(row.kind == "slide" for row in of_one.values()),
            "patches": sum(row.kind == "patch" for row in of_one.values()),
        }
        for name, of_one in own.items()
    ]
    agreements = []
    for one, other in combinations(own, 2):
        for kind in ("slide", "patch"):
            of_both = [
                pair
                for pair in pairs
                if pair.first.kind == kind
                and (pair.first.reviewer.strip(), pair.second.reviewer.strip()) == (one, other)
            ]
            first, second = ([pair[at].verdict for pair in of_both] for at in (0, 1))
            values = asdict(agreement(first, second, [pair.first.slide_id for pair in of_both]))
            known = {name: None if math.isnan(value) else value for name, value in values.items()}
            agreements.append({"first": one, "second": other, "kind": kind, **known})
    differences = [
        {
            "slide_id": pair.first.slide_id,
            "x": pair.first.x,
            "y": pair.first.y,
            "decisions": [
                {name: getattr(row, name) for name in ("reviewer", "verdict", "reason", "comment")} for row in pair
            ],
        }
        for pair in pairs
        if not pair.agrees
    ]
    return {"reviewers": reviewers, "agreements": agreements, "differences": differences}


def pairs_csv(rows: Iterable[RecordedDecision]) -> str:
    """Return what `decision_pairs` finds as CSV with the columns `COLUMNS`, safe to open in a spreadsheet."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for pair in decision_pairs(rows):
        texts = [
            escape_formulas(text)
            for row in pair
            for text in (row.reviewer, row.verdict, ": ".join(filter(None, (row.reason, row.comment))))
        ]
        writer.writerow([pair.first.slide_id, pair.first.x, pair.first.y, *texts, str(pair.agrees).lower()])
    return stream.getvalue()


def _saw_one_map(pair: Pair) -> bool:
    return pair.first.fingerprint == pair.second.fingerprint


def _order(pair: Pair) -> tuple[str, int, int, str, str]:
    place = (-1, -1) if pair.first.x is None or pair.first.y is None else (pair.first.y, pair.first.x)
    return pair.first.slide_id, *place, pair.first.reviewer, pair.second.reviewer
