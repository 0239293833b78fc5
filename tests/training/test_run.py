"""A run on a work folder: what it leaves, when it is stale, and that it is resumed."""

import json
from functools import partial

import pytest
from made_patches import small_config, write_work

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import StaleArtefactError
from pathopatch.models.loading import load_model
from pathopatch.training.run import fit, settings_of

_config = partial(small_config, steps=8, evaluations=4, learning_rate=3e-3)


def test_a_run_leaves_a_model_and_is_not_done_twice(tmp_path):
    groups = write_work(tmp_path, align=(True, True, True))
    config = _config()
    folder = fit(tmp_path, config)
    assert folder == tmp_path / "runs" / "gerne-t0.25-s0"
    run = json.loads((folder / "run.json").read_text())
    model = load_model(folder / "model", device="cpu", precision="float32")
    assert (model.spec.channels, model.spec.align) == (("CARS", "SHG"), True)
    assert model.spec.decision_threshold == run["decision_threshold"]
    assert TrainConfig.model_validate_json((folder / "config.json").read_text()) == config
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert fit(tmp_path, config) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    with pytest.raises(StaleArtefactError, match="steps was 8, is 9"):
        fit(tmp_path, _config(steps=9))
    assert len(groups) == 120


def test_a_bundle_calls_its_classes_what_the_patches_call_their_labels(tmp_path):
    groups = write_work(tmp_path)
    named = groups.assign(label_name=groups["label"].map({0: "landbird", 1: "waterbird", -1: ""}))
    write_table(tmp_path / "groups.parquet", named, Stamp(stage="groups", settings={"is": "c"}))
    model = fit(tmp_path, _config()) / "model"
    assert load_model(model, device="cpu", precision="float32").spec.class_names == ("landbird", "waterbird")
    assert "waterbird or landbird" in (model / "README.md").read_text()


def test_equal_runs_leave_equal_bytes_but_for_the_log(tmp_path):
    contents = []
    for name in ("a", "b"):
        write_work(tmp_path / name)
        folder = fit(tmp_path / name, _config(steps=4))
        files = [p for p in folder.rglob("*") if p.is_file() and p.name != "log.json"]
        contents.append({str(p.relative_to(folder)): p.read_bytes() for p in files})
    assert contents[0] == contents[1]
    assert set(contents[0]) >= {"run.json", "history.csv", "config.json", "model/model.safetensors"}


def test_a_further_threshold_or_a_change_in_test_makes_no_run_stale(tmp_path):
    groups = write_work(tmp_path)
    folder = fit(tmp_path, _config(steps=2))
    changed = groups.assign(**{"attribute@0.5": 0, "group@0.5": 0})
    changed.loc[changed["split"] == "test", "label"] = 0
    changed.to_parquet(tmp_path / "groups.parquet")
    assert fit(tmp_path, _config(steps=2)) == folder
    changed.loc[changed["split"] == "train", "label"] = 0
    changed.to_parquet(tmp_path / "groups.parquet")
    with pytest.raises(StaleArtefactError, match="groups"):
        fit(tmp_path, _config(steps=2))


def test_settings_that_version_0_2_did_not_know_stand_in_no_stamp_where_they_are_unset() -> None:
    assert not {"invariance", "pooling"} & set(settings_of(TrainConfig(method="erm")))
    assert settings_of(TrainConfig(method="erm", frozen=True, invariance=1.0))["invariance"] == 1.0
