"""Choose the ERM run that a run is compared with, of the same budget, and compute the gains over it.

Runs are compared only at one budget: the same steps, the same samples per step, the same search. Gains are paired: on
the patches that both runs predicted, and an interval resamples patients for both at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.group_scores import (
    effective_sizes,
    equal_area_arrays,
    is_right,
    pooled_accuracy,
    too_few_of,
    too_few_seeds,
    with_ends,
)
from pathopatch.evaluation.predicting import stored_predictions
from pathopatch.groups import GroupingAttribute, bins_attributes, threshold_attributes, units_of
from pathopatch.metrics.bootstrap import LEAST_EQUAL_AREA_GAIN, effective_count, patient_counts
from pathopatch.metrics.equal_area import auroc_at_equal_area, equal_area_draws, tells_area
from pathopatch.metrics.intervals import difference_interval, over_repetitions, worst_difference_interval

ERM_METHODS = ("erm", "erm-balanced")
SEARCH_FILE = "search.json"
BUDGET = ("steps", "batch_per_class", "search")
"""Columns in which runs must agree to be compared with each other, or averaged."""
_NO_SEARCH = "none"


def is_plain_erm(table: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows of a comparison are ERM on patches as they are: masks, composing and a choice are remedies."""
    return table["method"].isin(ERM_METHODS) & table["is_plain"]


def reference_run(table: pd.DataFrame, row: pd.Series[Any]) -> str:
    """Return the plain ERM run that a row is compared with, of equal budget; "" if there is none.

    Its setting has the highest mean validation WGA over seeds, then GBA; of equal ones, or without validation, it is
    the first in the table, in the order of the study. Of its runs that of the row's seed is taken, else the best.
    """
    erm = table[is_plain_erm(table) & (table["attribute"] == row["attribute"])]
    erm = erm[erm["rerun_of"] == ""]
    for key in BUDGET:  # without an equal budget there is no reference
        erm = erm[(erm[key] == row[key]) | (erm[key].isna() & pd.isna(row[key]))]
    # Of a run trained on bins, the ERM selected for bins and the one selected for the threshold of this row both
    # qualify: the better one at this threshold is the harder reference.
    same = erm[erm["trained_attribute"].isin([row["trained_attribute"], row["attribute"]])]
    erm = erm if same.empty else same
    if erm.empty:
        return ""
    # The mean over seeds: a setting that had luck with one seed would else be the reference of that seed.
    measures = ["wga_val", "gba_val"]
    means = erm.groupby("settings_key", sort=False)[measures].mean().round(9)  # sums of decimals differ by rounding
    best = means.sort_values(measures, ascending=False).index[0]
    own = erm[erm["settings_key"] == best].assign(is_other_seed=erm["seed"] != row["seed"])
    ranked = own.sort_values(["is_other_seed", *measures], ascending=[True, False, False])
    return str(ranked["run"].iloc[0])


@dataclass(frozen=True, eq=False)
class Measured:
    """What differences between runs of one split are made of, by one attribute."""

    hits: NDArray[np.int64]  # (P, 2 A), as `patient_counts` returns them
    n: NDArray[np.int64]
    equal_area: float
    drawn: NDArray[np.float64]  # (R,), AUROC at equal area in draws of units, the same for every run
    units: float  # effective number of these

    @property
    def wga(self) -> float:
        """Worst-group accuracy."""
        return float(pooled_accuracy(self.hits, self.n).min())


def measured_runs(
    work: Path, table: pd.DataFrame, groups: pd.DataFrame, config: EvaluateConfig
) -> dict[tuple[str, str], Measured]:
    """Return what was measured of the runs of a comparison, by run and label of the attribute."""
    patient = units_of(groups.set_index("patch_id"))
    attributes: dict[str, GroupingAttribute] = {
        by.label: by for by in (*threshold_attributes(groups), *bins_attributes(groups))
    }
    found = {}
    for name, rows in table.groupby("run", sort=False):
        predictions = stored_predictions(work, str(name), str(rows["split"].iloc[0]))
        who = patient.loc[predictions.index].to_numpy(dtype=str)
        # No groups are in AUROC at equal area, so it is the same by every attribute.
        arrays, unit = equal_area_arrays(predictions, who)
        drawn = equal_area_draws(**arrays, unit=unit, resamples=config.bootstrap, seed=config.seed)
        pairs = auroc_at_equal_area(**arrays)
        factor = np.nan if tells_area(pairs.floor) else 1.0  # a value that may be area claims nothing
        for label, threshold in zip(rows["attribute"], rows["decision_threshold"], strict=True):
            group = attributes[label].groups_in(predictions)
            known = group >= 0  # blank patches are in no bin
            right = is_right(predictions, threshold)[known]
            counts = patient_counts(right, group[known], who[known], n_groups=2 * attributes[label].n_values)
            found[str(name), str(label)] = Measured(
                *counts, factor * pairs.value, factor * drawn, effective_count(unit)
            )
    return found


