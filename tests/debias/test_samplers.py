"""Batches hold what they promise, exactly, at every step."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathopatch.core.errors import GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.samplers import (
    BatchSampler,
    CellSequence,
    ClassBalancedBatchSampler,
    GerneBatchSampler,
    GroupBalancedBatchSampler,
    UniformBatchSampler,
)


def samples(counts: list[list[int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and attributes in mixed order with these counts of each cell."""
    table = np.array(counts)
    y, a = np.divmod(np.repeat(np.arange(table.size), table.ravel()), table.shape[1])
    order = np.random.default_rng(seed).permutation(len(y))
    return y[order], a[order]


TISSUE = samples([[95, 5], [12, 68]])
COLOURS = samples([[200, 2, 3], [4, 150, 1], [2, 2, 90]])

MAKERS: dict[str, Callable[..., BatchSampler]] = {
    "gerne": lambda y, a, **kw: GerneBatchSampler(y, a, c=0.5, **kw),
    "group-balanced": GroupBalancedBatchSampler,
    "class-balanced": ClassBalancedBatchSampler,
    "uniform": UniformBatchSampler,
}
every_sampler = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
every_data = pytest.mark.parametrize("data", [TISSUE, COLOURS], ids=["A=2", "A=3"])


def running_deviation(parts: list[list[int]], data: tuple[np.ndarray, np.ndarray], shares: np.ndarray) -> float:
    """Return the largest deviation of a cell's count, after any step, from share x samples of its class so far."""
    y, a = data
    counts = np.array([np.bincount(y[p] * shares.shape[1] + a[p], minlength=shares.size) for p in parts])
    running = counts.cumsum(axis=0).reshape(len(parts), *shares.shape)  # (T, K, A)
    return float(np.abs(running - running.sum(axis=2, keepdims=True) * shares).max())


@every_sampler
@every_data
def test_every_batch_read_at_random_equals_the_iteration(make: Callable[..., BatchSampler], data: tuple) -> None:
    arguments = {"batch_per_class": 7, "steps": 40, "seed": 3}
    iterated = list(make(*data, **arguments))
    jumping = make(*data, **arguments)
    assert len(iterated) == len(jumping) == 40
    for step in np.random.default_rng(0).permutation(40):
        assert jumping.batch(int(step)) == iterated[step]
        assert make(*data, **arguments).batch(int(step)) == iterated[step]


@every_sampler
def test_iterating_twice_gives_the_same_batches(make: Callable[..., BatchSampler]) -> None:
    sampler = make(*TISSUE, batch_per_class=4, steps=5, seed=0)
    assert list(sampler) == list(sampler)


@every_sampler
def test_another_seed_gives_other_batches(make: Callable[..., BatchSampler]) -> None:
    first, second = (make(*TISSUE, batch_per_class=8, steps=1, seed=seed).batch(0) for seed in (0, 1))
    assert sorted(first) != sorted(second)


@every_sampler
def test_more_steps_do_not_change_earlier_batches(make: Callable[..., BatchSampler]) -> None:
    short, long = (make(*COLOURS, batch_per_class=4, steps=steps, seed=0) for steps in (3, 300))
    assert list(short) == [long.batch(step) for step in range(3)]


@every_data
@pytest.mark.parametrize("c", [0.1, 0.3, 0.5, 1.0])
def test_each_half_holds_every_class_exactly_and_keeps_its_shares(data: tuple, c: float) -> None:
    sampler = GerneBatchSampler(*data, batch_per_class=8, c=c, steps=200, seed=1)
    y, a = data
    n_classes = y.max() + 1
    half = 8 * n_classes
    biased, less_biased = [b[:half] for b in sampler], [b[half:] for b in sampler]
    for part in biased + less_biased:
        assert np.bincount(y[part], minlength=n_classes).tolist() == [8] * n_classes
    alpha = gerne.alpha(y, a)
    assert running_deviation(biased, data, alpha) < 1
    assert running_deviation(less_biased, data, gerne.less_biased(alpha, c)) < 1


