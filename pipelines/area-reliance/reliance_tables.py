"""Make the tables of the study from its results."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from pathopatch.debias.interventions import PLACEBOS
from pathopatch.evaluation.area_reliance import LEAST_PATIENTS, judge

SETS = ("balanced", "follows", "skewed")
"""Patches that are asked about: groups alike; area follows the class; and besides, nine of ten are non-tumour."""
_WORDS = {"relies": "RELIES", "not shown": "NONE SHOWN", "not known": "NOT KNOWN"}
_RESAMPLES = 2000
HEADS = " heads"
"""Ends the name of a ground whose models are heads on features."""
BIASED = {"0 %", "0.5 %", "1 %", "4 %", "5 %"}
"""Shares of conflicting patches with which plain training is known to learn the area."""


def tables(results: pd.DataFrame) -> str:
    """Return all tables as Markdown; `results` has a row a model."""
    if results.empty:
        return "No cohort has run yet."
    table = results.assign(deficit=_deficit(results), **{f"{name}_verdict": _verdict(results, name) for name in SETS})
    parts = [
        "### Does the number rank with the bias?", "", *_ranking(table), "",
        "### How often does the verdict err?", "", *_errors(table), "",
        "### Verdicts by model", "", *_verdicts(table), "",
        "### Correction", "", *_corrections(table),
    ]  # fmt: skip
    return "\n".join(parts)


def _verdict(table: pd.DataFrame, name: str) -> list[str]:
    """Return the verdicts of the rules as they are now, by the measures; without these, the stored ones."""
    return [
        row[f"{name}_verdict"] if np.isnan(row[f"{name}_eta"]) else str(judge(_measures(row, name))["verdict"])
        for _, row in table.iterrows()
    ]


def _measures(row: pd.Series, name: str) -> dict[str, Any]:
    return {
        "effective_patients": LEAST_PATIENTS,  # every cohort has as many
        "patches": row[f"{name}_patches"],
        "positive": row[f"{name}_positive"],
        **{key: {end: row[f"{name}_{key}{place}"] for end, place in ENDS.items()} for key in ("eta", "adj")},
        "again": {key: row[f"{name}_again_{key}"] for key in ("eta", "adj")},
        "within": None if np.isnan(row[f"{name}_within"]) else row[f"{name}_within"],
        "placebos": {placebo: {"turned": row[f"{name}_{placebo}"]} for placebo in PLACEBOS},
    }


ENDS = {"value": "", "low": "_low", "high": "_high"}


def _deficit(table: pd.DataFrame) -> pd.Series:
    """Return how far each model's WGA lies below the best ceiling of its cohort."""
    best = table[table["case"] == "ceiling"].groupby("cohort")["wga"].max()
    return table["cohort"].map(best) - table["wga"]


def is_unbiased(table: pd.DataFrame) -> pd.Series:
    """Return which models were trained without the shortcut."""
    return table["case"] == "ceiling"


def is_biased(table: pd.DataFrame) -> pd.Series:
    """Return which models were trained plainly with the shortcut, at most 5 % conflicting."""
    return (table["row"] == "erm") & table["case"].isin(BIASED)


