"""Test labels reach nothing that is chosen: not in a plain study, not in a cross-validation; and folds are pooled."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_patches import write_work

from pathopatch.core.artefacts import Stamp, read_table, write_table
from pathopatch.core.config import EvaluateConfig, GroupsConfig, TrainConfig, TuneConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import read_json
from pathopatch.evaluation.compare import comparison, comparison_text, preferred_run
from pathopatch.evaluation.external_validation import evaluate_bundle, external_validation_text
from pathopatch.evaluation.pooled import pool_run
from pathopatch.groups import assign_groups
from pathopatch.metrics.accuracy import auroc
from pathopatch.report import write_report
from pathopatch.stages.evaluate import evaluate_runs
from pathopatch.stages.groups import fold_tables, write_folds
from pathopatch.stages.train import train_run

CUTS = (0.3, 0.6)
CONFIG = GroupsConfig(thresholds=(0.25, 0.5), bins=CUTS)
QUICK = EvaluateConfig(bootstrap=20)
SMALL = {"input_px": 16, "steps": 6, "batch_per_class": 4, "evaluations": 3, "threads": 1, "least_per_bin": 1}
RUNS = [
    TrainConfig(method="erm", **SMALL),
    TrainConfig(method="groupdro", threshold=0.5, **SMALL),
    TrainConfig(method="gerne", bins=CUTS, **SMALL),
]
STAMP = Stamp(stage="groups", settings={"is": "c"})


def graded(work: Path) -> pd.DataFrame:
    """Stores of three patients; returns their patches with tissue fractions of .1 to .9."""
    table = write_work(work)
    rng = np.random.default_rng(0)
    much = table["attribute@0.25"] == 1
    table["tissue_fraction"] = np.where(much, rng.uniform(0.3, 0.9, len(table)), rng.uniform(0.05, 0.5, len(table)))
    return table[["patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction", "pixels_checksum"]]


def permuted(groups: pd.DataFrame) -> pd.DataFrame:
    """The same groups, but that the labels of the test patches are those of one another."""
    patches = groups[
        ["patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction", "pixels_checksum"]
    ].copy()
    is_test = patches["split"] == "test"
    patches.loc[is_test, "label"] = patches.loc[is_test, "label"].sample(frac=1, random_state=1).to_numpy()
    assert not patches["label"].equals(groups["label"])
    return assign_groups(patches, CONFIG.thresholds, bins=CUTS)


def chosen(work: Path) -> dict[str, bytes]:
    """Every file of the runs that says what was chosen: models, checkpoints, histories, trials, settings."""
    left_out = {"log.json", "trials.journal"}  # they tell the time
    files = [path for path in work.glob("runs/*/**/*") if path.is_file() and "evaluation" not in path.parts]
    return {str(path.relative_to(work)): path.read_bytes() for path in files if path.name not in left_out}


def train_all(work: Path) -> None:
    for config in RUNS:
        train_run(work, config)
    train_run(work, TrainConfig(method="gerne", name="tuned", **SMALL), TuneConfig(trials=2))
    evaluate_runs(work, config=QUICK)


@pytest.mark.slow
def test_permuted_test_labels_leave_every_choice_as_it_is(tmp_path: Path) -> None:
    groups = assign_groups(graded(tmp_path / "a"), CONFIG.thresholds, bins=CUTS)
    write_table(tmp_path / "a" / "groups.parquet", groups, STAMP)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_table(tmp_path / "b" / "groups.parquet", permuted(groups), STAMP)
    write_table(tmp_path / "b" / "patches" / "slide-test.parquet", groups[["patch_id", "label"]], STAMP)
    for name in ("a", "b"):
        train_all(tmp_path / name)
    first, second = chosen(tmp_path / "a"), chosen(tmp_path / "b")
    assert {Path(name).name for name in first} >= {
        "model.safetensors", "check.json", "history.csv", "run.json", "trials.csv", "checkpoint.safetensors",
    }  # fmt: skip
    assert first == second
    for threshold in CONFIG.thresholds:
        assert preferred_run(tmp_path / "a", threshold=threshold) == preferred_run(tmp_path / "b", threshold=threshold)
    tables = [pd.read_csv(tmp_path / name / "comparison.csv") for name in ("a", "b")]
    assert tables[0]["wga_val"].equals(tables[1]["wga_val"])
    assert not tables[0]["wga"].equals(tables[1]["wga"])  # what is reported does follow the labels


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation of three patients in three folds, trained, tuned, judged and pooled."""
    work = tmp_path_factory.mktemp("folds") / "work"
    patches = graded(work)
    write_folds(work, fold_tables(patches, CONFIG, folds=3), CONFIG, stamp=STAMP, left_out=[])
    train_all(work)
    return work


