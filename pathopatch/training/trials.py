"""Which trials of a search are done, who runs the next one, and which won? Shared by any number of processes.

Finished trials stand in a journal, one line each, written in one piece when the trial is over. A process that runs a
trial holds a lock on its number, which the operating system takes back when the process ends, however it ends: so no
trial is run twice at a time, none is lost, and the trial of a killed process is free at once. (On a network drive this
needs one that passes locks on, as NFS does.)
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
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from pathopatch.core.errors import NonFiniteError
from pathopatch.core.files import disk_errors

FOLDER, JOURNAL = "search", "trials.journal"
NUMBER, DIVERGED = "trial", "diverged"
"""Attributes of a finished trial: its number in the search, and how it diverged, if it did."""
MEASURES = tuple(f"{name}{end}" for name in ("wga", "gba") for end in ("", "_low", "_high"))


class _JournalLock(JournalFileOpenLock):
    """Optuna's lock of a journal, but one that a killed process does not keep for half a minute."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Give it back."""
        self._lock.release()


def open_study(folder: Path | None, *, name: str) -> optuna.Study:
    """Return the study of finished trials, from its journal if that is there; in memory where there is no folder.

    Parameters
    ----------
    folder : Path or None
        Of the search.
    name : str
        Of the study; a journal may hold several.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if folder is None:
        return optuna.create_study(study_name=name, direction="maximize")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    journal, lock = folder / JOURNAL, _JournalLock(folder / f"{JOURNAL}.lock")
    lock.acquire()
    try:
        _mend(journal)
    finally:
        lock.release()
    storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def _mend(journal: Path) -> None:
    """Cut off a last line that a full disk or a power cut left without its end; the next one would be glued to it."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with journal.open("r+b") as stream:
            stream.truncate(end)


def finished(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the finished trials by their number in the search."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    found: dict[int, FrozenTrial] = {}
    for trial in trials:
        found.setdefault(trial.user_attrs[NUMBER], trial)
    return dict(sorted(found.items()))


@contextmanager
def claimed(folder: Path | None, number: int) -> Iterator[bool]:
    """Yield whether this process may run a trial; while it may, no other does. Without a folder there is no other."""
    if folder is None:
        yield True
        return
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
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process begins or ends this search, and keep them waiting."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "search.lock"):
        yield


def kept_at(folder: Path, number: int) -> Path:
    """Return where a trial keeps its checkpoint."""
    return folder / f"trial-{number}"


def record_trial(study: optuna.Study, trial: FrozenTrial, *, folder: Path | None) -> None:
    """Write down a trial that is over, then remove the checkpoints of those that can no longer win.

    Raises
    ------
    DiskFullError
        No space was left; the trial is to be run again, from its checkpoint.
    """
    if folder is None:
        study.add_trial(trial)
        return
    with disk_errors(folder):
        study.add_trial(trial)
    _forget_losers(folder, study)


def _forget_losers(folder: Path, study: optuna.Study) -> None:
    """Remove the checkpoints of finished trials that are not the best of them."""
    done = finished(study)
    best = best_of(done)
    for number in done:
        if best is None or number != best.user_attrs[NUMBER]:
            shutil.rmtree(kept_at(folder, number), ignore_errors=True)


def tidy(folder: Path, study: optuna.Study) -> None:
    """Remove what a search that is over no longer needs; its journal stays."""
    for number in finished(study):
        shutil.rmtree(kept_at(folder, number), ignore_errors=True)
        (folder / f"{number}.lock").unlink(missing_ok=True)


def best_of(done: dict[int, FrozenTrial]) -> FrozenTrial | None:
    """Return the trial with the best value; of equal ones that of the higher GBA, then the first; None if none is good.

    A pruned trial never wins, whatever it had reached: it was judged at fewer steps.
    """
    good = [t for t in done.values() if t.state == TrialState.COMPLETE and DIVERGED not in t.user_attrs]
    return max(good, key=lambda t: (t.value or 0.0, t.user_attrs["picked_gba"], -t.user_attrs[NUMBER]), default=None)


def winner(study: optuna.Study) -> FrozenTrial:
    """Return the trial that won, see `best_of`.

    Raises
    ------
    NonFiniteError
        No trial ran to its end, since all diverged.
    """
    best = best_of(finished(study))
    if best is None:
        raise NonFiniteError(
            "every trial diverged",
            place="[tune] learning_rates",
            remedy="lower [tune] learning_rates, or look for damaged patches",
        )
    return best


def steps_taken(study: optuna.Study) -> int:
    """Return the training steps of all finished trials together, those of pruned and diverged ones included."""
    return sum(int(trial.user_attrs["steps"]) for trial in finished(study).values())


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Return one row a trial: its settings, what validation said, what it cost, and whether it won.

    Returns
    -------
    DataFrame
        trial; learning_rate, weight_decay, c, beta, and what else was searched; s = c (beta + 1) where it is searched,
        NaN otherwise; ``value``, by which trials are compared; ``wga`` and ``gba`` of the picked weights on all
        validation patches at decision threshold 0, each with ``_low`` and ``_high``, 95 % by patient (NaN for trials
        that did not end); ``picked_gba``, which settles ties of the value; ``step``, at which the weights were picked;
        ``steps``, taken; ``state``: complete, pruned or diverged; ``won``.
    """
    best = winner(study).user_attrs[NUMBER]
    rows: list[dict[str, Any]] = []
    for number, trial in finished(study).items():
        said = trial.user_attrs
        state = "diverged" if DIVERGED in said else trial.state.name.lower()
        row: dict[str, Any] = {"trial": number, **said["settings"], "s": said.get("s"), "value": trial.value}
        row |= {name: said.get(name, math.nan) for name in (*MEASURES, "picked_gba", "step")}
        rows.append(row | {"steps": said["steps"], "state": state, "won": number == best})
    return pd.DataFrame(rows)
