"""Hard and easy samples by hand."""

import math

import numpy as np
import pytest

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError
from pathopatch.debias.pseudo import minority_found, pseudo_attributes


def test_the_least_probable_share_of_each_class_is_hard() -> None:
    p = [0.9, 0.2, 0.8, 0.1, 0.6, 0.05, 0.7, 0.3]
    y = [0, 0, 0, 0, 1, 1, 1, 1]
    assert pseudo_attributes(p, y, 0.5).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert pseudo_attributes(p, y, 0.25).tolist() == [0, 0, 0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize(("t", "n_hard"), [(0.001, 1), (0.29, 29), (0.295, 29), (0.999, 99), (1 - 1e-12, 99)])
def test_the_number_of_hard_samples_is_floored_and_clamped(t: float, n_hard: int) -> None:
    p = np.random.default_rng(0).random(200)
    y = np.arange(200) % 2
    hard = pseudo_attributes(p, y, t)
    assert np.bincount(y, weights=hard).tolist() == [n_hard, n_hard]


def test_both_cells_of_a_class_of_two_exist_for_every_share() -> None:
    for t in (0.01, 0.5, 0.99):
        assert pseudo_attributes([0.1, 0.2, 0.2, 0.1], [0, 0, 1, 1], t).tolist() == [1, 0, 0, 1]


def test_of_equal_probabilities_the_earlier_sample_is_hard() -> None:
    assert pseudo_attributes([0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1], 0.5).tolist() == [1, 0, 1, 0]


def test_an_empty_group_is_refused_where_a_class_has_a_single_sample() -> None:
    with pytest.raises(GroupEmptyError, match=r"\[2, 1\]"):
        pseudo_attributes([0.1, 0.2, 0.3], [0, 0, 1], 0.5)


def test_nan_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="1 of 4"):
        pseudo_attributes([0.1, math.nan, 0.3, 0.4], [0, 0, 1, 1], 0.5)


@pytest.mark.parametrize("t", [0.0, 1.0, -0.1, math.nan])
def test_a_share_outside_zero_to_one_is_refused(t: float) -> None:
    with pytest.raises(InputUnsupportedError, match="t = "):
        pseudo_attributes([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], t)


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(InputUnsupportedError):
        pseudo_attributes([0.1, 0.2, 0.3], [0, 0, 1, 1], 0.5)


def test_precision_and_recall_by_hand() -> None:
    label = np.array([0, 0, 0, 0, 1, 1, 1])
    attribute = np.array([0, 0, 1, 2, 1, 1, -1])
    # The minority is 2 and 3. Of the hard 1, 2 and 6 two are known, and one is right.
    hard = np.array([0, 1, 1, 0, 0, 0, 1])
    assert minority_found(hard, label, attribute) == {"hard_n": 3.0, "precision": 0.5, "recall": 0.5}
    nothing = minority_found(np.zeros(7), label, np.full(7, -1))
    assert nothing["hard_n"] == 0
    assert np.isnan([nothing["precision"], nothing["recall"]]).all()
