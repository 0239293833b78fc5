"""Batch samplers: which samples make up each step, as a pure function of (seed, step).

All samplers share two laws. (1) Quotas: per class and stream the seed fixes one long sequence of cells, in which every
cell's count stays within one sample of its exact share at every position; a step takes the next stretch of it. A cell
worth 0.4 samples per batch is drawn in two batches of five, not in none. (2) Permutations: within a cell, samples come
from reshuffled permutations, so that all are drawn equally often.

Within a half the samples are shuffled by (seed, stream, step): a position tells neither class nor attribute. Only the
split into halves has a meaning: `GerneBatchSampler` puts the biased half first.

Every sampler serves as ``batch_sampler`` of a ``torch.utils.data.DataLoader``. Iteration starts at step 0 each time;
``batch(step)`` returns any step alone, for instance to resume.

The sequence of cells solves the chairman assignment problem by Tijdeman's algorithm [1]_, see `CellSequence`.

References
----------
.. [1] R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980) 323-330.
"""

from __future__ import annotations

import copy
import heapq
import math
from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Self

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.debias import gerne

# What a generator is for is part of its seed, so that no two coincide.
_PHASE, _PERMUTATION, _ORDER = 0, 1, 2
# The stream is part of the seed too, so that the two halves of GERNE differ even at equal shares.
_BIASED, _LESS_BIASED = 0, 1
_ROUNDING = 1e-6  # positions: a turn starts on time though its start was computed a rounding error too late

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class BatchSampler:
    """Batches of indices, each the concatenation of one part per stream.

    `per_class` is the number of samples of each class that a stream gives to a step; `seed`, from 0, orders each part.
    """

    def __init__(self, streams: Sequence[ClassStream], *, per_class: int, steps: int, seed: int) -> None:
        self._streams, self._per_class, self._steps, self._seed = tuple(streams), per_class, steps, seed

    def batch(self, step: int) -> list[int]:
        """Return the indices of step 0 to ``len(self) - 1``, a pure function of (seed, step)."""
        if not 0 <= step < self._steps:
            raise IndexError(f"step {step} of a sampler with {self._steps} steps")
        indices: list[int] = []
        for number, stream in enumerate(self._streams):
            part = stream.take(step * self._per_class, (step + 1) * self._per_class)
            # A new generator per step makes a step independent of those before it.
            order = np.random.default_rng([self._seed, _ORDER, number, step])
            indices += order.permutation(part).tolist()
        return indices

    @property
    def parts(self) -> int:
        """Number of parts of equal size that make up a batch: two for GERNE, else one."""
        return len(self._streams)

    def expected_shares(self, size: int) -> Floats:
        """Return the long-run share of each of `size` samples in each part of a batch, (parts, size); rows sum to 1."""
        return np.stack([stream.shares(size) for stream in self._streams])

    def in_units(self, unit: int) -> Self:
        """Return the same batches in which each cell gives its samples `unit` at a time.

        Every step then holds a multiple of `unit` samples of each cell and part, so that `unit` processes can share
        them evenly. Shares stay exact in the long run; remainders are carried to the next step. A `unit` that
        does not divide the samples of a class in each part is refused.
        """
        if unit < 1 or self._per_class % unit:
            raise InputUnsupportedError(
                f"{self._per_class} samples of a class cannot be drawn in units of {unit}",
                place="batch_per_class",
                remedy=f"Use a multiple of {max(unit, 1) * self.parts}.",
            )
        other = copy.copy(self)
        other._streams = tuple(stream.in_units(unit) for stream in self._streams)
        return other

    def of_samples(self, index: npt.ArrayLike) -> Self:
        """Return the same batches of samples that are numbered ``index[i]`` instead of i.

        So a sampler of some samples draws from a larger set. A number that is there twice is drawn twice as often.
        """
        other = copy.copy(self)
        other._streams = tuple(stream.of_samples(np.asarray(index, np.int64)) for stream in self._streams)
        return other

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(step) for step in range(self._steps))

    def __len__(self) -> int:
        return self._steps


