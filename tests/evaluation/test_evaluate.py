"""A run's evaluation on disk: made of its model and the groups, kept when current, refused when stale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.artefacts import Stamp, fingerprint_file, read_stamp, read_table, write_table
from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import read_json, write_bytes
from pathopatch.evaluation import evaluate, predicting
from pathopatch.evaluation.evaluate import evaluate_predictions, evaluate_run
from pathopatch.evaluation.predicting import with_inner_folds

QUICK = EvaluateConfig(bootstrap=20)


def groups_table() -> pd.DataFrame:
    """Three splits of eight patches, two of each group, and in test an unlabelled and a blank one."""
    group = np.repeat(np.arange(4), 2)
    parts = []
    for split in ("train", "val", "test"):
        part = pd.DataFrame({"label": group // 2, "tissue_fraction": np.where(group % 2, 0.8, 0.2), "group@0.5": group})
        if split == "test":
            odd = pd.DataFrame({"label": [-1, 0], "tissue_fraction": [0.6, 0.0], "group@0.5": [-1, -1]})
            part = pd.concat([part, odd], ignore_index=True)
        part["patch_id"] = [f"{split}@{index},0" for index in range(len(part))]
        part["slide_id"] = part["patient_id"] = [f"{split}-{index % 2}" for index in range(len(part))]
        parts.append(part.assign(split=split))
    return pd.concat(parts, ignore_index=True)


@dataclass
class FakePatches:
    """Patches whose one pixel is the tissue fraction, in reverse order to show that rows join by id."""

    patch_id: np.ndarray
    pixel: np.ndarray
    tissue = None

    @property
    def tissue_fraction(self) -> np.ndarray:
        return self.pixel

    def __len__(self) -> int:
        return len(self.pixel)

    def read(self, index: Any) -> np.ndarray:
        return self.pixel[index].reshape(-1, 1, 1, 1).astype(np.float32)


class FakeModel:
    """Says tumour where the pixel is above one half: the shortcut in its purest form."""

    spec = SimpleNamespace(
        backbone=None,
        encoder=None,
        input_px=1,
        temperature=2.0,
        decision_threshold=0.0,
        channels=("SHG",),
        mean=(0.5,),
        training={},
        mask="none",
        crop_px=None,
    )
    calls = 0

    def predict_logits(self, batch: np.ndarray, tissue: None) -> np.ndarray:
        FakeModel.calls += 1
        margin = 4 * (batch[:, 0, 0, 0] - 0.5)
        return np.stack([np.ones_like(margin), 1 + margin], axis=1)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_table(tmp_path / "groups.parquet", groups_table(), Stamp(stage="groups"))
    write_bytes(tmp_path / "runs" / "erm" / "model" / "config.json", b"{}")

    def load_patches(
        _work: Path, rows: pd.DataFrame, *, splits: tuple[str, ...], masks: tuple[str, ...], **how: float
    ) -> FakePatches:
        assert how == {"input_px": 1, "cache_gib": 1.5}
        backwards = rows[rows["split"].isin(splits)].iloc[::-1]
        return FakePatches(backwards["patch_id"].to_numpy(), backwards["tissue_fraction"].to_numpy())

    monkeypatch.setattr(predicting, "load_patches", load_patches)
    monkeypatch.setattr(predicting, "load_model", lambda folder, **_: FakeModel())
    monkeypatch.setattr(evaluate, "bundle_fingerprint", lambda folders: fingerprint_file(folders[0]))
    return tmp_path


def test_a_model_of_tissue_alone_is_right_only_where_the_shortcut_holds(work: Path) -> None:
    out = evaluate_run(work, "erm", config=QUICK)
    judged = read_json(out / "metrics.json")["splits"]["test"]["thresholds"]["0.5"]
    assert [row["accuracy"] for row in judged["groups"]] == [1, 0, 0, 1]
    assert judged["wga"]["value"] == 0
    assert judged["auroc"]["value"] == pytest.approx(0.5)


def test_predictions_hold_only_labelled_patches_with_tissue_and_join_by_id(work: Path) -> None:
    table = read_table(evaluate_run(work, "erm", config=QUICK) / "predictions.parquet")
    assert len(table) == 16
    assert set(table["split"]) == {"val", "test"}
    assert table["logit"].to_numpy() == pytest.approx(4 * (table["tissue_fraction"] - 0.5).to_numpy(), abs=1e-6)
    assert table["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-table["logit"] / 2)).to_numpy())


def test_a_model_of_tissue_alone_is_at_chance_at_equal_area(work: Path) -> None:
    content = read_json(evaluate_run(work, "erm", config=QUICK) / "metrics.json")["splits"]["test"]
    at_equal_area = content["equal_area"]
    # Patches hold 0.2 or 0.8 of tissue, two of each label: 4 pairs at either area, all of them tied.
    assert [at_equal_area[name] for name in ("value", "even", "floor", "pairs", "partnered")] == [0.5, 0.5, 0.5, 8, 1]
    assert at_equal_area["empty_tenths"] == ["0 to 0.1", "0.1 to 0.2", *(f"0.{t} to 0.{t + 1}" for t in range(3, 8)),
        "0.9 to 1"]  # fmt: skip
    assert (at_equal_area["low"], at_equal_area["high"]) == (None, None)  # of too few patients
    assert content["left_out"] == [1, 0]  # the blank one; the unlabelled one is of neither label


def test_pooled_folds_make_pairs_within_a_fold_only() -> None:
    groups = groups_table()
    table = groups[(groups["split"] == "val")].assign(logit=lambda rows: rows["label"] + 0.0, probability=0.5)
    # In the second fold all answers are 10 higher: its non-tumour patches would win over tumour of the first.
    folds = table.assign(fold=np.arange(8) % 2 + 1, logit=table["logit"] + 10 * (np.arange(8) % 2), threshold=0.0)
    content = evaluate_predictions(folds, groups.assign(fold=1), decision_threshold=0.0, config=QUICK)["splits"]["val"]
    assert (content["equal_area"]["value"], content["equal_area"]["pairs"]) == (1, 4)
    assert content["left_out"] == [1, 0]  # of all patches, each of which validates in one fold
    together = folds.drop(columns="fold")
    at_once = evaluate_predictions(together, groups, decision_threshold=0.0, config=QUICK)["splits"]["val"]
    assert (at_once["equal_area"]["value"], at_once["equal_area"]["pairs"]) == (0.75, 8)


def test_wga_at_zero_of_pooled_folds_is_of_the_models_own_logits() -> None:
    groups = groups_table()
    table = groups[groups["split"] == "val"].assign(fold=1, threshold=-2.0, probability=0.5)
    # Own logits of -1 and 0.5 are right at 0. Less the threshold they are 1 and 2.5, and non-tumour is called tumour.
    pooled = table.assign(logit=np.where(table["label"] == 1, 0.5, -1.0) - table["threshold"])
    content = evaluate_predictions(pooled, groups.assign(fold=1), decision_threshold=0.0, config=QUICK)["splits"]["val"]
    scores = content["thresholds"]["0.5"]
    assert (scores["wga"]["value"], scores["wga_at_zero"]) == (0, 1)


def test_all_patches_together_are_those_of_every_split() -> None:
    groups = groups_table()
    table = groups[groups["group@0.5"] >= 0].assign(split="all", logit=1.0, probability=0.5)
    content = evaluate_predictions(table, groups, decision_threshold=0.0, config=QUICK)["splits"]["all"]
    assert content["thresholds"]["0.5"]["n"] == 24
    assert content["left_out"] == [1, 0]  # the blank one of test


def test_a_current_evaluation_is_left_alone_and_a_stale_one_needs_force(work: Path) -> None:
    out = evaluate_run(work, "erm", config=QUICK)
    before = FakeModel.calls
    assert evaluate_run(work, "erm", config=QUICK) == out
    assert FakeModel.calls == before
    with pytest.raises(StaleArtefactError, match="bootstrap was 20, is 21"):
        evaluate_run(work, "erm", config=EvaluateConfig(bootstrap=21))
    evaluate_run(work, "erm", config=EvaluateConfig(bootstrap=21), force=True)
    write_bytes(work / "runs" / "erm" / "model" / "config.json", b"{ }")
    with pytest.raises(StaleArtefactError, match="'model' differs"):
        evaluate_run(work, "erm", config=EvaluateConfig(bootstrap=21))


def test_table_and_numbers_carry_one_stamp_and_equal_bytes_when_redone(work: Path) -> None:
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (work / "runs" / "erm" / "evaluation").iterdir()}

    out = evaluate_run(work, "erm", config=QUICK)
    assert read_stamp(out / "predictions.parquet") == read_stamp(out / "metrics.json")
    first = content()
    evaluate_run(work, "erm", config=EvaluateConfig(bootstrap=21), force=True)
    evaluate_run(work, "erm", config=QUICK, force=True)
    assert content() == first


def test_a_split_without_labelled_patches_is_left_out_and_none_is_an_error(work: Path) -> None:
    out = evaluate_run(work, "erm", config=QUICK, splits=("test", "holdout"))
    assert list(read_json(out / "metrics.json")["splits"]) == ["test"]
    with pytest.raises(InputMissingError, match="no labelled patch"):
        evaluate_run(work, "erm", config=QUICK, splits=("holdout",), force=True)


def test_predictions_of_unknown_patches_are_refused() -> None:
    groups = groups_table()
    table = groups[groups["split"] == "val"].assign(logit=1.0, probability=0.7, patch_id="other@0,0")
    with pytest.raises(InputUnsupportedError, match="'other@0,0'"):
        evaluate_predictions(table, groups, decision_threshold=0.0)


def test_patches_of_inner_folds_keep_the_answer_of_a_head_without_them(tmp_path: Path) -> None:
    predictions = pd.DataFrame({"patch_id": ["a", "b"], "logit": [5.0, 3.0], "probability": [0.99, 0.95]})
    assert with_inner_folds(tmp_path, predictions, temperature=2.0) is predictions
    (tmp_path / "inner_folds.csv").write_text("patch_id,logit\na,-2.0\nc,9.0\n", encoding="utf-8")
    made = with_inner_folds(tmp_path, predictions, temperature=2.0)
    assert made["logit"].tolist() == [-2.0, 3.0]
    np.testing.assert_allclose(made["probability"], [1 / (1 + np.exp(1)), 1 / (1 + np.exp(-1.5))])
