"""Collect what the report shows of the data: slides, splits, and the audit of the groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.audit import audited_attributes, shortcut_results, verdict_text
from pathopatch.report import audit_plots
from pathopatch.report.collect import Study, patients_in
from pathopatch.report.plots import alpha_sweep, fraction_by_label, group_colors, group_counts
from pathopatch.slides.manifest import SPLITS

_TALLIES = ("patches", "with_tissue", "labelled", "tumor")


def slide_problems(study: Study) -> list[dict[str, Any]]:
    """Return failed slides, slides without tissue, and slides with warnings, each kind with the slides' names."""
    if study.slides.empty:
        return []
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
    with_split = slides[slides["split"] != ""]
    n_splits = with_split.groupby("patient_id")["split"].nunique()
    splits = _splits_with_patches(study)
    attribute = study.attribute
    thresholds = () if attribute.is_patch_attribute else study.thresholds
    pictures = {}
    if study.groups is not None:
        pictures["tissue_by_label.png"] = fraction_by_label(
            study.groups, thresholds, splits, labels=attribute.label_names
        )
    return {
        "problems": slide_problems(study),
        "splits": [
            _split_tallies(split, part) for split in [*SPLITS, ""] if len(part := slides[slides["split"] == split])
        ],
        "patients_in_several_splits": [str(patient) for patient in n_splits[n_splits > 1].index],
        **_scanner_facts(study),
        "has_groups": study.groups is not None,
        "has_thresholds": bool(thresholds),
        "split_names": splits,
        "labels": attribute.label_names,
        "pictures": pictures,
    }


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
    judged = shortcut_results(audited)
    if len(judged) == 2:  # one split, and "all", which is the same patches
        del judged["all"]
    least_effect = audited["verdict"]["least_effect"]
    expected = [_expected(by_split, attributes[key]) for key, by_split in thresholds.items()]
    pictures = {
        "group_counts.png": group_counts(thresholds, splits, attribute=attribute),
        "alpha_sweep.png": alpha_sweep(audited["sweep"], labels=attribute.label_names),
        "shortcut.png": audit_plots.shortcut_strength(
            judged,
            audited["sweep"],
            least_effect=least_effect,
            title=f"{'Own attribute' if is_own else 'Tissue fraction'} alone",
            labels=attribute.label_names,
        ),
        **{case["file"]: case.pop("picture") for case in expected},
    }
    if not is_own:
        pictures["sweep_counts.png"] = audit_plots.sweep_counts(audited["sweep"])
    return {
        "verdict": verdict_text(audited),
        "is_flagged": audited["verdict"]["is_flagged"],
        "least_effect": least_effect,
        "is_own": is_own,
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


def _one_row_a_slide(study: Study) -> list[dict[Any, Any]]:
    """Return the slides without the further rows of sets of ready patches, which have a row per split."""
    return study.slides.drop_duplicates("slide_id").to_dict("records")


def _splits_with_patches(study: Study) -> list[str]:
    """Return the splits that hold patches; train, val and test first."""
    if study.groups is None or "split" not in study.groups:
        return []
    present = set(study.groups["split"])
    return [split for split in SPLITS if split in present] + sorted(present - set(SPLITS))


def _split_tallies(split: str, part: pd.DataFrame) -> dict[str, Any]:
    """Return slides, patients, patches and the share of tissue of some rows of `Study.slides`."""
    patches = part["patches"].astype(float)
    tissue_patches = (part["tissue_share"].astype(float) * patches).sum()
    return {
        "split": split,
        "slides": len(part),
        "patients": patients_in(part),
        **{name: int(part[name].astype(float).sum()) for name in _TALLIES},
        "tissue_share": tissue_patches / patches.sum() if patches.sum() else None,
    }


def _scanner_facts(study: Study) -> dict[str, str]:
    """Return background, channels and resolution as text, each value with its number of slides."""
    slides = study.slides.drop_duplicates("slide_id")
    by_fact = {
        "background": slides["background"].replace("", "not known"),
        "channels": slides["channels"].map(lambda names: ", ".join(names) or "not known"),
        "resolution": slides["mpp"].map(lambda mpp: "not known" if pd.isna(mpp) else f"{mpp:.4g} um/px"),
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
    judged = {split: cells["expected"] for split, cells in by_split.items() if split != "train"}
    judged = judged or {split: cells["expected"] for split, cells in by_split.items()}
    first = next(iter(judged.values()))
    return {
        "file": f"expected_{attribute.key}.png",
        "picture": audit_plots.expected_intervals(judged, attribute=attribute),
        "by": attribute.description,
        "accuracy": first["accuracy"],
        "correlation": first["correlation"],
        "cells": [
            {
                **cell,
                "where": split if attribute.is_patch_attribute else f"{attribute.key}, {split}",
                "name": attribute.group_names[cell["group"]],
            }
            for split, cells in judged.items()
            for cell in cells["cells"]
        ],
    }
