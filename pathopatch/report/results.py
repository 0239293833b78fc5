"""Answers how each method does on every group: the runs compared, their gains over ERM, and what seeds make of it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pathopatch.core.text import patches_and_patients, pluralize
from pathopatch.evaluation.compare import n_groups_of, summarise
from pathopatch.evaluation.group_scores import SMALL_GROUP
from pathopatch.groups import GroupingAttribute, TissueBins
from pathopatch.report.collect import Study
from pathopatch.report.findings import group_warnings, in_order, rows_at, rows_by_bins
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
from pathopatch.report.plots import group_accuracies
from pathopatch.report.reading import group_key


def results_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return, for every threshold and the bins, the group accuracies, the comparison and the gains against ERM."""
    if study.comparison is None:
        return paragraph("No run has been evaluated yet, so there are no results.", kind="absent")
    is_pooled = study.folds is not None
    parts: list[Html] = [group_key(study.attribute)]
    for attribute in study.attributes:
        rows = rows_at(study, attribute.tau)
        if rows.empty:
            continue
        name = f"accuracies_{attribute.key}.png"
        parts += _groups_of(rows, attribute, name, pictures, is_pooled=is_pooled)
        further = int((study.comparison["threshold"] == attribute.tau).sum()) - len(rows)
        if further:
            parts.append(
                paragraph(f"{further} runs trained at another threshold are judged at this one in the CSV file.")
            )
    for bins in study.bins:
        rows = rows_by_bins(study, bins)
        if len(rows):
            name = f"accuracies_bins_{bins.key}.png"
            parts += _groups_of(rows, bins, name, pictures, is_pooled=is_pooled)
    parts.append(_seed_table(study))
    parts.append(paragraph("All numbers: ", tag("a", "comparison.csv", href="comparison.csv"), "."))
    return tag("div", *parts)


def _groups_of(
    rows: pd.DataFrame,
    attribute: GroupingAttribute,
    name: str,
    pictures: dict[str, bytes],
    *,
    is_pooled: bool,
) -> list[Html]:
    """Return what is shown of the runs by one attribute: warnings, picture and tables."""
    pictures[name] = group_accuracies(rows, attribute=attribute)
    return [
        tag("h3", capital(attribute.description)),
        *([group_key(attribute)] if isinstance(attribute, TissueBins) else []),
        *group_warnings(rows, attribute),
        picture(
            name,
            f"Accuracy of each run on each of the {len(attribute.group_names)} groups and its worst-group accuracy, "
            f"{attribute.description}; the same numbers are in the table below.",
            "Dots: accuracy in percent, also written at the right. Lines: 95 % interval by bootstrap over "
            "patients. Run names give method, tissue threshold (t), bins (b) or rank (r), and seed (s).",
        ),
        _comparison_table(rows, attribute.description),
        _further_table(rows, is_pooled=is_pooled),
        _gain_table(rows, attribute),
    ]


def _comparison_table(rows: pd.DataFrame, by: str) -> Html:
    """Return the absolute numbers of each run."""
    first = rows.iloc[0]
    n_groups = n_groups_of(first)
    small = " – SMALL" if first["smallest_group_n"] < SMALL_GROUP else ""
    groups = [
        tag("span", f"group {g}", tag("span", f"n = {int(first[f'n_{g}'])}", class_="interval"),
            tag("span", pluralize(int(first[f'patients_{g}']), 'patient'), class_="interval"))
        for g in range(n_groups)
    ]  # fmt: skip
    worst = tag("span", "WGA", tag("span", f"smallest n = {int(first['smallest_group_n'])}{small}", class_="interval"))
    body = [
        (row["run"], _share(row, "wga"), _share(row, "gba"), *(_share(row, f"accuracy_{g}") for g in range(n_groups)))
        for row in rows.to_dict("records")
    ]
    caption = (
        f"Accuracy, {first['split']} split, {by}: {patches_and_patients(int(first['n']), int(first['patients']))}; "
        "percent, with 95 % intervals."
    )
    return table(caption, ("run", worst, "GBA", *groups), body)


