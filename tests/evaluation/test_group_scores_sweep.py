"""One model at every tissue threshold, with answers by hand."""

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.config import EvaluateConfig
from pathopatch.evaluation.evaluate import sweep_table
from pathopatch.evaluation.group_scores import evaluate_logits, sweep_thresholds

# Four patients, a patch of each label at each of the fractions; wrong: tumour at .1 and non-tumour at .9.
FRACTION = np.tile(np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 2), 4)
LABEL = np.tile([0, 1], 20)
PATIENT = np.repeat(list("abcd"), 10)
IS_WRONG = ((FRACTION == 0.1) & (LABEL == 1)) | ((FRACTION == 0.9) & (LABEL == 0))
LOGIT = np.where((LABEL == 1) != IS_WRONG, 3.0, 1.0)  # the decision threshold is 2
TABLE = pd.DataFrame({"label": LABEL, "tissue_fraction": FRACTION, "logit": LOGIT})


def swept(least=4, table=TABLE, patient=PATIENT):
    config = EvaluateConfig(bootstrap=30, least_per_group=least)
    return sweep_thresholds(table, patient, decision_threshold=2.0, config=config).set_index("threshold")


def test_only_the_groups_change_with_the_threshold():
    sweep = swept()
    assert list(sweep.index) == pytest.approx(np.arange(1, 20) / 20)
    # at .4 little tissue is .1 and .3: tumour right on .3 alone; much is .5, .7, .9: non-tumour right on two of three
    row = sweep.loc[0.4]
    assert [row[f"n_{g}"] for g in range(4)] == [8, 12, 8, 12]
    assert [row[f"accuracy_{g}"] for g in range(4)] == pytest.approx([1, 2 / 3, 1 / 2, 1])
    assert (row["wga"], row["gba"]) == pytest.approx((1 / 2, (1 + 2 / 3 + 1 / 2 + 1) / 4))
    assert sweep.loc[0.8, "wga"] == 0  # much tissue is .9 alone


def test_a_threshold_is_reached_by_equality_as_the_groups_have_it():
    assert swept().loc[0.5, "n_1"] == 12
    assert swept().loc[0.55, "n_1"] == 8


def test_a_row_of_the_sweep_says_what_judging_at_that_threshold_says():
    row, config = swept().loc[0.4], {"resamples": 30, "seed": 0}
    judged = evaluate_logits(LOGIT, LABEL, (FRACTION >= 0.4).astype(int), PATIENT, decision_threshold=2.0, **config)
    assert {name: row[f"wga{end}"] for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))} == judged[
        "wga"
    ]


def test_a_group_that_is_too_small_is_named_and_has_no_interval():
    row = swept(least=9).loc[0.4]
    assert not row["is_measured"]
    assert row["note"] == (
        "too small: group 0 (non-tumour, little tissue): 8 patches of 4 patients; "
        "group 2 (tumour, little tissue): 8 patches of 4 patients"
    )
    assert row["wga"] == 1 / 2
    assert np.isnan(row["wga_low"])
    assert swept(least=8).loc[0.4, "note"] == ""


def test_an_empty_group_leaves_wga_unknown_and_one_patient_is_too_few():
    sweep = swept(table=TABLE.assign(tissue_fraction=FRACTION / 2))
    assert np.isnan(sweep.loc[0.6, "wga"])
    assert np.isnan(sweep.loc[0.6, "gba"])
    assert not swept(patient=np.full(40, "a"))["is_measured"].any()


def test_there_is_no_sweep_where_the_attribute_is_the_patches_own():
    names = [f"p{i}" for i in range(40)]
    groups = pd.DataFrame({"patch_id": names, "patient_id": PATIENT, "split": "test", "label": LABEL, "group@0.5": 0})
    predictions = TABLE.assign(patch_id=names, split="test")
    config = EvaluateConfig(bootstrap=0)
    assert len(sweep_table(predictions, groups, decision_threshold=2.0, config=config)) == 19
    own = groups.assign(attribute=np.tile(["land", "water"], 20))
    assert sweep_table(predictions, own, decision_threshold=2.0, config=config).empty
