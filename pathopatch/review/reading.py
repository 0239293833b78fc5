"""Compare what several reviewers decided: work lists, disputes, blinded reading, and agreement."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

from pathopatch.core.errors import ReviewConflictError
from pathopatch.groups.decisions.agreement import agreement, decision_pairs, own_decisions
from pathopatch.groups.decisions.decision import UNDO, Decision, RecordedDecision


def standing_verdicts(rows: Iterable[RecordedDecision], fingerprint: str) -> list[RecordedDecision]:
    """Return all verdicts on one slide and its heatmap of this fingerprint that nobody withdrew, adjudications too."""
    rows = list(rows)
    withdrawn = {row.undoes for row in rows}
    verdicts = [row for row in rows if row.kind == "slide" and row.verdict != UNDO and row.id not in withdrawn]
    return sorted((row for row in verdicts if row.fingerprint == fingerprint), key=lambda row: row.order)


def has_read(rows: Iterable[RecordedDecision], reviewer: str, fingerprint: str) -> bool:
    """Return whether a verdict of the reviewer on this slide and heatmap stands."""
    return any(row.reviewer.strip() == reviewer.strip() for row in standing_verdicts(rows, fingerprint))


def visible_rows(
    rows: Iterable[RecordedDecision], reviewer: str, fingerprint_of: Callable[[str], str]
) -> list[RecordedDecision]:
    """Return what a reviewer of a blinded folder may see, of all rows of some slides.

    Those are all rows of the slides that he has read, see `has_read`, and his own rows of the others. Their revisions
    are counted anew: a gap would say that others have decided.
    """
    by_slide: dict[str, list[RecordedDecision]] = defaultdict(list)
    for row in rows:
        by_slide[row.slide_id].append(row)
    visible: list[RecordedDecision] = []
    for slide_id, of_slide in by_slide.items():
        if not has_read(of_slide, reviewer, fingerprint_of(slide_id)):
            own = (row for row in of_slide if row.reviewer.strip() == reviewer.strip())
            of_slide = [replace(row, revision=number) for number, row in enumerate(own, 1)]
        visible += of_slide
    return sorted(visible, key=lambda row: row.id)


def latest_readings(rows: Sequence[RecordedDecision], slide_id: str) -> list[RecordedDecision]:
    """Return each reviewer's latest verdict on a slide, by name, on whichever heatmap; no adjudication."""
    subject = (slide_id, None, None, "")
    return [own[subject] for own in own_decisions(rows).values() if subject in own]


def dispute(rows: Sequence[RecordedDecision], slide_id: str, fingerprint: str) -> list[RecordedDecision]:
    """Return two readers' differing verdicts on a slide's current heatmap that nobody settled; none without a dispute.

    Whoever settled a dispute weighed the two verdicts named: a reading that repeats one of them opens no new dispute.
    """
    readings = [row for row in latest_readings(rows, slide_id) if row.fingerprint == fingerprint]
    verdict_of = {row.id: row.verdict for row in rows}
    weighed: set[str | None] = set()
    for row in standing_verdicts(rows, fingerprint):
        if row.settles:
            weighed |= {row.verdict, *map(verdict_of.get, row.settled_ids)}
    for one in readings:
        for other in readings:
            if one.verdict != other.verdict and one.verdict not in weighed:
                return sorted((one, other), key=lambda row: row.id)
    return []


def require_dispute(rows: Sequence[RecordedDecision], decision: Decision, fingerprint: str) -> None:
    """Refuse an adjudication of other verdicts than two that differ and stand on the slide; ReviewConflictError."""
    readings = {row.id: row for row in latest_readings(rows, decision.slide_id) if row.fingerprint == fingerprint}
    settled = [readings[one].verdict for one in decision.settled_ids if one in readings]
    if decision.settles and len(set(settled)) < 2:
        raise ReviewConflictError(
            f"rows {decision.settles} are not two verdicts that differ and stand on this heatmap",
            place=decision.slide_id,
            remedy="reload the page and look again",
        )


def reading_state(
    rows: Sequence[RecordedDecision], slide_id: str, reviewer: str | None, fingerprint: str
) -> dict[str, Any]:
    """Return, as JSON values, how far the readings of a slide are, by the rows that the reviewer may see.

    ``verdicts``: reviewer, verdict and outdated, of each reviewer's latest. ``is_mine_done``: the reviewer has a
    verdict on the current heatmap. ``dispute``: id, reviewer and verdict of two that differ, see `dispute`.
    """
    return {
        "verdicts": [
            {"reviewer": row.reviewer, "verdict": row.verdict, "outdated": row.fingerprint != fingerprint}
            for row in latest_readings(rows, slide_id)
        ],
        "is_mine_done": reviewer is not None and has_read(rows, reviewer, fingerprint),
        "dispute": [
            {"id": row.id, "reviewer": row.reviewer, "verdict": row.verdict}
            for row in dispute(rows, slide_id, fingerprint)
        ],
    }


def agreement_summary(rows: Iterable[RecordedDecision]) -> dict[str, Any]:
    """Return, as JSON values, who decided how much, how each two reviewers agree, and what they differ in.

    ``reviewers``: name, slides, patches. ``agreements``: first, second, kind, the values of `Agreement`, None where it
    has NaN, and ``counts``, the items by the first's verdict, then the second's. ``differences``: slide_id, x, y, and
    of both decisions reviewer, verdict, reason and comment.
    """
    rows = list(rows)
    decisions_of = own_decisions(rows)
    pairs = decision_pairs(rows)
    reviewers = [
        {
            "name": name,
            "slides": sum(row.kind == "slide" for row in of_one.values()),
            "patches": sum(row.kind == "patch" for row in of_one.values()),
        }
        for name, of_one in decisions_of.items()
    ]
    agreements = []
    for one, other in combinations(decisions_of, 2):
        for kind in ("slide", "patch"):
            of_both = [
                pair
                for pair in pairs
                if pair.first.kind == kind
                and (pair.first.reviewer.strip(), pair.second.reviewer.strip()) == (one, other)
            ]
            first, second = ([pair[at].verdict for pair in of_both] for at in (0, 1))
            values = asdict(agreement(first, second, [pair.first.slide_id for pair in of_both]))
            finite = {name: None if math.isnan(value) else value for name, value in values.items()}
            counts: dict[str, Counter[str]] = {}
            for verdict, of_other in zip(first, second, strict=True):
                counts.setdefault(verdict, Counter())[of_other] += 1
            agreements.append({"first": one, "second": other, "kind": kind, **finite, "counts": counts})
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
