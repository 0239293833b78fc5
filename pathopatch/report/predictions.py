"""Collect what the report shows of predicted slides: the answer, the models behind it, the numbers of each slide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pathopatch.core.csv_table import escape_formulas
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.summary import share_of_tissue
from pathopatch.models.leakage import leakage_warning
from pathopatch.report.cohort import predicted_slides, slide_decisions, slide_problems, verdict_counts
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
_MOST_PICTURES = 3


def has_predictions_only(study: Study) -> bool:
    """Return whether a folder holds predictions and no part of a study."""
    has_study = study.groups is not None or study.configs or study.stores or study.external_validations
    return not has_study and bool(predicted_slides(study)) and not study.slides["tile_state"].any()


def predictions_answer(study: Study, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Return the first page of a folder of predictions: shares, some overlays, the models, and what to beware of.

    `thumbnails` names the picture file of each readable overlay.
    """
    rows = predicted_slides(study)
    done = [row for row in rows if row["predict_state"] == "done"]
    summaries = [row["predict_summary"] for row in done]
    shares = {row["slide_id"]: row["predict_summary"].get("positive_share") for row in done}
    known = sorted(
        (slide for slide, share in shares.items() if share is not None), key=lambda slide: (shares[slide], slide)
    )
    flagged = [summary["flagged_share"] for summary in summaries if summary.get("flagged_share") is not None]
    # Highest, middle and lowest share: neither the best nor the worst alone.
    pictured = [slide for slide in reversed(known) if slide in thumbnails]
    if len(pictured) > _MOST_PICTURES:
        pictured = [pictured[0], pictured[len(pictured) // 2], pictured[-1]]
    areas = {
        name: sum(summary.get(name) or 0.0 for summary in summaries) for name in ("tissue_mm2", "positive_tissue_mm2")
    }
    return {
        "problems": slide_problems(study),
        "models": models(study),
        "n_slides": len(rows),
        "states": Counter(row["predict_state"] for row in rows),
        "leaks": Counter(row["predict_leakage"] for row in rows if leakage_warning(row["predict_leakage"])),
        "counts": {name: sum(row["predict_counts"].get(name, 0) for row in rows) for name in _COUNTS},
        # Of an earlier version a summary has no area of positive tissue.
        "share": share_of_tissue(areas["positive_tissue_mm2"], areas["tissue_mm2"])
        if all(summary.get("positive_tissue_mm2") is not None for summary in summaries)
        else None,
        "tissue_mm2": areas["tissue_mm2"],
        "lowest": shares[known[0]] if known else None,
        "highest": shares[known[-1]] if known else None,
        "overlays": [{"slide_id": slide, "file": thumbnails[slide], "share": shares[slide]} for slide in pictured],
        "n_flagged": sum(share > 0 for share in flagged),
        "most_flagged": max(flagged, default=None),
        "verdicts": verdict_counts(study),
    }


def models(study: Study) -> list[dict[str, Any]]:
    """Return each model, or ensemble, behind the heatmaps: its name, decision, slides and members, and the card files.

    Of predictions of an earlier version only the method and the decision are known.
    """
    slides = Counter(facts["model"] for facts in study.heatmaps.values())
    of_model = {facts["model"]: facts for facts in study.heatmaps.values()}
    described, n_cards = [], 0
    for fingerprint in sorted(slides, key=lambda name: (-slides[name], name)):
        members = [dict(member) for member in study.models[fingerprint].get("members", ())]
        for member in members:
            n_cards += 1
            member["file"] = f"model-card-{n_cards}.md"
        facts = of_model[fingerprint]
        described.append(
            {
                "name": ", ".join(filter(None, (member["name"] for member in members)))
                or f"a model trained by {facts['method']}",
                "method": facts["method"],
                "classes": facts["class_names"],
                "decision_probability": facts["decision_probability"],
                "decision_threshold": facts["decision_threshold"],
                "slides": slides[fingerprint],
                "members": members,
            }
        )
    return described


def predicted(study: Study) -> dict[str, Any]:
    """Return the summary and the flags of every predicted slide."""
    rows, decisions = predicted_slides(study), slide_decisions(study)
    if not rows:
        return {}
    return {
        "models": models(study),
        "flags": FLAGS,
        "slides": [
            {
                **row,
                "is_leaked": bool(leakage_warning(row["predict_leakage"])),
                "verdict": decisions[row["slide_id"]].verdict if row["slide_id"] in decisions else None,
                # Failed and empty slides have neither counts nor a summary; their cells become dashes.
                "counts": {name: row["predict_counts"].get(name) for name in _COUNTS},
                "summary": {name: row["predict_summary"].get(name) for name in (*_SUMMARY, *_FLAG_SHARES)},
            }
            for row in rows
        ],
    }


def predictions_table(study: Study) -> pd.DataFrame:
    """Return ``predictions.csv``: a row per predicted slide; empty where there is none."""
    rows, decisions = predicted_slides(study), slide_decisions(study)
    names = list(dict.fromkeys(name for row in rows for name in row["predict_summary"]))
    table = [
        {
            "slide_id": row["slide_id"],
            "patient_id": row["patient_id"],
            "state": row["predict_state"],
            **{name: row["predict_counts"].get(name) for name in _COUNTS},
            **{name: row["predict_summary"].get(name) for name in names},
            "leakage": row["predict_leakage"],
            "warnings": escape_formulas("; ".join(row["warnings"])),
            "decision": decisions[row["slide_id"]].verdict if row["slide_id"] in decisions else "",
        }
        for row in rows
    ]
    return pd.DataFrame(table).astype(dict.fromkeys(_COUNTS, "Int64")) if table else pd.DataFrame()
