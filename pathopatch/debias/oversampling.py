"""Which samples make up each step where some are drawn more often than balance asks: batches by (seed, step).

The batches keep the two laws of `samplers`: exact shares at every position, and reshuffled permutations in each cell.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.samplers import BatchSampler, ClassStream, Indices, check_sizes, members


class ExtrapolatedBatchSampler(BatchSampler):
    """Batches with equal classes and p(a|y) = p_ext = alpha + s (1/A - alpha) in each, eq. 8 of [1]_, by drawing.

    What GERNE follows in expectation is drawn here outright. s = 0 is class-balanced ERM, s = 1 group-balanced, s > 1
    draws the minority more often than the majority.

    Parameters
    ----------
    label, attribute : array_like of int, shape (N,)
        Class and attribute value of each sample, from 0.
    batch_per_class : int
        Samples of each class in a batch, K * batch_per_class in all.
    s : float
        c (beta + 1) of eq. 8; counted as the decimal number it is written as.
    steps : int
        Number of batches.
    seed : int
        From 0.

    Raises
    ------
    BetaOutOfBoundsError
        A share outside [0, 1] at this s; the message states the bounds.
    GroupEmptyError
        An empty cell where A = 2, or an empty class (an empty cell where A > 2 warns).
    InputUnsupportedError
        Sizes below 1, a negative seed, or arrays that are no labels.

    References
    ----------
    .. [1] Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236.
    """

    def __init__(
        self,
        label: npt.ArrayLike,
        attribute: npt.ArrayLike,
        *,
        batch_per_class: int,
        s: float,
        steps: int,
        seed: int,
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        counts = gerne.cell_counts(label, attribute)
        gerne.check_cells(counts)
        gerne.check_s(counts / counts.sum(axis=1, keepdims=True), s)
        stream = ClassStream(members(label, attribute, counts), _extrapolated_weights(counts, s), seed=seed, stream=0)
        super().__init__([stream], per_class=batch_per_class, steps=steps, seed=seed)


class UpweightedBatchSampler(BatchSampler):
    """Batches of the data with every sample of attribute 1 in it several times, the second step of JTT [1]_.

    A cell's share is its number of samples, times `upweight` where the attribute is 1; classes are not balanced.
    Without samples of attribute 1 these are the shares of plain ERM.

    Parameters
    ----------
    label, attribute : array_like of int, shape (N,)
        Class of each sample, from 0, and whether it is one of the samples to upweight (1) or not (0).
    batch_per_class : int
        A batch holds K * batch_per_class indices, as many as those of the other samplers.
    upweight : float
        How many samples one of attribute 1 stands for, at least 1; counted as the decimal number it is written as.
    steps : int
        Number of batches.
    seed : int
        From 0.

    Raises
    ------
    InputUnsupportedError
        upweight below 1 or not finite, sizes below 1, a negative seed, or arrays that are no labels.

    References
    ----------
    .. [1] Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information", ICML 2021,
       arXiv:2107.09044, Algorithm 1.
    """

    def __init__(
        self,
        label: npt.ArrayLike,
        attribute: npt.ArrayLike,
        *,
        batch_per_class: int,
        upweight: float,
        steps: int,
        seed: int,
    ) -> None:
        check_sizes(batch_per_class, steps, seed)
        check_upweight(upweight)
        counts = gerne.cell_counts(label, attribute)
        ratio = Fraction(repr(float(upweight)))
        weights = [
            n * (ratio.numerator if a == 1 else ratio.denominator) for row in counts.tolist() for a, n in enumerate(row)
        ]
        cells = [cell for row in members(label, attribute, counts) for cell in row]
        stream = ClassStream([cells], [weights], seed=seed, stream=0)
        super().__init__([stream], per_class=len(counts) * batch_per_class, steps=steps, seed=seed)


def check_upweight(upweight: float) -> None:
    """Refuse a factor that would draw the upweighted samples less often than the others.

    Raises
    ------
    InputUnsupportedError
        Below 1, NaN or infinite.
    """
    if not (np.isfinite(upweight) and upweight >= 1):
        raise InputUnsupportedError(f"upweight = {upweight}", remedy="Use 1 or more, for instance 20.")


def _extrapolated_weights(counts: Indices, s: float) -> list[list[int]]:
    """Return (1 - s) n/N_y + s/A_y of the non-empty cells as exact whole numbers, up to a factor per class."""
    ratio = Fraction(repr(float(s)))  # .3 as 3/10: its binary value would give a period without end
    weights = []
    for row in counts.tolist():
        total, present = sum(row), sum(n > 0 for n in row)
        pulled, rest = ratio.numerator * total, (ratio.denominator - ratio.numerator) * present
        weights.append([max(0, rest * n + pulled) if n else 0 for n in row])  # 0: at a bound, rounded below it
    return weights
