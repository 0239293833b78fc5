"""Collect what the report shows of the evaluated runs: results by group."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pathopatch.core.method_names import METHOD_NAMES
from pathopatch.core.text import pluralize
from pathopatch.evaluation.compare import by_validation
from pathopatch.evaluation.evaluate import by_attribute
from pathopatch.evaluation.group_scores import n_groups_of, smallest_group
from pathopatch.evaluation.slide_scores import scores_by
from pathopatch.groups import GroupingAttribute, PatchAttribute, TissueBins, TissueThreshold
from pathopatch.report.cells import percent, signed
from pathopatch.report.cohort_section import group_key
from pathopatch.report.collect import Study
from pathopatch.report.plots import pdf, png, worst_groups


def rows_at(study: Study, threshold: float) -> pd.DataFrame:
    """Return the comparison at a threshold: runs trained at it (all runs, if none was), in the order of methods."""
    if study.comparison is None:
        return pd.DataFrame()
    rows = study.comparison[study.comparison["threshold"] == threshold]
    # Runs trained on bins have no threshold of their own and are shown at each.
    trained_here = rows[rows["trained_threshold"].isna() | (rows["trained_threshold"] == threshold)]
    # An attribute of the patches' own gives the same groups at all thresholds: all runs belong together.
    return runs_in_order(rows if trained_here.empty or study.attribute.is_patch_attribute else trained_here)


def runs_in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows sorted, ERM first and GERNE last, then by seed and run."""
    place = rows["method"].map(lambda name: METHOD_NAMES.index(name) if name in METHOD_NAMES else len(METHOD_NAMES))
    keys = ["place", *(name for name in ("method", "seed", "run") if name in rows)]
    return rows.assign(place=place).sort_values(keys).drop(columns="place")


def preferred(rows: pd.DataFrame) -> dict[Any, Any] | None:
    """Return the first row of `by_validation`; None where no run has a validation WGA."""
    return next(iter(by_validation(rows).to_dict("records")), None) if len(rows) else None


def validation_groups(study: Study, by: GroupingAttribute) -> list[dict[str, Any]]:
    """Return number, n and patients of each group of the first run that was judged on validation; else none."""
    contents = [numbers["splits"]["val"] for numbers in study.evaluations.values() if "val" in numbers["splits"]]
    return list(by_attribute(contents[0])[by.label]["groups"]) if contents else []


def results(study: Study) -> dict[str, Any]:
    """Return, for every threshold and the bins, the accuracy of each run on each group and its gain over ERM."""
    table = study.comparison
    if table is None:
        return {}
    rows_of: dict[TissueThreshold | PatchAttribute | TissueBins, pd.DataFrame]
    rows_of = {by: rows_at(study, by.tau) for by in study.attributes}
    for bins in study.bins:
        rows = table[table["attribute"] == bins.label]
        trained_here = rows[rows["trained_attribute"].str.split(", ", regex=False).str[0] == bins.label]
        rows_of[bins] = runs_in_order(rows if trained_here.empty else trained_here)
    attributes = []
    for attribute, rows in rows_of.items():
        if rows.empty:
            continue
        n_others = 0
        if not isinstance(attribute, TissueBins):
            n_others = int((table["threshold"] == attribute.tau).sum()) - len(rows)
        groups = validation_groups(study, attribute)
        val = {f"{kind}_{group['group']}": group[kind] for group in groups for kind in ("n", "patients")}
        least = smallest_group(val) if val else {"n_smallest": None, "patients_smallest": None}
        sizes = {**smallest_group(dict(rows.iloc[0])), "n_val": least["n_smallest"]}
        sizes["patients_val"] = least["patients_smallest"]
        records = [
            {
                **row,
                **sizes,
                "decision_text": signed(row["decision_threshold"]) if not study.has_folds else "of each fold",
            }
            for row in rows.to_dict("records")
        ]
        first = records[0]
        attributes.append(
            {
                "by": attribute.description,
                "at": attribute.phrase,
                "groups": attribute.group_names,
                # Bins have groups of their own, so they need a key of their own.
                "group_key": group_key(attribute) if isinstance(attribute, TissueBins) else [],
                "sizes": [
                    f"n = {first[f'n_{group}']:.0f}, {pluralize(int(first[f'patients_{group}']), first['unit'])}"
                    for group in range(n_groups_of(first))
                ],
                "rows": records,
                "gains": [row for row in records if row["reference"] not in ("", row["run"])],
                "n_others": n_others,
            }
        )
    pictures = {}
    if study.summary is not None and len(study.summary.rows):
        figure = worst_groups(study.summary.rows)
        pictures = {"summary.png": png(figure), "summary.pdf": pdf(figure)}
    return {
        "group_key": group_key(study.attribute),
        "attributes": attributes,
        "seeds": _over_seeds(study),
        "by_slide": _by_slide(study),
        "pictures": pictures,
    }


def _by_slide(study: Study) -> list[dict[str, Any]]:
    """Return how well each run tells slides and patients of the shown split apart."""
    splits = {run: numbers["splits"] for run, numbers in study.evaluations.items()}
    contents = {run: each[study.split] for run, each in splits.items() if study.split in each}
    return [
        {
            "title": title,
            "reason": next(iter(scores.values()))["reason"],
            "rows": [{"run": run, **own, "pooled": own["auroc"]["pooled"]} for run, own in scores.items()],
        }
        for title, scores in scores_by(contents)
    ]


def _over_seeds(study: Study) -> list[dict[Any, Any]]:
    """Return each setting over its seeds; nothing where each has one seed."""
    rows = pd.DataFrame() if study.summary is None else study.summary.rows
    if rows.empty or rows["seeds"].max() < 2:
        return []
    names = [f"{row['attribute']}, {row['name']}" for row in rows.to_dict("records")]
    sd = [percent(value) for value in rows["wga_sd"]]
    return rows.assign(name=names, sd=sd).to_dict("records")
