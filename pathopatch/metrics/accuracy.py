"""Accuracy by (label, attribute) group, worst-group accuracy, AUROC and decision thresholds (numpy only).

Two rules hold for all functions here. An **empty group** has no accuracy (NaN) and takes no part in a minimum or mean
over groups; these are NaN only if every group is empty. Arguments outside what is stated raise
`InputUnsupportedError`, and NaN among predictions, scores or margins `NonFiniteError`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GroupAccuracies:
    """Accuracy and size of each group."""

    labels: tuple[int, ...]  # values of the rows (K)
    attributes: tuple[int, ...]  # values of the columns (A)
    accuracy: FloatArray  # (K, A), share of correct predictions in [0, 1]; NaN where the group is empty
    n: IntArray  # (K, A), samples in each group


def group_accuracies(prediction: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> GroupAccuracies:
    """Return the accuracy on each group (y, a); labels and attributes run from 0 to the largest present, at least to 1.

    Parameters
    ----------
    prediction : array_like of int, shape (N,)
        Predicted class of each sample.
    label, attribute : array_like of int, shape (N,)
        True class and attribute value of each sample, from 0.
    """
    y, a = _codes(label, "label"), _codes(attribute, "attribute")
    _check_lengths(prediction, y, a)
    is_correct = _finite(prediction, "prediction") == y
    # At least 2 x 2: a single value of either means that the other group is empty, not that it does not exist.
    shape = (max(2, int(y.max(initial=0)) + 1), max(2, int(a.max(initial=0)) + 1))
    group = y * shape[1] + a
    n = np.bincount(group, minlength=shape[0] * shape[1]).reshape(shape)
    n_correct = np.bincount(group, weights=is_correct, minlength=shape[0] * shape[1]).reshape(shape)
    accuracy = np.full(shape, np.nan)
    np.divide(n_correct, n, out=accuracy, where=n > 0)
    return GroupAccuracies(tuple(range(shape[0])), tuple(range(shape[1])), accuracy, n.astype(np.int64))


def worst_group_accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> float:
    """Return the lowest accuracy of any non-empty group (WGA).

    Arguments are those of `group_accuracies`; the result is in [0, 1], or NaN without samples.
    """
    groups = group_accuracies(prediction, label, attribute)
    accuracy = groups.accuracy[groups.n > 0]
    return float(accuracy.min()) if accuracy.size else float("nan")


def group_balanced_accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> float:
    """Return the mean of the accuracies of all non-empty groups (GBA).

    Arguments are those of `group_accuracies`; the result is in [0, 1], or NaN without samples.
    """
    groups = group_accuracies(prediction, label, attribute)
    accuracy = groups.accuracy[groups.n > 0]
    return float(accuracy.mean()) if accuracy.size else float("nan")


def predicted_class(logits: npt.ArrayLike, *, decision_threshold: float = 0.0) -> IntArray:
    """Return the predicted class (N,): of two classes by a threshold on z1 - z0, of more by the largest logit.

    Parameters
    ----------
    logits : array_like of float, shape (N, K)
    decision_threshold : float
        On z1 - z0, for K = 2: class 1 is predicted above it. Must be 0 for K > 2.
    """
    z = _finite(logits, "logits")
    if z.ndim != 2 or z.shape[1] < 2 or (z.shape[1] > 2 and decision_threshold != 0):
        raise InputUnsupportedError(
            f"logits of shape {z.shape} with a decision threshold of {decision_threshold:g}",
            remedy="Give one logit per class, and a threshold only for two classes.",
        )
    if z.shape[1] == 2:
        # A tie at the threshold is class 0, as argmax would have it at 0.
        return (z[:, 1] - z[:, 0] > decision_threshold).astype(np.int64)
    return np.asarray(z.argmax(axis=1), dtype=np.int64)


def average_accuracy(prediction: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """Return the share of correct predictions; arguments and NaN as `worst_group_accuracy`."""
    y = _codes(label, "label")
    _check_lengths(prediction, y)
    is_correct = _finite(prediction, "prediction") == y
    return float(is_correct.mean()) if is_correct.size else float("nan")


def auroc(score: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative; ties count half.

    Parameters
    ----------
    score : array_like of float, shape (N,)
        Higher = more likely positive; may be infinite.
    label : array_like of int, shape (N,)
        1 positive, 0 negative. If a class is missing, the result is NaN.
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
    # Mann-Whitney U from the ranks. Tied scores share their mean rank (from 1), which counts each tied pair half.
    _, level, n_tied = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(n_tied) - (n_tied - 1) / 2)[level]
    wins = rank[y == 1].sum() - n_positive * (n_positive + 1) / 2
    return float(wins / (n_positive * n_negative))


def best_decision_threshold(margin: npt.ArrayLike, label: npt.ArrayLike, attribute: npt.ArrayLike) -> float:
    """Return the threshold on z1 - z0 with the highest worst-group accuracy; a margin above it means class 1.

    Candidates are the midpoints between neighbouring margins and one point beyond either end. Of those that reach the
    maximum the median is returned, the lower one of an even number.

    Parameters
    ----------
    margin : array_like of float, shape (N,)
        Logit of class 1 minus logit of class 0.
    label, attribute : array_like of int, shape (N,)
        Class (0 or 1) and attribute value (from 0) of each sample.

    Raises
    ------
    GroupEmptyError
        A class has no samples: any extreme threshold would be perfect.
    """
    y, a = _binary(label), _codes(attribute, "attribute")
    _check_lengths(margin, y, a)
    z = _finite(margin, "margin")
    if len(np.unique(y)) < 2:
        raise GroupEmptyError(
            f"samples of class 0 and 1: {np.bincount(y, minlength=2).tolist()}",
            remedy="Choose the threshold on a split that holds both classes.",
        )
    margins = np.unique(z)
    # WGA is constant between neighbouring margins, so one candidate in each gap is enough.
    candidates = np.concatenate([[margins[0] - 1], margins[:-1] + np.diff(margins) / 2, [margins[-1] + 1]])
    group = y * (a.max() + 1) + a
    worst = np.ones(len(candidates))
    for code in np.unique(group):  # empty groups do not occur here, so they take no part in the minimum
        is_member = group == code
        share_below = np.searchsorted(np.sort(z[is_member]), candidates, side="right") / is_member.sum()
        worst = np.minimum(worst, 1 - share_below if y[is_member][0] else share_below)
    # The median of the plateau is the candidate that is least sensitive to a few other patches.
    best = candidates[np.isclose(worst, worst.max(), rtol=0, atol=1e-12)]
    return float(best[(len(best) - 1) // 2])


def threshold_at_sensitivity(margin: npt.ArrayLike, label: npt.ArrayLike, sensitivity: float) -> float:
    """Return the highest threshold on z1 - z0 that detects at least the given share of class 1.

    It is the midpoint between the lowest margin of class 1 that must lie above it and the next lower margin of any
    sample (1 below it, if there is none).

    Parameters
    ----------
    margin : array_like of float, shape (N,)
        Logit of class 1 minus logit of class 0.
    label : array_like of int, shape (N,)
        Class (0 or 1) of each sample.
    sensitivity : float
        Share of class 1 to detect, in (0, 1].

    Raises
    ------
    GroupEmptyError
        No sample of class 1.
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
    # A rounding error must not ask for one more sample: 0.07 * 100 is 7.000000000000001 and means 7.
    n_required = int(np.ceil(sensitivity * len(positive) - 1e-9))
    lowest_detected = positive[n_required - 1]
    lower = z[z < lowest_detected]
    return float((lowest_detected + lower.max()) / 2 if lower.size else lowest_detected - 1)


