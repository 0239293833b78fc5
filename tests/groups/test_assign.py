"""Groups by thresholds and bins; small bins join a neighbour until every cell is large enough, or two are left."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.errors import DuplicateIdError, InputMissingError, InputUnsupportedError
from pathopatch.groups import TissueBins, assign_groups, bins_attributes
from pathopatch.groups.assign import JoinedBins, _kept_cuts, join_small_bins


def patches(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    base = {
        "patch_id": [f"s@{i},0" for i in range(n)],
        "slide_id": "s",
        "patient_id": "p",
        "x": range(n),
        "label": 0,
        "tissue_fraction": 0.5,
    }
    return pd.DataFrame({**base, **columns})


def test_the_group_is_twice_the_label_plus_the_attribute() -> None:
    table = patches(label=[0, 0, 1, 1], tissue_fraction=[0.2, 0.3, 0.2, 0.3])
    assert assign_groups(table, [0.25])["group@0.25"].tolist() == [0, 1, 2, 3]


def test_a_threshold_is_reached_by_equality_and_several_stand_side_by_side() -> None:
    table = patches(tissue_fraction=[0.25, 0.5, 0.1])
    groups = assign_groups(table, [0.25, 0.5])
    assert groups["attribute@0.25"].tolist() == [1, 1, 0]
    assert groups["attribute@0.5"].tolist() == [0, 1, 0]
    assert groups.columns.tolist() == [
        *("patch_id", "slide_id", "patient_id", "label", "tissue_fraction"),
        *("attribute@0.25", "group@0.25", "attribute@0.5", "group@0.5"),
    ]


def test_blank_glass_has_neither_attribute_nor_group() -> None:
    table = patches(tissue_fraction=[0.0, 0.0099, 0.01, np.nan], label=[0, 1, 1, 1])
    groups = assign_groups(table, [0.25])
    assert groups["attribute@0.25"].tolist() == [-1, -1, 0, -1]
    assert groups["group@0.25"].tolist() == [-1, -1, 2, -1]
    assert assign_groups(table, [0.25], min_tissue=0.0)["attribute@0.25"].tolist() == [0, 0, 0, -1]


def test_a_patch_that_was_mostly_not_scanned_has_neither_attribute_nor_group() -> None:
    table = patches(tissue_fraction=[1.0] * 4, scanned_fraction=[0.05, 0.49, 0.5, np.nan], label=[0, 1, 1, 1])
    groups = assign_groups(table, [0.25], bins=(0.3, 0.5))
    assert groups["attribute@0.25"].tolist() == [-1, -1, 1, 1]  # of ready patches the share is not known
    assert groups["group@0.25"].tolist() == [-1, -1, 3, 3]
    assert groups["bin@0.3,0.5"].tolist() == [-1, -1, 2, 2]
    assert assign_groups(table, [0.25], min_scanned=0.0)["attribute@0.25"].tolist() == [1, 1, 1, 1]


def test_a_patch_without_label_has_an_attribute_and_no_group() -> None:
    groups = assign_groups(patches(label=[-1, -1], tissue_fraction=[0.1, 0.9]), [0.25])
    assert groups["attribute@0.25"].tolist() == [0, 1]
    assert groups["group@0.25"].tolist() == [-1, -1]


def test_bins_form_one_attribute_of_several_values() -> None:
    table = patches(tissue_fraction=[0.0, 0.1, 0.3, 0.49, 0.5, 1.0])
    assert assign_groups(table, [0.25], bins=(0.3, 0.5))["bin@0.3,0.5"].tolist() == [-1, 0, 1, 1, 2, 2]


def test_the_split_is_kept_and_the_input_is_not_changed() -> None:
    table = patches(label=[0, 1]).assign(split=["train", "test"])
    before = table.copy()
    assert assign_groups(table, [0.25])["split"].tolist() == ["train", "test"]
    pd.testing.assert_frame_equal(table, before)


def test_what_makes_no_sense_is_refused() -> None:
    table = patches(label=[0, 1])
    for thresholds, bins in (([], ()), ([0.0], ()), ([1.0], ()), ([0.25, 0.2500001], ()), ([0.25], (0.5, 0.3))):
        with pytest.raises(InputUnsupportedError):
            assign_groups(table, thresholds, bins=bins)
    with pytest.raises(InputMissingError, match="tissue_fraction"):
        assign_groups(table.drop(columns="tissue_fraction"), [0.25])
    with pytest.raises(DuplicateIdError, match="s@0,0"):
        assign_groups(pd.concat([table, table]), [0.25])


def test_a_slide_without_patches_gives_an_empty_table() -> None:
    groups = assign_groups(patches(label=[0, 1]).iloc[:0], [0.25])
    assert len(groups) == 0
    assert "group@0.25" in groups


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ([[[30, 10, 40], [10, 12, 50]]], (0, 1)),  # all are large enough
        # Bin 1 joins the neighbour with fewer patches of its label, bin 0 (30 < 40): the first cut goes.
        ([[[30, 9, 40, 20], [10, 12, 50, 15]]], (1, 2)),
        ([[[30, 9, 20], [30, 30, 30]]], (0,)),  # here bin 2 is the smaller neighbour
        # 3 joins 4: (7, 50, 5); 5 joins 50: (7, 55); two bins are left, though 7 is below 10.
        ([[[3, 4, 50, 5], [60, 60, 60, 60]]], (1,)),
        # Validation counts for itself.
        ([[[50, 50, 50], [50, 50, 50]]], (0, 1)),
        ([[[50, 50, 50], [50, 50, 50]], [[20, 0, 20], [20, 20, 20]]], (1,)),
    ],
)
def test_bins_are_joined_until_all_suffice_or_two_are_left(counts, kept):
    assert _kept_cuts(np.array(counts), least=10) == kept


def test_patches_go_where_their_bin_went():
    bins = JoinedBins((0.2, 0.4, 0.6), (0.2, 0.6), np.zeros((1, 2, 4), dtype=np.int64))
    assert bins.join(np.array([0, 1, 2, 3, -1])).tolist() == [0, 1, 1, 2, -1]


def test_bins_count_labelled_patches_with_tissue_in_the_given_splits():
    fraction = [0.1, 0.35, 0.35, 0.8, 0.8, 0.0, 0.35, 0.35]
    patches = pd.DataFrame({"patch_id": list("abcdefgh"), "slide_id": "s", "patient_id": "p"})
    patches["split"] = ["train"] * 6 + ["val", "test"]
    patches["label"] = [0, 0, 1, 1, -1, 1, 1, 1]
    groups = assign_groups(patches.assign(tissue_fraction=fraction), [0.5], bins=[0.3, 0.5])
    joined = join_small_bins(groups, (0.3, 0.5), splits=[("train",), ("val",)], least=0)
    assert joined.counts.tolist() == [[[1, 1, 0], [0, 1, 1]], [[0, 0, 0], [0, 1, 0]]]
    assert joined.kept == (0.3, 0.5)
    (bins,) = bins_attributes(groups)
    assert bins == TissueBins((0.3, 0.5))
    assert bins.groups_in(groups).tolist() == [0, 1, 4, 5, -1, -1, 4, 4]
