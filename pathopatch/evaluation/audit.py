"""Answers how much a model's probability follows the tissue fraction while the class is held fixed.

Within one class the tissue fraction says nothing about the label, so a model that ignores it has slope 0 and
rank correlation 0 there. Arithmetic only: no file is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.metrics import bootstrap_by_patient


def slope(tissue_fraction: NDArray[np.floating[Any]], probability: NDArray[np.floating[Any]]) -> float:
    """Return the least-squares change of the probability from no tissue (0) to all tissue (1).

    Parameters
    ----------
    tissue_fraction : ndarray of float, shape (N,)
        Share of each patch that is tissue, in [0, 1].
    probability : ndarray of float, shape (N,)
        Predicted probability of tumour, in [0, 1].

    Returns
    -------
    float
        Probability per unit of tissue fraction; NaN with fewer than two different fractions.
    """
    x = np.asarray(tissue_fraction, dtype=np.float64)
    if x.size < 2 or np.ptp(x) == 0:
        return float("nan")
    centred = x - x.mean()
    return float(centred @ np.asarray(probability, dtype=np.float64) / (centred @ centred))


def rank_correlation(x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> float:
    """Return Spearman's rank correlation, ties at their mean rank.

    Parameters
    ----------
    x, y : ndarray of float, shape (N,)
        Two measurements of the same samples.

    Returns
    -------
    float
        In [-1, 1]; NaN where either is constant or there are fewer than two samples.
    """
    first, second = (_mean_ranks(np.asarray(values, dtype=np.float64)) for values in (x, y))
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0, equal values sharing the mean of their places."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[place]


def tissue_dependence(
    probability: NDArray[np.floating[Any]],
    tissue_fraction: NDArray[np.floating[Any]],
    label: NDArray[np.integer[Any]],
    patient: NDArray[Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return, class by class, how the predicted probability depends on the tissue fraction.

    Parameters
    ----------
    probability : ndarray of float, shape (N,)
        Predicted probability of tumour, in [0, 1].
    tissue_fraction : ndarray of float, shape (N,)
        Share of each patch that is tissue, in [0, 1].
    label : ndarray of int, shape (N,)
        1 tumour, 0 non-tumour.
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    resamples : int
        Resamplings of patients behind the slope's interval; 0 for none.
    seed : int
        Of the resampling.

    Returns
    -------
    list of dict
        For label 0 and 1: `label`, `n`, `patients`, `slope`, `slope_low`, `slope_high` (95 %, by
        patient), `spearman`. NaN: a slope without two different fractions, an interval from fewer than two patients.
    """
    rows = []
    for wanted in (0, 1):
        chosen = np.flatnonzero(np.asarray(label) == wanted)
        x, p, who = tissue_fraction[chosen], probability[chosen], patient[chosen]
        patients = len(np.unique(who))
        low, high = float("nan"), float("nan")
        if resamples and patients > 1 and np.ptp(x) > 0:

            def resampled(index: NDArray[Any], x: Any = x, p: Any = p) -> float:
                return slope(x[index], p[index])

            low, high = bootstrap_by_patient(resampled, who, resamples=resamples, seed=seed)
        rows.append(
            {
                "label": wanted,
                "n": len(chosen),
                "patients": patients,
                "slope": slope(x, p),
                "slope_low": low,
                "slope_high": high,
                "spearman": rank_correlation(x, p),
            }
        )
    return rows
