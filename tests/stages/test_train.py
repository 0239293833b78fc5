"""Several runs side by side."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from made_patches import small_config, write_work
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.artefacts import Stamp, read_table, write_table
from pathopatch.core.config import EvaluateConfig, TrainConfig
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import write_json
from pathopatch.core.workers import Workers
from pathopatch.stages import train as train_stage
from pathopatch.stages.evaluate import evaluate_runs
from pathopatch.stages.train import check_networks, keep_to_one_thread, recommended, train_many
from pathopatch.training.group_checks import runs_with_groups


def test_who_says_nothing_gets_a_frozen_network_whose_head_is_chosen(tmp_path: Path) -> None:
    write_work(tmp_path)
    chosen, text = recommended(tmp_path, TrainConfig(threshold=0.5, seed=3))
    assert (chosen.frozen, chosen.choose, chosen.threshold) == (True, True, 0.5)
    assert chosen.run_name == "chosen-t0.5-s3"
    assert text.startswith("train: tf_efficientnet_lite0, frozen; validation chooses")
    assert "frozen; masked erm or crops, without validation" in recommended(tmp_path, TrainConfig(select="last"))[1]
    for own in ({"method": "gerne"}, {"mask": "none"}, {"gerne": {"c": 1.0}}, {"frozen": True}):
        assert recommended(tmp_path, small_config(**own)) == (small_config(**own), "")
    groups = read_table(tmp_path / "groups.parquet").assign(attribute="scanner")
    write_table(tmp_path / "groups.parquet", groups, Stamp(stage="groups"))
    of_scanner, text = recommended(tmp_path, TrainConfig())
    assert (of_scanner.frozen, of_scanner.choose, of_scanner.method) == (True, False, "gerne")
    assert "frozen; gerne" in text
    assert recommended(tmp_path, small_config()) == (small_config(), "")  # composing would vary the tissue


@pytest.mark.parametrize(
    ("given", "mask"), [({"steps": 4}, "normalise"), ({"steps": 4, "architecture": "resnet18"}, "none")]
)
def test_settings_of_steps_get_composed_patches(tmp_path: Path, given: dict[str, Any], mask: str) -> None:
    write_work(tmp_path)
    chosen, text = recommended(tmp_path, TrainConfig(**given))
    assert (chosen.method, chosen.mask, chosen.steps, chosen.frozen) == ("auto", mask, 4, False)
    assert text == f"train: {chosen.architecture} by auto, mask {mask}"


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"architecture": "resnet18", "mask": "normalise", "row_name": "mine"}, r"row 'mine', \[train\] mask"),
        ({"architecture": "resnet-18"}, r"row 'erm', \[train\] architecture"),
        ({"timm_args": {"depth": 3}}, r"row 'erm', \[train\] timm_args"),
    ],
)
def test_what_a_row_cannot_be_is_refused_before_any_trains(settings: dict[str, Any], place: str) -> None:
    with pytest.raises(InputUnsupportedError, match=place):
        check_networks([small_config(), small_config(method="erm", **settings)])


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path, jobs: int) -> None:
    write_work(tmp_path)
    bad = small_config(method="resample", mean=(0.5,) * 9, std=(0.1,) * 9)
    good = small_config(method="erm")
    with Workers(jobs) if jobs > 1 else nullcontext() as processes:
        errors = train_many(tmp_path, [bad, good], None, processes=processes)
    assert {run: error.code for run, error in errors.items()} == {bad.run_name: "CHANNEL_MISMATCH"}
    assert (tmp_path / "runs" / good.run_name / "run.json").is_file()


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"gerne": {"beta": 900.0}}, "BETA_OUT_OF_BOUNDS"), ({"batch_per_class": 5}, "INPUT_UNSUPPORTED")],
)
def test_what_the_sampler_refuses_is_refused_before_any_run_trains(
    tmp_path: Path, settings: dict[str, Any], code: str
) -> None:
    write_work(tmp_path)
    runs = [small_config(method="gerne", **settings), small_config(method="erm")]
    left, refused = runs_with_groups([tmp_path], runs)
    assert [run.method for run in left] == ["erm"]
    assert [error.code for error in refused.values()] == [code]


def _threads(_: int) -> list[int]:
    import torch
    from threadpoolctl import threadpool_info

    return [torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())]


@pytest.mark.slow
def test_processes_that_train_side_by_side_have_one_thread_each() -> None:
    with Workers(1, prepare=keep_to_one_thread) as processes:
        ((_, threads),) = processes.run(_threads, [0])
    assert set(threads) == {1}
    assert len(threads) > 2


def test_progress_in_a_fold_names_the_fold(tmp_path: Path) -> None:
    fold = tmp_path / "folds" / "2"
    write_work(fold)
    shown: list[str] = []
    train_many(fold, [small_config(method="erm")], None, progress=lambda *words: shown.append(words[0]))
    assert set(shown) == {"train fold 2 erm-t0.25-s0"}


@pytest.mark.slow
def test_runs_side_by_side_equal_runs_one_by_one_and_an_error_comes_last(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_work(tmp_path / name)
    configs = [small_config(method=method) for method in ("erm", "resample")]
    shown: list[tuple[str, int, int, str]] = []
    assert train_many(tmp_path / "a", configs, None) == {}
    with Workers(2) as processes:
        side_by_side = partial(train_many, tmp_path / "b", search=None, processes=processes)
        assert side_by_side(configs, progress=lambda *words: shown.append(words)) == {}
        # The first of the two is stale: the second is trained nevertheless.
        longer = [small_config(method="erm", steps=5), small_config(method="groupdro")]
        with pytest.raises(StaleArtefactError, match="steps was 4, is 5"):
            side_by_side(longer)
    for config in configs:
        before, after = (tmp_path / name / "runs" / config.run_name for name in "ab")
        assert (before / "model/model.safetensors").read_bytes() == (after / "model/model.safetensors").read_bytes()
    assert sorted(words[:3] for words in shown) == [("train", 0, 2), ("train", 1, 2), ("train", 2, 2)]
    assert (tmp_path / "b" / "runs" / longer[1].run_name / "run.json").is_file()


@pytest.mark.parametrize(
    ("typed", "exit_code", "text"),
    [
        (("--trials", "4"), 1, "a head of a frozen network is solved exactly"),
        (("--frozen", "--choose", "--mask", "none"), 2, "--mask: validation chooses it"),
    ],
)
def test_options_that_an_exact_head_cannot_follow_are_refused(
    tmp_path: Path, typed: tuple[str, ...], exit_code: int, text: str
) -> None:
    write_work(tmp_path)
    done = CliRunner().invoke(app, ["train", str(tmp_path), *typed])
    assert (done.exit_code, text in f"{done.stderr}{done.exception}") == (exit_code, True)
    assert not (tmp_path / "runs").exists()


def test_evaluate_repeats_what_the_study_of_the_work_folder_did(tmp_path: Path) -> None:
    write_work(tmp_path)
    assert not train_many(tmp_path, [small_config(method="erm")], None)
    stated = {"bootstrap": 20, "ablation": False}
    evaluate_runs(tmp_path, None, EvaluateConfig(**stated))
    write_json(tmp_path / "study.json", {"evaluate": stated})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".csv", ".json")}
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path), "--quiet"])
    assert done.exit_code == 0, done.exception
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "other.toml").write_text("[evaluate]\nbootstrap = 10\n")
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path), "--config", str(tmp_path / "other.toml")])
    assert "bootstrap was 20, is 10" in str(done.exception)


def test_choose_is_refused_where_the_groups_are_not_of_tissue(tmp_path: Path) -> None:
    write_work(tmp_path)
    groups = read_table(tmp_path / "groups.parquet").assign(attribute="scanner")
    write_table(tmp_path / "groups.parquet", groups, Stamp(stage="groups"))
    chosen = TrainConfig(frozen=True, choose=True, method="erm", name="chosen")
    runs, refused = runs_with_groups([tmp_path], [small_config(method="erm"), chosen])
    assert [run.run_name for run in runs] == [small_config(method="erm").run_name]
    assert "heads that see tissue alone" in str(refused[chosen.run_name])


def test_rows_that_need_other_features_begin_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(train_stage, "_train", lambda work, search, force, config, progress: begun.append(config.name))
    rows = [("a", "erm", "none"), ("b", "resample", "none"), ("c", "erm", "normalise"), ("d", "groupdro", "none")]
    configs = [small_config(frozen=True, name=name, method=method, mask=mask) for name, method, mask in rows]
    with Workers(0) as here:
        train_many(tmp_path, configs, None, processes=here)
    assert begun == ["a", "c", "b", "d"]
