"""Which part of a cross-validation each patient is in."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.text import pluralize

LEAST_FOLDS = 3
"""One fold tests, one validates, one is left to train on."""


def assign_folds(patches: pd.DataFrame, *, folds: int, seed: int = 0) -> pd.Series[int]:
    """Return each patient's fold: dealt out in turn within each label, in a drawn order.

    Parameters
    ----------
    patches : DataFrame
        Columns patient_id and label (1, 0, -1). A patient's label is the highest of all patches.
    folds : int
        How many, at least 3.
    seed : int
        Which of the possible assignments is drawn. It does not depend on the order of the rows.

    Returns
    -------
    Series of int
        1 to `folds` by patient_id (the index, sorted). Folds differ by at most one patient, and within a label too.

    Raises
    ------
    InputUnsupportedError
        Fewer than three folds, or fewer patients than folds.
    InputMissingError
        A column is missing.
    """
    missing = [name for name in ("patient_id", "label") if name not in patches]
    if missing:
        raise InputMissingError(f"no column {', '.join(missing)}", remedy="give the tables of the stage tile")
    label = patches["label"].groupby(patches["patient_id"].astype(str)).max()
    if not LEAST_FOLDS <= folds <= len(label):
        raise InputUnsupportedError(
            f"{folds} folds of {pluralize(len(label), 'patient')}",
            place="[splits] folds",
            remedy=f"use at least {LEAST_FOLDS} folds and at most as many as there are patients",
        )
    generator = np.random.default_rng(seed)
    of_label = [label.index[label == value] for value in sorted(set(label))]
    order = [patients[i] for patients in of_label for i in generator.permutation(len(patients))]
    # The next label is dealt on from where the one before it ended.
    fold = pd.Series({patient: place % folds + 1 for place, patient in enumerate(order)}, dtype=np.int64)
    return fold.loc[label.index].rename("fold").rename_axis("patient_id")


def split_in_fold(fold: pd.Series[int], number: int, *, folds: int) -> pd.Series[str]:
    """Return what each patient is for when one fold is tested: the next fold validates, the others train.

    So each patient is tested once, validates once, and trains all the other times.

    Parameters
    ----------
    fold : Series of int
        From 1, by patient.
    number : int
        The fold that is tested.
    folds : int
        How many there are; the fold after the last is the first.
    """
    roles = {number: "test", number % folds + 1: "val"}
    return fold.map(lambda each: roles.get(each, "train")).rename("split")
