"""Collect what the report shows of the data: the cohort, its features, each slide, and the audit of the groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pathopatch.core.patients import SPLITS, patient_key
from pathopatch.core.text import pluralize
from pathopatch.groups import GroupingAttribute
from pathopatch.groups.audit import audited_attributes, shortcut_results, verdict_text
from pathopatch.report.cells import percent
from pathopatch.report.collect import Study, patients_in
from pathopatch.report.plots import fraction_by_label, group_colors

_TALLIES = ("patches", "with_tissue", "labelled", "tumor")
STATES = {"failed": "FAILED", "done_empty": "EMPTY: no tissue", "running": "NOT FINISHED"}
_ENCODER_FACTS = {
    "name": "Encoder",
    "dim": "Values per patch",
    "input_px": "Input side, px",
}


def slide_problems(study: Study) -> list[dict[str, Any]]:
    """Return failed slides, slides without tissue, and slides with warnings, each kind with the slides' names."""
    slides = one_row_a_slide(study)
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
    of_all = {"n_slides": len(slides), "noun": "slides" if all(row["patient_id"] for row in slides) else "patch sets"}
    return [problem | of_all for problem in problems if problem["slides"]]


def group_key(attribute: GroupingAttribute) -> list[dict[str, str]]:
    """Return name and colour of each group."""
    names = attribute.group_names
    return [{"name": name, "color": color} for name, color in zip(names, group_colors(len(names)), strict=True)]


def cohort(study: Study) -> dict[str, Any]:
    """Return splits, scanner facts and the tissue fraction by label."""
    slides = study.slides
    if slides.empty:
        return {}
    present = set() if study.groups is None or "split" not in study.groups else set(study.groups["split"])
    splits = [split for split in SPLITS if split in present] + sorted(present - set(SPLITS))
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
        "has_icc": bool(slides["icc"].any()),
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
    """Return a row per slide."""
    if study.slides.empty:
        return {}
    return {
        "slides": [
            {
                **row,
                "channel_names": ", ".join(row["channels"]),
                **{stage: STATES.get(row[f"{stage}_state"], row[f"{stage}_state"]) for stage in ("tile", "predict")},
            }
            for row in study.slides.to_dict("records")
        ],
        # Ready patches come without an overview, so their tissue mask has no confidence.
        "has_confidence": bool(study.slides["tissue_confidence"].notna().any()),
    }


def features(study: Study) -> dict[str, Any]:
    """Return layout, encoder and notes of a cohort of features; empty for slides."""
    feature_cohort = study.features
    if feature_cohort is None:
        return {}
    known = {"name": "not named in its files", **feature_cohort["encoder"]}
    return {
        "layout": feature_cohort["layout"],
        "facts": [(text, known[name]) for name, text in _ENCODER_FACTS.items() if name in known],
        "notes": feature_cohort["notes"],
    }


def audit_section(study: Study) -> dict[str, Any]:
    """Return the audit of the groups: the verdict on the shortcut, group sizes, and what these sizes can measure."""
    if study.audit is None:
        return {}
    audited, attributes = study.audit, audited_attributes(study.audit)
    attribute = next(iter(attributes.values()))
    is_own, unit = attribute.is_patch_attribute, audited["unit"]
    if is_own:  # all thresholds give the same groups, so one is shown
        attributes = {attribute.key: attribute}
    thresholds = {key: audited["thresholds"][key] for key in attributes}
    # Of tissue, the share with little tissue is 1 - alpha, so it is left out.
    first = 0 if is_own else 1
    where = {(key, split): split if is_own else f"{key}, {split}" for key in thresholds for split in thresholds[key]}
    if not audited["fraction_only"]:  # no patch has a label
        return {}
    # Models are evaluated on the other splits; the training split is shown where there is no other.
    judged = [split for split in where if split[1] != "train"] or list(where)
    expected = {(key, split): thresholds[key][split]["expected"] for key, split in judged}
    has_tissue = audited["whole"]["n"] > 0  # patches that brought an attribute may have no tissue fraction
    return {
        "verdict": verdict_text(audited),
        "is_flagged": audited["verdict"]["is_flagged"],
        "least_effect": audited["verdict"]["least_effect"],
        "is_own": is_own,
        "has_tissue": has_tissue,
        "labels": attribute.label_names,
        "attribute_values": attribute.value_names,
        "fraction_only": [
            {
                "split": split,
                **numbers,
                "cut": ""
                if numbers["threshold"] is None
                else f"{'at least' if numbers['larger_is_tumor'] else 'below'} {numbers['threshold']:.3g}",
            }
            for split, numbers in audited["fraction_only"].items()
        ],
        "own": [{"split": split, **own} for split, own in shortcut_results(audited).items()] if is_own else [],
        "group_key": group_key(attribute),
        "cells": [
            {"where": place, **_cells(thresholds[key][split], first, unit)} for (key, split), place in where.items()
        ],
        "assumed": next(iter(expected.values())),
        "lowest": [
            {"where": where[place], **case["wga"]}
            for place, case in expected.items()
            if case["wga"]["mean"] is not None
        ],
        "measurable": [
            {
                **row,
                "where": where[place],
                "name": f"{row['group']} {attributes[place[0]].group_names[row['group']]}",
                "half_width_text": "" if row["half_width"] is None else f"± {percent(row['half_width'], 0)}",
                "reasons_text": "; ".join(row["reasons"]) or "large enough",
            }
            for place, case in expected.items()
            for row in case["cells"]
        ],
    }


def one_row_a_slide(study: Study) -> list[dict[Any, Any]]:
    """Return the slides without the further rows of sets of ready patches, which have a row per split."""
    return [] if study.slides.empty else study.slides.drop_duplicates("slide_id").to_dict("records")


def _split_tallies(split: str, part: pd.DataFrame) -> dict[str, Any]:
    """Return slides, patients, patches and the share of tissue of some rows of `Study.slides`."""
    scanned = part["scanned"].astype(float)
    tissue = (part["tissue_share"].astype(float) * scanned).sum()
    return {
        "name": split or "no split yet",
        "slides": int(part["slides"].sum()),
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
        "icc": slides["icc"].replace("", "none"),
    }
    return {
        fact: "; ".join(f"{value} ({pluralize(n, 'slide')})" for value, n in column.value_counts().sort_index().items())
        for fact, column in by_fact.items()
    }


def _cells(cells: Mapping[str, Any], first: int, unit: str) -> dict[str, Any]:
    """Return patches and patients of each group, and each label's alpha from attribute value `first` on, as a row."""
    sizes = zip(np.ravel(cells["counts"]).tolist(), np.ravel(cells["patients"]).tolist(), strict=True)
    row: dict[str, Any] = {}
    for group, (n, patients) in enumerate(sizes):
        people = pluralize(patients, unit)
        row |= {f"n_{group}": n, f"patients_{group}": patients}
        row[f"group_{group}"] = Markup('{}<span class="interval">{}</span>').format(n, people)
    for label, shares in enumerate(cells["alpha"]):
        row[f"alpha_{label}"] = " / ".join(map(percent, (shares or [None])[first:]))
    return row
