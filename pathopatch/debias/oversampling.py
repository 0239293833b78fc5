"""Batch samplers that draw some samples more often than balance requires; laws as in `samplers`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.samplers import BatchSampler, ClassStream, check_sizes, extrapolated_weights, members


class ExtrapolatedBatchSampler(BatchSampler):
    """Batches with equal classes and p(a|y) = p_ext = alpha + s (1/A - alpha) in each, eq. 8 of [1]_, by drawing.

    GERNE follows these shares in expectation; here they are drawn. s = 0 is class-balanced ERM, s = 1 group-balanced;
    s > 1 draws the minority more often than the majority.

    Parameters
    ----------
    s : float
        c (beta + 1) of eq. 8; taken as the decimal number it is written as. The other parameters are those of
        `samplers.GroupBalancedBatchSampler`.

    Raises
    ------
    BetaOutOfBoundsError
        A share outside [0, 1] at this s; the message states the bounds.
    GroupEmptyError, InputUnsupportedError
        As `samplers.GroupBalancedBatchSampler`.

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
        stream = ClassStream(members(label, attribute, counts), extrapolated_weights(counts, s), seed=seed, stream=0)
        super().__init__([stream], per_class=batch_per_class, steps=steps, seed=seed)


class UpweightedBatchSampler(BatchSampler):
    """Batches of the data with every sample of attribute 1 in it several times, the second step of JTT [1]_.

    A cell's share is its number of samples, times `upweight` if the attribute is 1; classes are not balanced. Without
    samples of attribute 1 these are the shares of plain ERM.

    Parameters
    ----------
    attribute : array_like of int, shape (N,)
        1 for the samples to upweight, 0 for the others.
    upweight : float
        How often a sample of attribute 1 counts, at least 1; taken as the decimal number it is written as. The other
        parameters are those of `samplers.UniformBatchSampler`.

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
        # One class of all cells: classes keep the data's shares, as in the paper.
        cells = [cell for row in members(label, attribute, counts) for cell in row]
        stream = ClassStream([cells], [weights], seed=seed, stream=0)
        super().__init__([stream], per_class=len(counts) * batch_per_class, steps=steps, seed=seed)


def check_upweight(upweight: float) -> None:
    """Refuse a factor below 1, NaN or infinite."""
    if not (np.isfinite(upweight) and upweight >= 1):
        raise InputUnsupportedError(f"upweight = {upweight}", remedy="Use 1 or more, for instance 20.")
