"""Answers whether a probability of 80 % means that 80 of 100 such patches are tumour, with little tissue and with much.

Arithmetic only. Two questions are kept apart. *Reliability* is asked of all patches, and of those with little and with
much tissue: there both labels occur, so the share of tumour can be held against the probability. Within one of the four
groups all patches have one label; there only *confidence* can be held against accuracy, and a model that is perfectly
calibrated over all patches is still over-confident in the groups that are hard for it, under-confident in the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.groups import threshold_attributes
from pathopatch.metrics.bootstrap import interval, ratio, resampled

N_BINS = 10
"""Bins of equal width over probabilities from 0 to 1, and over confidences from 0.5 to 1."""
_SIMULATIONS = 200


def expected_calibration_error(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean distance of what was predicted from what came true, over bins, weighted by their patches.

    Parameters
    ----------
    sums : ndarray of float64, shape (R, 3 bins)
        Number of patches in each bin, then the sum of predictions in each, then the sum of what came true in each.

    Returns
    -------
    ndarray of float64, shape (R,)
        In [0, 1]; NaN without patches.

    References
    ----------
    Naeini, Cooper, Hauskrecht, AAAI 2015; Guo et al., ICML 2017, eq. 3.
    """
    n, said, came = np.split(np.asarray(sums, dtype=np.float64), 3, axis=1)
    found: NDArray[np.float64] = ratio(np.abs(said - came).sum(axis=1), n.sum(axis=1))
    return found


def reliability(
    probability: NDArray[np.float64],
    label: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how predicted probabilities and the share of tumour agree.

    Parameters
    ----------
    probability : ndarray of float64, shape (N,)
        Of tumour, in [0, 1].
    label : ndarray of int64, shape (N,)
        1 tumour, 0 non-tumour.
    patient : ndarray, shape (N,)
        Patient of each patch: the unit that is resampled.
    resamples : int
        Resamplings of patients behind the intervals; 0 for none.
    seed : int
        Of the resampling, and of the labels drawn for `ece_if_calibrated`.

    Returns
    -------
    dict
        `n`, `patients`, `mean_probability`, `tumor_share`, `ece` with `ece_low` and `ece_high`, `ece_if_calibrated`
        (what a perfectly calibrated model would show on average with as many independent patches: chance alone),
        `brier`, `nll`; and `bins`: for each of ten `low`, `high`, `n`, `mean_probability`, `tumor_share` with
        `tumor_share_low` and `tumor_share_high`. NaN where there are no patches or too few patients.
    """
    place = np.minimum((probability * N_BINS).astype(np.int64), N_BINS - 1)
    sums = _binned(place, probability, label.astype(np.float64), patient)
    draws = resampled(sums, resamples=resamples, seed=seed)
    total = sums.sum(axis=0, keepdims=True)
    n, said, came = np.split(total[0], 3)
    shares = ratio(draws[:, 2 * N_BINS :], draws[:, :N_BINS])
    low, high = interval(expected_calibration_error(draws))
    bins = []
    for number in range(N_BINS):
        share_low, share_high = interval(shares[:, number])
        bins.append(
            {
                "low": number / N_BINS,
                "high": (number + 1) / N_BINS,
                "n": int(n[number]),
                "mean_probability": float(ratio(said[number], n[number])),
                "tumor_share": float(ratio(came[number], n[number])),
                "tumor_share_low": share_low,
                "tumor_share_high": share_high,
            }
        )
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return {
        "n": len(label),
        "patients": len(sums),
        "mean_probability": _mean(probability),
        "tumor_share": _mean(label),
        "ece": float(expected_calibration_error(total)[0]),
        "ece_low": low,
        "ece_high": high,
        "ece_if_calibrated": _by_chance(probability, place, seed),
        "brier": _mean((probability - label) ** 2),
        "nll": _mean(-np.log(np.where(label == 1, clipped, 1 - clipped))),
        "bins": bins,
    }


def confidence(probability: NDArray[np.float64], label: NDArray[np.int64]) -> dict[str, Any]:
    """Return how sure a model is within one group, and how often it is right there.

    The class is the more probable one, whatever the decision threshold.

    Parameters
    ----------
    probability : ndarray of float64, shape (N,)
        Of tumour, in [0, 1].
    label : ndarray of int64, shape (N,)
        1 tumour, 0 non-tumour.

    Returns
    -------
    dict
        `n`, `confidence` (mean probability of the predicted class), `accuracy`, `overconfidence` (their difference)
        and `ece` over ten bins of confidence from 0.5 to 1; NaN without patches.
    """
    sure = np.maximum(probability, 1 - probability)
    right = ((probability > 0.5) == (label == 1)).astype(np.float64)
    place = np.minimum(((sure - 0.5) * 2 * N_BINS).astype(np.int64), N_BINS - 1)
    total = _binned(place, sure, right, np.zeros(len(label))).sum(axis=0, keepdims=True)
    return {
        "n": len(label),
        "confidence": _mean(sure),
        "accuracy": _mean(right),
        "overconfidence": _mean(sure) - _mean(right),
        "ece": float(expected_calibration_error(total)[0]),
    }


def calibration(
    table: pd.DataFrame, patient: NDArray[Any], *, n_values: int = 2, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return the calibration of some predictions, before the temperature and, where there is one, after it.

    Parameters
    ----------
    table : DataFrame
        Columns label, logit (tumour minus non-tumour), probability (after the temperature) and ``group@<threshold>``.
    patient : ndarray, shape (N,)
        Patient of each row.
    n_values : int
        Values of the attribute, A; group = A label + attribute.
    resamples : int
        Resamplings of patients behind the intervals; 0 for none.
    seed : int
        Of the resampling.

    Returns
    -------
    dict
        ``before``, and ``after`` if the temperature is not 1: each with ``all`` (see `reliability`) and per threshold
        ``attributes`` (`reliability` of the patches of each attribute value: little and much tissue) and ``groups``
        (`confidence` of each group).
    """
    label = table["label"].to_numpy(dtype=np.int64)
    after = table["probability"].to_numpy(dtype=np.float64)
    before = 0.5 * (1 + np.tanh(0.5 * table["logit"].to_numpy(dtype=np.float64)))  # no exponential overflows
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed}
    kinds = {"before": before} | ({} if np.allclose(before, after, rtol=0, atol=1e-9) else {"after": after})
    found: dict[str, Any] = {}
    for kind, probability in kinds.items():
        told: dict[str, Any] = {"all": reliability(probability, label, patient, **settings), "thresholds": {}}
        for attribute in threshold_attributes(table):
            group = attribute.groups_in(table)
            told["thresholds"][attribute.key] = {
                "attributes": [
                    reliability(*(each[group % n_values == a] for each in (probability, label, patient)), **settings)
                    for a in range(n_values)
                ],
                "groups": [confidence(probability[group == g], label[group == g]) for g in range(2 * n_values)],
            }
        found[kind] = told
    return found


