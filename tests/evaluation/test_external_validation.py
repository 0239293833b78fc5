"""A shipped model is judged on another cohort, refused where it does not fit, and what it has seen is said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_patches import CHANNELS, write_work
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.artefacts import Stamp, fingerprint, read_table, write_table
from pathopatch.core.config import EvaluateConfig, IntensityConfig, TrainConfig
from pathopatch.core.errors import CheckpointIncompatibleError, InputMissingError, SplitLeakageError, StaleArtefactError
from pathopatch.core.files import read_json
from pathopatch.evaluation.evaluate import evaluate_run
from pathopatch.evaluation.external_validation import (
    check_patches,
    evaluate_bundle,
    external_validation_text,
    leakage_warnings,
    validation_name,
)
from pathopatch.models.bundle import read_spec
from pathopatch.training.dataset import Source
from pathopatch.training.run import fit

QUICK = EvaluateConfig(bootstrap=10)


def with_slides(work: Path, *, seed: int) -> Path:
    """Write a cohort of three slides and what is known of their files."""
    groups = write_work(work, seed=seed)
    slides = pd.DataFrame({"slide_id": sorted(set(groups["slide_id"]))})
    slides["patient_id"] = slides["slide_id"].str.replace("slide", "patient")
    slides["fingerprint"] = [fingerprint([seed, name]) for name in slides["slide_id"]]
    write_table(work / "slides.parquet", slides, Stamp(stage="check"))
    return work


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a model was trained."""
    work = with_slides(tmp_path_factory.mktemp("home"), seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fit(work, TrainConfig(method="erm", input_px=16, steps=4, batch_per_class=4, evaluations=2, augment=False))
    torch.set_num_threads(threads)
    return work


@pytest.fixture(scope="module")
def bundle(home: Path) -> Path:
    return home / "runs" / "erm-t0.25-s0" / "model"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """Another cohort in which the model has been judged."""
    work = with_slides(tmp_path_factory.mktemp("outside"), seed=10)
    evaluate_bundle(work, bundle, config=QUICK, device="cpu")
    return work


def test_all_labelled_patches_are_judged_together_whatever_their_split(outside: Path) -> None:
    out = outside / "evaluations" / "erm-t0.25-s0"
    numbers = read_json(out / "metrics.json")
    assert list(numbers["splits"]) == ["all"]
    judged = numbers["splits"]["all"]["thresholds"]["0.25"]
    groups = read_table(outside / "groups.parquet")
    assert judged["n"] == int((groups["group@0.25"] >= 0).sum())
    assert judged["patients"] == 3
    assert sorted(path.name for path in out.iterdir()) == [
        "ablation.csv", "metrics.json", "patients.csv", "predictions.parquet",
    ]  # fmt: skip


def test_at_home_the_split_gets_the_numbers_of_the_run_itself(home: Path, bundle: Path, tmp_path: Path) -> None:
    work = shutil.copytree(home, tmp_path / "copy")
    run = read_json(evaluate_run(work, "erm-t0.25-s0", config=QUICK, device="cpu") / "metrics.json")
    out = evaluate_bundle(work, bundle, splits=["test"], name="at-home", config=QUICK, device="cpu")
    numbers = read_json(out / "metrics.json")
    assert list(numbers["splits"]) == ["test"]
    assert numbers["splits"]["test"]["thresholds"]["0.25"] == run["splits"]["test"]["thresholds"]["0.25"]


def test_slides_that_the_model_has_seen_are_named_under_whatever_name(
    home: Path, bundle: Path, outside: Path, tmp_path: Path
) -> None:
    spec = read_spec(bundle)
    assert leakage_warnings(spec, outside, read_table(outside / "groups.parquet")) == []
    warnings = leakage_warnings(spec, home, read_table(home / "groups.parquet"))
    assert "trained on 1 of the 3 slides that are judged (slide-train)" in warnings[0]
    assert "selected (checkpoint, decision threshold) on 1 of the 3 slides that are judged (slide-val)" in warnings[1]
    renamed = read_table(home / "slides.parquet").assign(slide_id=["a", "b", "c"])
    write_table(tmp_path / "slides.parquet", renamed, Stamp(stage="check"))
    rows = pd.DataFrame({"slide_id": ["a", "b", "c"], "patient_id": "x"})
    assert "(b)" in leakage_warnings(spec, tmp_path, rows)[0]


def test_leaked_patients_of_ready_patches_are_found_without_their_names(
    home: Path, bundle: Path, tmp_path: Path
) -> None:
    slides = pd.DataFrame({"slide_id": ["set"], "patient_id": [""], "fingerprint": ["f" * 64]})
    write_table(tmp_path / "slides.parquet", slides, Stamp(stage="check"))
    mark = fingerprint(["f" * 64, "ann"])[:16]
    spec = read_spec(bundle).model_copy(update={"training": {"train_slides": mark}})
    rows = pd.DataFrame({"slide_id": "set", "patient_id": ["Ann", "Bob"]})
    assert "1 of the 2 patients that are judged (set, patient Ann)" in leakage_warnings(spec, tmp_path, rows)[0]
    assert "slide-train" not in (bundle / "config.json").read_text()
    assert "patient-train" not in (bundle / "config.json").read_text()


def test_a_bundle_without_its_training_slides_warns_of_unchecked_leakage(bundle: Path, outside: Path) -> None:
    spec = read_spec(bundle).model_copy(update={"training": {}})
    assert "is not checked" in leakage_warnings(spec, outside, read_table(outside / "groups.parquet"))[0]


def fitting() -> Source:
    rule = {"low_percentile": 1.0, "high_percentile": 99.5}
    return Source(channels=CHANNELS, dtype="uint16", patch_px=16, stride_px=16, mpp=0.5, intensity=rule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ("SHG", "CARS")}, "channels is SHG, CARS, the model's CARS, SHG"),
        ({"mpp": 0.52}, "mpp is 0.52, the model's 0.5"),
        ({"patch_px": 32}, "patch_px is 32, the model's 16"),
        ({"dtype": "uint8"}, "type of pixels is uint8, the model's uint16"),
        ({"align": True}, "alignment of channels is True, the model's False"),
        ({"intensity": {"high_percentile": 99.0}}, "intensity rule high_percentile is 99.0, the model's 99.5"),
        ({"intensity": {"windows": {"CARS": (0, 9)}}}, "intensity rule windows is"),
    ],
)
def test_patches_of_another_make_are_refused_by_the_difference(bundle: Path, change: dict, message: str) -> None:
    spec = read_spec(bundle)
    assert check_patches(spec, fitting()) == []
    with pytest.raises(CheckpointIncompatibleError, match=message):
        check_patches(spec, replace(fitting(), **change))


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"mpp": 0.509}, ""),  # within 2 %
        ({"mpp": None}, "The scale (mpp) of the model or of the patches is not known, so it was not compared."),
        ({"background": "bright"}, "Where there is no tissue the patches are bright, the model's dark."),
    ],
)
def test_what_may_differ_is_accepted_or_warned_of(bundle: Path, change: dict, warning: str) -> None:
    source = replace(fitting(), **{"background": "dark"} | change)
    assert check_patches(read_spec(bundle), source) == ([warning] if warning else [])


