"""Which settings of a method are best: the same number of trials for every method, judged by validation alone.

The first trial is the configuration as it stands. The others vary learning rate and weight decay, and where the
objective extrapolates also c and s = c (beta + 1), inside the bounds of beta: first the grid around s = 1, from there
outwards, so that a search of few trials does not miss its middle. Test patches are never loaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from pathopatch import provenance
from pathopatch.config import TrainConfig, TuneConfig
from pathopatch.debias import gerne
from pathopatch.errors import NonFiniteError
from pathopatch.files import inside, write_bytes
from pathopatch.provenance import fingerprint, json_stamp
from pathopatch.training.augment import mixed_seed
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import Fitted, Progress, fit_arrays
from pathopatch.training.passing import phases_of
from pathopatch.training.run import RUN, begin, load_sets, run_stamp, settings_of, write_run

JOURNAL, TRIALS = "trials.journal", "trials.csv"
_RANDOM_TRIALS = 5  # before the sampler learns from those that are done
_DIVERGED = "diverged"


@dataclass(frozen=True)
class Space:
    """What the trials of a method choose from.

    Parameters
    ----------
    learning_rate, weight_decay : tuple of float
        Lowest and highest, searched on a logarithmic scale.
    extrapolation : tuple of (c, beta)
        In the order in which they are first tried; empty for methods without.
    """

    learning_rate: tuple[float, float]
    weight_decay: tuple[float, float]
    extrapolation: tuple[tuple[float, float], ...]


def tune(
    work: Path,
    config: TrainConfig,
    search: TuneConfig,
    *,
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """Search a method's settings, keep the winner as the run, and return its folder.

    Trials are kept in a journal under the run, so that a search that was killed goes on where it was.

    Parameters
    ----------
    work : Path
        Work folder.
    config : TrainConfig
        Everything that is not searched, and the settings of the first trial.
    search : TuneConfig
        Number of trials and ranges.
    progress : callable, optional
        See `fit_arrays`; the total counts the steps of all trials.
    force : bool
        Redo a search of other settings or inputs.

    Returns
    -------
    Path
        ``runs/<run_name>``: as `fit` leaves it, with the winner's settings, and ``trials.csv``.

    Raises
    ------
    NonFiniteError
        Every trial diverged.
    PathopatchError
        As `fit`.
    """
    folder = inside(work, "runs", config.run_name)
    groups = provenance.read_table(work / "groups.parquet")
    settings = {"train": settings_of(config), "tune": search}
    stamp = run_stamp(work, groups, config, stage="tune", settings=settings)
    if provenance.is_current(stamp, json_stamp(folder / RUN), place=folder, force=force):
        return folder
    begin(folder)
    train, val = load_sets(work, groups, config)
    start = time.perf_counter()
    study = _study(folder / JOURNAL, name=fingerprint(stamp.to_dict()))
    best, fitted = search_arrays(train, val, config, search, study=study, progress=progress)
    table = trial_table(study).to_csv(index=False, lineterminator="\n")
    write_bytes(folder / TRIALS, table.encode())
    write_run(work, folder, fitted, best, stamp, source=train.source, seconds=time.perf_counter() - start)
    return folder


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
        Number of trials, ranges, and what to maximise on validation.
    study : optuna.Study, optional
        Trials done so far; None for none.
    progress : callable, optional
        See `fit_arrays`.

    Raises
    ------
    NonFiniteError
        Every trial diverged.
    """
    study = study or _study(None, name="search")
    config = config.model_copy(update={"select": search.objective})
    space = search_space(train, config, search)
    kept: tuple[int, Fitted] | None = None
    for number in range(len(_finished(study)), search.trials):
        study.sampler = _sampler(mixed_seed(config.seed, number))  # anew each time: a resumed search draws the same
        _enqueue(study, number, space)
        trial = study.ask()
        chosen = config if number == 0 else suggested(trial, config, space)
        _note(trial, chosen)
        try:
            fitted = fit_arrays(train, val, chosen, progress=_shifted(progress, number, search.trials))
        except NonFiniteError as error:
            trial.set_user_attr(_DIVERGED, str(error))
            study.tell(trial, 0.0)
            continue
        trial.set_user_attr("gba", _picked(fitted)["val_gba"])
        trial.set_user_attr("step", fitted.step)
        study.tell(trial, _picked(fitted)[f"val_{search.objective}"])
        if winner(study).number == trial.number:
            kept = (trial.number, fitted)
    best = winner(study)
    settings = config.model_copy(update=best.user_attrs["settings"])
    if kept is None or kept[0] != best.number:  # it was found before the search was interrupted
        kept = (best.number, fit_arrays(train, val, settings))
    return settings, kept[1]


