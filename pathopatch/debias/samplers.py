"""Which samples make up each step: batches as pure functions of (seed, step).

All samplers here share two laws. (1) Quotas: per class and stream the seed fixes one long sequence of cells in which
every cell's count stays within one sample of its exact share at every position; a step takes the next stretch of it.
So a cell worth 0.4 samples a batch is met in two batches of five, not in none. (2) Permutations: within a cell
samples come from reshuffled permutations, so that all are seen equally often and small cells come round again.

Within a half the order of samples is a shuffle of its own (seed, stream and step): position tells neither class
nor attribute. Only the split into halves means something: `GerneBatchSampler` puts the biased half first.

Every sampler serves as ``batch_sampler`` of a ``torch.utils.data.DataLoader``; iteration starts at step 0 each
time, and ``batch(step)`` gives any step alone, for instance to resume.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.quota import CellSequence

_PERMUTATION, _ORDER = 1, 2  # what a generator is for: part of its seed, beside `quota.PHASE`
_BIASED, _LESS_BIASED = 0, 1  # streams: part of the seed too, so that the two halves differ at equal shares

Indices = npt.NDArray[np.int64]


class Stream(Protocol):
    """An endless stream of samples of each class."""

    def take(self, start: int, stop: int) -> Indices:
        """Return the samples at positions [start, stop) of every class."""

    def in_units(self, unit: int) -> Stream:
        """Return the same stream in which a cell, once named, gives `unit` samples; or refuse to."""


class BatchSampler:
    """Batches of indices, each the concatenation of one part per stream.

    Parameters
    ----------
    streams : sequence of Stream
        Where the parts come from, in their order in the batch.
    per_class : int
        Samples that each class of each stream gives to a step.
    steps : int
        Number of batches.
    seed : int
        Seed of the order within each part, from 0.
    """

    def __init__(self, streams: Sequence[Stream], *, per_class: int, steps: int, seed: int) -> None:
        self._streams = tuple(streams)
        self._per_class = per_class
        self._steps = steps
        self._seed = seed

    def batch(self, step: int) -> list[int]:
        """Return the indices of one step, a pure function of (seed, step).

        Parameters
        ----------
        step : int
            From 0 to ``len(self) - 1``.

        Returns
        -------
        list of int
            Indices into the arrays that the sampler was made of.

        Raises
        ------
        IndexError
            Any other step.
        """
        if not 0 <= step < self._steps:
            raise IndexError(f"step {step} of a sampler with {self._steps} steps")
        indices: list[int] = []
        for number, stream in enumerate(self._streams):
            part = stream.take(step * self._per_class, (step + 1) * self._per_class)
            order = np.random.default_rng([self._seed, _ORDER, number, step])
            indices += order.permutation(part).tolist()
        return indices

    @property
    def parts(self) -> int:
        """How many parts of equal size make up a batch, one after another: the halves of GERNE, else one."""
        return len(self._streams)

    def in_units(self, unit: int) -> Self:
        """Return the same batches in which a cell gives its samples `unit` at a time.

        Every step then holds a multiple of `unit` samples of each cell and part, which so many processes can share
        evenly; shares stay exact in the long run, with what is over carried to the next step.

        Parameters
        ----------
        unit : int
            At least 1; it must divide the samples of a class in each part.

        Raises
        ------
        InputUnsupportedError
            It does not.
        """
        if unit < 1 or self._per_class % unit:
            raise InputUnsupportedError(
                f"{self._per_class} samples of a class do not come in units of {unit}",
                place="batch_per_class",
                remedy=f"Make it a multiple of {max(unit, 1) * self.parts}.",
            )
        found = copy.copy(self)
        found._streams = tuple(stream.in_units(unit) for stream in self._streams)
        return found

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
        self,
        label: npt.ArrayLike,
        attribute: npt.ArrayLike,
        *,
        batch_per_class: int,
        c: float,
        steps: int,
        seed: int,
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        gerne.check_c(c)
        counts = gerne.cell_counts(label, attribute)
        gerne.check_cells(counts)
        cells = members(label, attribute, counts)
        streams = [
            ClassStream(cells, counts.tolist(), seed=seed, stream=_BIASED),
            ClassStream(cells, _less_biased_weights(counts, c), seed=seed, stream=_LESS_BIASED),
        ]
        super().__init__(streams, per_class=batch_per_class, steps=steps, seed=seed)


class GroupBalancedBatchSampler(BatchSampler):
    """Batches in which all classes, and within a class all its cells, have equal shares.

    Parameters
    ----------
    label, attribute : array_like of int, shape (N,)
        Class and attribute value of each sample, from 0.
    batch_per_class : int
        Samples of each class in a batch, K * batch_per_class in all.
    steps : int
        Number of batches.
    seed : int
        From 0.

    Raises
    ------
    GroupEmptyError
        An empty cell where A = 2, or an empty class (an empty cell where A > 2 warns).
    InputUnsupportedError
        Sizes below 1, a negative seed, or arrays that are no labels.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        counts = gerne.cell_counts(label, attribute)
        gerne.check_cells(counts)
        weights = (counts > 0).astype(np.int64).tolist()
        stream = ClassStream(members(label, attribute, counts), weights, seed=seed, stream=_BIASED)
        super().__init__([stream], per_class=batch_per_class, steps=steps, seed=seed)


