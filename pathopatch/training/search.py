"""Search a method's settings: the same number of trials for every method, compared on validation alone.

The first trial is the configuration as it stands. The others vary learning rate, weight decay and the method's own
settings. c and s = c (beta + 1) are tried inside the bounds of beta, from s = 1 outwards, so that a search of few
trials covers the middle of the grid. Test patches are never loaded.

Any number of processes may work on one search and find what one finds. The settings of a trial are a function of the
seed, its number, and the results of the trials of earlier waves, never of which process runs it, or when.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import NopPruner, PercentilePruner
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.core.text import pluralize
from pathopatch.debias import gerne
from pathopatch.debias.methods import searched_parameters, steps_in_all
from pathopatch.metrics.accuracy import predicted_class
from pathopatch.models.forward import pick_device
from pathopatch.training.checkpoint import CheckpointFolder
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import TrainingResult, fit_arrays
from pathopatch.training.loop import StepCallback
from pathopatch.training.optimise import evaluation_steps, mixed_seed, reproducible
from pathopatch.training.phase_data import attribute_shares, phases_of, split_validation
from pathopatch.training.run import settings_of
from pathopatch.training.selection import Standardizer, accuracies_with_intervals, is_known, logits_of
from pathopatch.training.trials import (
    DIVERGED,
    NUMBER,
    best_trial,
    finished_trials,
    open_study,
    record_trial,
    trial_folder,
    trial_lock,
    winning_trial,
)

WAVE = 4
"""Trials that choose without each other's results and may run side by side; a trial knows all earlier waves."""
_RANDOM_TRIALS = 5  # before the sampler learns from those that are done
_KEPT_PERCENT = 75.0  # a trial is pruned only below three quarters of the others: a WGA of few patches is noisy
_WARM_UP = 1 / 3  # of a trial's evaluations: early on a WGA of 0 says nothing
_TWO_VALUES_S = 2.0
_POLL_S = 0.5  # between looks at trials that other processes are running


@dataclass(frozen=True)
class SearchPlan:
    """The budget of a search."""

    trials: int  # that run to their end; with a budget and pruning there may be more, of fewer steps
    steps_each: int  # training steps of a trial, all phases of the method together
    budget_steps: int | None = None  # for all trials together; None: what that number of trials takes

    @property
    def offered(self) -> str:
        """The budget in words; a comparison must give every method the same."""
        return pluralize(self.trials, "trial") if self.budget_steps is None else f"{self.budget_steps} steps"

    def allows(self, number: int, earlier: Sequence[FrozenTrial]) -> bool:
        """Return whether the budget pays for a trial, given those of earlier waves."""
        if self.budget_steps is None:
            return number < self.trials
        taken = sum(int(trial.user_attrs["steps"]) for trial in earlier)
        # The own wave is counted in full: what pruning saves there is not known to all of its trials.
        return taken + (number % WAVE + 1) * self.steps_each <= self.budget_steps

    def __str__(self) -> str:
        total = f"{pluralize(self.trials, 'trial')} x {self.steps_each} steps = {self.trials * self.steps_each} steps"
        return total if self.budget_steps is None else f"{total}, of a budget of {self.budget_steps}"


