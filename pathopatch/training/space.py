"""Answers what the trials of a method choose from, and what trial number n chooses.

The choice of a trial is a function of the seed, its number, and the results of the trials of earlier waves: never of
which process runs it, or when. So any number of processes finds the same trials, and an interrupted search the same as
one that was left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import BasePruner, NopPruner, PercentilePruner
from optuna.trial import FrozenTrial, Trial

from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.debias import gerne
from pathopatch.debias.searched import searched
from pathopatch.training.augment import mixed_seed
from pathopatch.training.dataset import PatchSet
from pathopatch.training.phase_data import shares_of

WAVE = 4
"""Trials that choose without knowing each other's results, and so may run side by side: four processes never wait
within a wave. A trial knows the results of all earlier waves."""
_RANDOM_TRIALS = 5  # before the sampler learns from those that are done
_KEPT_PERCENT = 75.0  # a trial is pruned only below three quarters of the known ones: a WGA of few patches is noisy
_WARM_UP = 1 / 3  # of a trial's evaluations: early on a WGA of 0 says nothing
_TWO_VALUES_S = 2.0


@dataclass(frozen=True)
class Space:
    """What the trials of a method choose from.

    Parameters
    ----------
    ranges : mapping of str to (low, high)
        Settings searched on a logarithmic scale.
    grid : tuple of mapping
        Settings that go together, such as c and beta, in the order in which they are first tried; empty for methods
        without.
    """

    ranges: Mapping[str, tuple[float, float]]
    grid: tuple[Mapping[str, float], ...]

    @property
    def names(self) -> list[str]:
        """How a study names the points of the grid."""
        return [" ".join(f"{name}={value:.9g}" for name, value in point.items()) for point in self.grid]


def search_space(train: PatchSet, config: TrainConfig, search: TuneConfig) -> Space:
    """Return what trials choose from: of c and s only such pairs whose beta is inside its bounds on these groups.

    Those nearest to s = 1 come first, and of equal ones those of the larger c: its smaller beta amplifies the noise of
    the batches less. Last come what does not extrapolate (beta = 0: resampling on half of the batch) and what the first
    trial has already tried.

    Where the groups are pseudo-attributes (t is searched), they differ from trial to trial; but of two values every
    s up to 2 keeps 0 <= p_ext <= 1 whatever their shares, since p_ext of the larger one is
    alpha - s (alpha - 1/2) >= 1 - s/2 for s >= 1. So the grid ends there.
    """
    own = searched(config.method)
    ranges = {"learning_rate": search.learning_rates, "weight_decay": search.weight_decays}
    ranges |= {name: found for name in own if (found := getattr(search, f"{name}_range", None)) is not None}
    shares = None if "t" in own else shares_of(train, config)
    points: list[dict[str, float]] = []
    if "extrapolation" in own:
        points = [
            {"c": c, "beta": s / c - 1} for c in search.c_values for s in search.s_values if _is_inside(shares, c, s)
        ]
    elif "s" in own:
        points = [{"s": s} for s in search.s_values if _is_inside(shares, 1.0, s)]

    def rank(point: Mapping[str, float]) -> tuple[bool, float, float, float]:
        is_tried = all(getattr(config, name, None) == value for name, value in point.items())
        c, beta = point.get("c", 1.0), point.get("beta", point.get("s", 1.0) - 1)
        return (beta == 0 and "c" in point) or is_tried, round(abs(c * (beta + 1) - 1), 9), -c, beta

    return Space(ranges, tuple(sorted(points, key=rank)))


def _is_inside(shares: NDArray[np.float64] | None, c: float, s: float) -> bool:
    """Return whether s is inside the bounds at c, on which they do not depend; None: shares differ."""
    if shares is None:
        return 0 <= s <= _TWO_VALUES_S
    low, high = gerne.beta_bounds(shares, c)
    return low <= s / c - 1 <= high


def known_to(number: int, finished: Mapping[int, FrozenTrial]) -> list[FrozenTrial] | None:
    """Return the trials of the waves before a trial's own, in order; None while one of them is not finished."""
    earlier = range(number - number % WAVE)
    return [finished[other] for other in earlier] if all(other in finished for other in earlier) else None


def planned(
    number: int, known: Sequence[FrozenTrial], config: TrainConfig, search: TuneConfig, space: Space
) -> tuple[Trial, TrainConfig]:
    """Return a trial that is to be run, and its settings; the first is the configuration as it stands.

    Parameters
    ----------
    number : int
        Of the trial, from 0.
    known : sequence of FrozenTrial
        See `known_to`. The trial learns from them, and is pruned by them, and by nothing else.
    config : TrainConfig
        Everything that is not searched.
    search : TuneConfig
        Whether to prune.
    space : Space
        What to choose from.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = mixed_seed(config.seed, number) % 2**32
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=_pruner(config, search))
    study.add_trials(known)
    if 1 <= number <= len(space.grid):
        study.enqueue_trial({"grid": space.names[number - 1]})
    trial = study.ask()
    return trial, config if number == 0 else _suggested(trial, config, space)


def _suggested(trial: Trial, config: TrainConfig, space: Space) -> TrainConfig:
    """Return the configuration of one trial."""
    update: dict[str, Any] = {
        name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in space.ranges.items()
    }
    if space.grid:
        update |= space.grid[space.names.index(trial.suggest_categorical("grid", space.names))]
    return config.model_copy(update=update)


def _pruner(config: TrainConfig, search: TuneConfig) -> BasePruner:
    """Return what ends a trial early; it compares at equal steps, by the best validation so far."""
    if not search.prune:
        return NopPruner()
    warm_up = round(_WARM_UP * min(config.steps, config.evaluations))
    return PercentilePruner(_KEPT_PERCENT, n_startup_trials=WAVE, n_warmup_steps=warm_up)
