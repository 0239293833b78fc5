from __future__ import annotations

import pandas as pd
import pytest

from pathopatch.core.errors import InputUnsupportedError, SplitLeakageError
from pathopatch.groups import assign_splits


def cohort(n_tumor: int, n_other: int, n_unlabelled: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return patches (two a patient; one tumour patch makes a tumour patient) and slides without a split."""
    names = [f"t{i:03}" for i in range(n_tumor)] + [f"n{i:03}" for i in range(n_other)]
    names += [f"u{i:03}" for i in range(n_unlabelled)]
    high = {"t": 1, "n": 0, "u": -1}
    low = {"t": 0, "n": 0, "u": -1}
    rows = [(name, label[name[0]]) for name in names for label in (low, high)]
    patches = pd.DataFrame(rows, columns=["patient_id", "label"])
    return patches, pd.DataFrame({"patient_id": names, "split": ""})


def counts(splits: pd.Series, letter: str) -> dict[str, int]:
    part = splits[splits.index.str.startswith(letter)]
    return part.value_counts().to_dict()


def test_each_label_is_split_60_20_20() -> None:
    splits = assign_splits(*cohort(10, 20, 5))
    assert counts(splits, "t") == {"train": 6, "val": 2, "test": 2}
    assert counts(splits, "n") == {"train": 12, "val": 4, "test": 4}
    assert counts(splits, "u") == {"train": 3, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("n", "expected"), [(1, {"train": 1}), (2, {"train": 1, "val": 1}), (3, {"train": 1, "val": 1, "test": 1})]
)
def test_few_patients_train_first_and_three_fill_every_split(n: int, expected: dict[str, int]) -> None:
    assert counts(assign_splits(*cohort(n, 0)), "t") == expected


def test_the_seed_decides_and_the_order_of_the_rows_does_not() -> None:
    patches, slides = cohort(10, 10)
    first = assign_splits(patches, slides, seed=3)
    again = assign_splits(patches[::-1], slides.sample(frac=1, random_state=0), seed=3)
    pd.testing.assert_series_equal(first, again)
    assert (assign_splits(patches, slides, seed=4) != first).any()


def test_a_given_split_is_respected_and_is_the_whole_patients() -> None:
    patches, slides = cohort(10, 0)
    slides.loc[slides["patient_id"].isin(["t000", "t001"]), "split"] = "test"
    slides = pd.concat([slides, pd.DataFrame({"patient_id": ["t000"], "split": [None]})])
    splits = assign_splits(patches, slides)
    assert splits[["t000", "t001"]].tolist() == ["test", "test"]
    assert counts(splits, "t") == {"train": 4, "val": 2, "test": 4}


def test_a_patient_in_two_splits_and_an_unknown_split_are_refused() -> None:
    patches, slides = cohort(1, 0)
    twice = pd.DataFrame({"patient_id": ["t000", "t000"], "split": ["train", "test"]})
    with pytest.raises(SplitLeakageError, match="'t000': the patient is in the splits test, train"):
        assign_splits(patches, twice)
    with pytest.raises(InputUnsupportedError, match="'dev'"):
        assign_splits(patches, slides.assign(split="dev"))
