"""Tuning as a stage: resumable, the winner stored once, no test patches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fresh_process import FRESH
from made_patches import small_config, write_work
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.files import read_json
from pathopatch.training import run as run_module
from pathopatch.training.tune import tune

tune_module: Any = sys.modules[tune.__module__]  # the package has a function of the same name
SEARCH = TuneConfig(trials=3)
SAME = ("trials.csv", "search.json", "model/model.safetensors", "config.json", "history.csv", "run.json")


class Killed(Exception):
    pass


def test_a_killed_search_goes_on_to_the_same_trials_and_winner(tmp_path: Path) -> None:
    def kill(step: int, total: int, metrics: dict[str, float]) -> None:
        if step == 7:  # in the second of three trials of four steps
            raise Killed

    for name in ("a", "b"):
        write_work(tmp_path / name)
    undisturbed = tune(tmp_path / "a", small_config(), SEARCH)
    with pytest.raises(Killed):
        tune(tmp_path / "b", small_config(), SEARCH, progress=kill)
    steps: list[tuple[int, int]] = []
    folder = tune(tmp_path / "b", small_config(), SEARCH, progress=lambda s, t, m: steps.append((s, t)))
    assert steps[0] == (7, 12)  # the first trial is not done again, the second goes on after its last evaluation
    for name in SAME:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    (folder / "search" / "trial-1").mkdir()  # as of a search that was killed behind its run.json
    assert tune(tmp_path / "b", small_config(), SEARCH, progress=kill) == folder  # finished: nothing runs
    assert not [*folder.rglob("checkpoint*"), *folder.rglob("trial-*")]


def test_a_winner_found_before_the_interruption_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_late(step: int, total: int, metrics: dict[str, float]) -> None:
        if step == 12:
            raise Killed

    write_work(tmp_path)
    with pytest.raises(Killed):
        tune(tmp_path, small_config(), SEARCH, progress=kill_late)
    steps: list[int] = []
    true_fit = tune_module.fit_arrays

    def counted(train: Any, val: Any, config: Any, *, checkpoints: Any, progress: Any = None) -> Any:
        return true_fit(train, val, config, checkpoints=checkpoints, progress=lambda step, *_: steps.append(step))

    monkeypatch.setattr(tune_module, "fit_arrays", counted)
    folder = tune(tmp_path, small_config(), SEARCH)
    assert steps == []  # the last trial had reached its last evaluation, and the winner's weights are on disk
    assert read_json(folder / "search.json")["steps"] == 12


def test_the_winner_is_stored_as_the_run_and_test_is_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    true_load = run_module.load_patches

    def spy(work: Path, groups: pd.DataFrame, *, splits: tuple[str, ...], **rest: Any) -> Any:
        loaded.extend(splits)
        return true_load(work, groups, splits=splits, **rest)

    monkeypatch.setattr(run_module, "load_patches", spy)
    write_work(tmp_path)
    folder = tune(tmp_path, small_config(), SEARCH)
    assert loaded == ["train", "val"]
    table = pd.read_csv(folder / "trials.csv")
    best = table[table["won"]].iloc[0]
    stored = TrainConfig.model_validate_json((folder / "config.json").read_text())
    assert np.isclose(stored.learning_rate, best["learning_rate"])
    assert np.isclose(stored.gerne.beta, best["beta"])
    assert read_json(folder / "search.json") == {
        "diverged": 0, "objective": "wga", "offered": "3 trials", "steps": 12, "steps_each": 4,
        "trials": 3,
    }  # fmt: skip


def search_in_process(work: Path) -> None:
    tune(work, small_config(), SEARCH)


@pytest.mark.slow
def test_a_second_process_waits_and_finds_the_search_done(tmp_path: Path) -> None:
    write_work(tmp_path)
    processes = [FRESH.Process(target=search_in_process, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    journals = list(tmp_path.glob("runs/*/search/trials.journal"))
    lines = [json.loads(line) for line in journals[0].read_text().splitlines()]
    assert sum("value" in line or "values" in line for line in lines) == SEARCH.trials


@pytest.mark.slow
def test_the_command_says_what_it_takes_and_takes_its_objective(tmp_path: Path) -> None:
    write_work(tmp_path)
    (tmp_path / "s.toml").write_text(
        'manifest = "m.csv"\nwork = "."\n[train]\ninput_px = 16\nsteps = 4\nbatch_per_class = 4\nevaluations = 2\n'
        "threads = 1\n[tune]\ntrials = 4\n"
    )
    command = ["train", str(tmp_path), "--config", str(tmp_path / "s.toml")]
    done = CliRunner().invoke(app, [*command, "--objective", "gba"])
    assert done.exit_code == 0, done.output
    assert "search: 4 trials for 1 run, 16 steps in all" in done.stderr
    folder = tmp_path / "runs" / "auto-t0.25-s0-masked"
    assert read_json(folder / "search.json")["objective"] == "gba"
    assert len(pd.read_csv(folder / "trials.csv")) == 4
