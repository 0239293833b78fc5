"""At which tissue thresholds is the shortcut strong, and where are all four groups large enough? Numbers only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.metrics.bootstrap import FloatArray, interval, ratio, resampled

SWEEP = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds at which alpha and counts are reported beside the chosen ones."""


def sweep(
    label: NDArray[np.int64],
    fraction: NDArray[np.float64],
    patient: NDArray[Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return, for thresholds from 0.05 to 0.95, the groups' sizes and how far alpha differs between the labels.

    Parameters
    ----------
    label : ndarray of int64, shape (N,)
        1 tumour, 0 non-tumour.
    fraction : ndarray of float64, shape (N,)
        Tissue fraction, in [0, 1].
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    resamples : int
        Resamples of patients behind each interval; 0 for none.
    seed : int
        Of the resampling.

    Returns
    -------
    list of dict
        `threshold`; `counts` and `patients`, 2 x 2 (rows label, columns little and much tissue); `alpha`, the shares
        within each label (None for a label without patches); `smallest_n`; `gap`, alpha of much tissue within tumour
        minus that within non-tumour, with `gap_low` and `gap_high` (None where a label is missing, or with fewer than
        two patients).
    """
    people, place = np.unique(patient, return_inverse=True)
    cuts = np.searchsorted(np.asarray(SWEEP), fraction, side="right")  # how many thresholds the fraction reaches
    cell = (place * 2 + label) * (len(SWEEP) + 1) + cuts
    n = np.bincount(cell, minlength=len(people) * 2 * (len(SWEEP) + 1)).reshape(len(people), 2, -1)
    much = n[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]  # (P, 2, thresholds)
    all_of_label = n.sum(axis=2)  # (P, 2)
    sums = np.concatenate([much.reshape(len(people), -1), all_of_label], axis=1).astype(np.float64)
    gaps = _gaps(sums.sum(axis=0, keepdims=True))[0]
    drawn = _gaps(resampled(sums, resamples=resamples, seed=seed))
    rows = []
    for number, threshold in enumerate(SWEEP):
        per_patient = np.stack([all_of_label - much[:, :, number], much[:, :, number]], axis=2)  # (P, label, tissue)
        counts = per_patient.sum(axis=0)
        low, high = interval(drawn[:, number])
        rows.append(
            {
                "threshold": threshold,
                "counts": counts.tolist(),
                "patients": (per_patient > 0).sum(axis=0).tolist(),
                "alpha": alpha_of(counts),
                "smallest_n": int(counts.min()),
                "gap": None if np.isnan(gaps[number]) else float(gaps[number]),
                "gap_low": None if np.isnan(low) else low,
                "gap_high": None if np.isnan(high) else high,
            }
        )
    return rows


def alpha_of(counts: NDArray[np.int64]) -> list[list[float] | None]:
    """Return each attribute value's share within its label; None for a label without patches.

    Parameters
    ----------
    counts : ndarray of int64, shape (2, A)
        Rows label, columns attribute.
    """
    return [(row / row.sum()).tolist() if row.sum() else None for row in counts]


def _gaps(sums: FloatArray) -> FloatArray:
    """Return alpha within tumour minus that within non-tumour per threshold, (R, thresholds), from sums of patients."""
    much = sums[:, : 2 * len(SWEEP)].reshape(-1, 2, len(SWEEP))
    alpha: FloatArray = ratio(much, sums[:, 2 * len(SWEEP) :, None])
    return alpha[:, 1] - alpha[:, 0]
