"""Whatever divides slides, each patient is in one split, and of folds each patient is tested once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.errors import DuplicateIdError, InputUnsupportedError, SplitLeakageError
from pathopatch.groups.slide_splits import divide_slides


def made_slides(labels: list[int], patients: list[int] | None = None) -> pd.DataFrame:
    patients = list(range(len(labels))) if patients is None else patients
    return pd.DataFrame({"patient_id": [f"p{number}" for number in patients], "split": "", "label": labels})


@pytest.mark.parametrize("folds", [1, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_no_patient_is_in_two_splits_and_folds_test_each_once(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(10, 60))
    table = made_slides((rng.random(count) < 0.3).astype(int).tolist(), rng.integers(0, 25, count).tolist())
    label_of = table.groupby("patient_id")["label"].max()
    if min((label_of == 0).sum(), (label_of == 1).sum()) < max(3, folds):
        with pytest.raises(InputUnsupportedError, match="needed"):
            divide_slides(table, None, folds=folds, seed=seed)
        return
    divisions = divide_slides(table, None, folds=folds, seed=seed)
    tested = [patient for division in divisions for patient, split in division.split.items() if split == "test"]
    assert len(tested) == len(set(tested))
    for division in divisions:
        assert division.split.index.is_unique
        assert set(division.split.index) == set(table["patient_id"])
        for split in ("train", "val", "test"):
            patients = division.split.index[division.split == split]
            assert set(label_of[patients]) == {0, 1}
    if folds > 1:
        assert set(tested) == set(table["patient_id"])


def test_the_splits_of_the_groups_come_before_those_of_the_slides() -> None:
    table = made_slides([0, 1] * 3).assign(split="train")
    splits = ["val", "val", "test", "test", "train", "train"]
    groups = pd.DataFrame({"patient_id": table["patient_id"], "split": splits, "fold": [1, 2, 3, 1, 2, 3]})
    (division,) = divide_slides(table, groups.drop(columns="fold"), folds=1, seed=0)
    assert division.split.to_dict() == dict(zip(table["patient_id"], splits, strict=True))
    one, two, three = divide_slides(table, groups, folds=1, seed=0)
    assert [one.split["p0"], two.split["p0"], three.split["p0"]] == ["test", "train", "val"]
    (of_fold,) = divide_slides(table, groups, folds=1, seed=0, is_fold=True)
    assert of_fold.split.to_dict() == division.split.to_dict()


def test_a_patient_in_two_splits_or_spellings_is_refused() -> None:
    table = made_slides([0, 1] * 4)
    groups = pd.DataFrame({"patient_id": ["p0", "p0"], "split": ["train", "test"]})
    with pytest.raises(SplitLeakageError, match="'p0' is in two splits"):
        divide_slides(table, groups, folds=1, seed=0)
    spelled = table.assign(patient_id=["P1", *table["patient_id"][1:]])
    for folds in (1, 3):
        with pytest.raises(DuplicateIdError, match="may be one patient"):
            divide_slides(spelled, None, folds=folds, seed=0)
