"""Search a method's settings as a stage, and train or search several runs, one after another or side by side.

Any number of processes may work on one search, started together or later. Each trial is run by one of them, and one
writes the winner when all are done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from pathopatch.core import artefacts
from pathopatch.core.artefacts import artefact, fingerprint, is_up_to_date
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import PathopatchError, WorkerCrashError
from pathopatch.core.files import write_bytes, write_json
from pathopatch.core.progress import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.core.workers import SPAWN, WorkerDied, Workers, follow_parent
from pathopatch.training.distributed import refuse_torchrun
from pathopatch.training.loop import StepCallback
from pathopatch.training.phase_data import require_groups
from pathopatch.training.run import RUN, begin_run, fit, load_sets, run_stamp, settings_of, write_run
from pathopatch.training.search import TrialRunner, search_plan
from pathopatch.training.trials import (
    DIVERGED,
    FOLDER,
    finished_trials,
    open_study,
    remove_checkpoints,
    search_lock,
    trial_table,
)

TRIALS, SEARCH = "trials.csv", "search.json"
_GRACE_S = 60.0  # in which a helping process sees that all trials are finished


def tune(
    work: Path,
    config: TrainConfig,
    search: TuneConfig,
    *,
    workers: int = 1,
    progress: StepCallback | None = None,
    force: bool = False,
) -> Path:
    """Search a method's settings, keep the winner as the run, and return its folder.

    A search that was killed goes on where it was, and one that is running is joined.

    Parameters
    ----------
    work : Path
        Work folder.
    config : TrainConfig
        Everything that is not searched, and the settings of the first trial.
    search : TuneConfig
        Number of trials or of steps, and ranges.
    workers : int
        Processes, this one among them; with several each has one thread, if `config` says no other number.
    progress : callable, optional
        See `fit_arrays`; the total counts the steps of all trials.
    force : bool
        Redo a search of other settings or inputs.

    Returns
    -------
    Path
        ``runs/<run_name>``: as `fit` leaves it, with the winner's settings, ``trials.csv``, ``search.json`` and
        ``search/`` with the journal.

    Raises
    ------
    NonFiniteError
        Every trial diverged.
    InputUnsupportedError
        The budget does not pay for one trial.
    PathopatchError
        As `fit`.
    """
    threads = 1 if workers > 1 and config.threads is None else config.threads
    helpers = min(workers, search_plan(config, search).trials) - 1
    return _tune(work, config, search, threads=threads, helpers=helpers, progress=progress, force=force)


def _tune(
    work: Path,
    config: TrainConfig,
    search: TuneConfig,
    *,
    threads: int | None,
    helpers: int = 0,
    progress: StepCallback | None = None,
    force: bool = False,
) -> Path:
    """Run a search in this process, with a number of helping ones."""
    folder = WorkFolder(work).run(config.run_name)
    place = folder / FOLDER
    groups = artefacts.read_table(WorkFolder(work).groups)
    settings = {"train": settings_of(config), "tune": search}
    stamp = run_stamp(work, groups, config, stage="tune", settings=settings)

    def is_done() -> bool:
        return is_up_to_date(folder / RUN, stamp=stamp, force=force)

    if is_done():
        return folder
    require_groups(groups, config)
    # Under the lock: a second process must not remove the marks of a search that the first has just finished.
    with search_lock(place):
        if is_done():
            return folder
        begin_run(folder)
    start = time.perf_counter()
    with _helping_processes(helpers, work, config, search, threads=threads):
        train, val = load_sets(work, groups, config)
        # Named by the stamp: a search of other settings in the same journal shares no trial with this one.
        study = open_study(place, name=fingerprint(stamp.to_dict()))
        run_config = config.model_copy(update={"threads": threads})
        trials = TrialRunner(train, val, run_config, search, study=study, folder=place, progress=progress)
        trials.run_all()
    # Under the lock: of several processes that see the last trial end, one writes the winner.
    with search_lock(place), artefact(folder / RUN, stamp=stamp, force=force) as made:
        if made.is_current:  # another process was faster
            return folder
        best, result = trials.winner()
        write_bytes(folder / TRIALS, trial_table(study).to_csv(index=False, lineterminator="\n").encode())
        write_json(folder / SEARCH, _search_facts(study, config, search))
        # The run keeps the user's thread count: that of the search depends on the number of workers.
        best = best.model_copy(update={"threads": config.threads})
        write_run(work, folder, result, best, made, train=train, seconds=time.perf_counter() - start)
        remove_checkpoints(place, study)
    return folder


def _search_facts(study: optuna.Study, config: TrainConfig, search: TuneConfig) -> dict[str, Any]:
    """Return the budget and the cost of a search, for comparisons."""
    plan, trials = search_plan(config, search), finished_trials(study).values()
    return {
        "offered": plan.offered,
        "objective": search.objective,
        "trials": len(trials),
        "steps_each": plan.steps_each,
        "steps": sum(int(trial.user_attrs["steps"]) for trial in trials),  # of pruned and diverged trials too
        "pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
        "diverged": sum(DIVERGED in trial.user_attrs for trial in trials),
    }


@contextmanager
def _helping_processes(
    count: int, work: Path, config: TrainConfig, search: TuneConfig, *, threads: int | None
) -> Iterator[None]:
    """Start other processes on the same search meanwhile; one that dies leaves its trial to the rest."""
    arguments = (work, config, search, threads)
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


def _run_helper(work: Path, config: TrainConfig, search: TuneConfig, threads: int | None) -> None:
    """Work on a search as a process of its own."""
    follow_parent()
    try:
        _tune(work, config, search, threads=threads)
    except PathopatchError:  # the process that started this one meets it too, and reports it
        raise SystemExit(1) from None


def train_many(
    work: Path,
    configs: Sequence[TrainConfig],
    search: TuneConfig | None,
    *,
    jobs: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Train, or tune where `search` is given, several runs; return their folders in the order of `configs`.

    With more than one job, each run has a process of its own.
    """
    refuse_torchrun("a study")
    # Processes of one thread each: on few cores and small networks that is faster than sharing threads, and it makes
    # the results independent of the number of jobs.
    if jobs <= 1:
        return [train_one(work, config, search, force=force, progress=progress) for config in configs]
    folders: dict[int, Path] = {}
    errors: list[PathopatchError] = []
    with Workers(min(jobs, len(configs))) as processes:
        for index, result in processes.run(partial(_train_or_error, work, search, force), configs):
            if isinstance(result, WorkerDied):
                errors.append(WorkerCrashError("the process that trained it died", place=configs[index].run_name))
            elif isinstance(result, PathopatchError):
                errors.append(result)
            else:
                folders[index] = result
            if progress:
                done = len(folders) + len(errors)
                progress("train" if search is None else "tune", done, len(configs), configs[index].run_name)
    # The first error is raised last: the other runs are worth keeping.
    if errors:
        raise errors[0]
    return [folders[index] for index in range(len(configs))]


def _train_or_error(work: Path, search: TuneConfig | None, force: bool, config: TrainConfig) -> Path | PathopatchError:
    """Return the run's folder, or the error that stopped it: an exception would end the worker process."""
    try:
        return train_one(work, config, search, force=force)
    except PathopatchError as error:
        return error


def train_one(
    work: Path,
    config: TrainConfig,
    search: TuneConfig | None = None,
    *,
    workers: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train one run, or tune it with `workers` processes where `search` is given; return its folder ``runs/<name>``."""

    def show_step(step: int, total: int, measures: dict[str, float]) -> None:
        assert progress is not None
        shown = " ".join(f"{key} {value:.3f}" for key, value in measures.items() if isinstance(value, float))
        progress(config.run_name, step, total, shown)

    on_step = None if progress is None else show_step
    if search is None:
        return fit(work, config, force=force, progress=on_step)
    refuse_torchrun("tuning")
    return tune(work, config, search, workers=workers, force=force, progress=on_step)
