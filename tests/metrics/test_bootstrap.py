"""The bootstrap draws whole patients, and resampled sums equal the general bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pathopatch.metrics import bootstrap
from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import (
    auroc_draws,
    bootstrap_by_patient,
    effective_count,
    interval,
    ratio,
    resampled,
    sums_by_patient,
)

RNG = np.random.default_rng(0)
PATIENT = RNG.integers(0, 9, 200).astype(str)
VALUE = RNG.random(200)


def test_the_interval_of_a_mean_is_that_of_the_general_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = sums_by_patient(np.stack([VALUE, np.ones(200)], axis=1), PATIENT)
    general = bootstrap_by_patient(lambda index: float(VALUE[index].mean()), PATIENT, resamples=300, seed=4)
    for chunk_draws in (2**22, 9 * 7):
        monkeypatch.setattr(bootstrap, "_CHUNK_DRAWS", chunk_draws)
        draws = resampled(sums, resamples=300, seed=4)
        assert interval(ratio(draws[:, 0], draws[:, 1])) == pytest.approx(general)


@pytest.mark.parametrize("resamples", [300, 0])
def test_the_auroc_in_draws_is_that_of_the_general_bootstrap(resamples: int) -> None:
    score, label = RNG.integers(0, 12, 200) / 12, RNG.integers(0, 2, 200)
    general = bootstrap_by_patient(lambda rows: auroc(score[rows], label[rows]), PATIENT, resamples=resamples, seed=4)
    drawn = auroc_draws(score, label, PATIENT, resamples=resamples, seed=4)
    assert interval(drawn) == pytest.approx(general, nan_ok=True)


def test_one_patient_or_no_resample_has_no_interval() -> None:
    assert len(resampled(np.ones((1, 3)), resamples=100, seed=0)) == 0
    assert auroc_draws([0, 1], [0, 1], ["a", "a"], resamples=100).size == 0
    assert np.isnan(interval(np.full(5, np.nan))).all()
    for patient, resamples in (([], 10), (["a", "a", "a"], 10), (["a", "b"], 0)):
        assert np.isnan(bootstrap_by_patient(lambda rows: 1.0, patient, resamples=resamples, seed=0)).all()


def test_the_bootstrap_draws_whole_patients() -> None:
    patient = np.array(["a", "b", "a", "c", "b"])
    seen: list[tuple[int, ...]] = []

    def record(indices: np.ndarray) -> float:
        seen.append(tuple(np.bincount(indices, minlength=5)))
        return 0.0

    assert bootstrap_by_patient(record, patient, resamples=50, seed=0) == (0.0, 0.0)
    assert len(seen) == 50
    for a, b, a2, c, b2 in seen:
        assert (a, b) == (a2, b2)
        assert a + b + c == 3
    assert len(set(seen)) > 3


def test_the_bootstrap_of_two_patients_spans_both() -> None:
    value = np.array([0.0, 1.0, 1.0])
    low, high = bootstrap_by_patient(lambda rows: float(value[rows].mean()), ["a", "b", "b"], resamples=400, seed=0)
    assert (low, high) == (0.0, 1.0)  # each has a quarter of the draws for itself


def test_the_bootstrap_interval_of_a_mean_has_its_textbook_width() -> None:
    value = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_by_patient(lambda r: float(value[r].mean()), np.arange(400), resamples=2000, seed=1)
    half_width = 1.96 * value.std() / 20
    assert low == pytest.approx(value.mean() - half_width, abs=0.02)
    assert high == pytest.approx(value.mean() + half_width, abs=0.02)


def test_the_bootstrap_is_fixed_by_its_seed() -> None:
    value = np.random.default_rng(0).normal(size=20)
    first, again, other = (
        bootstrap_by_patient(lambda r: float(value[r].mean()), np.arange(20), resamples=50, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_nan_draws_are_left_out_of_the_bootstrap() -> None:
    def only_with_b(rows: np.ndarray) -> float:
        return 1.0 if (rows == 1).any() else math.nan

    assert bootstrap_by_patient(only_with_b, ["a", "b"], resamples=100, seed=0) == (1.0, 1.0)
    low, high = bootstrap_by_patient(lambda rows: math.nan, ["a", "b"], resamples=10, seed=0)
    assert math.isnan(low)
    assert math.isnan(high)


def test_one_patient_with_nearly_all_samples_counts_as_hardly_more_than_one() -> None:
    assert effective_count(["a", "b", "c", "d"] * 5) == pytest.approx(4)
    assert effective_count(["a"] * 153 + list("bcdefgh")) == pytest.approx(160**2 / (153**2 + 7))
    assert effective_count([]) == 0