class ClassBalancedBatchSampler(BatchSampler):
    """Batches in which all classes have equal shares and attributes stand as in the data, p(a|y) = alpha.

    The same stream as the biased half of `GerneBatchSampler`. Empty cells do not matter here; where no attribute is
    known, pass zeros.

    Parameters
    ----------
    label, attribute : array_like of int, shape (N,)
        Class and attribute value of each sample, from 0.
    batch_per_class : int
        Samples of each class in a batch, K * batch_per_class in all.
    steps : int
        Number of batches.
    seed : int
        From 0.

    Raises
    ------
    GroupEmptyError
        An empty class.
    InputUnsupportedError
        Sizes below 1, a negative seed, or arrays that are no labels.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        counts = gerne.cell_counts(label, attribute)
        gerne.check_cells(counts.sum(axis=1, keepdims=True))
        stream = ClassStream(members(label, attribute, counts), counts.tolist(), seed=seed, stream=_BIASED)
        super().__init__([stream], per_class=batch_per_class, steps=steps, seed=seed)


class UniformBatchSampler(BatchSampler):
    """Batches in which every sample has the same share, in reshuffled epochs: plain ERM.

    Parameters
    ----------
    label, attribute : array_like of int, shape (N,)
        Class and attribute value of each sample, from 0; only their number and the number of classes K count.
    batch_per_class : int
        A batch holds K * batch_per_class indices, as many as those of the other samplers.
    steps : int
        Number of batches.
    seed : int
        From 0.

    Raises
    ------
    InputUnsupportedError
        Sizes below 1, a negative seed, or arrays that are no labels.
    """

    def __init__(
        self, label: npt.ArrayLike, attribute: npt.ArrayLike, *, batch_per_class: int, steps: int, seed: int
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        counts = gerne.cell_counts(label, attribute)
        every = np.arange(counts.sum(), dtype=np.int64)
        stream = ClassStream([[every]], [[1]], seed=seed, stream=_BIASED)
        super().__init__([stream], per_class=len(counts) * batch_per_class, steps=steps, seed=seed)


class ClassStream:
    """An endless stream of samples of each class, in which cells keep their shares at every position.

    Parameters
    ----------
    cells : sequence of sequence of ndarray of int64, shape (n_ya,)
        Indices of the samples of cell (y, a), ``cells[y][a]``.
    weights : sequence of sequence of int
        Share of each cell in its class, up to a factor, ``weights[y][a]``; 0 for an empty cell.
    seed, stream : int
        Together they fix all of it.
    """

    def __init__(
        self, cells: Sequence[Sequence[Indices]], weights: Sequence[Sequence[int]], *, seed: int, stream: int
    ) -> None:
        self._cells = cells
        self._seed = seed
        self._stream = stream
        self._sequences = [CellSequence(row, key=(seed, stream, label)) for label, row in enumerate(weights)]
        self._permutations: dict[tuple[int, int], dict[int, Indices]] = {}
        self._unit = 1

    def in_units(self, unit: int) -> ClassStream:
        """Return the same stream in which a cell, once named, gives `unit` samples; read it in multiples of that."""
        found = copy.copy(self)
        found._permutations, found._unit = {}, unit
        return found

    def take(self, start: int, stop: int) -> Indices:
        """Return the samples at positions [start, stop) of every class.

        Parameters
        ----------
        start, stop : int
            Positions in the stream of one class, from 0.

        Returns
        -------
        ndarray of int64, shape (K * (stop - start),)
            Sorted by class, then by cell.
        """
        parts: list[Indices] = []
        for label, sequence in enumerate(self._sequences):
            cells, turns = sequence.draws(start // self._unit, stop // self._unit)
            cells, draws = np.repeat(cells, self._unit), np.add.outer(turns * self._unit, np.arange(self._unit)).ravel()
            parts += [self._samples(label, int(cell), draws[cells == cell]) for cell in np.unique(cells)]
        return np.concatenate(parts)

    def _samples(self, label: int, cell: int, draws: Indices) -> Indices:
        """Return the samples that the given draws of one cell fetch; draw d is in permutation d // n."""
        n = len(self._cells[label][cell])
        rounds, places = draws // n, draws % n
        found = np.empty(len(draws), dtype=np.int64)
        for k in np.unique(rounds):
            chosen = rounds == k
            found[chosen] = self._permutation(label, cell, int(k))[places[chosen]]
        return found

    def _permutation(self, label: int, cell: int, k: int) -> Indices:
        """Return permutation k of a cell; the two used last are kept."""
        known = self._permutations.setdefault((label, cell), {})
        if k not in known:
            rng = np.random.default_rng([self._seed, _PERMUTATION, self._stream, label, cell, k])
            while len(known) > 1:
                del known[next(iter(known))]
            known[k] = rng.permutation(self._cells[label][cell])
        return known[k]