def test_a_model_of_three_classes_is_refused(bundle: Path) -> None:
    spec = read_spec(bundle).model_copy(update={"class_names": ("none", "in situ", "invasive")})
    with pytest.raises(CheckpointIncompatibleError, match="has 3 classes"):
        check_patches(spec, fitting())


def test_labels_of_other_names_than_the_models_classes_are_a_warning(
    bundle: Path, outside: Path, tmp_path: Path
) -> None:
    work = shutil.copytree(outside, tmp_path / "work")
    groups = read_table(work / "groups.parquet")
    named = groups.assign(label_name=groups["label"].map({0: "landbird", 1: "waterbird", -1: ""}))
    write_table(work / "groups.parquet", named, Stamp(stage="groups", settings={"is": "d"}))
    out = evaluate_bundle(work, bundle, config=QUICK, device="cpu", force=True)
    warning = "The model's classes are non-tumour and tumour, the labels here landbird and waterbird"
    assert warning in external_validation_text(out)
    assert warning not in external_validation_text(outside / "evaluations" / "erm-t0.25-s0")


def test_a_run_is_not_judged_on_slides_that_it_was_trained_on(home: Path, tmp_path: Path) -> None:
    work = shutil.copytree(home, tmp_path / "work")
    groups = read_table(work / "groups.parquet")
    swapped = groups["split"].map({"train": "test", "val": "val", "test": "train"})
    write_table(work / "groups.parquet", groups.assign(split=swapped), Stamp(stage="groups", settings={"is": "d"}))
    with pytest.raises(SplitLeakageError, match="trained on slides .* 1, the first is slide-train"):
        evaluate_run(work, "erm-t0.25-s0", config=QUICK, device="cpu")


