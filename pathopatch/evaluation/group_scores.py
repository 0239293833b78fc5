"""Answers how good one set of logits is, group by group. Arithmetic only: arrays in, plain values out.

The groups are g = A y + a (label, attribute of A values): four where the attribute is large tissue. A worst-group or
group-balanced accuracy is a statement about all of them, so both are NaN when a group has no patch: never the minimum
or mean of the groups that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.groups.expected import SMALL_CELL
from pathopatch.metrics.accuracy import biased_average
from pathopatch.metrics.bootstrap import auroc_of, bootstrap_by_patient

SMALL_GROUP = SMALL_CELL


def judge(
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
    """Return the group accuracies and what is made of them, each with its 95 % interval.

    Parameters
    ----------
    margin : ndarray of float, shape (N,)
        Logit of tumour minus logit of non-tumour; tumour is predicted above `decision_threshold`.
    label : ndarray of int, shape (N,)
        1 tumour, 0 non-tumour.
    attribute : ndarray of int, shape (N,)
        1 large tissue, 0 little tissue; or 0 to A - 1.
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled, since patches of one patient resemble each other.
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
        `biased_average` and `wga_at_zero` (WGA had the decision threshold been 0). Intervals are NaN with
        fewer than two patients; a resample without one of the groups does not count for WGA and GBA.

    Raises
    ------
    InputUnsupportedError
        The arrays differ in length, or a label or attribute is none of 0 and 1, or of 0 to A - 1.
    NonFiniteError
        A margin is NaN or infinite.
    """
    _check(margin, label, attribute, patient, n_values=n_values)
    margin = np.asarray(margin, dtype=np.float64)
    label = np.asarray(label, dtype=np.int64)
    group = n_values * label + np.asarray(attribute, dtype=np.int64)
    settings = {"resamples": resamples, "seed": seed}
    size = {"n_groups": 2 * n_values}
    hits, n = patient_counts((margin > decision_threshold) == (label == 1), group, patient, **size)
    at_zero, _ = patient_counts((margin > 0) == (label == 1), group, patient, **size)
    accuracy = pooled_accuracy(hits, n)
    people = np.arange(len(n))
    return {
        "n": len(margin),
        "patients": len(people),
        "smallest_group_n": int(n.sum(axis=0).min()),
        "decision_threshold": float(decision_threshold),
        "groups": [_one_group(g, hits[:, g], n[:, g], n_values=n_values, **settings) for g in range(n.shape[1])],
        "wga": with_interval(lambda i: float(pooled_accuracy(hits[i], n[i]).min()), people, **settings),
        "gba": with_interval(lambda i: float(pooled_accuracy(hits[i], n[i]).mean()), people, **settings),
        "average": with_interval(lambda i: _ratio(hits[i].sum(), n[i].sum()), people, **settings),
        "auroc": with_interval(auroc_of(margin, label), patient, **settings),
        "biased_average": _weighted(accuracy, train_shares),
        "wga_at_zero": float(pooled_accuracy(at_zero, n).min()),
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
        Right ones and all, a row per patient in sorted order. All that is said of groups follows from these
        counts, so resampling their rows is resampling patients.
    """
    people, place = np.unique(patient, return_inverse=True)
    cell = place * n_groups + group
    size = len(people) * n_groups
    n = np.bincount(cell, minlength=size)
    hits = np.bincount(cell[np.asarray(correct, dtype=bool)], minlength=size)
    return hits.reshape(-1, n_groups), n.reshape(-1, n_groups)


def pooled_accuracy(hits: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the accuracy in each group over some patients.

    Parameters
    ----------
    hits, n : ndarray of int64, shape (P, 2 A)
        What `patient_counts` returned, or a choice of its rows.

    Returns
    -------
    ndarray of float64, shape (2 A,)
        In [0, 1]; NaN for a group without patches.
    """
    total = n.sum(axis=0)
    accuracy = np.full(n.shape[1], np.nan)
    np.divide(hits.sum(axis=0), total, out=accuracy, where=total > 0)
    return accuracy


def with_interval(
    statistic: Callable[[NDArray[Any]], float], patient: NDArray[Any], *, resamples: int, seed: int
) -> dict[str, float]:
    """Return a statistic of all samples and its 95 % interval by bootstrap over patients.

    Parameters
    ----------
    statistic : callable
        Takes indices of samples, returns a float.
    patient : ndarray, shape (N,)
        Patient of each sample.
    resamples : int
        Resamplings; 0 for no interval.
    seed : int
        Of the resampling.

    Returns
    -------
    dict of str to float
        value, low, high; the interval is NaN with fewer than two patients, or where the value is NaN.
    """
    value = float(statistic(np.arange(len(patient))))
    low, high = float("nan"), float("nan")
    if resamples and np.isfinite(value) and len(np.unique(patient)) > 1:
        low, high = bootstrap_by_patient(statistic, patient, resamples=resamples, seed=seed)
    return {"value": value, "low": float(low), "high": float(high)}


def group_shares(group: NDArray[np.integer[Any]], *, n_groups: int = 4) -> NDArray[np.float64]:
    """Return the share of each of the groups.

    Parameters
    ----------
    group : ndarray of int, shape (N,)
        A y + a, from 0; -1 (no group) is left out.
    n_groups : int
        2 A.

    Returns
    -------
    ndarray of float64, shape (2 A,)
        Sums to 1; NaN throughout if nothing has a group.
    """
    n = np.bincount(np.asarray(group)[np.asarray(group) >= 0], minlength=n_groups)
    return n / n.sum() if n.sum() else np.full(n_groups, np.nan)


def _check(
    margin: NDArray[Any], label: NDArray[Any], attribute: NDArray[Any], patient: NDArray[Any], *, n_values: int
) -> None:
    """Refuse arrays that do not belong together or hold other than they must."""
    lengths = {len(margin), len(label), len(attribute), len(patient)}
    if len(lengths) > 1:
        raise InputUnsupportedError(
            f"margin, label, attribute and patient have lengths {sorted(lengths)}",
            remedy="give one value of each per patch",
        )
    for name, values, count in (("label", label, 2), ("attribute", attribute, n_values)):
        known = set(range(count))
        if not np.isin(values, sorted(known)).all():
            raise InputUnsupportedError(
                f"{name} holds {sorted(set(np.unique(values).tolist()) - known)}, not only 0 to {count - 1}",
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
    """Return one group's row; its interval resamples the patients that have patches in it."""
    hits, n = hits[n > 0], n[n > 0]
    judged = with_interval(
        lambda i: _ratio(hits[i].sum(), n[i].sum()), np.arange(len(n)), resamples=resamples, seed=seed
    )
    return {
        "group": number,
        "label": number // n_values,
        "attribute": number % n_values,
        "n": int(n.sum()),
        "patients": len(n),
        "correct": int(hits.sum()),
        "accuracy": judged["value"],
        "low": judged["low"],
        "high": judged["high"],
    }


def _ratio(hits: int, n: int) -> float:
    """Return hits / n; NaN of nothing."""
    return float(hits / n) if n else float("nan")


def _weighted(accuracy: NDArray[np.float64], shares: NDArray[np.floating[Any]] | None) -> float:
    """Return the mean of the group accuracies by given shares; NaN without shares."""
    if shares is None or not np.isfinite(shares).all():
        return float("nan")
    return biased_average(accuracy, shares)
