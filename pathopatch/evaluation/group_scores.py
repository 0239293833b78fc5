"""Evaluate logits group by group: arrays in, plain values out.

The groups are g = A y + a (label, attribute of A values): four where the attribute is much tissue. Worst-group and
group-balanced accuracy (WGA, GBA) are statements about all groups. Both are NaN where a group has no patch, never the
minimum or mean of the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.core.text import pluralize, units_text
from pathopatch.groups.group_sizes import SMALL_CELL
from pathopatch.metrics.accuracy import auroc
from pathopatch.metrics.bootstrap import (
    LEAST_SEEDS,
    LEAST_UNITS,
    LEAST_UNITS_OF_A_GROUP,
    auroc_draws,
    effective_number,
    patient_counts,
    ratio,
)
from pathopatch.metrics.intervals import rank_interval, share_interval, worst_interval

LEAST_PATCHES = SMALL_CELL
"""Numbers of fewer are grey in all tables, and never a headline; so are those of fewer than five patients."""


def evaluate_logits(
    margin: NDArray[np.floating[Any]],
    label: NDArray[np.integer[Any]],
    attribute: NDArray[np.integer[Any]],
    patient: NDArray[Any],
    *,
    decision_threshold: float = 0.0,
    zero: float | NDArray[np.float64] = 0.0,
    answered: NDArray[np.bool_] | None = None,
    n_values: int = 2,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the group accuracies and their summaries, each with its 95 % interval by patient.

    `margin` (N,) is the logit of tumour minus that of non-tumour; tumour is predicted above `decision_threshold`.
    `zero`, one or (N,), is the margin at which the network's own logit is 0: another where a threshold was taken off.
    `label` is 0 or 1, `attribute` 0 to `n_values` - 1, `patient` what is independent, all (N,). `answered` (N,) are the
    patches that the model judges at all: others are wrong, in each pair of AUROC too, of which `answered` is without.

    The result has `n`, `patients`, `smallest_group_n`, `decision_threshold`, `groups` (see `_one_group`), `wga`, `gba`,
    `average`, `auroc` (dicts of value, low, high; that of AUROC with `answered`, without patches that have no answer),
    and `wga_at_zero` (at a decision threshold of `zero`). Intervals are those of `pathopatch.metrics.intervals`, NaN
    with too few patients; that of AUROC takes its spread from `resamples` draws of patients.

    Raises
    ------
    InputUnsupportedError
        The arrays differ in length, a label is neither 0 nor 1, or an attribute is not one of 0 to A - 1.
    NonFiniteError
        A margin is NaN or infinite.
    """
    _check(margin, label, attribute, patient, n_values=n_values)
    margin = np.asarray(margin, dtype=np.float64)
    label = np.asarray(label, dtype=np.int64)
    group = n_values * label + np.asarray(attribute, dtype=np.int64)
    judged = np.ones(len(margin), np.bool_) if answered is None else np.asarray(answered, np.bool_)
    right, right_at_zero = (((margin > at) == (label == 1)) & judged for at in (decision_threshold, zero))
    hits, n = patient_counts(right, group, patient, n_groups=2 * n_values)
    hits_at_zero, _ = patient_counts(right_at_zero, group, patient, n_groups=2 * n_values)
    score = np.where(judged, margin, np.where(label == 1, -np.inf, np.inf))  # no answer is wrong in each pair
    area, drawn = auroc(score, label), auroc_draws(score, label, patient, resamples=resamples, seed=seed)
    return {
        "n": len(margin),
        "patients": len(n),
        "smallest_group_n": int(n.sum(axis=0).min()),
        "decision_threshold": float(decision_threshold),
        "groups": [_one_group(g, hits[:, g], n[:, g], n_values=n_values) for g in range(2 * n_values)],
        "wga": _ends(pooled_accuracy(hits, n).min(), worst_interval(hits, n)),
        "gba": _ends(pooled_accuracy(hits, n).mean(), share_interval(hits, n)),
        "average": _share(hits.sum(axis=1), n.sum(axis=1)),
        "auroc": _ends(area, rank_interval(area, drawn, patient, label))
        | {"answered": auroc(margin[judged], label[judged])},
        "wga_at_zero": float(pooled_accuracy(hits_at_zero, n).min()),
    }