def members(label: npt.ArrayLike, attribute: npt.ArrayLike, counts: Indices) -> list[list[Indices]]:
    """Return the indices of the samples of each cell, ``[y][a]``; `counts` are those of `gerne.cell_counts`."""
    n_classes, n_attributes = counts.shape
    group = np.asarray(label, dtype=np.int64) * n_attributes + np.asarray(attribute, dtype=np.int64)
    ordered = np.argsort(group, kind="stable").astype(np.int64)
    parts = np.split(ordered, np.cumsum(counts.ravel())[:-1])
    return [parts[y * n_attributes : (y + 1) * n_attributes] for y in range(n_classes)]


def _less_biased_weights(counts: Indices, c: float) -> list[list[int]]:
    """Return (1 - c) n/N_y + c/A_y of the non-empty cells as exact whole numbers, up to a factor per class."""
    ratio = Fraction(repr(float(c)))  # .3 as 3/10: its binary value would give a period without end
    weights = []
    for row in counts.tolist():
        total, present = sum(row), sum(n > 0 for n in row)
        pulled, rest = ratio.numerator * total, (ratio.denominator - ratio.numerator) * present
        weights.append([rest * n + pulled if n else 0 for n in row])
    return weights


def check_sizes(batch_per_class: int, steps: int, seed: int) -> None:
    """Refuse sizes below 1 and a negative seed."""
    for name, value, least in (("batch_per_class", batch_per_class, 1), ("steps", steps, 1), ("seed", seed, 0)):
        if value < least:
            raise InputUnsupportedError(f"{name} = {value}", remedy=f"Use {least} or more.")
