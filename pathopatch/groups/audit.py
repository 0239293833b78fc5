"""How many patches each group has, and how much the tissue fraction alone gives away of the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.groups.attribute import LABEL_NAMES, GroupingAttribute, attribute_in
from pathopatch.groups.empty_groups import empty_groups, empty_groups_error
from pathopatch.groups.expected import expected
from pathopatch.groups.shortcut import attribute_score, cohort_verdict, fraction_only
from pathopatch.groups.threshold_sweep import alpha_of, sweep
from pathopatch.slides.manifest import SPLITS

VERSION = 3
"""Of what an audit holds; one of another version is made anew."""


def group_counts(groups: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return how many patches and patients each group has, empty groups included.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it. Without a split column all patches are of the split "all".
    threshold : float
        One of its thresholds.

    Returns
    -------
    DataFrame
        Columns split, label, attribute, n, patients; a row for each of the 2 x A groups of a split, in their order.

    Raises
    ------
    InputMissingError
        There is no such threshold.
    """
    attribute = attribute_in(groups, threshold)
    n_values = attribute.n_values
    rows = []
    for split, part in _by_split(groups):
        for group in range(2 * n_values):
            members = part[attribute.groups_in(part) == group]
            rows.append((split, group // n_values, group % n_values, len(members), members["patient_id"].nunique()))
    return pd.DataFrame(rows, columns=["split", "label", "attribute", "n", "patients"])


def check_groups(groups: pd.DataFrame, threshold: float, *, splits: Sequence[str] = ("train",)) -> None:
    """Raise if a group has no patch in a split where one is needed.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it.
    threshold : float
        One of its thresholds.
    splits : sequence of str
        Splits that need all groups; taken together, not one by one, where several are trained on.

    Raises
    ------
    GroupEmptyError
        States the empty groups, the counts of all, and thresholds at which none is empty.
    InputMissingError
        There is no such threshold.
    """
    attribute = attribute_in(groups, threshold)
    if empty_groups(groups, attribute, splits):
        raise empty_groups_error(groups, attribute, splits, (splits,))


def audit(groups: pd.DataFrame, thresholds: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return how strong the tissue shortcut is in the data, and what its cells can measure, as plain values for JSON.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it.
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
        for a label without patches), and what `expected` says of the cells. ``sweep``: per split what `sweep` says of
        thresholds from 0.05 to 0.95. ``fraction_only``: per split, and ``whole``: of all splits together, what
        `fraction_only` says of the tissue fraction alone; where the patches have an attribute of their own,
        ``attribute_only`` and ``attribute_whole`` say the same of that attribute. ``verdict``: what `cohort_verdict`
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
    found: dict[str, Any] = {"version": VERSION, "attribute_values": list(first.value_names)}
    if first.label_names != LABEL_NAMES:
        found["label_names"] = list(first.label_names)
    found["thresholds"] = {
        attribute.key: {split: _cells(part, attribute) for split, part in _by_split(groups)} for attribute in attributes
    }
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed}
    counted = groups[first.groups_in(groups) >= 0]
    parts = {split: _arrays(part) for split, part in _by_split(counted)}
    found["sweep"] = {split: sweep(*arrays, **settings) for split, arrays in parts.items()}
    found["fraction_only"] = {split: fraction_only(*arrays, **settings) for split, arrays in parts.items()}
    found["whole"] = fraction_only(*_arrays(counted), **settings)
    judged = found["fraction_only"], found["whole"]
    if first.is_patch_attribute:  # then the shortcut, if there is one, is this attribute
        name = first.column
        found["attribute_only"] = {split: _attribute_only(part, name, **settings) for split, part in _by_split(counted)}
        found["attribute_whole"] = _attribute_only(counted, name, **settings)
        judged = found["attribute_only"], found["attribute_whole"]
    found["verdict"] = cohort_verdict(*judged)
    return found


def _attribute_only(part: pd.DataFrame, column: str, **settings: Any) -> dict[str, Any]:
    """Return how well the patches' own attribute alone tells the label."""
    label, patient = part["label"].to_numpy(np.int64), part["patient_id"].to_numpy(dtype=str)
    score = attribute_score(label, part[column].to_numpy(np.int64), patient)
    return fraction_only(label, score, patient, is_directed=True, **settings)


def _arrays(part: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[Any]]:
    """Return label, tissue fraction and patient of some patches; an own attribute may come without a fraction."""
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


def _counts(group: NDArray[np.int64], n_values: int) -> NDArray[np.int64]:
    """Return the 2 x A numbers of patches, rows label, columns attribute."""
    return np.bincount(group[group >= 0], minlength=2 * n_values).reshape(2, n_values).astype(np.int64)


def _cells(part: pd.DataFrame, attribute: GroupingAttribute) -> dict[str, Any]:
    """Return counts, patients, alpha and what the cells can measure, of one split at one threshold."""
    group, n_values = attribute.groups_in(part), attribute.n_values
    counts = _counts(group, n_values)
    patients = part.groupby(attribute.group_column)["patient_id"].nunique()
    return {
        "counts": counts.tolist(),
        "patients": [[int(patients.get(n_values * y + a, 0)) for a in range(n_values)] for y in (0, 1)],
        "alpha": alpha_of(counts),
        "expected": expected(group, part["patient_id"].to_numpy(dtype=str), 2 * n_values),
    }
