"""Numbers of a judged run, with answers by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.evaluation.group_scores import evaluate_logits, is_right
from pathopatch.metrics.intervals import score_interval

# Ten patches, margin > 0 means tumour. Right: group 0 3 of 4, group 1 1 of 2, group 2 1 of 1, group 3 2 of 3.
LABEL = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
ATTRIBUTE = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 1])
MARGIN = np.array([-1.0, -2, -3, 1, -1, 2, 3, 1, 2, -1])
PATIENT = np.array(["a", "b", "a", "b", "a", "b", "a", "b", "a", "b"])


def judged(**more: object) -> dict:
    return evaluate_logits(MARGIN, LABEL, ATTRIBUTE, PATIENT, resamples=50, **more)


def test_group_accuracies_and_sizes_are_those_counted_by_hand() -> None:
    groups = judged()["groups"]
    assert [row["n"] for row in groups] == [4, 2, 1, 3]
    assert [row["correct"] for row in groups] == [3, 1, 1, 2]
    assert [row["patients"] for row in groups] == [2, 2, 1, 2]
    assert [row["accuracy"] for row in groups] == pytest.approx([3 / 4, 1 / 2, 1, 2 / 3])


def test_worst_balanced_and_average_accuracy_are_those_counted_by_hand() -> None:
    numbers = judged()
    assert numbers["wga"]["value"] == pytest.approx(0.5)
    assert numbers["gba"]["value"] == pytest.approx((3 / 4 + 1 / 2 + 1 + 2 / 3) / 4)
    assert numbers["average"]["value"] == pytest.approx(7 / 10)
    assert numbers["smallest_group_n"] == 1


def test_auroc_counts_the_pairs_in_order() -> None:
    # Tumour margins 3, 1, 2, -1 against non-tumour -1, -2, -3, 1, -1, 2; ties count half.
    wins = 6 + (4 + 0.5) + (5 + 0.5) + (2 + 1)
    assert judged()["auroc"]["value"] == pytest.approx(wins / 24)


def test_wga_at_threshold_zero_is_reported_beside_that_at_its_own() -> None:
    numbers = judged(decision_threshold=2.5)
    assert [row["correct"] for row in numbers["groups"]] == [4, 2, 1, 0]
    assert numbers["wga"]["value"] == 0
    assert numbers["wga_at_zero"] == pytest.approx(0.5)
    # Margins less 2.5, as of pooled folds: the logit is 0 at -2.5.
    moved = evaluate_logits(MARGIN - 2.5, LABEL, ATTRIBUTE, PATIENT, zero=np.full(10, -2.5), resamples=0)
    assert (moved["wga"]["value"], moved["wga_at_zero"]) == (0, pytest.approx(0.5))


def test_patches_without_an_answer_are_wrong_and_lose_every_pair_of_auroc() -> None:
    answered = np.ones(10, bool)
    answered[[0, 7]] = False  # both were right, of groups 0 and 3
    numbers = judged(answered=answered)
    assert [row["accuracy"] for row in numbers["groups"]] == pytest.approx([2 / 4, 1 / 2, 1, 1 / 3])
    assert numbers["wga"]["value"] == pytest.approx(1 / 3)
    # Tumour margins 3, 2, -1 win against non-tumour -2, -3, 1, -1, 2; the other tumour and non-tumour patch never do.
    assert numbers["auroc"]["value"] == pytest.approx((5 + 4.5 + 2.5) / 24)
    assert numbers["auroc"]["answered"] == pytest.approx((5 + 4.5 + 2.5) / 15)
    assert judged()["auroc"]["answered"] == judged()["auroc"]["value"]
    table = pd.DataFrame({"logit": MARGIN, "label": LABEL, "has_answer": answered})
    assert is_right(table, 0.0).sum() == 5
    assert is_right(table.drop(columns="has_answer"), 0.0).sum() == 7


def test_a_margin_equal_to_the_threshold_is_non_tumour() -> None:
    groups = judged(decision_threshold=2.0)["groups"]
    assert [row["correct"] for row in groups] == [4, 2, 1, 0]


def test_an_empty_group_leaves_worst_and_balanced_accuracy_unknown() -> None:
    keep = ~((LABEL == 1) & (ATTRIBUTE == 0))
    numbers = evaluate_logits(MARGIN[keep], LABEL[keep], ATTRIBUTE[keep], PATIENT[keep], resamples=50)
    assert math.isnan(numbers["wga"]["value"])
    assert math.isnan(numbers["gba"]["value"])
    assert math.isnan(numbers["groups"][2]["accuracy"])
    assert numbers["average"]["value"] == pytest.approx(6 / 9)


def test_intervals_come_from_patients_not_patches() -> None:
    # Three patients always right, three always wrong: six samples of a half, with a variance of 0.25 / 5.
    label, attribute = np.repeat([0, 0, 1, 1], 60), np.tile(np.repeat([0, 1], 60), 2)
    patient = np.tile(np.arange(6), 40)
    margin = np.where((label == 1) == (patient < 3), 1.0, -1.0)
    average = evaluate_logits(margin, label, attribute, patient, resamples=20)["average"]
    assert (average["value"], average["low"], average["high"]) == (0.5, *score_interval(0.5, 0.25 / 5, 6))


def test_one_patient_gives_no_interval() -> None:
    numbers = evaluate_logits(MARGIN, LABEL, ATTRIBUTE, np.full(10, "only"), resamples=50)
    assert math.isnan(numbers["wga"]["low"])
    assert math.isnan(numbers["auroc"]["high"])
    assert numbers["groups"][0]["accuracy"] == pytest.approx(3 / 4)


def test_equal_seeds_give_equal_intervals_and_others_differ() -> None:
    rng = np.random.default_rng(0)
    label, attribute = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    margin, patient = rng.normal(size=400), rng.integers(0, 15, 400)
    first, again, other = (evaluate_logits(margin, label, attribute, patient, seed=seed)["auroc"] for seed in (1, 1, 2))
    assert first == again
    assert first["low"] != other["low"]
    assert first["low"] < first["value"] < first["high"]


def test_unlabelled_patches_and_diverged_margins_are_refused() -> None:
    with pytest.raises(InputUnsupportedError, match="label holds"):
        evaluate_logits(MARGIN, np.where(LABEL == 1, -1, 0), ATTRIBUTE, PATIENT)
    with pytest.raises(NonFiniteError, match="1 of 10"):
        evaluate_logits(np.where(np.arange(10) == 3, np.nan, MARGIN), LABEL, ATTRIBUTE, PATIENT)
    with pytest.raises(InputUnsupportedError, match="lengths"):
        evaluate_logits(MARGIN[:3], LABEL, ATTRIBUTE, PATIENT)


def test_an_attribute_of_three_values_gives_six_groups() -> None:
    label, attribute = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2])
    numbers = evaluate_logits(np.array([-1.0, 1, -1, 1, 1, 1]), label, attribute, PATIENT[:6], n_values=3, resamples=0)
    assert [(row["label"], row["attribute"]) for row in numbers["groups"]] == [(y, a) for y in (0, 1) for a in range(3)]
    assert [row["accuracy"] for row in numbers["groups"]] == [1, 0, 1, 1, 1, 1]
    assert (numbers["wga"]["value"], numbers["gba"]["value"]) == (0, pytest.approx(5 / 6))
    with pytest.raises(InputUnsupportedError, match="not only 0 to 1"):
        evaluate_logits(np.zeros(6), label, attribute, PATIENT[:6])
