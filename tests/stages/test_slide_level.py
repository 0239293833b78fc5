"""Slides are classified by patients that training never saw, and the results say what tissue area alone tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from made_bags import DIM
from made_feature_cohort import made_cohort
from made_labelled_slides import write_cohort, write_groups

from pathopatch.core.artefacts import Stamp, fingerprint_file, read_table, write_table
from pathopatch.core.config import SlideLevelConfig
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    GroupEmptyError,
    InputChangedError,
    InputMissingError,
    InputUnsupportedError,
    NonFiniteError,
    SplitLeakageError,
    StaleArtefactError,
)
from pathopatch.core.files import read_json, write_json
from pathopatch.features.slide_features import Encoder
from pathopatch.features.store import encoder_key
from pathopatch.models.attention_pooling import SlideClassifier
from pathopatch.models.slide_bundle import load_slide_model
from pathopatch.stages.import_features import import_features
from pathopatch.stages.slide_level import classify_slides
from pathopatch.stages.slide_level_predict import predict_slides
from pathopatch.training import slide_level

NAME = f"{encoder_key(Encoder(dim=DIM, name='uni_v1'))}-s0"
LABELS = [0, 1] * 12
SPLITS = [*["train"] * 12, *["val"] * 6, *["test"] * 6]


def config_of(**changes: object) -> SlideLevelConfig:
    small = {"hidden": 16, "epochs": 2, "bag_patches": 16, "threads": 1, "bootstrap": 20, "pooling": ("attention",)}
    return SlideLevelConfig.model_validate({**small, **changes})


def predictions_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv", keep_default_na=False)


def test_one_split_tests_its_test_slides_and_writes_their_attention(tmp_path: Path) -> None:
    write_cohort(tmp_path, LABELS, splits=SPLITS)
    folder = classify_slides(tmp_path, config_of(pooling=("attention", "mean")))
    assert folder == tmp_path / "slide_level" / NAME
    table = predictions_of(folder)
    assert table["pooling"].tolist() == ["attention"] * 6 + ["mean"] * 6
    tested = [f"slide{number:03d}" for number in range(18, 24)]
    assert table["slide_id"].tolist() == tested * 2
    assert table["label"].tolist() == [0, 1] * 6
    attention = read_table(folder / "attention.parquet")
    assert attention.groupby("slide_id")["attention"].sum().to_numpy() == pytest.approx(np.ones(6))
    patches = read_table(tmp_path / "patches" / "slide020.parquet")
    placed = attention[attention["slide_id"] == "slide020"]
    columns = ["feature_row", "x", "y"]
    assert sorted(placed[columns].itertuples(index=False)) == sorted(patches[columns].itertuples(index=False))
    assert read_json(folder / "results.json")["trainings"][0]["train_slides"] == 12


@pytest.mark.slow
def test_a_stored_model_predicts_as_it_did_when_it_was_tested(tmp_path: Path) -> None:
    write_cohort(tmp_path, LABELS, splits=SPLITS)
    tested = classify_slides(tmp_path, config_of())
    model = tested / "models" / "attention"
    _, spec = load_slide_model(model)
    assert spec.data == {"train_slides": 12, "val_slides": 6, "test_slides": 6}
    folder = predict_slides(tmp_path, model, bootstrap=20)
    assert folder == tmp_path / "slide_level" / f"{NAME}-attention"
    again = predictions_of(folder).set_index("slide_id")["probability"]
    before = predictions_of(tested).set_index("slide_id")["probability"]
    assert len(again) == 24
    assert again[before.index].to_numpy() == pytest.approx(before.to_numpy(), abs=1e-6)
    results = read_json(folder / "results.json")
    assert results["methods"][0]["slides"] == 24
    assert sorted(path.stem for path in (folder / "attention").iterdir()) == sorted(again.index)


def test_a_stored_model_refuses_features_of_another_encoder(tmp_path: Path) -> None:
    write_cohort(tmp_path / "work", LABELS, splits=SPLITS)
    model = classify_slides(tmp_path / "work", config_of()) / "models" / "attention"
    facts = read_json(model / "model.json")
    write_json(model / "model.json", {**facts, "encoder": {**facts["encoder"], "name": "uni_v2"}})
    with pytest.raises(CheckpointIncompatibleError, match='name is "uni_v1", the model\'s "uni_v2"'):
        predict_slides(tmp_path / "work", model)


@pytest.mark.slow
def test_a_model_predicts_features_that_no_label_is_known_of(
    tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path / "work", LABELS, splits=SPLITS)
    model = classify_slides(tmp_path / "work", config_of()) / "models" / "attention"
    options = ("--features", tmp_path / "work-features", "--name", "elsewhere", "--quiet")
    assert typed("mil", tmp_path / "new", "--model", model, *options) == 0
    assert "No slide has a label: the AUROC is not known." in capsys.readouterr().out
    assert len(predictions_of(tmp_path / "new" / "slide_level" / "elsewhere")) == 24
    assert typed("mil", tmp_path / "new", "--model", model, "--folds", 3) == 2


def test_each_tested_slide_has_a_map_of_its_attention(tmp_path: Path) -> None:
    write_cohort(tmp_path, LABELS, splits=SPLITS)
    folder = classify_slides(tmp_path, config_of())
    tested = [f"slide{number:03d}.png" for number in range(18, 24)]
    assert sorted(path.name for path in (folder / "attention").iterdir()) == tested


def test_the_split_of_the_labels_is_used_in_place_of_the_groups(tmp_path: Path, trainings: list) -> None:
    write_groups(tmp_path, write_cohort(tmp_path, LABELS, splits=SPLITS))
    labels = tmp_path / "labels.csv"
    splits = ["test"] * 6 + ["val"] * 6 + ["train"] * 12
    rows = [
        f"slide{n:03d},patient{n:03d},{label},{split}"
        for n, (label, split) in enumerate(zip(LABELS, splits, strict=True))
    ]
    labels.write_text("slide_id,patient_id,slide_label,split\n" + "\n".join(rows))
    folder = classify_slides(tmp_path, config_of(), labels=labels)
    assert predictions_of(folder)["slide_id"].tolist() == [f"slide{n:03d}" for n in range(6)]
    assert "Splits are those of the labels, not of the work folder." in read_json(folder / "results.json")["notes"]


@pytest.mark.slow
def test_attention_finds_the_one_patch_that_shows_the_label(tmp_path: Path) -> None:
    write_cohort(tmp_path, [0, 1] * 40)
    settings = {"folds": 4, "epochs": 30, "bag_patches": 2048, "learning_rate": 2e-3, "bootstrap": 200}
    folder = classify_slides(tmp_path, config_of(pooling=("attention", "mean"), **settings))
    attention, mean = read_json(folder / "results.json")["methods"]
    assert attention["auroc"] > 0.9
    assert 0.8 < attention["auroc_low"] < attention["auroc"] < attention["auroc_high"] <= 1
    assert mean["auroc"] < attention["auroc"] - 0.1
    assert attention["slides"] == attention["patients"] == 80


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], set[str]]]:
    """The patients that each training is given, to train and to validate; nothing is trained."""
    given: list[tuple[set[str], set[str]]] = []

    def fit(train: Sequence, val: Sequence, *_: object, **__: object) -> SimpleNamespace:
        given.append(({bag.patient_id for bag in train}, {bag.patient_id for bag in val}))
        network = SlideClassifier(DIM, 2, is_gated=False)
        return SimpleNamespace(network=network, decision_threshold=0.0, epoch=1, validation_auroc=0.5)

    monkeypatch.setattr(slide_level, "fit_slide_classifier", fit)
    monkeypatch.setattr(slide_level, "predict_slide", lambda _, bag: (0.0, np.full(len(bag), 1 / len(bag))))
    return given


def test_each_patient_is_tested_once_by_a_model_that_never_saw_it(tmp_path: Path, trainings: list) -> None:
    patients = [f"p{number // 2 % 9}" for number in range(24)]
    write_cohort(tmp_path, [(number // 2) % 2 for number in range(24)], patients=patients)
    table = predictions_of(classify_slides(tmp_path, config_of(folds=3)))
    assert sorted(table["slide_id"]) == [f"slide{number:03d}" for number in range(24)]
    assert (table.groupby("patient_id")["fold"].nunique() == 1).all()
    assert len(trainings) == 3
    for fold, (train, val) in enumerate(trainings, 1):
        test = set(table.loc[table["fold"] == fold, "patient_id"])
        assert not train & val
        assert not (train | val) & test
        assert train | val | test == set(patients)


def test_the_folds_of_the_groups_are_taken_where_no_others_are_asked_for(tmp_path: Path, trainings: list) -> None:
    slides = write_cohort(tmp_path, LABELS)
    folds = [number // 2 % 4 + 1 for number in range(24)]
    write_groups(tmp_path, slides, folds=folds)
    table = predictions_of(classify_slides(tmp_path, config_of()))
    assert dict(zip(table["slide_id"], table["fold"], strict=True)) == dict(zip(slides["slide_id"], folds, strict=True))
    assert len(trainings) == 4


def test_a_slide_that_the_groups_left_out_is_not_used(tmp_path: Path, trainings: list) -> None:
    slides = write_cohort(tmp_path, LABELS, splits=SPLITS)
    write_groups(tmp_path, slides.drop(index=[0, 20]))
    folder = classify_slides(tmp_path, config_of())
    assert "slide020" not in set(predictions_of(folder)["slide_id"])
    assert "patient000" not in trainings[0][0]
    assert read_json(folder / "results.json")["left_out"] == {
        "slide000": "it is not in groups.parquet",
        "slide020": "it is not in groups.parquet",
    }


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    patients = ["p0", *[f"p{number}" for number in range(22)], "p0"]
    slides = write_cohort(tmp_path, LABELS, patients=patients, splits=SPLITS)
    with pytest.raises(SplitLeakageError, match="p0"):
        classify_slides(tmp_path, config_of())
    write_groups(tmp_path, slides)
    with pytest.raises(SplitLeakageError, match="p0"):
        classify_slides(tmp_path, config_of())


def test_equal_seeds_give_equal_bytes_whatever_the_order_in_the_files(tmp_path: Path) -> None:
    for name, order_seed in (("a", None), ("b", 7)):
        write_cohort(tmp_path / name, LABELS, splits=SPLITS, order_seed=order_seed)
    a, b = (classify_slides(tmp_path / name, config_of()) for name in ("a", "b"))
    assert (a / "predictions.csv").read_bytes() == (b / "predictions.csv").read_bytes()
    of_a, of_b = (read_table(folder / "attention.parquet").drop(columns="feature_row") for folder in (a, b))
    assert of_a.equals(of_b)
    write_cohort(tmp_path / "c", LABELS, splits=SPLITS)
    c = classify_slides(tmp_path / "c", config_of(cache_gib=0))  # read anew at each step
    for name in ("predictions.csv", "attention.parquet", "results.json"):
        assert (a / name).read_bytes() == (c / name).read_bytes()


def test_finished_results_stay_and_others_take_force(tmp_path: Path, trainings: list) -> None:
    write_cohort(tmp_path, LABELS, splits=SPLITS)
    for _ in range(2):
        classify_slides(tmp_path, config_of(), name="x")
    assert len(trainings) == 1
    with pytest.raises(StaleArtefactError, match="seed was 0, is 1"):
        classify_slides(tmp_path, config_of(seed=1), name="x")
    classify_slides(tmp_path, config_of(seed=1), name="x", force=True)
    assert len(trainings) == 2


def test_a_store_of_an_encoder_is_read_by_its_key(tmp_path: Path) -> None:
    write_cohort(tmp_path, LABELS, splits=SPLITS, key="uni2-h")
    folder = classify_slides(tmp_path, config_of())
    assert folder.name == "uni2-h-s0"
    assert len(predictions_of(folder)) == 6
    (tmp_path / "features" / "virchow2").mkdir()
    with pytest.raises(InputUnsupportedError, match="uni2-h, virchow2"):
        classify_slides(tmp_path, config_of())
    assert classify_slides(tmp_path, config_of(), features="uni2-h") == folder
    with pytest.raises(InputMissingError, match="conch"):
        classify_slides(tmp_path, config_of(), features="conch")


def test_slides_are_classified_in_a_work_folder_that_audit_made(tmp_path: Path) -> None:
    features, labels = made_cohort(tmp_path, slides=12, per_slide=6)
    table = pd.read_csv(labels)
    table["slide_label"] = table["slide_id"].str[1:].astype(int) % 2
    table.to_csv(labels, index=False)
    import_features(tmp_path / "work", features, labels)
    folder = classify_slides(tmp_path / "work", config_of(folds=3))
    results = predictions_of(folder).sort_values("slide_id")
    assert results["label"].tolist() == [0, 1] * 6
    assert results["patient_id"].tolist() == [f"P{number:02d}" for number in range(12)]


def test_feature_files_and_labels_alone_are_enough(tmp_path: Path) -> None:
    slides = write_cohort(tmp_path / "elsewhere", LABELS)
    table = slides.assign(split=SPLITS)[["slide_id", "slide_label", "split"]]
    table.to_csv(tmp_path / "labels.csv", index=False)
    files = str(tmp_path / "elsewhere-features")
    folder = classify_slides(tmp_path / "work", config_of(), features=files, labels=tmp_path / "labels.csv")
    results = read_json(folder / "results.json")
    assert results["notes"] == ["24 slides without a known patient: each counts as a patient of its own."]
    assert list(results["tissue_alone"]) == ["patches"]
    table.assign(split="", patient_id="p1").to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InputUnsupportedError, match="0 patients with slide_label 0"):
        classify_slides(tmp_path / "work", config_of(), features=files, labels=tmp_path / "labels.csv")


def test_labels_of_another_patient_than_the_groups_are_refused(tmp_path: Path, trainings: list) -> None:
    slides = write_cohort(tmp_path, LABELS, splits=SPLITS)
    write_groups(tmp_path, slides)
    columns = slides[["slide_id", "slide_label"]]
    columns.to_csv(tmp_path / "labels.csv", index=False)  # patients are those of the work folder
    classify_slides(tmp_path, config_of(), labels=tmp_path / "labels.csv")
    columns.assign(patient_id=["x", *slides["patient_id"][1:]]).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InputUnsupportedError, match="slide000 has the patient x, and patient000 in groups.parquet"):
        classify_slides(tmp_path, config_of(), labels=tmp_path / "labels.csv")


def test_slides_without_label_or_patches_are_left_out(tmp_path: Path, trainings: list) -> None:
    labels, patches = [*LABELS, -1, 1], [60] * 25 + [0]
    write_cohort(tmp_path, labels, splits=[*SPLITS, "train", "test"], patches=patches)
    folder = classify_slides(tmp_path, config_of())
    results = read_json(folder / "results.json")
    assert results["left_out"] == {"slide025": "it has no patches"}
    assert results["summary"].startswith("24 labelled slides of 24 patients, 12 positive")
    assert len(predictions_of(folder)) == 6


@pytest.mark.parametrize(
    ("labels", "folds", "kind", "message"),
    [
        ([-1] * 12, 1, InputMissingError, "no slide has a slide_label"),
        ([1] * 12, 1, GroupEmptyError, "all 12 labelled slides with features have slide_label 1"),
        ([0] * 12 + [1] * 2, 1, InputUnsupportedError, "2 patients with slide_label 1, at least 3 are needed"),
        ([0] * 12 + [1] * 3, 4, InputUnsupportedError, "3 patients with slide_label 1, at least 4 are needed"),
    ],
)
def test_too_few_labels_or_patients_are_refused_with_the_number_needed(
    labels: list[int], folds: int, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    write_cohort(tmp_path, labels)
    with pytest.raises(kind, match=message):
        classify_slides(tmp_path, config_of(folds=folds))


def test_a_split_of_one_label_is_named(tmp_path: Path) -> None:
    splits = ["train"] * 18 + ["val", "test", "val", "test", "val", "test"]
    write_cohort(tmp_path, LABELS, splits=splits)
    with pytest.raises(GroupEmptyError, match=r"slide_label 0 \[split val\]"):
        classify_slides(tmp_path, config_of())


def test_a_work_folder_without_features_is_refused(tmp_path: Path) -> None:
    write_cohort(tmp_path, LABELS)
    (tmp_path / "features.json").unlink()
    with pytest.raises(InputMissingError, match="no features"):
        classify_slides(tmp_path, config_of())


def test_features_of_other_slides_and_changed_ones_are_refused(tmp_path: Path) -> None:
    slides = write_cohort(tmp_path / "a", LABELS, splits=SPLITS)
    path = tmp_path / "a-features" / "slide003.h5"
    with h5py.File(path, "a") as file:
        file["features"][0, 0] = 5.0
    with pytest.raises(InputChangedError, match="slide003"):
        classify_slides(tmp_path / "a", config_of())
    write_cohort(tmp_path / "b", LABELS, splits=SPLITS, key="k")
    write_table(tmp_path / "b" / "slides.parquet", slides.assign(slide_id=slides["slide_id"] + "x"), Stamp(stage="m"))
    with pytest.raises(InputMissingError, match="none of 24 labelled slides has features"):
        classify_slides(tmp_path / "b", config_of())


def test_features_with_nan_are_refused_by_slide(tmp_path: Path) -> None:
    write_cohort(tmp_path, LABELS, splits=SPLITS, key="k")
    with h5py.File(tmp_path / "features" / "k" / "slide003.h5", "a") as file:
        file["features"][0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="slide003"):
        classify_slides(tmp_path, config_of())


def write_run(work: Path, groups: pd.DataFrame, name: str = "erm") -> None:
    """The evaluation of a run that predicts each patch's logit as 1 + 2 for its place 0 in a positive slide, else 0."""
    tested = groups[groups["split"] == "test"].reset_index(drop=True)
    is_positive = tested["slide_id"].str[-1].astype(int) % 2 == 1
    logit = np.where(is_positive & ~tested["slide_id"].duplicated(), 3.0, 0.0)
    folder = work / "runs" / name / "evaluation"
    stamp = Stamp(stage="evaluate", inputs={"groups": fingerprint_file(work / "groups.parquet")})
    write_table(folder / "predictions.parquet", tested.assign(logit=logit), stamp)
    write_json(folder / "metrics.json", {"decision_threshold": 1.0, "stamp": stamp.to_dict()})


