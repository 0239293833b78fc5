"""Measures with answers by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch import metrics
from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError

#             (0,0)      (0,1) (1,0)      (1,1)
LABEL = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
ATTRIBUTE = [0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
PREDICTION = [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]


def test_group_accuracies_by_hand() -> None:
    groups = metrics.group_accuracies(PREDICTION, LABEL, ATTRIBUTE)
    assert (groups.labels, groups.attributes) == ((0, 1), (0, 1))
    assert groups.accuracy.tolist() == [[0.75, 0.5], [0.0, 1.0]]
    assert groups.n.tolist() == [[4, 2], [2, 4]]


def test_the_worst_the_balanced_and_the_average_accuracy_by_hand() -> None:
    assert metrics.worst_group_accuracy(PREDICTION, LABEL, ATTRIBUTE) == 0.0
    assert metrics.group_balanced_accuracy(PREDICTION, LABEL, ATTRIBUTE) == 2.25 / 4
    assert metrics.average_accuracy(PREDICTION, LABEL) == 8 / 12


def test_two_classes_are_decided_by_threshold_and_more_by_largest_logit() -> None:
    assert metrics.predicted_class([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0]]).tolist() == [1, 1, 0]
    assert metrics.predicted_class([[0.0, 1.0], [0.0, 2.0]], decision_threshold=1.0).tolist() == [0, 1]
    assert metrics.predicted_class([[0.0, 1.0, 3.0], [5.0, 1.0, 3.0]]).tolist() == [2, 0]
    with pytest.raises(InputUnsupportedError, match="threshold of 1"):
        metrics.predicted_class([[0.0, 1.0, 3.0]], decision_threshold=1.0)
    with pytest.raises(NonFiniteError):
        metrics.predicted_class([[0.0, math.nan]])


def test_more_than_two_attributes_have_a_column_each() -> None:
    groups = metrics.group_accuracies([0, 1, 1, 1], [0, 0, 1, 1], [0, 2, 1, 2])
    np.testing.assert_array_equal(groups.accuracy, [[1.0, np.nan, 0.0], [np.nan, 1.0, 1.0]])


def test_an_empty_group_is_nan_and_takes_no_part_in_wga_and_gba() -> None:
    prediction, label, attribute = [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]
    groups = metrics.group_accuracies(prediction, label, attribute)
    np.testing.assert_array_equal(groups.accuracy, [[1.0, np.nan], [np.nan, 0.5]])
    assert metrics.worst_group_accuracy(prediction, label, attribute) == 0.5
    assert metrics.group_balanced_accuracy(prediction, label, attribute) == 0.75


def test_no_samples_give_nan() -> None:
    assert math.isnan(metrics.worst_group_accuracy([], [], []))
    assert math.isnan(metrics.group_balanced_accuracy([], [], []))
    assert math.isnan(metrics.average_accuracy([], []))


@pytest.mark.parametrize(
    ("prediction", "label", "attribute"),
    [([0], [0, 1], [0, 1]), ([0, 1], [0, -1], [0, 1]), ([0, 1], [0, 1], [0, -1]), ([0, 1], [0.0, 1.0], [0, 1])],
)
def test_unlabelled_samples_and_unequal_lengths_are_refused(prediction: list, label: list, attribute: list) -> None:
    with pytest.raises(InputUnsupportedError):
        metrics.group_accuracies(prediction, label, attribute)


def test_auroc_by_hand() -> None:
    assert metrics.auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert metrics.auroc([-math.inf, 0, math.inf], [0, 0, 1]) == 1.0


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 1)), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, int]]) -> None:
    positive, negative = ([s for s, y in pairs if y == code] for code in (1, 0))
    auroc = metrics.auroc([s for s, _ in pairs], [y for _, y in pairs])
    if not positive or not negative:
        assert math.isnan(auroc)
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert auroc == pytest.approx(wins / (len(positive) * len(negative)))


def test_auroc_of_a_single_class_is_nan_and_of_three_is_refused() -> None:
    assert math.isnan(metrics.auroc([0.1, 0.2], [1, 1]))
    assert math.isnan(metrics.auroc([], []))
    with pytest.raises(InputUnsupportedError, match="label 2"):
        metrics.auroc([0.1, 0.2], [0, 2])


def test_the_best_threshold_lies_in_the_middle_of_a_clean_gap() -> None:
    margin = [-3.0, -1.0, -2.0, 2.0, 5.0, 4.0]
    assert metrics.best_decision_threshold(margin, [0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 1, 1]) == 0.5


def test_the_best_threshold_serves_the_worst_group_and_not_the_average() -> None:
    # any threshold from -0.5 to 3 has the best average, 7/8, but loses all of group (1, 0)
    margin = [-3.0, -2.0, -1.0, -0.5, -1.5, 3.0, 4.0, 5.0]
    label = [0, 0, 0, 0, 1, 1, 1, 1]
    attribute = [0, 0, 0, 0, 0, 1, 1, 1]
    threshold = metrics.best_decision_threshold(margin, label, attribute)
    assert threshold == -1.75
    predicted = (np.array(margin) > threshold).astype(int)
    assert metrics.worst_group_accuracy(predicted, label, attribute) == 0.5


def test_the_best_threshold_is_the_median_of_the_plateau() -> None:
    # class 1 has 0.5 from -10 to 20, class 0 at least 0.5 from 0 on: the middles of the plateau are 1, 3 and 12
    margin = [-20.0, 0.0, 2.0, 4.0, -10.0, 20.0]
    assert metrics.best_decision_threshold(margin, [0, 0, 0, 0, 1, 1], [0] * 6) == 3.0


def test_of_an_even_plateau_the_lower_middle_is_taken() -> None:
    # class 0 has 1/3, 2/3, 1 from -20, 0, 2 on: the middles of the plateau are 1 and 11
    assert metrics.best_decision_threshold([-20.0, 0.0, 2.0, -10.0, 20.0], [0, 0, 0, 1, 1], [0] * 5) == 1.0


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=30))
def test_no_threshold_beats_the_best_one(rows: list[tuple[int, int, int]]) -> None:
    margin, label, attribute = (np.array(column) for column in zip(*rows, strict=True))
    if len(set(label.tolist())) < 2:
        return
    threshold = metrics.best_decision_threshold(margin, label, attribute)
    best = metrics.worst_group_accuracy((margin > threshold).astype(int), label, attribute)
    for other in np.arange(-6, 7) + 0.5:
        assert best >= metrics.worst_group_accuracy((margin > other).astype(int), label, attribute) - 1e-12


def test_the_threshold_at_a_sensitivity_is_the_highest_that_finds_enough() -> None:
    margin, label = [5.0, 4.0, 3.0, 1.0, 3.5, 0.0], [1, 1, 1, 1, 0, 0]
    assert metrics.threshold_at_sensitivity(margin, label, 0.5) == 3.75  # two of four above it, and no negative
    assert metrics.threshold_at_sensitivity(margin, label, 0.6) == 2.0  # three: it passes the negative of 3.5
    assert metrics.threshold_at_sensitivity(margin, label, 1.0) == 0.5
    assert metrics.threshold_at_sensitivity([2.0, 3.0], [1, 1], 1.0) == 1.0


def test_nineteen_of_twenty_are_95_percent() -> None:
    margin = np.arange(20.0)
    assert metrics.threshold_at_sensitivity(margin, np.ones(20, dtype=int), 0.95) == 0.5


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1)), min_size=1, max_size=30),
    st.sampled_from([0.1, 0.5, 0.8, 0.95, 1.0]),
)
def test_the_next_margin_above_the_threshold_detects_too_few(rows: list, share: float) -> None:
    margin, label = (np.array(column) for column in zip(*rows, strict=True))
    if not label.any():
        return
    threshold = metrics.threshold_at_sensitivity(margin, label, share)
    assert (margin[label == 1] > threshold).mean() >= share - 1e-12
    next_margin = margin[margin > threshold].min()
    assert (margin[label == 1] > next_margin).mean() < share


@pytest.mark.parametrize("share", [0.0, 1.1, math.nan])
def test_sensitivity_outside_0_to_1_and_no_positives_are_refused(share: float) -> None:
    with pytest.raises(InputUnsupportedError, match="sensitivity"):
        metrics.threshold_at_sensitivity([1.0], [1], share)
    with pytest.raises(GroupEmptyError):
        metrics.threshold_at_sensitivity([1.0], [0], 0.5)


def test_threshold_ignores_an_empty_group_and_refuses_an_empty_class() -> None:
    assert metrics.best_decision_threshold([-1.0, 1.0], [0, 1], [0, 1]) == 0.0
    with pytest.raises(GroupEmptyError, match=r"\[2, 0\]"):
        metrics.best_decision_threshold([-1.0, 1.0], [0, 0], [0, 1])


def test_nan_is_an_error_wherever_it_is() -> None:
    with pytest.raises(NonFiniteError, match="1 of 2"):
        metrics.worst_group_accuracy([0.0, math.nan], [0, 1], [0, 1])
    for measure in (metrics.average_accuracy, metrics.auroc):
        with pytest.raises(NonFiniteError):
            measure([0.1, math.nan], [0, 1])
    with pytest.raises(NonFiniteError):
        metrics.best_decision_threshold([math.nan, 1.0], [0, 1], [0, 1])