def test_of_brightfield_colour_the_percentiles_do_not_matter(bundle: Path) -> None:
    colour = {"channels": ("R", "G", "B"), "dtype": "uint8"}
    spec = read_spec(bundle).model_copy(update={**colour, "intensity": IntensityConfig(high_percentile=90)})
    assert check_patches(spec, replace(fitting(), **colour)) == []


def test_an_incompatible_bundle_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    write_work(tmp_path, seed=3, channels=(("SHG", "CARS"),) * 3)
    with pytest.raises(CheckpointIncompatibleError, match="channels is SHG, CARS"):
        evaluate_bundle(tmp_path, bundle, config=QUICK, device="cpu")
    assert not (tmp_path / "evaluations").exists()


def test_another_model_of_the_same_name_needs_force(outside: Path, bundle: Path) -> None:
    out = evaluate_bundle(outside, bundle, config=QUICK, device="cpu")
    before = (out / "metrics.json").stat().st_mtime_ns
    evaluate_bundle(outside, bundle, config=QUICK, device="cpu")
    assert (out / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(StaleArtefactError, match=r"splits was None, is \['test'\]"):
        evaluate_bundle(outside, bundle, splits=["test"], config=QUICK, device="cpu")


@pytest.mark.fault("exchanged-store")
def test_force_judges_the_same_model_again(outside: Path, bundle: Path) -> None:
    numbers = evaluate_bundle(outside, bundle, config=QUICK, device="cpu") / "metrics.json"
    due = read_json(numbers)
    numbers.write_text(numbers.read_text().replace('"n": ', '"n": 9'))
    evaluate_bundle(outside, bundle, config=QUICK, device="cpu")
    assert read_json(numbers) != due
    evaluate_bundle(outside, bundle, config=QUICK, device="cpu", force=True)
    assert read_json(numbers) == due


def test_a_split_without_labelled_patches_is_an_error(outside: Path, bundle: Path) -> None:
    with pytest.raises(InputMissingError, match="in split holdout"):
        evaluate_bundle(outside, bundle, splits=["holdout"], name="h", config=QUICK, device="cpu")


def test_a_bundle_is_called_by_its_run_or_its_folder() -> None:
    assert validation_name(Path("/x/runs/gerne-t0.5-s0/model")) == "gerne-t0.5-s0"
    assert validation_name(Path("/x/our model v2")) == "our_model_v2"
    assert validation_name(Path("/x/..hidden")) == "hidden"


def test_the_text_has_the_scores_and_the_warnings(outside: Path) -> None:
    out = outside / "evaluations" / "erm-t0.25-s0"
    numbers = read_json(out / "metrics.json")
    text = external_validation_text(out)
    judged = numbers["splits"]["all"]["thresholds"]["0.25"]
    at_equal_area = numbers["splits"]["all"]["equal_area"]["value"]
    row = next(line for line in text.splitlines() if line.startswith("  0.25 "))
    assert f"{100 * judged['wga']['value']:.1f} [" in row
    assert f"{at_equal_area:.3f} [" in row
    assert "WGA is at the decision threshold of the model;" in text
    assert "Trials" not in text
    assert np.isfinite(pd.read_csv(out / "ablation.csv")["without"]).all()


def test_the_command_judges_a_bundle_and_refuses_a_run_beside_it(outside: Path, bundle: Path) -> None:
    ran = CliRunner().invoke(
        app, ["evaluate", str(outside), "--model", str(bundle), "--split", "val", "--name", "by-cli", "--device", "cpu"]
    )
    assert ran.exit_code == 0, ran.output
    assert "Split val, in percent" in ran.output
    assert (outside / "evaluations" / "by-cli" / "metrics.json").is_file()
    assert CliRunner().invoke(app, ["evaluate", str(outside), "--model", str(bundle), "--run", "x"]).exit_code == 2
    assert CliRunner().invoke(app, ["evaluate", str(outside), "--split", "val"]).exit_code == 2
    early = CliRunner().invoke(app, ["evaluate", str(outside / "new"), "--model", str(bundle)])
    assert "groups.parquet] Remedy: run pathopatch groups WORK" in str(early.exception)
