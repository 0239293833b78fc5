"""Dependence of a probability on the tissue fraction, with answers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pathopatch.evaluation.tissue_dependence import (
    _moments,
    _rank_correlations,
    _slopes,
    rank_correlation,
    slope,
    tissue_dependence,
)
from pathopatch.metrics import bootstrap_by_patient


def test_slope_of_a_line_is_its_slope() -> None:
    x = np.array([0.1, 0.4, 0.8])
    assert slope(x, 0.2 + 0.5 * x) == pytest.approx(0.5)
    assert slope(np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 0, 1])) == pytest.approx(0.2)


def test_slope_without_two_fractions_is_unknown() -> None:
    assert math.isnan(slope(np.array([0.5, 0.5]), np.array([0.1, 0.9])))
    assert math.isnan(slope(np.array([0.5]), np.array([0.1])))


def test_rank_correlation_sees_order_only_and_shares_ties() -> None:
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 10, 11])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([9.0, 5, 1])) == pytest.approx(-1)
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: covariance 4.5, variances 4.5 and 5.
    tied = rank_correlation(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_rank_correlation_with_a_constant_is_unknown() -> None:
    assert math.isnan(rank_correlation(np.array([1.0, 2, 3]), np.array([4.0, 4, 4])))


def test_classes_are_looked_at_apart() -> None:
    # Between the classes the probability rises with tissue; within non-tumour it is flat, within tumour it falls.
    fraction = np.array([0.0, 0.1, 0.2, 0.7, 0.8, 0.9])
    probability = np.array([0.1, 0.1, 0.1, 0.9, 0.8, 0.7])
    label = np.array([0, 0, 0, 1, 1, 1])
    non_tumor, tumor = tissue_dependence(probability, fraction, label, np.array(list("ababab")), resamples=20)
    assert non_tumor["slope"] == pytest.approx(0, abs=1e-12)
    assert tumor["slope"] == pytest.approx(-1)
    assert tumor["spearman"] == pytest.approx(-1)
    assert (non_tumor["n"], tumor["patients"]) == (3, 2)


def test_a_missing_class_has_no_numbers() -> None:
    rows = tissue_dependence(np.array([0.2, 0.4]), np.array([0.1, 0.3]), np.array([0, 0]), np.array(["a", "b"]))
    assert rows[1]["n"] == 0
    assert math.isnan(rows[1]["slope"])


def test_summed_moments_give_slope_and_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    x, patient = rng.integers(0, 20, 300) / 20, rng.integers(0, 8, 300)
    p = np.clip(0.3 + 0.4 * x + rng.normal(0, 0.2, 300), 0, 1)
    total = _moments(x, p, patient).sum(axis=0, keepdims=True)
    assert _slopes(total)[0] == pytest.approx(slope(x, p))
    assert _rank_correlations(total)[0] == pytest.approx(rank_correlation(x, p))
    dependence = tissue_dependence(p, x, np.ones(300, dtype=int), patient, resamples=200, seed=5)[1]
    by_hand = bootstrap_by_patient(lambda i: slope(x[i], p[i]), patient, resamples=200, seed=5)
    assert (dependence["slope_low"], dependence["slope_high"]) == pytest.approx(by_hand)
    assert dependence["spearman_low"] < dependence["spearman"] < dependence["spearman_high"]


def test_moments_of_one_fraction_have_no_slope() -> None:
    sums = _moments(np.full(5, 0.3), np.linspace(0, 1, 5), np.arange(5)).sum(axis=0, keepdims=True)
    assert math.isnan(_slopes(sums)[0])
    assert math.isnan(_rank_correlations(sums)[0])
