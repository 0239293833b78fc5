"""Measure how often the intervals of the evaluation hold, and how often equal methods are told apart, on made cohorts.

    python pipelines/intervals/coverage.py ranks      # AUROC of slides and patients: 1 minute on one core
    python pipelines/intervals/coverage.py groups     # worst group, and differences of it: 2 minutes
    python pipelines/intervals/coverage.py area       # AUROC at equal area, and differences of it: 25 minutes
    python pipelines/intervals/coverage.py outcomes   # better, evener, traded, worse of equal methods: 10 minutes

Each writes a table beside this file. Margins are normal: a shift by label, an effect of the patient (sd 0.5) and noise
of the patch (sd 1), with 15 to 40 patches of each patient and group, or label.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.special import ndtri

from pathopatch.evaluation.reference import Measured, Outcome, difference, outcome_of
from pathopatch.metrics.bootstrap import effective_count
from pathopatch.metrics.equal_area import auroc_at_equal_area, equal_area_draws
from pathopatch.metrics.intervals import (
    difference_interval,
    mann_whitney_interval,
    rank_interval,
    worst_difference_interval,
    worst_interval,
)

UNITS = (6, 10, 12, 20, 30, 100)
TRUTHS = (0.6, 0.76, 0.83, 0.95, 0.99)
PATIENT_SD = 0.5
SIGN = np.array([-1, -1, 1, 1])  # a patient's effect on the margin raises the accuracy of tumour, and lowers the other
DRAWS = 500


def of_group(truth: float) -> dict[str, np.ndarray]:
    """Return the true accuracies of the four groups, the lowest of which is the truth."""
    others = 1 - (1 - truth) / 3
    return {"four equal": np.full(4, truth), "one bad": np.array([truth, others, others, others])}


def sizes(rng: np.random.Generator, units: int, *, is_mixed: bool) -> np.ndarray:
    """Return patches of each patient in the groups (label 0 little, much; label 1 little, much)."""
    n = rng.integers(15, 41, (units, 4))
    if not is_mixed:  # one label a patient
        n[::2, 2:] = 0
        n[1::2, :2] = 0
    return n


def two_methods(rng: np.random.Generator, n: np.ndarray, accuracies: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """Return the hits of two methods, (P, 4) each, that share half of the variance of patients and patches."""
    units, most = len(n), int(n.max())
    is_patch = np.arange(most) < n[:, :, None]
    shared = (SIGN * rng.normal(0, PATIENT_SD, (units, 1)))[:, :, None] + rng.normal(size=(units, 4, most))
    hits = []
    for accuracy in accuracies:
        own = (SIGN * rng.normal(0, PATIENT_SD, (units, 1)))[:, :, None] + rng.normal(size=(units, 4, most))
        margin = ndtri(accuracy)[:, None] * np.sqrt(1 + PATIENT_SD**2) + (shared + own) * np.sqrt(0.5)
        hits.append(((margin > 0) & is_patch).sum(axis=2))
    return hits


def tally(truth: float, ends: list[tuple[float, float]], **about: object) -> dict[str, object]:
    """Return how often intervals were given, held the truth, and lay wholly below or above it."""
    low, high = np.array(ends).T
    given = ~np.isnan(low)
    row = {**about, "truth": round(truth, 3), "cohorts": len(ends), "given": given.mean()}
    if not given.any():
        return row
    low, high = low[given], high[given]
    below, above = (high < truth - 1e-9).mean(), (low > truth + 1e-9).mean()
    return row | {"covered": 1 - below - above, "below": below, "above": above, "width": (high - low).mean()}


def ranks(cohorts: int) -> Iterator[dict[str, object]]:
    """Yield the coverage of the AUROC of slides: one normal score each, half of them tumour."""
    for units in UNITS:
        for truth in TRUTHS:
            rng = np.random.default_rng((units, int(1000 * truth)))
            ends = []
            for _ in range(cohorts):
                tumor, other = rng.normal(np.sqrt(2) * ndtri(truth), 1, units // 2), rng.normal(0, 1, units // 2)
                value = float((tumor[:, None] > other).mean())
                ends.append(mann_whitney_interval(value, units // 2, units // 2, units=units))
            yield tally(truth, ends, measure="AUROC of slides", units=units)


def groups(cohorts: int) -> Iterator[dict[str, object]]:
    """Yield the coverage of the worst group of one method, and of the difference of two."""
    for is_mixed in (False, True):
        for units in UNITS:
            for truth in TRUTHS:
                about = {"labels": "mixed" if is_mixed else "one a patient", "units": units}
                for first, second in (("four equal",) * 2, ("one bad",) * 2, ("four equal", "one bad")):
                    rng = np.random.default_rng((units, int(1000 * truth)))
                    accuracies = of_group(truth)[first], of_group(truth)[second]
                    ends, differences = [], []
                    for _ in range(cohorts):
                        n = sizes(rng, units, is_mixed=is_mixed)
                        hits, others = two_methods(rng, n, accuracies)
                        ends.append(worst_interval(hits, n))
                        differences.append(worst_difference_interval(hits, others, n, resamples=DRAWS))
                    if first == second:
                        yield tally(truth, ends, measure=f"worst group, {first}", **about)
                    name = f"its difference, {first} less {second}"
                    yield tally(0, differences, measure=name, of=truth, **about)


def area(cohorts: int) -> Iterator[dict[str, object]]:
    """Yield the coverage of AUROC at equal area of one method, and of the difference of two that are as good."""
    for is_mixed in (False, True):
        for units in UNITS:
            for truth in TRUTHS:
                about = {"labels": "mixed" if is_mixed else "one a patient", "units": units}
                rng = np.random.default_rng((units, int(1000 * truth)))
                ends, differences = [], []
                for _ in range(cohorts):
                    n = sizes(rng, units, is_mixed=is_mixed)[:, [0, 2]]  # as many of each label as of one group
                    unit = np.repeat(np.arange(units), n.sum(axis=1))
                    label = np.concatenate([np.repeat([0, 1], row) for row in n])
                    fraction = np.where(label == 1, rng.beta(4, 2, len(label)), rng.beta(2, 4, len(label)))
                    shift = label * np.sqrt(2 * (1 + PATIENT_SD**2)) * ndtri(truth)
                    noise = [rng.normal(0, PATIENT_SD, units)[unit] + rng.normal(size=len(label)) for _ in range(3)]
                    drawn, values = [], []
                    for own in noise[:2]:
                        score = shift + (own + noise[2]) * np.sqrt(0.5)
                        arrays: dict[str, Any] = {"score": score, "label": label, "fraction": fraction}
                        drawn.append(equal_area_draws(**arrays, unit=unit, resamples=DRAWS))
                        values.append(auroc_at_equal_area(**arrays).value)
                    ends.append(rank_interval(values[0], drawn[0], unit, label))
                    count = effective_count(unit)
                    differences.append(difference_interval(values[0] - values[1], drawn[0] - drawn[1], count))
                yield tally(truth, ends, measure="at equal area", **about)
                yield tally(0, differences, measure="its difference", of=truth, **about)


def outcomes(cohorts: int) -> Iterator[dict[str, object]]:
    """Yield how often two methods of equal law, or of equal ranking, are told apart."""
    for units in (12, 20, 40):
        for seed_sd in (0.0, 0.1, 0.2, 0.3):
            for is_shared in (True, False):  # patients and patches are as hard for one method as for the other
                about = {"case": "equal methods", "patients": units, "seed_sd": seed_sd, "same_noise": is_shared}
                yield about | _told(cohorts, units, 20, seed_sd=seed_sd, is_shared=is_shared)
    for offset in (-0.6, -1.2):
        yield {"case": f"decision moved by {offset}", "patients": 20} | _told(60, 20, 15, seed_sd=0.1, offset=offset)


def _told(
    cohorts: int, units: int, patches: int, *, seed_sd: float, is_shared: bool = True, offset: float = 0.0
) -> dict[str, object]:
    """Return the shares of outcomes over three seeds.

    With an offset the second method takes much tissue for tumour, by 1.2, and the first is the same with its decision
    moved there: the ranking at equal area stays.
    """
    shape = (units, 4, patches)
    label, is_much = (np.broadcast_to(row[:, None], shape) for row in (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])))
    unit = np.broadcast_to(np.arange(units)[:, None, None], shape).ravel()
    n, found = np.full((units, 4), patches), []
    for cohort in range(cohorts):
        rng = np.random.default_rng((cohort, units, patches))
        fraction = (is_much + rng.random(shape)) / 2
        noise = [rng.normal(0, PATIENT_SD, units)[:, None, None] + rng.normal(size=shape) for _ in range(2)]
        methods: tuple[dict[int, Measured], ...] = ({}, {})
        for seed in range(3):
            moved = [rng.normal(0, seed_sd, 4)[:, None] for _ in methods]
            for number, by_seed in enumerate(methods):
                margin = 1.2 * (label - 0.5) + noise[0 if is_shared else number] + moved[0 if offset else number]
                margin = margin + (offset != 0) * is_much * (1.2 + offset * (number == 0))
                arrays: dict[str, Any] = {"score": margin.ravel(), "label": label.ravel(), "fraction": fraction.ravel()}
                hits = ((margin > 0) == (label == 1)).sum(axis=2)
                drawn = equal_area_draws(**arrays, unit=unit, resamples=DRAWS)
                by_seed[seed] = Measured(hits, n, auroc_at_equal_area(**arrays).value, drawn, units)
        found.append(outcome_of(difference(*methods)))
    return {"cohorts": cohorts, **{name: found.count(name) / cohorts for name in get_args(Outcome)}}


if __name__ == "__main__":
    parts = {"ranks": (ranks, 2000), "groups": (groups, 400), "area": (area, 400), "outcomes": (outcomes, 400)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--cohorts", type=int, help="made cohorts of each row")
    options = parser.parse_args()
    measure, count = parts[options.part]
    table = pd.DataFrame(measure(options.cohorts or count))
    table.round(3).to_csv(Path(__file__).parent / f"{options.part}.csv", index=False, lineterminator="\n")
    print(table.round(3).to_string(index=False))
