"""Which group each patch is in, for several thresholds of the tissue fraction at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError

OWN = "attribute"
"""Column of a patch table that holds an attribute of the patches' own, as text; "" where it is unknown."""
LABEL_NAME = "label_name"
"""Column that holds what the patches' labels are called, where that is not tumour and non-tumour."""
KEPT = ("patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction", OWN, LABEL_NAME)
_NEEDED = ("patch_id", "slide_id", "patient_id", "label", "tissue_fraction")


def attribute_column(threshold: float) -> str:
    """Return the name of the column that holds the attribute at a threshold, ``attribute@0.25``."""
    return f"attribute@{threshold:g}"


def group_column(threshold: float) -> str:
    """Return the name of the column that holds the group at a threshold, ``group@0.25``."""
    return f"group@{threshold:g}"


def bins_column(bins: Sequence[float]) -> str:
    """Return the name of the column that holds the bin between several cuts, ``bin@0.3,0.5``."""
    return "bin@" + ",".join(f"{cut:g}" for cut in bins)


def bins_of(groups: pd.DataFrame) -> tuple[tuple[float, ...], ...]:
    """Return the cuts of the bins that a groups table has columns for; none, or one set of them."""
    names = [str(name).removeprefix("bin@") for name in groups.columns if str(name).startswith("bin@")]
    return tuple(tuple(float(cut) for cut in name.split(",")) for name in names)


def thresholds_of(groups: pd.DataFrame) -> tuple[str, ...]:
    """Return the tissue thresholds of a groups table, as they are written in its columns, rising.

    Parameters
    ----------
    groups : DataFrame
        With columns ``group@<threshold>``.

    Raises
    ------
    InputUnsupportedError
        There is no such column.
    """
    found = [str(name).removeprefix("group@") for name in groups.columns if str(name).startswith("group@")]
    if not found:
        raise InputUnsupportedError(
            "the groups table has no column 'group@<threshold>'",
            place="groups.parquet",
            remedy="run `pathopatch groups` with at least one --threshold",
        )
    return tuple(sorted(found, key=float))


def group_numbers(groups: pd.DataFrame, column: str, n_values: int) -> NDArray[np.int64]:
    """Return each patch's group A label + attribute, or -1, by a column of groups or by one of bins.

    Parameters
    ----------
    groups : DataFrame
        Columns label and `column`.
    column : str
        ``group@…``, which holds it, or ``bin@…`` or ``attribute@…``, which hold the attribute.
    n_values : int
        A.

    Returns
    -------
    ndarray of int64, shape (N,)
    """
    found = groups[column].to_numpy(np.int64)
    if column.startswith("group@"):
        return found
    label = groups["label"].to_numpy(np.int64)
    return np.where((found < 0) | (label < 0), -1, n_values * label + found).astype(np.int64)


def attribute_values(patches: pd.DataFrame) -> tuple[str, ...]:
    """Return the values of the patches' own attribute, numbers by size and text by letters; none if they have none.

    Raises
    ------
    InputUnsupportedError
        Some patches have one and others do not: the groups would mean two things.
    """
    if OWN not in patches:
        return ()
    own = patches[OWN]
    if own.isna().any():
        raise InputUnsupportedError(
            f"{int(own.notna().sum())} patches have an attribute of their own, {int(own.isna().sum())} do not",
            place="patches",
            remedy="keep slides and ready patches with an attribute in two work folders",
        )
    values = set(own.astype(str)) - {""}
    try:
        return tuple(sorted(values, key=float))
    except ValueError:
        return tuple(sorted(values))