def test_a_cell_of_two_fifths_of_a_sample_a_batch_is_met_in_two_of_five() -> None:
    y, a = samples([[95, 5], [50, 50]])  # 5 % of 8 samples a class: 0.4 a batch
    biased = [b[:16] for b in GerneBatchSampler(y, a, batch_per_class=8, c=0.5, steps=500, seed=0)]
    rare = np.array([int(((y[p] == 0) & (a[p] == 1)).sum()) for p in biased])
    assert rare.sum() == 200
    assert set(rare) == {0, 1}
    assert {int(rare[t : t + 5].sum()) for t in range(0, 500, 5)} == {2}


@every_data
def test_group_balanced_batches_keep_equal_shares(data: tuple) -> None:
    parts = list(GroupBalancedBatchSampler(*data, batch_per_class=7, steps=100, seed=0))
    shares = np.full_like(gerne.alpha(*data), 1 / (data[1].max() + 1))
    assert running_deviation(parts, data, shares) < 1


@every_data
def test_class_balanced_batches_keep_the_shares_of_the_data(data: tuple) -> None:
    parts = list(ClassBalancedBatchSampler(*data, batch_per_class=7, steps=100, seed=0))
    assert {tuple(np.bincount(data[0][p])) for p in parts} == {(7,) * (data[0].max() + 1)}
    assert running_deviation(parts, data, gerne.alpha(*data)) < 1


def test_uniform_batches_visit_every_sample_once_an_epoch() -> None:
    parts = list(UniformBatchSampler(*TISSUE, batch_per_class=9, steps=30, seed=0))  # 180 samples, 18 a step
    for epoch in range(3):
        assert sorted(sum(parts[10 * epoch : 10 * epoch + 10], [])) == list(range(180))
    assert parts[:10] != parts[10:20]


