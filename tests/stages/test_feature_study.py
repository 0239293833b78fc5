"""A study and the commands on features, from files to the comparison."""

import json
import shutil
from itertools import product

import pandas as pd
import pytest
from feature_work import write_features

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EvaluateConfig, GroupsConfig, TrainConfig, load_study
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError, StaleArtefactError
from pathopatch.report import answer
from pathopatch.report.collect import Study
from pathopatch.stages import train as stage
from pathopatch.stages.evaluate import evaluate_runs
from pathopatch.stages.groups import form_groups
from pathopatch.stages.study import run_study, study_runs
from pathopatch.stages.train import train_run

STUDY = """
features = "20x_256px_0px_overlap/features_uni_v1"
labels = "labels.csv"
work = "work"
methods = ["erm", "resample"]

[groups]
thresholds = [0.25]

[train]
threads = 1
"""


@pytest.fixture
def study(tmp_path):
    write_features(tmp_path, slides=6, patches=40)
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_a_study_on_features_compares_its_methods_without_slides(study):
    run_study(load_study(study), until="evaluate")
    table = pd.read_csv(study.parent / "work" / "comparison.csv")
    assert set(table["run"]) == {"erm-t0.25-s0", "resample-t0.25-s0"}
    assert (table["split"] == "test").any()
    config = json.loads((study.parent / "work" / "runs" / "erm-t0.25-s0" / "config.json").read_text())
    assert config["architecture"] == "linear"


def test_in_folds_the_seeds_of_exact_heads_are_other_assignments(study, typed, capsys):
    labels, work = pd.read_csv(study.parent / "labels.csv"), study.parent / "work"
    labels.drop(columns="split").to_csv(study.parent / "labels.csv", index=False)
    text = STUDY.replace("[groups]", "seeds = [0]\n[groups]") + "[splits]\nfolds = 3\n"
    study.write_text(text)
    run_study(load_study(study), until="train")
    stray = work / "folds" / "2" / "runs" / "erm-t0.25-s1"  # as an earlier version left it
    shutil.copytree(stray.with_name("erm-t0.25-s0"), stray)
    study.write_text(text.replace("[0]", "[0, 1, 2]"))
    with pytest.raises(StaleArtefactError, match="folds of its own"):
        run_study(load_study(study), until="evaluate")
    assert typed("run", study, "--until", "evaluate", "--force") == 0
    assert "repetitions are other assignments of patients to folds" in capsys.readouterr().err
    tables = [read_table(folder / "groups.parquet") for folder in (work, *sorted((work / "repetitions").glob("*")))]
    folds = [table.set_index("patient_id")["fold"].groupby("patient_id").first() for table in tables]
    assert len({tuple(each) for each in folds}) == 3
    pooled = read_table(work / "runs" / "erm-t0.25-s2" / "evaluation" / "predictions.parquet")
    assert pooled.set_index("patient_id")["fold"][pooled["split"].eq("test").to_numpy()].to_dict() == folds[2].to_dict()
    rows, methods = pd.read_csv(work / "summary.csv"), (work / "summary.md").read_text()
    assert (rows["seeds"] == 3).all()
    assert (rows["wga_sd"] > 0).all()
    assert "Student's t over seeds: repetitions are other assignments of patients to folds" in methods
    before = {
        path: path.stat().st_mtime_ns for path in work.glob("**/*.json") if path.name in ("run.json", "metrics.json")
    }
    run_study(load_study(study), until="evaluate")
    evaluate_runs(work, config=load_study(study).evaluate)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    form_groups(work, GroupsConfig(thresholds=(0.5,)), folds=3, force=True)
    assert not (work / "repetitions").exists()  # whose groups are others by now


