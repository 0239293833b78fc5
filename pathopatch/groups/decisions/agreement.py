"""Compare what reviewers decided of the same slides and patches: pairs, and Cohen's kappa with an interval by slide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathopatch.groups.decisions.decision import RecordedDecision, StandingDecisions, Subject
from pathopatch.metrics.bootstrap import interval, ratio, resampled, sums_by_patient

LEAST_SLIDES = 5
"""Fewer slides than this tell nothing of how slides differ: the interval is NaN."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two readers agree on items that both of them read."""

    n: int  # items
    n_slides: int  # of which they are
    n_agreed: int
    kappa: float  # in [-1, 1]; NaN without items, or where both readers gave one and the same answer to all
    low: float  # 95 % interval of kappa; NaN where there is none
    high: float


def agreement(
    first: Sequence[str], second: Sequence[str], slide: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> Agreement:
    """Return the agreement of two readers' answers to N items.

    Parameters
    ----------
    first, second : sequence of str, length N
        The answer of each reader to each item; every distinct text is a category.
    slide : sequence of str, length N
        The slide of each item. The interval resamples whole slides, since patches of one slide resemble each other.
    resamples : int
        Number of resamples.

    References
    ----------
    J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960) 37-46,
    equation 1.

    Examples
    --------
    >>> agreement(["a", "a", "b", "b"], ["a", "a", "b", "a"], ["s1", "s2", "s3", "s4"]).kappa
    0.5
    """
    n = len(first)
    nan = float("nan")
    if not n:
        return Agreement(n=0, n_slides=0, n_agreed=0, kappa=nan, low=nan, high=nan)
    categories, code = np.unique([*first, *second], return_inverse=True)
    k = len(categories)
    by_slide = sums_by_patient(np.eye(k * k)[k * code[:n] + code[n:]], np.asarray(slide, str))  # (S, K * K)
    is_enough = len(by_slide) >= LEAST_SLIDES
    low, high = interval(_kappa(resampled(by_slide, resamples=resamples, seed=seed), k)) if is_enough else (nan, nan)
    return Agreement(
        n=n,
        n_slides=len(by_slide),
        n_agreed=int((code[:n] == code[n:]).sum()),
        kappa=float(_kappa(by_slide.sum(axis=0)[None], k)[0]),
        low=low,
        high=high,
    )


def _kappa(counts: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the kappa of each table of counts (R, K * K), (R,)."""
    table = counts.reshape(-1, k, k)
    share = table / table.sum(axis=(1, 2), keepdims=True)
    observed = np.trace(share, axis1=1, axis2=2)
    by_chance = (share.sum(axis=2) * share.sum(axis=1)).sum(axis=1)
    # Sums of shares miss 1 by rounding: where chance alone agrees on all, kappa is 0 / 0.
    is_certain = np.isclose(by_chance, 1, rtol=0, atol=1e-12)
    kappa: NDArray[np.float64] = ratio(observed - by_chance, np.where(is_certain, 0, 1 - by_chance))
    return kappa


class Pair(NamedTuple):
    """Two reviewers' decisions on one slide or patch."""

    first: RecordedDecision
    second: RecordedDecision

    @property
    def agrees(self) -> bool:
        """Whether the verdicts are equal."""
        return self.first.verdict == self.second.verdict


def own_decisions(rows: Iterable[RecordedDecision]) -> dict[str, dict[Subject, RecordedDecision]]:
    """Return each reviewer's latest decision on each slide and patch that was not withdrawn, by reviewer and subject.

    A later decision of somebody else does not replace it. Adjudications are left out: they know the other verdicts.
    """
    own: dict[str, dict[Subject, RecordedDecision]] = {}
    for subject, standing in StandingDecisions(rows).by_subject.items():
        for row in standing.readings:
            own.setdefault(row.reviewer.strip(), {})[subject] = row
    return dict(sorted(own.items()))


def decision_pairs(rows: Iterable[RecordedDecision]) -> list[Pair]:
    """Return the decisions of each two reviewers on the same slide or patch, by slide and place.

    Verdicts on slides are about the map: pairs that saw different heatmaps are left out. Those on patches are about
    the tissue.
    """
    decisions_of = own_decisions(rows)
    pairs = [
        Pair(decisions_of[one][subject], decisions_of[other][subject])
        for one, other in combinations(decisions_of, 2)
        for subject in decisions_of[one].keys() & decisions_of[other].keys()
    ]
    comparable = [
        pair for pair in pairs if pair.first.kind == "patch" or pair.first.fingerprint == pair.second.fingerprint
    ]
    return sorted(comparable, key=_order)


def _order(pair: Pair) -> tuple[str, int, int, str, str]:
    place = (-1, -1) if pair.first.x is None or pair.first.y is None else (pair.first.y, pair.first.x)
    return pair.first.slide_id, *place, pair.first.reviewer, pair.second.reviewer
