"""Check group sizes before training: name empty groups, and estimate how well small ones can be measured.

Every cell is given one true accuracy, and the evaluation is simulated many times (a power analysis). Each patient's
accuracy in a cell is drawn from a beta distribution around it, then each patch is right or wrong. The spread of the
measured accuracies is what the size of the cell allows. The minimum over cells comes out too low even where all are
equally good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import GroupEmptyError
from pathopatch.core.text import pluralize
from pathopatch.groups.attribute import GroupingAttribute, threshold_attributes
from pathopatch.metrics.bootstrap import interval, ratio

SMALL_CELL = 50
"""A cell below this size has a standard error of up to 7 points or more: its numbers are to be read with care."""
FEW_PATIENTS = 10
"""Below it a bootstrap over patients, or blocks, is visibly too narrow."""
# Worst groups end up at about this accuracy, and half-widths change little around it.
_ASSUMED_ACCURACY = 0.8
# How much patches of one patient are right or wrong together (intraclass correlation); 0 would be independent patches.
_ASSUMED_CORRELATION = 0.1
_WIDE = 0.10  # half-width of the expected interval beyond which a cell is too small to measure
_SIMULATIONS = 2000
_STEPS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # tissue thresholds that a remedy may name
_MANY_PATIENTS = 100  # from here on a cell's sum over patients is drawn from a normal distribution
Needed = Sequence[Sequence[str]]
"""Sets of splits; each needs every group, its splits taken together."""


def empty_groups(groups: pd.DataFrame, attribute: GroupingAttribute, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the groups without a patch in some splits taken together, such as ``tumour with little tissue``.

    `groups` is as `assign_groups` returns it, with this `attribute`; without a split column all patches count.
    """
    present = set(attribute.groups_in(_of_splits(groups, splits)).tolist())
    names = [f"{label} with {value}" for label in attribute.label_names for value in attribute.value_names]
    return tuple(name for number, name in enumerate(names) if number not in present)


def empty_groups_error(
    groups: pd.DataFrame, attribute: GroupingAttribute, splits: Sequence[str], needed: Needed
) -> GroupEmptyError:
    """Return the error of splits with an empty group: threshold, groups, counts, and thresholds that would do.

    A threshold would do if no group is empty in any of the `needed` sets of splits; otherwise as `empty_groups`.
    """
    n_values = attribute.n_values
    group = attribute.groups_in(_of_splits(groups, splits))
    counts = np.bincount(group[group >= 0], minlength=2 * n_values).reshape(2, n_values)
    counts_text = "; ".join(
        f"{label}: " + ", ".join(f"{n} with {value}" for n, value in zip(row, attribute.value_names, strict=True))
        for label, row in zip(attribute.label_names, counts.tolist(), strict=True)
    )
    empty = " and none of ".join(empty_groups(groups, attribute, splits))
    return GroupEmptyError(
        f"{attribute.phrase} there is no patch of {empty} ({counts_text})",
        place=f"split {' + '.join(splits)}",
        remedy="add slides that have them" if attribute.is_patch_attribute else _thresholds_text(groups, needed),
    )


