"""Bootstrap over patients: resample whole patients, since patches of one patient resemble each other.

A statistic that follows from sums over samples (shares, slopes, correlations) needs each patient's sums only once. A
resample of patients is then a sum of rows, whatever the number of samples: see `resampled`. `bootstrap_by_patient`
takes any statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathopatch.core.errors import InputUnsupportedError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LEAST_UNITS, LEAST_UNITS_OF_A_GROUP = 12, 5
"""Effective numbers of units (patients) that a claim takes, in all and in each group: see ``pipelines/intervals``."""
LEAST_SEEDS = 3
"""Seeds that a claim takes: fewer do not tell how much the seed alone moves."""
LEAST_EQUAL_AREA_GAIN = -0.02
"""Errors are more even, and tumour is told as before, only where the gain in AUROC at equal area has an interval above
this: else the model may have lost what its worst group gained."""
MOST_UNITS = 500
"""Units of a bootstrap of pairs; more are merged, since the table of their pairs grows as the square."""

_CHUNK_DRAWS = 2**22  # patients drawn at a time (32 MB), so that 200,000 patients need no more memory than 20


def bootstrap_by_patient(
    statistic: Callable[[IntArray], float], patient: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic by resampling patients, not samples, with replacement.

    (NaN, NaN) with fewer than two patients: one patient gives no information on how patients differ.

    Parameters
    ----------
    statistic : callable
        Maps sample indices (ndarray of int64; those of a patient drawn twice occur twice) to a number; NaN is left out.
    patient : array_like, shape (N,)
        Patient of each sample.
    resamples : int
        Number of resamples; 0 gives (NaN, NaN).

    Raises
    ------
    InputUnsupportedError
        ``resamples`` is negative, or ``patient`` is not one-dimensional.
    """
    if resamples < 0 or np.ndim(patient) != 1:
        raise InputUnsupportedError(
            f"resamples = {resamples}, patients of shape {np.shape(patient)}", remedy="Give one patient per sample."
        )
    _, code, size = np.unique(np.asarray(patient), return_inverse=True, return_counts=True)
    by_patient = np.argsort(code, kind="stable").astype(np.int64)  # sample indices, patient by patient
    start = np.cumsum(size) - size
    values = []
    for draws in _patient_draws(len(size), resamples=resamples, seed=seed):
        for drawn in draws:
            n = size[drawn]
            # Concatenated ranges [start, start + n) without a loop over patients.
            position = np.repeat(start[drawn] - (np.cumsum(n) - n), n) + np.arange(n.sum())
            values.append(statistic(by_patient[position]))
    return interval(np.array(values, dtype=np.float64))


def effective_count(ids: ArrayLike) -> float:
    """Return the effective number of patients of samples, 1 / (sum of squared shares); `ids` (N,) names each sample's.

    Equal shares give the plain number, one patient with nearly all samples about 1; 0 without samples.
    """
    return float(effective_number(np.unique(np.asarray(ids), return_counts=True)[1]))


def effective_number(n: ArrayLike) -> Any:
    """Return what `effective_count` does, from the samples of each patient (P, ...); without the first axis."""
    sizes = np.asarray(n, dtype=np.float64)
    return np.nan_to_num(ratio(sizes.sum(axis=0) ** 2, (sizes**2).sum(axis=0)))


def sums_by_patient(values: FloatArray, patient: ArrayLike) -> FloatArray:
    """Return each patient's sums of the columns of `values` (N, M), shape (P, M), patients in sorted order."""
    ids, code = np.unique(np.asarray(patient), return_inverse=True)
    columns = [np.bincount(code, weights=column, minlength=len(ids)) for column in np.asarray(values).T]
    return np.stack(columns, axis=1).astype(np.float64)


def patient_counts(
    correct: NDArray[np.bool_], group: NDArray[np.integer[Any]], patient: NDArray[Any], *, n_groups: int = 4
) -> tuple[IntArray, IntArray]:
    """Return how many patches of each patient and group are predicted right, and how many there are, (P, 2 A) each.

    `correct` and `patient` are (N,), `group` is A y + a, (N,), from 0. Patients are in sorted order: resampling rows is
    resampling patients.
    """
    patients, place = np.unique(patient, return_inverse=True)
    cell = place * n_groups + group
    size = len(patients) * n_groups
    n = np.bincount(cell, minlength=size)
    hits = np.bincount(cell[np.asarray(correct, dtype=bool)], minlength=size)
    return hits.reshape(-1, n_groups), n.reshape(-1, n_groups)


