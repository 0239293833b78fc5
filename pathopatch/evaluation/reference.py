"""Choose the ERM run that a run is compared with, of the same budget, and compute the gains over it.

Runs are compared only at one budget: the same steps, the same samples per step, the same search. Gains are paired: on
the patches that both runs predicted, and an interval resamples patients for both at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.group_scores import (
    effective_sizes,
    equal_area_arrays,
    is_right,
    n_groups_of,
    patient_counts,
    pooled_accuracy,
    resampled_counts,
    too_few_of,
    with_ends,
)
from pathopatch.groups import GroupingAttribute
from pathopatch.metrics.bootstrap import LEAST_EQUAL_AREA_GAIN, effective_count, interval, ratio, widened
from pathopatch.metrics.equal_area import auroc_at_equal_area, equal_area_draws

ERM_METHODS = ("erm", "erm-balanced")
SEARCH_FILE = "search.json"
BUDGET = ("steps", "batch_per_class", "search")
"""Columns in which runs must agree to be compared with each other, or averaged."""
_NO_SEARCH = "none"


def is_plain_erm(table: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows of a comparison are ERM on patches as they are: masks, composing and a choice are remedies."""
    return table["method"].isin(ERM_METHODS) & table["is_plain"]


def reference_run(table: pd.DataFrame, row: pd.Series[Any]) -> str:
    """Return the plain ERM run that a row is compared with: of equal budget, the better by validation WGA, or ""."""
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
    ranked = erm.sort_values(["wga_val", "gba_val", "run"], ascending=[False, False, True], na_position="last")
    # The seed pairs runs within a setting alone. A bad ERM run would else be the reference of its seed, for want of
    # another, and every method would gain over it.
    is_other_seed = ranked["seed"] != row["seed"]
    paired = ranked.loc[is_other_seed.sort_values(kind="stable").index].drop_duplicates("settings_key")
    return str(ranked.loc[ranked.index.isin(paired.index), "run"].iloc[0])