def search_plan(config: TrainConfig, search: TuneConfig) -> SearchPlan:
    """Return how many trials and steps the search of a method may take; refuse one that cannot be run."""
    if "val" in config.train_splits:
        raise InputUnsupportedError(
            "trials are compared by the split 'val', and train_splits holds it",
            place="[train] train_splits",
            remedy="search without it, then train the winner's settings on both",
        )
    steps_each = steps_in_all(phases_of(config), config.steps)
    if search.budget_steps is None:
        return SearchPlan(search.trials, steps_each)
    if search.budget_steps < steps_each:
        raise InputUnsupportedError(
            f"[tune] budget_steps = {search.budget_steps}, but one trial of {config.method} takes {steps_each}",
            place="[tune] budget_steps",
            remedy="raise [tune] budget_steps, or lower [train] steps",
        )
    return SearchPlan(search.budget_steps // steps_each, steps_each, search.budget_steps)


def search_text(configs: Sequence[TrainConfig], search: TuneConfig) -> str:
    """Return in words how many trials and steps the search of each run may take, one line a kind of run."""
    runs: dict[str, list[str]] = {}
    for config in configs:
        runs.setdefault(str(search_plan(config, search)), []).append(config.method)
    return "\n".join(
        f"search: {plan}"
        + (f" for each of {len(methods)} runs" if len(methods) > 1 else "")
        + f" ({', '.join(dict.fromkeys(methods))})"
        for plan, methods in runs.items()
    )


@dataclass(frozen=True)
class SearchSpace:
    """What the trials of a method choose from."""

    ranges: Mapping[str, tuple[float, float]]  # (low, high) of settings searched on a logarithmic scale
    grid: tuple[Mapping[str, float], ...]  # settings that go together, such as c and beta, in the order of trial

    @property
    def grid_names(self) -> list[str]:
        """How a study names the points of the grid."""
        return [" ".join(f"{name}={value:.9g}" for name, value in point.items()) for point in self.grid]


def search_space(train: PatchSet, config: TrainConfig, search: TuneConfig) -> SearchSpace:
    """Return what trials choose from: of c and s only pairs whose beta is inside its bounds on the training groups."""
    own = searched_parameters(config.method)
    ranges = {"learning_rate": search.learning_rates, "weight_decay": search.weight_decays}
    ranges |= {name: bounds for name in own if (bounds := getattr(search, f"{name}_range", None)) is not None}
    # Where t is searched the groups are pseudo-attributes, whose shares differ from trial to trial.
    shares = None if "t" in own else attribute_shares(train, config)
    points: list[dict[str, float]] = []
    if "extrapolation" in own:
        points = [
            {"c": c, "beta": s / c - 1} for c in search.c_values for s in search.s_values if _is_inside(shares, c, s)
        ]
    elif "s" in own:
        points = [{"s": s} for s in search.s_values if _is_inside(shares, 1.0, s)]

    def rank(point: Mapping[str, float]) -> tuple[bool, float, float, float]:
        # From s = 1 outwards. Of equal distances the larger c first: its smaller beta amplifies the noise of the
        # batches less. Last what does not extrapolate (beta = 0), and what the first trial has already tried.
        is_tried = all(getattr(config, name, None) == value for name, value in point.items())
        c, beta = point.get("c", 1.0), point.get("beta", point.get("s", 1.0) - 1)
        return (beta == 0 and "c" in point) or is_tried, round(abs(c * (beta + 1) - 1), 9), -c, beta

    return SearchSpace(ranges, tuple(sorted(points, key=rank)))


def _is_inside(shares: NDArray[np.float64] | None, c: float, s: float) -> bool:
    """Return whether beta = s / c - 1 is inside its bounds for p(a|y) = `shares`; None: whatever the shares."""
    if shares is None:
        # Of two values p_ext of the larger one is alpha - s (alpha - 1/2) >= 1 - s/2 for s >= 1: inside up to s = 2.
        return 0 <= s <= _TWO_VALUES_S
    low, high = gerne.beta_bounds(shares, c)
    return low <= s / c - 1 <= high


def earlier_waves(number: int, finished: Mapping[int, FrozenTrial]) -> list[FrozenTrial] | None:
    """Return the trials of the waves before a trial's own, in order; None while one of them is not finished."""
    earlier = range(number - number % WAVE)
    return [finished[other] for other in earlier] if all(other in finished for other in earlier) else None


def ask_trial(
    number: int, earlier: Sequence[FrozenTrial], config: TrainConfig, search: TuneConfig, space: SearchSpace
) -> tuple[Trial, TrainConfig]:
    """Return a trial that is to be run, and its settings; `earlier` as `earlier_waves` returns it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A sampler and a study of its own for each trial: one shared by processes would sample by what happens to be
    # finished, and its random state would depend on who asked before.
    sampler = optuna.samplers.TPESampler(seed=mixed_seed(config.seed, number) % 2**32, n_startup_trials=_RANDOM_TRIALS)
    warm_up = round(_WARM_UP * min(config.steps, config.evaluations))
    pruner = PercentilePruner(_KEPT_PERCENT, n_startup_trials=WAVE, n_warmup_steps=warm_up)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner if search.prune else NopPruner())
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
    return trial, config.model_copy(update=update)


def search_arrays(
    train: PatchSet,
    val: PatchSet | None,
    config: TrainConfig,
    search: TuneConfig,
    *,
    study: optuna.Study | None = None,
    progress: StepCallback | None = None,
) -> tuple[TrainConfig, TrainingResult]:
    """Search on loaded patches, going on from the trials of `study`; return the winning settings and their result."""
    study = study or open_study(None, name="search")
    trials = TrialRunner(train, val, config, search, study=study, progress=progress)
    trials.run_all()
    return trials.winner()


class TrialRunner:
    """One of the processes that work on a search; see `tune`.

    `folder` holds the locks and checkpoints of trials that several processes share. None: nothing touches the disk.
    """

    def __init__(
        self,
        train: PatchSet,
        val: PatchSet | None,
        config: TrainConfig,
        search: TuneConfig,
        *,
        study: optuna.Study,
        folder: Path | None = None,
        progress: StepCallback | None = None,
    ) -> None:
        self.train, self.val, self.search, self.study, self.folder = train, val, search, study, folder
        self.config = config.model_copy(update={"select": search.objective})
        self.plan, self._progress = search_plan(config, search), progress
        self._best: tuple[int, TrainingResult] | None = None  # the best trial so far, if this process ran it

    def run_all(self) -> None:
        """Run trials that are due until all are finished, by this process or another."""
        while due := self.due():
            for number in due:
                with trial_lock(self.folder, number) as has_lock:
                    if not has_lock:
                        continue
                    # Another process may have finished it between the look at the study and the lock.
                    if number not in finished_trials(self.study):
                        self._run(number)
                    break
            else:
                time.sleep(_POLL_S)

    def winner(self) -> tuple[TrainConfig, TrainingResult]:
        """Return the winning settings and their result; raises NonFiniteError if every trial diverged."""
        best = winning_trial(self.study)
        number, settings = best.user_attrs[NUMBER], self.config.model_copy(update=best.user_attrs["settings"])
        if self._best is not None and self._best[0] == number:
            return settings, self._best[1]
        # Another process ran it, or this one before a kill. Its checkpoint is at its last step: nothing is trained.
        return settings, fit_arrays(self.train, self.val, settings, checkpoints=self._checkpoints(number, settings))

    def due(self) -> list[int]:
        """Return the numbers of trials that may be run by now and are not finished; none when the search is over."""
        finished, due, number = finished_trials(self.study), list[int](), 0
        while (earlier := earlier_waves(number, finished)) is not None and self.plan.allows(number, earlier):
            due += [] if number in finished else [number]
            number += 1
        return due

    def _checkpoints(self, number: int, settings: TrainConfig) -> CheckpointFolder | None:
        """Return where a trial keeps its checkpoint."""
        if self.folder is None:
            return None
        identity = {"search": self.study.study_name, "trial": number, "settings": settings_of(settings)}
        return CheckpointFolder(trial_folder(self.folder, number), fingerprint(identity))

    def _run(self, number: int) -> None:
        """Run a trial and record it; hold its result if that is the best so far."""
        finished = finished_trials(self.study)
        earlier = earlier_waves(number, finished)
        assert earlier is not None  # the trial was due
        space = search_space(self.train, self.config, self.search)
        trial, settings = ask_trial(number, earlier, self.config, self.search, space)
        checkpoints = self._checkpoints(number, settings)
        if checkpoints and self.search.prune:
            # A resumed trial would not repeat its evaluations before the kill, and the pruner would not see them.
            shutil.rmtree(checkpoints.folder, ignore_errors=True)
        monitor = _TrialMonitor(trial, settings, self.search, len(finished), self.plan.trials, self._progress)
        attributes: dict[str, Any] = {NUMBER: number, **_searched_settings(settings)}
        result: TrainingResult | None = None
        state, value, evaluations = TrialState.COMPLETE, 0.0, monitor.evaluations
        try:
            result = fit_arrays(self.train, self.val, settings, checkpoints=checkpoints, progress=monitor)
        except NonFiniteError as error:
            attributes |= {DIVERGED: str(error), "steps": monitor.steps}
        except optuna.TrialPruned:
            state, value = TrialState.PRUNED, monitor.best
            attributes |= {"steps": monitor.steps}
        else:
            picked = next(row for row in reversed(result.history) if row["step"] == result.step)
            value, evaluations = picked[f"val_{self.search.objective}"], _best_so_far(result, self.search)
            attributes |= {"picked_gba": picked["val_gba"], "step": result.step, "steps": self.plan.steps_each}
            attributes |= _measure_result(result, self.val, settings, self.search)
        record = create_trial(
            state=state, value=value, params=trial.params, distributions=trial.distributions, user_attrs=attributes,
            intermediate_values=evaluations,
        )  # fmt: skip
        record_trial(self.study, record, folder=self.folder)
        best = best_trial(finished_trials(self.study))
        if result is not None and best is not None and best.user_attrs[NUMBER] == number:
            self._best = (number, result)


class _TrialMonitor:
    """Step callback of a trial: counts and shows its steps, and ends it where the pruner says so."""

    def __init__(
        self,
        trial: Trial,
        config: TrainConfig,
        search: TuneConfig,
        finished: int,
        trials: int,
        progress: StepCallback | None,
    ) -> None:
        self.steps, self.best = 0, 0.0
        self.evaluations: dict[int, float] = {}
        self._trial, self._progress, self._finished, self._trials = trial, progress, finished, trials
        self._measure, self._last_steps = f"val_{search.objective}", phases_of(config)[-1].steps(config.steps)
        evaluations = sorted(evaluation_steps(self._last_steps, config.evaluations))
        self._places = {step: k for k, step in enumerate(evaluations)}

    def __call__(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Count a step; at an evaluation of the last phase, compare."""
        self.steps = step
        if self._progress:
            trials = max(self._trials, self._finished + 1)
            self._progress(self._finished * total + step, trials * total, metrics)
        # Earlier phases prepare the last one: their measures are not those of the method.
        place = self._places.get(step - (total - self._last_steps))
        if place is None or self._measure not in metrics:
            return
        self.best = max(self.best, metrics[self._measure])
        self.evaluations[place] = self.best
        self._trial.report(self.best, place)
        if step < total and self._trial.should_prune():
            raise optuna.TrialPruned


def _searched_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a trial by name, and its s where the method searches that."""
    own = searched_parameters(config.method)
    names = ["learning_rate", "weight_decay", "c", "beta", *(name for name in own if name != "extrapolation")]
    attributes: dict[str, Any] = {"settings": {name: getattr(config, name) for name in names}}
    if "extrapolation" in own:
        attributes["s"] = config.c * (config.beta + 1)
    elif "s" in own:
        attributes["s"] = attributes["settings"]["s"]
    return attributes


def _measure_result(
    result: TrainingResult, val: PatchSet | None, config: TrainConfig, search: TuneConfig
) -> dict[str, float]:
    """Return the accuracies on all patches that select, at decision threshold 0, with intervals."""
    val = split_validation(val, phases_of(config), seed=config.seed).select
    assert val is not None  # selection needed it
    device = pick_device(config.device)
    network, standardize = result.network.to(device), Standardizer.of(result.mean, result.std, device)
    # Where no attribute is known, the groups are the classes; where some are, only those patches count.
    index = np.flatnonzero(is_known(val.attribute))
    with reproducible(config.threads, device):  # the same numbers whichever process of a search measures
        predicted = predicted_class(logits_of(network, val, index, standardize))
    network.cpu()
    label, attribute = val.label[index], np.maximum(val.attribute[index], 0)
    return accuracies_with_intervals(
        predicted == label,
        (int(attribute.max()) + 1) * label + attribute,
        val.patient[index],
        resamples=search.bootstrap,
        seed=config.seed,
    )


def _best_so_far(result: TrainingResult, search: TuneConfig) -> dict[int, float]:
    """Return the best validation so far at each evaluation of the last phase: later trials are pruned by it."""
    rows = [row for row in result.history if row["phase"] == result.history[-1]["phase"]]
    best = np.maximum.accumulate([row[f"val_{search.objective}"] for row in rows])
    return dict(enumerate(best.tolist()))
