"""Measure how much a model's probability follows the tissue fraction while the class is held fixed.

Within one class the tissue fraction says nothing about the label, so a model that ignores it has slope 0 and
rank correlation 0 there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.group_scores import with_ends
from pathopatch.evaluation.predicting import stored_predictions
from pathopatch.metrics.bootstrap import FloatArray, interval, ratio, resampled, sums_by_patient


def slope(tissue_fraction: NDArray[np.floating[Any]], probability: NDArray[np.floating[Any]]) -> float:
    """Return the least-squares change of the probability (N,) from no tissue (0) to all tissue (1).

    NaN with fewer than two different fractions.
    """
    x = np.asarray(tissue_fraction, dtype=np.float64)
    if x.size < 2 or np.ptp(x) == 0:
        return float("nan")
    centred = x - x.mean()
    return float(centred @ np.asarray(probability, dtype=np.float64) / (centred @ centred))


def rank_correlation(x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> float:
    """Return Spearman's rank correlation of two measurements (N,), in [-1, 1]; NaN where either is constant."""
    first, second = (rankdata(values) for values in (x, y))
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def tissue_dependence(
    probability: NDArray[np.floating[Any]],
    tissue_fraction: NDArray[np.floating[Any]],
    label: NDArray[np.integer[Any]],
    patient: NDArray[Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return, for label 0 and 1, how the predicted probability of tumour depends on the tissue fraction.

    All arguments are (N,). A row has `label`, `n`, `patients`, and `slope` and `spearman` with their 95 % intervals by
    patient (``_low``, ``_high``). NaN: a slope without two different fractions, an interval from fewer than two
    patients.
    """
    rows = []
    for class_label in (0, 1):
        chosen = np.flatnonzero(np.asarray(label) == class_label)
        x, p, patients = tissue_fraction[chosen], probability[chosen], patient[chosen]
        # Ranks are not computed anew in a resample: they stay those of all patches.
        draws = resampled(_moments(x, p, patients), resamples=resamples, seed=seed)
        slopes = with_ends("slope", slope(x, p), *interval(_slopes(draws)))
        ranks = with_ends("spearman", rank_correlation(x, p), *interval(_rank_correlations(draws)))
        rows.append({"label": class_label, "n": len(chosen), "patients": len(np.unique(patients)), **slopes, **ranks})
    return rows


def dependence_comparison(work: Path, table: pd.DataFrame, *, config: EvaluateConfig | None = None) -> pd.DataFrame:
    """Return how each run's probability depends on the tissue fraction within each class, beside its ERM run's.

    `table` is what `compare` returned. A row per run and label: run, method, seed, trained_threshold, split, label, n,
    patients; slope and spearman, each with ``_low`` and ``_high``; reference (the ERM run of the run's training
    attribute; "" if none), and for both measures ``_reference``, and ``_change`` with its paired interval: the size of
    the dependence minus that of the reference's, below 0 where there is less of it.
    """
    config = config or EvaluateConfig()
    patient = read_table(WorkFolder(work).groups).set_index("patch_id")["patient_id"]
    own = rows_at_training_attribute(table).sort_values(["trained_threshold", "method", "seed", "run"], kind="stable")
    pairs = zip(own["run"], own["split"], strict=True)
    predictions = {run: stored_predictions(work, run, split) for run, split in pairs}
    rows = []
    for row in own.to_dict("records"):
        about = {key: row[key] for key in ("run", "method", "seed", "trained_threshold", "split")}
        reference = predictions[row["reference"]] if row["reference"] not in ("", row["run"]) else None
        for label in (0, 1):
            change = _one_label(predictions[row["run"]], reference, patient, label, config)
            rows.append({**about, "label": label, "reference": row["reference"], **change})
    return pd.DataFrame(rows)


def rows_at_training_attribute(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row of a comparison per run: that of its training attribute, else that of the lowest threshold."""
    own = table.assign(is_own=table["attribute"] == table["trained_attribute"])
    own = own.sort_values(["is_own", "threshold"], ascending=[False, True], kind="stable")
    return own.drop_duplicates("run").drop(columns="is_own")


def _one_label(
    predictions: pd.DataFrame,
    reference: pd.DataFrame | None,
    patient: pd.Series[Any],
    label: int,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Return one run's dependence within one class, and its change against the reference's."""
    predictions = predictions[predictions["label"] == label]
    own = _moments_of(predictions, patient)
    settings: dict[str, Any] = {"resamples": config.bootstrap, "seed": config.seed}
    draws = resampled(own, **settings)
    pair = None
    if reference is not None:
        # Both runs on the same patches; one seed draws the same patients for both.
        reference = reference.reindex(predictions.index).dropna(subset=["probability"])
        pair = _moments_of(predictions.loc[reference.index], patient), _moments_of(reference, patient)
    numbers: dict[str, Any] = {"n": len(predictions), "patients": len(own)}
    for name, measure in (("slope", _slopes), ("spearman", _rank_correlations)):
        numbers |= with_ends(name, _of_all(own, measure), *interval(measure(draws)))
        ends = [f"{name}_{end}" for end in ("reference", "change", "change_low", "change_high")]
        if pair is None:
            numbers |= dict.fromkeys(ends, np.nan)
            continue
        own_draws, reference_draws = (np.abs(measure(resampled(sums, **settings))) for sums in pair)
        value, reference_value = (_of_all(sums, measure) for sums in pair)
        change = abs(value) - abs(reference_value)
        numbers |= dict(zip(ends, (reference_value, change, *interval(own_draws - reference_draws)), strict=True))
    return numbers


def _moments_of(predictions: pd.DataFrame, patient: pd.Series[Any]) -> FloatArray:
    """Return the `_moments` of some predictions, indexed by patch."""
    return _moments(
        predictions["tissue_fraction"].to_numpy(dtype=np.float64),
        predictions["probability"].to_numpy(dtype=np.float64),
        patient.loc[predictions.index].to_numpy(dtype=str),
    )


def _of_all(sums: FloatArray, measure: Callable[[FloatArray], FloatArray]) -> float:
    """Return a measure of all patients together."""
    return float(measure(sums.sum(axis=0, keepdims=True))[0]) if len(sums) else float("nan")


def _moments(
    tissue_fraction: NDArray[np.floating[Any]], probability: NDArray[np.floating[Any]], patient: NDArray[Any]
) -> FloatArray:
    """Return each patient's sums, (P, 10), from which slope and rank correlation of any patients follow.

    n; the sums of x, p, x x, x p; and of r r, s s, r s, r, s, where r and s are the centred ranks of x and p.
    """
    x, p = (np.asarray(values, dtype=np.float64) for values in (tissue_fraction, probability))
    # Centred, so that the sums of squares lose no digits.
    r, s = (rankdata(values) - (len(values) + 1) / 2 for values in (x, p))
    columns = [np.ones(len(x)), x, p, x * x, x * p, r * r, s * s, r * s, r, s]
    return sums_by_patient(np.stack(columns, axis=1), patient)


def _slopes(sums: FloatArray) -> FloatArray:
    """Return the least-squares slope of each row of summed `_moments`; NaN without two different fractions."""
    n, x, p, xx, xp = sums.T[:5]
    spread = n * xx - x * x
    # Rounding leaves a spread of about 1e-16 n n where all fractions are equal.
    slopes: FloatArray = ratio(n * xp - x * p, np.where(spread > 1e-12 * n * n, spread, 0))
    return slopes


def _rank_correlations(sums: FloatArray) -> FloatArray:
    """Return the correlation of the ranks of each row of summed `_moments`; NaN where either is constant."""
    n, rr, ss, rs, r, s = sums.T[[0, 5, 6, 7, 8, 9]]
    spread = np.maximum(n * rr - r * r, 0) * np.maximum(n * ss - s * s, 0)
    correlations: FloatArray = ratio(n * rs - r * s, np.sqrt(spread))
    return correlations