def _kinds(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield networks, and heads on features."""
    is_head = table["ground"].str.endswith(HEADS)
    for name, part in (("networks", table[~is_head]), ("heads", table[is_head])):
        if len(part):
            yield name, part


def _ranking(table: pd.DataFrame) -> Iterator[str]:
    yield "| models | patches | measure | n | rank correlation with the deficit of WGA | least within a cohort |"
    yield "|---" * 6 + "|"
    for (kind, part), name, measure in product(_kinds(table), SETS, _MEASURES):
        column = part[f"{name}_{measure}"].abs()
        of = part.assign(measure=column)[column.notna() & part["deficit"].notna()]
        within = [one["measure"].corr(one["deficit"], "spearman") for _, one in of.groupby("cohort") if len(one) >= 8]
        overall = of["measure"].corr(of["deficit"], "spearman")
        least = f"{min(within):.2f}" if within else ""
        yield f"| {kind} | {name} | {_MEASURES[measure]} | {len(of)} | {overall:.2f} | {least} |"


_MEASURES = {
    "eta": "eta",
    "adj": "size of adj",
    "slope": "slope of the probability over the natural area",
    "rank": "rank correlation of the probability with the natural area",
}


def _errors(table: pd.DataFrame) -> Iterator[str]:
    yield "| models | patches | error | n | wrong | 95 %, by cohort | exact, models | exact, cohorts | NOT KNOWN |"
    yield "|---" * 9 + "|"
    for (kind, of), name in product(_kinds(table), SETS):
        for what, rows, wrong in (
            ("unbiased, accused", is_unbiased(of), "relies"),
            ("plain with the shortcut, acquitted", is_biased(of), "not shown"),
        ):
            part = of[rows]
            is_wrong, is_unknown = (part[f"{name}_verdict"] == word for word in (wrong, "not known"))
            low, high = _by_cohort(is_wrong.to_numpy(float), part["cohort"].to_numpy(str))
            # Models of a cohort may err together: the last bound takes a cohort with any error as one error.
            bounds = (
                _bound(int(is_wrong.sum()), len(part)),
                _bound(part["cohort"][is_wrong].nunique(), part["cohort"].nunique()),
            )
            cells = [
                f"{is_wrong.sum()} ({100 * is_wrong.mean():.1f} %)",
                f"{100 * low:.1f} to {100 * high:.1f} %",
                *(f"at most {100 * bound:.1f} %" for bound in bounds),
                f"{is_unknown.sum()} ({100 * is_unknown.mean():.0f} %)",
            ]
            yield f"| {kind} | {name} | {what} | {len(part)} | {' | '.join(cells)} |"


def _bound(errors: int, n: int) -> float:
    """Return the upper end of the exact 95 % interval of a share."""
    return 1.0 if errors == n else float(beta.ppf(0.975, errors + 1, n - errors))


def _by_cohort(values: np.ndarray, cohort: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean over resampled cohorts."""
    rng, names = np.random.default_rng(0), np.unique(cohort)
    sums = np.array([values[cohort == name].sum() for name in names])
    sizes = np.array([(cohort == name).sum() for name in names])
    drawn = rng.integers(len(names), size=(_RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _verdicts(table: pd.DataFrame) -> Iterator[str]:
    yield "| ground | row | conflicting | models | WGA | eta | adj | balanced | follows | skewed |"
    yield "|---" * 10 + "|"
    for (ground, row, case), part in table.groupby(["ground", "row", "case"], sort=False):
        said = " | ".join(
            ", ".join(f"{n} {_WORDS[verdict]}" for verdict, n in part[f"{name}_verdict"].value_counts().items())
            for name in SETS
        )
        numbers = (
            f"{part['wga'].mean():.1f} | {part['balanced_eta'].median():.3f} | {part['balanced_adj'].median():+.2f}"
        )
        yield f"| {ground} | {row} | {case} | {len(part)} | {numbers} | {said} |"


def _corrections(table: pd.DataFrame) -> Iterator[str]:
    yield (
        "| ground | row | conflicting | models | WGA | subtract | average | of skewed patches: subtract | average "
        "| GBA | subtract | average | AUROC | subtract | average | where the shortcut holds | subtract | average |"
    )
    yield "|---" * 18 + "|"
    for (ground, row, case), part in table.groupby(["ground", "row", "case"], sort=False):
        kinds = [f"{name}_{kind}" for name in ("balanced", "skewed") for kind in ("subtract", "average")]
        columns = ["wga", *(f"{kind}_wga" for kind in kinds)]
        for measure in ("gba", "auroc", "biased"):
            columns += [measure, *(f"{kind}_{measure}" for kind in kinds[:2])]
        means = [f"{part[column].mean():.1f}" for column in columns]
        yield f"| {ground} | {row} | {case} | {len(part)} | {' | '.join(means)} |"
