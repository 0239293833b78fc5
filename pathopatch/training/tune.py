"""Tune a method as a stage: the same number of trials for every method, compared on validation alone.

Test patches are never loaded. Any number of processes may work on one search, started together or later, and find what
one finds. Each trial is run by one of them, and one writes the winner when all are done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import create_trial

from pathopatch.core import artefacts
from pathopatch.core.artefacts import artefact, fingerprint, is_up_to_date
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import NonFiniteError, PathopatchError
from pathopatch.core.files import write_csv, write_json
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.core.workers import SPAWN, follow_parent
from pathopatch.debias.methods import searched_parameters
from pathopatch.training.checkpoint import CheckpointFolder
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.loop import StepCallback
from pathopatch.training.phase_data import require_groups
from pathopatch.training.result import TrainingResult
from pathopatch.training.run import RUN, begin_run, cohort_settings, load_sets, run_stamp, settings_of, write_run
from pathopatch.training.search import (
    DIVERGED,
    FOLDER,
    MEASURES,
    NUMBER,
    ask_trial,
    best_trial,
    earlier_waves,
    finished_trials,
    open_study,
    record_trial,
    remove_checkpoints,
    search_lock,
    search_space,
    steps_of_trial,
    trial_folder,
    trial_lock,
    trial_table,
    winning_trial,
)

TRIALS, SEARCH = "trials.csv", "search.json"
_GRACE_S = 60.0  # in which a helping process sees that all trials are finished
_POLL_S = 0.5  # between looks at trials that other processes are running


def tune(
    work: Path,
    config: TrainConfig,
    search: TuneConfig,
    *,
    workers: int = 1,
    progress: StepCallback | None = None,
    force: bool = False,
    is_helper: bool = False,
) -> Path:
    """Search a method's settings, keep the winner as the run, and return its folder ``runs/<run_name>``.

    It is left as `fit` leaves it, with the winner's settings, ``trials.csv``, ``search.json`` and ``search/`` with the
    journal. A search that was killed goes on where it was, and one that is running is joined. `config` holds what is
    not searched, and the settings of the first trial. Of `workers` processes this one is the first, or, as a helper,
    one of the others; with several each has one thread, if `config` says no other number. NonFiniteError where every
    trial diverged.
    """
    config = cohort_settings(work, config)
    helpers = 0 if is_helper else min(workers, search.trials) - 1
    folder = WorkFolder(work).run(config.run_name)
    place = folder / FOLDER
    groups = artefacts.read_table(WorkFolder(work).groups)
    stamp = run_stamp(work, groups, config, stage="tune", settings={"train": settings_of(config), "tune": search})
    is_done = partial(is_up_to_date, folder / RUN, stamp=stamp, force=force)
    if is_done():
        return folder
    require_groups(groups, config)
    # Under the lock: a second process must not remove the marks of a search that the first has just finished.
    with search_lock(place):
        if is_done():
            return folder
        begin_run(folder)
    start = time.perf_counter()
    with _helping_processes(helpers, work, config, search, workers):
        train, val = load_sets(work, groups, config)
        # Named by the stamp: a search of other settings in the same journal shares no trial with this one.
        study = open_study(place, name=fingerprint(stamp.to_dict()))
        threads = 1 if workers > 1 and config.threads is None else config.threads
        trial_config = config.model_copy(update={"threads": threads})
        trials = TrialRunner(train, val, trial_config, search, study=study, folder=place, progress=progress)
        trials.run_all()
    # Under the lock: of several processes that see the last trial end, one writes the winner.
    with search_lock(place), artefact(folder / RUN, stamp=stamp, force=force) as made:
        if made.is_current:  # another process was faster
            return folder
        best, result = trials.winner()
        write_csv(folder / TRIALS, trial_table(study))
        finished = finished_trials(study).values()
        facts = {
            "offered": pluralize(search.trials, "trial"),
            "objective": search.objective,
            "trials": len(finished),
            "steps_each": steps_of_trial(config),
            "steps": sum(int(trial.user_attrs["steps"]) for trial in finished),  # of diverged trials too
            "diverged": sum(DIVERGED in trial.user_attrs for trial in finished),
        }
        write_json(folder / SEARCH, facts)
        # The run keeps the user's thread count: that of the search depends on the number of workers.
        best = best.model_copy(update={"threads": config.threads})
        write_run(work, folder, result, best, made, train=train, seconds=time.perf_counter() - start)
        remove_checkpoints(place, study)
    return folder


@contextmanager
def _helping_processes(count: int, *arguments: Any) -> Iterator[None]:
    """Start other processes on the same search meanwhile; one that dies leaves its trial to the rest."""
    processes = [SPAWN.Process(target=_run_helper, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    deadline = time.monotonic()
    try:
        yield
        # Only after success: where this process fails, the others are stopped at once.
        deadline = time.monotonic() + _GRACE_S
    finally:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()


def _run_helper(work: Path, config: TrainConfig, search: TuneConfig, workers: int) -> None:
    """Work on a search as a process of its own."""
    follow_parent()
    try:
        tune(work, config, search, workers=workers, is_helper=True)
    except PathopatchError:  # the process that started this one meets it too, and reports it
        raise SystemExit(1) from None


class TrialRunner:
    """One of the processes that work on a search; they share the locks and checkpoints of trials in `folder`."""

    def __init__(
        self,
        train: PatchSet,
        val: PatchSet | None,
        config: TrainConfig,
        search: TuneConfig,
        *,
        study: optuna.Study,
        folder: Path,
        progress: StepCallback | None = None,
    ) -> None:
        self.train, self.val, self.search, self.study, self.folder = train, val, search, study, folder
        self.config = config.model_copy(update={"select": search.objective})
        self._progress = progress
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
        if self._best and self._best[0] == number:
            return settings, self._best[1]
        # Another process ran it, or this one before a kill. Its checkpoint is at its last step: nothing is trained.
        return settings, fit_arrays(self.train, self.val, settings, checkpoints=self._checkpoints(number, settings))

    def due(self) -> list[int]:
        """Return the numbers of trials that may be run by now and are not finished; none when the search is over."""
        finished = finished_trials(self.study)
        return [
            number
            for number in range(self.search.trials)
            if number not in finished and earlier_waves(number, finished) is not None
        ]

    def _checkpoints(self, number: int, settings: TrainConfig) -> CheckpointFolder:
        """Return where a trial keeps its checkpoint."""
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
        steps_done = 0

        def count(step: int, total: int, metrics: dict[str, float]) -> None:
            nonlocal steps_done
            steps_done = step
            if self._progress:
                self._progress(len(finished) * total + step, self.search.trials * total, metrics)

        attributes: dict[str, Any] = {NUMBER: number, **_searched_settings(settings)}
        result: TrainingResult | None = None
        value = 0.0
        try:
            result = fit_arrays(self.train, self.val, settings, checkpoints=checkpoints, progress=count)
        except NonFiniteError as error:
            attributes |= {DIVERGED: str(error), "steps": steps_done}
        else:
            # Of all validation patches, at the threshold that they choose: what the report will show.
            value, likelihood = result.validation[self.search.objective], -result.validation["nll_at_one"]
            attributes |= {name: result.validation[name] for name in MEASURES if name in result.validation}
            attributes |= {"likelihood": likelihood}
            attributes |= {"step": result.step, "steps": steps_of_trial(settings)}
        record = create_trial(
            value=value, params=trial.params, distributions=trial.distributions, user_attrs=attributes
        )
        record_trial(self.study, record, folder=self.folder)
        best = best_trial(finished_trials(self.study))
        if result is not None and best is not None and best.user_attrs[NUMBER] == number:
            self._best = (number, result)


def _searched_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a trial by name, and its s where the method searches that."""
    own = searched_parameters(config.method)
    names = ["learning_rate", "weight_decay", "c", "beta", *(name for name in own if name != "extrapolation")]
    attributes: dict[str, Any] = {"settings": {name: getattr(config, name) for name in names}}
    if "extrapolation" in own:
        attributes["s"] = config.c * (config.beta + 1)
    return attributes
