"""Assign patients to splits, where the manifest does not say, and to the folds of a cross-validation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, SplitLeakageError
from pathopatch.core.text import pluralize
from pathopatch.slides.manifest import SPLITS

_HELD_OUT_SHARE = 0.2  # of the patients, for val and for test each; the rest trains
_LEAST_FOLDS = 3  # one tests, one validates, one is left to train on


def assign_splits(patches: pd.DataFrame, slides: pd.DataFrame, *, seed: int = 0) -> pd.Series[str]:
    """Return each patient's split: the given one, or 60/20/20 by patient within each label.

    Parameters
    ----------
    patches : DataFrame
        Columns patient_id and label (1, 0, -1). A patient's label is the highest of all patches.
    slides : DataFrame
        Columns patient_id and split (train, val, test, or empty), a row per slide. One given split is the whole
        patient's. Patients without patches get no split of their own.
    seed : int
        Which of the possible assignments is drawn. It does not depend on the order of the rows.

    Returns
    -------
    Series of str
        Split by patient_id (the index, sorted). Within one label val and test get a fifth of the patients without a
        split each, to the nearest whole number, but at least one from three patients on. Of two the second validates;
        a single one trains.

    Raises
    ------
    SplitLeakageError, InputUnsupportedError, InputMissingError
        A patient is in two splits, a split is none of the three, or a column is missing.
    """
    label = _patient_labels(patches)
    if missing := [name for name in ("patient_id", "split") if name not in slides]:
        raise InputMissingError(f"no column {', '.join(missing)}", remedy="give the tables of tile and check")
    stated = slides["split"].fillna("").astype(str).str.strip()
    unknown = sorted(set(stated) - {"", *SPLITS})
    if unknown:
        raise InputUnsupportedError(f"split {unknown[0]!r}", remedy="write train, val or test, or leave it empty")
    given = {str(patient): _only_split(patient, rows) for patient, rows in stated.groupby(slides["patient_id"])}
    splits = pd.Series([given.get(patient, "") for patient in label.index], index=label.index, dtype=object)
    generator = np.random.default_rng(seed)
    for value in sorted(set(label)):
        free = [patient for patient in label.index[label == value] if not given.get(patient)]
        order = generator.permutation(len(free))
        for patient, split in zip((free[i] for i in order), _proportioned(len(free)), strict=True):
            splits[patient] = split
    return splits.astype(str).rename("split")


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


def assign_folds(patches: pd.DataFrame, *, folds: int, seed: int = 0) -> pd.Series[int]:
    """Return each patient's fold: dealt out in turn within each label, in a drawn order; `patches` as `assign_splits`.

    Folds go from 1 to `folds`, by patient_id (the index, sorted), and differ by at most one patient, within a label
    too. The draw does not depend on the order of the rows.

    Raises
    ------
    InputUnsupportedError, InputMissingError
        Fewer than three folds, fewer patients than folds, or a column is missing.
    """
    label = _patient_labels(patches)
    if not _LEAST_FOLDS <= folds <= len(label):
        raise InputUnsupportedError(
            f"{folds} folds of {pluralize(len(label), 'patient')}",
            place="[splits] folds",
            remedy=f"use at least {_LEAST_FOLDS} folds and at most as many as there are patients",
        )
    generator = np.random.default_rng(seed)
    of_label = [label.index[label == value] for value in sorted(set(label))]
    order = [patients[i] for patients in of_label for i in generator.permutation(len(patients))]
    # A label is dealt on from the fold where the one before it ended, so that the folds' sizes stay equal too.
    fold = pd.Series({patient: place % folds + 1 for place, patient in enumerate(order)}, dtype=np.int64)
    return fold.loc[label.index].rename("fold").rename_axis("patient_id")


def split_in_fold(fold: pd.Series[int], number: int, *, folds: int) -> pd.Series[str]:
    """Return each patient's split when the fold `number` is tested: the next one validates, the others train.

    `fold` is from 1, by patient; the fold after the last of `folds` is the first.
    """
    # So each patient tests once and validates once.
    split_of = {number: "test", number % folds + 1: "val"}
    return fold.map(lambda patient_fold: split_of.get(patient_fold, "train")).rename("split")


def _patient_labels(patches: pd.DataFrame) -> pd.Series[int]:
    """Return each patient's label, the highest of all patches, by patient_id (the index, sorted)."""
    if missing := [name for name in ("patient_id", "label") if name not in patches]:
        raise InputMissingError(f"no column {', '.join(missing)}", remedy="give the tables of tile and check")
    return patches["label"].groupby(patches["patient_id"].astype(str)).max()


def _only_split(patient: object, rows: pd.Series[str]) -> str:
    """Return the one split that a patient's rows name, or an empty text."""
    named = sorted(set(rows) - {""})
    if len(named) > 1:
        raise SplitLeakageError(
            f"patient {patient!r} is in {' and '.join(named)}",
            remedy="put all slides of a patient into one split",
        )
    return named[0] if named else ""


def _proportioned(n: int) -> list[str]:
    """Return n splits in their proportions."""
    if n < 3:
        return ["train", "val"][:n]
    held_out = max(1, round(n * _HELD_OUT_SHARE))
    return ["train"] * (n - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
