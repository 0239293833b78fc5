"""How good predictions are on each (label, attribute) group, and on the worst (arithmetic, numpy only).

Decided once, for all functions here: an **empty group** has no accuracy (NaN) and takes no part in a minimum or mean
over groups, which are NaN only when every group is empty; NaN among predictions, scores or margins is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GroupAccuracies:
    """Accuracy and size of each group.

    Parameters
    ----------
    labels, attributes : tuple of int
        Values of the rows (K) and of the columns (A).
    accuracy : ndarray of float64, shape (K, A)
        Share of right predictions in [0, 1]; NaN where the group is empty.
    n : ndarray of int64, shape (K, A)
        Samples in each group.
    """

    labels: tuple[int, ...]
    attributes: tuple[int, ...]
    accuracy: FloatArray
    n: IntArray


def group_accuracies(prediction: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> GroupAccuracies:
    """Return the accuracy on each group (y, a).

    Parameters
    ----------
    prediction : array_like of int, shape (N,)
        Predicted class of each sample.
    label, attribute : array_like of int, shape (N,)
        True class and attribute value of each sample, from 0.

    Returns
    -------
    GroupAccuracies
        Labels and attributes run from 0 to the largest present, at least to 1.

    Raises
    ------
    InputUnsupportedError
        Arrays that are not one-dimensional, of one length and (label, attribute) whole numbers from 0.
    NonFiniteError
        A prediction is NaN or infinite.
    """
    y, a = _codes(label, "label"), _codes(attribute, "attribute")
    _check_lengths(prediction, y, a)
    right = _finite(prediction, "prediction") == y
    shape = (max(2, int(y.max(initial=0)) + 1), max(2, int(a.max(initial=0)) + 1))
    group = y * shape[1] + a
    n = np.bincount(group, minlength=shape[0] * shape[1]).reshape(shape)
    n_right = np.bincount(group, weights=right, minlength=shape[0] * shape[1]).reshape(shape)
    accuracy = np.full(shape, np.nan)
    np.divide(n_right, n, out=accuracy, where=n > 0)
    return GroupAccuracies(tuple(range(shape[0])), tuple(range(shape[1])), accuracy, n.astype(np.int64))


def worst_group_accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> float:
    """Return the lowest accuracy of any non-empty group (WGA).

    Parameters
    ----------
    prediction, label, attribute : array_like of int, shape (N,)
        As `group_accuracies`.

    Returns
    -------
    float
        In [0, 1]; NaN without samples.

    Raises
    ------
    InputUnsupportedError, NonFiniteError
        As `group_accuracies`.
    """
    found = group_accuracies(prediction, label, attribute)
    accuracy = found.accuracy[found.n > 0]
    return float(accuracy.min()) if accuracy.size else float("nan")


def group_balanced_accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> float:
    """Return the mean of the accuracies of all non-empty groups (GBA).

    Parameters
    ----------
    prediction, label, attribute : array_like of int, shape (N,)
        As `group_accuracies`.

    Returns
    -------
    float
        In [0, 1]; NaN without samples.

    Raises
    ------
    InputUnsupportedError, NonFiniteError
        As `group_accuracies`.
    """
    found = group_accuracies(prediction, label, attribute)
    accuracy = found.accuracy[found.n > 0]
    return float(accuracy.mean()) if accuracy.size else float("nan")


def predicted_class(logits: npt.ArrayLike, *, decision_threshold: float = 0.0) -> IntArray:
    """Return the class that logits stand for: of two classes by a threshold on z1 - z0, of more by the largest.

    Parameters
    ----------
    logits : array_like of float, shape (N, K)
        One a class.
    decision_threshold : float
        On z1 - z0, where K = 2: class 1 is predicted above it. It has no meaning, and must be 0, where K > 2.

    Returns
    -------
    ndarray of int64, shape (N,)

    Raises
    ------
    InputUnsupportedError
        Not a table of two or more classes, or a threshold beside more than two.
    NonFiniteError
        A logit is NaN or infinite.
    """
    z = _finite(logits, "logits")
    if z.ndim != 2 or z.shape[1] < 2 or (z.shape[1] > 2 and decision_threshold != 0):
        raise InputUnsupportedError(
            f"logits of shape {z.shape} with a decision threshold of {decision_threshold:g}",
            remedy="Give one logit a class, and a threshold only where there are two classes.",
        )
    if z.shape[1] == 2:
        return (z[:, 1] - z[:, 0] > decision_threshold).astype(np.int64)
    largest: IntArray = z.argmax(axis=1).astype(np.int64)
    return largest


def average_accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """Return the share of right predictions.

    Parameters
    ----------
    prediction, label : array_like of int, shape (N,)
        Predicted and true class of each sample.

    Returns
    -------
    float
        In [0, 1]; NaN without samples.

    Raises
    ------
    InputUnsupportedError, NonFiniteError
        As `group_accuracies`.
    """
    y = _codes(label, "label")
    _check_lengths(prediction, y)
    right = _finite(prediction, "prediction") == y
    return float(right.mean()) if right.size else float("nan")


def biased_average(accuracy: npt.ArrayLike, shares: npt.ArrayLike) -> float:
    """Return the accuracy that is to be expected on data with these shares of the groups.

    Parameters
    ----------
    accuracy : array_like of float, shape (K, A)
        Accuracy of each group, NaN where it is not known.
    shares : array_like of float, shape (K, A)
        Share of each group, for instance that of the training data; scaled to sum 1.

    Returns
    -------
    float
        In [0, 1]; NaN if the accuracy of a group with a share above 0 is not known.

    Raises
    ------
    InputUnsupportedError
        Shapes differ, or shares are negative, not finite or all 0.
    """
    known, weight = np.asarray(accuracy, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if known.shape != weight.shape or not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
        raise InputUnsupportedError(
            f"accuracies of shape {known.shape} with shares {weight.tolist()}",
            remedy="Give one non-negative share a group, at least one of them above 0.",
        )
    has_share = weight > 0
    return float((known[has_share] * weight[has_share]).sum() / weight.sum())


def auroc(score: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative, ties counted half.

    Parameters
    ----------
    score : array_like of float, shape (N,)
        Higher = more likely positive; infinite values are ordered as any other.
    label : array_like of int, shape (N,)
        1 positive, 0 negative.

    Returns
    -------
    float
        In [0, 1]; NaN where a class is missing.

    Raises
    ------
    InputUnsupportedError
        Not two one-dimensional arrays of one length, or labels other than 0 and 1.
    NonFiniteError
        A score is NaN.
    """
    y = _binary(label)
    _check_lengths(score, y)
    values = np.asarray(score, dtype=np.float64)
    if np.isnan(values).any():
        raise NonFiniteError("a score is NaN", remedy="Leave out samples without a score.")
    n_positive = int(y.sum())
    n_negative = len(y) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[place]  # mean rank among ties, from 1
    wins = rank[y == 1].sum() - n_positive * (n_positive + 1) / 2
    return float(wins / (n_positive * n_negative))


