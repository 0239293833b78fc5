"""Audit a cohort before any model: the size of each group, and how well the tissue fraction alone tells the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.groups.attribute import LABEL_NAMES, GroupingAttribute, attribute_in
from pathopatch.groups.expected import expected_intervals
from pathopatch.groups.shortcut import alpha_of, attribute_score, cohort_verdict, fraction_only, sweep_thresholds
from pathopatch.slides.manifest import SPLITS

VERSION = 3
"""Of what an audit holds; one of another version is made anew."""


def audit(groups: pd.DataFrame, thresholds: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return how strong the tissue shortcut is in the data, and what its cells can measure, as plain values for JSON.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it. Without a split column all patches are of the split "all".
    thresholds : sequence of float
        Of its thresholds.
    resamples : int
        Resamples of patients behind each interval; 0 for none, and then for no verdict.
    seed : int
        Of the resampling.

    Returns
    -------
    dict
        ``attribute_values``: what the A values of the attribute mean, in order; ``label_names``, where labels are not
        called non-tumour and tumour. ``thresholds``: per threshold (as ``f"{t:g}"``) and split the 2 x A ``counts`` and
        ``patients`` (rows label, columns attribute), ``alpha``, the share of each attribute value within a label (None
        for a label without patches), and ``expected``: what `expected_intervals` returns of the cells. ``sweep``: per
        split what `sweep_thresholds` returns. ``fraction_only``: per split, and ``whole``: of all splits together,
        what `fraction_only` returns of the tissue fraction alone; where the patches have an attribute of their own,
        ``attribute_only`` and ``attribute_whole`` are the same of that attribute. ``verdict``: what `cohort_verdict`
        makes of the latter where it is there, else of the former. Only labelled patches that are not blank count.

    Raises
    ------
    InputMissingError
        There is no such threshold.

    References
    ----------
    Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv 2503.13236, eq. 2: alpha.
    """
    attributes = [attribute_in(groups, threshold) for threshold in thresholds]
    first = attributes[0]
    content: dict[str, Any] = {"version": VERSION, "attribute_values": list(first.value_names)}
    if first.label_names != LABEL_NAMES:
        content["label_names"] = list(first.label_names)
    content["thresholds"] = {
        attribute.key: {split: _cells(part, attribute) for split, part in _by_split(groups)} for attribute in attributes
    }
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed}
    # The same patches have a group at every threshold: those with a label that are not blank.
    grouped = groups[first.groups_in(groups) >= 0]
    arrays = {split: _arrays(part) for split, part in _by_split(grouped)}
    content["sweep"] = {split: sweep_thresholds(*part, **settings) for split, part in arrays.items()}
    by_split = {split: fraction_only(*part, **settings) for split, part in arrays.items()}
    whole = fraction_only(*_arrays(grouped), **settings)
    content |= {"fraction_only": by_split, "whole": whole}
    if first.is_patch_attribute:
        # Such a cohort was collected for this attribute: the verdict is of it, not of the tissue.
        by_split = {split: _attribute_only(part, first.column, **settings) for split, part in _by_split(grouped)}
        whole = _attribute_only(grouped, first.column, **settings)
        content |= {"attribute_only": by_split, "attribute_whole": whole}
    content["verdict"] = cohort_verdict(by_split, whole)
    return content


def _cells(part: pd.DataFrame, attribute: GroupingAttribute) -> dict[str, Any]:
    """Return counts, patients, alpha and the expected intervals of one split at one threshold."""
    group, n_values = attribute.groups_in(part), attribute.n_values
    counts = np.bincount(group[group >= 0], minlength=2 * n_values).reshape(2, n_values).astype(np.int64)
    patients = part.groupby(attribute.group_column)["patient_id"].nunique()
    return {
        "counts": counts.tolist(),
        "patients": [[int(patients.get(n_values * y + a, 0)) for a in range(n_values)] for y in (0, 1)],
        "alpha": alpha_of(counts),
        "expected": expected_intervals(group, part["patient_id"].to_numpy(dtype=str), 2 * n_values),
    }


def _attribute_only(part: pd.DataFrame, column: str, **settings: Any) -> dict[str, Any]:
    """Return how well the patches' own attribute alone tells the label."""
    label, patient = part["label"].to_numpy(np.int64), part["patient_id"].to_numpy(dtype=str)
    score = attribute_score(label, part[column].to_numpy(np.int64), patient)
    return fraction_only(label, score, patient, is_directed=True, **settings)


def _arrays(part: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[Any]]:
    """Return label, tissue fraction and patient of the patches whose fraction is known."""
    # Patches with an attribute of their own may come without a tissue fraction.
    part = part[part["tissue_fraction"].notna()]
    return (
        part["label"].to_numpy(np.int64),
        part["tissue_fraction"].to_numpy(np.float64),
        part["patient_id"].to_numpy(dtype=str),
    )


def _by_split(groups: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the table's parts, train, val and test first."""
    if "split" not in groups:
        return [("all", groups)]
    present = set(groups["split"])
    names = [name for name in SPLITS if name in present] + sorted(present.difference(SPLITS))
    return [(name, groups[groups["split"] == name]) for name in names]
