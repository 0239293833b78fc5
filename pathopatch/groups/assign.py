"""Assign each patch its groups: by several tissue thresholds at once, and by bins of which small ones are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError
from pathopatch.groups.attribute import (
    LABEL_NAME_COLUMN,
    PATCH_ATTRIBUTE,
    PatchAttribute,
    TissueBins,
    TissueThreshold,
    group_of,
    patch_attribute_names,
)

_NEEDED = ("patch_id", "slide_id", "patient_id", "label", "tissue_fraction")
_COPIED = (*_NEEDED[:3], "split", *_NEEDED[3:], PATCH_ATTRIBUTE, LABEL_NAME_COLUMN)


def assign_groups(
    patches: pd.DataFrame,
    thresholds: Sequence[float],
    *,
    min_tissue: float = 0.01,
    bins: Sequence[float] = (),
) -> pd.DataFrame:
    """Return each patch's attribute and group for every threshold.

    Parameters
    ----------
    patches : DataFrame
        Columns patch_id, slide_id, patient_id, label (1, 0, -1), tissue_fraction; split where it is known; attribute
        where the patches have one of their own, of A values, in place of the tissue.
    thresholds, bins : sequence of float
        In (0, 1): tissue thresholds, and the rising cuts of a further attribute beside them.
    min_tissue : float
        Below this tissue fraction a patch is blank: attribute and group -1.

    Returns
    -------
    DataFrame
        A row per patch, in the order given: the columns above; per threshold ``attribute@T`` (1 much tissue, 0
        little, -1 blank) and ``group@T`` (A label + attribute; -1 without a label or attribute); with bins ``bin@…``
        (0 to the number of cuts, -1 blank). An attribute of the patches is repeated at every threshold.

    Raises
    ------
    InputMissingError, DuplicateIdError
        A column is missing, or a patch_id occurs twice.
    InputUnsupportedError
        A threshold lies outside (0, 1), two share one name, the bins do not rise, or there is no threshold; or see
        `patch_attribute_names`.
    """
    _check(patches, thresholds, bins)
    groups = patches[[name for name in _COPIED if name in patches]].copy()
    label = patches["label"].to_numpy(np.int64)
    names = patch_attribute_names(patches)
    for threshold in thresholds:
        attribute = PatchAttribute(names, threshold) if names else TissueThreshold(threshold)
        value = attribute.values(patches, min_tissue=min_tissue)
        groups[attribute.column] = value
        groups[attribute.group_column] = group_of(label, value, n_values=attribute.n_values)
    if bins:
        by_bins = TissueBins(tuple(bins))
        groups[by_bins.column] = by_bins.values(patches, min_tissue=min_tissue)
    return groups.reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class JoinedBins:
    """Bins of which small ones have joined a neighbour."""

    cuts: tuple[float, ...]  # all of them
    kept: tuple[float, ...]  # those that still separate two bins
    counts: NDArray[np.int64]  # (S, 2, A): patches by set of splits, label and bin, before the joining

    def join(self, bin_number: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each patch's bin after the joining, shape (N,), from that before it; -1 stays -1."""
        joined = np.concatenate([[0], np.cumsum(np.isin(self.cuts, self.kept))])
        return np.where(bin_number < 0, -1, joined[np.maximum(bin_number, 0)]).astype(np.int64)


def join_small_bins(
    groups: pd.DataFrame, cuts: Sequence[float], *, splits: Sequence[Sequence[str]], least: int
) -> JoinedBins:
    """Return which bins of an `assign_groups` table stay apart, by the labelled patches of some sets of splits.

    A bin with fewer than `least` patches in any set and label joins a neighbour. The sets, those that are trained on
    and those that select, are counted one by one.
    """
    column, n_bins = TissueBins(tuple(cuts)).column, len(cuts) + 1
    counts = np.zeros((len(splits), 2, n_bins), dtype=np.int64)
    for row, names in enumerate(splits):
        part = groups[groups["split"].isin(list(names)) & (groups["label"] >= 0) & (groups[column] >= 0)]
        cell = n_bins * part["label"].to_numpy(np.int64) + part[column].to_numpy(np.int64)
        counts[row] = np.bincount(cell, minlength=2 * n_bins).reshape(2, n_bins)
    return JoinedBins(tuple(cuts), tuple(cuts[place] for place in _kept_cuts(counts, least=least)), counts)


def _kept_cuts(counts: NDArray[np.int64], *, least: int) -> tuple[int, ...]:
    """Return the places of the cuts that stay, rising, from counts of shape (S, 2, A)."""
    table = counts.reshape(-1, counts.shape[-1])  # (2 S, A)
    cuts = list(range(table.shape[1] - 1))
    # Two bins always stay: an attribute of one value would form no groups.
    while len(cuts) > 1 and table.min() < least:
        row, smallest = np.unravel_index(int(np.argmin(table)), table.shape)
        neighbours = [b for b in (int(smallest) - 1, int(smallest) + 1) if 0 <= b < table.shape[1]]
        # The neighbour with fewer patches in that cell's split and label; of equal ones the lower.
        neighbour = neighbours[int(np.argmin(table[row, neighbours]))]
        left = min(int(smallest), neighbour)
        joined = table[:, left : left + 2].sum(axis=1, keepdims=True)
        table = np.concatenate([table[:, :left], joined, table[:, left + 2 :]], axis=1)
        del cuts[left]
    return tuple(cuts)


def _check(patches: pd.DataFrame, thresholds: Sequence[float], bins: Sequence[float]) -> None:
    """Raise if a column is missing, a patch occurs twice or a threshold makes no sense."""
    missing = [name for name in _NEEDED if name not in patches]
    if missing:
        raise InputMissingError(
            f"no column {', '.join(missing)} in the patch table",
            remedy="give the tables that the stage tile wrote",
        )
    repeated = patches.loc[patches["patch_id"].duplicated(), "patch_id"]
    if len(repeated):
        raise DuplicateIdError(
            f"patch {repeated.iloc[0]!r} occurs twice ({len(repeated)} such rows)",
            remedy="give each slide's table once",
        )
    # Columns are named by six digits: two thresholds that agree in them would share one.
    names, cuts = [f"{threshold:g}" for threshold in thresholds], [f"{cut:g}" for cut in bins]
    if not names or not all(0 < cut < 1 for cut in (*thresholds, *bins)):
        raise InputUnsupportedError(
            f"thresholds {', '.join(names) or 'none'}, bins {', '.join(cuts) or 'none'}",
            remedy="give at least one threshold; all must lie between 0 and 1",
        )
    if len(set(names)) != len(names) or list(bins) != sorted(set(bins)):
        raise InputUnsupportedError(
            f"thresholds {', '.join(names)}, bins {', '.join(cuts)}",
            remedy="thresholds must differ in their first six digits, bins must rise",
        )
