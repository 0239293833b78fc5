"""Divide labelled slides by patient: into one split of three, or into the folds of a cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pathopatch.core.errors import InputUnsupportedError, SplitLeakageError
from pathopatch.core.text import pluralize
from pathopatch.groups.assign import assign_folds, assign_splits, split_in_fold

_LEAST_PATIENTS = 3  # of each label: one trains, one validates, one tests


@dataclass(frozen=True, kw_only=True, eq=False)
class Division:
    """Which patients train, validate and test."""

    fold: int | None  # the fold that is tested; None: there is one split
    split: pd.Series[str]  # by patient_id

    @property
    def place(self) -> str:
        """Name of the fold for messages, "" of one split."""
        return f"fold {self.fold}, " if self.fold else ""


def divide_slides(
    slides: pd.DataFrame, groups: pd.DataFrame | None, *, folds: int, seed: int, is_fold: bool = False
) -> list[Division]:
    """Return the division by patient, one per fold, in which each patient is in one split.

    `slides` has the columns patient_id, split ("" where it is open) and label (0 or 1). From 3 `folds` on they are
    drawn by label. With 1 the splits or folds of `groups` are taken, of one fold where `is_fold`; without groups,
    splits are drawn.

    Raises
    ------
    InputUnsupportedError
        Fewer patients show a label than there are splits or folds.
    SplitLeakageError, DuplicateIdError
        A patient is in two splits or folds, or is written in two ways.
    """
    _require_patients(slides, folds)
    if folds > 1:
        return _folds(assign_folds(slides, folds=folds, seed=seed), folds)
    if groups is None:
        return [Division(fold=None, split=assign_splits(slides, slides, seed=seed))]
    column = "fold" if "fold" in groups and not is_fold else "split"
    of_patient = groups[["patient_id", column]].astype({"patient_id": str}).drop_duplicates()
    repeated = of_patient.loc[of_patient["patient_id"].duplicated(), "patient_id"]
    if len(repeated):
        raise SplitLeakageError(
            f"patient {repeated.iloc[0]!r} is in two {column}s",
            place="groups.parquet",
            remedy="run pathopatch groups WORK --force",
        )
    known = of_patient.set_index("patient_id")[column]
    return _folds(known, int(known.max())) if column == "fold" else [Division(fold=None, split=known)]


def _folds(fold: pd.Series[int], folds: int) -> list[Division]:
    return [Division(fold=n, split=split_in_fold(fold, n, folds=folds)) for n in range(1, folds + 1)]


def _require_patients(slides: pd.DataFrame, folds: int) -> None:
    """Refuse fewer patients of a label than splits; a patient with slides of both labels counts as 1."""
    needed = max(_LEAST_PATIENTS, folds)
    label_of = slides.groupby("patient_id")["label"].max()
    for label in (0, 1):
        if (count := int((label_of == label).sum())) < needed:
            why = f"one for each of {folds} folds" if folds > 1 else "one each to train, to validate and to test"
            raise InputUnsupportedError(
                f"{pluralize(count, 'patient')} with slide_label {label}, at least {needed} are needed: {why}",
                place="slide_label",
                remedy="add patients" + (", or use fewer folds" if folds > _LEAST_PATIENTS else ""),
            )
