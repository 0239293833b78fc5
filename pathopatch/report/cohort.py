"""Collect what the report shows of the slides: cohort, audit of the groups, heatmaps, and reviewers' decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pathopatch.core.patients import patient_key
from pathopatch.core.text import pluralize
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.audit import audited_attributes, distinct_results, verdict_text
from pathopatch.groups.decisions.decision import PATCH_VERDICTS, RecordedDecision, current_decisions, decision_summary
from pathopatch.report import audit_plots
from pathopatch.report.collect import Study, patients_in
from pathopatch.report.plots import alpha_sweep, fraction_by_label, group_colors, group_counts
from pathopatch.slides.manifest import SPLITS

_TALLIES = ("patches", "with_tissue", "labelled", "tumor")


def slide_problems(study: Study) -> list[dict[str, Any]]:
    """Return failed slides, slides without tissue, and slides with warnings, each kind with the slides' names."""
    slides = _one_row_a_slide(study)
    problems = [
        {
            "kind": f"{stage} {state}",
            "slides": [
                {"slide_id": row["slide_id"], "reason": row[f"{stage}_message"] if state == "failed" else ""}
                for row in slides
                if row[f"{stage}_state"] == state
            ],
        }
        for stage in ("tile", "predict")
        for state in ("failed", "done_empty")
    ]
    doubtful = [
        {"slide_id": row["slide_id"], "reason": "; ".join(row["warnings"])} for row in slides if row["warnings"]
    ]
    problems.append({"kind": "warnings", "slides": doubtful})
    return [{**problem, "n_slides": len(slides)} for problem in problems if problem["slides"]]


def group_key(attribute: GroupingAttribute) -> list[dict[str, str]]:
    """Return name and colour of each group."""
    names = attribute.group_names
    return [{"name": name, "color": color} for name, color in zip(names, group_colors(len(names)), strict=True)]


def cohort(study: Study) -> dict[str, Any]:
    """Return splits, scanner facts and the tissue fraction by label."""
    slides = study.slides
    if slides.empty:
        return {}
    splits = _splits_with_patches(study)
    attribute = study.attribute
    thresholds = () if attribute.is_patch_attribute else study.thresholds
    pictures = {}
    # Patches that brought an attribute may have no tissue fraction.
    has_tissue = study.groups is not None and bool(study.groups["tissue_fraction"].notna().any())
    if study.groups is not None and has_tissue:
        pictures["tissue_by_label.png"] = fraction_by_label(
            study.groups, thresholds, splits, labels=attribute.label_names
        )
    return {
        "splits": [
            _split_tallies(split, part) for split in [*SPLITS, ""] if len(part := slides[slides["split"] == split])
        ],
        "patients_in_several_splits": patients_in_several_splits(slides),
        **_scanner_facts(study),
        "has_tissue": has_tissue,
        "has_thresholds": bool(thresholds),
        "split_names": splits,
        "pictures": pictures,
    }


def patients_in_several_splits(slides: pd.DataFrame) -> list[str]:
    """Return the patients, in every spelling, whose rows of `Study.slides` are in several splits."""
    split = slides[slides["split"] != ""]
    n_splits = split.groupby(split["patient_id"].map(patient_key))["split"].transform("nunique")
    return sorted(split.loc[n_splits > 1, "patient_id"].unique())


def slides(study: Study) -> dict[str, Any]:
    """Return a row per slide, and the intensity window of each channel."""
    if study.slides.empty:
        return {}
    windows = [
        {"slide_id": row["slide_id"], "channel": channel, "low": low, "high": high}
        for row in _one_row_a_slide(study)
        for channel, (low, high) in zip(row["channels"], row["windows"], strict=False)
    ]
    return {
        "slides": study.slides.to_dict("records"),
        # Ready patches come without an overview, so their tissue mask has no confidence.
        "has_confidence": bool(study.slides["tissue_confidence"].notna().any()),
        "windows": windows,
    }