def _codes(values: npt.ArrayLike, name: str) -> IntArray:
    """Return labels or attributes as int64; refuse anything but integers from 0."""
    array = np.asarray(values)
    is_empty = array.size == 0
    if array.ndim != 1 or not (is_empty or (array.dtype.kind in "iub" and array.min() >= 0)):
        raise InputUnsupportedError(
            f"{name} of shape {array.shape} and type {array.dtype}",
            remedy="Give a one-dimensional array of whole numbers from 0; leave out unlabelled samples (-1).",
        )
    return array.astype(np.int64)


def _binary(label: npt.ArrayLike) -> IntArray:
    """Return labels as int64; refuse anything but 0 and 1."""
    y = _codes(label, "label")
    if y.max(initial=0) > 1:
        raise InputUnsupportedError(f"label {int(y.max())}", remedy="Use this measure for classes 0 and 1 only.")
    return y


def _finite(values: npt.ArrayLike, name: str) -> FloatArray:
    """Return values as float64; refuse NaN and infinity."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} values of {name} are not finite",
            remedy="Check for a diverged model or an empty input.",
        )
    return array


def _check_lengths(first: npt.ArrayLike, *others: IntArray) -> None:
    """Refuse arrays of different shapes."""
    shapes = [np.shape(first), *(other.shape for other in others)]
    if len(set(shapes)) > 1:
        raise InputUnsupportedError(f"arrays of shapes {shapes}", remedy="Give one value per sample in each.")