def search_space(train: PatchSet, config: TrainConfig, search: TuneConfig) -> Space:
    """Return what trials choose from: (c, beta) of every c and s whose beta is inside its bounds on these groups.

    Those nearest to s = 1 come first, and of equal ones those of the larger c: its smaller beta amplifies the noise of
    the batches less. Last come what does not extrapolate (beta = 0: resampling on half of the batch) and what the first
    trial has already tried.
    """
    objective = phases_of(config)[-1].objective(np.ones((2, 2), dtype=np.int64))
    pairs: list[tuple[float, float]] = []
    if hasattr(objective, "beta"):
        shares = gerne.alpha(train.label, train.attribute)
        for c in search.c_values:
            low, high = gerne.beta_bounds(shares, c)
            betas = [s / c - 1 for s in search.s_values]
            pairs += [(c, beta) for beta in betas if low <= beta <= high]
    tried = (config.c, config.beta)

    def rank(pair: tuple[float, float]) -> tuple[bool, float, float, float]:
        c, beta = pair
        return beta == 0 or pair == tried, round(abs(c * (beta + 1) - 1), 9), -c, beta

    pairs.sort(key=rank)
    return Space(search.learning_rates, search.weight_decays, tuple(pairs))


def suggested(trial: Trial, config: TrainConfig, space: Space) -> TrainConfig:
    """Return the configuration of one trial."""
    update: dict[str, Any] = {
        "learning_rate": trial.suggest_float("learning_rate", *space.learning_rate, log=True),
        "weight_decay": trial.suggest_float("weight_decay", *space.weight_decay, log=True),
    }
    if space.extrapolation:
        names = _names(space)
        chosen = names.index(trial.suggest_categorical("extrapolation", names))
        update["c"], update["beta"] = space.extrapolation[chosen]
    return config.model_copy(update=update)


def _names(space: Space) -> list[str]:
    """Return how a study's journal names the pairs of c and beta."""
    return [f"c={c:g} beta={beta:.9g}" for c, beta in space.extrapolation]


def _enqueue(study: optuna.Study, number: int, space: Space) -> None:
    """Say which c and beta a trial tries, while the grid lasts; the rest of it is drawn."""
    if 1 <= number <= len(space.extrapolation) and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial({"extrapolation": _names(space)[number - 1]})


def winner(study: optuna.Study) -> FrozenTrial:
    """Return the trial with the best value; of equal ones that of the higher GBA, then the first.

    Raises
    ------
    NonFiniteError
        Every trial diverged.
    """
    good = [trial for trial in _finished(study) if _DIVERGED not in trial.user_attrs]
    if not good:
        raise NonFiniteError(
            "every trial diverged", place="tune", remedy="lower learning_rates, or look for damaged patches"
        )
    return max(good, key=lambda trial: (trial.value or 0.0, trial.user_attrs["gba"], -trial.number))


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Return one row per trial: its settings, what validation said, and whether it won."""
    best = winner(study).number
    rows = []
    for number, trial in enumerate(_finished(study)):
        attributes = trial.user_attrs
        row = {"trial": number, **attributes["settings"], "value": trial.value, "gba": attributes.get("gba")}
        row |= {"step": attributes.get("step"), "diverged": _DIVERGED in attributes, "won": trial.number == best}
        rows.append(row)
    return pd.DataFrame(rows)


def _study(journal: Path | None, *, name: str) -> optuna.Study:
    """Return a study, from its journal if that is there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None if journal is None else JournalStorage(JournalFileBackend(str(journal)))
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial."""
    return optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=_RANDOM_TRIALS)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials with a result; those that a kill interrupted have none and are run again."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _note(trial: Trial, chosen: TrainConfig) -> None:
    """Keep the settings of a trial beside it."""
    names = ("learning_rate", "weight_decay", "c", "beta")
    trial.set_user_attr("settings", {name: getattr(chosen, name) for name in names})


def _picked(fitted: Fitted) -> dict[str, Any]:
    """Return the history's row of the evaluation that was picked."""
    return next(row for row in reversed(fitted.history) if row["step"] == fitted.step)


def _shifted(progress: Progress | None, number: int, trials: int) -> Progress | None:
    """Return a callback that counts the steps of all trials together."""
    if progress is None:
        return None

    def callback(step: int, total: int, metrics: dict[str, float]) -> None:
        progress(number * total + step, trials * total, metrics)

    return callback
