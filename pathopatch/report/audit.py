"""Answers what the audit found before there is a model: the shortcut, and what these groups can measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathopatch.evaluation.group_scores import SMALL_GROUP
from pathopatch.groups.audit_format import audited_attributes, judged_in, verdict_text
from pathopatch.report import audit_plots
from pathopatch.report.collect import Study
from pathopatch.report.markup import (
    Html,
    capital,
    paragraph,
    percent,
    picture,
    table,
    tag,
)


def verdict_box(study: Study) -> Html:
    """Return the verdict on the shortcut, told by words and not by colour alone."""
    found = study.audit or {}
    if "verdict" not in found:
        return paragraph(
            "This audit is of an earlier version; run pathopatch audit WORK for its verdict.", kind="absent"
        )
    rule, judged = found["verdict"]["least_effect"], "attribute" if study.attribute.is_patch_attribute else "fraction"
    below = "" if study.attribute.is_patch_attribute else f" or below {0.5 - rule:g}"
    return tag(
        "div",
        paragraph(tag("strong", verdict_text(found)), kind="warning" if found["verdict"]["is_flagged"] else "verdict"),
        paragraph(
            f"The rule: a shortcut is flagged where the 95 % interval by patient of the {judged}'s AUROC lies wholly "
            f"above {0.5 + rule:g}{below}, in the training patches or in all labelled ones together."
        ),
    )


def before_training(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return how strong the shortcut is at which thresholds, and what cells of these sizes can measure."""
    found = study.audit or {}
    if "verdict" not in found:
        return Html("")
    judged = judged_in(found)
    if len(judged) == 2:  # one split and all together are the same
        del judged["all"]
    other, tumor = study.attribute.label_names
    more = f"a value that speaks more for {tumor}" if study.attribute.is_patch_attribute else "more tissue"
    alone = "own attribute" if study.attribute.is_patch_attribute else "tissue fraction"
    pictures["shortcut.png"] = audit_plots.shortcut_strength(
        judged,
        found["sweep"],
        least_effect=found["verdict"]["least_effect"],
        title=f"{capital(alone)} alone",
        labels=study.attribute.label_names,
    )
    first = next(iter(found["sweep"]))
    return tag(
        "div",
        picture(
            "shortcut.png",
            f"AUROC of the {alone} alone for the label in each split with 95 % intervals, and the gap of alpha "
            "between the labels over all tissue thresholds.",
            f"Left: how often a {tumor} patch has {more} than a {other} patch; 0.5 is chance. Right: the "
            f"share of {tumor} patches with at least so much tissue minus that of {other} patches ({first} split). "
            "Lines and shade: 95 % interval by bootstrap over patients.",
        ),
        *_sizes_over_thresholds(study, found, pictures),
        tag("h3", "What these groups can measure"),
        *_expected(found, pictures),
    )


def _sizes_over_thresholds(study: Study, found: Mapping[str, Any], pictures: dict[str, bytes]) -> list[Html]:
    """Return the sizes of the groups at every tissue threshold; nothing where tissue forms no groups."""
    if study.attribute.is_patch_attribute:
        return []
    pictures["sweep_counts.png"] = audit_plots.sweep_counts(found["sweep"])
    return [
        picture(
            "sweep_counts.png",
            "Number of patches in each of the four groups for tissue thresholds from 0.05 to 0.95, per split.",
            f"Patches in each group at every threshold. Below the dashed line ({SMALL_GROUP} patches) a group is too "
            "small to measure well.",
        )
    ]


def _expected(found: Mapping[str, Any], pictures: dict[str, bytes]) -> list[Html]:
    """Return what interval to expect of each cell before there is a model, and which cells are too small."""
    attributes = audited_attributes(found)
    is_own = next(iter(attributes.values())).is_patch_attribute
    parts: list[Html] = []
    rows = []
    for key, attribute in list(attributes.items())[: 1 if is_own else None]:
        by_split = found["thresholds"][key]
        judged = {split: cells["expected"] for split, cells in by_split.items() if split != "train"} or {
            split: cells["expected"] for split, cells in by_split.items()
        }
        name = f"expected_{key}.png"
        pictures[name] = audit_plots.expected_intervals(judged, attribute=attribute)
        told = next(iter(judged.values()))
        parts.append(
            picture(
                name,
                f"Expected intervals of each group's accuracy and of the worst group, {attribute.description}.",
                f"{capital(attribute.description)}. What would be measured if every group were truly right at "
                f"{percent(told['accuracy'], 0)} % (dashed) and patches of one patient were right or wrong together to "
                f"a degree of {told['correlation']:g} (intraclass correlation): 95 % of such cohorts. WGA, the lowest "
                "of the groups, comes out too low by chance alone, by as many points as stand beside it.",
            )
        )
        for split, cells in judged.items():
            where = split if is_own else f"{key}, {split}"
            rows += [
                (
                    where,
                    f"{cell['group']} {attribute.group_names[cell['group']]}",
                    cell["n"],
                    cell["patients"],
                    "–" if cell["half_width"] is None else f"± {percent(cell['half_width'], 0)}",
                    "–" if cell["patients_for_5_points"] is None else cell["patients_for_5_points"],
                    "; ".join(cell["reasons"]) or "large enough",
                )
                for cell in cells["cells"]
            ]
    header = ("split" if is_own else "threshold, split", "group", "patches", "patients", "expected 95 %, points",
              "patients for ± 5 points", "too small to measure?")  # fmt: skip
    parts.append(table("Before any model: how well each group's accuracy can be known.", header, rows, text_columns=2))
    return parts
