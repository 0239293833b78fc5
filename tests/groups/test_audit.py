from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.errors import InputMissingError
from pathopatch.groups import assign_groups, attribute_in, audit, format_audit
from pathopatch.groups.group_sizes import empty_groups, empty_groups_error, filled_thresholds


def grouped(cells: dict[str, list[tuple[int, float]]], **settings: float) -> pd.DataFrame:
    """Return groups at 0.25 and 0.5 of patches given per split as (label, tissue fraction); two patches a patient."""
    rows = [
        (f"s@{i},{k}", "s", f"{split}{i // 2}", split, label, fraction)
        for k, (split, members) in enumerate(cells.items())
        for i, (label, fraction) in enumerate(members)
    ]
    names = ["patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction"]
    return assign_groups(pd.DataFrame(rows, columns=names), [0.25, 0.5], **settings)


TRAIN = [(0, 0.1), (0, 0.1), (0, 0.1), (0, 0.9), (1, 0.3), (1, 0.8), (1, 0.8), (1, 0.2), (0, 0.0), (-1, 0.7)]


def test_counts_hold_every_group_of_every_split_even_the_empty_ones() -> None:
    cells = audit(grouped({"test": [(1, 0.9)], "train": TRAIN}), [0.25], resamples=0)["thresholds"]["0.25"]
    assert list(cells) == ["train", "test"]
    assert [part["counts"] for part in cells.values()] == [[[3, 1], [1, 3]], [[0, 0], [0, 1]]]
    # patients hold two patches each: the three of group 0 are of two patients
    assert [part["patients"] for part in cells.values()] == [[[2, 1], [1, 2]], [[0, 0], [0, 1]]]


def test_the_error_of_an_empty_group_names_threshold_groups_and_counts() -> None:
    groups = grouped({"train": TRAIN, "val": [(0, 0.1), (1, 0.9)]})
    at = attribute_in(groups, 0.25)
    assert empty_groups(groups, at, ("train",)) == empty_groups(groups, at, ("train", "val")) == ()
    error = empty_groups_error(groups, at, ("val",), (("val",),))
    assert error.message == (
        "at tissue threshold 0.25 there is no patch of non-tumour with much tissue and none of tumour with little "
        "tissue (non-tumour: 1 with little tissue, 0 with much tissue; tumour: 0 with little tissue, 1 with much "
        "tissue)"
    )
    assert error.place == "split val"
    assert error.remedy.startswith("at each threshold of 0.05, 0.1, … 0.95 a group is empty")


def test_the_error_of_an_empty_group_names_thresholds_that_would_do() -> None:
    # non-tumour at 0.1 and 0.72, tumour at 0.33 and 0.62: both labels have both groups from 0.35 to 0.6 alone
    groups = grouped({"train": [(0, 0.1), (0, 0.72), (1, 0.33), (1, 0.62)], "val": [(0, 0.4), (0, 0.6), (1, 0.5)]})
    error = empty_groups_error(groups, attribute_in(groups, 0.25), ("train",), (("train",),))
    assert "no patch of tumour with little tissue (" in error.message
    assert error.remedy == (
        "choose a threshold at which no group is empty: 0.5 in groups.parquet; 0.35 to 0.6 of 0.05, 0.1, … 0.95"
    )


def test_a_blank_patch_fills_no_group_at_any_threshold() -> None:
    groups = grouped({"train": [(0, 0.001), (0, 0.9), (1, 0.1), (1, 0.9)]})
    assert filled_thresholds(groups, [("train",)]) == ((), ())
    groups = grouped({"train": [(0, 0.02), (0, 0.9), (1, 0.1), (1, 0.9), (1, 0.001)]})
    assert filled_thresholds(groups, [("train",)])[1][0] == 0.15  # a fraction of 0.1 reaches 0.1


def test_patches_without_a_group_are_counted_by_label() -> None:
    result = audit(grouped({"train": TRAIN, "val": [(0, 0.5)]}), [0.25], resamples=0)
    assert result["without_group"] == [[1, 6], [0, 4]]  # one of six non-tumour patches is blank
    assert "Without a group, as blank or hardly scanned: 1 of 6 non-tumour (17%)." in format_audit(result)
    assert "Without a group" not in format_audit(audit(grouped({"val": [(0, 0.5)]}), [0.25], resamples=0))


