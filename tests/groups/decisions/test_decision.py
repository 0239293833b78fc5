"""Rejected slides go, relabelled patches change, and what cannot be applied is an error and no silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, LabelConflictError
from pathopatch.groups.decisions.decision import RecordedDecision, apply_decisions, decision_summary


def patches(**columns: Any) -> pd.DataFrame:
    rows = [(f"{slide}@{x},0", slide, label) for slide in ("a", "b", "c") for x, label in ((0, 1), (64, 0), (128, -1))]
    return pd.DataFrame(rows, columns=["patch_id", "slide_id", "label"]).assign(**columns)


def rows(*decisions: tuple[Any, ...]) -> list[RecordedDecision]:
    return [
        RecordedDecision(slide_id=slide, x=x, y=None if x is None else 0, verdict=verdict, reviewer=reviewer, id=n,
                 made=f"2026-01-01T00:00:{n:02d}.000000Z")
        for n, (slide, x, verdict, reviewer) in enumerate(decisions, 1)
    ]  # fmt: skip


def test_rejected_slides_go_and_patches_take_the_verdict_as_their_label() -> None:
    before = patches()
    applied = apply_decisions(
        before,
        rows(("a", None, "reject", "Ada"), ("b", 0, "non-tumour", "Bo"), ("b", 64, "unsure", "Bo"),
             ("c", 128, "tumour", "Ada"), ("c", 0, "tumour", "Ada"), ("c", None, "accept", "Ada"),
             ("b", None, "flag", "Bo"), ("z", None, "reject", "Cy"), ("a", 0, "unsure", "Ada")),
    )  # fmt: skip
    assert applied.patches.to_dict("list") == {
        "patch_id": ["b@0,0", "b@64,0", "b@128,0", "c@0,0", "c@64,0", "c@128,0"],
        "slide_id": ["b", "b", "b", "c", "c", "c"],
        "label": [0, -1, -1, 1, 0, 1],
    }
    assert applied.changed_patch_ids == {"b@0,0", "b@64,0", "c@128,0"}  # c@0,0 was tumour already
    assert applied.summary == {
        "reviewers": ["Ada", "Bo"], "rejected": ["a"], "accepted": ["c"], "flagged": ["b"], "patches_rejected": 3,
        "relabelled": {"tumour": 2, "non-tumour": 1, "unsure": 1}, "regions": 0, "elsewhere": ["z"], "disputed": [],
    }  # fmt: skip
    pd.testing.assert_frame_equal(before, patches())
    assert decision_summary({**applied.summary, "labels_changed": {"train": 3}}) == (
        "Decisions of reviewers (Ada, Bo): slides rejected: a (3 patches); "
        "patches relabelled: 2 tumour, 1 non-tumour, 1 unsure; labels that changed by that: 3 in train."
    )


def test_only_a_reviewers_latest_verdict_counts() -> None:
    decisions = rows(("a", None, "reject", "Ada"), ("a", None, "accept", "Ada"), ("a", 0, "unsure", "Bo"),
                ("a", 0, "tumour", "Bo"))  # fmt: skip
    applied = apply_decisions(patches(), decisions)
    pd.testing.assert_frame_equal(applied.patches, patches())
    assert applied.changed_patch_ids == frozenset()


def test_no_decisions_change_nothing() -> None:
    applied = apply_decisions(patches(), [])
    pd.testing.assert_frame_equal(applied.patches, patches())
    assert (
        decision_summary(applied.summary) == "Decisions of reviewers (nobody): no slide rejected; no patch relabelled."
    )


def test_a_cohort_all_rejected_or_disputed_is_refused() -> None:
    both = [("a", None, "reject", "Ada"), *(("b", None, verdict, verdict) for verdict in ("accept", "flag"))]
    third = [("c", None, verdict, verdict) for verdict in ("accept", "reject")]
    with pytest.raises(LabelConflictError, match=r"slide b \(accept: accept, flag: flag\); slide c"):
        apply_decisions(patches(), rows(*both, *third))
    with pytest.raises(InputUnsupportedError, match="all 3 slides were rejected or are disputed"):
        apply_decisions(patches(), rows(*both, *third), leave_out_disputed=True)


@pytest.mark.parametrize(
    ("verdicts", "disputed"),
    [
        ("Ada reject A, Bo accept B", True),
        ("Bo accept A, Ada reject B", True),
        ("Ada reject A, Bo accept A, Bo accept B", True),
        ("Ada reject A, Bo accept A, Ada accept B", False),
        ("Ada reject A, Bo accept A, Cy accept A settles, Bo accept B", False),
        ("Ada reject A, Bo accept A, Cy reject A settles, Bo accept B", True),
        ("Ada reject A, Bo accept A, Cy reject A settles, Bo accept B, Cy accept B settles", False),
    ],
)
def test_a_verdict_on_another_map_leaves_a_dispute_open(verdicts: str, disputed: bool) -> None:
    told = [words.split() for words in verdicts.split(", ")]
    plain = rows(*(("a", None, verdict, name) for name, verdict, *_ in told))
    decisions = [
        replace(row, fingerprint=words[2], settles="1 2" if words[3:] else "")
        for row, words in zip(plain, told, strict=True)
    ]
    if disputed:
        with pytest.raises(LabelConflictError, match=r"slide a .*decide anew on the present map"):
            apply_decisions(patches(), decisions)
    else:
        assert apply_decisions(patches(), decisions).summary["accepted"] == ["a"]


def test_a_disputed_patch_of_a_rejected_slide_goes_with_it() -> None:
    applied = apply_decisions(
        patches(), rows(("a", None, "reject", "Ada"), ("a", 0, "tumour", "Ada"), ("a", 0, "unsure", "Bo"))
    )
    assert (applied.summary["rejected"], applied.summary["disputed"]) == (["a"], [])


def test_a_label_of_a_patch_that_was_not_tiled_is_refused() -> None:
    with pytest.raises(InputMissingError, match=r"1 relabelled patches are not among .*: a@32,0.*stride of the work"):
        apply_decisions(patches(), rows(("a", 32, "tumour", "Ada")))


def test_a_cohort_of_which_everything_was_rejected_is_refused() -> None:
    with pytest.raises(InputUnsupportedError, match="all 3 slides were rejected"):
        apply_decisions(patches(), rows(*((slide, None, "reject", "Ada") for slide in "abc")))


def test_labels_of_other_names_are_not_called_tumour() -> None:
    with pytest.raises(InputUnsupportedError, match="not tumour and non-tumour"):
        apply_decisions(patches(label_name="bird"), rows(("a", 0, "tumour", "Ada")))
