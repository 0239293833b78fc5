"""Tune a method as a stage: the same number of trials for every method, compared on validation alone.

Test patches are never loaded. A search that was killed goes on where it was.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import create_trial

from pathopatch.core.artefacts import Stamp, fingerprint, made
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import NonFiniteError
from pathopatch.core.files import write_csv, write_json
from pathopatch.core.locks import folder_lock, slide_lock
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.methods import extrapolates
from pathopatch.training.checkpoint import CheckpointFolder
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.group_checks import groups_of, require_groups
from pathopatch.training.loop import StepCallback
from pathopatch.training.result import TrainingResult
from pathopatch.training.run import RUN, begin_run, cohort_settings, load_sets, run_stamp, settings_of, write_run
from pathopatch.training.search import (
    DIVERGED,
    FOLDER,
    MEASURES,
    NUMBER,
    ask_trial,
    best_trial,
    finished_trials,
    open_study,
    record_trial,
    remove_checkpoints,
    search_space,
    trial_folder,
    trial_table,
    winning_trial,
)

TRIALS, SEARCH = "trials.csv", "search.json"


def tune(
    work: Path,
    config: TrainConfig,
    search: TuneConfig,
    *,
    progress: StepCallback | None = None,
    force: bool = False,
) -> Path:
    """Search a method's settings, keep the winner as the run, and return its folder ``runs/<run_name>``.

    It is left as `fit` leaves it, with the winner's settings, ``trials.csv``, ``search.json`` and ``search/`` with the
    journal. A search that was killed goes on where it was; a second process waits for the first one. `config` holds
    what is not searched, and the settings of the first trial. NonFiniteError where every trial diverged.
    """
    config = cohort_settings(work, config)
    folder = WorkFolder(work).run(config.run_name)
    place = folder / FOLDER
    groups = groups_of(work, config)
    stamp = run_stamp(work, groups, config, stage="tune", settings={"train": settings_of(config), "tune": search})
    lock, waiting_for = slide_lock(config.run_name, "tune"), f"the search {config.run_name}"
    with folder_lock(work, lock, waiting_for=waiting_for), made(folder / RUN, stamp=stamp, force=force) as job:
        if job.is_current:
            remove_checkpoints(place)  # of a search that was killed once its run was finished
            return folder
        require_groups(groups, config)
        begin_run(folder)
        start = time.perf_counter()
        train, val = load_sets(work, groups, config)
        # Named by the stamp: a search of other settings in the same journal shares no trial with this one.
        study = open_study(place, name=fingerprint(stamp.to_dict()))
        trials = TrialRunner(train, val, config, search, study=study, folder=place, progress=progress)
        trials.run_all()
        best, result = trials.winner()
        write_csv(folder / TRIALS, trial_table(study))
        finished = finished_trials(study).values()
        facts = {
            "offered": pluralize(search.trials, "trial"),
            "objective": search.objective,
            "trials": len(finished),
            "steps_each": config.steps,
            "steps": sum(int(trial.user_attrs["steps"]) for trial in finished),  # of diverged trials too
            "diverged": sum(DIVERGED in trial.user_attrs for trial in finished),
        }
        write_json(folder / SEARCH, facts)
        write_run(work, folder, result, best, job, train=train, seconds=time.perf_counter() - start)
        remove_checkpoints(place)
    return folder


class TrialRunner:
    """The trials of a search, whose checkpoints are in `folder`."""

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
        self._best: tuple[int, TrainingResult] | None = None  # the best trial so far, unless it ran before a kill

    def run_all(self) -> None:
        """Run the trials that are not finished."""
        for number in range(self.search.trials):
            if number not in finished_trials(self.study):
                self._run(number)

    def winner(self) -> tuple[TrainConfig, TrainingResult]:
        """Return the winning settings and their result; raises NonFiniteError if every trial diverged."""
        best = winning_trial(self.study)
        number, settings = best.user_attrs[NUMBER], self.config.with_trial(best.user_attrs["settings"])
        if self._best and self._best[0] == number:
            return settings, self._best[1]
        # It ran before a kill. Its checkpoint is at its last step: nothing is trained.
        return settings, fit_arrays(self.train, self.val, settings, checkpoints=self._checkpoints(number, settings))

    def _checkpoints(self, number: int, settings: TrainConfig) -> CheckpointFolder:
        """Return where a trial keeps its checkpoint."""
        inputs = {"search": self.study.study_name, "trial": str(number)}
        stamp = Stamp(stage="tune", settings=settings_of(settings), inputs=inputs)
        return CheckpointFolder(trial_folder(self.folder, number), stamp)

    def _run(self, number: int) -> None:
        """Run a trial and record it; hold its result if that is the best so far."""
        finished = finished_trials(self.study)
        space = search_space([self.train], self.config, self.search)
        trial, settings = ask_trial(number, list(finished.values()), self.config, self.search, space)
        checkpoints = self._checkpoints(number, settings)
        steps_done = 0

        def count(step: int, total: int, metrics: dict[str, float]) -> None:
            nonlocal steps_done
            steps_done = step
            if self._progress:
                self._progress(len(finished) * total + step, self.search.trials * total, metrics)

        rates = settings.model_dump(include={"learning_rate", "weight_decay"})
        attributes: dict[str, Any] = {NUMBER: number, "settings": rates | settings.gerne.model_dump()}
        attributes |= {"s": settings.gerne.s} if extrapolates(settings.method) else {}
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
            attributes |= {"step": result.step, "steps": settings.steps}
        record = create_trial(
            value=value, params=trial.params, distributions=trial.distributions, user_attrs=attributes
        )
        record_trial(self.study, record, folder=self.folder)
        best = best_trial(finished_trials(self.study))
        if result is not None and best is not None and best.user_attrs[NUMBER] == number:
            self._best = (number, result)