def _further_table(rows: pd.DataFrame, *, is_pooled: bool) -> Html:
    """Return the numbers of each run that do not treat the groups alike."""
    body = [
        (
            row["run"],
            _share(row, "average"),
            percent(row["biased_average"]),
            between(number(row["auroc"]), number(row["auroc_low"]), number(row["auroc_high"])),
            "of each fold" if is_pooled else signed(row["decision_threshold"], 2),
            percent(row["wga_at_zero"]),
            percent(row["wga_val"]),
            *(f"{row[name]:.0f}" if row[name] == row[name] else "–" for name in ("trials", "search_steps")),
        )
        for row in rows.to_dict("records")
    ]
    header = (
        "run", "average", "biased average", "AUROC", "decision threshold", "WGA at threshold 0", "validation WGA",
        "trials", "steps of all trials",
    )  # fmt: skip
    caption = (
        "Beside it: averages, ranking, and what the decision threshold tuned on validation does. A high average with a "
        "low WGA is what the shortcut looks like."
    )
    return table(caption, header, body)


def _gain_table(rows: pd.DataFrame, attribute: GroupingAttribute) -> Html:
    """Return what each run gained or lost on each group against ERM."""
    others = rows[(rows["reference"] != "") & (rows["reference"] != rows["run"])]
    if others.empty:
        return paragraph("There is no ERM run beside another one here, so no gains are shown.", kind="absent")

    def gain(row: dict[Any, Any], name: str) -> Html:
        return between(*(points(row[f"gain_{name}{end}"]) for end in ("", "_low", "_high")))

    body = [
        (
            row["run"],
            row["reference"],
            gain(row, "wga"),
            *(gain(row, str(g)) for g in range(len(attribute.group_names))),
        )
        for row in others.to_dict("records")
    ]
    header = ("run", "held against", "WGA", *(f"group {g}: {name}" for g, name in enumerate(attribute.group_names)))
    caption = (
        f"Gain (+) or loss (\N{MINUS SIGN}) against ERM {attribute.phrase}, percentage points on the same "
        "patches, with paired 95 % intervals. ERM is the better of plain and class-balanced by validation WGA, of the "
        "same seed, trained by the same attribute or by the one that is judged here."
    )
    return table(caption, header, body, text_columns=2)


def _seed_table(study: Study) -> Html:
    """Return mean and standard deviation over seeds; nothing to say with one seed each."""
    assert study.comparison is not None
    means = summarise(study.comparison[study.comparison["threshold"].isin(study.thresholds)])
    if study.attribute.is_patch_attribute:  # every run is judged alike, whatever threshold it names
        means["threshold"] = means["trained_threshold"].fillna(means["threshold"])
    means = means[means["trained_threshold"].isna() | (means["trained_threshold"] == means["threshold"])]
    if means.empty or means["runs"].max() < 2:
        return paragraph("Each method has one seed, so no mean over seeds is shown.", kind="absent")

    def told(row: dict[Any, Any], name: str) -> str:
        return f"{percent(row[f'{name}_mean'])} ± {percent(row[f'{name}_sd'])}"

    body = [
        (
            f"{row['threshold']:g}, {row['method']}{_trained_otherwise(row)}",
            int(row["runs"]),
            *(told(row, name) for name in ("wga", "gba", "average")),
            f"{number(row['auroc_mean'])} ± {number(row['auroc_sd'])}",
            f"{points(row['gain_wga_mean'])} ± {percent(row['gain_wga_sd'])}",
        )
        for row in in_order(means, "threshold").to_dict("records")
    ]
    header = ("threshold, method", "seeds", "WGA", "GBA", "average", "AUROC", "WGA gain over ERM")
    caption = "Mean ± standard deviation over seeds (of the sample); percent, gains in percentage points."
    return tag("div", tag("h3", "Over seeds"), table(caption, header, body))


def _trained_otherwise(row: dict[Any, Any]) -> str:
    """Return what a method was trained on where that is not the threshold at which it is judged."""
    told = str(row.get("trained_attribute") or "")
    return "" if told in ("", str(row.get("attribute", "")), "nan") else f" on {told}"


def _share(row: dict[Any, Any], name: str) -> Html:
    """Return a share in percent with its interval."""
    return between(percent(row[name]), percent(row[f"{name}_low"]), percent(row[f"{name}_high"]))