def test_top_k_and_area_pool_the_test_predictions_of_a_run(tmp_path: Path, trainings: list) -> None:
    slides = write_cohort(tmp_path, LABELS, splits=SPLITS)
    write_run(tmp_path, write_groups(tmp_path, slides))
    folder = classify_slides(tmp_path, config_of(pooling=("attention", "top-k", "area"), top_k=2))
    table = predictions_of(folder).set_index(["pooling", "slide_id"])["probability"]
    below, above = 1 / (1 + np.exp(1)), 1 / (1 + np.exp(-2))  # logits of 0 and 3, less the threshold of 1
    assert table["top-k", "slide018"] == pytest.approx(below)
    assert table["top-k", "slide019"] == pytest.approx((above + below) / 2)
    assert table["area", "slide018"] == 0
    assert table["area", "slide019"] == pytest.approx(1 / 60)
    methods = {row["pooling"]: row for row in read_json(folder / "results.json")["methods"]}
    assert [methods[name]["auroc"] for name in ("attention", "top-k", "area")] == [0.5, 1.0, 1.0]
    assert methods["area"]["run"] == "erm"


def test_a_run_is_chosen_only_if_there_is_one(tmp_path: Path, trainings: list) -> None:
    slides = write_cohort(tmp_path, LABELS, splits=SPLITS)
    config = config_of(pooling=("attention", "area"))
    (note,) = read_json(classify_slides(tmp_path, config) / "results.json")["notes"]
    assert note == "No patch predictions are pooled: no run is evaluated."
    with pytest.raises(InputMissingError, match="no patch predictions to pool: no run is evaluated"):
        classify_slides(tmp_path, config_of(pooling=("area",)), name="x")
    groups = write_groups(tmp_path, slides)
    for name in ("erm", "gerne"):
        write_run(tmp_path, groups, name)
    (note,) = read_json(classify_slides(tmp_path, config, name="y") / "results.json")["notes"]
    assert note == "No patch predictions are pooled: 2 runs are evaluated, choose one by --run."
    with pytest.raises(InputMissingError, match="2 runs are evaluated"):
        classify_slides(tmp_path, config_of(pooling=("area",)), name="x")
    folder = classify_slides(tmp_path, config, run="gerne", name="z")
    assert set(predictions_of(folder)["run"]) == {"", "gerne"}
    with pytest.raises(InputMissingError, match="'other' is not evaluated"):
        classify_slides(tmp_path, config, run="other", name="z")


