"""The attribute as a value: names, columns, and the texts that tables and configurations write."""

import pandas as pd
import pytest

from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.groups import (
    GroupingAttribute,
    PatchAttribute,
    TissueBins,
    TissueThreshold,
    assign_groups,
    attribute_in,
    bins_attributes,
    slides_of,
    threshold_attributes,
    units_of,
)
from pathopatch.groups.attribute import stored_thresholds, training_label

BIRDS = ("landbird", "waterbird")


def patches(**columns):
    table = {"slide_id": "s", "patient_id": ["p", "q", "r"], "label": [0, 1, 1], "tissue_fraction": [0.1, 0.3, 0.9]}
    return pd.DataFrame({"patch_id": ["a", "b", "c"], **table, **columns})


def test_a_threshold_names_its_columns_and_groups():
    at = TissueThreshold(0.25)
    assert (at.key, at.label, at.column, at.group_column) == ("0.25", "0.25", "attribute@0.25", "group@0.25")
    assert (at.description, at.phrase) == ("tissue threshold 0.25", "at tissue threshold 0.25")
    assert at.group_names == (
        "non-tumour, little tissue", "non-tumour, much tissue", "tumour, little tissue", "tumour, much tissue",
    )  # fmt: skip
    assert at.values(patches(), min_tissue=0.2).tolist() == [-1, 1, 1]


def test_bins_are_named_by_their_ends():
    bins = TissueBins((0.3, 0.5))
    assert bins.value_names == ("tissue below 0.3", "tissue 0.3 to 0.5", "tissue from 0.5")
    assert (bins.key, bins.label) == ("0.3,0.5", "bins 0.3,0.5")
    assert bins.column == bins.group_column == "bin@0.3,0.5"
    assert (bins.description, bins.is_patch_attribute) == ("tissue bins cut at 0.3 and 0.5", False)
    assert TissueBins.from_key(bins.key) == bins


def test_an_attribute_of_the_patches_ignores_the_tissue():
    own = PatchAttribute(("ink", "clean"), 0.5, label_names=BIRDS)
    table = patches(attribute=["clean", "", "ink"])
    assert own.values(table, min_tissue=1.0).tolist() == [1, -1, 0]
    assert (own.key, own.phrase) == ("0.5", "by the patches' own attribute")
    assert own.group_names[2] == "waterbird, ink"
    assert PatchAttribute(("ink",), 0.5).value_names == ("ink", "(no other)")


@pytest.mark.parametrize("attribute", [TissueThreshold(0.25), TissueBins((0.3, 0.5))])
def test_settings_give_the_attribute_back(attribute):
    assert GroupingAttribute.from_dict({"threshold": 0.5, **attribute.to_dict()}) == attribute


def test_settings_without_a_threshold_have_no_attribute():
    assert GroupingAttribute.from_dict({}) is None
    assert training_label({}) == ""


def test_a_training_label_names_threshold_or_bins():
    assert training_label({"threshold": 0.25}) == "0.25"
    assert training_label({"threshold": 0.25, "bins": [0.3, 0.5]}) == "bins 0.3,0.5"


def test_a_groups_table_gives_its_attributes_back():
    table = assign_groups(patches(label_name=["landbird", "waterbird", "waterbird"]), [0.5, 0.25], bins=(0.2, 0.8))
    assert stored_thresholds(table) == (0.5, 0.25)  # as they were asked for
    rising = tuple(TissueThreshold(tau, label_names=BIRDS) for tau in (0.25, 0.5))
    assert threshold_attributes(table) == rising
    (bins,) = bins_attributes(table)
    assert bins == TissueBins((0.2, 0.8), label_names=BIRDS) == attribute_in(table, 0.25, bins=(0.2, 0.8))
    assert attribute_in(table, 0.5) == rising[1]
    assert rising[0].groups_in(table).tolist() == [0, 3, 3]
    assert bins.groups_in(table).tolist() == [0, 4, 5]


def test_an_attribute_of_the_patches_is_repeated_at_every_threshold():
    table = assign_groups(patches(attribute=["10", "9", ""]), [0.25, 0.5])
    first, second = threshold_attributes(table)
    assert first == attribute_in(table, 0.25) == PatchAttribute(("9", "10"), 0.25)
    assert first.groups_in(table).tolist() == second.groups_in(table).tolist() == [1, 2, -1]


def test_what_a_table_lacks_is_refused_with_what_it_has():
    table = assign_groups(patches(), [0.5, 0.85], bins=(0.3, 0.5))
    with pytest.raises(InputMissingError, match="threshold 0.7; there are some at 0.5, 0.85") as error:
        attribute_in(table, 0.7)
    command = "pathopatch groups WORK --threshold 0.5 --threshold 0.85"
    assert error.value.remedy == f"use --threshold 0.85, or form these too: {command} --threshold 0.7 --force"
    with pytest.raises(InputMissingError, match="bins cut at 0.1,0.2; there are some at 0.3,0.5") as error:
        attribute_in(table, 0.25, bins=(0.1, 0.2))
    assert error.value.remedy == f"use train --bins 0.3,0.5, or form these too: {command} --bins 0.1,0.2 --force"
    with pytest.raises(InputUnsupportedError, match="group@"):
        threshold_attributes(patches())


def test_the_unit_is_the_block_and_else_the_patient():
    assert units_of(patches()).tolist() == ["p", "q", "r"]
    assert units_of(patches(block=["b", "b", "a"])).tolist() == ["b", "b", "a"]


def test_blocks_that_share_a_patient_are_one_unit_named_by_the_first():
    table = patches(block=["z", "b", "a"])
    table.loc[3] = dict(table.loc[0]) | {"patch_id": "d", "block": "b"}  # p is in z and b, so q joins z
    assert units_of(table).tolist() == ["b", "b", "a", "b"]
    assert units_of(table.iloc[[2, 1]]).to_dict() == {2: "a", 1: "b"}


def test_blocks_of_some_patches_alone_are_refused():
    with pytest.raises(InputUnsupportedError, match="2 patches have a block, 1 do not"):
        units_of(patches(block=["a", None, "b"]))


def test_the_slide_of_a_ready_patch_is_the_one_it_was_cut_from():
    assert slides_of(patches()).tolist() == ["s"] * 3
    assert slides_of(patches(source_slide=["t", None, "u"])).tolist() == ["t", "s", "u"]
