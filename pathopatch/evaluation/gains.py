"""Compute what a run gained or lost against its ERM run, on the patches that both predicted.

Gains are paired: an interval resamples patients for both runs at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.config import EvaluateConfig
from pathopatch.evaluation.group_scores import patient_counts, pooled_accuracy, with_interval
from pathopatch.groups import GroupingAttribute


def gains_of_row(
    row: pd.Series[Any],
    table: pd.DataFrame,
    predictions: Mapping[str, pd.DataFrame],
    patient: pd.Series[Any],
    attributes: Mapping[str, GroupingAttribute],
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return the `paired_gains` of a comparison's row over its reference; NaN throughout where it has none.

    `predictions` are those of each run, indexed by patch_id like `patient`; `attributes` those of the groups, by label.
    """
    n_groups = n_groups_of(row)
    if row["reference"] == "":
        names = ("wga", *range(n_groups))
        return {f"gain_{name}{end}": float("nan") for name in names for end in ("", "_low", "_high")}
    own = predictions[row["run"]]
    reference = predictions[row["reference"]].reindex(own.index).dropna(subset=["logit"])
    group = attributes[row["attribute"]].groups_in(own.loc[reference.index])
    reference, group = reference[group >= 0], group[group >= 0]  # blank patches are in no bin
    own = own.loc[reference.index]
    # Each run keeps its own decision threshold, which its row at the same attribute holds.
    is_same = (table["run"] == row["reference"]) & (table["attribute"] == row["attribute"])
    reference_threshold = table.loc[is_same, "decision_threshold"].iloc[0]
    label = own["label"].to_numpy() == 1
    right = (own["logit"].to_numpy() > row["decision_threshold"]) == label
    reference_right = (reference["logit"].to_numpy() > reference_threshold) == label
    patients = patient.loc[own.index].to_numpy(dtype=str)
    return paired_gains(right, reference_right, group, patients, n_groups=n_groups, config=config)


def n_groups_of(row: pd.Series[Any]) -> int:
    """Return how many groups a comparison's row is evaluated by: 2 A."""
    return sum(bool(re.fullmatch(r"n_\d+", str(name))) and bool(pd.notna(row[name])) for name in row.index)


def paired_gains(
    right: NDArray[np.bool_],
    reference_right: NDArray[np.bool_],
    group: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    n_groups: int = 4,
    config: EvaluateConfig,
) -> dict[str, float]:
    """Return the gain in WGA and in each group's accuracy over a reference, with paired 95 % intervals.

    Parameters
    ----------
    right, reference_right : ndarray of bool, shape (N,)
        Whether either model predicted each patch right.
    group : ndarray of int64, shape (N,)
        A y + a, from 0.
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    n_groups : int
        2 A.
    config : EvaluateConfig
        Number of resamplings and their seed.

    Returns
    -------
    dict of str to float
        ``gain_wga``, ``gain_0`` and so on, each with ``_low`` and ``_high``; NaN for an empty group, and for
        an interval from fewer than two patients.
    """
    hits, n = patient_counts(right, group, patient, n_groups=n_groups)
    reference_hits, _ = patient_counts(reference_right, group, patient, n_groups=n_groups)
    settings = {"resamples": config.bootstrap, "seed": config.seed}

    def gain_in_wga(rows: NDArray[Any]) -> float:
        worst = pooled_accuracy(hits[rows], n[rows]).min()
        return float(worst - pooled_accuracy(reference_hits[rows], n[rows]).min())

    gains = columns_of("gain_wga", with_interval(gain_in_wga, np.arange(len(n)), **settings), "value")
    for number in range(n_groups):
        # Only patients with patches in the group are resampled.
        has_group = n[:, number] > 0
        difference, count = (hits - reference_hits)[has_group, number], n[has_group, number]

        def gain_in_group(
            rows: NDArray[Any], difference: NDArray[np.int64] = difference, count: NDArray[np.int64] = count
        ) -> float:
            return float(difference[rows].sum() / count[rows].sum()) if len(rows) else float("nan")

        gain = with_interval(gain_in_group, np.arange(len(count)), **settings)
        gains |= columns_of(f"gain_{number}", gain, "value")
    return gains


def columns_of(name: str, content: Mapping[str, Any], key: str) -> dict[str, float]:
    """Return a number and its interval as three columns."""
    values = {name: content[key], f"{name}_low": content["low"], f"{name}_high": content["high"]}
    return {column: null_to_nan(value) for column, value in values.items()}


def null_to_nan(value: float | None) -> float:
    """Return a number of a JSON file, where null stands for NaN."""
    return float("nan") if value is None else float(value)
