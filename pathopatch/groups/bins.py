"""Which bins of the tissue fraction are large enough to be told apart: the others join a neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.groups.attribute import TissueBins


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins as they were asked for, and as they are used.

    Parameters
    ----------
    cuts, kept : tuple of float
        All cuts, and those between bins that stay apart.
    counts : ndarray of int64, shape (S, 2, A)
        Patches of each split, label and bin as asked for.
    """

    cuts: tuple[float, ...]
    kept: tuple[float, ...]
    counts: NDArray[np.int64]

    def joined(self, attribute: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each patch's bin among those that stay, from its bin among all; -1 stays -1."""
        is_kept = np.isin(self.cuts, self.kept)
        place = np.concatenate([[0], np.cumsum(is_kept)])  # of each bin as asked for
        return np.where(attribute < 0, -1, place[np.maximum(attribute, 0)]).astype(np.int64)


def kept_cuts(counts: NDArray[np.int64], *, least: int) -> tuple[int, ...]:
    """Return which cuts stay when each bin with a cell below a count joins a neighbour, the smallest cell first.

    Of two neighbours it joins the one that has fewer patches in that cell's split and label, of equal ones the lower.
    Two bins always stay: an attribute of one value is none.

    Parameters
    ----------
    counts : ndarray of int64, shape (S, 2, A)
        Patches of each split, label and bin.
    least : int
        A bin with fewer in any split and label joins a neighbour.

    Returns
    -------
    tuple of int
        Places among the A - 1 cuts, rising.
    """
    table = counts.reshape(-1, counts.shape[-1])  # (2 S, A)
    cuts = list(range(table.shape[1] - 1))
    while len(cuts) > 1 and table.min() < least:
        row, small = np.unravel_index(int(np.argmin(table)), table.shape)
        beside = [b for b in (int(small) - 1, int(small) + 1) if 0 <= b < table.shape[1]]
        other = beside[int(np.argmin(table[row, beside]))]
        first = min(int(small), other)
        table = np.concatenate(
            [table[:, :first], table[:, first : first + 2].sum(axis=1, keepdims=True), table[:, first + 2 :]], axis=1
        )
        del cuts[first]
    return tuple(cuts)


def used_bins(groups: pd.DataFrame, cuts: Sequence[float], *, splits: Sequence[Sequence[str]], least: int) -> Bins:
    """Return which bins stay apart, by the labelled patches of some splits.

    Parameters
    ----------
    groups : DataFrame
        As `assign_groups` returns it.
    cuts : sequence of float
        Of its bins.
    splits : sequence of sequence of str
        Each counts alone, several taken together: what is trained on, and what selects.
    least : int
        See `kept_cuts`.
    """
    name, size = TissueBins(tuple(cuts)).column, len(cuts) + 1
    counts = np.zeros((len(splits), 2, size), dtype=np.int64)
    for place, names in enumerate(splits):
        part = groups[groups["split"].isin(list(names)) & (groups["label"] >= 0) & (groups[name] >= 0)]
        cell = size * part["label"].to_numpy(np.int64) + part[name].to_numpy(np.int64)
        counts[place] = np.bincount(cell, minlength=2 * size).reshape(2, size)
    kept = kept_cuts(counts, least=least)
    return Bins(tuple(cuts), tuple(cuts[place] for place in kept), counts)
