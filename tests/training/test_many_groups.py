"""Training with any number of classes and attribute values, known or not."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from made_patches import small_config, toy

from pathopatch.core.errors import GroupEmptyError
from pathopatch.debias.methods import NAMES
from pathopatch.training.fit import fit_arrays
from pathopatch.training.selection import check_validation, sample_each_group, table_shape, validation_measures

TRAIN = toy([[30, 4, 2, 1], [3, 30, 2, 2], [2, 3, 30, 4]], seed=0, side=8)  # 3 classes, 4 attribute values
VAL = toy([[6, 6, 6, 6]] * 3, seed=1, side=8)
BINARY = toy([[20, 5], [5, 20]], seed=0, side=8)
_config = partial(small_config, input_px=8, steps=3, evaluations=1)


def _unknown(patches):
    return patches.with_attribute(np.full(len(patches), -1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ["small-groupnorm", "mlp-100"])
def test_every_method_trains_three_classes_with_four_attribute_values(name, architecture):
    fitted = fit_arrays(TRAIN, VAL, _config(method=name, architecture=architecture))
    assert fitted.network.classifier.out_features == fitted.n_classes == 3
    assert fitted.validation["n of label 2, attribute 3"] == 6
    assert (fitted.decision_threshold, fitted.validation["is_threshold_tuned"]) == (0.0, False)


def test_more_values_in_validation_than_in_training_are_counted():
    narrow = toy([[20, 4], [4, 20]], seed=0, side=8)
    assert table_shape(narrow, VAL, None) == (3, 4)
    assert fit_arrays(narrow, VAL, _config(method="gerne")).n_classes == 3


def test_fewer_values_in_validation_select_by_the_groups_that_are_there():
    narrow = toy([[6, 6], [6, 6], [6, 6]], seed=0, side=8)
    fitted = fit_arrays(TRAIN, narrow, _config(method="gerne"))
    assert fitted.validation["n of label 2, attribute 1"] == 6


def test_a_class_that_only_training_has_cannot_be_selected_by():
    with pytest.raises(GroupEmptyError, match="in validation"):
        fit_arrays(TRAIN, toy([[6] * 4, [6] * 4], seed=0, side=8), _config(method="erm"))


def test_an_empty_validation_cell_of_many_values_is_no_error():
    check_validation(toy([[6, 6, 0], [6, 6, 6]], seed=0, side=8), needs_groups=True, shape=(2, 3))


def test_measures_of_three_classes_by_hand():
    logits = np.eye(3)[[0, 0, 1, 2, 1, 2]]
    label, attribute = np.array([0, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 0, 1, 1])
    # groups: (0,0) 1; (1,0) 0; (1,1) 1; (2,0) 1; (2,1) 1/2.  classes: 1, 1/2, 2/3
    measures = validation_measures(logits, label, attribute)
    assert measures == pytest.approx({"wga": 0.0, "gba": 3.5 / 5, "average": 4 / 6, "cba": (1 + 1 / 2 + 2 / 3) / 3})


def test_without_attributes_the_worst_group_is_the_worst_class():
    logits = np.eye(2)[[0, 0, 1, 1]]
    label = np.array([0, 1, 1, 1])
    measures = validation_measures(logits, label, np.full(4, -1))
    assert (measures["wga"], measures["gba"]) == pytest.approx((2 / 3, 5 / 6))


def test_where_some_attributes_are_known_groups_are_of_those_patches():
    logits = np.eye(2)[[0, 1, 0]]
    measures = validation_measures(logits, np.array([0, 1, 1]), np.array([0, 0, -1]))
    assert (measures["wga"], measures["average"]) == pytest.approx((1.0, 2 / 3))


def test_without_attributes_in_validation_classes_select_and_tune():
    fitted = fit_arrays(BINARY, _unknown(BINARY), _config(method="erm-balanced"))
    assert fitted.validation["is_threshold_tuned"]
    assert fitted.validation["n of label 1"] == 25
    assert fitted.validation["wga"] == min(fitted.validation[f"accuracy of label {y}"] for y in (0, 1))


def test_without_attributes_in_training_erm_trains_and_gerne_does_not():
    fit_arrays(_unknown(BINARY), BINARY, _config(method="erm"))
    with pytest.raises(GroupEmptyError, match="attribute 1"):
        fit_arrays(_unknown(BINARY), BINARY, _config(method="gerne"))


def test_a_validation_pass_takes_from_many_groups_and_unknown_ones():
    some = replace(TRAIN, attribute=np.where(TRAIN.attribute == 3, -1, TRAIN.attribute))
    chosen = sample_each_group(some, per_group=3)
    counts = np.unique(np.stack([some.label[chosen], some.attribute[chosen]]), axis=1, return_counts=True)
    assert counts[0].T.tolist() == [[y, a] for y in range(3) for a in (-1, 0, 1, 2)]
    assert counts[1].tolist() == [1, 3, 3, 2, 2, 3, 3, 2, 3, 2, 3, 3]
