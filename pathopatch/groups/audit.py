"""How many patches each group has, and how much the tissue fraction alone gives away of the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.errors import GroupEmptyError, InputMissingError
from pathopatch.groups.assign import attribute_column, group_column
from pathopatch.groups.naming import LABELS, Naming, naming_of
from pathopatch.groups.splits import SPLITS
from pathopatch.metrics import auroc

SWEEP = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds at which alpha is reported beside the chosen ones."""


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
    column, n_values = _column(groups, threshold), len(naming_of(groups).values)
    rows = []
    for split, part in _by_split(groups):
        for group in range(2 * n_values):
            members = part[part[column] == group]
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
        States the counts of all groups.
    InputMissingError
        There is no such threshold.
    """
    column = _column(groups, threshold)
    part = groups[groups["split"].isin(list(splits))] if "split" in groups else groups
    naming = naming_of(groups)
    values = naming.values
    counts = _counts(part[column].to_numpy(), len(values))
    if (counts == 0).any():
        shown = "; ".join(
            f"label {label}: " + ", ".join(f"{n} with {value}" for n, value in zip(row, values, strict=True))
            for label, row in enumerate(counts.tolist())
        )
        raise GroupEmptyError(
            f"{naming.at(threshold)} a group is empty ({shown})",
            place=f"split {' + '.join(splits)}",
            remedy=("add patches" if naming.is_own else "choose another threshold, add slides")
            + ", or train method erm, which needs no groups",
        )


def audit(groups: pd.DataFrame, thresholds: Sequence[float]) -> dict[str, Any]:
    """Return how strong the tissue shortcut is in the data, per split, as plain values for JSON.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it.
    thresholds : sequence of float
        Of its thresholds.

    Returns
    -------
    dict
        ``attribute_values``: what the A values of the attribute mean, in order; ``label_names``, where the labels are
        not called non-tumour and tumour. ``thresholds``: per threshold (as
        ``f"{t:g}"``) and split the 2 x A ``counts`` and ``patients`` (rows label, columns attribute) and ``alpha``,
        the share of each attribute value within a label (None for a label without patches). ``sweep``: alpha per split
        for thresholds from 0.05 to 0.95. ``fraction_only``: per split, how well the tissue fraction alone tells the
        label: ``n``, ``tumor``, ``auroc``, and the best ``accuracy`` with its ``threshold`` and ``larger_is_tumor``;
        None where a split holds one label only. Only labelled patches that are not blank count.

    Raises
    ------
    InputMissingError
        There is no such threshold.

    References
    ----------
    Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv 2503.13236, eq. 2: alpha.
    """
    naming = naming_of(groups)
    values = naming.values
    found: dict[str, Any] = {"attribute_values": list(values), "thresholds": {}, "sweep": {}, "fraction_only": {}}
    if naming.labels != LABELS:
        found["label_names"] = list(naming.labels)
    for threshold in thresholds:
        column = _column(groups, threshold)
        found["thresholds"][f"{threshold:g}"] = {
            split: _cells(part, column, len(values)) for split, part in _by_split(groups)
        }
    is_counted = groups[_column(groups, thresholds[0])] >= 0
    for split, part in _by_split(groups[is_counted]):
        label = part["label"].to_numpy(np.int64)
        fraction = part["tissue_fraction"].to_numpy(np.float64)
        found["sweep"][split] = [
            {"threshold": cut, "alpha": _alpha(_counts(2 * label + (fraction >= cut), 2))} for cut in SWEEP
        ]
        found["fraction_only"][split] = _fraction_only(label, fraction)
    return found


def describe(found: Mapping[str, Any]) -> str:
    """Return an audit in words and tables, for a terminal.

    Parameters
    ----------
    found : mapping
        As `audit` returns it, or read back from JSON.
    """
    lines = ["How well the tissue fraction alone tells the label (labelled patches that are not blank):"]
    for split, told in found["fraction_only"].items():
        line = f"  {split:<6} {told['n']:>7} patches, {told['tumor']} tumour"
        if told["auroc"] is None:
            lines.append(f"{line}: one label only")
            continue
        side = ">=" if told["larger_is_tumor"] else "<"
        lines.append(
            f"{line}: AUROC {told['auroc']:.3f}, accuracy {told['accuracy']:.3f} "
            f"with tumour where the fraction is {side} {told['threshold']:.3g}"
        )
    naming = Naming(tuple(found["attribute_values"])) if "attribute_values" in found else Naming()
    names = found.get("label_names", LABELS)
    for threshold, by_split in found["thresholds"].items():
        if naming.is_own and threshold != next(iter(found["thresholds"])):
            continue  # the patches' own attribute is the same at every threshold
        named = naming.at(threshold) if naming.is_own else f"at threshold {threshold}"
        lines += ["", f"Groups {named} (patches / patients; share within the label):"]
        lines.append(f"  {'split':<6} {'label':<10} " + " ".join(f"{value:>24}" for value in naming.values))
        for split, cells in by_split.items():
            lines += [_group_line(split, label, cells, names[label]) for label in (0, 1)]
    return "\n".join(lines)


def _group_line(split: str, label: int, cells: Mapping[str, Any], name: str) -> str:
    """Return one label's line of the group table; an empty group is marked."""
    shown = []
    for attribute in range(len(cells["counts"][label])):
        n, patients = cells["counts"][label][attribute], cells["patients"][label][attribute]
        alpha = cells["alpha"][label]
        share = "" if alpha is None else f" {alpha[attribute]:6.1%}"
        shown.append(f"{n} / {patients}{share}" if n else "EMPTY")
    return f"  {split:<6} {name:<10} " + " ".join(f"{cell:>24}" for cell in shown)


