"""Rows of a study by name: any settings of ``[train]`` in each."""

import pytest

from pathopatch.core.config import StudyConfig, parse
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.stages.study import study_runs

BASE = {"manifest": "m.csv", "work": "w", "seeds": (0, 1), "train": {"steps": 40}, "groups": {"thresholds": (0.25,)}}
MASKED = {"name": "auto, masked", "method": "auto", "mask": "normalise", "steps": 50}


def _study(**changed):
    return parse(StudyConfig, {**BASE, **changed}, place="study.toml")


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


def test_they_stand_beside_methods_where_those_are_given():
    runs = study_runs(_study(methods=("resample",), runs=[MASKED], seeds=(0,)))
    assert [run.method for run in runs] == ["resample", "auto"]


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ([{"method": "erm"}], "name"),
        ([{"name": "a", "method": "gern"}], "gern"),
        ([{"name": "a", "stepz": 3}], "unknown key"),
        ([{"name": "a", "seed": 3}], r"seed of \[\[runs\]\]"),
        ([{"name": "a", "bins": [0.3, 0.6]}], r"bins of \[\[runs\]\]"),
        ([{"name": "\N{GREEK SMALL LETTER BETA}", "method": "erm"}], "name"),
        ([{"name": "a, b", "method": "erm"}, {"name": "a b", "method": "erm"}], "same name"),
    ],
)
def test_rows_that_cannot_be_run_are_refused(runs, problem):
    with pytest.raises(InputUnsupportedError, match=problem):
        _study(runs=runs)


def test_the_automatic_row_of_a_network_without_a_mask_is_auto_alone():
    resnet = {"architecture": "resnet18"}
    with pytest.warns(UserWarning, match="auto is trained without the mask"):
        runs = study_runs(_study(seeds=(0,), train=resnet))
    assert [(run.method, run.mask, run.row_name) for run in runs][-1] == ("auto", "none", "auto")
    assert not any(run.mask == "normalise" for run in runs)
    # A row that the user wrote is never changed: it is refused, see `check_networks`.
    assert study_runs(_study(seeds=(0,), train=resnet, runs=[MASKED]))[0].mask == "normalise"
    assert study_runs(_study(seeds=(0,)))[-1].mask == "normalise"


def test_a_study_without_rows_is_refused():
    with pytest.raises(InputUnsupportedError, match=r"give methods or \[\[runs\]\]"):
        _study(methods=())
