from __future__ import annotations

import pandas as pd
import pytest

from pathopatch.core.errors import DuplicateIdError, InputUnsupportedError, SplitLeakageError
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


def in_blocks(n: int) -> pd.DataFrame:
    """Return patches of n blocks of three patients, the even ones with tumour; the last patient is in two blocks."""
    rows = [(f"p{3 * i + k}", f"b{i:02}", int(i % 2 == 0 and k == 0)) for i in range(n) for k in range(3)]
    return pd.DataFrame([*rows, (f"p{3 * n - 1}", "b00", 0)], columns=["patient_id", "block", "label"])


def test_drawn_splits_divide_no_block_nor_blocks_that_share_a_patient() -> None:
    patches = in_blocks(21)
    splits = assign_splits(patches, patches[["patient_id"]].assign(split=""), seed=5)
    of_patch = patches.assign(split=patches["patient_id"].map(splits))
    assert (of_patch.groupby("block")["split"].nunique() == 1).all()
    assert of_patch.set_index("block")["split"]["b00"].iloc[0] == of_patch.set_index("block")["split"]["b20"].iloc[0]
    # b00 and b20 are one unit: 10 units with tumour and 10 without.
    units = of_patch[of_patch["block"] != "b20"].drop_duplicates("block")
    with_tumor = units["block"].str[-1].astype(int) % 2 == 0
    for part in (units[with_tumor], units[~with_tumor]):
        assert part["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 2}


def test_a_given_split_of_one_patient_is_that_of_the_whole_block() -> None:
    patches = in_blocks(4)
    given = pd.DataFrame({"patient_id": ["p3"], "split": ["test"]})
    assert assign_splits(patches, given)[["p3", "p4", "p5"]].tolist() == ["test"] * 3


def test_given_splits_that_divide_a_block_are_refused() -> None:
    given = pd.DataFrame({"patient_id": ["p3", "p4"], "split": ["test", "train"]})
    with pytest.raises(SplitLeakageError, match="block 'b01': the block is in the splits test, train"):
        assign_splits(in_blocks(4), given)


def test_a_block_that_is_written_in_two_ways_is_refused() -> None:
    patches = in_blocks(4).replace({"block": {"b02": "B1"}})
    with pytest.raises(DuplicateIdError, match="'b01' and 'B1' may be one block|'B1' and 'b01' may be one block"):
        assign_splits(patches, patches[["patient_id"]].assign(split=""))