def test_a_run_that_predicted_no_test_slide_is_refused_before_training(tmp_path: Path, trainings: list) -> None:
    slides = write_cohort(tmp_path, LABELS, splits=SPLITS)
    groups = write_groups(tmp_path, slides)
    write_run(tmp_path, groups.assign(split=groups["split"].replace({"train": "test", "test": "train"})))
    with pytest.raises(InputMissingError, match="'erm' has predicted none of the test slides"):
        classify_slides(tmp_path, config_of(pooling=("attention", "area")))
    assert trainings == []


def test_predictions_by_other_groups_are_refused(tmp_path: Path, trainings: list) -> None:
    slides = write_cohort(tmp_path, LABELS, splits=SPLITS)
    write_run(tmp_path, write_groups(tmp_path, slides))
    write_groups(tmp_path, slides.drop(index=[0]))
    with pytest.raises(StaleArtefactError, match="groups that have been formed anew"):
        classify_slides(tmp_path, config_of(pooling=("area",)))


@pytest.mark.parametrize(("fractions", "verdict"), [((0.2, 0.8), "shortcut"), ((0.5, 0.5), "negligible")])
def test_tissue_that_tells_the_label_is_called_a_shortcut(
    fractions: tuple[float, float], verdict: str, tmp_path: Path, trainings: list
) -> None:
    write_cohort(tmp_path, LABELS, splits=SPLITS, tissue=[fractions[label] for label in LABELS])
    alone = read_json(classify_slides(tmp_path, config_of()) / "results.json")["tissue_alone"]
    for measure in ("tissue_area", "tissue_fraction"):
        assert alone[measure]["verdict"] == verdict
        assert alone[measure]["auroc"] == (1.0 if verdict == "shortcut" else 0.5)


