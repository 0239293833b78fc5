"""How logits are read: the decision threshold and the temperature, both from validation and stored in the bundle."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_patches import toy, write_work
from pydantic import ValidationError

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.models.bundle import load_model
from pathopatch.training.fit import fit_arrays
from pathopatch.training.run import fit
from pathopatch.training.selection import TEMPERATURES, best_temperature, choose_threshold, nll

VAL = toy([[2, 2], [2, 2]], seed=0, side=8)
FOUR = replace(VAL.rows(np.arange(4)), label=np.array([0, 0, 1, 1]), attribute=np.array([0, 1, 0, 1]))
MARGIN = np.array([1.0, 2.0, 3.0, 4.0])
LOGITS = np.stack([np.zeros(4), MARGIN], axis=1)


def _config(**changes):
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1, "learning_rate": 3e-3}
    return TrainConfig(**{**small, **changes})


def test_the_threshold_of_the_best_wga_and_what_zero_would_give():
    found = choose_threshold(LOGITS, FOUR, tune_threshold=True)
    assert (found.threshold, found.chosen_for) == (2.5, "wga")
    assert (found.validation["wga"], found.validation["wga_at_zero"]) == (1.0, 0.0)


def test_the_intervals_are_by_patient_at_the_threshold_that_is_chosen():
    eight = VAL.rows(np.tile(np.arange(4), 2))
    of_two = replace(eight, label=np.array([0, 0, 1, 1] * 2), attribute=np.array([0, 1, 0, 1] * 2))
    of_two = replace(of_two, patient=np.repeat(["all right", "all wrong"], 4))
    logits = np.stack([np.zeros(8), np.array([-1.0, -1, 1, 1, 1, 1, -1, -1])], axis=1)
    found = choose_threshold(logits, of_two, tune_threshold=False).validation
    # one patient alone, a quarter of the draws each, gives 1 or 0
    assert (found["wga"], found["wga_low"], found["wga_high"], found["patients"]) == (0.5, 0.0, 1.0, 2)
    assert (found["gba_low"], found["gba_high"]) == (0.0, 1.0)
    alone = choose_threshold(logits, replace(of_two, patient=np.repeat("one", 8)), tune_threshold=False).validation
    assert np.isnan(alone["wga_low"])


def test_the_threshold_at_a_fixed_sensitivity_and_its_name():
    found = choose_threshold(LOGITS, FOUR, tune_threshold=True, sensitivity=0.5)
    assert (found.threshold, found.chosen_for) == (3.5, "sensitivity 0.5")
    assert found.validation["accuracy of label 1, attribute 0"] == 0.0


def test_a_threshold_that_is_not_asked_for_or_of_three_classes_is_zero():
    assert choose_threshold(LOGITS, FOUR, tune_threshold=False).chosen_for == "none"
    three = choose_threshold(np.eye(3)[[0, 1, 2, 2]], replace(FOUR, label=np.array([0, 1, 2, 2])), tune_threshold=True)
    assert (three.threshold, three.chosen_for) == (0.0, "none")


def test_a_sensitivity_needs_a_threshold_that_is_tuned():
    with pytest.raises(ValidationError, match="tune_threshold"):
        TrainConfig(sensitivity=0.9, tune_threshold=False)


@pytest.mark.parametrize(
    ("val", "changes", "reason"),
    [
        (toy([[6, 6], [6, 6], [6, 6]], seed=1), {}, "with 3 classes and 36 validation patches"),
        (None, {"select": "last"}, "with 2 classes and 0 validation patches"),
        (toy([[6, 6]], seed=1), {"select": "last"}, "no validation patch of class 1"),
    ],
)
def test_a_sensitivity_that_cannot_be_had_is_refused_before_the_first_step(val, changes, reason):
    def never(step, total, metrics):
        raise AssertionError(f"step {step} was taken")

    classes = 3 if val is not None and val.label.max() == 2 else 2
    train = toy([[8, 8]] * classes, seed=0)
    with pytest.raises((InputUnsupportedError, GroupEmptyError), match=reason):
        fit_arrays(train, val, _config(method="erm", sensitivity=0.9, **changes), progress=never)


def test_the_temperature_of_one_margin_by_hand():
    # three of four right at margin 2: sigmoid(2 / T) = 3/4, so T = 2 / log 3
    logits = np.array([[0.0, 2.0]] * 4)
    assert best_temperature(logits, np.array([1, 1, 1, 0])) == pytest.approx(2 / np.log(3), rel=1e-3)


def test_logits_drawn_at_a_temperature_give_it_back_for_three_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 3))
    probability = np.exp(logits / 2.5)
    probability /= probability.sum(axis=1, keepdims=True)
    label = (rng.random((20_000, 1)) > probability.cumsum(axis=1)).sum(axis=1)
    assert best_temperature(logits, label) == pytest.approx(2.5, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.25, 20))
def test_no_temperature_in_the_range_is_better(seed, other):
    rng = np.random.default_rng(seed)
    logits, label = rng.normal(0, 3, (30, 2)), rng.integers(0, 2, 30)
    best = best_temperature(logits, label)
    assert nll(logits / best, label) <= nll(logits / other, label) + 1e-4


def test_faultless_validation_gives_the_lowest_temperature_of_the_range_and_certain_validation_none():
    label = np.array([1, 0])
    assert best_temperature(np.array([[0.0, 3.0], [3.0, 0.0]]), label) == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert best_temperature(np.array([[0.0, 3000.0], [3000.0, 0.0]]), label) == 1.0


def test_temperature_changes_no_decision_and_lowers_the_likelihood_loss():
    found = choose_threshold(LOGITS, FOUR, tune_threshold=True)
    assert found.temperature != 1.0
    assert found.validation["nll"] < found.validation["nll_at_one"] == nll(LOGITS, FOUR.label)
    assert (found.threshold, found.validation["wga"]) == (2.5, 1.0)  # as of the logits themselves


def test_nothing_is_fitted_to_validation_that_was_trained_on():
    train = toy([[20, 5], [5, 20]], seed=0)
    config = _config(method="erm", select="last", tune_threshold=False, train_splits=("train", "val"))
    fitted = fit_arrays(train, toy([[5, 5], [5, 5]], seed=1), config)
    assert (fitted.temperature, fitted.decision_threshold) == (1.0, 0.0)
    assert fitted.validation == {}  # what it says of patches that were learnt from is no validation
    assert {row["val_wga"] for row in fitted.history} == {None}


def test_threshold_and_temperature_are_stored_with_the_model_and_applied_where_probabilities_are_formed(tmp_path):
    write_work(tmp_path)
    folder = fit(tmp_path, _config(sensitivity=0.9))
    run = json.loads((folder / "run.json").read_text())
    spec = load_model(folder / "model", device="cpu", precision="float32").spec
    assert spec.decision_chosen_for == "sensitivity 0.9"
    assert (spec.decision_threshold, spec.temperature) == (run["decision_threshold"], run["temperature"])
    assert spec.temperature != 1.0
    table = pd.read_parquet(evaluate_run(tmp_path, folder.name, device="cpu") / "predictions.parquet")
    expected = 1 / (1 + np.exp(-table["logit"] / spec.temperature))
    np.testing.assert_allclose(table["probability"], expected, atol=1e-9)
