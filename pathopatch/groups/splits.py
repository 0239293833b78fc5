"""Which split each patient belongs to, where the manifest does not say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, SplitLeakageError
from pathopatch.slides.manifest import SPLITS

HELD_OUT_SHARE = 0.2  # of the patients, for val and for test each; the rest trains


def assign_splits(patches: pd.DataFrame, slides: pd.DataFrame, *, seed: int = 0) -> pd.Series[str]:
    """Return each patient's split: the given one, or 60/20/20 by patient within each label.

    Parameters
    ----------
    patches : DataFrame
        Columns patient_id and label (1, 0, -1). A patient's label is the highest of all patches.
    slides : DataFrame
        Columns patient_id and split (train, val, test, or empty), a row a slide. One given split is the whole
        patient's. Patients of whom there are no patches get no split of their own.
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
    SplitLeakageError
    from pathopatch.slides.manifest import SPLITS
        A patient stands in two splits.
    InputUnsupportedError
        A split is none of the three.
    InputMissingError
        A column is missing.
    """
    for table, names in ((patches, ("patient_id", "label")), (slides, ("patient_id", "split"))):
        missing = [name for name in names if name not in table]
        if missing:
            raise InputMissingError(f"no column {', '.join(missing)}", remedy="give the tables of tile and check")
    named = slides["split"].fillna("").astype(str).str.strip()
    unknown = sorted(set(named) - {"", *SPLITS})
    if unknown:
        raise InputUnsupportedError(f"split {unknown[0]!r}", remedy="write train, val or test, or leave it empty")
    given = {str(patient): _only_split(patient, rows) for patient, rows in named.groupby(slides["patient_id"])}
    label = patches["label"].groupby(patches["patient_id"].astype(str)).max()
    splits = pd.Series([given.get(patient, "") for patient in label.index], index=label.index, dtype=object)
    generator = np.random.default_rng(seed)
    for value in sorted(set(label)):
        free = [patient for patient in label.index[label == value] if not given.get(patient)]
        order = generator.permutation(len(free))
        for patient, split in zip((free[i] for i in order), _shares(len(free)), strict=True):
            splits[patient] = split
    return splits.astype(str).rename("split")


def given_splits(slides: pd.DataFrame, patches: pd.DataFrame) -> pd.DataFrame:
    """Return the splits that were given, by patient: of slides, and of ready patches, which say their own.

    Parameters
    ----------
    slides : DataFrame
        Columns patient_id and split; patient_id is empty for a set of ready patches.
    patches : DataFrame
        Columns patient_id and, only where there are ready patches, split.
    """
    given = slides[["patient_id", "split"]]
    if "split" not in patches:
        return given
    own = patches.loc[patches["split"].notna(), ["patient_id", "split"]].drop_duplicates()
    return pd.concat([given[given["patient_id"] != ""], own], ignore_index=True)


def _only_split(patient: object, rows: pd.Series[str]) -> str:
    """Return the one split that a patient's rows name, or nothing."""
    named = sorted(set(rows) - {""})
    if len(named) > 1:
        raise SplitLeakageError(
            f"patient {patient!r} stands in {' and '.join(named)}",
            remedy="put all slides of a patient into one split",
        )
    return named[0] if named else ""


def _shares(n: int) -> list[str]:
    """Return n splits in the due proportion."""
    if n < 3:
        return ["train", "val"][:n]
    held_out = max(1, round(n * HELD_OUT_SHARE))
    return ["train"] * (n - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