def test_patches_are_counted_where_the_tissue_fraction_is_not_known(tmp_path: Path, trainings: list) -> None:
    sizes = [40 + 20 * label for label in LABELS]
    write_cohort(tmp_path, LABELS, splits=SPLITS, tissue=[np.nan] * 24, patches=sizes)
    alone = read_json(classify_slides(tmp_path, config_of()) / "results.json")["tissue_alone"]
    assert list(alone) == ["patches"]
    assert alone["patches"]["auroc"] == 1.0


def test_the_command_prints_one_table_and_what_tissue_tells(
    tmp_path: Path, typed: Callable[..., int], trainings: list, capsys: pytest.CaptureFixture[str]
) -> None:
    slides = write_cohort(tmp_path, LABELS, splits=SPLITS, tissue=[(0.2, 0.8)[label] for label in LABELS])
    write_run(tmp_path, write_groups(tmp_path, slides))
    assert typed("mil", tmp_path, "--pooling", "attention", "--pooling", "area", "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "24 labelled slides of 24 patients, 12 positive; features uni_v1 (16 values a patch); one split by patient"
    )
    table = [line.split() for line in lines if line.startswith(("  attention", "  area"))]
    assert [row[0] for row in table] == ["attention", "area"]
    assert table[1][1:] == ["erm", "6", "3", "6", "1.000", "[1.000,", "1.000]"]
    assert "  tissue area of the slide             AUROC 1.000 [1.000, 1.000]: SHORTCUT" in lines
    assert lines[-1] == f"results: {tmp_path / 'slide_level' / NAME}"
    assert typed("mil", tmp_path, "--folds", "2") == 1
    assert "of two folds one tests and one validates" in capsys.readouterr().err
