"""Tuning: equal numbers of trials, beta inside its bounds, no test patches, resumable to the same winner."""

import numpy as np
import optuna
import pandas as pd
import pytest
from made_patches import toy, write_work

from pathopatch.config import TrainConfig, TuneConfig
from pathopatch.debias import gerne
from pathopatch.errors import NonFiniteError
from pathopatch.training import run as run_module
from pathopatch.training.tune import search_arrays, search_space, trial_table, tune, winner

TRAIN = toy([[40, 8], [8, 40]], seed=0)
VAL = toy([[10, 10], [10, 10]], seed=1)
SEARCH = TuneConfig(trials=3)


def _config(**changes):
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1}
    return TrainConfig(**{**small, **changes})


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_grid_of_s_is_cut_at_the_bounds_of_beta():
    skewed = toy([[95, 5], [5, 95]], seed=0, side=8)
    pairs = search_space(skewed, _config(), TuneConfig()).extrapolation
    alpha = gerne.alpha(skewed.label, skewed.attribute)
    for c in (0.5, 1.0):
        low, high = gerne.beta_bounds(alpha, c)
        assert all(low <= beta <= high for k, beta in pairs if k == c)
        # alpha_max = .95: p_ext of the large cell is .95 - .45 s, so s may be up to 2.11 and the whole grid remains
        assert sorted(round(k * (beta + 1), 9) for k, beta in pairs if k == c) == list(TuneConfig().s_values)
    mild = toy([[50, 50], [40, 60]], seed=0, side=8)  # .6 - .1 s >= 0
    extreme = search_space(mild, _config(), TuneConfig(s_values=(1.0, 5.9, 6.1))).extrapolation
    assert [round(c * (beta + 1), 9) for c, beta in extreme] == [5.9, 5.9, 1.0, 1.0]  # last what needs no try


def test_the_grid_is_tried_from_its_middle_outwards_and_the_larger_c_first():
    skewed = toy([[40, 8], [8, 40]], seed=0)
    study = optuna.create_study(direction="maximize")
    search_arrays(skewed, VAL, _config(method="gerne", steps=1), TuneConfig(trials=6), study=study)
    table = trial_table(study)
    s = (table["c"] * (table["beta"] + 1)).round(9)
    assert list(zip(table["c"], s, strict=True)) == [(0.5, 1), (1, 0.9), (1, 1.1), (0.5, 0.9), (0.5, 1.1), (1, 0.75)]


def test_methods_without_extrapolation_search_no_beta():
    assert search_space(TRAIN, _config(method="resample"), TuneConfig()).extrapolation == ()


@pytest.mark.parametrize("name", ["erm", "gerne"])
def test_every_method_gets_the_same_number_of_trials_and_the_first_is_the_configuration(name):
    study = optuna.create_study(direction="maximize")
    settings, fitted = search_arrays(TRAIN, VAL, _config(method=name), SEARCH, study=study)
    table = trial_table(study)
    assert len(table) == 3
    assert table.loc[0, "learning_rate"] == 1e-3
    assert table["learning_rate"].nunique() == 3
    assert table["learning_rate"].between(3e-4, 3e-3).all()
    best = table[table["won"]].iloc[0]
    assert best["value"] == table["value"].max()
    assert settings.learning_rate == best["learning_rate"]
    assert fitted.step == best["step"]


def test_of_equal_values_the_higher_gba_wins_then_the_first_trial():
    study = optuna.create_study(direction="maximize")
    for value, gba in ((0.5, 0.6), (0.5, 0.7), (0.5, 0.7), (0.4, 0.9)):
        trial = study.ask()
        trial.set_user_attr("gba", gba)
        study.tell(trial, value)
    assert winner(study).number == 1


def test_a_diverged_trial_counts_and_loses_and_if_all_diverge_it_is_said():
    study = optuna.create_study(direction="maximize")
    with pytest.raises(NonFiniteError, match="every trial diverged"):
        search_arrays(
            TRAIN,
            VAL,
            _config(method="erm", optimizer="sgd", learning_rate=1e30),
            TuneConfig(trials=2, learning_rates=(1e30, 1e31)),
            study=study,
        )
    assert [trial.value for trial in study.trials] == [0.0, 0.0]


def test_a_killed_search_goes_on_to_the_same_trials_and_winner(tmp_path):
    class Killed(Exception):
        pass

    def kill(step, total, metrics):
        if step == 6:  # in the second of three trials of four steps
            raise Killed

    for name in ("a", "b"):
        write_work(tmp_path / name)
    undisturbed = tune(tmp_path / "a", _config(), SEARCH)
    with pytest.raises(Killed):
        tune(tmp_path / "b", _config(), SEARCH, progress=kill)
    steps = []
    folder = tune(tmp_path / "b", _config(), SEARCH, progress=lambda s, t, m: steps.append((s, t)))
    assert steps[0] == (5, 12)  # the first trial is not done again
    for name in ("trials.csv", "model/model.safetensors", "config.json", "run.json"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert tune(tmp_path / "b", _config(), SEARCH, progress=kill) == folder  # finished: nothing runs


def test_the_winner_is_stored_as_the_run_with_its_settings_and_test_patches_are_never_loaded(tmp_path, monkeypatch):
    loaded = []
    true_load = run_module.load_patches

    def spy(work, groups, *, splits, **rest):
        loaded.extend(splits)
        return true_load(work, groups, splits=splits, **rest)

    monkeypatch.setattr(run_module, "load_patches", spy)
    write_work(tmp_path)
    folder = tune(tmp_path, _config(), SEARCH)
    assert loaded == ["train", "val"]
    table = pd.read_csv(folder / "trials.csv")
    best = table[table["won"]].iloc[0]
    stored = TrainConfig.model_validate_json((folder / "config.json").read_text())
    assert np.isclose(stored.learning_rate, best["learning_rate"])
    assert np.isclose(stored.beta, best["beta"])
