"""How sure is a worst-group accuracy on validation? Its 95 % interval when patients, not patches, are drawn again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DRAWS_AT_A_TIME = 100


def accuracies_with_intervals(
    is_right: NDArray[np.bool_],
    group: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, float]:
    """Return worst-group and group-balanced accuracy over the groups that have patches, with their intervals.

    Parameters
    ----------
    is_right : ndarray of bool, shape (N,)
        Whether each patch is predicted right.
    group : ndarray of int64, shape (N,)
        Group of each patch, from 0.
    patient : ndarray, shape (N,)
        Patient of each patch: what is drawn again, with replacement.
    resamples : int
        Draws; 0 for no interval.
    seed : int
        Of the draws.

    Returns
    -------
    dict of str to float
        ``wga`` and ``gba``, each with ``_low`` and ``_high``: the 2.5 and 97.5 % percentiles of the draws that hold a
        patch of every group; NaN with fewer than two patients, or if no draw does.
    """
    present, column = np.unique(group, return_inverse=True)
    people, row = np.unique(patient, return_inverse=True)
    cell, shape = row * len(present) + column, (len(people), len(present))
    n = np.bincount(cell, minlength=len(people) * len(present)).reshape(shape)
    hits = np.bincount(cell[is_right], minlength=len(people) * len(present)).reshape(shape)
    accuracy = hits.sum(axis=0) / n.sum(axis=0)  # (G,)
    found = {"wga": float(accuracy.min()), "gba": float(accuracy.mean())}
    drawn = _drawn(hits, n, resamples=resamples, seed=seed)  # (R, G)
    for name, values in (("wga", drawn.min(axis=1)), ("gba", drawn.mean(axis=1))):
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
        found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def _drawn(hits: NDArray[np.int64], n: NDArray[np.int64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the groups' accuracies in each draw of patients, (R, G); without those that miss a group."""
    people = len(n)
    if people < 2 or resamples == 0:
        return np.empty((0, n.shape[1]))
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _DRAWS_AT_A_TIME):
        count = min(_DRAWS_AT_A_TIME, resamples - start)
        times = rng.multinomial(people, np.full(people, 1 / people), size=count)  # (R, P): how often each was drawn
        of_group = times @ n
        is_whole = (of_group > 0).all(axis=1)
        parts.append((times @ hits)[is_whole] / of_group[is_whole])
    return np.concatenate(parts)
