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
from pathopatch.groups.decisions.decision import (
    FIELDS,
    Decision,
    RecordedDecision,
    Standing,
    StandingDecisions,
    latest_decision,
)


def has_read(standing: StandingDecisions, slide_id: str, reviewer: str, fingerprint: str | None) -> bool:
    """Return whether the reviewer gave a verdict on this slide and heatmap that was not withdrawn."""
    of_slide = standing.by_subject.get((slide_id, None, None, ""))
    return of_slide is not None and (reviewer.strip(), fingerprint) in of_slide.readers


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
        if not has_read(StandingDecisions(of_slide), slide_id, reviewer, fingerprint_of(slide_id)):
            own = (row for row in of_slide if row.reviewer.strip() == reviewer.strip())
            of_slide = [replace(row, revision=number) for number, row in enumerate(own, 1)]
        visible += of_slide
    return sorted(visible, key=lambda row: row.id)


def require_dispute(standing: StandingDecisions, decision: Decision) -> None:
    """Refuse an adjudication of other verdicts than two that differ and stand on the same; ReviewConflictError."""
    one = standing.by_subject.get(decision.subject)
    is_patch = decision.kind == "patch"
    readings = one.readings if one is not None else ()
    verdict_of = {row.id: row.verdict for row in readings if is_patch or row.fingerprint == standing.fingerprint}
    if decision.settles and len({verdict_of.get(each) for each in decision.settled_ids} - {None}) < 2:
        raise ReviewConflictError(
            f"rows {decision.settles} are not two verdicts that differ and stand on this heatmap",
            place=decision.slide_id,
            remedy="reload the page and look again",
        )


def json_row(row: RecordedDecision, fingerprint: str | None, names: Sequence[str] = FIELDS) -> dict[str, Any]:
    """Return a row's values for JSON; ``outdated``: it was made of another heatmap."""
    return {name: getattr(row, name) for name in names} | {"outdated": row.fingerprint != fingerprint}


def readings_state(standing: Standing | None, fingerprint: str | None) -> dict[str, Any]:
    """Return, as JSON values, what reviewers decided on a slide or patch.

    ``verdicts``: of each reviewer's latest; ``dispute``: of two that differ, see `Standing`; each with id, reviewer,
    verdict, reason, comment and outdated.
    """
    names = ("id", "reviewer", "verdict", "reason", "comment")
    verdicts, dispute = ((), ()) if standing is None else (standing.readings, standing.dispute)
    return {
        "verdicts": [json_row(row, fingerprint, names) for row in verdicts],
        "dispute": [json_row(row, fingerprint, names) for row in dispute],
    }


def reading_state(
    rows: Sequence[RecordedDecision], standing: StandingDecisions, slide_id: str, reviewer: str | None
) -> dict[str, Any]:
    """Return, as JSON values, how far the readings of a slide are, by the rows that the reviewer may see.

    Those of `readings_state`. ``is_mine_done``: the reviewer has a verdict on the current heatmap. ``can_undo``: one of
    the reviewer's decisions stands.
    """
    of_slide = standing.by_subject.get((slide_id, None, None, ""))
    return {
        **readings_state(of_slide, standing.fingerprint),
        "is_mine_done": reviewer is not None and has_read(standing, slide_id, reviewer, standing.fingerprint),
        "can_undo": reviewer is not None and latest_decision(rows, reviewer) is not None,
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
