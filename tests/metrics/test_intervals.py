"""Intervals of few patients: closed forms, laws, and the cases in which percentiles of draws have no width."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t, ttest_1samp

from pathopatch.metrics.bootstrap import auroc_draws
from pathopatch.metrics.equal_area import equal_area_draws
from pathopatch.metrics.intervals import (
    difference_interval,
    mann_whitney_interval,
    over_repetitions,
    p_of_interval,
    rank_interval,
    score_interval,
    share_interval,
    t_quantile,
    worst_difference_interval,
    worst_interval,
)


@pytest.mark.parametrize("df", [1, 2, 3, 5.5, 12, 300, 9e4, 1e6])
@pytest.mark.parametrize("tail", [0.025, 0.025 / 4])
def test_quantiles_of_students_t_are_scipys(tail: float, df: float) -> None:
    assert t_quantile(tail, df) == pytest.approx(t.isf(tail, df), rel=1e-5)


def test_with_many_units_a_score_interval_is_wilsons() -> None:
    wilson = binomtest(70, 100).proportion_ci(method="wilson")
    assert score_interval(0.7, 0.7 * 0.3 / 100, 1e7) == pytest.approx([wilson.low, wilson.high], abs=1e-5)


def test_with_few_units_a_score_interval_takes_students_t() -> None:
    z = t.ppf(0.975, 4)
    low, high = score_interval(0.7, 0.7 * 0.3 / 100, 5)
    for end in (low, high):  # the law of a score interval: the value lies z standard errors of the end away
        assert abs(0.7 - end) == pytest.approx(z * np.sqrt(end * (1 - end) / 100))


def test_all_right_counts_each_patient_as_one_sample() -> None:
    hits = np.full((9, 1), 30)
    low, high = share_interval(hits, hits)
    assert (low, high) == pytest.approx((9 / (9 + t.ppf(0.975, 8) ** 2), 1))


def test_three_patients_have_no_interval() -> None:
    n = np.full((3, 2), 20)
    assert np.isnan(
        [*share_interval(n - 5, n), *worst_interval(n - 5, n), *worst_difference_interval(n - 5, n, n)]
    ).all()
    uneven = np.array([[126], [126], [128], [126]])  # effectively 3.9998 patients
    assert not np.isnan(share_interval(uneven // 2, uneven)).any()


def test_the_interval_of_the_worst_group_is_that_of_the_one_bad_group() -> None:
    rng = np.random.default_rng(0)
    n = np.full((20, 4), 30)
    hits = rng.binomial(30, [0.5, 0.99, 0.99, 0.99], (20, 4))
    assert worst_interval(hits, n) == pytest.approx(share_interval(hits[:, :1], n[:, :1]))


def test_equal_groups_widen_the_interval_of_the_worst_upwards() -> None:
    hits, n = np.tile(np.arange(11, 19)[:, None], (1, 4)), np.full((8, 4), 20)
    low, high = worst_interval(hits, n)
    of_one = share_interval(hits[:, :1], n[:, :1])
    assert low == pytest.approx(of_one[0])
    assert high > of_one[1]


def test_the_difference_of_two_methods_turns_its_sign_with_their_order() -> None:
    rng = np.random.default_rng(1)
    n = np.full((12, 4), 20)
    first, second = (rng.binomial(20, share, (12, 4)) for share in (0.8, 0.6))
    low, high = worst_difference_interval(first, second, n)
    assert 0 < low < high
    assert worst_difference_interval(second, first, n) == pytest.approx((-high, -low))


def test_the_interval_of_slides_solves_newcombes_equation() -> None:
    low, high = mann_whitney_interval(0.8, 7, 5, units=12)
    for end in (low, high):
        shape = (1 - end) / (2 - end) + end / (1 + end)
        variance = end * (1 - end) / 35 * (1 + 6 * shape)
        assert abs(0.8 - end) == pytest.approx(norm.ppf(0.975) * np.sqrt(variance), abs=2e-4)


def test_slides_wholly_apart_are_not_certain() -> None:
    low, high = mann_whitney_interval(1.0, 5, 5, units=10)
    assert (high, low) == (1, pytest.approx(0.60, abs=0.005))
    assert mann_whitney_interval(1.0, 50, 50, units=100)[0] > 0.95


def test_folds_of_slides_tell_less_than_their_pairs_together() -> None:
    together, in_folds = (mann_whitney_interval(0.8, each, each, units=40) for each in (20, [5] * 4))
    assert in_folds[0] < together[0] < together[1] < in_folds[1]


def test_one_unit_of_a_label_gives_no_interval() -> None:
    assert np.isnan(mann_whitney_interval(0.9, 1, 9, units=10)).all()
    assert np.isnan(mann_whitney_interval(0.9, 2, 2, units=2)).all()  # two blocks with slides of both labels
    unit, label = np.repeat(list("aabcdef"), 10), np.repeat([1, 0], [10, 60])
    score = np.random.default_rng(0).random(70) + label
    draws = auroc_draws(score, label, unit)
    assert np.isnan(rank_interval(0.9, draws, unit, label)).all()
    unit[:5] = "g"  # of two units
    assert not np.isnan(rank_interval(0.9, draws, unit, label)).any()


def test_a_perfect_ranking_of_patches_is_not_certain() -> None:
    label = np.tile([0, 1], 60)
    unit = np.arange(120) // 10
    draws = equal_area_draws(label, label, np.full(120, 0.5), unit)
    low, high = rank_interval(1.0, draws, unit, label)
    assert (low, high) == pytest.approx((12 / (12 + t.ppf(0.975, 11) ** 2), 1))


def test_a_difference_of_ranks_has_students_t() -> None:
    draws = np.random.default_rng(0).normal(0.1, 0.02, 200_000)
    low, high = difference_interval(0.1, draws, 9)
    assert (low + high) / 2 == pytest.approx(0.1)
    assert high - low == pytest.approx(2 * t.ppf(0.975, 8) * 0.02 * np.sqrt(9 / 8), rel=0.01)


def test_without_spread_over_patients_repetitions_have_students_t() -> None:
    values = np.array([0.1, 0.2, 0.3])
    mean, low, high = over_repetitions(values, np.stack([values, values], axis=1))
    due = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((0.2, due.low, due.high))


def test_equal_repetitions_keep_the_ends_over_patients() -> None:
    assert over_repetitions(np.full(3, 0.1), np.array([[-0.1, 0.4]] * 3)) == pytest.approx((0.1, -0.1, 0.4))


@pytest.mark.parametrize("sign", [1, -1])
def test_p_is_5_percent_where_the_interval_ends_at_0(sign: int) -> None:
    assert p_of_interval(sign * 0.1, *sorted((0, sign * 0.3))) == pytest.approx(0.05)
