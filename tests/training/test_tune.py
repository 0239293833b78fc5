"""Tuning as a stage: resumable, shared by processes, the winner stored once, no test patches."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fresh_process import FRESH
from made_patches import write_work
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.files import read_json
from pathopatch.training import run as run_module
from pathopatch.training.tune import tune

tune_module: Any = sys.modules[tune.__module__]  # the package has a function of the same name
SEARCH = TuneConfig(trials=3)
SAME = ("trials.csv", "search.json", "model/model.safetensors", "config.json", "history.csv", "run.json")


def config_of(**changes: Any) -> TrainConfig:
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1}
    return TrainConfig(**{**small, **changes})


class Killed(Exception):
    pass


def test_a_killed_search_goes_on_to_the_same_trials_and_winner(tmp_path: Path) -> None:
    def kill(step: int, total: int, metrics: dict[str, float]) -> None:
        if step == 7:  # in the second of three trials of four steps
            raise Killed

    for name in ("a", "b"):
        write_work(tmp_path / name)
    undisturbed = tune(tmp_path / "a", config_of(), SEARCH)
    with pytest.raises(Killed):
        tune(tmp_path / "b", config_of(), SEARCH, progress=kill)
    steps: list[tuple[int, int]] = []
    folder = tune(tmp_path / "b", config_of(), SEARCH, progress=lambda s, t, m: steps.append((s, t)))
    assert steps[0] == (7, 12)  # the first trial is not done again, the second goes on after its last evaluation
    for name in SAME:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert tune(tmp_path / "b", config_of(), SEARCH, progress=kill) == folder  # finished: nothing runs
    assert not list(folder.rglob("checkpoint*"))


def test_a_winner_found_before_the_interruption_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_late(step: int, total: int, metrics: dict[str, float]) -> None:
        if step == 12:
            raise Killed

    write_work(tmp_path)
    with pytest.raises(Killed):
        tune(tmp_path, config_of(), SEARCH, progress=kill_late)
    steps: list[int] = []
    true_fit = tune_module.fit_arrays

    def counted(train: Any, val: Any, config: Any, *, checkpoints: Any, progress: Any = None) -> Any:
        return true_fit(train, val, config, checkpoints=checkpoints, progress=lambda step, *_: steps.append(step))

    monkeypatch.setattr(tune_module, "fit_arrays", counted)
    folder = tune(tmp_path, config_of(), SEARCH)
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
    folder = tune(tmp_path, config_of(), SEARCH)
    assert loaded == ["train", "val"]
    table = pd.read_csv(folder / "trials.csv")
    best = table[table["won"]].iloc[0]
    stored = TrainConfig.model_validate_json((folder / "config.json").read_text())
    assert np.isclose(stored.learning_rate, best["learning_rate"])
    assert np.isclose(stored.beta, best["beta"])
    assert read_json(folder / "search.json") == {
        "diverged": 0, "objective": "wga", "offered": "3 trials", "steps": 12, "steps_each": 4,
        "trials": 3,
    }  # fmt: skip


def work_on(work: Path, search: TuneConfig, log: Path, go: Path, dies: bool) -> None:
    """Tune as one of several processes; note the start and the end of each trial; maybe die in the first."""
    true_fit = tune_module.fit_arrays

    def noted(train: Any, val: Any, config: TrainConfig, *, checkpoints: Any, progress: Any = None) -> Any:
        def slow(*_: Any) -> None:
            time.sleep(0.03)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)

        if progress is None:  # the winner, read from its checkpoint
            return true_fit(train, val, config, checkpoints=checkpoints, progress=None)
        with log.open("a") as stream:
            stream.write(f"start {checkpoints.folder.name}\n")
        fitted = true_fit(train, val, config, checkpoints=checkpoints, progress=slow)
        with log.open("a") as stream:
            stream.write(f"end {checkpoints.folder.name}\n")
        return fitted

    tune_module.fit_arrays = noted
    (go.parent / f"ready-{os.getpid()}").touch()
    while not go.exists():
        time.sleep(0.01)
    tune(work, config_of(), search)


@pytest.mark.slow
def test_four_processes_find_what_one_finds_though_one_is_killed(tmp_path: Path) -> None:
    search = TuneConfig(trials=10)
    for name in ("one", "four"):
        write_work(tmp_path / name)
    log, go = tmp_path / "log", tmp_path / "go"
    processes = [
        FRESH.Process(target=work_on, args=(tmp_path / "four", search, log, go, number == 0)) for number in range(4)
    ]
    for process in processes:
        process.start()
    while len(list(tmp_path.glob("ready-*"))) < 4:
        time.sleep(0.01)
    go.touch()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0, 0]
    lines = log.read_text().splitlines()
    trials = sorted(f"trial-{number}" for number in range(10))
    assert sorted(line.split()[1] for line in lines if line.startswith("end")) == trials
    starts = [line.split()[1] for line in lines if line.startswith("start")]
    assert len(starts) == 11  # that of the killed process began twice
    assert set(starts) == set(trials)
    alone = tune(tmp_path / "one", config_of(), search)
    for name in SAME:
        assert (tmp_path / "four" / alone.relative_to(tmp_path / "one") / name).read_bytes() == (
            alone / name
        ).read_bytes(), name


@pytest.mark.slow
def test_the_command_says_what_it_takes_and_works_with_two_processes(tmp_path: Path) -> None:
    write_work(tmp_path)
    (tmp_path / "s.toml").write_text(
        'manifest = "m.csv"\nwork = "."\n[train]\ninput_px = 16\nsteps = 4\nbatch_per_class = 4\nevaluations = 2\n'
        "threads = 1\n"
    )
    command = ["train", str(tmp_path), "--config", str(tmp_path / "s.toml")]
    done = CliRunner().invoke(app, [*command, "--trials", "4", "--workers", "2", "--objective", "gba"])
    assert done.exit_code == 0, done.output
    assert "search: 4 trials for 1 run, 16 steps in all" in done.stderr
    folder = tmp_path / "runs" / "auto-t0.25-s0-masked"
    assert read_json(folder / "search.json")["objective"] == "gba"
    assert len(pd.read_csv(folder / "trials.csv")) == 4
