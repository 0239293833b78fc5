"""Measure calibration: of patches with a probability of 80 %, 80 of 100 should be tumour.

The probability is compared with the share of tumour, over all patches and over those of each attribute value: there
both labels occur. A model that is calibrated over all patches is still over-confident in the groups that are hard for
it, and under-confident in the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.evaluation.group_scores import with_ends
from pathopatch.groups import threshold_attributes
from pathopatch.metrics.bootstrap import interval, ratio, resampled

_N_BINS = 10  # of equal width, over probabilities from 0 to 1
_SIMULATIONS = 200


def _expected_calibration_error(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean distance of prediction and outcome over bins, weighted by their patches; shape (R,), in [0, 1].

    `sums` (R, 3 bins): patches in each bin, then the sum of predictions, then of outcomes. NaN without patches.

    References
    ----------
    Naeini, Cooper, Hauskrecht, AAAI 2015; Guo et al., ICML 2017, eq. 3.
    """
    n, predicted, outcome = np.split(np.asarray(sums, dtype=np.float64), 3, axis=1)
    error: NDArray[np.float64] = ratio(np.abs(predicted - outcome).sum(axis=1), n.sum(axis=1))
    return error


def reliability(
    probability: NDArray[np.float64],
    label: NDArray[np.int64],
    patient: NDArray[Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how well predicted probabilities of tumour and the share of tumour (label 1) agree, from arrays (N,).

    `ece_if_calibrated` is the mean error of a perfectly calibrated model with as many independent patches: chance
    alone. `ece` has no interval: resampling raises it, so that an interval seldom holds the value itself. `bins` has
    for each of ten `low`, `high`, `n`, `mean_probability`, and `tumor_share` with its interval by patient (``_low``,
    ``_high``). NaN without patches or with too few patients.
    """
    # A probability of 1 belongs to the last bin.
    place = np.minimum((probability * _N_BINS).astype(np.int64), _N_BINS - 1)
    sums = _binned(place, probability, label.astype(np.float64), patient)
    draws = resampled(sums, resamples=resamples, seed=seed)
    total = sums.sum(axis=0, keepdims=True)
    n, predicted, tumor = np.split(total[0], 3)
    shares = ratio(draws[:, 2 * _N_BINS :], draws[:, :_N_BINS])
    bins = [
        {
            "low": number / _N_BINS,
            "high": (number + 1) / _N_BINS,
            "n": int(n[number]),
            "mean_probability": float(ratio(predicted[number], n[number])),
            **with_ends("tumor_share", float(ratio(tumor[number], n[number])), *interval(shares[:, number])),
        }
        for number in range(_N_BINS)
    ]
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)  # a certain and wrong prediction would give an infinite mean
    return {
        "n": len(label),
        "patients": len(sums),
        "mean_probability": _mean(probability),
        "tumor_share": _mean(label),
        "ece": float(_expected_calibration_error(total)[0]),
        "ece_if_calibrated": _chance_error(probability, place, seed),
        "brier": _mean((probability - label) ** 2),
        "nll": _mean(-np.log(np.where(label == 1, clipped, 1 - clipped))),
        "bins": bins,
    }


def calibration(
    table: pd.DataFrame, patient: NDArray[Any], *, n_values: int = 2, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return the calibration of some predictions, ``before`` the temperature and, unless it is 1, ``after`` it.

    `table` has label, logit (tumour minus non-tumour), probability (after the temperature) and ``group@<threshold>``;
    `patient` is (N,), group = `n_values` label + attribute. Each kind has ``all`` and per threshold ``attributes``, see
    `reliability`.
    """
    label = table["label"].to_numpy(dtype=np.int64)
    after = table["probability"].to_numpy(dtype=np.float64)
    # The logistic function as a tanh: no exponential overflows.
    before = 0.5 * (1 + np.tanh(0.5 * table["logit"].to_numpy(dtype=np.float64)))
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed}
    # A temperature of 1 changes no probability, and then there is no "after".
    kinds = {"before": before} | ({} if np.allclose(before, after, rtol=0, atol=1e-9) else {"after": after})
    result: dict[str, Any] = {}
    for kind, probability in kinds.items():
        numbers: dict[str, Any] = {"all": reliability(probability, label, patient, **settings), "thresholds": {}}
        for attribute in threshold_attributes(table):
            group = attribute.groups_in(table)
            numbers["thresholds"][attribute.key] = {
                "attributes": [
                    reliability(*(array[group % n_values == a] for array in (probability, label, patient)), **settings)
                    for a in range(n_values)
                ]
            }
        result[kind] = numbers
    return result


def _binned(
    place: NDArray[np.int64], predicted: NDArray[np.float64], outcome: NDArray[np.float64], patient: NDArray[Any]
) -> NDArray[np.float64]:
    """Return by patient and bin the patches and the sums of predictions and outcomes, (P, 3 bins)."""
    patients, row = np.unique(patient, return_inverse=True)
    cell, size = row * _N_BINS + place, len(patients) * _N_BINS
    sums = [np.bincount(cell, weights=weights, minlength=size) for weights in (None, predicted, outcome)]
    return np.concatenate([column.reshape(-1, _N_BINS).astype(np.float64) for column in sums], axis=1)


def _chance_error(probability: NDArray[np.float64], place: NDArray[np.int64], seed: int) -> float:
    """Return the mean error of a perfectly calibrated model: labels drawn with the predicted probabilities."""
    if not len(probability):
        return float("nan")
    # Simulated: the mean of absolute errors over bins has no closed form.
    rng = np.random.default_rng(seed)
    predicted = np.bincount(place, weights=probability, minlength=_N_BINS)
    errors = []
    for _ in range(_SIMULATIONS):
        tumor = np.bincount(place[rng.random(len(probability)) < probability], minlength=_N_BINS)
        errors.append(np.abs(predicted - tumor).sum() / len(probability))
    return float(np.mean(errors))


def _mean(values: NDArray[Any]) -> float:
    """Return the mean; NaN of an empty array."""
    return float(np.mean(values)) if len(values) else float("nan")
