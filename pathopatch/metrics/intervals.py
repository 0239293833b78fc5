"""95 % intervals that hold for few patients: of shares, of the worst of several, of AUROCs, and of their differences.

Percentiles of bootstrap draws do not hold: with 6 to 30 patients those of the worst of four groups cover 0.27 to 0.96,
since the lowest of four noisy shares is too low. The coverage of these is measured by ``pipelines/intervals``.
A *unit* is what is independent: a patient, or a block. Numbers of units are effective ones, see `effective_number`.

References
----------
.. [1] Wilson, "Probable inference", JASA 22 (1927) 209.
.. [2] Korn, Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
   from survey data", Survey Methodology 24 (1998) 193: as many independent samples as have the variance over units.
.. [3] Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", Statistics in
   Medicine 25 (2006) 559, method 5; with N / 2 in place of N / 2 - 1, which misses too often below 12 units.
.. [4] Zou, Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27 (2008) 1693.
.. [5] NIST Digital Library of Mathematical Functions, 8.17.1 and 8.17.4.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathopatch.metrics.bootstrap import FloatArray, effective_count, effective_number, ratio, resampled

Counts = NDArray[np.int64] | FloatArray

LEAST_UNITS_OF_INTERVAL = 4
"""Effective number of units, of each group for the worst one, below which there is no interval. At three an AUROC's
covers 0.79, and that of the worst group nearly the whole scale."""
_LEAST = LEAST_UNITS_OF_INTERVAL - 0.05  # four patients whose patches differ by a few count as four
NO_INTERVAL = f"for fewer than {LEAST_UNITS_OF_INTERVAL} {{unit}}s in a group, or in all, or 2 of a label"
_TAIL = 0.025
_NORMAL = NormalDist().inv_cdf(1 - _TAIL)
_NEAR_WORST = 2.0  # standard errors from the lowest group within which another may be the worst
_SHARES = np.linspace(0, 1, 10_001)
_NOTHING = float("nan"), float("nan")


@lru_cache(maxsize=256)
def t_quantile(tail: float, df: float) -> float:
    """Return the value above which Student's t of `df` >= 1 degrees of freedom has a share `tail`, to 1e-5 [5]_."""
    if not df < 1e5:  # a normal's; NaN of what has no interval
        return NormalDist().inv_cdf(1 - tail) + 0 * df
    angles = np.linspace(0, np.pi / 2, 50_001)
    height = np.sin(angles) ** (df - 1)
    area = np.concatenate([[0.0], np.cumsum(height[1:] + height[:-1])])
    return float(np.sqrt(df) / np.tan(np.interp(2 * tail * area[-1], area, angles)))


def score_interval(value: ArrayLike, variance: ArrayLike, units: ArrayLike, *, tail: float = _TAIL) -> FloatArray:
    """Return the score interval of shares or AUROCs, (2, ...), from their variance over units [1]_ [2]_.

    Where nothing varies, as where all are right, each unit counts as one sample. Of fewer than
    `LEAST_UNITS_OF_INTERVAL` units NaN. `tail` is what is left out at either end.
    """
    p, v, k = np.broadcast_arrays(*(np.asarray(each, np.float64) for each in (value, variance, units)))
    k = np.where(k >= _LEAST, k, np.nan)
    samples = ratio(p * (1 - p), v)
    samples = np.where(samples > 0, samples, k)  # a share of 0 or 1 varies by rounding alone
    t = np.reshape([t_quantile(tail, df) for df in np.ravel(k - 1)], k.shape) ** 2 / samples
    middle, half = p + t / 2, np.sqrt(t * (p * (1 - p) + t / 4))
    return np.asarray(np.stack([middle - half, middle + half]).clip(0, 1 + t) / (1 + t))


def deviations(hits: Counts, n: Counts) -> FloatArray:
    """Return what each unit adds to the error of each group's accuracy, (P, G), from its counts as `patient_counts`."""
    total = n.sum(axis=0)
    return np.asarray(ratio(hits - ratio(hits.sum(axis=0), total) * n, total))


def share_interval(hits: Counts, n: Counts) -> tuple[float, float]:
    """Return the interval of the mean of the groups' accuracies; of one group, (P, 1), that of its accuracy."""
    units = effective_number(n.sum(axis=1))
    variance = _of_units((deviations(hits, n).mean(axis=1) ** 2).sum(), units)
    low, high = score_interval(ratio(hits.sum(axis=0), n.sum(axis=0)).mean(), variance, units)
    return float(low), float(high)


def worst_interval(hits: Counts, n: Counts) -> tuple[float, float]:
    """Return the interval of the lowest accuracy of several groups (WGA).

    It reaches from the lowest of their lower ends to the lowest of their upper ends. The lowest accuracy lies below
    the former only if its own group's does. Any group that may be the worst can push the latter too low, so the
    upper ends of these share the 2.5 %.
    """
    accuracy, units = ratio(hits.sum(axis=0), n.sum(axis=0)), effective_number(n)
    variance = _of_units((deviations(hits, n) ** 2).sum(axis=0), units)
    low, high = score_interval(accuracy, variance, units)
    if np.isnan(low).any():
        return _NOTHING
    near = low <= high.min()
    _, high = score_interval(accuracy[near], variance[near], units[near], tail=_TAIL / near.sum())
    return float(low.min()), float(high.min())


