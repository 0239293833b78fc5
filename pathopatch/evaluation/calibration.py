"""Measure calibration: of patches with a probability of 80 %, 80 of 100 should be tumour.

The probability is compared with the share of tumour among the patches of each attribute value: there both labels occur.
A model that is calibrated over all patches is still over-confident in the groups that are hard for it, and
under-confident in the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.evaluation.group_scores import with_ends
from pathopatch.groups import GroupingAttribute
from pathopatch.metrics.bootstrap import ratio, sums_by_patient
from pathopatch.metrics.intervals import share_interval

_N_BINS = 10  # of equal width, over probabilities from 0 to 1


def reliability(
    probability: NDArray[np.float64], label: NDArray[np.int64], patient: NDArray[Any]
) -> list[dict[str, Any]]:
    """Return how predicted probabilities and the share of tumour (label 1) agree, by bins; arrays (N,).

    Each of ten bins has its ends `low` and `high`, `n`, `mean_probability`, and `tumor_share` with its interval by
    patient (``_low``, ``_high``). NaN without patches or with too few patients.
    """
    # A probability of 1 belongs to the last bin.
    is_in = np.minimum((probability * _N_BINS).astype(np.int64), _N_BINS - 1)[:, None] == np.arange(_N_BINS)
    values = np.concatenate([is_in, is_in * probability[:, None], is_in * label[:, None]], axis=1)
    sums = sums_by_patient(values, patient)
    n, predicted, tumor = np.split(sums.sum(axis=0), 3)
    return [
        {
            "low": number / _N_BINS,
            "high": (number + 1) / _N_BINS,
            "n": int(n[number]),
            "mean_probability": float(ratio(predicted[number], n[number])),
            **with_ends("tumor_share", float(ratio(tumor[number], n[number])), *ends),
        }
        for number in range(_N_BINS)
        if (ends := share_interval(sums[:, [2 * _N_BINS + number]], sums[:, [number]]))
    ]


def reliability_by_attribute(
    table: pd.DataFrame, patient: NDArray[Any], attribute: GroupingAttribute
) -> list[list[dict[str, Any]]]:
    """Return the `reliability` of some predictions for each value of an attribute.

    `table` has label, probability (after the temperature) and the attribute's groups; `patient` is (N,).
    """
    value = attribute.groups_in(table) % attribute.n_values
    label, probability = table["label"].to_numpy(np.int64), table["probability"].to_numpy(np.float64)
    parts = (
        (array[value == number] for array in (probability, label, patient)) for number in range(attribute.n_values)
    )
    return [reliability(*part) for part in parts]
