"""Rows of a study by name: any settings of ``[train]`` in each."""

import pytest

from pathopatch.core.config import StudyConfig, parse
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.stages.study import jobs_of, repetitions, study_runs

BASE = {"manifest": "m.csv", "work": "w", "seeds": (0, 1), "train": {"steps": 40}, "groups": {"thresholds": (0.25,)}}
MASKED = {"name": "auto, masked", "method": "auto", "mask": "normalise", "steps": 50}


def _study(**changed):
    return parse(StudyConfig, {**BASE, **changed}, place="study.toml")


@pytest.mark.parametrize(
    ("given", "workers", "jobs"),
    [
        ({"train": {"frozen": True}}, 2, 2),
        ({"train": {"frozen": True}, "methods": ["erm"], "groups": {"thresholds": [0.3, 0.5]}}, 99, 2),
        ({}, 4, 1),
        ({"jobs": 3}, 1, 3),
    ],
)
def test_heads_on_a_frozen_network_train_side_by_side_as_workers_say(given, workers, jobs):
    study = parse(StudyConfig, {"manifest": "m.csv", "work": "w", **given}, place="study.toml")
    runs = [run.model_copy(update={"frozen": "train" in given}) for run in study_runs(study)]
    assert jobs_of(study, runs, workers) == jobs


def test_named_rows_replace_the_default_methods_and_keep_the_studys_settings():
    study = _study(runs=[MASKED, {"name": "erm", "method": "erm"}])
    assert study.methods == ()
    runs = study_runs(study)
    shown = [(run.method, run.mask, run.steps, run.seed) for run in runs]
    assert shown == [
        ("auto", "normalise", 50, 0),
        ("erm", "none", 40, 0),
        ("auto", "normalise", 50, 1),
        ("erm", "none", 40, 1),
    ]
    assert [run.row_name for run in runs[:2]] == ["auto, masked", "erm"]
    assert [run.run_name for run in runs[:2]] == ["auto-t0.25-s0-auto-masked", "erm-t0.25-s0-erm"]


def test_networks_have_all_seeds_and_exact_heads_beside_them_one():
    rows = [{"name": "a", "method": "erm", "frozen": True}, {"name": "b", "method": "erm", "frozen": False}]
    mixed = _study(runs=rows, splits={"folds": 3})
    assert [(run.row_name, run.seed) for run in study_runs(mixed)] == [("a", 0), ("b", 0), ("b", 1)]
    assert repetitions(mixed) == []
    (again,) = repetitions(_study(runs=rows[:1], splits={"folds": 3}))
    assert [run.run_name for run in study_runs(again)] == ["erm-t0.25-s1-a"]
    assert (str(again.work), again.groups.split_seed) == ("w/repetitions/s1", 2)


def test_they_stand_beside_methods_where_those_are_given():
    runs = study_runs(_study(methods=("resample",), runs=[MASKED], seeds=(0,)))
    assert [run.method for run in runs] == ["resample", "auto"]


def test_a_row_changes_single_settings_of_a_methods_table():
    study = _study(train={"gerne": {"c": 1.0}}, runs=[{"name": "a", "method": "gerne", "gerne": {"beta": 0.25}}])
    assert study_runs(study)[0].gerne.model_dump() == {"c": 1.0, "beta": 0.25}


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ([{"method": "erm"}], "name"),
        ([{"name": "a", "method": "gern"}], "gern"),
        ([{"name": "a", "stepz": 3}], "unknown key"),
        ([{"name": "a", "frozen": True, "choose": True, "mask": "interior"}], "leave out choose, or method and mask"),
        ([{"name": "a", "seed": 3}], r"seed of \[\[runs\]\]"),
        ([{"name": "a", "bins": [0.3, 0.6]}], r"bins of \[\[runs\]\]"),
        ([{"name": "\N{GREEK SMALL LETTER BETA}", "method": "erm"}], "name"),
        ([{"name": "a, b", "method": "erm"}, {"name": "a b", "method": "erm"}], "same name"),
    ],
)
def test_rows_that_cannot_be_run_are_refused(runs, problem):
    with pytest.raises(InputUnsupportedError, match=problem):
        _study(runs=runs)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"train": {"frozen": True, "choose": True}, "methods": ["gerne"]}, "leave out choose, or method"),
        ({"train": {}, "tune": {"trials": 20}}, "solved exactly, and no trials are made"),
    ],
)
def test_settings_that_no_row_could_follow_are_refused(given, problem):
    with pytest.raises(InputUnsupportedError, match=problem):
        study_runs(_study(**given))


@pytest.mark.parametrize(
    ("given", "last", "frozen"),
    [
        ({"train": {}}, "chosen head", True),
        ({"train": {"seed": 2, "frozen": True, "architecture": "resnet18", "pretrained": "w.pt"}}, "chosen head", True),
        ({"train": {}, "manifest": None, "patches": "p.csv"}, "chosen head", True),
        ({"train": {"steps": 40}}, "auto, masked", False),
        ({"train": {"architecture": "resnet18"}}, "auto", False),
        ({"train": {"frozen": False}}, "auto, masked", False),
        ({"train": {}, "groups": {"thresholds": (0.25,), "bins": (0.2, 0.6)}, "attributes": ["thresholds"]},
         "auto, masked", False),
        ({"train": {"steps": 40}, "manifest": None, "patches": "p.csv"}, "", False),
    ],
)  # fmt: skip
def test_a_study_that_names_no_row_takes_a_frozen_network_unless_steps_are_given(given, last, frozen):
    runs = study_runs(_study(seeds=(0,), **given))
    assert [run.method for run in runs][:4] == ["erm", "resample", "groupdro", "gerne"]
    assert [run.row_name for run in runs[4:]] == [last] * bool(last)
    assert all(run.frozen == frozen for run in runs)
    assert [run.choose for run in runs] == [False] * 4 + [frozen] * bool(last)
    assert all(run.run_name.startswith("chosen" if run.choose else run.method) for run in runs)


def test_a_row_may_be_frozen_beside_rows_from_scratch_and_the_other_way_round():
    rows = [{"name": "a", "method": "erm", "frozen": True}, {"name": "b", "method": "erm", "frozen": False}]
    for train in ({"input_px": 48, "steps": 40}, {"frozen": True}):
        a, b = study_runs(_study(seeds=(0,), train=train, runs=rows))
        assert (a.frozen, a.architecture, a.input_px) == (True, "tf_efficientnet_lite0", 224)
        assert (b.frozen, b.architecture, b.pretrained) == (False, "small-groupnorm", "none")
        assert b.input_px == (48 if "input_px" in train else 64)


def test_a_study_without_rows_is_refused():
    with pytest.raises(InputUnsupportedError, match=r"give methods or \[\[runs\]\]"):
        _study(methods=())
