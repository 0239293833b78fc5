"""The interval of a worst-group accuracy: by patient, by hand where that can be done."""

import math

import numpy as np
import pytest

from pathopatch.metrics import bootstrap_by_patient
from pathopatch.training.selection import accuracies_with_intervals


def test_two_patients_alike_have_an_interval_of_no_width() -> None:
    group = np.array([0, 0, 2, 2] * 2)  # group 1 has no patch and takes no part
    right = np.array([True, False, True, True] * 2)
    found = accuracies_with_intervals(right, group, np.repeat(["a", "b"], 4), resamples=50)
    assert found == {
        "wga": 0.5, "wga_low": 0.5, "wga_high": 0.5, "gba": 0.75, "gba_low": 0.75, "gba_high": 0.75,
    }  # fmt: skip


def test_patients_who_differ_are_drawn_as_a_whole() -> None:
    group = np.array([0, 1] * 2)
    right = np.array([True, True, False, False])
    found = accuracies_with_intervals(right, group, np.array(["a", "a", "b", "b"]), resamples=400)
    # a alone (a quarter of the draws) gives 1, b alone 0
    assert (found["wga"], found["wga_low"], found["wga_high"]) == (0.5, 0.0, 1.0)


def test_it_is_the_percentile_bootstrap_by_patient() -> None:
    rng = np.random.default_rng(0)
    group, patient = rng.integers(4, size=600), rng.integers(30, size=600)
    right = rng.random(600) < 0.6 + 0.1 * group
    found = accuracies_with_intervals(right, group, patient, resamples=4000)

    def worst(index: np.ndarray) -> float:
        return min(right[index][group[index] == g].mean() for g in range(4))

    low, high = bootstrap_by_patient(worst, patient, resamples=4000, seed=1)
    assert found["wga_low"] == pytest.approx(low, abs=0.01)
    assert found["wga_high"] == pytest.approx(high, abs=0.01)


@pytest.mark.parametrize(("patients", "resamples"), [(1, 100), (2, 0)])
def test_one_patient_or_no_draw_gives_no_interval(patients: int, resamples: int) -> None:
    found = accuracies_with_intervals(
        np.array([True, False]), np.array([0, 0]), np.arange(2) % patients, resamples=resamples
    )
    assert found["wga"] == 0.5
    assert math.isnan(found["wga_low"])
    assert math.isnan(found["gba_high"])


def test_draws_that_miss_a_group_do_not_count() -> None:
    found = accuracies_with_intervals(
        np.array([True, False]), np.array([0, 1]), np.array(["a", "b"]), resamples=200
    )  # only draws of both patients hold both groups
    assert (found["wga_low"], found["wga_high"], found["gba_low"]) == (0.0, 0.0, 0.5)
