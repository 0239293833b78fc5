"""Assign each patch its groups (by thresholds, and by bins of which small ones join), and each patient its split.

Splits and folds are drawn by unit: the block where the patches have blocks, else the patient.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError, SplitLeakageError
from pathopatch.core.patients import BLOCK, SPLITS, patient_problems
from pathopatch.core.text import pluralize
from pathopatch.groups.attribute import (
    LABEL_NAME_COLUMN,
    PATCH_ATTRIBUTE,
    SCANNED,
    SOURCE_SLIDE,
    PatchAttribute,
    TissueBins,
    TissueThreshold,
    group_of,
    patch_attribute_names,
    scanned_enough,
    unit_noun,
    units_of,
)

_NEEDED = ("patch_id", "slide_id", "patient_id", "label", "tissue_fraction")
_COPIED = (
    *_NEEDED[:3], SOURCE_SLIDE, BLOCK, "split", *_NEEDED[3:], SCANNED, PATCH_ATTRIBUTE, LABEL_NAME_COLUMN,
    "pixels_checksum",
)  # fmt: skip
_HELD_OUT_SHARE = 0.2  # of the units, for val and for test each; the rest trains


def assign_groups(
    patches: pd.DataFrame,
    thresholds: Sequence[float],
    *,
    min_tissue: float = 0.01,
    min_scanned: float = 0.5,
    bins: Sequence[float] = (),
) -> pd.DataFrame:
    """Return each patch's attribute and group for every threshold.

    Parameters
    ----------
    patches : DataFrame
        Columns patch_id, slide_id, patient_id, label (1, 0, -1), tissue_fraction; scanned_fraction and split where
        they are known; attribute where the patches have one of their own, of A values, in place of the tissue.
    thresholds, bins : sequence of float
        In (0, 1): tissue thresholds, and the rising cuts of a further attribute beside them.
    min_tissue : float
        Below this tissue fraction a patch is blank: attribute and group -1, but for an attribute that patches have.
    min_scanned : float
        Below this scanned fraction too: such a patch shows mostly what fills the unscanned parts of a slide.

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

    Examples
    --------
    >>> patches = pd.DataFrame({"patch_id": ["a", "b"], "slide_id": "S01", "patient_id": "P01", "label": [0, 1]})
    >>> pathopatch.assign_groups(patches.assign(tissue_fraction=[0.1, 0.9]), [0.25])["group@0.25"].tolist()
    [0, 3]
    """
    _check(patches, thresholds, bins)
    groups = patches[[name for name in _COPIED if name in patches]].copy()
    label = patches["label"].to_numpy(np.int64)
    names = patch_attribute_names(patches)
    is_scanned = scanned_enough(patches, min_scanned)
    for threshold in thresholds:
        attribute = PatchAttribute(names, threshold) if names else TissueThreshold(threshold)
        value = np.where(is_scanned, attribute.values(patches, min_tissue=min_tissue), -1)
        groups[attribute.column] = value
        groups[attribute.group_column] = group_of(label, value, n_values=attribute.n_values)
    if bins:
        by_bins = TissueBins(tuple(bins))
        groups[by_bins.column] = np.where(is_scanned, by_bins.values(patches, min_tissue=min_tissue), -1)
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


def assign_splits(
    patches: pd.DataFrame,
    slides: pd.DataFrame,
    *,
    seed: int = 0,
    distinct_patients: Collection[tuple[str, str]] = (),
) -> pd.Series[str]:
    """Return each patient's split: the given one, or 60/20/20 by unit (see `units_of`) within each label.

    Parameters
    ----------
    patches : DataFrame
        Columns patient_id, label (1, 0, -1) and, where blocks are given, block. A unit's label is the highest of all
        its patches.
    slides : DataFrame
        Columns patient_id and split (train, val, test, or empty), a row per slide. One given split is the whole
        unit's. Patients without patches get no split of their own.
    seed : int
        Which of the possible assignments is drawn. It does not depend on the order of the rows.
    distinct_patients : collection of (str, str)
        Pairs of ids that are two patients, see `patient_problems`.

    Returns
    -------
    Series of str
        Split by patient_id (the index, sorted). Within one label val and test get a fifth of the units without a
        split each, to the nearest whole number, but at least one from three patients on. Of two the second validates;
        a single one trains.

    Raises
    ------
    SplitLeakageError, DuplicateIdError
        A patient or a block is in two splits, or is written in two ways, which may be two; see `patient_problems`.
    InputUnsupportedError, InputMissingError
        A split is none of the three, or a column is missing.
    """
    label, unit_of = _labelled_units(patches)
    if missing := [name for name in ("patient_id", "split") if name not in slides]:
        raise InputMissingError(f"no column {', '.join(missing)}", remedy="give the patch tables of the stage tile")
    stated = slides["split"].fillna("").astype(str).str.strip()
    unknown = sorted(set(stated) - {"", *SPLITS})
    if unknown:
        raise InputUnsupportedError(f"split {unknown[0]!r}", remedy="write train, val or test, or leave it empty")
    of_slides = list(zip(slides["patient_id"].astype(str), stated, strict=True))
    of_units = [(str(unit_of[patient]), split) for patient, split in of_slides if split and patient in unit_of.index]
    _require_unambiguous(patches, distinct_patients, of_slides, of_units)
    given = dict(of_units)
    splits = pd.Series([given.get(unit, "") for unit in label.index], index=label.index, dtype=object)
    generator = np.random.default_rng(seed)
    for value in sorted(set(label)):
        free = [unit for unit in label.index[label == value] if not given.get(unit)]
        order = generator.permutation(len(free))
        n_held_out = max(1, round(len(free) * _HELD_OUT_SHARE))
        proportioned = ["train"] * (len(free) - 2 * n_held_out) + ["val"] * n_held_out + ["test"] * n_held_out
        # Of two units the second validates; a single one trains.
        proportioned = ["train", "val"][: len(free)] if len(free) < 3 else proportioned
        for unit, split in zip((free[i] for i in order), proportioned, strict=True):
            splits[unit] = split
    return unit_of.map(splits).astype(str).rename("split")


def given_splits(slides: pd.DataFrame, patches: pd.DataFrame) -> pd.DataFrame:
    """Return the splits that were given (columns patient_id and split): of slides, and of ready patches.

    `slides` has both columns too, with an empty patient_id for a set of ready patches. `patches` has patient_id and,
    only where there are ready patches, split.
    """
    given = slides[["patient_id", "split"]]
    if "split" not in patches:
        return given
    of_ready_patches = patches.loc[patches["split"].notna(), ["patient_id", "split"]].drop_duplicates()
    return pd.concat([given[given["patient_id"] != ""], of_ready_patches], ignore_index=True)


def assign_folds(
    patches: pd.DataFrame,
    *,
    folds: int,
    seed: int = 0,
    distinct_patients: Collection[tuple[str, str]] = (),
    least: int = 3,
) -> pd.Series[int]:
    """Return each patient's fold: units are dealt out in turn within each label, in a drawn order; see `assign_splits`.

    Folds go from 1 to `folds`, by patient_id (the index, sorted), and differ by at most one unit, within a label
    too. The draw does not depend on the order of the rows.

    Raises
    ------
    InputUnsupportedError, InputMissingError
        Fewer folds than `least` (one tests, one validates, one trains), fewer units than folds, or a column is missing.
    DuplicateIdError
        A patient or a block is written in two ways, which may be two.
    """
    label, unit_of = _labelled_units(patches)
    noun = unit_noun(patches)
    if not least <= folds <= len(label):
        raise InputUnsupportedError(
            f"{folds} folds of {pluralize(len(label), noun)}",
            place="[splits] folds",
            remedy=f"use at least {least} folds and at most as many as there are {noun}s",
        )
    _require_unambiguous(patches, distinct_patients, (), ())
    generator = np.random.default_rng(seed)
    of_label = [label.index[label == value] for value in sorted(set(label))]
    order = [units[i] for units in of_label for i in generator.permutation(len(units))]
    # A label is dealt on from the fold where the one before it ended, so that the folds' sizes stay equal too.
    fold = {unit: place % folds + 1 for place, unit in enumerate(order)}
    return unit_of.map(fold).astype(np.int64).rename("fold")


def split_in_fold(fold: pd.Series[int], number: int, *, folds: int) -> pd.Series[str]:
    """Return each patient's split when the fold `number` is tested: the next one validates, the others train.

    `fold` is from 1, by patient; the fold after the last of `folds` is the first.
    """
    # So each patient tests once and validates once.
    split_of = {number: "test", number % folds + 1: "val"}
    return fold.map(lambda patient_fold: split_of.get(patient_fold, "train")).rename("split")


def _labelled_units(patches: pd.DataFrame) -> tuple[pd.Series[int], pd.Series[str]]:
    """Return each unit's label, the highest of all patches, by unit; and each patient's unit. Both indices are sorted.

    A patient is in one unit, as blocks that share one are joined.
    """
    if missing := [name for name in ("patient_id", "label") if name not in patches]:
        raise InputMissingError(f"no column {', '.join(missing)}", remedy="give the tables of tile and check")
    unit = units_of(patches)
    return patches["label"].groupby(unit).max(), unit.groupby(patches["patient_id"].astype(str)).first()


def _require_unambiguous(
    patches: pd.DataFrame,
    distinct: Collection[tuple[str, str]],
    of_patients: Sequence[tuple[str, str]],
    of_units: Sequence[tuple[str, str]],
) -> None:
    """Refuse a patient or a block in several of the given splits ("": not given), and one written in several ways."""
    for column, given, pairs in (("patient_id", of_patients, distinct), (BLOCK, of_units, ())):
        names = sorted(set(patches[column].astype(str))) if column in patches else []
        rows = [(name, split or None, None) for name, split in given] if names else []
        rows += [(name, None, None) for name in names]
        for problem in patient_problems(rows, pairs, column=column):
            kind = SplitLeakageError if problem.code == SplitLeakageError.code else DuplicateIdError
            what = column.removesuffix("_id")
            raise kind(f"{what} {problem.value!r}: {problem.message}", place=column, remedy=problem.remedy)
