"""Choose the settings of a search's trials, and store the finished ones.

The first trial is the configuration itself. The others vary learning rate, weight decay and the method's own
settings. c and s = c (beta + 1) are tried inside the bounds of beta, from s = 1 outwards, so that a search of few
trials covers the middle of the grid. The settings of a trial are a function of the seed, its number, and the results
of the earlier trials. Optuna's journal holds the finished trials, one line each, written in one piece.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import NonFiniteError
from pathopatch.core.files import disk_errors
from pathopatch.core.text import pluralize
from pathopatch.debias import gerne
from pathopatch.debias.methods import extrapolates
from pathopatch.training.dataset import PatchSet, mixed_seed

_RANDOM_TRIALS = 5  # before the sampler learns from those that are done
FOLDER, JOURNAL = "search", "trials.journal"
NUMBER, DIVERGED = "trial", "diverged"
"""Attributes of a finished trial: its number in the search, and how it diverged, if it did."""
MEASURES = (*(f"{name}{end}" for name in ("wga", "gba") for end in ("", "_low", "_high")), "wga_at_zero", "equal_area")


def search_text(configs: Sequence[TrainConfig], search: TuneConfig) -> str:
    """Return the trials and steps of the searches of some runs as text; heads of frozen networks have none."""
    configs = [config for config in configs if not config.frozen]
    cost = f"{search.trials * sum(config.steps for config in configs)} steps in all"
    cost = "each solved to convergence" if all(config.is_solved for config in configs) else cost
    return f"search: {pluralize(search.trials, 'trial')} for {pluralize(len(configs), 'run')}, {cost}"


@dataclass(frozen=True)
class SearchSpace:
    """What the trials of a method choose from."""

    ranges: Mapping[str, tuple[float, float]]  # (low, high) of settings searched on a logarithmic scale
    grid: tuple[Mapping[str, float], ...]  # settings that go together, such as c and beta, in the order of trial
    largest_s: float | None = None  # the bound, where it took the place of a larger s

    @property
    def grid_names(self) -> list[str]:
        """How a study names the points of the grid."""
        return [" ".join(f"{name}={value:.9g}" for name, value in point.items()) for point in self.grid]


def search_space(sets: Sequence[PatchSet], config: TrainConfig, search: TuneConfig) -> SearchSpace:
    """Return what trials choose from: of c and s pairs that extrapolate, beta >= 0.

    The bound of all `sets` that are trained on takes the place of a larger s, with a warning.
    """
    # A head is solved to convergence: rates have no effect, and of c and beta only s has one.
    of_steps = {"learning_rate": search.learning_rates, "weight_decay": search.weight_decays}
    ranges = {"weight_decay": search.penalties} if config.is_solved else of_steps
    points: list[dict[str, float]] = []
    largest_s = None
    if extrapolates(config.method):
        shares = [gerne.alpha(patches.label, patches.attribute) for patches in sets]
        # With beta < 0 it would interpolate between plain draws and balanced ones, and be called an extrapolation.
        pairs = [(c, s) for c in sorted(search.c_values) for s in search.s_values if s >= c]
        if config.is_solved:
            pairs = [(c, s) for s, c in {s: c for c, s in pairs}.items()]  # each s once, at the largest c
        largest = {c: min(gerne.beta_bounds(each, c)[1] for each in shares) for c, _ in pairs}
        cut = dict.fromkeys((c, min(s / c - 1, largest[c])) for c, s in pairs)
        points = [{"c": c, "beta": beta} for c, beta in cut]
        if beyond := sorted({s for c, s in pairs if s / c - 1 > largest[c]}):
            c, beta = next(iter(largest.items()))
            largest_s = c * (beta + 1)  # whatever c is
            text = f"s = {', '.join(f'{s:g}' for s in beyond)} is beyond the bounds of beta for these groups"
            warnings.warn(f"{text}; the largest, {largest_s:.6g}, is tried in its place", UserWarning, stacklevel=2)

    def order(point: Mapping[str, float]) -> tuple[bool, float, float, float]:
        # From s = 1 outwards. Of equal distances the larger c first: its smaller beta amplifies the noise of the
        # batches less. Last what does not extrapolate (beta = 0), and what the first trial has already tried.
        is_tried = config.with_trial(point) == config
        c, beta = point["c"], point["beta"]
        return beta == 0 or is_tried, round(abs(c * (beta + 1) - 1), 9), -c, beta

    return SearchSpace(ranges, tuple(sorted(points, key=order)), largest_s)


def ask_trial(
    number: int, earlier: Sequence[FrozenTrial], config: TrainConfig, search: TuneConfig, space: SearchSpace
) -> tuple[Trial, TrainConfig]:
    """Return a trial that is to be run, and its settings, given the finished ones before it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A sampler of its own for each trial: the state of one for all would be lost when a search is killed.
    sampler = optuna.samplers.TPESampler(seed=mixed_seed(config.seed, number) % 2**32, n_startup_trials=_RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(earlier)
    if 1 <= number <= len(space.grid):
        study.enqueue_trial({"grid": space.grid_names[number - 1]})
    trial = study.ask()
    if number == 0:
        return trial, config
    update: dict[str, Any] = {
        name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in space.ranges.items()
    }
    if space.grid:
        update |= space.grid[space.grid_names.index(trial.suggest_categorical("grid", space.grid_names))]
    return trial, config.with_trial(update)


def open_study(folder: Path, *, name: str) -> optuna.Study:
    """Return the study of finished trials in a folder's journal, which may hold several."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # Optuna's own locks of a journal stay for half a minute when their process is killed.
    journal, lock = folder / JOURNAL, FileLock(folder / f"{JOURNAL}.lock")
    with lock:
        _cut_torn_line(journal)
    storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))  # type: ignore[arg-type]  # same methods
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def _cut_torn_line(journal: Path) -> None:
    """Cut off a last line without its end, as a full disk or a power cut leaves it."""
    # Optuna would glue the next record to it, and both would be lost.
    if not journal.is_file():
        return
    content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with journal.open("r+b") as stream:
            stream.truncate(end)


def finished_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the finished trials by their number in the search."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    finished: dict[int, FrozenTrial] = {}
    for trial in trials:
        finished.setdefault(trial.user_attrs[NUMBER], trial)
    return dict(sorted(finished.items()))


def trial_folder(folder: Path, number: int | str) -> Path:
    """Return the folder of a trial's checkpoint."""
    return folder / f"trial-{number}"


def record_trial(study: optuna.Study, trial: FrozenTrial, *, folder: Path) -> None:
    """Record a finished trial, then remove the checkpoints of those that can no longer win."""
    with disk_errors(folder):
        study.add_trial(trial)
    finished = finished_trials(study)
    best = best_trial(finished)
    for number in finished:
        if best is None or number != best.user_attrs[NUMBER]:
            shutil.rmtree(trial_folder(folder, number), ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a search that is over; its journal stays."""
    for trial in folder.glob(trial_folder(Path(), "*").name):
        shutil.rmtree(trial, ignore_errors=True)


def best_trial(finished: dict[int, FrozenTrial]) -> FrozenTrial | None:
    """Return the trial with the best value; of equals by GBA, likelihood, and the first; None if none is good."""
    good = [trial for trial in finished.values() if DIVERGED not in trial.user_attrs]

    def score(trial: FrozenTrial) -> tuple[float, ...]:
        attributes = trial.user_attrs
        return trial.value or 0.0, attributes["gba"], attributes["likelihood"], -attributes[NUMBER]

    return max(good, key=score, default=None)


def winning_trial(study: optuna.Study) -> FrozenTrial:
    """Return the best trial of a study; raises NonFiniteError where every trial diverged."""
    best = best_trial(finished_trials(study))
    if best is None:
        raise NonFiniteError(
            "every trial diverged",
            place="[tune] learning_rates",
            remedy="lower [tune] learning_rates, or look for damaged patches",
        )
    return best


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Return one row per trial: its settings, its measures on validation, its cost, and whether it won.

    trial; learning_rate, weight_decay, c, beta, and what else was searched; s = c (beta + 1), NaN where it is not
    searched; ``value``, by which trials are compared; ``wga`` and ``gba`` of the picked weights on all validation
    patches at the decision threshold that these choose, with their 95 % intervals, ``wga_at_zero`` at 0, and
    ``equal_area`` (NaN for trials that did not end); ``likelihood``, which settles ties of value and GBA; ``step``, at
    which the weights were picked; ``steps``, taken; ``state``: complete or diverged; ``won``.
    """
    best = winning_trial(study).user_attrs[NUMBER]
    rows: list[dict[str, Any]] = []
    for number, trial in finished_trials(study).items():
        attributes = trial.user_attrs
        state = "diverged" if DIVERGED in attributes else "complete"
        row = {"trial": number, **attributes["settings"], "s": attributes.get("s"), "value": trial.value}
        row |= {name: attributes.get(name, math.nan) for name in (*MEASURES, "likelihood", "step")}
        rows.append(row | {"steps": attributes["steps"], "state": state, "won": number == best})
    return pd.DataFrame(rows)
