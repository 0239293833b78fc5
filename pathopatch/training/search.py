"""Which settings of a method are best: the same number of trials for every method, judged by validation alone.

The first trial is the configuration as it stands. The others vary learning rate and weight decay, and what else the
method says that it has: c and s = c (beta + 1), inside the bounds of beta: first the grid around s = 1, from there
outwards, so that a search of few trials does not miss its middle. Test patches are never loaded.

Any number of processes may work on one search, started together or one beside the other. What they find is the same as
what one would find, since a trial depends on its number and on earlier waves alone (see `pathopatch.training.space`).
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
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.core.text import counted
from pathopatch.debias.methods import steps_in_all
from pathopatch.debias.searched import searched
from pathopatch.metrics.accuracy import predicted_class
from pathopatch.models.forward import pick_device
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import Fitted, Keep, Progress, fit_arrays
from pathopatch.training.interval import accuracies_with_intervals
from pathopatch.training.phase_data import held, phases_of
from pathopatch.training.reproducible import reproducible
from pathopatch.training.run import settings_of
from pathopatch.training.schedule import evaluation_steps
from pathopatch.training.selection import Standardised, is_known, logits_of
from pathopatch.training.space import WAVE, known_to, planned, search_space
from pathopatch.training.trials import (
    DIVERGED,
    NUMBER,
    best_of,
    claimed,
    finished,
    kept_at,
    open_study,
    record_trial,
    winner,
)

_POLL_S = 0.5  # how long to wait for trials that other processes are at


@dataclass(frozen=True)
class SearchPlan:
    """How much a search may try.

    Parameters
    ----------
    trials : int
        How many trials run to their end; with a budget and pruning there may be more, of fewer steps.
    steps_each : int
        Training steps of a trial, all phases of the method together.
    budget_steps : int or None
        What all trials may take together; None for what that number of trials takes.
    """

    trials: int
    steps_each: int
    budget_steps: int | None = None

    @property
    def offered(self) -> str:
        """What every method of a comparison must be given alike."""
        return counted(self.trials, "trial") if self.budget_steps is None else f"{self.budget_steps} steps"

    def pays(self, number: int, known: Sequence[FrozenTrial]) -> bool:
        """Return whether a trial may be run, given those of earlier waves; its own wave is counted in full."""
        if self.budget_steps is None:
            return number < self.trials
        taken = sum(int(trial.user_attrs["steps"]) for trial in known)
        return taken + (number % WAVE + 1) * self.steps_each <= self.budget_steps

    def __str__(self) -> str:
        total = f"{counted(self.trials, 'trial')} x {self.steps_each} steps = {self.trials * self.steps_each} steps"
        return total if self.budget_steps is None else f"{total}, of a budget of {self.budget_steps}"


def search_plan(config: TrainConfig, search: TuneConfig) -> SearchPlan:
    """Return how much the search of a method may try.

    Raises
    ------
    InputUnsupportedError
        The budget does not pay for one trial, or the patches that trials would be compared by are trained on.
    """
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
    """Return in words how many trials and steps the search of each run may take, one line a kind of run.

    Raises
    ------
    InputUnsupportedError
        The budget does not pay for one trial.
    """
    runs: dict[str, list[str]] = {}
    for config in configs:
        runs.setdefault(str(search_plan(config, search)), []).append(config.method)
    return "\n".join(
        f"search: {plan}"
        + (f" for each of {len(methods)} runs" if len(methods) > 1 else "")
        + f" ({', '.join(dict.fromkeys(methods))})"
        for plan, methods in runs.items()
    )


def search_arrays(
    train: PatchSet,
    val: PatchSet | None,
    config: TrainConfig,
    search: TuneConfig,
    *,
    study: optuna.Study | None = None,
    progress: Progress | None = None,
) -> tuple[TrainConfig, Fitted]:
    """Return the winning settings and the network that they gave, from loaded patches.

    Parameters
    ----------
    train, val : PatchSet
        See `fit_arrays`.
    config : TrainConfig
        Everything that is not searched, and the settings of the first trial.
    search : TuneConfig
        Number of trials or of steps, ranges, and what to maximise on validation.
    study : optuna.Study, optional
        Trials done so far; None for none.
    progress : callable, optional
        See `fit_arrays`.

    Raises
    ------
    NonFiniteError
        Every trial diverged.
    InputUnsupportedError
        The budget does not pay for one trial.
    """
    study = study or open_study(None, name="search")
    trials = Trials(train, val, config, search, study=study, progress=progress)
    trials.run_all()
    return trials.winner()


class Trials:
    """The trials of a search, as one of the processes that work on it sees them.

    Parameters
    ----------
    train, val, config, search, study, progress
        See `search_arrays`.
    folder : Path, optional
        Where processes that work on the same study see what the others are at, and keep checkpoints. None: nothing
        touches the disk.
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
        progress: Progress | None = None,
    ) -> None:
        self.train, self.val, self.search, self.study, self.folder = train, val, search, study, folder
        self.config = config.model_copy(update={"select": search.objective})
        self.plan, self._progress = search_plan(config, search), progress
        self._best: tuple[int, Fitted] | None = None

    def run_all(self) -> None:
        """Run what is due until all trials are finished, by this process or another."""
        while due := self.due():
            for number in due:
                with claimed(self.folder, number) as is_mine:
                    if not is_mine:
                        continue
                    if number not in finished(self.study):
                        self._run(number)
                    break
            else:
                time.sleep(_POLL_S)

    def winner(self) -> tuple[TrainConfig, Fitted]:
        """Return the winning settings and the network that they gave.

        Raises
        ------
        NonFiniteError
            Every trial diverged.
        """
        best = winner(self.study)
        number, settings = best.user_attrs[NUMBER], self.config.model_copy(update=best.user_attrs["settings"])
        if self._best is not None and self._best[0] == number:
            return settings, self._best[1]
        # It was found by another process, or before an interruption: its checkpoint is at its last step.
        return settings, fit_arrays(self.train, self.val, settings, keep=self._keep(number, settings))

    def due(self) -> list[int]:
        """Return the numbers of trials that may be run by now and are not finished; none when the search is over."""
        done, due, number = finished(self.study), list[int](), 0
        while (known := known_to(number, done)) is not None and self.plan.pays(number, known):
            due += [] if number in done else [number]
            number += 1
        return due

    def _keep(self, number: int, settings: TrainConfig) -> Keep | None:
        """Return where a trial keeps its checkpoint, from which it goes on after a kill."""
        if self.folder is None:
            return None
        of = {"search": self.study.study_name, "trial": number, "settings": settings_of(settings)}
        return Keep(kept_at(self.folder, number), fingerprint(of))

    def _run(self, number: int) -> None:
        """Run a trial and record it; hold what it gave if that is the best so far."""
        done = finished(self.study)
        known = known_to(number, done)
        assert known is not None  # it was due
        space = search_space(self.train, self.config, self.search)
        trial, chosen = planned(number, known, self.config, self.search, space)
        keep = self._keep(number, chosen)
        if keep and self.search.prune:  # the evaluations before a kill would be missing from the comparison
            shutil.rmtree(keep.folder, ignore_errors=True)
        watch = _Watch(trial, chosen, self.search, len(done), self.plan.trials, self._progress)
        said: dict[str, Any] = {NUMBER: number, **_chosen(chosen)}
        fitted: Fitted | None = None
        state, value, evaluations = TrialState.COMPLETE, 0.0, watch.evaluations
        try:
            fitted = fit_arrays(self.train, self.val, chosen, keep=keep, progress=watch)
        except NonFiniteError as error:
            said |= {DIVERGED: str(error), "steps": watch.steps}
        except optuna.TrialPruned:
            state, value = TrialState.PRUNED, watch.best
            said |= {"steps": watch.steps}
        else:
            picked = _picked(fitted)
            value, evaluations = picked[f"val_{self.search.objective}"], _evaluations(fitted, self.search)
            said |= {"picked_gba": picked["val_gba"], "step": fitted.step, "steps": self.plan.steps_each}
            said |= _judged(fitted, self.val, chosen, self.search)
        record = create_trial(
            state=state, value=value, params=trial.params, distributions=trial.distributions, user_attrs=said,
            intermediate_values=evaluations,
        )  # fmt: skip
        record_trial(self.study, record, folder=self.folder)
        best = best_of(finished(self.study))
        if fitted is not None and best is not None and best.user_attrs[NUMBER] == number:
            self._best = (number, fitted)