@pytest.mark.slow
def test_permuted_labels_of_the_test_fold_change_no_choice_in_it(folded: Path, tmp_path: Path) -> None:
    for number in ("1", "2", "3"):
        copy = tmp_path / number
        shutil.copytree(folded, copy, ignore=shutil.ignore_patterns("runs", "comparison.csv"))
        path = copy / "folds" / number / "groups.parquet"
        write_table(path, permuted(read_table(path)), STAMP)
        for config in RUNS[1:3]:
            train_run(copy / "folds" / number, config)
        again, first = chosen(copy / "folds" / number), chosen(folded / "folds" / number)
        assert again == {name: first[name] for name in again}
        assert sum(name.endswith("model.safetensors") for name in again) == 2


def test_each_patch_is_tested_once_by_the_model_without_its_patient(folded: Path) -> None:
    whole = read_table(folded / "groups.parquet").set_index("patch_id")
    for config in RUNS:
        run = config.run_name
        pooled = read_table(folded / "runs" / run / "evaluation" / "predictions.parquet")
        for split in ("test", "val"):
            mine = pooled[pooled["split"] == split]
            labelled = whole[(whole["label"] >= 0) & (whole["group@0.25"] >= 0)]
            assert sorted(mine["patch_id"]) == sorted(labelled.index)
        test = pooled[pooled["split"] == "test"].set_index("patch_id")
        for number in (1, 2, 3):
            fold = folded / "folds" / str(number)
            judged = read_json(fold / "runs" / run / "evaluation" / "metrics.json")
            own = read_table(fold / "runs" / run / "evaluation" / "predictions.parquet")
            own = own[own["split"] == "test"].set_index("patch_id")
            assert (whole.loc[own.index, "fold"] == number).all()
            shifted = own["logit"] - judged["decision_threshold"]
            np.testing.assert_array_equal(test.loc[own.index, "logit"], shifted)


def test_the_pooled_numbers_are_those_of_all_patches_together(folded: Path) -> None:
    table = comparison(folded, config=QUICK).set_index(["run", "attribute"])
    run = "groupdro-t0.5-s0"
    row = table.loc[(run, "0.5")]
    pooled = read_table(folded / "runs" / run / "evaluation" / "predictions.parquet")
    test = pooled[pooled["split"] == "test"]
    right = (test["logit"] > 0) == (test["label"] == 1)
    accuracy = right.groupby(test["group@0.5"]).mean()
    assert row["wga"] == pytest.approx(accuracy.min())
    assert row["gba"] == pytest.approx(accuracy.mean())
    assert row["auroc"] == pytest.approx(auroc(test["logit"], test["label"]))
    assert row["patients"] == 3
    assert np.isnan(row["wga_low"])  # of three patients
    by_fold = pd.concat([comparison(folded / "folds" / number, config=QUICK) for number in "123"])
    mine = by_fold[(by_fold["run"] == run) & (by_fold["attribute"] == "0.5")]
    assert mine["n"].sum() == row["n"]
    assert (mine["average"] * mine["n"]).sum() / row["n"] == pytest.approx(row["average"])
    # A pair is of one fold, so the pooled number is the folds' mean, weighted by their pairs.
    paths = [folded / "folds" / str(number) / "runs" / run / "evaluation" / "metrics.json" for number in (1, 2, 3)]
    of_folds = [read_json(path)["splits"]["test"]["equal_area"] for path in paths]
    pairs = [each["pairs"] for each in of_folds]
    assert mine["equal_area"].tolist() == pytest.approx([each["value"] for each in of_folds])
    assert row["equal_area_pairs"] == sum(pairs) > 0
    assert row["equal_area"] == pytest.approx(np.average(mine["equal_area"], weights=pairs))


