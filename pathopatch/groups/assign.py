"""Which group each patch is in, for several thresholds of the tissue fraction at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

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

KEPT = ("patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction", PATCH_ATTRIBUTE, LABEL_NAME_COLUMN)
_NEEDED = ("patch_id", "slide_id", "patient_id", "label", "tissue_fraction")


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
        their own have, at every threshold alike, its place among `patch_attribute_names` (-1 where unknown, whatever
        the tissue) and the group A label + attribute, A being at least 2.

    Raises
    ------
    InputMissingError
        A column is missing.
    InputUnsupportedError
        A threshold lies outside (0, 1), two share one name, the bins do not rise, or there is no threshold; or see
        `patch_attribute_names`.
    DuplicateIdError
        A patch_id stands twice.
    """
    _check(patches, thresholds, bins)
    groups = patches[[name for name in KEPT if name in patches]].copy()
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