def test_on_one_split_exact_heads_of_several_seeds_count_once(study, typed, capsys):
    study.write_text(STUDY.replace("[groups]", "seeds = [0, 1, 2]\n[groups]"))
    assert typed("run", study, "--until", "evaluate") == 0
    assert "of exact heads seeds repeat nothing: use folds" in capsys.readouterr().err
    work = study.parent / "work"
    assert sorted(pd.read_csv(work / "comparison.csv")["run"]) == ["erm-t0.25-s0", "resample-t0.25-s0"]
    for seed, method in product((1, 2), ("erm", "resample")):  # by hand
        train_run(work, TrainConfig(seed=seed, method=method, threshold=0.25, threads=1))
    evaluate_runs(work)
    assert (pd.read_csv(work / "summary.csv")["seeds"] == 1).all()
    assert (pd.read_csv(work / "comparison.csv")["gain_seeds"] <= 1).all()
    assert "pm" not in (work / "summary.tex").read_text()
    assert "over seeds." not in (work / "summary.md").read_text()
    assert "2 runs, seeds: 0." in (work / "summary.md").read_text()
    assert answer.answer(Study(work, evaluate=EvaluateConfig(bootstrap=0)))["limits"]["fewest_seeds"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("folds", [1, 3])
def test_a_failed_run_leaves_a_report_that_names_it(study, monkeypatch, folds):
    train = stage._train

    def fail_once(work, search, force, config, *further):
        if config.method == "resample" and (folds == 1 or work.name == "2"):
            raise NonFiniteError("the loss is NaN", place="step 3", remedy="lower the learning rate")
        return train(work, search, force, config, *further)

    if folds > 1:
        labels = pd.read_csv(study.parent / "labels.csv")
        labels.drop(columns="split").to_csv(study.parent / "labels.csv", index=False)
        study.write_text(STUDY + f"[splits]\nfolds = {folds}\n")
    assert len(run_study(load_study(study)).comparison) == 2  # what an earlier run showed is not that of one that fails
    monkeypatch.setattr(stage, "_train", fail_once)
    result = run_study(load_study(study), force=True)
    assert {run: error.code for run, error in result.untrained.items()} == {"resample-t0.25-s0": "NONFINITE"}
    assert set(result.comparison["run"]) == {"erm-t0.25-s0"}
    page = (study.parent / "work" / "report" / "index.html").read_text()
    assert "Not trained: resample-t0.25-s0.</strong> NONFINITE: the loss is NaN" in page


def test_a_study_on_features_refuses_methods_of_pixels_at_its_start(study):
    study.write_text(STUDY.replace('"resample"', '"auto"'))
    with pytest.raises(InputUnsupportedError, match="cannot be composed"):
        study_runs(load_study(study))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('labels = "labels.csv"\n', "features and labels go together"),
        ('manifest = "cohort.csv"\n', "give manifest, patches or features, one of them"),
        ('predict_split = "test"\n', "leave out predict_split"),
        ("[tile]\nmpp = 0.5\n", r"leave out \[tile\]"),
    ],
)
def test_a_study_on_features_refuses_settings_of_slides(study, text, reason):
    changed = {"labels": STUDY.replace(text, ""), "[tile]": STUDY + text}
    study.write_text(changed.get(text.split()[0], text + STUDY))
    with pytest.raises(InputUnsupportedError, match=reason):
        load_study(study)


def test_the_command_searches_heads_that_are_solved(study, typed, capsys):
    run_study(load_study(study), until="groups")
    work = study.parent / "work"
    assert typed("train", work, "--method", "erm", "--trials", 2) == 0
    assert "2 trials for 1 run, each solved to convergence" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("folds", [1, 3])
def test_a_study_trains_a_row_on_what_another_one_finds_hard(study, folds):
    row = '[[runs]]\nname = "hard"\nmethod = "gerne"\ngroups_from = "erm-balanced"\nhard_share = 0.2\n'
    text = STUDY.replace('"resample"', '"erm-balanced"')
    study.write_text(f"{text}\n[splits]\nfolds = {folds}\n{row}")
    settings = load_study(study)
    assert not run_study(settings, until="evaluate").untrained
    table = pd.read_csv(settings.work / "comparison.csv")
    assert set(table["run"]) == {"erm-t0.25-s0", "erm-balanced-t0.25-s0", "gerne-t0.25-h0.2-s0-hard"}
    for folder in [settings.work] if folds == 1 else [settings.work / "folds" / str(k) for k in (1, 2, 3)]:
        assert (folder / "groups" / "hard" / "erm-balanced-t0.25-s0" / "0.2.parquet").is_file()