def filled_thresholds(groups: pd.DataFrame, needed: Needed) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the thresholds at which no group is empty: of those in the table, and of 0.05, 0.1, … 0.95.

    Patches with an attribute of their own are not looked at: it is the same at every threshold.
    """
    attributes = threshold_attributes(groups)
    # Blank patches are blank at every threshold: min_tissue alone decides.
    is_labelled_tissue = (groups[attributes[0].column] >= 0) & (groups["label"] >= 0)
    parts = [_of_splits(groups[is_labelled_tissue], splits) for splits in needed]

    def is_filled(cut: float, part: pd.DataFrame) -> bool:
        return len(set(zip(part["label"], part["tissue_fraction"] >= cut, strict=True))) == 4

    tabled = tuple(at.key for at in attributes if not any(empty_groups(groups, at, splits) for splits in needed))
    return tabled, tuple(cut for cut in _STEPS if all(is_filled(cut, part) for part in parts))


def _thresholds_text(groups: pd.DataFrame, needed: Needed) -> str:
    """Return the thresholds that would do, neighbours joined: ``0.1 to 0.3 and 0.5``."""
    tabled, swept = filled_thresholds(groups, needed)
    steps = f"{_STEPS[0]:g}, {_STEPS[1]:g}, … {_STEPS[-1]:g}"
    if not tabled and not swept:
        return f"at each threshold of {steps} a group is empty: add slides, or move patients between the splits"
    places = [_STEPS.index(cut) for cut in swept]
    starts = [_STEPS[place] for place in places if place - 1 not in places]
    stops = [_STEPS[place] for place in places if place + 1 not in places]
    ranges = [f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in zip(starts, stops, strict=True)]
    return (
        "choose a threshold at which no group is empty: "
        f"{', '.join(tabled) or 'none'} in groups.parquet; {' and '.join(ranges) or 'none'} of {steps}"
    )


def _of_splits(groups: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    return groups[groups["split"].isin(list(splits))] if "split" in groups else groups


def expected_intervals(
    group: NDArray[np.int64],
    patient: NDArray[Any],
    n_groups: int,
    *,
    unit: str = "patient",
    accuracy: float = _ASSUMED_ACCURACY,
    correlation: float = _ASSUMED_CORRELATION,
    simulations: int = _SIMULATIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the interval to expect of each cell's accuracy and of the worst one, from `simulations` evaluations.

    `group`, (N,), is A label + attribute, below `n_groups` = 2 A; -1 is left out. Every cell has the true `accuracy`,
    and right and wrong within a `patient`, (N,), have a `correlation`; `unit` is what the reasons call it.

    Returns
    -------
    dict
        `accuracy` and `correlation` as assumed; `cells`, one dict per group: `group`, `n`, `patients`, `half_width`
        (of the central 95 % of what would be measured; None if empty), `effective_n` (independent patches that would
        tell as much), `patients_for_5_points` (patients like these for a half-width of 0.05), `reasons` (why it is
        too small to measure; none if it is not); `wga`: `mean`, `low`, `high` of the lowest cell, `bias` =
        mean - accuracy; None throughout if a cell is empty.
    """
    has_group = group >= 0
    patients, place = np.unique(patient[has_group], return_inverse=True)
    cell = place * n_groups + group[has_group]
    n = np.bincount(cell, minlength=len(patients) * n_groups).reshape(len(patients), n_groups)
    rng = np.random.default_rng(seed)
    hits = [_hits(column[column > 0], accuracy, correlation, simulations, rng) for column in n.T]
    measured = ratio(np.stack(hits, axis=1), n.sum(axis=0))  # (simulations, n_groups), NaN for an empty cell
    cells = [
        _cell(number, n[:, number], measured[:, number], accuracy, correlation, unit) for number in range(n_groups)
    ]
    wga: dict[str, float | None] = dict.fromkeys(("mean", "low", "high", "bias"))
    if len(n) and (n.sum(axis=0) > 0).all():
        worst = measured.min(axis=1)
        low, high = interval(worst)
        wga = {"mean": float(worst.mean()), "low": low, "high": high, "bias": float(worst.mean() - accuracy)}
    return {"accuracy": accuracy, "correlation": correlation, "cells": cells, "wga": wga}


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
    number: int, n: NDArray[np.int64], measured: NDArray[np.float64], accuracy: float, correlation: float, unit: str
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
    reasons += [f"{pluralize(patients, unit)}, fewer than {FEW_PATIENTS}"] * (patients < FEW_PATIENTS)
    reasons += [f"known to {100 * half_width:.0f} points only"] if half_width > _WIDE else []
    return {
        **size,
        "half_width": half_width,
        "effective_n": effective_n,
        "patients_for_5_points": int(np.ceil(patients * variance * (1.96 / 0.05) ** 2)),
        "reasons": reasons,
    }
