"""Collect what the report shows of predicted slides: the answer, models, numbers, heatmaps and reviewers' decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pathopatch.groups.decisions.decision import (
    DISPUTED,
    PATCH_VERDICTS,
    Standing,
    StandingDecisions,
    decision_summary,
    verdicts_text,
)
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.facts import LEAKS, share_of_tissue
from pathopatch.report.cohort_section import STATES, one_row_a_slide, slide_problems
from pathopatch.report.collect import Study

_COUNTS = ("patches", "predicted", "tumour")
_SUMMARY = (
    "tissue_mm2", "positive_mm2", "positive_share", "largest_region_mm2", "mean_probability", "decision_probability",
    "lowest_margin", "flagged_share", *(f"flag_{name}" for name in FLAGS),
)  # fmt: skip
_LEAKED = Markup(", <strong>model was {} it</strong>")
_VERDICT_NAMES = {"accept": "accepted", "reject": "rejected", "flag": "flagged"}
_MOST_PICTURES = 3


def has_predictions_only(study: Study) -> bool:
    """Return whether a folder holds predictions and no part of a study."""
    has_study = study.groups is not None or study.configs or study.stores or study.external_validations
    return not has_study and bool(_predicted_slides(study)) and not study.slides["tile_state"].any()


def predictions_answer(study: Study, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Return the first page of a folder of predictions: shares, some overlays, the models, and what to beware of.

    `thumbnails` names the picture file of each readable overlay.
    """
    rows = _predicted_slides(study)
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
        "leaks": Counter(row["predict_leakage"] for row in rows if row["predict_leakage"] in LEAKS),
        "counts": {name: sum(row["predict_counts"].get(name, 0) for row in rows) for name in _COUNTS},
        # Of features the tissue may be unknown.
        "share": share_of_tissue(areas["positive_tissue_mm2"], areas["tissue_mm2"])
        if all(summary.get("positive_tissue_mm2") is not None for summary in summaries)
        else None,
        "tissue_mm2": areas["tissue_mm2"],
        "lowest": shares[known[0]] if known else None,
        "highest": shares[known[-1]] if known else None,
        "overlays": [{"slide_id": slide, "file": thumbnails[slide], "share": shares[slide]} for slide in pictured],
        "n_flagged": sum(share > 0 for share in flagged),
        "most_flagged": max(flagged, default=None),
        "verdicts": _verdict_counts(study),
    }


def models(study: Study) -> list[dict[str, Any]]:
    """Return each model, or ensemble, behind the heatmaps: its name, decision, slides and members, and the card files.

    Of slides that were predicted one by one only the method and the decision are known.
    """
    slides = Counter(facts["model"] for facts in study.heatmaps.values())
    of_model = {facts["model"]: facts for facts in study.heatmaps.values()}
    described, n_cards = [], 0
    for fingerprint in sorted(slides, key=lambda name: (-slides[name], name)):
        members = [dict(member) for member in study.models[fingerprint].get("members", ())]
        for member in members:
            n_cards += 1
            member["file"] = f"model-card-{n_cards}.html"
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
    rows, decisions = _predicted_slides(study), _slide_decisions(study)
    if not rows:
        return {}
    return {
        "models": models(study),
        "slides": [
            {
                "slide_id": row["slide_id"],
                "patient_id": row["patient_id"],
                "state": STATES.get(row["predict_state"], row["predict_state"])
                + (_LEAKED.format(row["predict_leakage"]) if row["predict_leakage"] in LEAKS else ""),
                "decision": _verdict_name(decisions.get(row["slide_id"])),
                # Failed and empty slides have neither counts nor a summary; their cells become dashes.
                **{name: row["predict_summary"].get(name) for name in _SUMMARY},
                "n": row["predict_counts"].get("predicted"),
                "patients": None,
                "tumour": row["predict_counts"].get("tumour"),
            }
            for row in rows
        ],
    }


def _verdict(standing: Standing | None) -> str:
    if standing is None:
        return ""
    return DISPUTED if standing.dispute else standing.decision.verdict


def _verdict_name(standing: Standing | None) -> str:
    return _VERDICT_NAMES.get(_verdict(standing), _verdict(standing))


