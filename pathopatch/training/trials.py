"""Store the finished trials of a search, and share out the next ones among processes.

Finished trials stand in Optuna's journal, one line each, written in one piece. A process that runs a trial holds a lock
on its number, which the operating system releases when the process ends, however it ends. So no trial is run twice at
a time, none is lost, and the trial of a killed process is free at once. A network drive must support locks: NFS does.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pathopatch.core.errors import NonFiniteError
from pathopatch.core.files import disk_errors

FOLDER, JOURNAL = "search", "trials.journal"
NUMBER, DIVERGED = "trial", "diverged"
"""Attributes of a finished trial: its number in the search, and how it diverged, if it did."""
MEASURES = tuple(f"{name}{end}" for name in ("wga", "gba") for end in ("", "_low", "_high"))


def open_study(folder: Path | None, *, name: str) -> optuna.Study:
    """Return the study of finished trials in a folder's journal, which may hold several; in memory without a folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if folder is None:
        return optuna.create_study(study_name=name, direction="maximize")
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
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    finished: dict[int, FrozenTrial] = {}
    for trial in trials:
        finished.setdefault(trial.user_attrs[NUMBER], trial)
    return dict(sorted(finished.items()))


@contextmanager
def trial_lock(folder: Path | None, number: int) -> Iterator[bool]:
    """Yield whether this process holds the lock of a trial; without a folder there is no other process."""
    if folder is None:
        yield True
        return
    # Optuna tells a killed trial by the heartbeats of a database, after minutes; a journal has none.
    lock = FileLock(folder / f"{number}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def search_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which a process begins or ends this search."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "search.lock"):
        yield


def trial_folder(folder: Path, number: int) -> Path:
    """Return the folder of a trial's checkpoint."""
    return folder / f"trial-{number}"


def record_trial(study: optuna.Study, trial: FrozenTrial, *, folder: Path | None) -> None:
    """Record a finished trial, then remove the checkpoints of those that can no longer win."""
    if folder is None:
        study.add_trial(trial)
        return
    with disk_errors(folder):
        study.add_trial(trial)
    finished = finished_trials(study)
    best = best_trial(finished)
    for number in finished:
        if best is None or number != best.user_attrs[NUMBER]:
            shutil.rmtree(trial_folder(folder, number), ignore_errors=True)


def remove_checkpoints(folder: Path, study: optuna.Study) -> None:
    """Remove the checkpoints and locks of a search that is over; its journal stays."""
    for number in finished_trials(study):
        shutil.rmtree(trial_folder(folder, number), ignore_errors=True)
        (folder / f"{number}.lock").unlink(missing_ok=True)


def best_trial(finished: dict[int, FrozenTrial]) -> FrozenTrial | None:
    """Return the trial with the best value; of equals that of the higher GBA, then the first; None if none is good."""
    # A pruned trial never wins, whatever it had reached: its value is that of fewer steps.
    good = [t for t in finished.values() if t.state == TrialState.COMPLETE and DIVERGED not in t.user_attrs]
    return max(good, key=lambda t: (t.value or 0.0, t.user_attrs["picked_gba"], -t.user_attrs[NUMBER]), default=None)


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

    Returns
    -------
    DataFrame
        trial; learning_rate, weight_decay, c, beta, and what else was searched; s = c (beta + 1) where it is searched,
        NaN otherwise; ``value``, by which trials are compared; ``wga`` and ``gba`` of the picked weights on all
        validation patches at decision threshold 0, each with ``_low`` and ``_high``, 95 % by patient (NaN for trials
        that did not end); ``picked_gba``, which settles ties of the value; ``step``, at which the weights were picked;
        ``steps``, taken; ``state``: complete, pruned or diverged; ``won``.
    """
    best = winning_trial(study).user_attrs[NUMBER]
    rows: list[dict[str, Any]] = []
    for number, trial in finished_trials(study).items():
        attributes = trial.user_attrs
        state = "diverged" if DIVERGED in attributes else trial.state.name.lower()
        row = {"trial": number, **attributes["settings"], "s": attributes.get("s"), "value": trial.value}
        row |= {name: attributes.get(name, math.nan) for name in (*MEASURES, "picked_gba", "step")}
        rows.append(row | {"steps": attributes["steps"], "state": state, "won": number == best})
    return pd.DataFrame(rows)
