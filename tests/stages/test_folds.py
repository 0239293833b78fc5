"""Each patient is tested once and validates once, and labels are spread evenly over the folds."""

import numpy as np
import pandas as pd
import pytest
from made_patches import even_patches

from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import GroupsConfig, SplitsConfig, StudyConfig, TrainConfig, parse
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.groups.assign import assign_folds, split_in_fold
from pathopatch.stages.audit import audit_text
from pathopatch.stages.groups import fold_tables, write_folds
from pathopatch.stages.train import training_folders
from pathopatch.training.group_checks import runs_with_groups


def patients(tumour, healthy):
    rows = [(f"t{i}", label) for i in range(tumour) for label in (0, 1)] + [(f"h{i}", 0) for i in range(healthy)]
    return pd.DataFrame(rows, columns=["patient_id", "label"])


@pytest.mark.parametrize("seed", range(5))
def test_folds_differ_by_one_patient_at_most_and_within_a_label_too(seed):
    fold = assign_folds(patients(12, 11), folds=5, seed=seed)
    assert len(fold) == 23
    for part in (fold, fold[fold.index.str.startswith("t")], fold[fold.index.str.startswith("h")]):
        sizes = np.bincount(part, minlength=6)[1:]
        assert sizes.max() - sizes.min() <= 1


def test_the_seed_draws_the_folds_and_the_order_of_the_rows_does_not():
    table = patients(8, 8)
    first = assign_folds(table, folds=4, seed=1)
    pd.testing.assert_series_equal(first, assign_folds(table.sample(frac=1, random_state=0), folds=4, seed=1))
    assert not first.equals(assign_folds(table, folds=4, seed=2))


def test_every_patient_is_tested_once_validates_once_and_trains_otherwise():
    fold = assign_folds(patients(7, 6), folds=5, seed=0)
    roles = pd.DataFrame({k: split_in_fold(fold, k, folds=5) for k in range(1, 6)})
    assert (roles.apply(lambda row: sorted(row), axis=1).map(tuple) == ("test", "train", "train", "train", "val")).all()


@pytest.mark.parametrize("folds", [2, 8])
def test_two_folds_or_more_than_patients_are_refused(folds):
    with pytest.raises(InputUnsupportedError, match=f"{folds} folds of 7 patients"):
        assign_folds(patients(4, 3), folds=folds)


def test_no_fold_divides_a_block_and_folds_have_equally_many():
    table = pd.DataFrame({"patient_id": [f"p{i:02}" for i in range(60)], "label": [i // 6 % 2 for i in range(60)]})
    table["block"] = [f"array {i // 6}" for i in range(60)]
    fold = table["patient_id"].map(assign_folds(table, folds=5, seed=3))
    blocks = fold.groupby(table["block"]).agg(["min", "max"])
    assert (blocks["min"] == blocks["max"]).all()
    assert blocks["min"].value_counts().to_dict() == dict.fromkeys(range(1, 6), 2)
    with pytest.raises(InputUnsupportedError, match="11 folds of 10 blocks"):
        assign_folds(table, folds=11)


def test_a_fold_has_its_own_splits_and_the_whole_cohort_is_tested_once():
    tables = fold_tables(even_patches(), GroupsConfig(thresholds=(0.25,)), folds=3)
    whole = tables[0]
    assert set(whole["split"]) == {"test"}
    tested = pd.concat([tables[k][tables[k]["split"] == "test"] for k in (1, 2, 3)])
    assert sorted(tested["patch_id"]) == sorted(whole["patch_id"])
    for k in (1, 2, 3):
        assert (tables[k].loc[tables[k]["split"] == "test", "fold"] == k).all()
        assert (tables[k].groupby("patient_id")["split"].nunique() == 1).all()
        pd.testing.assert_series_equal(tables[k]["group@0.25"], whole["group@0.25"])


def test_an_empty_group_in_a_fold_stops_only_methods_that_need_groups(tmp_path):
    table = even_patches()
    config = GroupsConfig(thresholds=(0.25,))
    whole = fold_tables(table, config, folds=3)[0]
    number = int(whole.set_index("patient_id")["fold"]["p2"].iloc[0])
    mates = set(whole.loc[whole["fold"] == number, "patient_id"])
    thin = table[~(table["patient_id"].isin(mates) & (table["label"] == 1) & (table["tissue_fraction"] < 0.25))]
    stamp = Stamp(stage="groups", settings={"is": "c"})
    write_folds(tmp_path, fold_tables(thin, config, folds=3), config, stamp=stamp, left_out=[])
    before = number - 1 or 3  # of the fold before it, it is the validation split
    empty = "at tissue threshold 0.25: no patch of tumour with little tissue"
    text = audit_text(tmp_path)
    assert f"fold {before}, split val, {empty}" in text
    assert f"fold {number}, split test, {empty}" in text
    folds = [tmp_path / "folds" / k for k in "123"]
    assert [training_folders(folder) for folder in (tmp_path, folds[0])] == [folds, [folds[0]]]  # one is trained alone
    left, refused = runs_with_groups(folds, [TrainConfig(method="erm"), TrainConfig(method="gerne")])
    assert [config.method for config in left] == ["erm"]
    assert refused["gerne-t0.25-s0"].place == f"fold {before}, split val"


def test_a_study_refuses_two_folds_and_the_prediction_of_seen_slides():
    with pytest.raises(InputUnsupportedError, match="none is left to train on"):
        parse(SplitsConfig, {"folds": 2}, place="test")
    raw = {"manifest": "m", "work": "w", "splits": {"folds": 5}, "predict_split": "all"}
    with pytest.raises(InputUnsupportedError, match="has not seen its patient"):
        parse(StudyConfig, raw, place="test")
