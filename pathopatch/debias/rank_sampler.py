"""Batch samplers that draw by the rank of a measurement, without a threshold that cuts it into groups.

The pooled rank of a sample is its position among all samples of all classes by that measurement, scaled to (0, 1):
sample k of N in rising order lies at (k + 1/2) / N. Tied samples share the interval of their positions; those of one
class are spread evenly over it, in an order drawn by the seed. Within a class each sample *owns* the part of [0, 1]
that is nearer to its rank than to that of any other sample of the class. Drawing samples by the share that they own
gives the same, flat distribution of ranks in every class. It deviates from uniform by at most half the largest gap
between neighbouring ranks of the class, or by the distance of its outermost ranks to 0 and 1. It is the limit of
group-balanced sampling over ever finer bins of equal pooled counts, with an empty bin filled by the nearest sample of
the class. If a class has few samples over a long stretch, those few are drawn often.

Laws of a stream of B samples per class and step. (1) Each step takes one sample from each of B equal strata of the
class's cumulative share: every batch has the flat distribution, not only the mean. (2) In a round of M = ceil(n / B)
steps the M B targets are an even grid, each point once, so that a sample of share w is drawn M B w times per round,
give or take less than one. Each round is shuffled anew and its grid shifted by the golden ratio, so that the long-run
share is exact. (3) A step is a pure function of (seed, step).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.samplers import BatchSampler, ClassStream, Floats, Indices, check_sizes

_TIES, _ROUND, _SHIFT = 3, 4, 5  # what a generator is for: part of its seed, after those of `samplers`
_BIASED, _LESS_BIASED = 0, 1
_GOLDEN = (5**0.5 - 1) / 2
_BOUND_BINS = 10  # for the bounds of beta: with single samples as cells any s above 1 would be refused


def pooled_ranks(label: npt.ArrayLike, value: npt.ArrayLike, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return each sample's rank (N,) among all samples, in (0, 1); the seed orders equal values within a class.

    No two samples of a class have the same rank. Arrays of different lengths, and values that are not finite, raise
    `InputUnsupportedError`.
    """
    y, x = np.asarray(label, dtype=np.int64), np.asarray(value, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 1 or not np.isfinite(x).all():
        raise InputUnsupportedError(
            f"labels of shape {y.shape} with values of shape {x.shape}, {int((~np.isfinite(x)).sum())} not finite",
            remedy="Give one finite value per sample; leave out samples of unknown value.",
        )
    _, level, n_tied = np.unique(x, return_inverse=True, return_counts=True)
    n_below = np.cumsum(n_tied) - n_tied
    shuffled = np.random.default_rng([seed, _TIES]).permutation(len(x))
    order = np.lexsort((shuffled, level, y))  # by class, then value, then at random
    run_start = np.flatnonzero(np.diff(y[order], prepend=-1) | np.diff(level[order], prepend=-1))
    run_length = np.diff(run_start, append=len(x))  # samples of one class and value
    position = np.empty(len(x))  # within the interval that the tied samples share, in (0, 1)
    position[order] = (np.arange(len(x)) - np.repeat(run_start, run_length) + 0.5) / np.repeat(run_length, run_length)
    return np.asarray((n_below[level] + n_tied[level] * position) / max(len(x), 1), dtype=np.float64)


def owned_shares(rank: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the part of [0, 1] nearer to each rising rank (n,) of a class than to any other; sums to 1."""
    edges = np.concatenate([[0.0], (rank[1:] + rank[:-1]) / 2, [1.0]])
    return np.diff(edges)


def rank_alpha(label: npt.ArrayLike, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p(bin|y) (K, 10) over bins of equal pooled counts, by which beta is bounded; flat ranks have 1/10 in each.

    Arguments and errors are those of `pooled_ranks`.
    """
    rank = pooled_ranks(label, value)
    cell = np.minimum((rank * _BOUND_BINS).astype(np.int64), _BOUND_BINS - 1)
    counts = np.zeros((int(np.max(np.asarray(label))) + 1, _BOUND_BINS))
    np.add.at(counts, (np.asarray(label, dtype=np.int64), cell), 1)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


class RankBalancedBatchSampler(BatchSampler):
    """Batches with equal shares of all classes and, in each class, a flat pooled rank of a measurement.

    The counterpart of `GroupBalancedBatchSampler` without a threshold: see the head of this module. Parameters are the
    same, but ``attribute`` is the measurement (array_like of float, shape (N,)), such as the tissue fraction.

    Raises
    ------
    GroupEmptyError
        An empty class.
    InputUnsupportedError
        Sizes below 1, a negative seed, a value that is not finite, or arrays that are no labels.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        stream = RankStream(label, attribute, c=1.0, per_class=batch_per_class, seed=seed, stream=_BIASED)
        super().__init__([stream], per_class=batch_per_class, steps=steps, seed=seed)


class RankGerneBatchSampler(BatchSampler):
    """Batches of GERNE by rank: first a half as the data are, then one that is flat in rank to the part c.

    Both halves are class-balanced. In the second a sample of class y is drawn with the share
    (1 - c) / n_y + c times what it owns: eq. 4 of [1]_ with single samples as cells and the flat rank for 1/A.
    Parameters and errors are those of `RankBalancedBatchSampler`, with ``batch_per_class`` for each half and c in
    (0, 1].

    References
    ----------
    .. [1] Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236, Algorithm 1 and eq. 4.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, c: float, steps: int, seed: int
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        gerne.check_c(c)
        counts = _class_counts(label)
        cells = [[np.flatnonzero(np.asarray(label) == number).astype(np.int64)] for number in range(len(counts))]
        natural = ClassStream(cells, counts.tolist(), seed=seed, stream=_BIASED)
        flat = RankStream(label, attribute, c=c, per_class=batch_per_class, seed=seed, stream=_LESS_BIASED)
        super().__init__([natural, flat], per_class=batch_per_class, steps=steps, seed=seed)


class RankStream:
    """An endless stream of samples of each class, drawn by the share that each owns of the pooled rank.

    `c` is 1 for the flat rank and 0 for the data's own; `per_class` is the number of strata, the samples of each class
    in a step; `seed` and `stream` together determine the stream.
    """

    def __init__(
        self, label: npt.ArrayLike, value: npt.ArrayLike, *, c: float, per_class: int, seed: int, stream: int
    ) -> None:
        counts = _class_counts(label)
        rank = pooled_ranks(label, value, seed=seed)
        y = np.asarray(label, dtype=np.int64)
        self._samples: list[Indices] = []  # of each class, by rank
        self._ends: list[npt.NDArray[np.float64]] = []  # cumulative shares
        for number in range(len(counts)):
            members = np.flatnonzero(y == number)
            members = members[np.argsort(rank[members])].astype(np.int64)
            share = (1 - c) / len(members) + c * owned_shares(rank[members])
            self._samples.append(members)
            # Without the last end, which is 1 up to rounding: a target can then never lie beyond the last sample.
            self._ends.append(np.cumsum(share)[:-1])
        self._per_class, self._key = per_class, (seed, stream)
        self._phases = np.random.default_rng([seed, _SHIFT, stream]).random(len(counts))
        self._offsets: dict[tuple[int, int], Indices] = {}

    def in_units(self, unit: int) -> RankStream:
        """Return the stream itself for units of 1; refuse larger ones, since there are no cells."""
        if unit > 1:
            raise InputUnsupportedError(
                f"draws by rank cannot be made in units of {unit}",
                place="[train] attribute = 'rank'",
                remedy="set [train] cell_unit = 1, or draw by bins",
            )
        return self

    def shares(self, size: int) -> Floats:
        """Return the long-run share (size,) of each sample."""
        share = np.zeros(size)
        for samples, ends in zip(self._samples, self._ends, strict=True):
            share[samples] = np.diff(ends, prepend=0, append=1) / len(self._samples)
        return share

    def take(self, start: int, stop: int) -> Indices:
        """Return the samples at positions [start, stop) of every class, sorted by class; within a step by rank."""
        step, stratum = np.divmod(np.arange(start, stop), self._per_class)
        parts = []
        for number, samples in enumerate(self._samples):
            length = -(-len(samples) // self._per_class)  # steps of a round
            round_, step_of_round = np.divmod(step, length)
            target = np.empty(len(step))  # cumulative share, in [0, 1)
            for k in np.unique(round_):
                is_now = round_ == k
                offset = self._round(number, int(k), length)[stratum[is_now], step_of_round[is_now]]
                # Multiples of the golden ratio fill [0, 1) evenly, whatever the number of rounds.
                shift = (self._phases[number] + int(k) * _GOLDEN) % 1
                target[is_now] = (stratum[is_now] + (offset + shift) / length) / self._per_class
            parts.append(samples[np.searchsorted(self._ends[number], target, side="right")])
        return np.concatenate(parts)

    def _round(self, number: int, k: int, length: int) -> Indices:
        """Return the order of each stratum's grid points in round k, shape (per_class, length)."""
        if (number, k) not in self._offsets:
            # Keep the round before, since steps may be read across the border of two rounds.
            self._offsets = {key: order for key, order in self._offsets.items() if key[0] != number or key[1] == k - 1}
            rng = np.random.default_rng([self._key[0], _ROUND, self._key[1], number, k])
            rising = np.broadcast_to(np.arange(length), (self._per_class, length))
            self._offsets[number, k] = rng.permuted(rising, axis=1)
        return self._offsets[number, k]


def _class_counts(label: npt.ArrayLike) -> Indices:
    """Return the number of samples of each class, shape (K, 1); an empty class is refused."""
    counts = gerne.cell_counts(label, np.zeros(np.shape(label)[0], dtype=np.int64)).sum(axis=1, keepdims=True)
    gerne.check_cells(counts)
    return np.asarray(counts, dtype=np.int64)
