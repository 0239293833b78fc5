"""Which decisions of two reviewers are compared, and what they differ in."""

from __future__ import annotations

import json
from typing import Any

from pathopatch.groups.decisions.agreement import decision_pairs, own_decisions
from pathopatch.groups.decisions.decision import RecordedDecision
from pathopatch.review.reading import agreement_summary

SQUARE = "POLYGON ((0 0, 9 0, 9 9, 0 0))"


def log(*decisions: dict[str, Any]) -> list[RecordedDecision]:
    defaults = {"slide_id": "s1", "verdict": "accept", "fingerprint": "f"}
    return [
        RecordedDecision(**{**defaults, **values, "id": n, "made": f"2026-01-01T00:00:{n:02d}.000000Z"})
        for n, values in enumerate(decisions, 1)
    ]


def ada(**values: Any) -> dict[str, Any]:
    return {"reviewer": "Ada", **values}


def bo(**values: Any) -> dict[str, Any]:
    return {"reviewer": "Bo", **values}


def verdicts(rows: list[RecordedDecision]) -> list[tuple[Any, ...]]:
    return [
        (pair.first.slide_id, pair.first.x, pair.first.verdict, pair.second.verdict) for pair in decision_pairs(rows)
    ]


def test_each_reviewers_latest_decision_counts_though_another_one_came_later() -> None:
    rows = log(ada(), ada(verdict="reject"), bo(), ada(slide_id="s2"))
    assert verdicts(rows) == [("s1", None, "reject", "accept")]
    assert {name: len(own) for name, own in own_decisions(rows).items()} == {"Ada": 2, "Bo": 1}


def test_a_withdrawn_decision_does_not_count_whoever_withdrew_it() -> None:
    rows = log(ada(verdict="flag"), ada(), bo(), bo(verdict="undo", undoes=2))
    assert verdicts(rows) == [("s1", None, "flag", "accept")]
    assert verdicts([*rows, *log(*[bo()] * 4, ada(verdict="undo", undoes=3))[4:]]) == []


def test_verdicts_on_two_maps_of_a_slide_are_not_compared_but_labels_are() -> None:
    label = {"x": 64, "y": 0, "verdict": "tumour"}
    rows = log(ada(), bo(fingerprint="g"), ada(**label), bo(**label | {"fingerprint": "g"}))
    assert verdicts(rows) == [("s1", 64, "tumour", "tumour")]


def test_regions_are_not_compared() -> None:
    assert verdicts(log(ada(verdict="tumour", region=SQUARE), bo(verdict="tumour", region=SQUARE))) == []


def test_the_summary_has_counts_agreement_and_differences() -> None:
    rows = log(
        ada(), bo(verdict="reject", reason="out of focus", comment="left"),
        ada(slide_id="s2"), bo(slide_id="s2"),
        ada(x=64, y=32, verdict="tumour"), bo(x=64, y=32, verdict="unsure"), ada(x=0, y=32, verdict="tumour"),
    )  # fmt: skip
    summary = json.loads(json.dumps(agreement_summary(rows), allow_nan=False))
    assert summary["reviewers"] == [
        {"name": "Ada", "slides": 2, "patches": 2}, {"name": "Bo", "slides": 2, "patches": 1},
    ]  # fmt: skip
    slides, patches = summary["agreements"]
    assert slides == {
        "first": "Ada", "second": "Bo", "kind": "slide", "n": 2, "n_slides": 2, "n_agreed": 1, "kappa": 0.0,
        "low": None, "high": None, "counts": {"accept": {"accept": 1, "reject": 1}},
    }  # fmt: skip
    assert (patches["kind"], patches["n"], patches["n_agreed"], patches["kappa"]) == ("patch", 1, 0, 0.0)
    assert [(one["slide_id"], one["x"], one["y"]) for one in summary["differences"]] == [
        ("s1", None, None),
        ("s1", 64, 32),
    ]
    assert summary["differences"][0]["decisions"] == [
        {"reviewer": "Ada", "verdict": "accept", "reason": "", "comment": ""},
        {"reviewer": "Bo", "verdict": "reject", "reason": "out of focus", "comment": "left"},
    ]


def test_three_reviewers_are_three_pairs_and_one_is_none() -> None:
    three = agreement_summary(log(ada(), bo(), {"reviewer": "Cy"}))
    assert [(one["first"], one["second"]) for one in three["agreements"] if one["kind"] == "slide"] == [
        ("Ada", "Bo"), ("Ada", "Cy"), ("Bo", "Cy"),
    ]  # fmt: skip
    assert agreement_summary(log(ada()))["agreements"] == []
    assert agreement_summary([]) == {"reviewers": [], "agreements": [], "differences": []}