def gains_of_row(
    row: pd.Series[Any],
    table: pd.DataFrame,
    predictions: Mapping[str, pd.DataFrame],
    patient: pd.Series[Any],
    attributes: Mapping[str, GroupingAttribute],
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return the gain in WGA of a comparison's row over its reference, with its paired, `widened` interval.

    `predictions` are those of each run, indexed by patch_id like `patient`; `attributes` those of the groups, by label.
    The columns are ``gain_wga`` with ``_low`` and ``_high``; the differences of the two rows, ``gain_average`` and
    ``gain_auroc``; and what `effective_sizes` returns of the patches. Gains are NaN where there is no reference; an
    interval is NaN with fewer than two patients.
    """
    own = predictions[row["run"]]
    # A row without a reference is taken as its own, for the sizes of its groups.
    name = row["reference"] or row["run"]
    reference = predictions[name].reindex(own.index).dropna(subset=["logit"])
    group = attributes[row["attribute"]].groups_in(own.loc[reference.index])
    reference, group = reference[group >= 0], group[group >= 0]  # blank patches are in no bin
    own = own.loc[reference.index]
    # Each run keeps its own decision threshold, which its row at the same attribute holds.
    other = table[(table["run"] == name) & (table["attribute"] == row["attribute"])].iloc[0]
    cells: dict[str, Any] = {
        "group": group,
        "patient": patient.loc[own.index].to_numpy(dtype=str),
        "n_groups": n_groups_of(dict(row)),
    }
    hits, n = patient_counts(is_right(own, row["decision_threshold"]), **cells)
    other_hits, _ = patient_counts(is_right(reference, other["decision_threshold"]), **cells)
    settings = {"resamples": config.bootstrap, "seed": config.seed}
    drawn, other_drawn, count = resampled_counts(hits, other_hits, n, **settings)
    gained = ratio(drawn, count).min(axis=1) - ratio(other_drawn, count).min(axis=1)
    sizes = effective_sizes(n)
    value = float(pooled_accuracy(hits, n).min() - pooled_accuracy(other_hits, n).min())
    gains = with_ends("gain_wga", value, *interval(widened(gained, sizes["effective_patients"])))
    gains |= {f"gain_{measure}": row[measure] - other[measure] for measure in ("average", "auroc")}
    return sizes | (gains if row["reference"] else dict.fromkeys(gains, float("nan")))


Claim = Literal["no interval", "better", "moved", "worse", "no difference"]
Verdict = Literal["empty group", "too few", "plain", "no plain", Claim]
_LEADS: dict[Verdict, str] = {
    "too few": "debiased against plain training, without a claim",
    "moved": "errors moved from one {area}group to the other",
    "no difference": "no difference is shown",
}


def claim_of(low: float, high: float, equal_area_low: float) -> Claim:
    """Return what a difference shows, by its paired interval in WGA and the lower end of that at equal area.

    A shift of the decision between area groups raises WGA as well. So a gain there counts as better only if nothing is
    lost at equal area; otherwise errors have moved.
    """
    if np.isnan(low) or (low > 0 and np.isnan(equal_area_low)):
        return "no interval"
    if low > 0:
        return "better" if equal_area_low > LEAST_EQUAL_AREA_GAIN else "moved"
    return "worse" if high < 0 else "no difference"


def gain_verdict(row: Mapping[Any, Any]) -> Verdict:
    """Return what a comparison's row shows against its reference."""
    if pd.isna(row["wga"]):
        return "empty group"
    if too_few_of(row):
        return "too few"
    if row["reference"] in ("", row["run"]):
        return "plain" if row["reference"] else "no plain"
    return claim_of(row["gain_wga_low"], row["gain_wga_high"], row["gain_equal_area_low"])


def gain_text(row: Mapping[Any, Any], by: GroupingAttribute) -> str:
    """Return a sentence on what a row shows against its reference; "" for one without a reference.

    For instance ``against erm, better: the worst group rose by 13.9 points (95 % interval +2.0 to +30.1), at equal area
    0.640, was 0.630``. `by` names labels and groups.
    """
    if row["reference"] in ("", row["run"]):
        return ""
    verdict = gain_verdict(row)
    if verdict == "empty group":
        return f"against {row['reference']}, not known, since a group has no patch"
    reasons = [f"too few, {reason} in {place}" for place, reason in too_few_of(row).items()]
    lead = reasons[0] if reasons else lead_of(verdict, by)
    return f"against {row['reference']}, {lead}: {measured_text(row, by)}"


def lead_of(verdict: Verdict, by: GroupingAttribute) -> str:
    """Return the words before what was measured."""
    return _LEADS.get(verdict, verdict).format(area="" if by.is_patch_attribute else "area ")


def measured_text(row: Mapping[Any, Any], by: GroupingAttribute) -> str:
    """Return how far the worst group moved, what became of AUROC at equal area, and what fell, without a claim."""
    verdict, gain, gain_at_equal_area = gain_verdict(row), row["gain_wga"], row["gain_equal_area"]
    was = {name: row[name] - row[f"gain_{name}"] for name in ("equal_area", "auroc", "average")}
    text = f"the worst group {'fell' if gain < 0 else 'rose'} by {abs(100 * gain):.1f} points"
    if pd.notna(row["gain_wga_low"]):
        ends = (f"{100 * row[f'gain_wga_{end}']:+.1f}" for end in ("low", "high"))
        text += f" (95 % interval {' to '.join(ends)})"
    if pd.notna(gain_at_equal_area):
        both = f"at equal area {row['equal_area']:.3f}, was {was['equal_area']:.3f}"
        if verdict != "better" and gain > 0 and not row["gain_equal_area_low"] > 0:
            told = "told no better" if gain_at_equal_area <= 0 else "not shown to be told better"
            both = f"and {by.label_names[1]} is {told} ({both})"
        text += f", {both}"
    for name, words, scale, unit in (("auroc", "AUROC", 1, ""), ("average", "average accuracy", 100, " %")):
        before, now = (f"{scale * value:{'.1f' if unit else '.3f'}}" for value in (was[name], row[name]))
        if row[name] < was[name] and before != now:
            text += f"; {words} fell from {before} to {now}{unit}"
    return text + (f"; the worst group, {100 * row['wga']:.1f} % right, is below a coin" if row["wga"] < 0.5 else "")


def equal_area_gain(
    own: pd.DataFrame, reference: pd.DataFrame, patient: pd.Series[Any], config: EvaluateConfig
) -> dict[str, float]:
    """Return the gain in AUROC at equal area over a reference, with its paired, `widened` interval by patient.

    `own` and `reference` are predictions, of which the patches of both are compared, indexed by patch_id like
    `patient`. The columns are ``gain_equal_area`` with ``_low`` and ``_high``.
    """
    reference = reference.reindex(own.index).dropna(subset=["logit"])
    own = own.loc[reference.index]
    who = patient.loc[own.index].to_numpy(dtype=str)
    (arrays, unit), (others, _) = (equal_area_arrays(each, who) for each in (own, reference))
    settings: dict[str, Any] = {"unit": unit, "resamples": config.bootstrap, "seed": config.seed}
    drawn = equal_area_draws(**arrays, **settings) - equal_area_draws(**others, **settings)
    value = auroc_at_equal_area(**arrays).value - auroc_at_equal_area(**others).value
    return with_ends("gain_equal_area", value, *interval(widened(drawn, effective_count(unit))))


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
