"""How sure is a worst-group accuracy on validation? Its 95 % interval when patients, not patches, are drawn again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.metrics.bootstrap import interval, resampled_multinomial


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
    sums = np.concatenate([hits, n], axis=1).astype(np.float64)
    drawn_hits, drawn_n = np.split(resampled_multinomial(sums, resamples=resamples, seed=seed), 2, axis=1)  # (R, G)
    has_all_groups = (drawn_n > 0).all(axis=1)
    drawn = drawn_hits[has_all_groups] / drawn_n[has_all_groups]
    for name, values in (("wga", drawn.min(axis=1)), ("gba", drawn.mean(axis=1))):
        found[f"{name}_low"], found[f"{name}_high"] = interval(values)
    return found
