"""Answers how far the folds of a cross-validation agree."""

from __future__ import annotations

import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.report.collect import Study
from pathopatch.report.markup import Html, number, paragraph, percent, table, tag


def folds_section(study: Study) -> Html:
    """Return the worst-group accuracy of each run in each fold beside the pooled one, for every attribute."""
    if study.folds is None or study.comparison is None:
        return paragraph("The cohort was divided once, so there are no folds to compare.", kind="absent")
    parts: list[Html] = [
        paragraph(
            "Each patient is tested once, by models that trained and were selected on others. All other sections of "
            "this report are of these pooled predictions, each less its own model's decision threshold. The validation "
            "numbers are pooled alike. Each fold has its own comparison and models under folds/."
        )
    ]
    shown = {attribute.label: attribute.phrase for attribute in study.attributes}
    shown |= {bins.label: f"by {bins.label}" for bins in study.bins}
    for attribute, rows in study.folds.groupby("attribute", sort=False):
        if str(attribute) in shown:
            parts.append(_table(str(attribute), shown[str(attribute)], rows, study.comparison))
    return tag("div", *parts)


def _table(attribute: str, told: str, rows: pd.DataFrame, pooled: pd.DataFrame) -> Html:
    """Return one attribute's table: a row a run, a column a fold."""
    numbers = sorted(set(rows["fold"]))
    sizes = rows.drop_duplicates("fold").set_index("fold")
    heads = [
        tag("span", f"fold {fold}", tag("span", pluralize(sizes['patients'][fold], 'patient'), class_="interval"),
            tag("span", f"smallest n = {sizes['smallest_group_n'][fold]}", class_="interval"))
        for fold in numbers
    ]  # fmt: skip
    whole = pooled[pooled["attribute"] == attribute].set_index("run")
    body = []
    for run, mine in rows.groupby("run", sort=False):
        wga = mine.set_index("fold")["wga"]
        body.append(
            (
                str(run),
                *(percent(float(wga[fold])) for fold in numbers),
                f"{percent(float(wga.mean()))} ± {percent(float(wga.std()))}",
                percent(float(whole["wga"].get(run, float("nan")))),
                f"{number(float(mine['auroc'].mean()))} ± {number(float(mine['auroc'].std()))}",
            )
        )
    caption = (
        f"Worst-group accuracy on each fold's test patients {told}, percent; mean and standard deviation over "
        "folds (no standard error: the folds share training patients); pooled over all patients; and AUROC over folds."
    )
    return table(caption, ("run", *heads, "over folds", "pooled", "AUROC over folds"), body)
