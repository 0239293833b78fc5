"""How far would a number move if other patients had come? Sums over patients, drawn again (arithmetic, numpy only).

What follows from sums over samples (shares, slopes, correlations) needs each patient's sums once; a resample of
patients is then a sum of rows, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_AT_ONCE = 2**22  # patients drawn at a time, so that many patients need no more memory


def sums_by_patient(values: FloatArray, patient: ArrayLike) -> FloatArray:
    """Return each patient's sums, patients in sorted order.

    Parameters
    ----------
    values : ndarray of float64, shape (N, M)
        M numbers a sample.
    patient : array_like, shape (N,)
        Patient of each sample.

    Returns
    -------
    ndarray of float64, shape (P, M)
    """
    people, place = np.unique(np.asarray(patient), return_inverse=True)
    columns = [np.bincount(place, weights=column, minlength=len(people)) for column in np.asarray(values).T]
    return np.stack(columns, axis=1).astype(np.float64)


def resampled(sums: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """Return the sums over patients that are drawn again with replacement, as many as there are.

    Parameters
    ----------
    sums : ndarray of float64, shape (P, M)
        As `sums_by_patient` returns them.
    resamples : int
        Number of draws R.
    seed : int
        Of the draws; the patients drawn are those of `pathopatch.metrics.accuracy.bootstrap_by_patient`.

    Returns
    -------
    ndarray of float64, shape (R, M)
        Without a row where fewer than two patients tell nothing of how patients differ.
    """
    n = len(sums)
    if n < 2 or resamples == 0:
        return np.empty((0, sums.shape[1]))
    rng = np.random.default_rng(seed)
    parts, step = [], max(1, _AT_ONCE // n)
    for start in range(0, resamples, step):
        draws = rng.integers(n, size=(min(step, resamples - start), n))
        row = np.arange(len(draws))[:, None] * n
        times = np.bincount((draws + row).ravel(), minlength=len(draws) * n).reshape(len(draws), n)
        parts.append(times.astype(np.float64) @ sums)
    return np.concatenate(parts)


def interval(draws: FloatArray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % percentiles of the draws that are not NaN; (NaN, NaN) if none is.

    Parameters
    ----------
    draws : ndarray of float64, shape (R,)
        One statistic of each resample.
    """
    known = draws[~np.isnan(draws)]
    if known.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def ratio(above: Any, below: Any) -> Any:
    """Return above / below, element by element; NaN where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    found = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below != 0)
    return found


def auroc_of(score: ArrayLike, label: ArrayLike) -> Callable[[IntArray], float]:
    """Return a function from indices of samples to their AUROC; the scores are sorted once, here, for all resamples.

    Parameters
    ----------
    score : array_like of float, shape (N,)
        Higher = more likely positive; no NaN.
    label : array_like of int, shape (N,)
        1 positive, 0 negative.

    Returns
    -------
    callable
        Ties are counted half, as `pathopatch.metrics.accuracy.auroc` does; NaN where a class is missing.
    """
    levels, level = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    code = 2 * level.astype(np.int64) + np.asarray(label, dtype=np.int64)

    def area(index: IntArray) -> float:
        n = np.bincount(code[index], minlength=2 * len(levels)).reshape(-1, 2)
        negative, positive = n[:, 0], n[:, 1]
        wins = positive @ (np.cumsum(negative) - negative / 2)
        return float(ratio(wins, float(positive.sum()) * float(negative.sum())))

    return area
