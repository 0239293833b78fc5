"""Estimate before there is a model how well cells of a size can be measured (a power analysis).

Every cell is given one true accuracy, and the evaluation is simulated many times. Each patient's accuracy in a cell is
drawn from a beta distribution around it, then each patch is right or wrong. The spread of the measured accuracies is
what the size of the cell allows. The minimum over cells comes out too low even where all are equally good.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.text import pluralize
from pathopatch.metrics.bootstrap import interval, ratio

SMALL_CELL = 50
"""A cell below this size has a standard error of up to 7 points or more: its numbers are to be read with care."""
FEW_PATIENTS = 10
"""Below it a bootstrap over patients is visibly too narrow."""
# Worst groups end up at about this accuracy, and half-widths change little around it.
_ASSUMED_ACCURACY = 0.8
# How much patches of one patient are right or wrong together (intraclass correlation); 0 would be independent patches.
_ASSUMED_CORRELATION = 0.1
_WIDE = 0.10  # half-width of the expected interval beyond which a cell is too small to measure
_SIMULATIONS = 2000
_MANY_PATIENTS = 100  # from here on a cell's sum over patients is drawn from a normal distribution


def expected_intervals(
    group: NDArray[np.int64],
    patient: NDArray[Any],
    n_groups: int,
    *,
    accuracy: float = _ASSUMED_ACCURACY,
    correlation: float = _ASSUMED_CORRELATION,
    simulations: int = _SIMULATIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the interval to expect of each cell's accuracy and of the worst one.

    Parameters
    ----------
    group : ndarray of int64, shape (N,)
        A label + attribute; -1 (no group) is left out.
    patient : ndarray, shape (N,)
        Patient of each patch.
    n_groups : int
        2 A.
    accuracy : float
        True accuracy of every cell, in (0, 1).
    correlation : float
        Of right and wrong within a patient, in [0, 1).
    simulations : int
        Number of simulated evaluations.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        `accuracy` and `correlation` as assumed; `cells`, one dict per group: `group`, `n`, `patients`, `half_width`
        (of the central 95 % of what would be measured; None if empty), `effective_n` (independent patches that would
        tell as much), `patients_for_5_points` (patients like these for a half-width of 0.05), `reasons` (why it is
        too small to measure, in words; none if it is not); `wga`: `mean`, `low`, `high` of the lowest cell, `bias` =
        mean - accuracy; None throughout if a cell is empty.
    """
    has_group = group >= 0
    patients, place = np.unique(patient[has_group], return_inverse=True)
    cell = place * n_groups + group[has_group]
    n = np.bincount(cell, minlength=len(patients) * n_groups).reshape(len(patients), n_groups)
    measured = _simulate(n, accuracy, correlation, simulations, seed)  # (simulations, n_groups)
    cells = [_cell(number, n[:, number], measured[:, number], accuracy, correlation) for number in range(n_groups)]
    wga: dict[str, float | None] = dict.fromkeys(("mean", "low", "high", "bias"))
    if len(n) and (n.sum(axis=0) > 0).all():
        worst = measured.min(axis=1)
        low, high = interval(worst)
        wga = {"mean": float(worst.mean()), "low": low, "high": high, "bias": float(worst.mean() - accuracy)}
    return {"accuracy": accuracy, "correlation": correlation, "cells": cells, "wga": wga}


def _simulate(
    n: NDArray[np.int64], accuracy: float, correlation: float, simulations: int, seed: int
) -> NDArray[np.float64]:
    """Return simulated accuracies, (simulations, groups), from patches by patient and group; NaN for an empty cell."""
    rng = np.random.default_rng(seed)
    hits = [_hits(column[column > 0], accuracy, correlation, simulations, rng) for column in n.T]
    measured: NDArray[np.float64] = ratio(np.stack(hits, axis=1), n.sum(axis=0))
    return measured


def _hits(
    n: NDArray[np.int64], accuracy: float, correlation: float, simulations: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return how many patches of one cell are right, (simulations,), from the patches of each of its patients."""
    # The only patch of a patient correlates with no other, so these need no beta distribution.
    n_single, several = int((n == 1).sum()), n[n > 1]
    hits = rng.binomial(n_single, accuracy, simulations).astype(np.float64)
    if len(several) > _MANY_PATIENTS:
        variance = accuracy * (1 - accuracy) * (several * (1 + correlation * (several - 1))).sum()
        total = rng.normal(accuracy * several.sum(), np.sqrt(variance), simulations)
        return hits + np.clip(total, 0, several.sum())
    patient_accuracy: Any = accuracy
    if correlation > 0:
        # A beta distribution of this mean and strength gives the intraclass correlation.
        strength = (1 - correlation) / correlation
        patient_accuracy = rng.beta(accuracy * strength, (1 - accuracy) * strength, (simulations, len(several)))
    hits += rng.binomial(several, patient_accuracy, (simulations, len(several))).sum(axis=1)
    return hits


def _cell(
    number: int, n: NDArray[np.int64], measured: NDArray[np.float64], accuracy: float, correlation: float
) -> dict[str, Any]:
    """Return what to expect of one cell, from its patches by patient and its simulated accuracies."""
    total, patients = int(n.sum()), int((n > 0).sum())
    size: dict[str, Any] = {"group": number, "n": total, "patients": patients}
    if not total:
        unknown = {"half_width": None, "effective_n": 0.0, "patients_for_5_points": None}
        return {**size, **unknown, "reasons": ["no patches"]}
    low, high = interval(measured)
    half_width = float(high - low) / 2
    # Kish's design effect: the more patches of one patient there are, the less each of them counts.
    effective_n = total / (1 + correlation * (float((n.astype(np.float64) ** 2).sum()) / total - 1))
    variance = accuracy * (1 - accuracy) / effective_n
    reasons = [f"{pluralize(total, 'patch')}, fewer than {SMALL_CELL}"] if total < SMALL_CELL else []
    reasons += [f"{pluralize(patients, 'patient')}, fewer than {FEW_PATIENTS}"] * (patients < FEW_PATIENTS)
    reasons += [f"known to {100 * half_width:.0f} points only"] if half_width > _WIDE else []
    return {
        **size,
        "half_width": half_width,
        "effective_n": effective_n,
        "patients_for_5_points": int(np.ceil(patients * variance * (1.96 / 0.05) ** 2)),
        "reasons": reasons,
    }
