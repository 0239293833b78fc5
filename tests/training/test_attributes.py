"""Runs draw by a threshold or by bins, and are selected by what they draw by."""

from functools import partial

import numpy as np
import pytest
from made_model import stated
from made_patches import small_config, write_work

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import EvaluateConfig, GroupsConfig, StudyConfig, TrainConfig, TuneConfig, parse
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.evaluation.compare import comparison
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.groups import assign_groups
from pathopatch.stages.study import run_study, study_runs
from pathopatch.training.run import fit, load_sets
from pathopatch.training.tune import tune

CUTS = (0.3, 0.6)


def graded_work(folder, *, own=()):
    """A work folder whose patches have tissue fractions .1 to .9, or an attribute of their own; returns the groups."""
    groups = write_work(folder)
    rng = np.random.default_rng(0)
    much = groups["attribute@0.25"] == 1
    groups["tissue_fraction"] = np.where(much, rng.uniform(0.3, 0.9, len(groups)), rng.uniform(0.1, 0.5, len(groups)))
    table = groups[["patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction", "pixels_checksum"]]
    if own:
        table = table.assign(attribute=[own[i % len(own)] for i in range(len(table))])
    regrouped = assign_groups(table, [0.25, 0.5], bins=CUTS)
    write_table(folder / "groups.parquet", regrouped, Stamp(stage="groups", settings={"is": "c"}))
    return regrouped


small = partial(small_config, least_per_bin=1)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "gerne-t0.25-s0"),
        ({"bins": CUTS}, "gerne-b0.3_0.6-s0"),
        ({"bins": CUTS, "name": "x"}, "gerne-b0.3_0.6-s0-x"),
    ],
)
def test_a_runs_name_says_what_it_draws_by(settings, name):
    assert TrainConfig(**settings).run_name == name


def test_bins_rise():
    with pytest.raises(InputUnsupportedError, match="must rise"):
        parse(TrainConfig, {"bins": (0.6, 0.3)}, place="test")


def test_patches_have_the_bin_that_their_fraction_says(tmp_path):
    groups = graded_work(tmp_path)
    patches, _ = load_sets(tmp_path, groups, small(bins=CUTS))
    np.testing.assert_array_equal(patches.attribute, np.digitize(patches.tissue_fraction, CUTS))
    with pytest.raises(InputMissingError, match=r"no bins cut at 0\.4; there are some at 0\.3,0\.6"):
        load_sets(tmp_path, groups, small(bins=(0.4,)))


def test_small_bins_are_joined_alike_in_training_and_validation(tmp_path):
    groups = graded_work(tmp_path)
    train, val = load_sets(tmp_path, groups, small(bins=CUTS, least_per_bin=30))  # no cell has as many
    for patches in (train, val):
        assert set(patches.attribute) == {0, 1}
    cut = {bool((np.digitize(train.tissue_fraction, [threshold]) == train.attribute).all()) for threshold in CUTS}
    assert cut == {True, False}  # one of the two cuts is left
    run = fit(tmp_path, small(bins=CUTS, least_per_bin=30))
    bins = read_json(run / "run.json")["bins"]
    assert bins["cuts"] == list(CUTS)
    assert len(bins["kept"]) == 1
    assert np.sum(bins["counts"]["train"]) == len(train)


def test_a_run_trains_tunes_and_is_evaluated_at_thresholds_and_bins(tmp_path):
    groups = graded_work(tmp_path)
    run = fit(tmp_path, small(bins=CUTS))
    tuned = tune(tmp_path, small(bins=CUTS, name="tuned"), TuneConfig(trials=2))
    for folder in (run, tuned):
        evaluate_run(tmp_path, folder.name, config=EvaluateConfig(bootstrap=0))
    table = comparison(tmp_path, config=EvaluateConfig(bootstrap=0))
    mine = table[table["run"] == run.name].set_index("attribute")
    assert list(mine.index) == ["0.25", "0.5", "bins 0.3,0.6"]
    by_bins = mine.loc["bins 0.3,0.6"]
    test = groups[(groups["split"] == "test") & (groups["label"] >= 0)]
    for y in (0, 1):
        for a in (0, 1, 2):
            assert by_bins[f"n_{3 * y + a}"] == ((test["label"] == y) & (test["bin@0.3,0.6"] == a)).sum()
    assert by_bins["wga"] == min(by_bins[f"accuracy_{g}"] for g in range(6))
    assert set(mine["trained_attribute"]) == {"bins 0.3,0.6"}
    assert stated(run / "model")["parameters"]["bins"] == list(CUTS)


def test_a_study_trains_at_each_threshold_and_by_bins():
    study = StudyConfig(
        manifest="m.csv",
        work="w",
        groups=GroupsConfig(thresholds=(0.25, 0.5), bins=CUTS),
        methods=("erm", "gerne"),
    )
    names = [config.run_name for config in study_runs(study)]
    assert names == [
        "erm-t0.25-s0", "gerne-t0.25-s0", "erm-t0.5-s0", "gerne-t0.5-s0",
        "erm-b0.3_0.6-s0", "gerne-b0.3_0.6-s0",
    ]  # fmt: skip
    plain = study.model_copy(update={"groups": GroupsConfig()})
    assert len(study_runs(plain)) == 4


def test_a_study_refuses_the_drawing_attribute_in_its_train_table(tmp_path):
    study = StudyConfig(manifest=tmp_path / "m.csv", work=tmp_path / "work", train=TrainConfig(bins=CUTS))
    with pytest.raises(InputUnsupportedError, match="each of its own attributes"):
        run_study(study)
    assert not study.work.exists()  # said before anything was made