def calibration_tables(numbers: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the calibration of an evaluation as tables by name: ``calibration`` and ``reliability``.

    Parameters
    ----------
    numbers : dict
        What `judge_predictions` returned.
    """
    summary, bins = [], []
    for split, content in numbers["splits"].items():
        for kind, told in content["calibration"].items():
            scopes = [("", "all", told["all"])]
            for threshold, at in told["thresholds"].items():
                scopes += [(threshold, f"attribute {a}", each) for a, each in enumerate(at["attributes"])]
            for threshold, scope, each in scopes:
                where = {"split": split, "temperature": kind, "threshold": threshold, "scope": scope}
                summary.append({**where, **{name: value for name, value in each.items() if name != "bins"}})
                bins += [{**where, **row} for row in each["bins"]]
            summary += [
                {"split": split, "temperature": kind, "threshold": threshold, "scope": f"group {g}", **each}
                for threshold, at in told["thresholds"].items()
                for g, each in enumerate(at["groups"])
            ]
    return {"calibration": pd.DataFrame(summary), "reliability": pd.DataFrame(bins)}


def _binned(
    place: NDArray[np.int64], said: NDArray[np.float64], came: NDArray[np.float64], patient: NDArray[Any]
) -> NDArray[np.float64]:
    """Return by patient and bin the patches and the sums of what was predicted and what came true, (P, 3 bins)."""
    people, who = np.unique(patient, return_inverse=True)
    cell, size = who * N_BINS + place, len(people) * N_BINS
    sums = [np.bincount(cell, weights=weights, minlength=size) for weights in (None, said, came)]
    return np.concatenate([each.reshape(-1, N_BINS).astype(np.float64) for each in sums], axis=1)


def _by_chance(probability: NDArray[np.float64], place: NDArray[np.int64], seed: int) -> float:
    """Return the mean error of a perfectly calibrated model: labels drawn with the predicted probabilities."""
    if not len(probability):
        return float("nan")
    rng = np.random.default_rng(seed)
    said = np.bincount(place, weights=probability, minlength=N_BINS)
    errors = []
    for _ in range(_SIMULATIONS):
        came = np.bincount(place[rng.random(len(probability)) < probability], minlength=N_BINS)
        errors.append(np.abs(said - came).sum() / len(probability))
    return float(np.mean(errors))


def _mean(values: NDArray[Any]) -> float:
    """Return the mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
