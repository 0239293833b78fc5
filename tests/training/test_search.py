"""Search space and winner of trials: equal numbers, beta inside its bounds."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import pytest
from made_patches import small_config, toy
from optuna.trial import FrozenTrial, create_trial

from pathopatch.core.config import TrainConfig, TuneConfig, parse
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.debias import gerne
from pathopatch.debias.methods import NAMES
from pathopatch.training.result import TrainingResult
from pathopatch.training.search import (
    SearchSpace,
    ask_trial,
    finished_trials,
    open_study,
    record_trial,
    search_space,
    search_text,
    trial_folder,
    trial_table,
    winning_trial,
)
from pathopatch.training.tune import TrialRunner

tune_module = sys.modules[TrialRunner.__module__]  # the package has a function of the same name
TRAIN = toy([[40, 8], [8, 40]], seed=0)
VAL = toy([[10, 10], [10, 10]], seed=1)
SEARCH = TuneConfig(trials=3)


def search_arrays(
    train: Any, val: Any, config: TrainConfig, search: TuneConfig, *, study: Any = None, progress: Any = None
) -> tuple[TrainConfig, TrainingResult]:
    """Search on loaded patches; return the winning settings and their result."""
    study = study or optuna.create_study(direction="maximize")
    with TemporaryDirectory() as folder:
        trials = TrialRunner(train, val, config, search, study=study, folder=Path(folder), progress=progress)
        trials.run_all()
        return trials.winner()


def done(number: int, value: float, *, gba: float = 0.5) -> FrozenTrial:
    attributes = {"trial": number, "settings": {}, "gba": gba, "likelihood": -0.5, "steps": 4}
    return create_trial(value=value, user_attrs=attributes)


def pairs_of(space: SearchSpace) -> list[tuple[float, float]]:
    return [(point["c"], round(point["c"] * (point["beta"] + 1), 9)) for point in space.grid]


def test_the_bound_of_beta_takes_the_place_of_a_larger_s() -> None:
    skewed = toy([[95, 5], [5, 95]], seed=0, side=8)
    space = search_space([skewed], small_config(), TuneConfig())
    alpha = gerne.alpha(skewed.label, skewed.attribute)
    for c in (0.5, 1.0):
        low, high = gerne.beta_bounds(alpha, c)
        assert all(low <= point["beta"] <= high for point in space.grid if point["c"] == c)
        # alpha_max = .95: p_ext of the large cell is .95 - .45 s, so s may be up to 2.11 and the whole grid remains
        assert sorted(s for k, s in pairs_of(space) if k == c) == [s for s in TuneConfig().s_values if s >= c]
    mild = toy([[50, 50], [40, 60]], seed=0, side=8)  # .6 - .1 s >= 0
    with pytest.warns(UserWarning, match=r"s = 6\.1, 7 is beyond .* largest, 6, is tried"):
        extreme = search_space([mild], small_config(), TuneConfig(s_values=(1.0, 5.9, 6.1, 7.0)))
    assert [s for _, s in pairs_of(extreme)] == [5.9, 5.9, 6.0, 6.0, 1.0, 1.0]  # last what needs no try
    assert extreme.largest_s == pytest.approx(6.0)


def test_the_grid_is_tried_from_its_middle_outwards_and_the_larger_c_first() -> None:
    study = optuna.create_study(direction="maximize")
    search_arrays(TRAIN, VAL, small_config(method="gerne", steps=1), TuneConfig(trials=6), study=study)
    table = trial_table(study)
    assert np.allclose(table["s"], table["c"] * (table["beta"] + 1))
    tried = list(zip(table["c"], table["s"].round(9), strict=True))
    assert tried == [(0.5, 1), (1, 1.1), (0.5, 0.9), (0.5, 1.1), (1, 1.25), (0.5, 0.75)]


def test_a_method_searches_what_it_declares_and_nothing_else() -> None:
    for name in ("erm", "resample", "auto"):
        space = search_space([TRAIN], small_config(method=name), TuneConfig())
        assert (space.grid, list(space.ranges)) == ((), ["learning_rate", "weight_decay"])
    # alpha of the groups is .83: p_ext allows s up to 2.5
    wide = TuneConfig(s_values=(1.0, 2.0, 2.2), c_values=(1.0,))
    assert pairs_of(search_space([TRAIN], small_config(), wide)) == [(1.0, 2.0), (1.0, 2.2), (1.0, 1.0)]


@pytest.mark.parametrize("name", ["erm", "gerne"])
def test_methods_get_equal_trials_and_the_first_is_the_configuration(name: str) -> None:
    study = optuna.create_study(direction="maximize")
    settings, fitted = search_arrays(TRAIN, VAL, small_config(method=name), SEARCH, study=study)
    table = trial_table(study)
    assert len(table) == 3
    assert table.loc[0, "learning_rate"] == 1e-3
    assert table["learning_rate"].nunique() == 3
    assert table["learning_rate"].between(3e-4, 3e-3).all()
    best = table[table["won"]].iloc[0]
    assert best["value"] == table["value"].max()
    assert settings.learning_rate == best["learning_rate"]
    assert fitted.step == best["step"]
    assert table["wga"].tolist() == table["value"].tolist()
    assert (table["wga_low"] <= table["wga"]).all()
    assert (table["wga"] <= table["wga_high"]).all()
    assert (best["wga"], best["wga_at_zero"]) == (fitted.validation["wga"], fitted.validation["wga_at_zero"])


def test_a_trial_is_a_function_of_its_number_and_of_earlier_trials() -> None:
    space, earlier = search_space([TRAIN], small_config(), SEARCH), [done(number, number / 10) for number in range(6)]
    for number in (3, 6):
        first, again = (ask_trial(number, earlier[:number], small_config(), SEARCH, space)[1] for _ in range(2))
        assert first == again


def test_of_equal_values_the_higher_gba_wins_then_the_first_trial() -> None:
    study = optuna.create_study(direction="maximize")
    for number, (value, gba) in enumerate(((0.5, 0.6), (0.5, 0.7), (0.5, 0.7), (0.4, 0.9))):
        study.add_trial(done(number, value, gba=gba))
    assert winning_trial(study).user_attrs["trial"] == 1


def test_a_diverged_trial_counts_and_loses_and_all_diverged_are_an_error() -> None:
    study = optuna.create_study(direction="maximize")
    with pytest.raises(NonFiniteError, match="every trial diverged"):
        search_arrays(
            TRAIN,
            VAL,
            small_config(method="erm", optimizer="sgd", learning_rate=1e30),
            TuneConfig(trials=2, learning_rates=(1e30, 1e31)),
            study=study,
        )
    assert [trial.value for trial in study.trials] == [0.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_can_be_searched_and_its_steps_are_counted(name: str) -> None:
    study = optuna.create_study(direction="maximize")
    config, search = small_config(method=name), TuneConfig(trials=2)
    steps: list[int] = []
    search_arrays(TRAIN, VAL, config, search, study=study, progress=lambda step, total, _: steps.append(total))
    table = trial_table(study)
    assert set(table["state"]) == {"complete"}
    assert set(steps) == {table["steps"].sum()}
    assert table["steps"].tolist() == [config.steps] * 2


def test_without_known_attributes_the_worst_class_is_measured() -> None:
    unknown = np.full(len(TRAIN), -1), np.full(len(VAL), -1)
    train, val = TRAIN.with_attribute(unknown[0]), VAL.with_attribute(unknown[1])
    study = optuna.create_study(direction="maximize")
    _, fitted = search_arrays(train, val, small_config(method="erm-balanced"), TuneConfig(trials=2), study=study)
    best = trial_table(study).query("won").iloc[0]
    assert (best["wga"], best["wga_at_zero"]) == (fitted.validation["wga"], fitted.validation["wga_at_zero"])


def test_the_text_counts_the_steps_of_all_trials_and_runs() -> None:
    runs = [small_config(method=name, steps=600) for name in ("erm", "gerne", "auto")]
    assert search_text(runs, SEARCH) == "search: 3 trials for 3 runs, 5400 steps in all"


@pytest.mark.parametrize("ranges", [{"learning_rates": (3e-3, 3e-4)}, {"weight_decays": (0.0, 0.1)}])
def test_ranges_that_a_logarithmic_scale_does_not_have_are_refused(ranges: dict[str, Any]) -> None:
    with pytest.raises(InputUnsupportedError, match=rf"{next(iter(ranges))} must rise and be above 0"):
        parse(TuneConfig, ranges, place="test")


def test_the_objective_decides_what_trials_are_compared_by() -> None:
    study = optuna.create_study(direction="maximize")
    search_arrays(TRAIN, VAL, small_config(method="erm"), TuneConfig(trials=2, objective="gba"), study=study)
    table = trial_table(study)
    assert table["value"].tolist() == table["gba"].tolist()


def test_a_torn_last_line_of_the_journal_costs_that_trial_only(tmp_path: Any) -> None:
    study = open_study(tmp_path, name="s")
    study.add_trial(done(0, 0.5))
    study.add_trial(done(1, 0.6))
    journal = tmp_path / "trials.journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    again = open_study(tmp_path, name="s")
    assert list(finished_trials(again)) == [0]
    again.add_trial(done(1, 0.6))
    assert list(finished_trials(open_study(tmp_path, name="s"))) == [0, 1]


def test_of_a_search_the_checkpoints_of_its_best_trial_alone_stay(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    for number, value in enumerate((0.6, 0.8, 0.7)):
        trial_folder(tmp_path, number).mkdir()
        record_trial(study, done(number, value), folder=tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    assert trial_folder(tmp_path, 1).is_dir()
