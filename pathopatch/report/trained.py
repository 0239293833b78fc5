"""Answers what trained models make of tissue and channels, and whether their probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pathopatch.groups import PatchAttribute, TissueThreshold
from pathopatch.report import audit_plots
from pathopatch.report.collect import Study
from pathopatch.report.markup import (
    Html,
    between,
    capital,
    number,
    paragraph,
    percent,
    picture,
    points,
    signed,
    table,
    tag,
)

_MEASURES = ("wga", "gba", "auroc")


def dependence_changes(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return each run's dependence on the tissue as a picture, and what it changed against its ERM run."""
    if study.dependence is None or study.dependence.empty:
        return Html("")
    rows = [{str(key): value for key, value in row.items()} for row in study.dependence.to_dict("records")]
    pictures["dependence.png"] = audit_plots.dependence(rows, labels=study.attribute.label_names)
    shown = picture(
        "dependence.png",
        "Slope and rank correlation of the predicted probability over the tissue fraction within each class, per run.",
        "Each run's dependence on the amount of tissue within one class, with 95 % interval by patient. 0 is none.",
    )
    changed = [row for row in rows if pd.notna(row["slope_change"])]
    if not changed:
        return shown
    body = [
        (row["run"], row["reference"], study.attribute.label_names[int(row["label"])], *(_change(row, n) for n in
         ("slope", "spearman")))
        for row in changed
    ]  # fmt: skip
    header = ("run", "held against", "within", "size of the slope", "size of the rank correlation")
    caption = (
        "Change of the dependence on tissue against ERM on the same patches, with paired 95 % intervals; below 0 means "
        "that the run follows the tissue less than ERM does."
    )
    return tag("div", shown, table(caption, header, body, text_columns=3))


def _change(row: Mapping[str, Any], name: str) -> Html:
    return between(*(signed(row[f"{name}_change{end}"], 2) for end in ("", "_low", "_high")))


def calibration_section(study: Study, pictures: dict[str, bytes], runs: Sequence[str]) -> Html:
    """Return how far the probabilities of some runs can be taken at their word, with little tissue and with much."""
    split, threshold = _split(study), f"{study.thresholds[0]:g}" if study.thresholds else ""
    told = {
        run: content["calibration"]
        for run in runs
        if "calibration" in (content := study.evaluations[run]["splits"].get(split, {}))
    }
    if not told:
        return paragraph("No run has been evaluated with its calibration yet.", kind="absent")
    pictures["reliability.png"] = audit_plots.reliability(
        {run: latest(each)["thresholds"][threshold]["attributes"] for run, each in told.items()},
        names=study.attribute.value_names,
        tumor=study.attribute.label_names[1],
    )
    return tag("div", *calibrated("reliability.png", told, study.attribute, f"{split} split"))


