"""Answers how much a model's probability follows the tissue fraction while the class is held fixed.

Within one class the tissue fraction says nothing about the label, so a model that ignores it has slope 0 and
rank correlation 0 there. Arithmetic only: no file is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.metrics.bootstrap import interval, ratio, resampled, sums_by_patient


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
        Resamplings of patients behind the intervals; 0 for none.
    seed : int
        Of the resampling.

    Returns
    -------
    list of dict
        For label 0 and 1: `label`, `n`, `patients`, `slope`, `slope_low`, `slope_high` (95 %, by
        patient), `spearman`, `spearman_low`, `spearman_high`. NaN: a slope without two different fractions, an interval
        from fewer than two patients. In a resample the ranks stay those of all patches.
    """
    rows = []
    for wanted in (0, 1):
        chosen = np.flatnonzero(np.asarray(label) == wanted)
        x, p, who = tissue_fraction[chosen], probability[chosen], patient[chosen]
        draws = resampled(moments(x, p, who), resamples=resamples, seed=seed)
        low, high = interval(slopes(draws))
        rank_low, rank_high = interval(rank_correlations(draws))
        rows.append(
            {
                "label": wanted,
                "n": len(chosen),
                "patients": len(np.unique(who)),
                "slope": slope(x, p),
                "slope_low": low,
                "slope_high": high,
                "spearman": rank_correlation(x, p),
                "spearman_low": rank_low,
                "spearman_high": rank_high,
            }
        )
    return rows


def moments(
    tissue_fraction: NDArray[np.floating[Any]], probability: NDArray[np.floating[Any]], patient: NDArray[Any]
) -> NDArray[np.float64]:
    """Return each patient's sums, from which slope and rank correlation of any choice of patients follow.

    Parameters
    ----------
    tissue_fraction, probability : ndarray of float, shape (N,)
        Of each patch, in [0, 1].
    patient : ndarray, shape (N,)
        Patient of each patch.

    Returns
    -------
    ndarray of float64, shape (P, 10)
        n; the sums of x, p, x x, x p; and of r r, s s, r s, r, s, where r and s are the centred ranks of x and p.
    """
    x, p = (np.asarray(values, dtype=np.float64) for values in (tissue_fraction, probability))
    r, s = (_mean_ranks(values) - (len(values) - 1) / 2 for values in (x, p))
    columns = [np.ones(len(x)), x, p, x * x, x * p, r * r, s * s, r * s, r, s]
    return sums_by_patient(np.stack(columns, axis=1), patient)


def slopes(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares slope of each row of summed `moments`; NaN without two different fractions."""
    n, x, p, xx, xp = sums.T[:5]
    spread = n * xx - x * x
    found: NDArray[np.float64] = ratio(n * xp - x * p, np.where(spread > 1e-12 * n * n, spread, 0))
    return found


def rank_correlations(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of the ranks of each row of summed `moments`; NaN where either is constant."""
    n, rr, ss, rs, r, s = sums.T[[0, 5, 6, 7, 8, 9]]
    spread = np.maximum(n * rr - r * r, 0) * np.maximum(n * ss - s * s, 0)
    found: NDArray[np.float64] = ratio(n * rs - r * s, np.sqrt(spread))
    return found
