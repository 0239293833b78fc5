"""The arithmetic of GERNE against the paper's equations, by hand and by law."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne

TOLERANCE = 1e-10


@st.composite
def shares(draw: st.DrawFn) -> np.ndarray:
    """Rows p(a|y) of counts 1 to 1000, no empty cell."""
    n_classes, n_attributes = draw(st.integers(2, 4)), draw(st.integers(2, 5))
    cell = st.integers(1, 1000)
    row = st.lists(cell, min_size=n_attributes, max_size=n_attributes)
    counts = np.array(draw(st.lists(row, min_size=n_classes, max_size=n_classes)), dtype=float)
    return counts / counts.sum(axis=1, keepdims=True)


strengths = st.floats(0.01, 1.0)
betas = st.floats(-1.0, 3.0)


def cell(largest: float, n_attributes: int) -> np.ndarray:
    """One class whose first cell holds ``largest`` and whose other cells share the rest."""
    return np.array([largest, *[(1 - largest) / (n_attributes - 1)] * (n_attributes - 1)])


def test_alpha_counts_attributes_within_each_class() -> None:
    label = [0, 0, 0, 0, 1, 1]
    attribute = [0, 0, 0, 1, 1, 0]
    np.testing.assert_array_equal(gerne.alpha(label, attribute), [[0.75, 0.25], [0.5, 0.5]])


def test_the_less_biased_share_lies_between_alpha_and_equal_shares() -> None:
    target_shares = gerne.less_biased([[0.9, 0.1], [0.4, 0.6]], 0.5)
    np.testing.assert_allclose(target_shares, [[0.7, 0.3], [0.45, 0.55]], atol=TOLERANCE)


@given(shares(), strengths, betas)
def test_equation_8_follows_from_the_two_streams(alpha: np.ndarray, c: float, beta: float) -> None:
    less = gerne.less_biased(alpha, c)
    expected = less + beta * (less - alpha)  # the shares with which L_lb + beta (L_lb - L_b) weighs each cell
    np.testing.assert_allclose(gerne.extrapolated(alpha, c, beta), expected, atol=TOLERANCE)


@given(shares(), strengths)
def test_beta_minus_one_is_class_balanced_erm(alpha: np.ndarray, c: float) -> None:
    np.testing.assert_allclose(gerne.extrapolated(alpha, c, -1.0), alpha, atol=TOLERANCE)


@given(shares())
def test_beta_zero_with_c_one_is_group_balanced(alpha: np.ndarray) -> None:
    np.testing.assert_allclose(gerne.extrapolated(alpha, 1.0, 0.0), 1 / alpha.shape[1], atol=TOLERANCE)


@given(shares(), strengths)
def test_c_times_beta_plus_one_equal_to_one_gives_equal_shares(alpha: np.ndarray, c: float) -> None:
    np.testing.assert_allclose(gerne.extrapolated(alpha, c, 1 / c - 1), 1 / alpha.shape[1], atol=TOLERANCE)


@given(shares(), strengths, betas)
def test_extrapolated_shares_sum_to_one(alpha: np.ndarray, c: float, beta: float) -> None:
    np.testing.assert_allclose(gerne.extrapolated(alpha, c, beta).sum(axis=1), 1.0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("n_attributes", "largest", "c", "expected"),
    [(10, 0.995, 0.5, 1.2235), (2, 0.95, 0.5, 3.2222), (2, 0.95, 1.0, 1.1111)],
)
def test_the_upper_bound_has_the_papers_value(n_attributes: int, largest: float, c: float, expected: float) -> None:
    assert gerne.beta_bounds(cell(largest, n_attributes), c)[1] == pytest.approx(expected, abs=5e-5)


def test_the_lower_bound_by_hand() -> None:
    # alpha = (.9, .1), c = 1: p = .9 - .4 (beta + 1) reaches 1 at beta = -1.25, and 0 at 1.25
    assert gerne.beta_bounds([0.9, 0.1], 1.0) == pytest.approx((-1.25, 1.25), abs=TOLERANCE)


@given(shares(), strengths)
def test_extrapolated_shares_leave_zero_to_one_just_beyond_the_bounds(alpha: np.ndarray, c: float) -> None:
    low, high = gerne.beta_bounds(alpha, c)
    if math.isinf(high):
        return
    for bound, beyond in ((low, low - 1e-3 * (high - low)), (high, high + 1e-3 * (high - low))):
        at = gerne.extrapolated(alpha, c, bound)
        assert at.min() >= -TOLERANCE
        assert at.max() <= 1 + TOLERANCE
        touched = min(abs(at).min(), abs(1 - at).min())
        assert touched <= TOLERANCE
        outside = gerne.extrapolated(alpha, c, beyond)
        assert outside.min() < 0 or outside.max() > 1


@given(shares(), strengths)
def test_the_simplified_upper_bound_is_that_of_the_largest_cell(alpha: np.ndarray, c: float) -> None:
    _, high = gerne.beta_bounds(alpha, c)
    largest = alpha.max()
    if largest > 1 / alpha.shape[1] + 1e-9:
        expected = largest / (c * (largest - 1 / alpha.shape[1])) - 1
        assert high == pytest.approx(expected, rel=1e-9)


def test_uniform_groups_bound_nothing() -> None:
    assert gerne.beta_bounds(np.full((2, 3), 1 / 3), 0.5) == (-math.inf, math.inf)
    gerne.check_beta([[0.5, 0.5], [0.5, 0.5]], 1.0, 1e6)


def test_beta_on_the_bound_passes_and_beyond_it_the_bounds_are_stated() -> None:
    alpha = cell(0.95, 2)
    gerne.check_beta(alpha, 0.5, gerne.beta_bounds(alpha, 0.5)[1])
    with pytest.raises(BetaOutOfBoundsError, match=r"beta = 3\.23 .*\[-1\.22222, 3\.22222\].* c = 0\.5"):
        gerne.check_beta(alpha, 0.5, 3.23)


@pytest.mark.parametrize("beta", [math.nan, math.inf, -math.inf])
def test_a_beta_that_is_no_number_is_out_of_bounds(beta: float) -> None:
    with pytest.raises(BetaOutOfBoundsError):
        gerne.check_beta(np.full((2, 2), 0.5), 0.5, beta)


def test_an_empty_group_of_two_attributes_is_refused_with_the_counts() -> None:
    with pytest.raises(GroupEmptyError, match=r"label 1, attribute 0.*\[\[2, 1\], \[0, 3\]\]"):
        gerne.alpha([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1])


def test_an_attribute_with_a_single_value_leaves_empty_groups() -> None:
    with pytest.raises(GroupEmptyError):
        gerne.alpha([0, 0, 1, 1], [0, 0, 0, 0])


def test_an_empty_group_of_more_attributes_warns_with_the_counts() -> None:
    with pytest.warns(UserWarning, match=r"label 1, attribute 2.*\[\[1, 1, 1\], \[3, 1, 0\]\]"):
        weights = gerne.alpha([0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 0, 0, 0, 1])
    np.testing.assert_allclose(weights[1], [0.75, 0.25, 0.0], atol=TOLERANCE)


def test_an_empty_class_is_an_error_whatever_the_number_of_attributes() -> None:
    with pytest.raises(GroupEmptyError):
        gerne.alpha([0, 0, 0, 2, 2, 2], [0, 1, 2, 0, 1, 2])


def test_an_empty_group_keeps_share_zero_and_the_others_become_equal() -> None:
    alpha = [0.75, 0.25, 0.0]
    np.testing.assert_allclose(gerne.extrapolated(alpha, 0.5, 1.0), [0.5, 0.5, 0.0], atol=TOLERANCE)
    # as if A were 2: p = .75 - .125 (beta + 1) reaches 1 at -3 and 0 at 5
    assert gerne.beta_bounds(alpha, 0.5) == pytest.approx((-3.0, 5.0), abs=TOLERANCE)


@pytest.mark.parametrize("c", [0.0, -0.1, 1.0001, math.nan])
def test_a_strength_outside_zero_to_one_is_refused(c: float) -> None:
    with pytest.raises(InputUnsupportedError, match="c = "):
        gerne.less_biased([0.9, 0.1], c)


@pytest.mark.parametrize(
    ("label", "attribute"),
    [([], []), ([0, 1], [0]), ([0, -1], [0, 1]), ([0.0, 1.0], [0, 1]), ([[0, 1]], [[0, 1]])],
)
def test_labels_and_attributes_that_are_none_are_refused(label: list, attribute: list) -> None:
    with pytest.raises(InputUnsupportedError):
        gerne.alpha(label, attribute)


@pytest.mark.parametrize("alpha", [[0.9, 0.2], [1.1, -0.1], [math.nan, 1.0]])
def test_rows_that_are_not_shares_are_refused(alpha: list[float]) -> None:
    with pytest.raises(InputUnsupportedError, match="not shares"):
        gerne.beta_bounds(alpha, 0.5)
