"""Evaluate one set of logits group by group: arrays in, plain values out.

The groups are g = A y + a (label, attribute of A values): four where the attribute is much tissue. Worst-group and
group-balanced accuracy (WGA, GBA) are statements about all groups. Both are NaN where a group has no patch, never the
minimum or mean of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.groups.group_sizes import SMALL_CELL
from pathopatch.metrics.accuracy import biased_average
from pathopatch.metrics.bootstrap import auroc_of, bootstrap_by_patient, ratio

SMALL_GROUP = SMALL_CELL
"""Patches below which the accuracy of a group is to be read with care."""


def evaluate_logits(
    margin: NDArray[np.floating[Any]],
    label: NDArray[np.integer[Any]],
    attribute: NDArray[np.integer[Any]],
    patient: NDArray[Any],
    *,
    decision_threshold: float = 0.0,
    train_shares: NDArray[np.floating[Any]] | None = None,
    n_values: int = 2,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the group accuracies and their summaries, each with its 95 % interval.

    Parameters
    ----------
    margin : ndarray of float, shape (N,)
        Logit of tumour minus logit of non-tumour; tumour is predicted above `decision_threshold`.
    label : ndarray of int, shape (N,)
        1 tumour, 0 non-tumour.
    attribute : ndarray of int, shape (N,)
        1 large tissue, 0 little tissue; or 0 to A - 1.
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    decision_threshold : float
        On the margin.
    train_shares : ndarray of float, shape (2 A,), optional
        Share of each group in the training data, for the biased average; without it that is NaN.
    n_values : int
        A, at least 2.
    resamples : int
        Resamplings of patients behind each interval; 0 for none.
    seed : int
        Of the resampling.

    Returns
    -------
    dict
        `n`, `patients`, `smallest_group_n`, `decision_threshold`, `groups` (2 A dicts: group, label, attribute,
        n, patients, correct, accuracy, low, high), `wga`, `gba`, `average`, `auroc` (dicts of value, low, high),
        `biased_average` and `wga_at_zero` (WGA at a decision threshold of 0). Intervals are NaN with fewer than two
        patients; a resample without one of the groups does not count for WGA and GBA.

    Raises
    ------
    InputUnsupportedError
        The arrays differ in length, a label is neither 0 nor 1, or an attribute is not one of 0 to A - 1.
    NonFiniteError
        A margin is NaN or infinite.
    """
    _check(margin, label, attribute, patient, n_values=n_values)
    margin = np.asarray(margin, dtype=np.float64)
    label = np.asarray(label, dtype=np.int64)
    group = n_values * label + np.asarray(attribute, dtype=np.int64)
    settings = {"resamples": resamples, "seed": seed}
    hits, n = patient_counts((margin > decision_threshold) == (label == 1), group, patient, n_groups=2 * n_values)
    hits_at_zero, _ = patient_counts((margin > 0) == (label == 1), group, patient, n_groups=2 * n_values)
    patients = np.arange(len(n))  # rows of the counts: resampling them resamples patients
    return {
        "n": len(margin),
        "patients": len(patients),
        "smallest_group_n": int(n.sum(axis=0).min()),
        "decision_threshold": float(decision_threshold),
        "groups": [_one_group(g, hits[:, g], n[:, g], n_values=n_values, **settings) for g in range(2 * n_values)],
        "wga": with_interval(lambda i: float(pooled_accuracy(hits[i], n[i]).min()), patients, **settings),
        "gba": with_interval(lambda i: float(pooled_accuracy(hits[i], n[i]).mean()), patients, **settings),
        "average": with_interval(lambda i: _ratio(hits[i].sum(), n[i].sum()), patients, **settings),
        "auroc": with_interval(auroc_of(margin, label), patient, **settings),
        "biased_average": _biased_average(pooled_accuracy(hits, n), train_shares),
        "wga_at_zero": float(pooled_accuracy(hits_at_zero, n).min()),
    }


