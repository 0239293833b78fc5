"""What can be measured with cells of this size? Answered before there is a model, from the numbers of patches alone.

Every cell is given one true accuracy, and the cohort is judged many times in thought: each patient's accuracy in a cell
is drawn from a beta distribution around it, then each patch is right or wrong. The spread of what would be measured
is what the cell's size allows to be known; the minimum over cells comes out too low even where all are equally good.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.text import pluralize
from pathopatch.metrics.bootstrap import ratio

ASSUMED_ACCURACY = 0.8
"""True accuracy of every cell in thought: about where worst groups end up, and half-widths change little around it."""
ASSUMED_CORRELATION = 0.1
"""How much patches of one patient are right or wrong together (intraclass correlation); 0 would be coins."""
SMALL_CELL = 50
"""A cell below this size has a standard error of up to 7 points or more: its numbers are to be read with care."""
FEW_PATIENTS = 10
"""Below it a bootstrap over patients is visibly too narrow."""
WIDE = 0.10
"""Half-width of the expected 95 % interval beyond which a cell is too small to measure."""
_SIMULATIONS = 2000
_MANY = 100  # patients in a cell whose sum is a normal variable


def expected(
    group: NDArray[np.int64],
    patient: NDArray[Any],
    n_groups: int,
    *,
    accuracy: float = ASSUMED_ACCURACY,
    correlation: float = ASSUMED_CORRELATION,
    simulations: int = _SIMULATIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what interval to expect of each cell and of the worst one.

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
        How often the cohort is judged in thought.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        `accuracy` and `correlation` as assumed; `cells`, one dict a group: `group`, `n`, `patients`, `half_width`
        (of the central 95 % of what would be measured; None if empty), `effective_n` (independent patches that would
        tell as much), `patients_for_5_points` (patients like these for a half-width of 0.05), `reasons` (why it is
        too small to measure, in words; none if it is not); `wga`: `mean`, `low`, `high` of the lowest cell, `bias` =
        mean - accuracy; None throughout if a cell is empty.
    """
    known = group >= 0
    people, place = np.unique(patient[known], return_inverse=True)
    cell = place * n_groups + group[known]
    n = np.bincount(cell, minlength=len(people) * n_groups).reshape(len(people), n_groups)
    measured = _judged_in_thought(n, accuracy, correlation, simulations, seed)  # (simulations, n_groups)
    cells = [_cell(number, n[:, number], measured[:, number], accuracy, correlation) for number in range(n_groups)]
    wga: dict[str, float | None] = dict.fromkeys(("mean", "low", "high", "bias"))
    if len(n) and (n.sum(axis=0) > 0).all():
        worst = measured.min(axis=1)
        low, high = np.quantile(worst, [0.025, 0.975])
        wga = {
            "mean": float(worst.mean()),
            "low": float(low),
            "high": float(high),
            "bias": float(worst.mean() - accuracy),
        }
    return {"accuracy": accuracy, "correlation": correlation, "cells": cells, "wga": wga}


def _judged_in_thought(
    n: NDArray[np.int64], accuracy: float, correlation: float, simulations: int, seed: int
) -> NDArray[np.float64]:
    """Return the accuracies that would be measured, (simulations, groups); NaN for an empty cell."""
    rng = np.random.default_rng(seed)
    hits = [_hits(column[column > 0], accuracy, correlation, simulations, rng) for column in n.T]
    measured: NDArray[np.float64] = ratio(np.stack(hits, axis=1), n.sum(axis=0))
    return measured


def _hits(
    n: NDArray[np.int64], accuracy: float, correlation: float, simulations: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return how many patches of one cell would be right, (simulations,), from the patches of each of its patients."""
    single, several = int((n == 1).sum()), n[n > 1]
    hits = rng.binomial(single, accuracy, simulations).astype(np.float64)  # alone in its patient, a patch is a coin
    if len(several) > _MANY:
        variance = accuracy * (1 - accuracy) * (several * (1 + correlation * (several - 1))).sum()
        drawn = rng.normal(accuracy * several.sum(), np.sqrt(variance), simulations)
        return hits + np.clip(drawn, 0, several.sum())
    true: Any = accuracy
    if correlation > 0:
        strength = (1 - correlation) / correlation
        true = rng.beta(accuracy * strength, (1 - accuracy) * strength, (simulations, len(several)))
    hits += rng.binomial(several, true, (simulations, len(several))).sum(axis=1)
    return hits


def _cell(
    number: int, n: NDArray[np.int64], measured: NDArray[np.float64], accuracy: float, correlation: float
) -> dict[str, Any]:
    """Return what is to be expected of one cell."""
    total, patients = int(n.sum()), int((n > 0).sum())
    known: dict[str, Any] = {"group": number, "n": total, "patients": patients}
    if not total:
        return {
            **known,
            "half_width": None,
            "effective_n": 0.0,
            "patients_for_5_points": None,
            "reasons": ["no patches"],
        }
    low, high = np.quantile(measured, [0.025, 0.975])
    half = float(high - low) / 2
    # Kish: patches of a patient count less the more of them there are.
    effective = total / (1 + correlation * (float((n.astype(np.float64) ** 2).sum()) / total - 1))
    variance = accuracy * (1 - accuracy) / effective
    reasons = [f"{pluralize(total, 'patch')}, fewer than {SMALL_CELL}"] if total < SMALL_CELL else []
    reasons += [f"{pluralize(patients, 'patient')}, fewer than {FEW_PATIENTS}"] * (patients < FEW_PATIENTS)
    reasons += [f"known to {100 * half:.0f} points only"] if half > WIDE else []
    return {
        **known,
        "half_width": half,
        "effective_n": effective,
        "patients_for_5_points": int(np.ceil(patients * variance * (1.96 / 0.05) ** 2)),
        "reasons": reasons,
    }