def difference(own: Mapping[int, Measured], other: Mapping[int, Measured]) -> dict[str, float]:
    """Return how much more a setting has than another, each by seed: the mean over the seeds that both have.

    The columns are seeds, and wga and equal_area with their ends over units and seeds.
    """
    seeds = [seed for seed in sorted(own) if seed in other and np.array_equal(own[seed].n, other[seed].n)]
    pairs = [(own[seed], other[seed]) for seed in seeds]
    if not pairs:
        return {"seeds": 0} | with_ends("wga", None, None, None) | with_ends("equal_area", None, None, None)
    values, ends = [], []
    for first, second in pairs:
        draws, area = len(first.drawn), first.equal_area - second.equal_area
        values.append((first.wga - second.wga, area))
        of_wga = worst_difference_interval(first.hits, second.hits, first.n, resamples=draws)
        ends.append((of_wga, difference_interval(area, first.drawn - second.drawn, first.units)))
    (wga, area), (wga_ends, area_ends) = np.array(values).T, np.array(ends).swapaxes(0, 1)
    return {
        "seeds": len(pairs),
        **with_ends("wga", *over_repetitions(wga, wga_ends)),
        **with_ends("equal_area", *over_repetitions(area, area_ends)),
    }


def gains_of_row(
    row: pd.Series[Any], table: pd.DataFrame, measured: Mapping[tuple[str, str], Measured]
) -> dict[str, float]:
    """Return the gains of the setting of a comparison's row over that of its reference, over the seeds of both.

    The columns are ``gain_wga`` and ``gain_equal_area`` with ``_low`` and ``_high``, ``gain_average`` and
    ``gain_auroc``, ``gain_seeds``, and what `effective_sizes` returns of the patches. Without a seed of both the two
    runs are compared. Gains are NaN where there is no reference, or the patches differ.
    """
    label, measures = row["attribute"], ["average", "auroc"]
    sizes = effective_sizes(measured[row["run"], label].n)
    at = table[table["attribute"] == label].set_index("run")
    if row["reference"] == "":
        unknown = difference({}, {}) | dict.fromkeys(measures, np.nan)
        return sizes | {f"gain_{name}": value for name, value in unknown.items()}
    once = at[at["rerun_of"] == ""]  # equal fits are one
    own, other = (
        {int(seed): str(run) for run, seed in runs["seed"].items()}
        for runs in (once[once["settings_key"] == at.loc[row[name], "settings_key"]] for name in ("run", "reference"))
    )
    if not set(own) & set(other):
        own, other = {0: row["run"]}, {0: row["reference"]}
    gains = difference(*({seed: measured[run, label] for seed, run in runs.items()} for runs in (own, other)))
    shared = sorted(set(own) & set(other))
    first, second = (at.loc[[runs[seed] for seed in shared], measures].mean() for runs in (own, other))
    return sizes | {f"gain_{name}": value for name, value in (gains | (first - second).to_dict()).items()}


Outcome = Literal["no interval", "better", "evener", "traded", "worse", "no difference"]
Verdict = Literal["empty group", "too few", "few seeds", "plain", "no plain", Outcome]
OUTCOMES = (
    "Better: the intervals of the gains in worst-group accuracy and at equal area are above 0. Evener: the former is, "
    f"and at equal area a loss beyond {-LEAST_EQUAL_AREA_GAIN:g} is excluded. Traded: the former is, and the estimate "
    f"at equal area is below {LEAST_EQUAL_AREA_GAIN:g}."
)
_LEADS: dict[Verdict, str] = {
    "no interval": "no claim",
    "evener": "errors are more even over {area}groups, and {label} is told as before",
    "traded": "errors are more even over {area}groups, and {label} is told worse",
    "no difference": "no difference is shown",
}


def outcome_of(difference: Mapping[Any, Any], prefix: str = "") -> Outcome:
    """Return what the intervals of a difference show, by columns wga and equal_area with their ends.

    A shift of the decision between area groups raises the worst group as well, and leaves the ranking as it is. So
    *better* is more than no loss at equal area. Where a loss there is neither shown nor excluded, nothing is.
    """
    low, high = (difference[f"{prefix}wga_{end}"] for end in ("low", "high"))
    equal_area, equal_area_low = (difference[f"{prefix}equal_area{end}"] for end in ("", "_low"))
    if np.isnan(low) or (low > 0 and np.isnan(equal_area_low)):
        return "no interval"
    if high < 0:
        return "worse"
    if low <= 0:
        return "no difference"
    if equal_area_low > LEAST_EQUAL_AREA_GAIN:
        return "better" if equal_area_low > 0 else "evener"
    return "traded" if equal_area < LEAST_EQUAL_AREA_GAIN else "no difference"


def gain_verdict(row: Mapping[Any, Any]) -> Verdict:
    """Return what a comparison's row shows against its reference."""
    if pd.isna(row["wga"]):
        return "empty group"
    if too_few_of(row):
        return "too few"
    if row["reference"] in ("", row["run"]):
        return "plain" if row["reference"] else "no plain"
    if too_few_seeds(row["gain_seeds"]):
        return "few seeds"
    return outcome_of(row, "gain_")


