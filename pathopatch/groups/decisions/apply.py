"""Apply reviewers' decisions to the patches that models learn from: drop rejected slides, relabel patches.

A decision counts whoever made it and whichever heatmap was shown: it is about the tissue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.text import pluralize
from pathopatch.groups.decisions.decision import PATCH_VERDICTS, SLIDE_VERDICTS, RecordedDecision, current_decisions

_LABELS = {"tumour": 1, "non-tumour": 0, "unsure": -1}  # -1: not labelled


@dataclass(frozen=True, eq=False)
class AppliedDecisions:
    """Patches after the decisions.

    Parameters
    ----------
    patches : DataFrame
        Without those of rejected slides; label as decided.
    summary : mapping of str to object
        Plain values for JSON. ``rejected``, ``accepted``, ``flagged``: slides. ``patches_rejected``: how many went
        with them. ``relabelled``: patches by verdict. ``reviewers``: of the decisions that apply here. ``elsewhere``:
        slides with decisions that are not here.
    changed_patch_ids : frozenset of str
        Patches whose label differs from before.
    """

    patches: pd.DataFrame
    summary: dict[str, Any]
    changed_patch_ids: frozenset[str]


def apply_decisions(patches: pd.DataFrame, rows: Sequence[RecordedDecision]) -> AppliedDecisions:
    """Return the patches without rejected slides, with the labels that reviewers gave.

    Parameters
    ----------
    patches : DataFrame
        Columns patch_id, slide_id, label (1, 0, -1).
    rows : sequence of RecordedDecision
        All decisions. Those on slides that are not among the patches are counted only.

    Raises
    ------
    InputMissingError
        A relabelled patch of one of the slides does not exist: it was predicted on another grid.
    InputUnsupportedError
        Every slide was rejected, or the patches' labels have names of their own.
    """
    if "label_name" in patches and any(row.x is not None for row in rows):
        raise InputUnsupportedError(
            "the labels of these patches are not tumour and non-tumour",
            place="label_name",
            remedy="correct the list of ready patches itself",
        )
    slide_ids = patches["slide_id"].astype(str)
    here = set(slide_ids)
    current = current_decisions(rows)
    current_here = [row for row in current if row.slide_id in here]
    slides_by_verdict = {
        verdict: sorted(row.slide_id for row in current_here if row.x is None and row.verdict == verdict)
        for verdict in SLIDE_VERDICTS
    }
    rejected = set(slides_by_verdict["reject"])
    if rejected == here:
        raise InputUnsupportedError(
            f"all {len(here)} slides were rejected", place="decisions", remedy="accept some, or add slides"
        )
    kept = patches[~slide_ids.isin(rejected)].reset_index(drop=True)
    verdicts = {
        f"{row.slide_id}@{row.x},{row.y}": row.verdict
        for row in current_here
        if row.x is not None and row.slide_id not in rejected
    }
    _require_tiled(kept, verdicts)
    decided = kept["patch_id"].map({patch_id: _LABELS[verdict] for patch_id, verdict in verdicts.items()})
    label = decided.fillna(kept["label"]).astype(kept["label"].dtype)
    counts = Counter(verdicts.values())
    summary = {
        "reviewers": sorted({row.reviewer for row in current_here}),
        "rejected": slides_by_verdict["reject"],
        "accepted": slides_by_verdict["accept"],
        "flagged": slides_by_verdict["flag"],
        "patches_rejected": len(patches) - len(kept),
        "relabelled": {verdict: counts[verdict] for verdict in PATCH_VERDICTS},
        "elsewhere": sorted({row.slide_id for row in current} - here),
    }
    changed = frozenset(kept.loc[label != kept["label"], "patch_id"].astype(str))
    return AppliedDecisions(kept.assign(label=label), summary, changed)


def _require_tiled(patches: pd.DataFrame, verdicts: Mapping[str, str]) -> None:
    """Refuse labels of patches that do not exist: a reviewer's work would be lost silently."""
    missing = sorted(set(verdicts) - set(patches["patch_id"].astype(str)))
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise InputMissingError(
            f"{len(missing)} relabelled patches are not among those that were tiled: {shown}",
            place="decisions, columns x and y",
            remedy="predict with the patch and stride of the work folder, and decide there; or remove these rows",
        )


def decision_summary(summary: Mapping[str, Any]) -> str:
    """Return ``decided`` of ``groups/audit.json``, what decisions changed, as one sentence."""
    rejected, reviewers = summary["rejected"], ", ".join(summary["reviewers"]) or "nobody"
    slides = f"slides rejected: {', '.join(rejected)} ({pluralize(summary['patches_rejected'], 'patch')})"
    relabelled = ", ".join(f"{number} {verdict}" for verdict, number in summary["relabelled"].items() if number)
    changed = ", ".join(f"{number} in {split}" for split, number in summary.get("labels_changed", {}).items())
    patches = f"patches relabelled: {relabelled}; labels that changed by that: {changed or 'none'}"
    parts = (slides if rejected else "no slide rejected", patches if relabelled else "no patch relabelled")
    return f"Decisions of reviewers ({reviewers}): {'; '.join(parts)}."
