"""What a bundle says of its data: counted by hand, of the splits that a run may know."""

import numpy as np
import pandas as pd
import pytest
from made_patches import write_work

from pathopatch.core.config import TrainConfig
from pathopatch.core.files import read_json
from pathopatch.groups import assign_groups
from pathopatch.groups.assign import join_small_bins
from pathopatch.training.data_summary import summarize_data
from pathopatch.training.run import fit

# slide, patient, split, label, tissue fraction
ROWS = [
    ("a", "p", "train", 0, 0.1),
    ("a", "p", "train", 0, 0.4),
    ("b", "p", "train", 1, 0.4),
    ("b", "p", "train", 1, 0.9),
    ("b", "p", "train", 1, 0.9),
    ("b", "p", "train", -1, 0.9),  # not labelled
    ("b", "p", "train", 0, 0.001),  # blank glass
    ("c", "q", "val", 0, 0.1),
    ("d", "r", "val", 1, 0.7),
    ("e", "s", "test", 1, 0.7),
]
CUTS = (0.3, 0.6)


def _groups(rows=ROWS, **own) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["slide_id", "patient_id", "split", "label", "tissue_fraction"])
    table.insert(0, "patch_id", [f"{slide}@{16 * i},0" for i, slide in enumerate(table["slide_id"])])
    return assign_groups(table.assign(**own), [0.25, 0.5], bins=CUTS)


def _described(groups, *, n=2, learnt_from_val=0, **settings):
    names = ["non-tumour", "tumour", "other"][:n]
    return summarize_data(
        groups, TrainConfig(**settings), bins=None, class_names=names, learnt_from_val=learnt_from_val
    )


def _with_bins(groups, bins, **settings):
    config = TrainConfig(bins=CUTS, **settings)
    return summarize_data(groups, config, bins=bins, class_names=["non-tumour", "tumour"], learnt_from_val=0)


def test_slides_patients_patches_and_groups_are_those_at_the_threshold_trained_at():
    assert _described(_groups(), threshold=0.25) == {
        "trained": {
            "splits": ["train"],
            "slides": 2,
            "patients": 1,
            "patches": 5,
            "by": "at tissue threshold 0.25",
            "attributes": ["little tissue", "much tissue"],
            "counts": [[1, 1], [0, 3]],
        },
        "validated": {
            "splits": ["val"],
            "slides": 2,
            "patients": 2,
            "patches": 2,
            "by": "at tissue threshold 0.25",
            "attributes": ["little tissue", "much tissue"],
            "counts": [[1, 0], [0, 1]],
        },
    }
    assert _described(_groups(), threshold=0.5)["trained"]["counts"] == [[2, 0], [1, 2]]


def test_bins_are_counted_as_they_are_used_small_ones_joined():
    groups = _groups()
    bins = join_small_bins(groups, CUTS, splits=[("train",)], least=1)
    found = _with_bins(groups, bins)
    assert len(bins.kept) == 1
    assert found["trained"]["by"] == f"by tissue bins cut at {bins.kept[0]:g}"
    assert np.shape(found["trained"]["counts"]) == (2, 2)
    assert np.sum(found["trained"]["counts"]) == 5


def test_three_bins_are_three_columns():
    groups = _groups()
    found = _with_bins(groups, join_small_bins(groups, CUTS, splits=[("train",)], least=0))
    assert found["trained"]["attributes"] == ["tissue below 0.3", "tissue 0.3 to 0.6", "tissue from 0.6"]
    assert found["trained"]["counts"] == [[1, 1, 0], [0, 1, 2]]
    assert found["validated"]["counts"] == [[1, 0, 0], [0, 0, 1]]


def test_where_a_threshold_selects_validation_is_counted_at_it():
    groups = _groups()
    found = _with_bins(groups, join_small_bins(groups, CUTS, splits=[("train",)], least=0), select_at=0.5)
    assert found["validated"]["by"] == "at tissue threshold 0.5"
    assert found["validated"]["counts"] == [[1, 0], [0, 1]]
    assert found["drawn_by"] == "selected at tissue threshold 0.5"


def test_a_run_by_rank_says_so_and_is_counted_at_its_threshold():
    found = _described(_groups(), threshold=0.25, attribute="rank")
    assert found["drawn_by"] == "drawn by the rank of the tissue fraction"
    assert found["trained"]["counts"] == [[1, 1], [0, 3]]


def test_an_attribute_of_the_patches_own_and_a_third_class_have_their_names_and_rows():
    rows = [*ROWS[:4], ("b", "p", "train", 2, 0.9), *ROWS[7:]]
    groups = _groups(rows, attribute=["red", "blue", "blue", "blue", "red", "red", "red", "red"])
    found = _described(groups, n=3)
    assert found["trained"]["by"] == "by the patches' own attribute"
    assert found["trained"]["attributes"] == ["blue", "red"]
    assert found["trained"]["counts"] == [[1, 1], [2, 0], [0, 1]]


def test_a_run_that_trains_on_validation_has_none():
    found = _described(_groups(), train_splits=("train", "val"), select="last", tune_threshold=False)
    assert (found["trained"]["patches"], found["trained"]["splits"]) == (7, ["train", "val"])
    assert "validated" not in found
    assert "validated" not in _described(_groups(ROWS[:7]), select="last")


def test_patches_of_validation_that_were_learnt_from_are_counted():
    assert _described(_groups(), learnt_from_val=1)["learnt_from_val"] == 1


def test_nothing_of_the_test_split_is_told():
    assert _described(_groups()) == _described(_groups(ROWS[:9]))


@pytest.mark.parametrize("method", ["gerne", "dfr"])
def test_the_bundle_of_a_run_tells_its_groups_and_its_card_shows_them(tmp_path, method):
    groups = write_work(tmp_path)
    settings = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1}
    model = fit(tmp_path, TrainConfig(method=method, **settings)) / "model"
    known = groups[(groups["split"] == "train") & (groups["group@0.25"] >= 0)]
    counts = np.bincount(known["group@0.25"], minlength=4).reshape(2, 2).tolist()
    raw = read_json(model / "model.json")
    assert raw["data"]["trained"]["counts"] == counts
    assert ("learnt_from_val" in raw["data"]) == (method == "dfr")
    assert raw["group_metrics"]["patients"] == 1
    card = (model / "README.md").read_text()
    assert f"| trained on train | 1 | 1 | {len(known)} |" in card
    assert "There is one validation patient" in card