def gain_text(row: Mapping[Any, Any], by: GroupingAttribute) -> str:
    """Return a sentence on what a row shows against its reference; "" for one without a reference.

    For instance ``against erm, better: the worst group rose by 13.9 points (95 % interval +2.0 to +30.1), at equal area
    +0.010 (+0.002 to +0.018)``. `by` names labels and groups.
    """
    if row["reference"] in ("", row["run"]):
        return ""
    verdict = gain_verdict(row)
    if verdict == "empty group":
        return f"against {row['reference']}, not known, since a group has no patch"
    reasons = [f"too few, {reason} in {place}" for place, reason in too_few_of(row).items()]
    reasons += [f"without a claim, {reason}" for reason in (too_few_seeds(row["gain_seeds"]),) if reason]
    lead = reasons[0] if reasons else lead_of(verdict, by)
    return f"against {row['reference']}, {lead}: {measured_text(row, by)}"


def lead_of(verdict: Verdict, by: GroupingAttribute) -> str:
    """Return the words before what was measured."""
    return _LEADS.get(verdict, verdict).format(area="" if by.is_patch_attribute else "area ", label=by.label_names[1])


def measured_text(row: Mapping[Any, Any], by: GroupingAttribute) -> str:
    """Return how far the worst group moved, what became of AUROC at equal area, and what fell, without a claim."""
    gain, verdict = row["gain_wga"], gain_verdict(row)
    text = f"the worst group {'fell' if gain < 0 else 'rose'} by {abs(100 * gain):.1f} points"
    if pd.notna(row["gain_wga_low"]):
        text += f" (95 % interval {100 * row['gain_wga_low']:+.1f} to {100 * row['gain_wga_high']:+.1f})"
    text += f" over {row['gain_seeds']:.0f} seeds" if row["gain_seeds"] > 1 else ""
    if pd.notna(row["gain_equal_area"]):
        is_unclear = verdict == "no difference" and row["gain_wga_low"] > 0
        value, *ends = (row[f"gain_equal_area{end}"] for end in ("", "_low", "_high"))
        text += f", {'but a loss at equal area is not excluded,' if is_unclear else 'at equal area'} {value:+.3f}"
        text += "" if np.isnan(ends[0]) else f" ({ends[0]:+.3f} to {ends[1]:+.3f})"
    elif tells_area(row["equal_area_floor"]):
        text += ", and at equal area it cannot be told apart from area here"
    for name, words, scale, unit in (("auroc", "AUROC", 1, ""), ("average", "average accuracy", 100, " points")):
        fell = f"{-scale * row[f'gain_{name}']:{'.1f' if unit else '.3f'}}"
        if row[f"gain_{name}"] < 0 and float(fell):
            text += f"; {words} fell by {fell}{unit}"
    return text + (f"; the worst group, {100 * row['wga']:.1f} % right, is below a coin" if row["wga"] < 0.5 else "")


def budget_of(work: Path, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budget of a run, from its configuration (empty for a bundle from elsewhere) and ``search.json``.

    ``steps`` and ``batch_per_class`` of the training that is kept; ``trials`` of the search that it won (1 without a
    search); ``search_steps``, of all trials; ``search``, the offer, such as "8 trials",
    "none" without a search. NaN and "" where unknown.
    """
    unknown = float("nan")
    budget: dict[str, Any] = {
        "steps": config.get("steps", unknown),
        "batch_per_class": config.get("batch_per_class", unknown),
        "trials": 1 if config else unknown,
        "search_steps": config.get("steps", unknown),
        "search": _NO_SEARCH if config else "",
    }
    path = WorkFolder(work).run(name) / SEARCH_FILE
    if path.is_file():
        search = read_json(path)
        budget |= {"trials": search["trials"], "search_steps": search["steps"], "search": search["offered"]}
    return budget


def total_budget(budgets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was spent on a run in all folds, in the words of one run's ``search.json``."""
    offers = dict.fromkeys(budget["search"] for budget in budgets)
    return {
        "offered": ", ".join(offer if offer == _NO_SEARCH else f"{offer} a fold" for offer in offers),
        "trials": sum(budget["trials"] for budget in budgets),
        "steps": sum(budget["search_steps"] for budget in budgets),
        "folds": len(budgets),
    }


def unequal_budgets_text(searches: Sequence[str], references: Sequence[str]) -> str:
    """Note that searches differ, or that some runs have no plain ERM of the same budget; "" if all is equal.

    `references` are the ERM runs that each run is compared with; empty where there is none.
    """
    notes = []
    if len(set(searches)) > 1:
        notes.append(f"searches differ ({', '.join(sorted(set(searches)))})")
    if "" in references:
        plain = "plain ERM run (no mask, no composing, no choice)"
        notes.append(f"no gain is given where no {plain} had the same steps, samples a step and search")
    text = "; ".join(notes)
    return f"{text[0].upper()}{text[1:]}." if text else ""
