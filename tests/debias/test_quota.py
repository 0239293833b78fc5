"""The sequence of cells keeps every share at every position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathopatch.debias.quota import CellSequence

weight_lists = st.lists(st.integers(0, 400), min_size=1, max_size=10).filter(any)


def largest_deviation(weights: list[int], cells: np.ndarray) -> float:
    """How far any cell's count is from its exact share at any position."""
    named = np.cumsum(cells[:, None] == np.arange(len(weights)), axis=0)  # (positions, A)
    exact = np.outer(np.arange(1, len(cells) + 1), np.array(weights) / sum(weights))
    return float(np.abs(named - exact).max())


@settings(max_examples=60, deadline=None)
@given(weight_lists, st.integers(0, 5))
def test_every_cell_stays_within_one_sample_of_its_share(weights: list[int], seed: int) -> None:
    cells, _ = CellSequence(weights, key=(seed, 0, 0)).draws(0, 2000)
    assert largest_deviation(weights, cells) < 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=3, max_size=10))
def test_more_than_two_cells_keep_the_bound_of_tijdeman(weights: list[int]) -> None:
    cells, _ = CellSequence(weights, key=(0, 0, 0)).draws(0, 2000)
    assert largest_deviation(weights, cells) <= 1 - 1 / (2 * len(weights) - 2) + 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_a_dominant_cell_beside_nine_rare_ones_keeps_the_shares(seed: int) -> None:
    weights = [9955, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    cells, _ = CellSequence(weights, key=(seed, 1, 0)).draws(0, 25_000)
    assert largest_deviation(weights, cells) < 1


@settings(max_examples=60, deadline=None)
@given(weight_lists, st.lists(st.integers(0, 1500), min_size=1, max_size=6))
def test_any_stretch_read_alone_equals_the_whole(weights: list[int], starts: list[int]) -> None:
    whole = CellSequence(weights, key=(1, 0, 0)).draws(0, 1600)
    piecewise = CellSequence(weights, key=(1, 0, 0))
    for start in starts:
        for expected, found in zip(whole, piecewise.draws(start, start + 100), strict=True):
            np.testing.assert_array_equal(found, expected[start : start + 100])


@settings(max_examples=60, deadline=None)
@given(weight_lists)
def test_turns_count_the_earlier_positions_of_the_same_cell(weights: list[int]) -> None:
    cells, turns = CellSequence(weights, key=(2, 0, 0)).draws(0, 1500)
    for cell in np.unique(cells):
        np.testing.assert_array_equal(turns[cells == cell], np.arange((cells == cell).sum()))


def test_after_one_period_all_counts_are_exact() -> None:
    cells, _ = CellSequence([6, 3, 1, 0], key=(0, 0, 0)).draws(0, 10)
    np.testing.assert_array_equal(np.bincount(cells, minlength=4), [6, 3, 1, 0])


def test_the_seed_moves_the_phase_of_two_cells() -> None:
    first_rare = {int(np.argmax(CellSequence([99, 1], key=(s, 0, 0)).draws(0, 200)[0])) for s in range(8)}
    assert len(first_rare) > 1


def test_the_seed_moves_the_order_of_equal_cells() -> None:
    orders = {tuple(CellSequence([1, 1, 1, 1], key=(s, 0, 0)).draws(0, 4)[0].tolist()) for s in range(8)}
    assert len(orders) > 1


def test_shares_of_immense_period_are_read_without_overflow() -> None:
    weights = [10**25 + 1, 3 * 10**25, 10**24]
    cells, _ = CellSequence(weights, key=(0, 0, 0)).draws(0, 500)
    assert largest_deviation([10, 30, 1], cells) < 1