def calibrated(
    name: str, told: Mapping[str, Mapping[str, Any]], attribute: TissueThreshold | PatchAttribute, where: str
) -> list[Html]:
    """Return diagram and tables of the calibration of some models."""
    tumor = attribute.label_names[1]
    rows: list[tuple[object, ...]] = []
    groups: list[tuple[object, ...]] = []
    for run, kinds in told.items():
        for kind, each in kinds.items():
            at = each["thresholds"][attribute.key]
            called = run if len(kinds) == 1 else f"{run}, {kind} its temperature"
            scopes = ("all", *attribute.value_names)
            rows += [
                (called, scope, one["n"], _error(one), percent(one["ece_if_calibrated"]), number(one["brier"]),
                 number(one["nll"]))
                for scope, one in zip(scopes, (each["all"], *at["attributes"]), strict=True)
            ]  # fmt: skip
            groups += [
                (called, f"{g} {name}", one["n"], percent(one["confidence"]), percent(one["accuracy"]),
                 points(one["overconfidence"]), percent(one["ece"]))
                for g, (name, one) in enumerate(zip(attribute.group_names, at["groups"], strict=True))
            ]  # fmt: skip
    return [
        paragraph(
            f"A probability of 80 % is to be taken at its word if 80 of 100 such patches are {tumor}. The line of a "
            f"calibrated model lies on the diagonal. The share of {tumor} among these patches counts: in a cohort with "
            f"more or less {tumor} the same model is calibrated otherwise."
        ),
        picture(
            name,
            f"Share of {tumor} against predicted probability {attribute.phrase} for {', '.join(told)}.",
            f"{capital(where)}, {attribute.description}. Ten bins of equal width; marks: mean probability and share of "
            f"{tumor} in a bin, hollow with fewer than 10 patches; lines: 95 % interval by patient; below: patches in "
            "each bin. By chance: the error that a perfectly calibrated model would show with as many patches.",
        ),
        table(
            f"Calibration, {where}, {attribute.description}: expected calibration error (ten bins of equal width) in "
            "percent with 95 % interval, Brier score and negative log-likelihood (lower is better).",
            ("model", "patches", "n", "error, %", "by chance, %", "Brier", "log-likelihood, negative"),
            rows,
            text_columns=2,
        ),
        table(
            "How sure the model is in each group, and how often it is right there, by the more probable class. Within "
            "a group all patches have one label: even a calibrated model is too sure in the group that is hard for it.",
            ("model", "group", "n", "confidence, %", "right, %", "too sure by, points", "error, %"),
            groups,
            text_columns=2,
        ),
    ]


def ablation_section(study: Study, pictures: dict[str, bytes], runs: Sequence[str]) -> Html:
    """Return what some runs lose without each channel."""
    split, threshold = _split(study), f"{study.thresholds[0]:g}" if study.thresholds else ""
    rows = [
        {"run": run, **row}
        for run in runs
        for row in study.evaluations[run]["splits"].get(split, {}).get("ablation", ())
        if row["threshold"] == threshold
    ]
    if not rows:
        return paragraph(
            "No channel was taken away: there is one only, or the runs were judged without it.", kind="absent"
        )
    pictures["ablation.png"] = audit_plots.ablation(rows)
    return tag("div", *ablated("ablation.png", rows, f"{split} split, {study.attribute.description}"))


def ablated(name: str, rows: Sequence[Mapping[str, Any]], where: str) -> list[Html]:
    """Return picture and table of what is lost without each channel."""
    body = [
        (row["run"], row["channel"], *(_lost(row, measure) for measure in _MEASURES), number(row["auroc_without"]))
        for row in rows
    ]
    return [
        paragraph(
            "Each channel in turn is replaced by its mean over the training patches, so that it says nothing. A loss "
            "near 0 means that the model can do without it, not that the channel holds nothing; WGA also suffers from "
            "the decision threshold, which stays, AUROC does not."
        ),
        picture(
            name,
            f"Loss of WGA, GBA and AUROC without each channel, {where}.",
            f"{capital(where)}. Points lost without a channel, with paired 95 % interval by patient.",
        ),
        table(
            f"WorkerDied without a channel, percentage points with paired 95 % intervals, {where}.",
            ("model", "without", "WGA", "GBA", "AUROC x 100", "AUROC that is left"),
            body,
            text_columns=2,
        ),
    ]


def _lost(row: Mapping[str, Any], measure: str) -> Html:
    return between(*(points(row[f"{measure}_lost{end}"]) for end in ("", "_low", "_high")))


def _error(told: Mapping[str, Any]) -> Html:
    return between(*(percent(told[f"ece{end}"]) for end in ("", "_low", "_high")))


def latest(kinds: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the calibration after the temperature where there is one, else before."""
    latest: Mapping[str, Any] = kinds.get("after", kinds["before"])
    return latest


def _split(study: Study) -> str:
    """Return the split that the comparison reports."""
    return "" if study.comparison is None or study.comparison.empty else str(study.comparison["split"].iloc[0])
