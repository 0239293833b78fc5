"""Which cell stands at each position of a stream, so that every cell keeps its share at every position.

The chairman assignment problem: fill positions one by one such that after t of them each cell a has been named
share_a * t times, give or take less than one. Two cells have a closed form. More take Tijdeman's algorithm [1]_,
here as earliest deadline first: turn k of a cell may start once share * t >= k + slack and is due at
share * t = k + 1 - slack, with slack = 1 / (2 A - 2). It deviates by at most 1 - slack, and always finds a turn.

References
----------
.. [1] R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980) 323-330.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PHASE = 0  # what a generator is for: part of its seed

_ROUNDING = 1e-6  # positions; a turn starts on time though its start was computed a rounding error too late

Draws = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class CellSequence:
    """An endless sequence of cells in fixed shares, read at any position.

    Parameters
    ----------
    weights : sequence of int
        Shares up to a factor; a cell of weight 0 is never named.
    key : tuple of int
        Seed of the phase (two cells) or of the order among ties (more).
    """

    def __init__(self, weights: Sequence[int], *, key: tuple[int, ...]) -> None:
        divisor = math.gcd(*weights)
        self._weights = [weight // divisor for weight in weights]
        self._present = [cell for cell, weight in enumerate(weights) if weight]
        self._period = sum(self._weights)  # after so many positions all counts are exact, and all starts anew
        rng = np.random.default_rng([key[0], PHASE, *key[1:]])
        self._phase = float(rng.random())
        self._tie_order = rng.permutation(len(weights)).tolist()
        self._slack = 1 / max(2 * len(self._present) - 2, 2)
        self._cells, self._turns = array("q"), array("q")  # what is known so far of the first period
        self._ready: list[tuple[float, int, int, int]] = []  # (due, tie order, cell, turn)
        self._waiting = [(self._start(cell, 0), cell, 0) for cell in self._present]
        heapq.heapify(self._waiting)

    def draws(self, start: int, stop: int) -> Draws:
        """Return which cells stand at positions [start, stop), and how often each was named before.

        With two cells the work is that of the stretch alone. With more, the first period is computed up to
        ``stop`` once, and kept.

        Parameters
        ----------
        start, stop : int
            Positions from 0.

        Returns
        -------
        cells, turns : ndarray of int64, shape (stop - start,)
            The cell at each position, and the number of earlier positions that name the same cell.
        """
        if len(self._present) <= 2:
            return self._closed_form(start, stop)
        self._extend(min(int(stop), self._period))
        if stop <= self._period:
            return np.array(self._cells[start:stop]), np.array(self._turns[start:stop])
        rounds, places = np.divmod(np.arange(start, stop), self._period)
        # views without a copy: they must be gone before the arrays grow, and they are, being temporary
        cells = np.frombuffer(self._cells, dtype=np.int64)[places]
        turns = np.frombuffer(self._turns, dtype=np.int64)[places]
        return cells, turns + rounds * np.array(self._weights)[cells]

    def _closed_form(self, start: int, stop: int) -> Draws:
        """Name the last cell at position i where floor(share (i + 1) + phase) exceeds floor(share i + phase)."""
        first, last = self._present[0], self._present[-1]
        edges = np.arange(start, stop + 1)
        if first == last:
            return np.full(stop - start, first), edges[:-1]
        named = np.floor(self._weights[last] / self._period * edges + self._phase).astype(np.int64)
        is_last = np.diff(named) > 0
        cells = np.where(is_last, last, first)
        return cells, np.where(is_last, named[:-1], edges[:-1] - named[:-1])

    def _start(self, cell: int, turn: int) -> int:
        """Return the first position, counted from 1, at which a turn may be taken."""
        return math.ceil((turn + self._slack) * self._period / self._weights[cell] - _ROUNDING)

    def _extend(self, length: int) -> None:
        """Fill the first period up to a length."""
        for position in range(len(self._cells) + 1, length + 1):
            while self._waiting and self._waiting[0][0] <= position:
                _, cell, turn = heapq.heappop(self._waiting)
                due = (turn + 1 - self._slack) * self._period / self._weights[cell]
                heapq.heappush(self._ready, (due, self._tie_order[cell], cell, turn))
            _, _, cell, turn = heapq.heappop(self._ready)
            self._cells.append(cell)
            self._turns.append(turn)
            heapq.heappush(self._waiting, (self._start(cell, turn + 1), cell, turn + 1))
