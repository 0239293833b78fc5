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
from numpy.typing import NDArray

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
from pathopatch.metrics.bootstrap import effective_count, interval, ratio, widened
from pathopatch.metrics.equal_area import auroc_at_equal_area, equal_area_draws
from pathopatch.training.phase_data import steps_of_all_phases

ERM_METHODS = ("erm", "erm-balanced")
SEARCH_FILE = "search.json"
BUDGET = ("steps", "batch_per_class", "search")
"""Columns in which runs must agree to be compared with each other, or averaged."""
_NO_SEARCH = "none"


def is_plain_erm(table: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows of a comparison are ERM on patches as they are: on masked or composed ones it is a remedy."""
    return table["method"].isin(ERM_METHODS) & table["is_plain"]


def reference_run(table: pd.DataFrame, row: pd.Series[Any]) -> str:
    """Return the ERM run that a row is compared with: of equal budget, the better by validation WGA; "" if none."""
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
    """Return the `paired_gains` of a comparison's row over its reference; gains are NaN where it has none.

    `predictions` are those of each run, indexed by patch_id like `patient`; `attributes` those of the groups, by label.
    """
    own = predictions[row["run"]]
    # A row without a reference is taken as its own, for the sizes of its groups.
    name = row["reference"] or row["run"]
    reference = predictions[name].reindex(own.index).dropna(subset=["logit"])
    group = attributes[row["attribute"]].groups_in(own.loc[reference.index])
    reference, group = reference[group >= 0], group[group >= 0]  # blank patches are in no bin
    own = own.loc[reference.index]
    # Each run keeps its own decision threshold, which its row at the same attribute holds.
    is_same = (table["run"] == name) & (table["attribute"] == row["attribute"])
    reference_threshold = table.loc[is_same, "decision_threshold"].iloc[0]
    right, reference_right = is_right(own, row["decision_threshold"]), is_right(reference, reference_threshold)
    patients = patient.loc[own.index].to_numpy(dtype=str)
    gains = paired_gains(right, reference_right, group, patients, n_groups=n_groups_of(dict(row)), config=config)
    has_reference = row["reference"] != ""
    return {
        name: value if has_reference or not name.startswith("gain_") else float("nan") for name, value in gains.items()
    }


Verdict = Literal["empty group", "too few", "plain", "no plain", "no interval", "better", "worse", "no difference"]
_IN_WORDS: dict[Verdict, str] = {
    "empty group": "not known, since a group has no patch",
    "no interval": "no interval",
    "better": "better",
    "worse": "worse",
    "no difference": "no difference is shown",
}


def gain_verdict(row: Mapping[Any, Any]) -> Verdict:
    """Return what a comparison's row shows against its reference, by the paired interval of its gain in WGA."""
    if pd.isna(row["wga"]):
        return "empty group"
    if too_few_of(row):
        return "too few"
    if row["reference"] in ("", row["run"]):
        return "plain" if row["reference"] else "no plain"
    low, high = row["gain_wga_low"], row["gain_wga_high"]
    if pd.isna(low):
        return "no interval"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no difference"


def gain_text(row: Mapping[Any, Any]) -> str:
    """Return a row's gain in WGA over its reference, with interval and verdict; "" for one without a reference.

    For instance ``+13.9 [-2.0, +30.1] over erm-t0.25-s0: no difference is shown``.
    """
    if row["reference"] in ("", row["run"]):
        return ""
    verdict = gain_verdict(row)
    gain, low, high = (100 * row[f"gain_wga{end}"] for end in ("", "_low", "_high"))
    number = "-" if pd.isna(gain) else f"{gain:+.1f}" + ("" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]")
    reasons = [f"{reason} in {place}" for place, reason in too_few_of(row).items()]
    words = f"too few, {reasons[0]}" if verdict == "too few" else _IN_WORDS[verdict]
    return f"{number} over {row['reference']}: {words}"


def paired_gains(
    right: NDArray[np.bool_],
    reference_right: NDArray[np.bool_],
    group: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    n_groups: int = 4,
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return the gain in WGA and in each group's accuracy over a reference, with paired, `widened` intervals.

    `right` and `reference_right`, (N,), say whether either model predicted each patch right; `group` is A y + a. The
    columns are ``gain_wga``, ``gain_0`` and so on, each with ``_low`` and ``_high``; NaN for an empty group, and for an
    interval from fewer than two patients. Beside them what `effective_sizes` returns of the patches.
    """
    hits, n = patient_counts(right, group, patient, n_groups=n_groups)
    reference_hits, _ = patient_counts(reference_right, group, patient, n_groups=n_groups)
    settings = {"resamples": config.bootstrap, "seed": config.seed}
    value, reference_value = pooled_accuracy(hits, n), pooled_accuracy(reference_hits, n)
    own, reference, count = resampled_counts(hits, reference_hits, n, **settings)
    drawn = ratio(own, count).min(axis=1) - ratio(reference, count).min(axis=1)
    sizes = effective_sizes(n)
    ends = interval(widened(drawn, sizes["effective_patients"]))
    gains = with_ends("gain_wga", float(value.min() - reference_value.min()), *ends)
    for number in range(n_groups):
        # Only patients with patches in the group are resampled.
        has_group = n[:, number] > 0
        pair = (hits - reference_hits)[has_group, number, None], n[has_group, number, None]
        drawn = ratio(*resampled_counts(*pair, **settings))[:, 0]
        ends = interval(widened(drawn, sizes[f"effective_patients_{number}"]))
        gains |= with_ends(f"gain_{number}", float(pooled_accuracy(*pair)[0]), *ends)
    return gains | sizes


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
    search); ``search_steps``, of all trials in all phases of the method; ``search``, the offer, such as "8 trials",
    "none" without a search. NaN and "" where unknown.
    """
    unknown = float("nan")
    budget: dict[str, Any] = {
        "steps": config.get("steps", unknown),
        "batch_per_class": config.get("batch_per_class", unknown),
        "trials": 1 if config else unknown,
        "search_steps": steps_of_all_phases(config),
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
    """Note that searches differ, or that some runs have no ERM of the same budget; "" if all is equal.

    `references` are the ERM runs that each run is compared with; empty where there is none.
    """
    notes = []
    if len(set(searches)) > 1:
        notes.append(f"searches differ ({', '.join(sorted(set(searches)))})")
    if "" in references:
        notes.append("no gain is given where no ERM run had the same steps, samples a step and search")
    text = "; ".join(notes)
    return f"{text[0].upper()}{text[1:]}." if text else ""
