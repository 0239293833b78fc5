"""What is known of each predicted patch of a slide: what the model said, its label and group, and the run beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.groups.assign import attribute, thresholds_of
from pathopatch.heatmaps.flags import FLAGS
from pathopatch.heatmaps.stitch import cell_positions
from pathopatch.patches.grid import Grid

TAU = 0.25
"""Tissue threshold of the groups where no groups table names one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """The predicted patches of a slide, in the order of its table.

    Parameters
    ----------
    x, y : ndarray of int64, shape (M,)
        Origins, level-0 px.
    cell : ndarray of int64, shape (M,)
        Place of the cell at whose corner each starts, row * nx + column.
    probability, tissue_fraction, spread : ndarray of float64, shape (M,)
        As in the table; the spread is NaN of a single model.
    is_tumour : ndarray of bool, shape (M,)
        The logit lies above the model's decision threshold.
    flags : ndarray of uint16, shape (M,)
        Bit i is set where ``FLAGS[i]`` holds.
    label : ndarray of int64, shape (M,)
        1, 0, or -1 where it is not known.
    group : ndarray of int64, shape (M,)
        2 label + attribute, -1 where one of them is not known; see `group_of`.
    group_of : "label" or "prediction"
        Whether groups are formed by labels, or, where no patch has one, by what the model says.
    tau : float
        Attribute 1 is a tissue fraction of at least this.
    beside : ndarray of float64, shape (M,), or None
        Probability by the run beside, of the patch of the same origin; NaN where it has none.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    cell: NDArray[np.int64]
    probability: NDArray[np.float64]
    tissue_fraction: NDArray[np.float64]
    spread: NDArray[np.float64]
    is_tumour: NDArray[np.bool_]
    flags: NDArray[np.uint16]
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    group_of: Literal["label", "prediction"]
    tau: float
    beside: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.x)


def joined(
    table: pd.DataFrame,
    grid: Grid,
    *,
    decision_threshold: float,
    min_tissue: float,
    groups: pd.DataFrame | None = None,
    beside: pd.DataFrame | None = None,
) -> Patches:
    """Return what is known of a slide's patches.

    Parameters
    ----------
    table : DataFrame
        Their predictions, see `pathopatch.heatmaps.predict_slide`.
    grid : Grid
        By which they were cut.
    decision_threshold : float
        A logit above it is called tumour.
    min_tissue : float
        Below this tissue fraction a patch is blank and in no group.
    groups : DataFrame, optional
        As `assign_groups` returns it, joined by patch_id. Its lowest threshold is the groups'.
    beside : DataFrame, optional
        Another model's predictions of patches of the same side, joined by origin.

    Raises
    ------
    InternalError
        A patch is none of the grid's.
    """
    x, y = (table[name].to_numpy(np.int64) for name in ("x", "y"))
    row, column = cell_positions(grid, x, y)
    tissue = table["tissue_fraction"].to_numpy(np.float64)
    is_tumour = table["logit"].to_numpy(np.float64) > decision_threshold
    label, tau = _labels(groups, table["patch_id"]), _tau(groups)
    large = attribute(tissue, (tau,), min_tissue=min_tissue)
    has_labels = bool((label >= 0).any())
    by = label if has_labels else is_tumour.astype(np.int64)
    return Patches(
        x=x,
        y=y,
        cell=row * grid.nx + column,
        probability=table["probability"].to_numpy(np.float64),
        tissue_fraction=tissue,
        spread=table["spread"].to_numpy(np.float64),
        is_tumour=is_tumour,
        flags=_flags(table),
        label=label,
        group=np.where((by < 0) | (large < 0), -1, 2 * by + large),
        group_of="label" if has_labels else "prediction",
        tau=tau,
        beside=None if beside is None else _at_origins(beside, x, y),
    )


def _labels(groups: pd.DataFrame | None, patch_id: pd.Series[str]) -> NDArray[np.int64]:
    """Return each patch's label, -1 where there is none."""
    if groups is None:
        return np.full(len(patch_id), -1, np.int64)
    known = groups.set_index("patch_id")["label"]
    return known.reindex(patch_id).fillna(-1).to_numpy(np.int64)


def _tau(groups: pd.DataFrame | None) -> float:
    """Return the lowest tissue threshold of a groups table."""
    return TAU if groups is None else float(thresholds_of(groups)[0])


def _flags(table: pd.DataFrame) -> NDArray[np.uint16]:
    """Return the flags as bits; what is not known is none."""
    found = np.zeros(len(table), np.uint16)
    for bit, name in enumerate(FLAGS):
        found[table[f"flag_{name}"].fillna(False).to_numpy(np.bool_)] |= 1 << bit
    return found


def _at_origins(table: pd.DataFrame, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a table's probability of the patch at each origin, NaN where it has none."""
    place = pd.MultiIndex.from_arrays([table["x"], table["y"]]).get_indexer(pd.MultiIndex.from_arrays([x, y]))
    known = np.append(table["probability"].to_numpy(np.float64), np.nan)  # place -1 is the last
    return known[place]
