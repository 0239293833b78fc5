"""Calibration with answers by hand or by a law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pathopatch.evaluation.calibration import calibration, reliability

RNG = np.random.default_rng(0)


def test_the_error_is_the_mean_distance_over_bins_weighted_by_patches() -> None:
    # Bin .2 to .3: said .25, came true 1 of 2. Bin .9 to 1: said .95 and 1, came true 2 of 2.
    result = reliability(np.array([0.25, 0.25, 0.95, 1.0]), np.array([0, 1, 1, 1]), np.array(list("abab")), resamples=0)
    assert result["ece"] == pytest.approx((2 * 0.25 + 2 * 0.025) / 4)
    assert not {"ece_low", "ece_high"} & set(result)  # an interval by resampling would seldom hold it
    assert (result["bins"][2]["n"], result["bins"][2]["tumor_share"]) == (2, 0.5)
    assert result["bins"][9]["mean_probability"] == pytest.approx(0.975)
    assert np.isnan(result["bins"][0]["tumor_share"])
    assert result["brier"] == pytest.approx((0.25**2 + 0.75**2 + 0.05**2) / 4)
    assert sum(row["n"] for row in result["bins"]) == 4


def test_a_calibrated_model_shows_what_chance_alone_shows() -> None:
    probability = RNG.random(2000)
    label = (RNG.random(2000) < probability).astype(int)
    result = reliability(probability, label, np.arange(2000), resamples=0)
    assert result["ece"] == pytest.approx(result["ece_if_calibrated"], abs=0.012)
    assert 0.005 < result["ece_if_calibrated"] < 0.03
    sure = reliability(np.where(probability > 0.5, 0.99, 0.01), label, np.arange(2000), resamples=0)
    assert sure["ece"] > 0.2


def test_the_interval_of_a_bin_counts_patients_not_patches() -> None:
    probability, patient = np.full(400, 0.55), np.repeat(np.arange(4), 100)
    label = np.repeat([0, 0, 1, 1], 100)
    row = reliability(probability, label, patient, resamples=300)["bins"][5]
    assert (row["tumor_share_low"], row["tumor_share_high"]) == (0, 1)


def test_no_patch_has_no_calibration() -> None:
    assert np.isnan(reliability(np.empty(0), np.empty(0, dtype=int), np.empty(0), resamples=10)["ece"])


def predicted(temperature: float) -> pd.DataFrame:
    """Logits that are twice too large for their labels, in two groups of tissue."""
    logit = RNG.normal(0, 4, 3000)
    label = (RNG.random(3000) < 1 / (1 + np.exp(-logit / 2))).astype(int)
    attribute = RNG.integers(0, 2, 3000)
    table = pd.DataFrame({"label": label, "logit": logit, "group@0.5": 2 * label + attribute})
    return table.assign(probability=1 / (1 + np.exp(-logit / temperature)))


def test_the_right_temperature_mends_overconfidence_at_each_attribute() -> None:
    result = calibration(predicted(2.0), np.arange(3000), resamples=0)
    for a in (0, 1):
        before, after = (result[kind]["thresholds"]["0.5"]["attributes"][a] for kind in ("before", "after"))
        assert before["ece"] > 0.06
        assert after["ece"] < 0.04
        assert after["nll"] < before["nll"]


def test_without_a_temperature_there_is_no_after() -> None:
    assert list(calibration(predicted(1.0), np.arange(3000), resamples=0)) == ["before"]


def test_logits_beyond_the_range_of_exp_are_probabilities_0_and_1() -> None:
    table = pd.DataFrame({"label": [0, 1], "logit": [-1e4, 1e4], "probability": [0.0, 1.0], "group@0.5": [0, 3]})
    result = calibration(table, np.array(["a", "b"]), resamples=0)
    assert set(result) == {"before"}
    assert result["before"]["all"]["ece"] == 0
