"""Small bins join a neighbour until every cell is large enough, or two bins are left."""

import numpy as np
import pandas as pd

from pathopatch.groups import TissueBins, assign_groups, bins_attributes
from pathopatch.groups.assign import JoinedBins, _kept_cuts, join_small_bins


def test_bins_that_are_large_enough_stay():
    counts = np.array([[[30, 10, 40], [10, 12, 50]]])
    assert _kept_cuts(counts, least=10) == (0, 1)


def test_a_small_bin_joins_the_neighbour_with_fewer_patches_of_its_label():
    counts = np.array([[[30, 9, 40, 20], [10, 12, 50, 15]]])  # bin 1 joins bin 0 (30 < 40): the first cut goes
    assert _kept_cuts(counts, least=10) == (1, 2)
    assert _kept_cuts(np.array([[[30, 9, 20], [30, 30, 30]]]), least=10) == (0,)  # here bin 2 is the smaller one


def test_bins_are_joined_until_all_suffice_or_two_are_left():
    counts = np.array([[[3, 4, 50, 5], [60, 60, 60, 60]]])
    # 3 joins 4: (7, 50, 5); 5 joins 50: (7, 55); two bins are left, though 7 is below 10
    assert _kept_cuts(counts, least=10) == (1,)


def test_validation_counts_for_itself():
    train, val = [[50, 50, 50], [50, 50, 50]], [[20, 0, 20], [20, 20, 20]]
    assert _kept_cuts(np.array([train]), least=10) == (0, 1)
    assert _kept_cuts(np.array([train, val]), least=10) == (1,)


def test_patches_go_where_their_bin_went():
    bins = JoinedBins((0.2, 0.4, 0.6), (0.2, 0.6), np.zeros((1, 2, 4), dtype=np.int64))
    assert bins.join(np.array([0, 1, 2, 3, -1])).tolist() == [0, 1, 1, 2, -1]


def test_bins_count_labelled_patches_with_tissue_in_the_given_splits():
    fraction = [0.1, 0.35, 0.35, 0.8, 0.8, 0.0, 0.35, 0.35]
    patches = pd.DataFrame({"patch_id": list("abcdefgh"), "slide_id": "s", "patient_id": "p"})
    patches["split"] = ["train"] * 6 + ["val", "test"]
    patches["label"] = [0, 0, 1, 1, -1, 1, 1, 1]
    groups = assign_groups(patches.assign(tissue_fraction=fraction), [0.5], bins=[0.3, 0.5])
    found = join_small_bins(groups, (0.3, 0.5), splits=[("train",), ("val",)], least=0)
    assert found.counts.tolist() == [[[1, 1, 0], [0, 1, 1]], [[0, 0, 0], [0, 1, 0]]]
    assert found.kept == (0.3, 0.5)
    (bins,) = bins_attributes(groups)
    assert bins == TissueBins((0.3, 0.5))
    assert bins.groups_in(groups).tolist() == [0, 1, 4, 5, -1, -1, 4, 4]