def is_right(predictions: pd.DataFrame, decision_threshold: float) -> NDArray[np.bool_]:
    """Return which patches (N,) of a predictions table are called what they are; those without an answer are not."""
    is_positive, label = predictions["logit"].to_numpy(np.float64) > decision_threshold, predictions["label"].to_numpy()
    return np.asarray((is_positive == (label == 1)) & answers(predictions), np.bool_)


def answers(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which patches (N,) of a predictions table the model judges: all, unless it says otherwise."""
    if "has_answer" in predictions:
        return predictions["has_answer"].to_numpy(np.bool_)
    return np.ones(len(predictions), np.bool_)


def equal_area_arrays(predictions: pd.DataFrame, unit: NDArray[Any]) -> tuple[dict[str, Any], NDArray[Any]]:
    """Return the arguments of `auroc_at_equal_area` by name, (M,) each, and the units (M,).

    They are of the M patches whose tissue fraction is known. `predictions` is a table of N patches, with the column
    fold where they are pooled; `unit` (N,) is what is resampled.
    """
    known = predictions["tissue_fraction"].notna().to_numpy()
    part = predictions[known]
    arrays = {
        "score": part["logit"].to_numpy(np.float64),
        "label": part["label"].to_numpy(np.int64),
        "fraction": part["tissue_fraction"].to_numpy(np.float64),
        "answered": answers(part),
    }
    return arrays | ({"stratum": part["fold"].to_numpy()} if "fold" in part else {}), unit[known]


def pooled_accuracy(hits: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the accuracy of each group, (2 A,), over rows of `patient_counts`; NaN for a group without patches."""
    accuracy: NDArray[np.float64] = ratio(hits.sum(axis=0), n.sum(axis=0))
    return accuracy


def _share(hits: NDArray[np.int64], n: NDArray[np.int64]) -> dict[str, float]:
    """Return the accuracy over patients (P,) with its interval."""
    return _ends(float(ratio(hits.sum(), n.sum())), share_interval(hits[:, None], n[:, None]))


def _ends(value: float, ends: tuple[float, float]) -> dict[str, float]:
    return {"value": float(value), "low": ends[0], "high": ends[1]}


def with_ends(name: str, value: float | None, low: float | None, high: float | None) -> dict[str, float]:
    """Return a number and its interval as three columns: ``name``, ``name_low``, ``name_high``."""
    return {name: null_to_nan(value), f"{name}_low": null_to_nan(low), f"{name}_high": null_to_nan(high)}


def null_to_nan(value: float | None) -> float:
    """Return a number of a JSON file, where null is NaN."""
    return float("nan") if value is None else float(value)


def too_few(
    n: float | None,
    patients: float | None = None,
    unit: str = "patch",
    *,
    effective: float | None = None,
    least: int = LEAST_UNITS_OF_A_GROUP,
    of: str = "patient",
) -> str:
    """Return why a number is grey, such as ``only 23 patches of 2 patients``; empty if enough lies behind it.

    `n` counts what `unit` names, in the singular, and `patients` those that they come from, patients or what else `of`
    names. The `effective` number of these, where it is known, is what must reach `least`. None or NaN: unknown, which
    greys nothing.

    Examples
    --------
    >>> too_few(49, 12)
    'only 49 patches'
    >>> too_few(50, 8, effective=1.1)
    'only 8 patients, effectively 1.1'
    >>> too_few(50, 5)
    ''
    """
    if n == 0:
        return f"no {unit}"
    n, patients, effective = (
        None if each is None or not math.isfinite(each) else each for each in (n, patients, effective)
    )
    short = [] if n is None or n >= LEAST_PATCHES else [pluralize(int(n), unit)]
    if patients is not None and round(patients if effective is None else effective) < least:
        short.append(units_text(int(patients), effective, of))
    return f"only {' of '.join(short)}" if short else ""


def effective_sizes(n: NDArray[np.int64]) -> dict[str, float]:
    """Return the effective numbers of patients as columns, ``effective_patients`` and of each group g with ``_g``.

    `n` is as `patient_counts` returns it.
    """
    of_group = {f"effective_patients_{group}": float(value) for group, value in enumerate(effective_number(n))}
    return {"effective_patients": float(effective_number(n.sum(axis=1)))} | of_group


def too_few_of(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return why a comparison's row claims nothing, by place: ``group 0`` and so on, ``all``; empty if it may.

    The row has ``n_g`` and ``patients_g`` of each group g, ``patients``, and what `effective_sizes` returns; ``unit``
    names what is counted, patients where it is missing.
    """
    reasons = {f"group {group}": _reason_of_group(row, group) for group in range(n_groups_of(row))}
    effective, of = row.get("effective_patients"), row.get("unit", "patient")
    reasons["all"] = too_few(None, row["patients"], effective=effective, least=LEAST_UNITS, of=of)
    return {place: reason for place, reason in reasons.items() if reason}


def too_few_seeds(seeds: float) -> str:
    """Return why a difference of two rows that share so many seeds is not shown; empty if it may be."""
    return "" if seeds >= LEAST_SEEDS else f"only {pluralize(int(seeds), 'seed')} of both"


def smallest_group(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return patches and patients of the smallest group of a row; of groups that are too small, if any is.

    What is measured over all groups, such as WGA, rests on no more than these.
    """
    group = min(range(n_groups_of(row)), key=lambda group: (not _reason_of_group(row, group), row[f"n_{group}"]))
    names = {f"{kind}_{group}": f"{kind}_smallest" for kind in ("n", "patients", "effective_patients")}
    return {new: row[name] for name, new in names.items() if name in row}


def _reason_of_group(row: Mapping[Any, Any], group: int) -> str:
    effective, of = row.get(f"effective_patients_{group}"), row.get("unit", "patient")
    return too_few(row[f"n_{group}"], row[f"patients_{group}"], effective=effective, of=of)


def n_groups_of(row: Mapping[Any, Any]) -> int:
    """Return how many groups a comparison's row is evaluated by: 2 A."""
    return sum(bool(re.fullmatch(r"n_\d+", str(name))) and bool(pd.notna(n)) for name, n in row.items())


def _check(
    margin: NDArray[Any], label: NDArray[Any], attribute: NDArray[Any], patient: NDArray[Any], *, n_values: int
) -> None:
    """Refuse arrays that do not belong together, and values that are not allowed."""
    lengths = {len(margin), len(label), len(attribute), len(patient)}
    if len(lengths) > 1:
        raise InputUnsupportedError(
            f"margin, label, attribute and patient have lengths {sorted(lengths)}",
            remedy="give one value of each per patch",
        )
    for name, values, count in (("label", label, 2), ("attribute", attribute, n_values)):
        allowed = set(range(count))
        if not np.isin(values, sorted(allowed)).all():
            raise InputUnsupportedError(
                f"{name} holds {sorted(set(np.unique(values).tolist()) - allowed)}, not only 0 to {count - 1}",
                remedy="leave out patches without a label or a group",
            )
    if not np.isfinite(margin).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(margin)).sum())} of {len(margin)} margins are not finite",
            remedy="look for patches that are not finite; a run of your own may need a lower learning rate or beta",
        )


def _one_group(number: int, hits: NDArray[np.int64], n: NDArray[np.int64], *, n_values: int) -> dict[str, Any]:
    """Return one group's row."""
    # A patient without patches in the group says nothing about it.
    hits, n = hits[n > 0], n[n > 0]
    accuracy = _share(hits, n)
    return {
        "group": number,
        "label": number // n_values,
        "attribute": number % n_values,
        "n": int(n.sum()),
        "patients": len(n),
        "correct": int(hits.sum()),
        "accuracy": accuracy["value"],
        "low": accuracy["low"],
        "high": accuracy["high"],
    }
