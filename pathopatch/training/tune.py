"""How is the search of a method's settings run as a stage? Patches and groups in; the winner as a run, and its trials.

Any number of processes may work on one search, started together or one beside the other: each trial is run by one of
them, and one writes the winner when all are done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from pathopatch.core import artefacts
from pathopatch.core.artefacts import fingerprint, json_stamp
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import PathopatchError
from pathopatch.core.files import inside, write_bytes, write_json
from pathopatch.core.workers import follow_parent
from pathopatch.training.fit import Progress
from pathopatch.training.required_groups import require_groups
from pathopatch.training.run import RUN, begin, load_sets, run_stamp, settings_of, write_run
from pathopatch.training.search import Trials, search_plan
from pathopatch.training.trials import (
    DIVERGED,
    FOLDER,
    alone,
    finished,
    open_study,
    steps_taken,
    tidy,
    trial_table,
)

TRIALS, SEARCH = "trials.csv", "search.json"
_GRACE_S = 60.0  # for a helping process to see that all is done


def tune(
    work: Path,
    config: TrainConfig,
    search: TuneConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """Search a method's settings, keep the winner as the run, and return its folder.

    A search that was killed goes on where it was, and one that is running is joined: each trial is run by one process,
    and one process writes the winner when all are done.

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
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """Do what `tune` does in this process, with a number of other ones to help."""
    folder = inside(work, "runs", config.run_name)
    place = folder / FOLDER
    groups = artefacts.read_table(work / "groups.parquet")
    settings = {"train": settings_of(config), "tune": search}
    stamp = run_stamp(work, groups, config, stage="tune", settings=settings)

    def is_done() -> bool:
        return artefacts.is_current(stamp, json_stamp(folder / RUN), place=folder, force=force)

    if is_done():
        return folder
    require_groups(groups, config)
    with alone(place):
        if is_done():
            return folder
        begin(folder)
    start = time.perf_counter()
    with _helped(helpers, work, config, search, threads=threads):
        train, val = load_sets(work, groups, config)
        study = open_study(place, name=fingerprint(stamp.to_dict()))
        run_config = config.model_copy(update={"threads": threads})
        trials = Trials(train, val, run_config, search, study=study, folder=place, progress=progress)
        trials.run_all()
    with alone(place):
        if is_done():  # another process was faster
            return folder
        best, fitted = trials.winner()
        write_bytes(folder / TRIALS, trial_table(study).to_csv(index=False, lineterminator="\n").encode())
        write_json(folder / SEARCH, _search_facts(study, config, search))
        best = best.model_copy(update={"threads": config.threads})
        write_run(work, folder, fitted, best, stamp, train=train, seconds=time.perf_counter() - start)
        tidy(place, study)
    return folder


def _search_facts(study: optuna.Study, config: TrainConfig, search: TuneConfig) -> dict[str, Any]:
    """Return what a search was given and what it took, for comparisons."""
    plan, done = search_plan(config, search), finished(study).values()
    return {
        "offered": plan.offered,
        "objective": search.objective,
        "trials": len(done),
        "steps_each": plan.steps_each,
        "steps": steps_taken(study),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in done),
        "diverged": sum(DIVERGED in trial.user_attrs for trial in done),
    }


@contextmanager
def _helped(count: int, work: Path, config: TrainConfig, search: TuneConfig, *, threads: int | None) -> Iterator[None]:
    """Let other processes work on the same search meanwhile; one that dies leaves its trial to the rest."""
    context = get_context("spawn")
    processes = [context.Process(target=_help, args=(work, config, search, threads), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    deadline = time.monotonic()
    try:
        yield
        deadline = time.monotonic() + _GRACE_S
    finally:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()


def _help(work: Path, config: TrainConfig, search: TuneConfig, threads: int | None) -> None:
    """Work on a search as a process of its own."""
    follow_parent()
    try:
        _tune(work, config, search, threads=threads)
    except PathopatchError:  # the process that started this one meets it too, and says it
        raise SystemExit(1) from None
