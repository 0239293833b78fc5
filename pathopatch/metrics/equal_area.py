"""AUROC at equal area: how often tumour scores above non-tumour among patches of nearly the same tissue fraction.

Pairs are a tumour and a non-tumour patch of one stratum (fold), near by `DISTANCE` and by one of `CALIPERS`. An offset
of the scores by area nearly cancels in it. So it stands beside the worst-group accuracy, and does not replace it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.metrics.bootstrap import FloatArray, IntArray, merged_units, ratio, resampled

DISTANCE = 0.02
"""Largest difference of the tissue fractions of a pair."""
CALIPERS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0)
"""Largest differences of a pair's ranks, as shares of all patches: the widest where the area tells nothing."""
_ROUNDING = 1e-9  # fractions are quotients of pixels: 0.31 - 0.29 is 0.020000000000000018
_TENTHS = 10
_LEAST_PAIRS = 30  # of a narrower caliper: with 100 a value errs as much, and small sets are left without a caliper


@dataclass(frozen=True, eq=False)
class EqualArea:
    """AUROC at equal area, and the pairs that it rests on; NaN where there is no pair."""

    value: float  # each pair counts once
    even: float  # mean of `tenths` that have a pair: each area counts once
    tenths: FloatArray  # (10,), of the pairs whose mean fraction lies in [0, 0.1), [0.1, 0.2), …, [0.9, 1]
    answered: float  # of the pairs in which both patches have an answer
    pairs: int
    partnered: float  # share of the tumour patches that are in a pair
    caliper: float  # one of `CALIPERS`
    floor: float  # what the tissue fraction itself reaches; see `tells_area`


def auroc_at_equal_area(
    score: npt.ArrayLike,
    label: npt.ArrayLike,
    fraction: npt.ArrayLike,
    *,
    stratum: npt.ArrayLike | None = None,
    answered: npt.ArrayLike | None = None,
) -> EqualArea:
    """Return how often a tumour patch scores above a non-tumour patch of the same stratum and nearly the same area.

    Parameters
    ----------
    score : array_like of float, shape (N,)
        Higher = more likely tumour; may be infinite, and equal scores count half.
    label : array_like of int, shape (N,)
        1 tumour, 0 non-tumour.
    fraction : array_like of float, shape (N,)
        Tissue fraction in [0, 1].
    stratum : array_like, shape (N,), optional
        Patches of different strata make no pair: scores of the networks of different folds are not comparable.
    answered : array_like of bool, shape (N,), optional
        Patches that the model answers; a pair with another one counts as wrong. By default all.

    Raises
    ------
    InputUnsupportedError
        Arrays of different lengths, a label that is neither 0 nor 1, or a fraction outside [0, 1].
    NonFiniteError
        A score of an answered patch, or a fraction, is NaN.

    Examples
    --------
    >>> auroc_at_equal_area([0.2, 0.9, 0.1], [1, 0, 0], [0.30, 0.80, 0.31]).value
    1.0
    """
    patches = _Patches.of(score, label, fraction, stratum, answered)
    positive, negative = patches.rows(patches.label == 1), patches.rows(patches.label == 0)
    caliper, floor = _caliper(positive, negative)
    first, end = negative.near(positive, caliper)
    # The mean of two near fractions lies on either side of at most one bound of the tenths, the one nearest to both.
    bound = np.rint(_TENTHS * positive.fraction)
    offset = positive.key - positive.fraction
    middle = np.searchsorted(negative.key, offset + 2 * bound / _TENTHS - positive.fraction - 2 * _ROUNDING)
    middle = np.clip(middle, first, end)
    begins, ends = np.concatenate([first, middle]), np.concatenate([middle, end])
    tenth = np.clip(np.concatenate([bound - 1, bound]), 0, _TENTHS - 1).astype(np.int64)
    has_pair = begins < ends
    level = np.concatenate([positive.level, positive.level])[has_pair]
    wins = negative.below(level, begins[has_pair], ends[has_pair])
    won = np.bincount(tenth[has_pair], weights=wins, minlength=_TENTHS)
    pairs = np.bincount(tenth, weights=ends - begins, minlength=_TENTHS)  # float64 is exact up to 9e15 pairs
    tenths: FloatArray = ratio(won, pairs)
    value = float(ratio(won.sum(), pairs.sum()))
    known = tenths[np.isfinite(tenths)]
    # A patch without an answer wins no pair, so the pairs that are won are those of answered patches.
    before = np.concatenate([[0], np.cumsum(negative.level < len(patches.level))])
    of_answered = (before[end] - before[first])[positive.level >= 0].sum()
    return EqualArea(
        value=value,
        even=float(known.mean()) if len(known) else float("nan"),
        tenths=tenths,
        answered=float(ratio(won.sum(), of_answered)),
        pairs=int(pairs.sum()),
        partnered=float((first < end).mean()) if len(first) else float("nan"),
        caliper=caliper,
        floor=floor,
    )


