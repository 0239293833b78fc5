"""Name the groups without patches, and the thresholds at which no group is empty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pathopatch.core.errors import GroupEmptyError
from pathopatch.groups.attribute import GroupingAttribute, threshold_attributes
from pathopatch.groups.shortcut import SWEEP_THRESHOLDS

Needed = Sequence[Sequence[str]]
"""Sets of splits; each needs every group, its splits taken together."""


def empty_groups(groups: pd.DataFrame, attribute: GroupingAttribute, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the groups without a patch in some splits taken together, such as ``tumour with little tissue``.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it. Without a split column all patches count.
    attribute : GroupingAttribute
        One of those of the table.
    splits : sequence of str
        Which patches count.
    """
    present = set(attribute.groups_in(_of_splits(groups, splits)).tolist())
    names = [f"{label} with {value}" for label in attribute.label_names for value in attribute.value_names]
    return tuple(name for number, name in enumerate(names) if number not in present)


def empty_groups_error(
    groups: pd.DataFrame, attribute: GroupingAttribute, splits: Sequence[str], needed: Needed
) -> GroupEmptyError:
    """Return the error of splits with an empty group: threshold, groups, counts, and thresholds that would do.

    Parameters
    ----------
    groups, attribute, splits
        As for `empty_groups`.
    needed : sequence of sequence of str
        All sets of splits that need every group: a threshold would do if no group is empty in any of them.
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
    return tabled, tuple(cut for cut in SWEEP_THRESHOLDS if all(is_filled(cut, part) for part in parts))


def _thresholds_text(groups: pd.DataFrame, needed: Needed) -> str:
    """Return in words which thresholds would do."""
    tabled, swept = filled_thresholds(groups, needed)
    steps = f"{SWEEP_THRESHOLDS[0]:g}, {SWEEP_THRESHOLDS[1]:g}, … {SWEEP_THRESHOLDS[-1]:g}"
    if not tabled and not swept:
        return f"at each threshold of {steps} a group is empty: add slides, or move patients between the splits"
    return (
        "choose a threshold at which no group is empty: "
        f"{', '.join(tabled) or 'none'} in groups.parquet; {_ranges(swept) or 'none'} of {steps}"
    )


def _ranges(swept: Sequence[float]) -> str:
    """Return thresholds of the sweep in words, neighbours joined: ``0.1 to 0.3 and 0.5``."""
    places = [SWEEP_THRESHOLDS.index(cut) for cut in swept]
    starts = [SWEEP_THRESHOLDS[place] for place in places if place - 1 not in places]
    stops = [SWEEP_THRESHOLDS[place] for place in places if place + 1 not in places]
    ranges = zip(starts, stops, strict=True)
    return " and ".join(f"{start:g}" if start == stop else f"{start:g} to {stop:g}" for start, stop in ranges)


def _of_splits(groups: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    return groups[groups["split"].isin(list(splits))] if "split" in groups else groups
