"""Answers what was predicted of each slide, what deserves a second look, and what reviewers decided."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from pathopatch.groups.decisions.apply import decision_summary
from pathopatch.groups.decisions.decision import PATCH_VERDICTS, SLIDE_VERDICTS, RecordedDecision, current_decisions
from pathopatch.heatmaps.flags import FLAGS
from pathopatch.report.cohort import slide_warnings
from pathopatch.report.collect import Study
from pathopatch.report.markup import Html, number, paragraph, percent, table, tag, warning

_FLAG_WORDS = {
    "low_tissue": "little tissue",
    "saturated": "saturated",
    "blurred": "blurred",
    "out_of_range": "unlike training",
    "near_threshold": "near the threshold",
    "uncertain": "models disagree",
}
_COUNTS = ("patches", "predicted", "tumour")
_STATES = {"failed": "FAILED", "done_empty": "EMPTY: no tissue", "running": "NOT FINISHED"}
_VERDICTS = {"accept": "accepted", "reject": "rejected", "flag": "flagged"}


def is_only_predicted(study: Study) -> bool:
    """Return whether a folder holds predictions and nothing that a study is made of."""
    has_study = study.groups is not None or study.configs or study.stores or study.outside
    return not has_study and bool(predicted_slides(study)) and not study.slides["tile_state"].any()


def predicted_slides(study: Study) -> list[dict[str, Any]]:
    """Return the row of each slide that was predicted, or failed to be."""
    rows = [] if study.slides.empty else study.slides.drop_duplicates("slide_id").to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows if row["predict_state"]]


def verdicts(study: Study) -> dict[str, RecordedDecision]:
    """Return the verdict on each slide that stands."""
    return {row.slide_id: row for row in current_decisions(study.decisions) if row.x is None}


def predictions_glance(study: Study) -> Html:
    """Return what a folder of predictions comes to: how many slides, what failed, what was decided."""
    rows = predicted_slides(study)
    by_state = Counter(row["predict_state"] for row in rows)
    counts = {name: sum(row["predict_counts"].get(name, 0) for row in rows) for name in _COUNTS}
    facts = {
        "Slides": f"{len(rows)}: {by_state['done']} predicted, {by_state['done_empty']} without tissue, "
        f"{by_state['failed']} failed",
        "Patches": f"{counts['patches']}, {counts['predicted']} of them predicted, {counts['tumour']} called tumour",
        "Reviewed": _decided(study, rows),
    }
    told = tag("dl", *(part for name, said in facts.items() for part in (tag("dt", name), tag("dd", said))))
    return tag("div", *slide_warnings(study), told)


def _decided(study: Study, rows: list[dict[str, Any]]) -> str:
    """Return how many slides were decided of, by verdict."""
    found = verdicts(study)
    tally = Counter(row.verdict for name, row in found.items())
    said = ", ".join(f"{tally[verdict]} {_VERDICTS[verdict]}" for verdict in SLIDE_VERDICTS)
    return f"{said}, {sum(row['slide_id'] not in found for row in rows)} undecided"


def predicted_section(study: Study) -> Html:
    """Return the summary and the flags of every predicted slide."""
    rows = predicted_slides(study)
    if not rows:
        return paragraph("No slide has been predicted yet.", kind="absent")
    found = verdicts(study)
    return tag(
        "div",
        paragraph(tag("a", "predictions.csv", href="predictions.csv"), " has these numbers for spreadsheets."),
        table(
            "One row a slide. Positive: the map's probability is above the decision threshold. Positive share: "
            "share of the tissue area above the threshold. Margin: how near the nearest patch comes to the threshold.",
            ("slide", "patient", "state", "decision", "predicted patches", "called tumour", "tissue, mm2",
             "positive, mm2", "positive share, %", "largest region, mm2", "mean probability", "threshold", "margin"),
            [_summary_row(row, found.get(row["slide_id"])) for row in rows],
            text_columns=4,
        ),
        tag("h3", "Flags"),
        table(
            "Share of the predicted patches that carry a flag, in percent: they deserve a second look. A dash: cannot "
            "be said of this slide and model.",
            ("slide", "any", *(_FLAG_WORDS[name] for name in FLAGS)),
            [
                (row["slide_id"], *(percent(row["predict_summary"].get(name)) for name in
                                    ("flagged_share", *(f"flag_{flag}" for flag in FLAGS))))
                for row in rows
            ],
        ),
    )  # fmt: skip


def _summary_row(row: dict[str, Any], decision: RecordedDecision | None) -> tuple[object, ...]:
    said, counts = row["predict_summary"], row["predict_counts"]
    state = row["predict_state"]
    return (
        row["slide_id"],
        row["patient_id"] or "–",
        tag("strong", _STATES[state]) if state in _STATES else state,
        "–" if decision is None else _VERDICTS[decision.verdict],
        *(counts.get(name, "–") for name in ("predicted", "tumour")),
        *(number(said.get(name), 4) for name in ("tissue_mm2", "positive_mm2")),
        percent(said.get("positive_share")),
        number(said.get("largest_region_mm2"), 4),
        *(number(said.get(name)) for name in ("mean_probability", "decision_probability", "lowest_margin")),
    )


def review_section(study: Study) -> Html:
    """Return what reviewers decided, and what of it the groups were formed by."""
    used = (study.audit or {}).get("decided")
    parts = [] if used is None else [paragraph(decision_summary(used)), *_flattered(used)]
    if not study.decisions:
        said = "Nobody has decided anything of these predictions (pathopatch review)."
        return tag("div", *parts, paragraph(said, kind="absent"))
    found = verdicts(study)
    labels = Counter((row.slide_id, row.verdict) for row in current_decisions(study.decisions) if row.x is not None)
    outdated = [name for name, row in found.items() if row.fingerprint != study.fingerprints.get(name, "")]
    if outdated:
        parts.append(
            warning(f"Decided of another heatmap than the one that is here now: {', '.join(sorted(outdated))}.")
        )
    rows = [
        (
            name,
            _VERDICTS[found[name].verdict] if name in found else "–",
            *((found[name].reviewer, found[name].reason or "–", found[name].comment or "–")
              if name in found else ("–", "–", "–")),
            *(labels[name, verdict] for verdict in PATCH_VERDICTS),
        )
        for name in sorted({*found, *(slide for slide, _ in labels)})
    ]  # fmt: skip
    parts += [
        paragraph(
            f"{_decided(study, predicted_slides(study))}; {sum(labels.values())} patches relabelled; "
            f"{len({row.reviewer for row in study.decisions})} reviewers. ",
            tag("a", "decisions.csv", href="decisions.csv"),
            " has every decision with its time, also those that were replaced or withdrawn.",
        ),
        table(
            "What stands of each slide that was decided of, and how many of its patches were given which label.",
            ("slide", "decision", "by", "reason", "comment", *PATCH_VERDICTS),
            rows,
            text_columns=5,
        ),
    ]
    return tag("div", *parts)


def _flattered(used: dict[str, Any]) -> list[Html]:
    """Return a warning where reviewers, who had seen a model's predictions, changed what models are tested on."""
    tested = used.get("labels_changed", {}).get("test", 0)
    if not tested:
        return []
    return [
        warning(
            f"{tested} test patches have labels that reviewers changed after they saw predictions. Labels that were "
            "corrected with a model's heatmap in view flatter that model."
        )
    ]


def predictions_table(study: Study) -> pd.DataFrame:
    """Return the numbers of every predicted slide, a row each; empty where there is none."""
    found = verdicts(study)
    names = list(dict.fromkeys(name for row in predicted_slides(study) for name in row["predict_summary"]))
    rows = [
        {
            "slide_id": row["slide_id"],
            "patient_id": row["patient_id"],
            "state": row["predict_state"],
            **{name: row["predict_counts"].get(name) for name in _COUNTS},
            **{name: row["predict_summary"].get(name) for name in names},
            "warnings": "; ".join(row["warnings"]),
            "decision": found[row["slide_id"]].verdict if row["slide_id"] in found else "",
        }
        for row in predicted_slides(study)
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(_COUNTS, "Int64")) if rows else pd.DataFrame()