def compared_text(caliper: float, floor: float) -> str:
    """Return which patches are compared at equal area, what the fraction itself reaches, and if that is too much."""
    by_rank = f" and by at most {100 * caliper:g} % of all ranks" if caliper < CALIPERS[0] else ""
    pairs = f"whose tissue fractions differ by at most {DISTANCE:g}{by_rank}" if caliper else "of equal tissue fraction"
    reached = "there is no pair" if np.isnan(floor) else f"the fraction itself reaches {floor:.3f}"
    told = ", so a value cannot be told apart from area here" if tells_area(floor) else ""
    return f"patches {pairs}; {reached}{told}"


def tells_area(floor: float) -> bool:
    """Return whether a floor is outside 0.45 to 0.55, so that no value at equal area claims anything."""
    return bool(abs(floor - 0.5) > 0.05 + _ROUNDING)


def equal_area_draws(
    score: npt.ArrayLike,
    label: npt.ArrayLike,
    fraction: npt.ArrayLike,
    unit: npt.ArrayLike,
    *,
    stratum: npt.ArrayLike | None = None,
    answered: npt.ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> FloatArray:
    """Return AUROC at equal area in bootstrap draws of units (patients), (R,); NaN with fewer than two units.

    Pairs are those between units and within them, at the caliper of all patches, and a unit keeps its stratum. `unit`
    is (N,); the other arguments and the errors are those of `auroc_at_equal_area`. Calls with the same units and seed
    draw the same units, and no score changes the caliper, so differences of two models are paired.
    """
    patches = _Patches.of(score, label, fraction, stratum, answered)
    code, n_units = merged_units(unit, seed=seed)
    if n_units < 2 or resamples == 0:
        return np.full(resamples, np.nan)
    positive, of_positive = patches.rows(patches.label == 1), code[patches.order][patches.label == 1]
    caliper, _ = _caliper(positive, patches.rows(patches.label == 0))
    wins, pairs = np.zeros((2, n_units, n_units))
    for number in range(n_units):
        negative = patches.rows((patches.label == 0) & (code[patches.order] == number))
        first, end = negative.near(positive, caliper)
        has_pair = first < end
        of_unit = of_positive[has_pair]
        won = negative.below(positive.level[has_pair], first[has_pair], end[has_pair])
        wins[:, number] = np.bincount(of_unit, weights=won, minlength=n_units)
        pairs[:, number] = np.bincount(of_unit, weights=(end - first)[has_pair], minlength=n_units)
    times_drawn = resampled(np.eye(n_units), resamples=resamples, seed=seed)
    won, compared = (((times_drawn @ table) * times_drawn).sum(axis=1) for table in (wins, pairs))
    return np.asarray(ratio(won, compared))


@dataclass(frozen=True, eq=False)
class _Patches:
    """Patches in the order of their stratum and tissue fraction; all arrays are (N,)."""

    order: IntArray  # place of each in the arrays that were given
    key: FloatArray  # tissue fraction, and 2 more for each stratum: patches of two strata are at least 1 apart
    rank: FloatArray  # of the tissue fraction among all patches, as a share of them, with the same 2 for each stratum
    fraction: FloatArray
    label: IntArray
    level: IntArray  # rank of the score; without an answer tumour is below, and non-tumour above, all the others

    @classmethod
    def of(
        cls,
        score: npt.ArrayLike,
        label: npt.ArrayLike,
        fraction: npt.ArrayLike,
        stratum: npt.ArrayLike | None,
        answered: npt.ArrayLike | None,
    ) -> _Patches:
        """Check the arrays and sort them."""
        values, area, y = np.asarray(score, np.float64), np.asarray(fraction, np.float64), np.asarray(label)
        has_answer = np.ones(y.shape, np.bool_) if answered is None else np.asarray(answered, np.bool_)
        strata = np.zeros(len(y)) if stratum is None else np.unique(np.asarray(stratum), return_inverse=True)[1]
        shapes = {values.shape, area.shape, y.shape, has_answer.shape, strata.shape}
        if len(shapes) > 1 or y.ndim != 1 or not np.isin(y, (0, 1)).all():
            raise InputUnsupportedError(
                f"arrays of shapes {sorted(shapes)}, labels {np.unique(y)[:5].tolist()}",
                remedy="Give one value per patch in each, and labels of 0 and 1.",
            )
        if np.isnan(area).any() or np.isnan(values[has_answer]).any():
            raise NonFiniteError(
                "a score or a tissue fraction is NaN", remedy="Leave out patches without either, or fix the model."
            )
        if ((area < 0) | (area > 1)).any():
            raise InputUnsupportedError(
                f"a tissue fraction of {area.min():g} to {area.max():g}", remedy="Give shares of the patch, 0 to 1."
            )
        level = np.unique(np.where(has_answer, values, 0), return_inverse=True)[1]
        level = np.where(has_answer, level, np.where(y == 1, -1, len(y)))
        key = area + 2 * strata
        order = np.argsort(key, kind="stable")
        _, place, count = np.unique(area, return_inverse=True, return_counts=True)
        rank = (np.cumsum(count) - count / 2)[place] / len(y) + 2 * strata  # equal fractions have their mean rank
        return cls(order, key[order], rank[order], area[order], y[order].astype(np.int64), level[order])

    def rows(self, chosen: npt.NDArray[np.bool_]) -> _Patches:
        """Return some of the patches, in the same order."""
        return _Patches(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def near(self, others: _Patches, caliper: float) -> tuple[IntArray, IntArray]:
        """Return the first and the end of the patches near each of some others, (M,) each."""
        limits = [(self.key, others.key, DISTANCE)]
        limits += [(self.rank, others.rank, caliper)] if caliper < CALIPERS[0] else []
        first = [np.searchsorted(own, place - reach - _ROUNDING, "left") for own, place, reach in limits]
        end = [np.searchsorted(own, place + reach + _ROUNDING, "right") for own, place, reach in limits]
        return np.max(first, axis=0), np.min(end, axis=0)

    def below(self, level: IntArray, first: IntArray, end: IntArray) -> FloatArray:
        """Return how many of the patches `first` to `end` have a lower level than `level`, half of equal ones, (M,)."""
        by_level = np.argsort(self.level, kind="stable")
        rank = np.empty(len(by_level), np.int64)
        rank[by_level] = np.arange(len(by_level))
        levels = self.level[by_level]
        counts = [_count_below(rank, first, end, np.searchsorted(levels, level, side)) for side in ("left", "right")]
        return (counts[0] + counts[1]) / 2


def _caliper(positive: _Patches, negative: _Patches) -> tuple[float, float]:
    """Return the widest caliper at which the fraction itself tells nothing, else the widest of all, and its floor."""
    below = sum(np.searchsorted(negative.key, positive.key, side) for side in ("left", "right")) / 2
    floors: list[float] = []
    for caliper in CALIPERS:
        first, end = negative.near(positive, caliper)
        pairs = (end - first).sum()
        floors.append(float(ratio((below - first).sum(), pairs)))
        if not tells_area(floors[-1]) and (pairs >= _LEAST_PAIRS or len(floors) == 1):
            return caliper, floors[-1]
    return CALIPERS[0], floors[0]


def _count_below(rank: IntArray, first: IntArray, end: IntArray, limit: IntArray) -> IntArray:
    """Return how many of ``rank[first:end]`` are below `limit`, (M,): by a wavelet matrix, in O(log N) for each query.

    `rank` (N,) is a permutation of 0 to N - 1; `first`, `end` and `limit` are (M,), each from 0 to N.
    """
    count = np.zeros(len(limit), np.int64)
    for bit in reversed(range(len(rank).bit_length())):
        has_bit = (rank >> bit & 1).astype(np.bool_)
        zeros_before = np.concatenate([[0], np.cumsum(~has_bit)])
        first_zero, end_zero = zeros_before[first], zeros_before[end]
        # Of ranks that agree with the limit in all higher bits, those with a 0 where it has a 1 are below it.
        limit_has_bit = (limit >> bit & 1).astype(np.bool_)
        count += np.where(limit_has_bit, end_zero - first_zero, 0)
        first = np.where(limit_has_bit, zeros_before[-1] + first - first_zero, first_zero)
        end = np.where(limit_has_bit, zeros_before[-1] + end - end_zero, end_zero)
        rank = np.concatenate([rank[~has_bit], rank[has_bit]])
    return count
