"""Collect what the report shows of predicted slides: numbers, flags, heatmaps and the decisions of reviewers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pathopatch.groups.decisions.decision import PATCH_VERDICTS, RecordedDecision, current_decisions, decision_summary
from pathopatch.heatmaps import FLAGS
from pathopatch.report.cohort import slide_problems
from pathopatch.report.collect import Study

_COUNTS = ("patches", "predicted", "tumour")
_SUMMARY = (
    "tissue_mm2",
    "positive_mm2",
    "positive_share",
    "largest_region_mm2",
    "mean_probability",
    "decision_probability",
    "lowest_margin",
)
_FLAG_SHARES = ("flagged_share", *(f"flag_{name}" for name in FLAGS))


def has_predictions_only(study: Study) -> bool:
    """Return whether a folder holds predictions and no part of a study."""
    has_study = study.groups is not None or study.configs or study.stores or study.external_validations
    return not has_study and bool(_predicted_slides(study)) and not study.slides["tile_state"].any()


def predictions_glance(study: Study) -> dict[str, Any]:
    """Return the totals of a folder of predictions: slides by state, patches, and decisions."""
    rows = _predicted_slides(study)
    return {
        "problems": slide_problems(study),
        "n_slides": len(rows),
        "states": Counter(row["predict_state"] for row in rows),
        "counts": {name: sum(row["predict_counts"].get(name, 0) for row in rows) for name in _COUNTS},
        "verdicts": _verdict_counts(study),
    }


def predicted(study: Study) -> dict[str, Any]:
    """Return the summary and the flags of every predicted slide."""
    rows, decisions = _predicted_slides(study), _slide_decisions(study)
    if not rows:
        return {}
    return {
        "flags": FLAGS,
        "slides": [
            {
                **row,
                "verdict": decisions[row["slide_id"]].verdict if row["slide_id"] in decisions else None,
                # Failed and empty slides have neither counts nor a summary; their cells become dashes.
                "counts": {name: row["predict_counts"].get(name) for name in _COUNTS},
                "summary": {name: row["predict_summary"].get(name) for name in (*_SUMMARY, *_FLAG_SHARES)},
            }
            for row in rows
        ],
    }


def gallery(study: Study, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Return the heatmap of every predicted slide; `thumbnails` names the picture file of each readable overlay."""
    if not study.overlays:
        return {}
    rows = {row["slide_id"]: row for row in study.slides.to_dict("records")} if len(study.slides) else {}
    decisions = _slide_decisions(study)
    slides = []
    for slide_id, file in thumbnails.items():
        row = rows.get(slide_id, {})
        slides.append(
            {
                "slide_id": slide_id,
                "file": file,
                "split": row.get("split", ""),
                "counts": row.get("predict_counts") or {},
                "flagged_share": (row.get("predict_summary") or {}).get("flagged_share"),
                "decision": decisions.get(slide_id),
            }
        )
    return {"slides": slides, "unreadable": [name for name in study.overlays if name not in thumbnails]}


def review(study: Study) -> dict[str, Any]:
    """Return the current decision on each slide, and the decisions that the groups were formed by."""
    decisions = _slide_decisions(study)
    labels = Counter((row.slide_id, row.verdict) for row in current_decisions(study.decisions) if row.x is not None)
    # Only groups that were formed with decisions have this entry.
    applied = (study.audit or {}).get("decided")
    fingerprints = study.heatmap_fingerprints
    return {
        "applied": None if applied is None else decision_summary(applied),
        "n_changed_test_labels": (applied or {}).get("labels_changed", {}).get("test", 0),
        "has_decisions": bool(study.decisions),
        "outdated": sorted(name for name, row in decisions.items() if row.fingerprint != fingerprints.get(name, "")),
        "verdicts": _verdict_counts(study),
        "n_relabelled": sum(labels.values()),
        "n_reviewers": len({row.reviewer for row in study.decisions}),
        "patch_verdicts": PATCH_VERDICTS,
        "slides": [
            {
                "slide_id": name,
                "decision": decisions.get(name),
                "labels": [labels[name, verdict] for verdict in PATCH_VERDICTS],
            }
            for name in sorted({*decisions, *(slide_id for slide_id, _ in labels)})
        ],
    }


def predictions_table(study: Study) -> pd.DataFrame:
    """Return ``predictions.csv``: a row per predicted slide; empty where there is none."""
    rows, decisions = _predicted_slides(study), _slide_decisions(study)
    names = list(dict.fromkeys(name for row in rows for name in row["predict_summary"]))
    table = [
        {
            "slide_id": row["slide_id"],
            "patient_id": row["patient_id"],
            "state": row["predict_state"],
            **{name: row["predict_counts"].get(name) for name in _COUNTS},
            **{name: row["predict_summary"].get(name) for name in names},
            "warnings": "; ".join(row["warnings"]),
            "decision": decisions[row["slide_id"]].verdict if row["slide_id"] in decisions else "",
        }
        for row in rows
    ]
    return pd.DataFrame(table).astype(dict.fromkeys(_COUNTS, "Int64")) if table else pd.DataFrame()


def _predicted_slides(study: Study) -> list[dict[str, Any]]:
    """Return the row of each slide whose prediction was tried."""
    rows = [] if study.slides.empty else study.slides.drop_duplicates("slide_id").to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows if row["predict_state"]]


def _slide_decisions(study: Study) -> dict[str, RecordedDecision]:
    """Return the current decision on each slide; decisions on single patches have an x."""
    return {row.slide_id: row for row in current_decisions(study.decisions) if row.x is None}


def _verdict_counts(study: Study) -> dict[str, int]:
    """Return the number of slides with each verdict, and of predicted slides without one."""
    decisions = _slide_decisions(study)
    verdicts = Counter(decision.verdict for decision in decisions.values())
    n_undecided = sum(row["slide_id"] not in decisions for row in _predicted_slides(study))
    return {**{name: verdicts[name] for name in ("accept", "reject", "flag")}, "undecided": n_undecided}