def test_a_threshold_that_was_not_grouped_is_named() -> None:
    with pytest.raises(InputMissingError, match=r"threshold 0.3; there are some at 0.25, 0.5"):
        audit(grouped({"train": TRAIN}), [0.3])


def test_alpha_is_the_share_within_the_label() -> None:
    thresholds = audit(grouped({"train": TRAIN}), [0.25, 0.5])["thresholds"]
    assert thresholds["0.25"]["train"]["alpha"] == [[0.75, 0.25], [0.25, 0.75]]
    assert thresholds["0.5"]["train"]["alpha"] == [[0.75, 0.25], [0.5, 0.5]]


def test_the_floor_at_equal_area_is_that_of_the_fraction_itself() -> None:
    members = [(0, 0.30), (0, 0.35), (1, 0.31), (1, 0.335), (1, 0.9), (1, -1)]
    fraction_only = audit(grouped({"train": members}), [0.25])["fraction_only"]["train"]
    # .31 above .30 and .335 below .35 are the pairs; .9 has no partner.
    assert [fraction_only[f"equal_area{end}"] for end in ("", "_pairs", "_partnered")] == [0.5, 2, pytest.approx(2 / 3)]
    of_folds = audit(grouped({"test": members}).assign(fold=[1, 1, 2, 1, 1, 1]), [0.25], resamples=0)
    assert of_folds["whole"]["equal_area_pairs"] == 1  # .30 and .31 are tested in different folds
    apart = audit(grouped({"train": [(0, 0.1), (1, 0.9)]}), [0.25])
    assert (apart["whole"]["equal_area"], apart["whole"]["equal_area_partnered"]) == (None, 0)
    assert "at equal area no pair of patches" in format_audit(apart)
    near = format_audit(audit(grouped({"train": [(0, 0.99), (1, 0.991)]}), [0.25]))
    assert "at equal area 1.000 (no value there can be told apart from area)" in near


def test_the_fraction_alone_is_judged_by_hand_computed_numbers() -> None:
    fraction_only = audit(grouped({"train": TRAIN}), [0.25])["fraction_only"]["train"]
    # labelled and not blank: non-tumour .1 .1 .1 .9, tumour .2 .3 .8 .8: 12 of 16 pairs are in order
    assert (fraction_only["n"], fraction_only["tumor"], fraction_only["auroc"]) == (8, 4, 12 / 16)
    assert (fraction_only["accuracy"], fraction_only["threshold"], fraction_only["larger_is_tumor"]) == (
        7 / 8,
        0.2,
        True,
    )


def test_a_shortcut_that_points_the_other_way_is_found() -> None:
    members = [(1, 0.1), (1, 0.2), (0, 0.2), (0, 0.7), (0, 0.9)]
    fraction_only = audit(grouped({"train": members}), [0.25])["fraction_only"]["train"]
    assert fraction_only["auroc"] == pytest.approx(0.5 / 6)
    # the two of .2 cannot be told apart: one of five is wrong
    assert (fraction_only["accuracy"], fraction_only["larger_is_tumor"]) == (4 / 5, False)


def test_the_best_cut_is_the_best_of_all_cuts() -> None:
    generator = np.random.default_rng(0)
    fraction = generator.integers(1, 20, 200) / 20
    label = (fraction + generator.normal(0, 0.3, 200) > 0.5).astype(int)
    fraction_only = audit(grouped({"train": list(zip(label, fraction, strict=True))}), [0.25])["fraction_only"]["train"]
    tried = [((fraction >= cut) == label).mean() for cut in np.arange(0, 22) / 20]
    assert fraction_only["accuracy"] == pytest.approx(max(*tried, 1 - min(tried)))
    assert ((fraction >= fraction_only["threshold"]) == label).mean() == pytest.approx(fraction_only["accuracy"])


def test_a_split_of_one_label_has_no_auroc_and_no_alpha_for_the_other_in_json_and_as_text() -> None:
    result = audit(grouped({"train": TRAIN, "test": [(1, 0.9), (1, 0.1)]}), [0.25, 0.5])
    assert result["fraction_only"]["test"]["auroc"] is None
    assert result["thresholds"]["0.25"]["test"]["alpha"] == [None, [0.5, 0.5]]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = format_audit(result)
    assert "AUROC 0.750 [0.152, 0.980], at equal area no pair of patches, accuracy 0.875 with tumour where the" in text
    assert "one label only" in text
    assert text.count("EMPTY") == 4  # the test split's non-tumour, at two thresholds