def _column(groups: pd.DataFrame, threshold: float) -> str:
    """Return the group column of a threshold, which must be there."""
    column = group_column(threshold)
    if column not in groups or attribute_column(threshold) not in groups:
        present = [name[6:] for name in map(str, groups) if name.startswith("group@")]
        raise InputMissingError(
            f"no groups at threshold {threshold:g}; there are {', '.join(present) or 'none'}",
            remedy=f"run the stage groups with --threshold {threshold:g}",
        )
    return column


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


def _alpha(counts: NDArray[np.int64]) -> list[list[float] | None]:
    """Return each attribute value's share within its label."""
    return [(row / row.sum()).tolist() if row.sum() else None for row in counts]


def _cells(part: pd.DataFrame, column: str, n_values: int) -> dict[str, Any]:
    """Return counts, patients and alpha of one split at one threshold."""
    counts = _counts(part[column].to_numpy(), n_values)
    patients = part.groupby(column)["patient_id"].nunique()
    return {
        "counts": counts.tolist(),
        "patients": [[int(patients.get(n_values * y + a, 0)) for a in range(n_values)] for y in (0, 1)],
        "alpha": _alpha(counts),
    }


def _fraction_only(label: NDArray[np.int64], fraction: NDArray[np.float64]) -> dict[str, Any]:
    """Return how well one number, the tissue fraction, tells the label."""
    n, tumor = len(label), int(label.sum())
    found: dict[str, Any] = {"n": n, "tumor": tumor}
    if tumor in (0, n):
        return {**found, "auroc": None, "accuracy": None, "threshold": None, "larger_is_tumor": None}
    order = np.argsort(fraction, kind="stable")
    values, sorted_label = fraction[order], label[order]
    # Cutting below element k: those before it are called non-tumour, the rest tumour (or the other way round).
    below = np.concatenate([[0], np.cumsum(sorted_label)])
    right = (np.arange(n + 1) - below) + (tumor - below)
    is_cut = np.concatenate([[True], values[1:] > values[:-1], [True]])
    best = {True: np.where(is_cut, right, -1), False: np.where(is_cut, n - right, -1)}
    larger = bool(best[True].max() >= best[False].max())
    cut = int(np.argmax(best[larger]))
    threshold = float(values[cut]) if cut < n else float(np.nextafter(values[-1], 2))
    return {
        **found,
        "auroc": auroc(fraction, label),
        "accuracy": float(best[larger][cut] / n),
        "threshold": threshold,
        "larger_is_tumor": larger,
    }