@every_data
def test_within_a_cell_samples_come_from_reshuffled_permutations(data: tuple) -> None:
    y, a = data
    sampler = GerneBatchSampler(y, a, batch_per_class=1, c=0.5, steps=2000, seed=0)
    k = y.max() + 1
    for stream in (slice(0, k), slice(k, 2 * k)):  # one sample of each class a step: order within a batch is no matter
        drawn = np.array(sum((b[stream] for b in sampler), []))
        for label, attribute in np.ndindex(k, a.max() + 1):
            members = np.flatnonzero((y == label) & (a == attribute))
            of_cell = drawn[np.isin(drawn, members)]
            rounds = of_cell[: len(of_cell) // len(members) * len(members)].reshape(-1, len(members))
            assert (np.sort(rounds, axis=1) == members).all()
            if len(members) > 10 and len(rounds) > 1:
                assert not (rounds[0] == rounds[1]).all()


def test_the_two_halves_draw_different_samples_at_equal_shares() -> None:
    y, a = samples([[50, 50], [50, 50]])
    batch = GerneBatchSampler(y, a, batch_per_class=20, c=1.0, steps=1, seed=0).batch(0)
    assert sorted(batch[:40]) != sorted(batch[40:])


@every_sampler
def test_position_within_a_part_tells_neither_class_nor_attribute(make: Callable[..., BatchSampler]) -> None:
    y, a = samples([[60, 40], [40, 60]])
    parts = np.array([b[:40] for b in make(y, a, batch_per_class=20, steps=400, seed=0)])  # (T, 40)
    for values in (y, a):
        share = values[parts].mean(axis=0)  # of each position over 400 steps: standard error .025
        assert np.abs(share - values[parts].mean()).max() < 0.125


def test_group_balancing_samplers_refuse_an_empty_group_of_two_attributes() -> None:
    y, a = samples([[10, 10], [0, 10]])
    for make in (MAKERS["gerne"], MAKERS["group-balanced"]):
        with pytest.raises(GroupEmptyError, match=r"\[\[10, 10\], \[0, 10\]\]"):
            make(y, a, batch_per_class=4, steps=1, seed=0)


def test_an_empty_group_of_three_attributes_warns_and_others_share() -> None:
    y, a = samples([[10, 10, 10], [20, 5, 0]])
    with pytest.warns(UserWarning, match="label 1, attribute 2"):
        sampler = GroupBalancedBatchSampler(y, a, batch_per_class=6, steps=50, seed=0)
    for batch in sampler:
        assert np.bincount(y[batch] * 3 + a[batch], minlength=6).tolist() == [2, 2, 2, 3, 3, 0]


def test_a_missing_class_is_refused() -> None:
    with pytest.raises(GroupEmptyError):
        ClassBalancedBatchSampler([1, 1, 1], [0, 1, 0], batch_per_class=2, steps=1, seed=0)


def test_a_cell_of_one_sample_comes_round_again() -> None:
    y, a = samples([[9, 1], [5, 5]])
    batch = GroupBalancedBatchSampler(y, a, batch_per_class=10, steps=1, seed=0).batch(0)
    (only,) = np.flatnonzero((y == 0) & (a == 1))
    assert batch.count(only) == 5


@every_sampler
@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_sampler_is_an_index_error(make: Callable[..., BatchSampler], step: int) -> None:
    with pytest.raises(IndexError, match=f"step {step}"):
        make(*TISSUE, batch_per_class=4, steps=5, seed=0).batch(step)


@every_sampler
@pytest.mark.parametrize("wrong", [{"batch_per_class": 0}, {"steps": 0}, {"seed": -1}])
def test_impossible_sizes_are_refused(make: Callable[..., BatchSampler], wrong: dict[str, int]) -> None:
    with pytest.raises(InputUnsupportedError, match=next(iter(wrong))):
        make(*TISSUE, **{"batch_per_class": 4, "steps": 5, "seed": 0, **wrong})


@every_data
@pytest.mark.parametrize("unit", [2, 4])
def test_steps_in_units_hold_multiples_of_each_cell_and_exact_shares(data: tuple, unit: int) -> None:
    y, a = data
    alpha = gerne.alpha(y, a)
    batches = list(GerneBatchSampler(y, a, batch_per_class=8, c=0.5, steps=300, seed=1).in_units(unit))
    size = len(alpha) * 8
    for part, shares in ((0, alpha), (1, gerne.less_biased(alpha, 0.5))):
        halves = [batch[part * size : (part + 1) * size] for batch in batches]
        assert {len(half) for half in halves} == {size}
        for half in halves:
            assert not (np.bincount(y[half] * alpha.shape[1] + a[half]) % unit).any()
        assert running_deviation(halves, data, shares) < unit


@every_sampler
def test_in_units_batches_stay_random_access_and_even(
    make: Callable[..., BatchSampler],
) -> None:
    y, a = samples([[4, 4], [4, 4]])
    sampler = make(y, a, batch_per_class=4, steps=40, seed=3)
    before = list(sampler)
    in_pairs = sampler.in_units(2)
    iterated = list(in_pairs)
    assert [in_pairs.batch(step) for step in reversed(range(40))] == iterated[::-1]
    seen = np.bincount(np.concatenate(iterated), minlength=16)
    assert seen.max() - seen.min() <= 2 * in_pairs.parts  # at most a turn of two more in each stream
    assert list(sampler) == before
    assert list(sampler.in_units(1)) == before


def test_a_unit_that_does_not_divide_the_batch_is_refused_with_a_remedy() -> None:
    sampler = GerneBatchSampler(*TISSUE, batch_per_class=6, c=0.5, steps=1, seed=0)
    with pytest.raises(InputUnsupportedError, match="multiple of 8"):
        sampler.in_units(4)


weight_lists = st.lists(st.integers(0, 400), min_size=1, max_size=10).filter(any)


def largest_deviation(weights: list[int], cells: np.ndarray) -> float:
    """Return the largest deviation of a cell's count from its exact share, over all positions."""
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
        for expected, draws in zip(whole, piecewise.draws(start, start + 100), strict=True):
            np.testing.assert_array_equal(draws, expected[start : start + 100])


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


def test_a_sampler_of_some_samples_draws_their_numbers_in_the_larger_set() -> None:
    label, attribute, index = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 1]), np.array([9, 2, 4, 7, 7])
    own = GroupBalancedBatchSampler(label, attribute, batch_per_class=6, steps=5, seed=3)
    mapped = own.of_samples(index)
    assert [index[batch].tolist() for batch in own] == list(mapped)
    assert [index[batch].tolist() for batch in own.in_units(2)] == list(mapped.in_units(2))
    expected = np.zeros(10)
    expected[[9, 2, 4, 7]] = 1 / 4  # a quarter for each group; number 7 is twice in the fourth
    np.testing.assert_allclose(mapped.expected_shares(10)[0], expected)