def audit(study: Study) -> dict[str, Any]:
    """Return the audit of the groups: the verdict on the shortcut, group sizes, and what these sizes can measure."""
    if study.audit is None:
        return {}
    audited, attributes = study.audit, audited_attributes(study.audit)
    attribute = next(iter(attributes.values()))
    is_own = attribute.is_patch_attribute
    if is_own:  # all thresholds give the same groups, so one is shown
        attributes = {attribute.key: attribute}
    thresholds = {key: audited["thresholds"][key] for key in attributes}
    splits = _splits_with_patches(study) or list(next(iter(thresholds.values()), {}))
    auroc_by_split = distinct_results(audited)
    least_effect = audited["verdict"]["least_effect"]
    expected = [_expected(by_split, attributes[key]) for key, by_split in thresholds.items()]
    pictures = {
        "group_counts.png": group_counts(thresholds, splits, attribute=attribute),
        "shortcut.png": audit_plots.shortcut_strength(
            auroc_by_split,
            audited["sweep"],
            least_effect=least_effect,
            title=f"{'Own attribute' if is_own else 'Tissue fraction'} alone",
            labels=attribute.label_names,
        ),
        **{case["file"]: case.pop("picture") for case in expected},
    }
    has_tissue = audited["whole"]["n"] > 0  # patches that brought an attribute may have no tissue fraction
    if has_tissue:
        pictures["alpha_sweep.png"] = alpha_sweep(audited["sweep"], labels=attribute.label_names)
    if not is_own:
        pictures["sweep_counts.png"] = audit_plots.sweep_counts(audited["sweep"])
    return {
        "verdict": verdict_text(audited),
        "is_flagged": audited["verdict"]["is_flagged"],
        "least_effect": least_effect,
        "is_own": is_own,
        "has_tissue": has_tissue,
        "labels": attribute.label_names,
        "attribute_values": attribute.value_names,
        "fraction_only": [{"split": split, **numbers} for split, numbers in audited["fraction_only"].items()],
        "group_key": group_key(attribute),
        "splits": splits,
        "cells": [
            {"where": split if is_own else f"{threshold}, {split}", **_cells(by_split[split], attribute)}
            for threshold, by_split in thresholds.items()
            for split in by_split
        ],
        "first_split": next(iter(audited["sweep"])),
        "expected": expected,
        "pictures": pictures,
    }