def test_wga_at_zero_and_calibration_are_of_the_models_own_logits(folded: Path) -> None:
    run = "erm-t0.25-s0"
    parts = [read_table(folded / "folds" / k / "runs" / run / "evaluation" / "predictions.parquet") for k in "123"]
    raw = pd.concat([part[part["split"] == "test"] for part in parts])
    worst = ((raw["logit"] > 0) == (raw["label"] == 1)).groupby(raw["group@0.25"]).mean().min()
    scores = read_json(folded / "runs" / run / "evaluation" / "metrics.json")["splits"]["test"]
    assert scores["thresholds"]["0.25"]["wga_at_zero"] == pytest.approx(worst)
    bins = [row for curve in scores["reliability"] for row in curve if row["n"]]
    assert sum(row["n"] * row["mean_probability"] for row in bins) == pytest.approx(raw["probability"].sum())
    assert all(row["tumor_share_low"] is None for row in bins)  # of three patients


def test_a_run_that_a_fold_lacks_is_not_pooled(folded: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folded, tmp_path / "work")
    shutil.rmtree(copy / "folds" / "2" / "runs" / "erm-t0.25-s0")
    with pytest.raises(InputMissingError, match=r"'erm-t0\.25-s0' is not evaluated in fold 2 of 3"):
        evaluate_runs(copy, config=QUICK)


@pytest.mark.fault("exchanged-store")
def test_force_pools_the_same_folds_again(folded: Path, tmp_path: Path) -> None:
    copy, run = shutil.copytree(folded, tmp_path / "work"), "erm-t0.25-s0"
    numbers = pool_run(copy, run, config=QUICK) / "metrics.json"
    due = read_json(numbers)
    numbers.write_text(numbers.read_text().replace('"n": ', '"n": 9'))
    pool_run(copy, run, config=QUICK)
    assert read_json(numbers) != due
    pool_run(copy, run, config=QUICK, force=True)
    assert read_json(numbers) == due


@pytest.mark.slow
def test_a_second_evaluation_is_equal_and_the_report_shows_the_folds(folded: Path, tmp_path: Path) -> None:
    names = ("comparison.csv", "runs/erm-t0.25-s0/evaluation/metrics.json")
    before = [(folded / name).read_bytes() for name in names]
    table = evaluate_runs(folded, config=QUICK)
    assert [(folded / name).read_bytes() for name in names] == before
    assert "gerne-b0.3_0.6-s0" in comparison_text(folded, table)
    bare = shutil.copytree(folded, tmp_path / "work", ignore=shutil.ignore_patterns("patches", "slides"))
    page = write_report(bare, evaluate=QUICK).read_text(encoding="utf-8")
    assert "uses the labels of the patients that it is tested on" in page
    assert "each was trained once with the given settings" not in page  # one was searched, fold by fold


def test_searches_of_all_folds_count_and_unsearched_runs_are_no_reference(folded: Path) -> None:
    table = comparison(folded, config=QUICK).set_index(["run", "attribute"])
    spent = ["trials", "search_steps", "search"]
    assert table.loc[("gerne-t0.25-s0-tuned", "0.25"), spent].tolist() == [3 * 2, 3 * 2 * 6, "2 trials a fold"]
    assert table.loc[("erm-t0.25-s0", "0.25"), spent].tolist() == [3, 3 * 6, "none"]
    assert table.loc[("gerne-t0.25-s0-tuned", "0.25"), "reference"] == ""


@pytest.mark.slow
def test_a_fold_has_a_report_and_external_validation_like_a_work_folder(folded: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folded, tmp_path / "work")
    for slide, table in read_table(copy / "groups.parquet").groupby("slide_id"):
        write_table(copy / "patches" / f"{slide}.parquet", table, STAMP)
    bundle = copy / "folds" / "1" / "runs" / "erm-t0.25-s0" / "model"
    for work in (copy, copy / "folds" / "2"):
        text = external_validation_text(evaluate_bundle(work, bundle, config=QUICK, device="cpu"))
        assert "Groups by bins: 0 " in text
    shutil.rmtree(copy / "slides")  # made stores have no overview to draw
    for work in (copy, copy / "folds" / "2"):
        page = write_report(work, evaluate=QUICK).read_text(encoding="utf-8")
        assert "Accuracy, tissue bins cut at 0.3 and 0.6" in page
        assert "slide-train" in page