def _reviewers(standing: Standing | None) -> str:
    """Return who decided; of several, each one's verdict too."""
    if standing is None:
        return ""
    own, settled = standing.decision.reviewer, "settled by " if standing.decision.settles else ""
    each = [f"{row.reviewer}: {_VERDICT_NAMES[row.verdict]}" for row in standing.readings if len(standing.readings) > 1]
    return ", ".join(each if standing.dispute else [settled + own, *each] if settled else each or [own])


def _noted(standing: Standing | None, key: str) -> str:
    """Return the reason or comment of the decision, of a dispute those of all."""
    if standing is None:
        return ""
    rows = standing.readings if standing.dispute else (standing.decision,)
    return "; ".join(text for row in rows if (text := getattr(row, key)))


def gallery_section(study: Study, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Return the heatmap of every predicted slide; `thumbnails` names the picture file of each readable overlay."""
    if not study.overlays:
        return {}
    decisions = _slide_decisions(study)
    unknown = {"split": "", "predict_counts": {}, "predict_summary": {}}
    rows = {row["slide_id"]: row for row in study.slides.to_dict("records")}
    slides = [
        {
            **rows.get(slide_id, unknown),
            "slide_id": slide_id,
            "file": file,
            "decision": _verdict_name(decisions.get(slide_id)),
            "reviewer": _reviewers(decisions.get(slide_id)),
        }
        for slide_id, file in thumbnails.items()
    ]
    return {"slides": slides, "unreadable": [name for name in study.overlays if name not in thumbnails]}


def review_section(study: Study) -> dict[str, Any]:
    """Return the current decision on each slide, and the decisions that the groups were formed by."""
    decisions = _slide_decisions(study)
    standing = StandingDecisions(study.decisions).by_time()
    labels = Counter((one.decision.slide_id, _verdict(one)) for one in standing if one.decision.kind == "patch")
    # Only groups that were formed with decisions have this entry.
    applied = (study.audit or {}).get("decided")
    if applied is None and not study.decisions:
        return {}
    fingerprints = {name: facts["fingerprint"] for name, facts in study.heatmaps.items()}
    return {
        "applied": None if applied is None else decision_summary(applied),
        "n_changed_test_labels": (applied or {}).get("labels_changed", {}).get("test", 0),
        "has_decisions": bool(study.decisions),
        "disputed": [verdicts_text(one) for one in standing if one.dispute],
        "outdated": sorted(
            name for name, one in decisions.items() if one.decision.fingerprint != fingerprints.get(name, "")
        ),
        "verdicts": _verdict_counts(study),
        "n_relabelled": sum(number for (_, verdict), number in labels.items() if verdict != DISPUTED),
        "n_reviewers": len({row.reviewer for row in study.decisions}),
        "slides": [
            {
                "slide_id": name,
                "decision": _verdict_name(decisions.get(name)),
                "reviewer": _reviewers(decisions.get(name)),
                **{key: _noted(decisions.get(name), key) for key in ("reason", "comment")},
                **{verdict: labels[name, verdict] for verdict in (*PATCH_VERDICTS, DISPUTED)},
            }
            for name in sorted({*decisions, *(slide_id for slide_id, _ in labels)})
        ],
    }


def _predicted_slides(study: Study) -> list[dict[Any, Any]]:
    """Return the row of each slide whose prediction was tried."""
    return [row for row in one_row_a_slide(study) if row["predict_state"]]


def _slide_decisions(study: Study) -> dict[str, Standing]:
    """Return what stands on each slide."""
    standing = StandingDecisions(study.decisions).by_time()
    return {one.decision.slide_id: one for one in standing if one.decision.kind == "slide"}


def _verdict_counts(study: Study) -> dict[str, int]:
    """Return the number of slides with each verdict, and of predicted slides without one."""
    decisions = _slide_decisions(study)
    verdicts = Counter(map(_verdict, decisions.values()))
    n_undecided = sum(row["slide_id"] not in decisions for row in _predicted_slides(study))
    return {**{name: verdicts[name] for name in ("accept", "reject", "flag", DISPUTED)}, "undecided": n_undecided}