def gallery(study: Study, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Return the heatmap of every predicted slide; `thumbnails` names the picture file of each readable overlay."""
    if not study.overlays:
        return {}
    rows = {row["slide_id"]: row for row in study.slides.to_dict("records")}
    decisions = slide_decisions(study)
    slides = [
        {
            "slide_id": slide_id,
            "file": file,
            "split": rows.get(slide_id, {}).get("split", ""),
            "counts": rows.get(slide_id, {}).get("predict_counts", {}),
            **{
                name: rows.get(slide_id, {}).get("predict_summary", {}).get(name)
                for name in ("positive_share", "flagged_share")
            },
            "decision": decisions.get(slide_id),
        }
        for slide_id, file in thumbnails.items()
    ]
    return {"slides": slides, "unreadable": [name for name in study.overlays if name not in thumbnails]}


def review(study: Study) -> dict[str, Any]:
    """Return the current decision on each slide, and the decisions that the groups were formed by."""
    decisions = slide_decisions(study)
    labels = Counter((row.slide_id, row.verdict) for row in current_decisions(study.decisions) if row.kind == "patch")
    # Only groups that were formed with decisions have this entry.
    applied = (study.audit or {}).get("decided")
    if applied is None and not study.decisions:
        return {}
    fingerprints = study.heatmap_fingerprints
    return {
        "applied": None if applied is None else decision_summary(applied),
        "n_changed_test_labels": (applied or {}).get("labels_changed", {}).get("test", 0),
        "has_decisions": bool(study.decisions),
        "outdated": sorted(name for name, row in decisions.items() if row.fingerprint != fingerprints.get(name, "")),
        "verdicts": verdict_counts(study),
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


def _one_row_a_slide(study: Study) -> list[dict[Any, Any]]:
    """Return the slides without the further rows of sets of ready patches, which have a row per split."""
    return [] if study.slides.empty else study.slides.drop_duplicates("slide_id").to_dict("records")


def _splits_with_patches(study: Study) -> list[str]:
    """Return the splits that hold patches; train, val and test first."""
    if study.groups is None or "split" not in study.groups:
        return []
    present = set(study.groups["split"])
    return [split for split in SPLITS if split in present] + sorted(present - set(SPLITS))


def _split_tallies(split: str, part: pd.DataFrame) -> dict[str, Any]:
    """Return slides, patients, patches and the share of tissue of some rows of `Study.slides`."""
    scanned = part["scanned"].astype(float)
    tissue = (part["tissue_share"].astype(float) * scanned).sum()
    return {
        "split": split,
        "slides": len(part),
        "patients": patients_in(part),
        **{name: int(part[name].astype(float).sum()) for name in _TALLIES},
        "tissue_share": tissue / scanned.sum() if scanned.sum() else None,
    }


def _scanner_facts(study: Study) -> dict[str, str]:
    """Return background, channels and resolution as text, each value with its number of slides."""
    slides = study.slides.drop_duplicates("slide_id")
    by_fact = {
        "background": slides["background"].replace("", "not known"),
        "channels": slides["channels"].map(lambda names: ", ".join(names) or "not known"),
        "resolution": slides["mpp"].map(lambda mpp: "not known" if pd.isna(mpp) else f"{mpp:.4g} µm/px"),
    }
    return {
        fact: "; ".join(f"{value} ({pluralize(n, 'slide')})" for value, n in column.value_counts().sort_index().items())
        for fact, column in by_fact.items()
    }


def _cells(cells: Mapping[str, Any], attribute: GroupingAttribute) -> dict[str, Any]:
    """Return patches and patients of each group, and each label's alpha, of one split."""
    # Of tissue, the share with little tissue is 1 - alpha, so it is left out.
    first = 0 if attribute.is_patch_attribute else 1
    return {
        "groups": [
            {"n": n, "patients": patients}
            for counts, people in zip(cells["counts"], cells["patients"], strict=True)
            for n, patients in zip(counts, people, strict=True)
        ],
        "alphas": [(shares or [None])[first:] for shares in cells["alpha"]],
    }


def _expected(by_split: Mapping[str, Any], attribute: GroupingAttribute) -> dict[str, Any]:
    """Return the intervals to expect of each group at one threshold, with their picture."""
    # Models are evaluated on the other splits; the training split is shown where there is no other.
    splits = [split for split in by_split if split != "train"] or list(by_split)
    expected = {split: by_split[split]["expected"] for split in splits}
    first = next(iter(expected.values()))
    return {
        "file": f"expected_{attribute.key}.png",
        "picture": audit_plots.expected_intervals(expected, attribute=attribute),
        "by": attribute.description,
        "accuracy": first["accuracy"],
        "correlation": first["correlation"],
        "cells": [
            {
                **cell,
                "where": split if attribute.is_patch_attribute else f"{attribute.key}, {split}",
                "name": attribute.group_names[cell["group"]],
            }
            for split, cells in expected.items()
            for cell in cells["cells"]
        ],
    }


def predicted_slides(study: Study) -> list[dict[Any, Any]]:
    """Return the row of each slide whose prediction was tried."""
    return [row for row in _one_row_a_slide(study) if row["predict_state"]]


def slide_decisions(study: Study) -> dict[str, RecordedDecision]:
    """Return the current decision on each slide."""
    return {row.slide_id: row for row in current_decisions(study.decisions) if row.kind == "slide"}


def verdict_counts(study: Study) -> dict[str, int]:
    """Return the number of slides with each verdict, and of predicted slides without one."""
    decisions = slide_decisions(study)
    verdicts = Counter(decision.verdict for decision in decisions.values())
    n_undecided = sum(row["slide_id"] not in decisions for row in predicted_slides(study))
    return {**{name: verdicts[name] for name in ("accept", "reject", "flag")}, "undecided": n_undecided}
