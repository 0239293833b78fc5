"""Decision threshold and temperature of logits, both from validation and stored in the bundle."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_patches import small_config, toy, write_work
from pydantic import ValidationError

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.metrics import auroc
from pathopatch.metrics.intervals import score_interval, share_interval, worst_interval
from pathopatch.models.loading import load_model
from pathopatch.training.fit import fit_arrays
from pathopatch.training.run import fit
from pathopatch.training.selection import (
    TEMPERATURES,
    accuracies_with_intervals,
    best_temperature,
    check_validation,
    choose_threshold,
    criterion,
    nll,
    sample_each_group,
    score,
)

VAL = toy([[2, 2], [2, 2]], seed=0, side=8)
FOUR = replace(VAL.rows(np.arange(4)), label=np.array([0, 0, 1, 1]), attribute=np.array([0, 1, 0, 1]))
MARGIN = np.array([1.0, 2.0, 3.0, 4.0])
LOGITS = np.stack([np.zeros(4), MARGIN], axis=1)
_config = partial(small_config, learning_rate=3e-3)


def test_patches_that_are_without_an_answer_count_as_wrong_and_move_no_temperature():
    eight = VAL.rows(np.tile(np.arange(4), 2))
    eight = replace(eight, label=np.array([0, 0, 1, 1] * 2), attribute=np.array([0, 1, 0, 1] * 2))
    logits, judged = np.tile(LOGITS, (2, 1)), np.arange(8) != 7
    choice = choose_threshold(logits, eight, tune_threshold=True, answered=judged)
    assert choice.threshold == 2.5
    assert choice.validation["accuracy of label 1, attribute 1"] == choice.validation["wga"] == 0.5
    assert choice.validation["n of label 1, attribute 1"] == 2
    own = logits[judged], eight.label[judged]
    assert choice.temperature == best_temperature(*own)
    held = choose_threshold(logits, eight, tune_threshold=True, sensitivity=0.9, answered=judged)
    assert 2 < held.threshold < 3  # all tumour that is judged, and not one below it
    measures = criterion(
        logits, eight.label, eight.attribute, eight.tissue_fraction, tune_threshold=True, answered=judged
    )
    assert (measures["wga"], measures["wga_at_zero"], measures["nll"]) == (0.5, 0.0, nll(*own))
    assert criterion(logits, eight.label, eight.attribute, eight.tissue_fraction, tune_threshold=True)["wga"] == 1


def test_the_intervals_are_by_patient_at_the_threshold_that_is_chosen():
    of_six = VAL.rows(np.tile(np.arange(4), 6))
    of_six = replace(of_six, label=np.array([0, 0, 1, 1] * 6), attribute=np.array([0, 1, 0, 1] * 6))
    of_six = replace(of_six, patient=np.repeat(np.arange(6), 4))  # three are all right, three all wrong
    logits = np.stack([np.zeros(24), np.repeat([1.0, -1.0], 12) * np.array([-1.0, -1, 1, 1] * 6)], axis=1)
    validation = choose_threshold(logits, of_six, tune_threshold=False).validation
    assert (validation["wga"], validation["gba"], validation["patients"]) == (0.5, 0.5, 6)
    # Of patients: six samples of a half, with a variance of 0.25 / 5.
    assert (validation["gba_low"], validation["gba_high"]) == pytest.approx(score_interval(0.5, 0.25 / 5, 6))
    assert validation["wga_low"] == pytest.approx(validation["gba_low"])


def test_the_threshold_at_a_fixed_sensitivity_and_its_name():
    choice = choose_threshold(LOGITS, FOUR, tune_threshold=True, sensitivity=0.5)
    assert (choice.threshold, choice.chosen_for) == (3.5, "sensitivity 0.5")
    assert choice.validation["accuracy of label 1, attribute 0"] == 0.0


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


def test_faultless_validation_gives_the_lowest_temperature_of_the_range():
    label = np.array([1, 0])
    assert best_temperature(np.array([[0.0, 3.0], [3.0, 0.0]]), label) == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert best_temperature(np.array([[0.0, 3000.0], [3000.0, 0.0]]), label) == 1.0


def test_the_threshold_is_of_the_best_wga_and_temperature_changes_no_decision_and_lowers_the_likelihood_loss():
    choice = choose_threshold(LOGITS, FOUR, tune_threshold=True)
    assert choice.temperature != 1.0
    assert choice.validation["nll"] < choice.validation["nll_at_one"] == nll(LOGITS, FOUR.label)
    assert (choice.threshold, choice.chosen_for) == (2.5, "wga")  # as of the logits themselves
    assert (choice.validation["wga"], choice.validation["wga_at_zero"]) == (1.0, 0.0)


def test_threshold_and_temperature_are_stored_and_applied(tmp_path):
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


def test_a_group_without_a_patch_takes_no_part_in_intervals() -> None:
    rng = np.random.default_rng(0)
    group, patient = rng.choice([0, 2, 3], size=600), rng.integers(30, size=600)
    right = rng.random(600) < 0.6 + 0.1 * group
    hits, n = (
        np.stack([np.bincount(patient[part & (group == g)], minlength=30) for g in (0, 2, 3)], axis=1)
        for part in (right, np.ones(600, bool))
    )
    intervals = accuracies_with_intervals(right, group, patient)
    assert (intervals["wga_low"], intervals["wga_high"]) == worst_interval(hits, n)
    assert (intervals["gba_low"], intervals["gba_high"]) == share_interval(hits, n)


def test_the_higher_wga_wins_then_the_higher_gba_then_the_likelihood():
    rows = [(0.6, 0.9, 0.1), (0.7, 0.8, 0.1), (0.7, 0.85, 0.2), (0.7, 0.85, 0.1)]
    a, b, c, d = ({"wga": wga, "gba": gba, "nll": nll} for wga, gba, nll in rows)
    assert score(d, "wga") > score(c, "wga") > score(b, "wga") > score(a, "wga")
    assert score(a, "gba") > score(d, "gba")


def test_a_validation_pass_takes_small_groups_whole():
    patches = toy([[30, 4], [5, 31]], seed=2, side=8)
    chosen = sample_each_group(patches, per_group=10)
    group = 2 * patches.label[chosen] + patches.attribute[chosen]
    assert np.bincount(group).tolist() == [10, 4, 5, 10]
    assert len(set(chosen.tolist())) == len(chosen)


def test_no_validation_at_all_is_refused_unless_the_last_step_is_wanted():
    with pytest.raises(GroupEmptyError, match="no labelled validation patches"):
        check_validation(None, needs_groups=False)


def test_checkpoints_are_compared_at_the_threshold_that_is_reported():
    # A biased network ranks patches perfectly, but puts all above 0; a fair one is right at 0 for three of four.
    biased, fair = MARGIN, np.array([-1.0, 1.0, 2.0, 3.0])
    measures = [
        criterion(np.stack([0 * z, z], axis=1), FOUR.label, FOUR.attribute, FOUR.tissue_fraction, tune_threshold=tune)
        for tune in (True, False)
        for z in (biased, fair)
    ]
    assert [(row["wga"], row["wga_at_zero"]) for row in measures] == [(1, 0), (1, 0), (0, 0), (0, 0)]
    assert score(measures[2], "wga") < score(measures[3], "wga")  # by GBA
    assert measures[0]["gba"] == measures[1]["gba"] == 1
    assert (score(measures[0], "wga") < score(measures[1], "wga")) == (measures[0]["nll"] > measures[1]["nll"])


def test_equal_area_compares_checkpoints_without_a_threshold():
    # At either area the biased network ranks one pair right, the fair one both; an offset by area moves neither.
    area = np.array([0.2, 0.8, 0.2, 0.8])
    biased, fair = np.array([-1.0, 3.0, 1.0, 2.0]), np.array([-3.0, 1.0, -2.0, 2.0])
    rows = [
        criterion(np.stack([0 * z, z], axis=1), FOUR.label, FOUR.attribute, area, tune_threshold=False)
        for z in (biased, fair)
    ]
    assert [row["equal_area"] for row in rows] == [0.5, 1]
    assert score(rows[0], "equal_area") < score(rows[1], "equal_area")
    judged = np.array([True, True, False, True])
    logits = np.stack([0 * fair, fair], axis=1)
    choice = choose_threshold(logits, replace(FOUR, tissue_fraction=area), tune_threshold=True, answered=judged)
    assert choice.validation["equal_area"] == 0.5  # the tumour patch without an answer loses its pair


def test_selection_at_equal_area_without_a_pair_is_refused():
    apart = replace(FOUR, tissue_fraction=np.array([0.1, 0.2, 0.8, 0.9]))
    check_validation(apart, needs_groups=True)
    for patches in (apart, replace(FOUR, tissue_fraction=np.full(4, np.nan))):
        with pytest.raises(InputUnsupportedError, match="no tumour and non-tumour patch"):
            check_validation(patches, needs_groups=True, select="equal_area")
    assert "equal_area" not in choose_threshold(LOGITS, apart, tune_threshold=True).validation


def test_the_checkpoint_is_picked_at_equal_area():
    patches = toy([[8, 8], [8, 8]], seed=3, side=8)
    patches = replace(patches, tissue_fraction=np.where(patches.attribute == 1, 0.8, 0.2))
    fitted = fit_arrays(patches, patches, _config(method="erm", select="equal_area", steps=6, evaluations=6))
    best = max(fitted.history, key=lambda row: (row["val_equal_area"], row["val_gba"], -row["val_nll"], -row["step"]))
    assert fitted.step == best["step"]
    margin = np.diff(fitted.logits(patches))[:, 0]
    by_area = [
        auroc(margin[chosen], patches.label[chosen]) for chosen in (patches.attribute == 0, patches.attribute == 1)
    ]
    assert best["val_equal_area"] == fitted.validation["equal_area"] == pytest.approx(np.mean(by_area))


def test_the_criterion_of_a_phase_that_prepares_another_is_at_zero():
    measures = criterion(LOGITS, FOUR.label, FOUR.attribute, FOUR.tissue_fraction, tune_threshold=True)
    assert (measures["wga"], measures["cba"]) == (1.0, 0.5)