def worst_difference_interval(
    hits: Counts, others: Counts, n: Counts, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the WGA of `hits` less that of `others`, on the same patches, (P, G) each.

    By Student's t and the spread in draws of units. The lowest of several equal accuracies comes out too low, so either
    end reaches further by what the WGA of that side may have lost: without it coverage falls to 0.84 where one model
    has one bad group, and the other four equal ones.
    """
    units = effective_number(n.sum(axis=1))
    if resamples == 0 or not (effective_number(n) >= _LEAST).all():
        return _NOTHING
    drawn = resampled(np.concatenate([hits, others, n], axis=1).astype(np.float64), resamples=resamples, seed=seed)
    *counts, drawn_n = np.split(drawn, 3, axis=1)
    both = [ratio(each.sum(axis=0), n.sum(axis=0)) for each in (hits, others)]
    drawn_both = [ratio(each, drawn_n) for each in counts]
    value = both[0].min() - both[1].min()
    spread = np.nanvar(drawn_both[0].min(axis=1) - drawn_both[1].min(axis=1))
    reach = t_quantile(_TAIL, units - 1) * np.sqrt(_of_units(spread, units))
    lost, lost_by_other = (_lost(*each) for each in zip(both, drawn_both, strict=True))
    return max(-1.0, float(value - reach - lost_by_other)), min(1.0, float(value + reach + lost))


def _lost(accuracy: FloatArray, drawn: FloatArray) -> float:
    """Return how far the lowest of the accuracies (G,) may lie below the true one, from draws of them (R, G)."""
    worst = int(accuracy.argmin())
    near = accuracy - accuracy[worst] <= _NEAR_WORST * np.nanstd(drawn - drawn[:, [worst]], axis=0)
    return max(0.0, -float(np.nanmean((drawn - accuracy)[:, near].min(axis=1))))


def rank_interval(value: float, draws: FloatArray, unit: ArrayLike, label: ArrayLike) -> tuple[float, float]:
    """Return the interval of an AUROC of samples, also at equal area, from its draws of units (R,).

    `unit` and `label` (0 or 1) are (N,). NaN where a label has fewer than two units, by their effective number.
    """
    ids, y, units = np.asarray(unit), np.asarray(label), effective_count(unit)
    if np.isnan(draws).all() or min(round(effective_count(ids[y == each])) for each in (0, 1)) < 2:
        return _NOTHING
    low, high = score_interval(value, _of_units(np.nanvar(draws), units), units)
    return float(low), float(high)


def difference_interval(value: float, draws: FloatArray, units: float) -> tuple[float, float]:
    """Return the interval of a difference of two AUROCs, by Student's t, from paired draws of units (R,)."""
    if np.isnan(draws).all() or units < _LEAST:
        return _NOTHING
    half = float(t_quantile(_TAIL, units - 1) * np.sqrt(_of_units(np.nanvar(draws), units)))
    return max(-1.0, value - half), min(1.0, value + half)


def mann_whitney_interval(
    value: float, positive: ArrayLike, negative: ArrayLike, *, units: float
) -> tuple[float, float]:
    """Return the interval of an AUROC of slides or patients, to 1e-4 [3]_.

    `positive` and `negative` (F,) are the numbers of units of either label in each fold, pairs of which are compared,
    and `units` that of both, which is less than their sum where a unit has both. NaN where a label has fewer than two.
    """
    m, n = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    pairs = m * n
    if np.isnan(value) or min(m.sum(), n.sum()) < 2 or units < _LEAST:
        return _NOTHING
    of_shape = (1 - _SHARES) / (2 - _SHARES) + _SHARES / (1 + _SHARES)  # the variance of exponential scores
    variance = _SHARES * (1 - _SHARES) * (pairs.sum() + (pairs * (m + n) / 2).sum() * of_shape) / pairs.sum() ** 2
    inside = _SHARES[np.abs(value - _SHARES) <= _NORMAL * np.sqrt(variance) + 1e-9]
    return float(inside.min(initial=value)), float(inside.max(initial=value))


def over_repetitions(values: FloatArray, ends: FloatArray) -> tuple[float, float, float]:
    """Return the mean of repetitions (S,), such as seeds, and its ends, from those of each over units (S, 2).

    The distances to the ends over units, and Student's t of the mean over repetitions, add up as squares [4]_. One
    repetition tells no spread: its ends are those over units alone.
    """
    count, mean = len(values), float(values.mean())
    spread = t_quantile(_TAIL, count - 1) * float(values.std(ddof=1)) / np.sqrt(count) if count > 1 else 0.0
    below, above = np.hypot(np.abs(ends.mean(axis=0) - mean), spread)
    return mean, mean - float(below), mean + float(above)


def p_of_interval(value: float, low: float, high: float) -> float:
    """Return the two-sided p of a difference of 0: that of a normal with this 95 % interval; NaN without one."""
    reach = value - low if value > 0 else high - value
    return 2 * NormalDist().cdf(-_NORMAL * abs(value) / reach) if reach > 0 else float("nan")


def _of_units(squares: Any, units: Any) -> Any:
    """Return the variance over units from squares that are short by (units - 1) / units."""
    return squares * ratio(units, units - 1)
