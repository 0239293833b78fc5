"""Compare two pieces of work by CPU seconds: in turn within one run, and by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

REPEATS = 5

Work = Callable[[], object]
Pieces = Callable[[], Sequence[Work]]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Parameters
    ----------
    name : str
        What is compared with what, on which file.
    ratio : float
        What was measured.
    goal : float or None
        What it should be: where there is a limit, a share of it. None: it is only told.
    sense : {"at least", "at most"}
        On which side of the goal.
    unit : str
        What kind of number it is.
    limit : float, optional
        What nothing could exceed on this machine, measured in the same run: a bare decoder, a bare matrix product.
    """

    name: str
    ratio: float
    goal: float | None
    sense: str = "at least"
    unit: str = "ratio of CPU seconds"
    limit: float | None = None

    @classmethod
    def of_limit(cls, name: str, ratio: float, limit: float, share: float) -> Row:
        """A speed whose goal is a share of the limit."""
        return cls(name, ratio, share * limit, limit=limit)

    @property
    def is_met(self) -> bool:
        return self.goal is None or (self.ratio >= self.goal if self.sense == "at least" else self.ratio <= self.goal)


def cpu_seconds(work: Work) -> float:
    """CPU seconds of all threads of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(first: Pieces, second: Pieces, *, repeats: int = REPEATS) -> float:
    """Median of the CPU seconds of `first` by those of `second`.

    Each returns its work in as many pieces as the other, made anew for every repeat so that nothing is left from the
    one before; the pieces of both alternate, and so does which comes first. The first repeat is the warm-up.
    """
    ratios = []
    for repeat in range(repeats + 1):
        for place, (one, other) in enumerate(zip(first(), second(), strict=True)):
            if (place + repeat) % 2:
                of_other, of_one = cpu_seconds(other), cpu_seconds(one)
            else:
                of_one, of_other = cpu_seconds(one), cpu_seconds(other)
            if repeat:
                ratios.append(of_one / of_other)
    return statistics.median(ratios)


def speedup(ours: Pieces, other: Pieces, *, repeats: int = REPEATS) -> float:
    """Median of how many times as fast we are."""
    return ratio(other, ours, repeats=repeats)


def require_equal(ours: Iterable[Any], other: Iterable[Any]) -> None:
    """Stop unless two readings give the same arrays: speeds of different outputs say nothing."""
    for count, (one, two) in enumerate(zip(ours, other, strict=True)):
        if not np.array_equal(one, two):
            raise SystemExit(f"output {count} differs: nothing to compare")