def patient_counts(
    correct: NDArray[np.bool_], group: NDArray[np.integer[Any]], patient: NDArray[Any], *, n_groups: int = 4
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many patches of each patient and group are predicted right, and how many there are.

    Parameters
    ----------
    correct : ndarray of bool, shape (N,)
        Whether each patch was predicted right.
    group : ndarray of int64, shape (N,)
        A y + a, from 0.
    patient : ndarray, shape (N,)
        Patient of each patch.
    n_groups : int
        2 A.

    Returns
    -------
    tuple of two ndarrays of int64, shape (P, 2 A)
        Right ones and all, a row per patient in sorted order. Resampling rows is resampling patients.
    """
    patients, place = np.unique(patient, return_inverse=True)
    cell = place * n_groups + group
    size = len(patients) * n_groups
    n = np.bincount(cell, minlength=size)
    hits = np.bincount(cell[np.asarray(correct, dtype=bool)], minlength=size)
    return hits.reshape(-1, n_groups), n.reshape(-1, n_groups)


def pooled_accuracy(hits: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the accuracy of each group, (2 A,), over rows of `patient_counts`; NaN for a group without patches."""
    accuracy: NDArray[np.float64] = ratio(hits.sum(axis=0), n.sum(axis=0))
    return accuracy


def with_interval(
    statistic: Callable[[NDArray[Any]], float], patient: NDArray[Any], *, resamples: int, seed: int
) -> dict[str, float]:
    """Return value, low and high: a statistic of sample indices, and its 95 % interval by bootstrap over patients.

    The interval is NaN without resamples, with fewer than two patients, and where the value is NaN.
    """
    value = float(statistic(np.arange(len(patient))))
    low, high = float("nan"), float("nan")
    if np.isfinite(value):  # where the value is NaN, so are all resamples
        low, high = bootstrap_by_patient(statistic, patient, resamples=resamples, seed=seed)
    return {"value": value, "low": low, "high": high}


def group_shares(group: NDArray[np.integer[Any]], *, n_groups: int = 4) -> NDArray[np.float64]:
    """Return the share of each group, (2 A,), without the patches of group -1; NaN throughout if all are -1."""
    n = np.bincount(np.asarray(group)[np.asarray(group) >= 0], minlength=n_groups)
    return n / n.sum() if n.sum() else np.full(n_groups, np.nan)


def _check(
    margin: NDArray[Any], label: NDArray[Any], attribute: NDArray[Any], patient: NDArray[Any], *, n_values: int
) -> None:
    """Refuse arrays that do not belong together, and values that are not allowed."""
    lengths = {len(margin), len(label), len(attribute), len(patient)}
    if len(lengths) > 1:
        raise InputUnsupportedError(
            f"margin, label, attribute and patient have lengths {sorted(lengths)}",
            remedy="give one value of each per patch",
        )
    for name, values, count in (("label", label, 2), ("attribute", attribute, n_values)):
        allowed = set(range(count))
        if not np.isin(values, sorted(allowed)).all():
            raise InputUnsupportedError(
                f"{name} holds {sorted(set(np.unique(values).tolist()) - allowed)}, not only 0 to {count - 1}",
                remedy="leave out patches without a label or a group",
            )
    if not np.isfinite(margin).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(margin)).sum())} of {len(margin)} margins are not finite",
            remedy="train again with a lower learning rate or beta",
        )


def _one_group(
    number: int, hits: NDArray[np.int64], n: NDArray[np.int64], *, n_values: int, resamples: int, seed: int
) -> dict[str, Any]:
    """Return one group's row."""
    # A patient without patches in the group says nothing about it.
    hits, n = hits[n > 0], n[n > 0]
    accuracy = with_interval(
        lambda i: _ratio(hits[i].sum(), n[i].sum()), np.arange(len(n)), resamples=resamples, seed=seed
    )
    return {
        "group": number,
        "label": number // n_values,
        "attribute": number % n_values,
        "n": int(n.sum()),
        "patients": len(n),
        "correct": int(hits.sum()),
        "accuracy": accuracy["value"],
        "low": accuracy["low"],
        "high": accuracy["high"],
    }


def _ratio(hits: int, n: int) -> float:
    """Return hits / n; NaN for n = 0."""
    return float(hits / n) if n else float("nan")


def _biased_average(accuracy: NDArray[np.float64], shares: NDArray[np.floating[Any]] | None) -> float:
    """Return the mean of the group accuracies by given shares; NaN without shares."""
    if shares is None or not np.isfinite(shares).all():
        return float("nan")
    return biased_average(accuracy, shares)