class _Watch:
    """Follows the steps of a trial: counts them, shows them, and ends the trial where the pruner says so."""

    def __init__(
        self, trial: Trial, config: TrainConfig, search: TuneConfig, done: int, trials: int, progress: Progress | None
    ) -> None:
        self.steps, self.best = 0, 0.0
        self.evaluations: dict[int, float] = {}
        self._trial, self._progress, self._done, self._trials = trial, progress, done, trials
        self._measure, self._last_steps = f"val_{search.objective}", phases_of(config)[-1].steps(config.steps)
        evaluations = sorted(evaluation_steps(self._last_steps, config.evaluations))
        self._places = {step: k for k, step in enumerate(evaluations)}

    def __call__(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Take note of a step; at an evaluation of the last phase, compare."""
        self.steps = step
        if self._progress:
            trials = max(self._trials, self._done + 1)
            self._progress(self._done * total + step, trials * total, metrics)
        place = self._places.get(step - (total - self._last_steps))
        if place is None or self._measure not in metrics:
            return
        self.best = max(self.best, metrics[self._measure])
        self.evaluations[place] = self.best
        self._trial.report(self.best, place)
        if step < total and self._trial.should_prune():
            raise optuna.TrialPruned


def _chosen(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a trial by name, and its s where the method searches that."""
    own = searched(config.method)
    names = ["learning_rate", "weight_decay", "c", "beta", *(name for name in own if name != "extrapolation")]
    found: dict[str, Any] = {"settings": {name: getattr(config, name) for name in names}}
    if "extrapolation" in own:
        found["s"] = config.c * (config.beta + 1)
    elif "s" in own:
        found["s"] = found["settings"]["s"]
    return found


def _judged(fitted: Fitted, val: PatchSet | None, config: TrainConfig, search: TuneConfig) -> dict[str, float]:
    """Return the picked network's accuracies on the patches it is selected by, at threshold 0, with intervals.

    All of them, not only as many as a validation during training takes. Where no attribute is known, the groups are
    the classes; where some are, only those patches count.
    """
    val = held(val, phases_of(config), seed=config.seed).select
    assert val is not None  # selection needed it
    device = pick_device(config.device)
    network, standardised = fitted.network.to(device), Standardised.of(fitted.mean, fitted.std, device)
    index = np.flatnonzero(is_known(val.attribute))
    with reproducible(config.threads, device):  # whichever process of a search it is
        predicted = predicted_class(logits_of(network, val, index, standardised))
    network.cpu()
    label, attribute = val.label[index], np.maximum(val.attribute[index], 0)
    return accuracies_with_intervals(
        predicted == label,
        (int(attribute.max()) + 1) * label + attribute,
        val.patient[index],
        resamples=search.bootstrap,
        seed=config.seed,
    )


def _picked(fitted: Fitted) -> Mapping[str, Any]:
    """Return the history's row of the evaluation that was picked."""
    return next(row for row in reversed(fitted.history) if row["step"] == fitted.step)


def _evaluations(fitted: Fitted, search: TuneConfig) -> dict[int, float]:
    """Return the best validation so far at each evaluation of the last phase: what later trials are held against."""
    rows = [row for row in fitted.history if row["phase"] == fitted.history[-1]["phase"]]
    best = np.maximum.accumulate([row[f"val_{search.objective}"] for row in rows])
    return dict(enumerate(best.tolist()))
