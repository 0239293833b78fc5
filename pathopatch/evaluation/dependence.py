"""Answers whether debiasing took the tissue out of the probability: each run's dependence on it against ERM's.

Paired: both runs are judged on the same patches, and an interval resamples patients for both at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.audit import moments, rank_correlations, slopes
from pathopatch.metrics.bootstrap import interval, resampled


def dependence_comparison(work: Path, table: pd.DataFrame, *, config: EvaluateConfig | None = None) -> pd.DataFrame:
    """Return how each run's probability depends on the tissue fraction within each class, beside its ERM run's.

    Parameters
    ----------
    work : Path
        Work folder with ``groups.parquet`` and ``runs/<run>/evaluation``.
    table : DataFrame
        What `compare` returned.
    config : EvaluateConfig, optional
        Number of resamplings and their seed.

    Returns
    -------
    DataFrame
        A row per run and label: run, method, seed, trained_threshold, split, label, n, patients; slope and spearman,
        each with ``_low`` and ``_high``; reference (the ERM run, of the run's training attribute where it was judged
        by it; "" if none), and for both measures ``_reference``, and ``_change`` with its paired interval: the size of
        the dependence minus that of the reference's, below 0 where there is less of it.
    """
    config = config or EvaluateConfig()
    patient = read_table(WorkFolder(work).groups).set_index("patch_id")["patient_id"]
    predictions: dict[str, pd.DataFrame] = {}

    def predicted(run: str, split: str) -> pd.DataFrame:
        if run not in predictions:
            stored = read_table(WorkFolder(work).evaluation(run) / "predictions.parquet")
            predictions[run] = stored[stored["split"] == split].set_index("patch_id")
        return predictions[run]

    rows = []
    for row in (
        own_rows(table).sort_values(["trained_threshold", "method", "seed", "run"], kind="stable").to_dict("records")
    ):
        about = {key: row[key] for key in ("run", "method", "seed", "trained_threshold", "split")}
        mine = predicted(row["run"], row["split"])
        other = predicted(row["reference"], row["split"]) if row["reference"] not in ("", row["run"]) else None
        rows += [
            {**about, "label": label, "reference": row["reference"], **_one_label(mine, other, patient, label, config)}
            for label in (0, 1)
        ]
    return pd.DataFrame(rows)


def own_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run: where it is judged by what it was trained by, else at the lowest threshold.

    Parameters
    ----------
    table : DataFrame
        Rows of a comparison: run, attribute, trained_attribute, threshold.
    """
    own = table.assign(is_own=table["attribute"] == table["trained_attribute"])
    own = own.sort_values(["is_own", "threshold"], ascending=[False, True], kind="stable")
    return own.drop_duplicates("run").drop(columns="is_own")


def _one_label(
    mine: pd.DataFrame, other: pd.DataFrame | None, patient: pd.Series[Any], label: int, config: EvaluateConfig
) -> dict[str, Any]:
    """Return one run's dependence within one class, and its change against the reference's."""
    mine = mine[mine["label"] == label]
    own = _sums(mine, patient)
    settings: dict[str, Any] = {"resamples": config.bootstrap, "seed": config.seed}
    drawn = resampled(own, **settings)
    found: dict[str, Any] = {"n": len(mine), "patients": len(own)}
    shared = None
    if other is not None:
        theirs = other.reindex(mine.index).dropna(subset=["probability"])
        shared = _sums(mine.loc[theirs.index], patient), _sums(theirs, patient)
    for name, measure in (("slope", slopes), ("spearman", rank_correlations)):
        low, high = interval(measure(drawn))
        found |= {name: _of_all(own, measure), f"{name}_low": low, f"{name}_high": high}
        change = dict.fromkeys(
            (f"{name}_{end}" for end in ("reference", "change", "change_low", "change_high")), np.nan
        )
        if shared is not None:
            both = [np.abs(measure(resampled(sums, **settings))) for sums in shared]
            low, high = interval(both[0] - both[1])
            values = [_of_all(sums, measure) for sums in shared]
            change = {
                f"{name}_reference": values[1],
                f"{name}_change": abs(values[0]) - abs(values[1]),
                f"{name}_change_low": low,
                f"{name}_change_high": high,
            }
        found |= change
    return found


def _sums(table: pd.DataFrame, patient: pd.Series[Any]) -> Any:
    """Return the sums of each patient of some predictions."""
    return moments(
        table["tissue_fraction"].to_numpy(dtype=np.float64),
        table["probability"].to_numpy(dtype=np.float64),
        patient.loc[table.index].to_numpy(dtype=str),
    )


def _of_all(sums: Any, measure: Any) -> float:
    """Return a measure of all patients together."""
    return float(measure(sums.sum(axis=0, keepdims=True))[0]) if len(sums) else float("nan")
