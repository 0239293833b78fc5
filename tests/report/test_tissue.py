"""Slides to look at first: uncertain ones, those without tissue, and outliers of the cohort."""

from __future__ import annotations

import numpy as np
import pytest

from pathopatch.report.tissue import TissueFacts, cohort_outliers, with_outliers

NAN = np.nan


@pytest.mark.parametrize(
    ("values", "due"),
    [
        # Median 5, distances 4 3 2 1 0 1 2 3 4 (their median 2): above 3.5 * 1.4826 * 2 = 10.38 is an outlier.
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], []),
        ([1, 2, 3, 4, 5, 6, 7, 8, 15.3], []),
        ([1, 2, 3, 4, 5, 6, 7, 8, 15.4], [8]),
        ([1, 2, 3, 4, 5, 6, 7, 8, -99], [8]),
    ],
)
def test_a_value_is_an_outlier_above_three_and_a_half_robust_spreads(values: list[float], due: list[int]) -> None:
    assert np.flatnonzero(cohort_outliers(np.array(values, float), least_spread=0.0)).tolist() == due


def test_the_least_spread_keeps_equal_cohorts_free_of_outliers() -> None:
    values = np.array([0.5] * 9 + [0.569, 0.571])
    assert cohort_outliers(values, least_spread=0.02).tolist() == [False] * 10 + [True]  # 3.5 * 0.02 = 0.07


def test_fewer_than_eight_known_values_have_no_outlier_and_nan_is_none() -> None:
    values = np.array([0.5] * 7 + [99.0])
    assert cohort_outliers(values, least_spread=0.02).sum() == 1
    assert not cohort_outliers(values[1:], least_spread=0.02).any()
    assert not cohort_outliers(np.array([NAN, *values[1:]]), least_spread=0.02).any()
    assert cohort_outliers(np.array([NAN, *values]), least_spread=0.02).tolist() == [False] * 8 + [True]
    assert cohort_outliers(np.array([]), least_spread=0.02).tolist() == []


def test_an_outlier_says_its_value_and_the_median_after_its_own_reasons() -> None:
    facts = [TissueFacts(slide_id=f"s{n}", share=0.4, background_level=0.9) for n in range(8)]
    facts.append(TissueFacts(slide_id="odd", share=0.9, background_level=0.1, reasons=("uncertain",)))
    checked = with_outliers(facts)
    assert [slide_facts.reasons for slide_facts in checked[:8]] == [()] * 8
    assert checked[8].reasons == (
        "uncertain",
        "tissue share 90.0%, median of the cohort 40.0%",
        "background level 10.0%, median of the cohort 90.0%",
    )