def attribute(tissue_fraction: NDArray[np.float64], cuts: Sequence[float], *, min_tissue: float) -> NDArray[np.int64]:
    """Return how many cuts the tissue fraction reaches: with one cut 1 is large tissue, 0 is little.

    Parameters
    ----------
    tissue_fraction : ndarray of float64, shape (N,)
        In [0, 1], NaN where unknown.
    cuts : sequence of float
        Rising; a cut is reached by equality.
    min_tissue : float
        Below it a patch is blank.

    Returns
    -------
    ndarray of int64, shape (N,)
        0 to the number of cuts; -1 for blank patches and unknown fractions.

    References
    ----------
    Asaad, Shadaydeh, Denzler, arXiv 2511.13527: a = 1[tissue_fraction >= tau].
    """
    reached = np.searchsorted(np.asarray(cuts, np.float64), tissue_fraction, side="right")
    is_known = tissue_fraction >= min_tissue  # False for NaN
    return np.where(is_known, reached, -1).astype(np.int64)


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
    thresholds : sequence of float
        Each in (0, 1).
    min_tissue : float
        Below this tissue fraction a patch is blank: attribute and group -1.
    bins : sequence of float
        Rising cuts in (0, 1) that form one attribute of more than two values beside the thresholds.

    Returns
    -------
    DataFrame
        A row a patch, in the order given: patch_id, slide_id, patient_id, split (if given), label, tissue_fraction;
        per threshold ``attribute@T`` (1 large tissue, 0 little, -1 blank) and ``group@T`` (2 label + attribute; -1 if
        blank or not labelled); with bins ``bin@…`` (0 to the number of cuts, -1 blank). Patches with an attribute of
        their own have, at every threshold alike, its place among `attribute_values` (-1 where unknown, whatever the
        tissue) and the group A label + attribute, A being at least 2.

    Raises
    ------
    InputMissingError
        A column is missing.
    InputUnsupportedError
        A threshold lies outside (0, 1), two share one name, the bins do not rise, or there is no threshold; or see
        `attribute_values`.
    DuplicateIdError
        A patch_id stands twice.
    """
    _check(patches, thresholds, bins)
    groups = patches[[name for name in KEPT if name in patches]].copy()
    fraction = patches["tissue_fraction"].to_numpy(np.float64)
    label = patches["label"].to_numpy(np.int64)
    values = attribute_values(patches)
    n_values = max(2, len(values))
    for threshold in thresholds:
        if values:
            place = patches[OWN].astype(str).map({value: index for index, value in enumerate(values)})
            found = place.fillna(-1).to_numpy(np.int64)
        else:
            found = attribute(fraction, (threshold,), min_tissue=min_tissue)
        groups[attribute_column(threshold)] = found
        groups[group_column(threshold)] = np.where((found < 0) | (label < 0), -1, n_values * label + found)
    if bins:
        groups[bins_column(bins)] = attribute(fraction, bins, min_tissue=min_tissue)
    return groups.reset_index(drop=True)


def _check(patches: pd.DataFrame, thresholds: Sequence[float], bins: Sequence[float]) -> None:
    """Raise if a column is missing, a patch stands twice or a threshold makes no sense."""
    missing = [name for name in _NEEDED if name not in patches]
    if missing:
        raise InputMissingError(
            f"no column {', '.join(missing)} in the patch table",
            remedy="give the tables that the stage tile wrote",
        )
    twice = patches.loc[patches["patch_id"].duplicated(), "patch_id"]
    if len(twice):
        raise DuplicateIdError(
            f"patch {twice.iloc[0]!r} stands twice ({len(twice)} such rows)",
            remedy="give each slide's table once",
        )
    names = [f"{threshold:g}" for threshold in thresholds]
    if not names or not all(0 < cut < 1 for cut in (*thresholds, *bins)):
        raise InputUnsupportedError(
            f"thresholds {', '.join(names) or 'none'}, bins {', '.join(f'{cut:g}' for cut in bins) or 'none'}",
            remedy="give at least one threshold; all must lie between 0 and 1",
        )
    if len(set(names)) != len(names) or list(bins) != sorted(set(bins)):
        raise InputUnsupportedError(
            f"thresholds {', '.join(names)}, bins {', '.join(f'{cut:g}' for cut in bins)}",
            remedy="thresholds must differ in their first six digits, bins must rise",
        )
