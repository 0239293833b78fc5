"""Answers how models from elsewhere do on this cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pathopatch.core.text import pluralize
from pathopatch.evaluation.group_scores import SMALL_GROUP
from pathopatch.groups import GroupingAttribute, PatchAttribute, TissueBins, TissueThreshold
from pathopatch.report import audit_plots
from pathopatch.report.collect import Study
from pathopatch.report.markup import (
    Html,
    between,
    number,
    paragraph,
    percent,
    safe,
    signed,
    table,
    tag,
    warning,
)
from pathopatch.report.trained import ablated, calibrated, latest


def outside_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return how models from elsewhere do on this cohort."""
    if not study.outside:
        return paragraph(
            "No model from elsewhere was judged here (pathopatch evaluate WORK --model BUNDLE).", kind="absent"
        )
    parts: list[Html] = []
    for name, numbers in study.outside.items():
        parts += _one_bundle(name, numbers, study.attribute, pictures)
    return tag("div", *parts)


def _one_bundle(
    name: str,
    numbers: Mapping[str, Any],
    attribute: TissueThreshold | PatchAttribute,
    pictures: dict[str, bytes],
) -> list[Html]:
    """Return what is known of one model from elsewhere."""
    about = numbers["bundle"]
    parts: list[Html] = [
        tag("h3", name),
        paragraph(
            f"Method {about['method']}, network {about['architecture']}, channels {', '.join(about['channels'])}, "
            f"{about['patch_px']} px patches, decision threshold {signed(about['decision_threshold'], 2)} on the logit "
            f"(chosen for: {about['decision_chosen_for']}), temperature {about['temperature']:g}. Nothing was trained "
            "or chosen here."
        ),
        *(warning(said) for said in numbers["warnings"]),
    ]
    first = next(iter(numbers["splits"].values()))
    for key in list(first["thresholds"])[: 1 if attribute.is_patch_attribute else None]:
        parts.append(_accuracies(numbers, "thresholds", key, replace(attribute, tau=float(key))))
    for key in () if attribute.is_patch_attribute else first.get("bins", ()):
        bins = TissueBins.from_key(key, label_names=attribute.label_names)
        parts.append(_accuracies(numbers, "bins", key, bins))
    alone = [
        (split, _ranked(next(iter(content["thresholds"].values()))["auroc"]),
         between(*(number(content["fraction_only"][f"auroc{end}"]) for end in ("", "_low", "_high"))),
         *(cell for row in content["tissue_dependence"] for cell in _slope(row)))
        for split, content in numbers["splits"].items()
    ]  # fmt: skip
    parts.append(
        table(
            "Ranking beside that of the tissue fraction alone, and how the probability depends on the tissue fraction "
            "within each class.",
            ("split", "AUROC of the model", "AUROC of the fraction alone",
             *(head for label in attribute.label_names for head in (f"slope within {label}", "rank correlation"))),
            alone,
        )
    )  # fmt: skip
    for split, content in numbers["splits"].items():
        threshold = next(iter(content["thresholds"]))
        attribute = replace(attribute, tau=float(threshold))
        stem = f"outside_{len(pictures)}"
        told = {name: content["calibration"]}
        pictures[f"{stem}_reliability.png"] = audit_plots.reliability(
            {name: latest(content["calibration"])["thresholds"][threshold]["attributes"]},
            names=attribute.value_names,
            tumor=attribute.label_names[1],
        )
        parts += calibrated(f"{stem}_reliability.png", told, attribute, f"split {split}")
        without = [{"run": name, **row} for row in content["ablation"] if row["threshold"] == threshold]
        if without:
            pictures[f"{stem}_ablation.png"] = audit_plots.ablation(without)
            parts += ablated(f"{stem}_ablation.png", without, f"split {split}, {attribute.description}")
    return parts


def _accuracies(numbers: Mapping[str, Any], kind: str, key: str, attribute: GroupingAttribute) -> Html:
    """Return the accuracies by one attribute, a row a split."""
    rows = [
        (split, judged["n"], judged["patients"], *(_judged(judged[name]) for name in ("wga", "gba", "average")),
         *(_of_group(row) for row in judged["groups"]))
        for split, content in numbers["splits"].items()
        if (judged := content[kind][key])
    ]  # fmt: skip
    header = ("split", "patches", "patients", "WGA", "GBA", "average",
              *(f"group {g}: {named}" for g, named in enumerate(attribute.group_names)))  # fmt: skip
    return table(f"Accuracy by {attribute.description}, percent, with 95 % intervals by patient.", header, rows)


def _judged(told: Mapping[str, Any]) -> Html:
    return between(*(percent(told[end]) for end in ("value", "low", "high")))


def _ranked(told: Mapping[str, Any]) -> Html:
    return between(*(number(told[end]) for end in ("value", "low", "high")))


def _of_group(row: Mapping[str, Any]) -> Html:
    """Return a group's accuracy with its interval and size."""
    told = between(*(percent(row[end]) for end in ("accuracy", "low", "high")))
    small = " – SMALL" if row["n"] < SMALL_GROUP else ""
    return Html(
        safe(told) + tag("span", f"n = {row['n']}, {pluralize(row['patients'], 'patient')}{small}", class_="interval")
    )


def _slope(row: Mapping[str, Any]) -> tuple[Html, Html]:
    """Return slope and rank correlation of one class."""
    return (
        between(*(signed(row[f"slope{end}"], 2) for end in ("", "_low", "_high"))),
        between(*(signed(row[f"spearman{end}"], 2) for end in ("", "_low", "_high"))),
    )
