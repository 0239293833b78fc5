"""Sampling by the pooled rank of a measurement: flat in every class, in every batch, from the seed and step alone."""

import numpy as np
import pytest

from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError, InputUnsupportedError
from pathopatch.core.method_names import RANK_METHODS
from pathopatch.debias import gerne
from pathopatch.debias.methods import NAMES, method
from pathopatch.debias.rank_sampler import (
    RankBalancedBatchSampler,
    RankGerneBatchSampler,
    owned_shares,
    pooled_ranks,
    rank_alpha,
)


def skewed(n=400, *, seed=0, ties=False):
    """Two classes whose measurement mostly gives the class away."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    value = np.where(label == 1, rng.beta(5, 1.5, n), rng.beta(1.5, 5, n))
    return label, np.minimum(value, 0.8) if ties else value


def drawn(sampler, label):
    """Counts of each sample over all steps."""
    return np.bincount(np.concatenate(list(sampler)), minlength=len(label))


def test_ranks_are_over_all_samples_and_ties_share_their_interval():
    assert pooled_ranks([0, 1, 0, 1], [0.9, 0.1, 0.3, 0.7]).tolist() == [7 / 8, 1 / 8, 3 / 8, 5 / 8]
    # three of four are equal: [0, 3/4] holds one of class 0 at its middle and two of class 1 at its quarters
    ranks = pooled_ranks([0, 1, 1, 0], [0.2, 0.2, 0.2, 0.5])
    assert ranks[0] == 3 / 8
    assert sorted(ranks[1:3]) == [3 / 16, 9 / 16]
    assert ranks[3] == 7 / 8


def test_a_sample_owns_what_is_nearest_to_it():
    np.testing.assert_allclose(owned_shares(np.array([0.1, 0.3, 0.9])), [0.2, 0.4, 0.4])


def test_with_alternating_classes_the_drawn_rank_is_uniform_within_1_by_n():
    n, per_class = 200, 5
    label, value = np.arange(n) % 2, np.linspace(0, 1, n) ** 3  # the shape of the measurement does not matter
    steps = 200 * (n // 2) // per_class  # rounds of one draw a sample
    counts = drawn(RankBalancedBatchSampler(label, value, batch_per_class=per_class, steps=steps, seed=1), label)
    rank = (np.arange(n) + 0.5) / n
    for y in (0, 1):
        share = np.where(label == y, counts, 0) / counts[label == y].sum()
        deviation = np.abs(np.cumsum(share) - rank)
        assert deviation[:-2].max() <= 1 / n + 4 / (200 * n)
        assert deviation.max() <= 1.5 / n + 1e-12  # one class has no sample at the very end


@pytest.mark.parametrize("ties", [False, True])
def test_the_drawn_rank_is_uniform_in_each_class_up_to_its_gaps(ties):
    label, value = skewed(ties=ties)
    per_class = 8
    sampler = RankBalancedBatchSampler(label, value, batch_per_class=per_class, steps=2 * 400, seed=3)
    counts, rank = drawn(sampler, label), pooled_ranks(label, value, seed=3)
    for y in (0, 1):
        mine = np.flatnonzero(label == y)[np.argsort(rank[label == y])]
        length = -(-len(mine) // per_class)
        gaps = np.concatenate([[rank[mine[0]]], np.diff(rank[mine]) / 2, [1 - rank[mine[-1]]]])
        cumulative = np.cumsum(counts[mine]) / counts[mine].sum()
        inside = np.maximum(np.abs(cumulative - rank[mine]), np.abs(np.append(0, cumulative[:-1]) - rank[mine]))
        assert inside.max() <= gaps.max() + 1 / (length * per_class) + 1e-9
    tilt = [np.average(value[label == y], weights=counts[label == y]) for y in (0, 1)]
    before = [value[label == y].mean() for y in (0, 1)]
    assert abs(tilt[1] - tilt[0]) < 0.1 * abs(before[1] - before[0])  # the measurement no longer tells the class


def test_each_round_draws_each_sample_as_often_as_it_owns_within_one():
    label, value = skewed(n=101)
    per_class, rank = 7, pooled_ranks(*skewed(n=101), seed=5)
    sampler = RankBalancedBatchSampler(label, value, batch_per_class=per_class, steps=400, seed=5)
    mine = np.flatnonzero(label == 1)[np.argsort(rank[label == 1])]
    length = -(-len(mine) // per_class)
    share = owned_shares(rank[mine])
    for start in (0, 3 * length):
        batches = np.concatenate([sampler.batch(step) for step in range(start, start + length)])
        counts = np.bincount(batches, minlength=101)[mine]
        assert (np.abs(counts - share * length * per_class) < 1 + 1e-9).all()
    rounds = [[sorted(sampler.batch(step)) for step in range(k * length, (k + 1) * length)] for k in (0, 1)]
    assert rounds[0] != rounds[1]


def test_every_batch_covers_the_ranks_of_each_class_evenly():
    label, value = np.repeat([0, 1], 80), np.tile(np.arange(80), 2) / 80
    sampler = RankBalancedBatchSampler(label, value, batch_per_class=4, steps=40, seed=0)
    for batch in sampler:
        for y in (0, 1):
            quarters = sorted(int(value[i] * 4) for i in batch if label[i] == y)
            assert quarters == [0, 1, 2, 3]


@pytest.mark.parametrize("make", [RankBalancedBatchSampler, RankGerneBatchSampler])
def test_a_step_is_a_pure_function_of_seed_and_step(make):
    label, value = skewed(ties=True)
    more = {"c": 0.5} if make is RankGerneBatchSampler else {}
    options = {"batch_per_class": 6, "steps": 200, **more}
    sampler = make(label, value, seed=4, **options)
    every = list(sampler)
    assert make(label, value, seed=4, **options).batch(173) == every[173]  # without those before it
    assert make(label, value, seed=5, **options).batch(173) != every[173]
    halves = 2 if more else 1
    for batch in every[:20]:
        assert len(batch) == 2 * 6 * halves
        assert (np.bincount(label[batch]) == 6 * halves).all()
    with pytest.raises(IndexError):
        sampler.batch(200)


def test_gerne_by_rank_has_a_natural_half_and_a_half_flat_to_the_part_c():
    label, value = skewed()
    per_class, c = 10, 0.4
    sampler = RankGerneBatchSampler(label, value, batch_per_class=per_class, c=c, steps=600, seed=2)
    table = np.array(list(sampler))
    halves = [np.bincount(table[:, part].ravel(), minlength=400) for part in (slice(0, 20), slice(20, 40))]
    rank = pooled_ranks(label, value, seed=2)
    for y in (0, 1):
        mine = np.flatnonzero(label == y)[np.argsort(rank[label == y])]
        natural, mixed = (half[mine] / half[mine].sum() for half in halves)
        due = (1 - c) / len(mine) + c * owned_shares(rank[mine])
        np.testing.assert_allclose(natural, 1 / len(mine), atol=1 / 6000)
        np.testing.assert_allclose(mixed, due, atol=2e-3)


def test_resample_and_gerne_draw_by_rank_and_check_beta():
    assert tuple(name for name in NAMES if all(phase.rank_sampler for phase in method(name))) == RANK_METHODS
    label, value = skewed()
    _, high = gerne.beta_bounds(rank_alpha(label, value), 0.5)
    sizes = {"batch_per_class": 4, "steps": 2, "seed": 0}
    method("gerne", c=0.5, beta=high - 0.01)[0].rank_sampler(label, value, **sizes)
    with pytest.raises(BetaOutOfBoundsError):
        method("gerne", c=0.5, beta=high + 0.01)[0].rank_sampler(label, value, **sizes)


def test_an_unknown_value_or_an_empty_class_is_refused():
    sizes = {"batch_per_class": 2, "steps": 1, "seed": 0}
    with pytest.raises(InputUnsupportedError, match="1 not finite"):
        RankBalancedBatchSampler([0, 1, 1], [0.1, np.nan, 0.3], **sizes)
    with pytest.raises(GroupEmptyError):
        RankBalancedBatchSampler([1, 1, 1], [0.1, 0.2, 0.3], **sizes)
