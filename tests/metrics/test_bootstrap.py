"""Resampled sums are the resamples of the general bootstrap, only sooner."""

from __future__ import annotations

import numpy as np
import pytest

from pathopatch.metrics import bootstrap as resampling
from pathopatch.metrics.accuracy import auroc, bootstrap_by_patient
from pathopatch.metrics.bootstrap import auroc_of, interval, ratio, resampled, sums_by_patient

RNG = np.random.default_rng(0)
PATIENT = RNG.integers(0, 9, 200).astype(str)
VALUE = RNG.random(200)


def test_the_interval_of_a_mean_is_that_of_the_general_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = sums_by_patient(np.stack([VALUE, np.ones(200)], axis=1), PATIENT)
    general = bootstrap_by_patient(lambda index: float(VALUE[index].mean()), PATIENT, resamples=300, seed=4)
    for at_once in (2**22, 9 * 7):
        monkeypatch.setattr(resampling, "_AT_ONCE", at_once)
        draws = resampled(sums, resamples=300, seed=4)
        assert interval(ratio(draws[:, 0], draws[:, 1])) == pytest.approx(general)


def test_the_area_of_a_resample_is_that_of_the_general_one() -> None:
    score, label = RNG.integers(0, 12, 200) / 12, RNG.integers(0, 2, 200)
    index = RNG.integers(0, 200, 500)
    assert auroc_of(score, label)(index) == pytest.approx(auroc(score[index], label[index]))
    assert np.isnan(auroc_of(score, label)(np.flatnonzero(label == 1)))


def test_one_patient_has_no_interval() -> None:
    assert len(resampled(np.ones((1, 3)), resamples=100, seed=0)) == 0
    assert np.isnan(interval(np.full(5, np.nan))).all()