def bootstrap_by_patient(
    statistic: Callable[[IntArray], float], patient: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic when patients, not samples, are drawn again with replacement.

    Parameters
    ----------
    statistic : callable
        Sample indices (ndarray of int64, a patient drawn twice stands there twice) to a number.
    patient : array_like, shape (N,)
        Patient of each sample.
    resamples : int
        Number of draws; 0 gives (NaN, NaN).
    seed : int
        Seed of the draws.

    Returns
    -------
    tuple of float
        2.5 and 97.5 % percentiles over the draws whose statistic is not NaN; (NaN, NaN) if none is, or with fewer than
        two patients, who tell nothing of how patients differ.

    Raises
    ------
    InputUnsupportedError
        ``resamples`` is negative, or ``patient`` not one-dimensional.
    """
    ids = np.asarray(patient)
    if resamples < 0 or ids.ndim != 1:
        raise InputUnsupportedError(
            f"resamples = {resamples}, patients of shape {ids.shape}", remedy="Give one patient a sample."
        )
    _, code, size = np.unique(ids, return_inverse=True, return_counts=True)
    if len(size) < 2 or resamples == 0:
        return float("nan"), float("nan")
    order = np.argsort(code, kind="stable").astype(np.int64)  # samples, patient by patient
    start, rng = np.cumsum(size) - size, np.random.default_rng(seed)

    def drawn() -> IntArray:
        people = rng.integers(len(size), size=len(size))  # one draw at a time: a set may have 200,000 patients
        n = size[people]
        place: IntArray = order[np.repeat(start[people] - (np.cumsum(n) - n), n) + np.arange(n.sum())]
        return place

    values = np.array([statistic(drawn()) for _ in range(resamples)], dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def best_decision_threshold(margin: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> float:
    """Return the threshold on z1 - z0 with the highest worst-group accuracy; a margin above it means class 1.

    WGA is constant between neighbouring margins, so the middles between them are tried (and a point beyond either
    end). Of all that reach the maximum, the median is taken, the lower one of an even number.

    Parameters
    ----------
    margin : array_like of float, shape (N,)
        Logit of class 1 minus logit of class 0.
    label, attribute : array_like of int, shape (N,)
        Class (0 or 1) and attribute value (from 0) of each sample. Empty groups take no part.

    Returns
    -------
    float
        Finite.

    Raises
    ------
    GroupEmptyError
        A class without samples: any extreme threshold would be perfect.
    InputUnsupportedError
        Arrays that are not one-dimensional, of one length, or labels other than 0 and 1.
    NonFiniteError
        A margin is NaN or infinite.
    """
    y, a = _binary(label), _codes(attribute, "attribute")
    _check_lengths(margin, y, a)
    z = _finite(margin, "margin")
    if len(np.unique(y)) < 2:
        raise GroupEmptyError(
            f"samples of class 0 and 1: {np.bincount(y, minlength=2).tolist()}",
            remedy="Choose the threshold on a split that holds both classes.",
        )
    steps = np.unique(z)
    candidates = np.concatenate([[steps[0] - 1], steps[:-1] + np.diff(steps) / 2, [steps[-1] + 1]])
    worst = np.ones(len(candidates))
    for group in np.unique(y * (a.max() + 1) + a):
        of_group = y * (a.max() + 1) + a == group
        below = np.searchsorted(np.sort(z[of_group]), candidates, side="right") / of_group.sum()
        worst = np.minimum(worst, 1 - below if y[of_group][0] else below)
    best = candidates[np.isclose(worst, worst.max(), rtol=0, atol=1e-12)]
    return float(best[(len(best) - 1) // 2])


def threshold_at_sensitivity(margin: npt.ArrayLike, label: npt.ArrayLike, sensitivity: float) -> float:
    """Return the highest threshold on z1 - z0 at which at least so large a share of class 1 lies above it.

    It lies in the middle between the lowest margin of class 1 that must be above it and the next lower margin of any
    sample (or 1 below it, if there is none).

    Parameters
    ----------
    margin : array_like of float, shape (N,)
        Logit of class 1 minus logit of class 0.
    label : array_like of int, shape (N,)
        Class (0 or 1) of each sample.
    sensitivity : float
        Share of class 1 to be found, in (0, 1].

    Returns
    -------
    float
        Finite.

    Raises
    ------
    GroupEmptyError
        No sample of class 1.
    InputUnsupportedError
        A share outside (0, 1], arrays that are not one-dimensional and of one length, or labels other than 0 and 1.
    NonFiniteError
        A margin is NaN or infinite.
    """
    y, z = _binary(label), _finite(margin, "margin")
    _check_lengths(margin, y)
    if not 0 < sensitivity <= 1:
        raise InputUnsupportedError(f"sensitivity {sensitivity}", remedy="Give a share above 0 and at most 1.")
    positive = np.sort(z[y == 1])[::-1]
    if len(positive) == 0:
        raise GroupEmptyError(
            "no sample of class 1", remedy="Choose the threshold on a split that holds samples of class 1."
        )
    n_due = int(np.ceil(sensitivity * len(positive) - 1e-9))  # .95 of 20 is 19, whatever its binary value
    last = positive[n_due - 1]
    lower = z[z < last]
    return float((last + lower.max()) / 2 if lower.size else last - 1)


def _codes(values: npt.ArrayLike, name: str) -> IntArray:
    """Return labels or attributes as int64, refused unless whole numbers from 0."""
    array = np.asarray(values)
    is_empty = array.size == 0
    if array.ndim != 1 or not (is_empty or (array.dtype.kind in "iub" and array.min() >= 0)):
        raise InputUnsupportedError(
            f"{name} of shape {array.shape} and type {array.dtype}",
            remedy="Give a one-dimensional array of whole numbers from 0; leave out what is not labelled (-1).",
        )
    return array.astype(np.int64)


def _binary(label: npt.ArrayLike) -> IntArray:
    """Return labels as int64, refused unless 0 or 1."""
    y = _codes(label, "label")
    if y.max(initial=0) > 1:
        raise InputUnsupportedError(f"label {int(y.max())}", remedy="This measure knows classes 0 and 1 only.")
    return y


def _finite(values: npt.ArrayLike, name: str) -> FloatArray:
    """Return values as float64, refused unless all are finite."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} values of {name} are not finite",
            remedy="Look for a diverged model or an empty input.",
        )
    return array


def _check_lengths(first: npt.ArrayLike, *others: IntArray) -> None:
    """Refuse arrays of different shapes."""
    shapes = [np.shape(first), *(other.shape for other in others)]
    if len(set(shapes)) > 1:
        raise InputUnsupportedError(f"arrays of shapes {shapes}", remedy="Give one value a sample in each.")
