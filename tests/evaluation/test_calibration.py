"""Calibration with answers by hand or by a law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pathopatch.evaluation.calibration import reliability, reliability_by_attribute
from pathopatch.groups import TissueThreshold

RNG = np.random.default_rng(0)


def test_a_bin_has_its_mean_probability_and_its_share_of_tumour() -> None:
    # Bin .2 to .3: said .25, came true 1 of 2. Bin .9 to 1: said .95 and 1, came true 2 of 2.
    bins = reliability(np.array([0.25, 0.25, 0.95, 1.0]), np.array([0, 1, 1, 1]), np.array(list("abab")))
    assert (bins[2]["n"], bins[2]["tumor_share"]) == (2, 0.5)
    assert (bins[9]["mean_probability"], bins[9]["tumor_share"]) == (pytest.approx(0.975), 1)
    assert np.isnan(bins[0]["tumor_share"])
    assert sum(row["n"] for row in bins) == 4


def test_the_interval_of_a_bin_counts_patients_not_patches() -> None:
    probability, patient = np.full(400, 0.55), np.repeat(np.arange(4), 100)
    label = np.repeat([0, 0, 1, 1], 100)
    row = reliability(probability, label, patient)[5]
    by_patch = reliability(probability, label, np.arange(400))[5]
    assert row["tumor_share_low"] < 0.1 < 0.4 < by_patch["tumor_share_low"]


def test_no_patch_has_no_calibration() -> None:
    bins = reliability(np.empty(0), np.empty(0, dtype=int), np.empty(0))
    assert [row["n"] for row in bins] == [0] * 10
    assert np.isnan([row["tumor_share"] for row in bins]).all()


def test_the_right_temperature_calibrates_at_each_attribute() -> None:
    logit = RNG.normal(0, 4, 3000)
    label = (RNG.random(3000) < 1 / (1 + np.exp(-logit / 2))).astype(int)
    table = pd.DataFrame({"label": label, "group@0.5": 2 * label + RNG.integers(0, 2, 3000)})

    def error(temperature: float, value: int) -> float:
        predicted = table.assign(probability=1 / (1 + np.exp(-logit / temperature)))
        bins = reliability_by_attribute(predicted, np.arange(3000), TissueThreshold(0.5))[value]
        return sum(row["n"] * abs(row["mean_probability"] - row["tumor_share"]) for row in bins) / sum(
            row["n"] for row in bins
        )

    for value in (0, 1):
        assert error(1.0, value) > 0.06
        assert error(2.0, value) < 0.04