class GerneBatchSampler(BatchSampler):
    """Batches of GERNE: the biased half first, then the less biased half, Algorithm 1 of [1]_.

    Classes are balanced in both halves; within a class the biased half has p(a|y) = alpha and the less biased half
    alpha + c (1/A - alpha), each exact in the long run.

    Parameters
    ----------
    label, attribute : array_like of int, shape (N,)
        Class and attribute value of each sample, from 0.
    batch_per_class : int
        Samples of each class in each half: a half holds exactly K * batch_per_class indices, a batch twice that.
    c : float
        Strength of the less biased half, in (0, 1]; counted as the decimal number it is written as.
    steps : int
        Number of batches.
    seed : int
        From 0.

    Raises
    ------
    GroupEmptyError
        An empty cell where A = 2, or an empty class (an empty cell where A > 2 warns).
    InputUnsupportedError
        c outside (0, 1], sizes below 1, a negative seed, or arrays that are no labels.

    References
    ----------
    .. [1] Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236, Algorithm 1 and eq. 4.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, c: float, steps: int, seed: int
    ) -> None:
        _check_sizes(batch_per_class, steps, seed)
        gerne.check_c(c)
        counts = gerne.cell_counts(label, attribute)
        gerne.check_cells(counts)
        cells = _members(label, attribute, counts)
        streams = [
            ClassStream(cells, counts.tolist(), seed=seed, stream=_BIASED),
            ClassStream(cells, _less_biased_weights(counts, c), seed=seed, stream=_LESS_BIASED),
        ]
        super().__init__(streams, per_class=batch_per_class, steps=steps, seed=seed)


class GroupBalancedBatchSampler(BatchSampler):
    """Batches in which all classes, and within a class all its non-empty cells, have equal shares.

    Parameters and errors are those of `GerneBatchSampler`, without ``c``. A batch holds K * batch_per_class indices.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> None:
        _check_sizes(batch_per_class, steps, seed)
        counts = gerne.cell_counts(label, attribute)
        gerne.check_cells(counts)
        weights = (counts > 0).astype(np.int64).tolist()
        stream = ClassStream(_members(label, attribute, counts), weights, seed=seed, stream=_BIASED)
        super().__init__([stream], per_class=batch_per_class, steps=steps, seed=seed)


class ClassBalancedBatchSampler(BatchSampler):
    """Batches with equal shares of all classes and the data's shares of attributes, p(a|y) = alpha.

    The same stream as the biased half of `GerneBatchSampler`, with the same parameters (without ``c``) and errors; but
    empty cells are accepted. If no attribute is known, pass zeros. A batch holds K * batch_per_class indices.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> None:
        _check_sizes(batch_per_class, steps, seed)
        counts = gerne.cell_counts(label, attribute)
        gerne.check_cells(counts.sum(axis=1, keepdims=True))
        stream = ClassStream(_members(label, attribute, counts), counts.tolist(), seed=seed, stream=_BIASED)
        super().__init__([stream], per_class=batch_per_class, steps=steps, seed=seed)


class UniformBatchSampler(BatchSampler):
    """Batches in which every sample has the same share, in reshuffled epochs: plain ERM.

    Parameters are those of `GerneBatchSampler`, without ``c``; of labels and attributes only N and the number of
    classes K matter. A batch holds K * batch_per_class indices, as many as with the other samplers. Sizes below 1, a
    negative seed and arrays that are no labels raise `InputUnsupportedError`.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> None:
        _check_sizes(batch_per_class, steps, seed)
        counts = gerne.cell_counts(label, attribute)
        # One class with one cell of all samples: its permutations are the epochs.
        everything = np.arange(counts.sum(), dtype=np.int64)
        stream = ClassStream([[everything]], [[1]], seed=seed, stream=_BIASED)
        super().__init__([stream], per_class=len(counts) * batch_per_class, steps=steps, seed=seed)


