"""Measure how a model's margins answer to the tissue area that was set, and the limits of what is no reliance on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_ADJ = 100.0
_FLAT = 1e-6  # spread of the patches' mean margins, by the largest margin: below it all patches are one to the model


def eta(z: Floats) -> float:
    """Return the share of the variance of margins (N, T) that the area explains, in [0, 1]; NaN of equal margins."""
    total = float(z.var())
    return float(z.mean(axis=0).var() / total) if total > 0 else float("nan")


def adj(z: Floats, first: int = 0, last: int = -1) -> float:
    """Return how far an undecided patch moves from one area to another, by default the largest; margins (N, T).

    It is the intercept of the regression of the move over the patch's mean margin, in standard deviations of the
    patches' mean margins: a patch with more of either tissue gives more evidence for its own class, and that is not
    reliance on the area. It is at most `MOST_ADJ`: where all patches are one to the model, there is no spread.
    """
    mean, move = z.mean(axis=1), z[:, last] - z[:, first]
    spread, largest = float(mean.std()), float(np.abs(z).max())
    if len(z) < 2 or largest == 0:
        return float("nan")
    if spread < _FLAT * largest:  # all patches are one to the model, and none is less decided
        return float(np.sign(move.mean()) * MOST_ADJ) if abs(move.mean()) > _FLAT * largest else 0.0
    _, intercept = np.polyfit(mean, move, 1)
    return float(np.clip(intercept / spread, -MOST_ADJ, MOST_ADJ))


def adj_of_answers(z: Floats, first: int = 0, last: int = -1) -> float:
    """Return how far the share of patches called tumour moves from one area to another, as the difference of probits.

    Of yes/no answers (N, T), above 0 for tumour, it is what `adj` is of margins: both are in standard deviations of
    what lies behind the answers, whatever share of them is tumour.
    """
    n = len(z)
    low, high = (NormalDist().inv_cdf((np.count_nonzero(z[:, place] > 0) + 0.5) / (n + 1)) for place in (first, last))
    return high - low if n > 1 else float("nan")


@dataclass(frozen=True)
class Rule:
    """How the move of an undecided patch is measured, and the limits of a verdict; fixed before any model was asked."""

    adj: Callable[..., float]
    least_eta: float  # share of the variance
    most_eta: float  # a small adj alone acquits below it: else the answers follow the area, but not one way
    least_adj: float  # standard deviations of the patches' mean margins, or of what lies behind yes and no


MARGINS = Rule(adj, least_eta=0.06, most_eta=0.12, least_adj=0.65)
YES_NO = Rule(adj_of_answers, least_eta=0.03, most_eta=0.06, least_adj=0.6)
"""Of answers without a margin: where the limits of `MARGINS` lie in simulated margins that are cut to yes and no."""
