"""What do decisions change in the patches that models learn from? Rejected slides go, relabelled patches change.

What stands counts, whoever made it and of whichever heatmap: it is said of the tissue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.text import counted
from pathopatch.groups.decisions.decision import PATCH_VERDICTS, RecordedDecision, current_decisions

LABELS = {"tumour": 1, "non-tumour": 0, "unsure": -1}
"""Label of a patch by the verdict on it; -1 is not labelled."""


@dataclass(frozen=True, eq=False)
class AppliedDecisions:
    """Patches after the decisions.

    Parameters
    ----------
    patches : DataFrame
        Without those of rejected slides; label as decided.
    facts : mapping of str to object
        Plain values for JSON: ``reviewers`` of what applies here; ``rejected``, ``accepted``, ``flagged``: slides;
        ``patches_rejected``: how many went with them; ``relabelled``: patches by verdict; ``elsewhere``: slides that
        were decided of and are not here.
    changed : frozenset of str
        patch_id of those whose label is another one now.
    """

    patches: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()


def apply_decisions(patches: pd.DataFrame, rows: Sequence[RecordedDecision]) -> AppliedDecisions:
    """Return the patches without rejected slides, with the labels that reviewers gave.

    Parameters
    ----------
    patches : DataFrame
        Columns patch_id, slide_id, label (1, 0, -1).
    rows : sequence of RecordedDecision
        All decisions; slides that are not among the patches are counted and otherwise left alone.

    Raises
    ------
    InputMissingError
        A relabelled patch of a slide that is here is not: it was predicted on another grid.
    InputUnsupportedError
        Every slide was rejected, or the patches' labels have names of their own.
    """
    if "label_name" in patches and any(row.x is not None for row in rows):
        raise InputUnsupportedError(
            "the labels of these patches are not tumour and non-tumour",
            place="label_name",
            remedy="correct the list of ready patches itself",
        )
    here = set(patches["slide_id"].astype(str))
    counted = current_decisions(rows)
    mine = [row for row in counted if row.slide_id in here]
    of_slides = {verdict: sorted(row.slide_id for row in mine if row.x is None and row.verdict == verdict)
                 for verdict in ("reject", "accept", "flag")}  # fmt: skip
    rejected = set(of_slides["reject"])
    if rejected == here:
        raise InputUnsupportedError(
            f"all {len(here)} slides were rejected", place="decisions", remedy="accept some, or add slides"
        )
    is_kept = ~patches["slide_id"].astype(str).isin(rejected)
    kept = patches[is_kept].reset_index(drop=True)
    verdicts = {f"{row.slide_id}@{row.x},{row.y}": row.verdict for row in mine
                if row.x is not None and row.slide_id not in rejected}  # fmt: skip
    _require_there(kept, verdicts)
    decided = kept["patch_id"].map({name: LABELS[verdict] for name, verdict in verdicts.items()})
    label = decided.fillna(kept["label"]).astype(kept["label"].dtype)
    tally = Counter(verdicts.values())
    facts = {
        "reviewers": sorted({row.reviewer for row in mine}),
        "rejected": of_slides["reject"],
        "accepted": of_slides["accept"],
        "flagged": of_slides["flag"],
        "patches_rejected": int((~is_kept).sum()),
        "relabelled": {verdict: tally[verdict] for verdict in PATCH_VERDICTS},
        "elsewhere": sorted({row.slide_id for row in counted} - here),
    }
    changed = frozenset(kept.loc[label != kept["label"], "patch_id"].astype(str))
    return AppliedDecisions(kept.assign(label=label), facts, changed)


def _require_there(patches: pd.DataFrame, verdicts: dict[str, str]) -> None:
    """Refuse labels of patches that do not exist: they would be lost without a word."""
    missing = sorted(set(verdicts) - set(patches["patch_id"].astype(str)))
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise InputMissingError(
            f"{len(missing)} relabelled patches are not among those that were tiled: {shown}",
            place="decisions, columns x and y",
            remedy="predict with the patch and stride of the work folder, and decide there; or remove these rows",
        )


def decision_summary(facts: Mapping[str, Any]) -> str:
    """Return in one sentence what decisions changed.

    Parameters
    ----------
    facts : mapping
        ``decided`` of ``groups/audit.json``.
    """
    rejected, by = facts["rejected"], ", ".join(facts["reviewers"]) or "nobody"
    slides = f"slides rejected: {', '.join(rejected)} ({counted(facts['patches_rejected'], 'patch')})"
    relabelled = ", ".join(f"{n} {verdict}" for verdict, n in facts["relabelled"].items() if n)
    changed = ", ".join(f"{n} in {split}" for split, n in facts.get("labels_changed", {}).items())
    patches = f"patches relabelled: {relabelled}; labels that changed by that: {changed or 'none'}"
    parts = (slides if rejected else "no slide rejected", patches if relabelled else "no patch relabelled")
    return f"Decisions of reviewers ({by}): {'; '.join(parts)}."