class ClassStream:
    """An endless stream of samples of each class, in which cells keep their shares at every position.

    ``cells[y][a]`` holds the indices of the samples of a cell, ``weights[y][a]`` its share in the class up to a factor.
    """

    def __init__(
        self, cells: Sequence[Sequence[Indices]], weights: Sequence[Sequence[int]], *, seed: int, stream: int
    ) -> None:
        self._cells, self._weights, self._seed, self._stream = cells, weights, seed, stream
        self._sequences = [CellSequence(row, key=(seed, stream, label)) for label, row in enumerate(weights)]
        self._permutations: dict[tuple[int, int], dict[int, Indices]] = {}
        self._unit = 1

    def in_units(self, unit: int) -> ClassStream:
        """Return the same stream with `unit` samples per turn of a cell; read it in multiples of `unit`."""
        other = copy.copy(self)
        other._permutations, other._unit = {}, unit
        return other

    def of_samples(self, index: Indices) -> ClassStream:
        """Return the same stream of samples that are numbered ``index[i]`` instead of i."""
        other = copy.copy(self)
        other._permutations, other._cells = {}, [[index[cell] for cell in row] for row in self._cells]
        return other

    def shares(self, size: int) -> Floats:
        """Return the long-run share (size,) of each sample: that of its cell, evenly over the cell's samples."""
        share = np.zeros(size)
        for cells, weights in zip(self._cells, self._weights, strict=True):
            for samples, weight in zip(cells, weights, strict=True):
                if weight:  # a sample may be there several times
                    np.add.at(share, samples, weight / sum(weights) / len(samples) / len(self._cells))
        return share

    def take(self, start: int, stop: int) -> Indices:
        """Return the samples at positions [start, stop) of every class, shape (K * (stop - start),), sorted by cell."""
        parts: list[Indices] = []
        for label, sequence in enumerate(self._sequences):
            cells, turns = sequence.draws(start // self._unit, stop // self._unit)
            # Turn t of a cell becomes its draws t * unit to (t + 1) * unit - 1.
            cells, draws = np.repeat(cells, self._unit), np.add.outer(turns * self._unit, np.arange(self._unit)).ravel()
            parts += [self._samples(label, int(cell), draws[cells == cell]) for cell in np.unique(cells)]
        return np.concatenate(parts)

    def _samples(self, label: int, cell: int, draws: Indices) -> Indices:
        """Return the samples of the given draws of one cell; draw d is entry d % n of permutation d // n."""
        rounds, positions = np.divmod(draws, len(self._cells[label][cell]))
        samples = np.empty(len(draws), dtype=np.int64)
        for k in np.unique(rounds):
            is_in_round = rounds == k
            samples[is_in_round] = self._permutation(label, cell, int(k))[positions[is_in_round]]
        return samples

    def _permutation(self, label: int, cell: int, k: int) -> Indices:
        """Return permutation k of a cell."""
        cache = self._permutations.setdefault((label, cell), {})
        if k not in cache:
            rng = np.random.default_rng([self._seed, _PERMUTATION, self._stream, label, cell, k])
            # Keep two: a step may cross from one permutation to the next.
            while len(cache) > 1:
                del cache[next(iter(cache))]
            cache[k] = rng.permutation(self._cells[label][cell])
        return cache[k]


class CellSequence:
    """An endless sequence of cells in fixed shares, read at any position.

    After t positions each cell a has had share_a * t turns, give or take less than one: the chairman assignment
    problem. Two cells have a closed form. More take Tijdeman's algorithm, here as earliest deadline first: turn k of a
    cell may start once share * t >= k + slack and is due at share * t = k + 1 - slack, with slack = 1 / (2 A - 2). The
    deviation is at most 1 - slack, and a turn can always be found.

    `weights` are the shares up to a factor. `key` seeds the phase (two cells) or the order among ties (more).
    """

    def __init__(self, weights: Sequence[int], *, key: tuple[int, ...]) -> None:
        divisor = math.gcd(*weights)
        self._weights = [weight // divisor for weight in weights]
        self._present = [cell for cell, weight in enumerate(weights) if weight]
        self._period = sum(self._weights)  # positions after which all counts are exact and the sequence repeats
        rng = np.random.default_rng([key[0], _PHASE, *key[1:]])
        self._phase = float(rng.random())
        self._tie_order = rng.permutation(len(weights)).tolist()
        self._slack = 1 / max(2 * len(self._present) - 2, 2)
        self._cells, self._turns = array("q"), array("q")  # the first period, as far as it has been computed
        self._ready: list[tuple[float, int, int, int]] = []  # (due, tie order, cell, turn)
        self._waiting = [(self._start(cell, 0), cell, 0) for cell in self._present]
        heapq.heapify(self._waiting)

    def draws(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """Return the cells at positions [start, stop), and how many earlier turns each of them had."""
        if len(self._present) <= 2:
            return self._closed_form(start, stop)
        # With more than two cells the first period is computed once up to `stop`, and kept.
        self._extend(min(int(stop), self._period))
        if stop <= self._period:
            return np.array(self._cells[start:stop]), np.array(self._turns[start:stop])
        rounds, positions = np.divmod(np.arange(start, stop), self._period)
        # Views without a copy. An array cannot grow while a view of it exists; these end with the statement.
        cells = np.frombuffer(self._cells, dtype=np.int64)[positions]
        turns = np.frombuffer(self._turns, dtype=np.int64)[positions]
        return cells, turns + rounds * np.array(self._weights)[cells]

    def _closed_form(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """Give the last cell position i if floor(share (i + 1) + phase) exceeds floor(share i + phase)."""
        first, last = self._present[0], self._present[-1]
        edges = np.arange(start, stop + 1)
        if first == last:
            return np.full(stop - start, first), edges[:-1]
        turns_of_last = np.floor(self._weights[last] / self._period * edges + self._phase).astype(np.int64)
        is_last = np.diff(turns_of_last) > 0
        cells = np.where(is_last, last, first)
        return cells, np.where(is_last, turns_of_last[:-1], edges[:-1] - turns_of_last[:-1])

    def _start(self, cell: int, turn: int) -> int:
        """Return the first position, counted from 1, at which a turn may start."""
        return math.ceil((turn + self._slack) * self._period / self._weights[cell] - _ROUNDING)

    def _extend(self, length: int) -> None:
        """Compute the first period up to a length: of the turns that may start, take the one due first."""
        for position in range(len(self._cells) + 1, length + 1):
            while self._waiting and self._waiting[0][0] <= position:
                _, cell, turn = heapq.heappop(self._waiting)
                due = (turn + 1 - self._slack) * self._period / self._weights[cell]
                heapq.heappush(self._ready, (due, self._tie_order[cell], cell, turn))
            _, _, cell, turn = heapq.heappop(self._ready)
            self._cells.append(cell)
            self._turns.append(turn)
            heapq.heappush(self._waiting, (self._start(cell, turn + 1), cell, turn + 1))


def _members(label: npt.ArrayLike, attribute: npt.ArrayLike, counts: Indices) -> list[list[Indices]]:
    """Return the indices of the samples of each cell, ``[y][a]``; `counts` is that of `gerne.cell_counts`."""
    n_classes, n_attributes = counts.shape
    group = np.asarray(label, dtype=np.int64) * n_attributes + np.asarray(attribute, dtype=np.int64)
    ordered = np.argsort(group, kind="stable").astype(np.int64)
    parts = np.split(ordered, np.cumsum(counts.ravel())[:-1])
    return [parts[y * n_attributes : (y + 1) * n_attributes] for y in range(n_classes)]


def _less_biased_weights(counts: Indices, c: float) -> list[list[int]]:
    """Return (1 - c) n/N_y + c/A_y of the non-empty cells as exact integers, up to a factor per class."""
    # Integers, so that the quotas have a finite period: 0.3 is taken as 3/10, not as its binary value.
    ratio = Fraction(repr(float(c)))
    weights = []
    for row in counts.tolist():
        total, n_present = sum(row), sum(n > 0 for n in row)
        uniform, natural = ratio.numerator * total, (ratio.denominator - ratio.numerator) * n_present
        weights.append([natural * n + uniform if n else 0 for n in row])
    return weights


def _check_sizes(batch_per_class: int, steps: int, seed: int) -> None:
    """Refuse sizes below 1 and a negative seed."""
    for name, value, least in (("batch_per_class", batch_per_class, 1), ("steps", steps, 1), ("seed", seed, 0)):
        if value < least:
            raise InputUnsupportedError(f"{name} = {value}", remedy=f"Use {least} or more.")
