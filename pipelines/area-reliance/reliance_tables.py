"""Make the tables of the study from its results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import beta

SETS = ("balanced", "follows", "skewed")
"""Patches that are asked about: groups alike; area follows the class; and besides, nine of ten are non-tumour."""
_WORDS = {"relies": "RELIES", "not shown": "NONE SHOWN", "not known": "NOT KNOWN"}
_RESAMPLES = 2000
BIASED = {"0 %", "0.5 %", "1 %", "4 %", "5 %"}
"""Shares of conflicting patches with which plain training is known to learn the area."""


def tables(results: pd.DataFrame) -> str:
    """Return all tables as Markdown; `results` has a row a model."""
    table = results.assign(deficit=_deficit(results))
    parts = [
        "### Does the number rank with the bias?", "", *_ranking(table), "",
        "### How often does the verdict err?", "", *_errors(table), "",
        "### Verdicts by model", "", *_verdicts(table), "",
        "### Correction", "", *_corrections(table),
    ]  # fmt: skip
    return "\n".join(parts)


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


def _ranking(table: pd.DataFrame) -> Iterator[str]:
    yield "| patches | measure | models | rank correlation with the deficit of WGA | least within a cohort |"
    yield "|---" * 5 + "|"
    for name in SETS:
        for measure in ("eta", "adj", "slope", "rank"):
            column = table[f"{name}_{measure}"].abs()
            of = table.assign(measure=column)[column.notna()]
            within = [
                part["measure"].corr(part["deficit"], "spearman") for _, part in of.groupby("cohort") if len(part) >= 8
            ]
            overall = of["measure"].corr(of["deficit"], "spearman")
            least = f"{min(within):.2f}" if within else ""
            yield f"| {name} | {_MEASURES[measure]} | {len(of)} | {overall:.2f} | {least} |"


_MEASURES = {
    "eta": "eta",
    "adj": "size of adj",
    "slope": "slope of the probability over the natural area",
    "rank": "rank correlation of the probability with the natural area",
}


def _errors(table: pd.DataFrame) -> Iterator[str]:
    yield "| patches asked about | models | of them | wrong verdict | 95 % interval, by cohort | exact | NOT KNOWN |"
    yield "|---" * 7 + "|"
    for name in SETS:
        for what, rows, wrong in (
            ("unbiased, accused", is_unbiased(table), "relies"),
            ("plain with the shortcut, acquitted", is_biased(table), "not shown"),
        ):
            part = table[rows]
            verdict = part[f"{name}_verdict"]
            n = int((verdict == wrong).sum())
            low, high = _by_cohort((verdict == wrong).to_numpy(float), part["cohort"].to_numpy(str))
            exact = 100 * (1.0 if n == len(part) else float(beta.ppf(0.975, n + 1, len(part) - n)))
            unknown = int((verdict == "not known").sum())
            yield (
                f"| {name} | {what} | {len(part)} | {n} ({100 * n / len(part):.1f} %) | {100 * low:.1f} to "
                f"{100 * high:.1f} % | at most {exact:.1f} % | {unknown} ({100 * unknown / len(part):.0f} %) |"
            )


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
        "| ground | row | conflicting | models | WGA | subtract | average | GBA | subtract | average "
        "| AUROC | subtract | average | where the shortcut holds | subtract | average |"
    )
    yield "|---" * 16 + "|"
    for (ground, row, case), part in table.groupby(["ground", "row", "case"], sort=False):
        means = [
            f"{part[column].mean():.1f}"
            for measure in ("wga", "gba", "auroc", "biased")
            for column in (measure, f"balanced_subtract_{measure}", f"balanced_average_{measure}")
        ]
        yield f"| {ground} | {row} | {case} | {len(part)} | {' | '.join(means)} |"