def resampled(sums: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """Return the sums (R, M) over patients drawn with replacement, as many as there are; no rows with fewer than two.

    `sums` (P, M) are those of `sums_by_patient`; the draws are those of `bootstrap_by_patient` with the same seed.
    """
    n = len(sums)
    parts = [np.empty((0, sums.shape[1]))]
    for draws in _patient_draws(n, resamples=resamples, seed=seed):
        parts.append(_times_drawn(draws, n) @ sums)
    return np.concatenate(parts)


def interval(draws: FloatArray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % percentiles of the draws (R,) that are not NaN; (NaN, NaN) if there are none."""
    finite = draws[~np.isnan(draws)]
    if finite.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def ratio(numerator: Any, denominator: Any) -> Any:
    """Return numerator / denominator, element by element; NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    quotient = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient


def merged_units(unit: ArrayLike, *, seed: int) -> tuple[IntArray, int]:
    """Return the number of each sample's unit (N,), from 0, and how many there are; more than `MOST_UNITS` are merged.

    Sums over random sets of units vary from draw to draw as sums over the units themselves.
    """
    names, code = np.unique(np.asarray(unit), return_inverse=True)
    if len(names) <= MOST_UNITS:
        return code.astype(np.int64), len(names)
    return np.random.default_rng(seed).permutation(len(names))[code] % MOST_UNITS, MOST_UNITS


def auroc_draws(
    score: ArrayLike, label: ArrayLike, patient: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> FloatArray:
    """Return the AUROC in draws of patients, (R,); `score`, `label` (0 or 1) and `patient` are (N,)."""
    score, label = np.asarray(score, np.float64), np.asarray(label, np.int64)
    code, units = merged_units(patient, seed=seed)
    wins = _wins_by_patients(score, label, code, units)
    n = np.stack([np.bincount(code[label == y], minlength=units) for y in (0, 1)], axis=1).astype(np.float64)
    times_drawn = resampled(np.eye(units), resamples=resamples, seed=seed)
    negative, positive = (times_drawn @ n).T
    return np.asarray(ratio(((times_drawn @ wins) * times_drawn).sum(axis=1), positive * negative))


def _wins_by_patients(score: FloatArray, label: IntArray, code: IntArray, n_patients: int) -> FloatArray:
    """Return how often a positive of patient i scores above a negative of patient j, ties half, (P, P)."""
    order = np.argsort(score[label == 1], kind="stable")
    positive, of_patient = score[label == 1][order], code[label == 1][order]
    wins = np.zeros((n_patients, n_patients))
    for number in range(n_patients):
        negative = np.sort(score[(label == 0) & (code == number)])
        below = np.searchsorted(negative, positive, side="left") + np.searchsorted(negative, positive, side="right")
        wins[:, number] = np.bincount(of_patient, weights=below / 2, minlength=n_patients)
    return wins


def _times_drawn(draws: IntArray, n_patients: int) -> FloatArray:
    """Return how often each resample (r, P) has each patient, (r, P)."""
    row_start = np.arange(len(draws))[:, None] * n_patients
    counts = np.bincount((draws + row_start).ravel(), minlength=len(draws) * n_patients)
    return counts.reshape(len(draws), n_patients).astype(np.float64)


def _patient_draws(n_patients: int, *, resamples: int, seed: int) -> Iterator[IntArray]:
    """Yield the patients of each resample, (r, P) at a time; nothing with fewer than two patients."""
    if n_patients < 2:
        return
    rng = np.random.default_rng(seed)
    # The generator fills row by row, so the chunk does not change the draws.
    chunk = max(1, _CHUNK_DRAWS // n_patients)
    for start in range(0, resamples, chunk):
        yield rng.integers(n_patients, size=(min(chunk, resamples - start), n_patients))
