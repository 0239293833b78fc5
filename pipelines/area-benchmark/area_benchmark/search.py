"""Choose the settings of each row on one seed that is not reported: as many trials for every row, compared alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from area_benchmark.settings import BenchmarkConfig
from pathopatch.debias.methods import extrapolates

_S = (0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
_DCOR = (0.1, 5.0)


def trials_of(config: BenchmarkConfig, row: str) -> list[dict[str, Any]]:
    """Return the settings of a row's trials: first its own, then random ones that are the same for all rows."""
    settings = config.settings(row, seed=config.search.seed)
    trials: list[dict[str, Any]] = [{}]
    for number in range(1, config.search.trials):
        rng = np.random.default_rng((config.search.seed, number))
        rate, decay = (
            float(np.exp(rng.uniform(*np.log(ends))))
            for ends in (config.search.learning_rates, config.search.weight_decays)
        )
        drawn: dict[str, Any] = {"learning_rate": rate, "weight_decay": decay}
        s = float(rng.choice(_S))
        if extrapolates(settings.method):  # beta >= 0
            c = min(s, settings.gerne.c)
            drawn["gerne"] = {"c": c, "beta": s / c - 1}
        weight = float(np.exp(rng.uniform(*np.log(_DCOR))))
        if settings.method == "decorrelate":
            drawn["method_args"] = {"dcor_weight": weight}
        trials.append(drawn)
    return trials


def winners(table: pd.DataFrame) -> dict[str, int]:
    """Return the winning trial of each row: by validation WGA, then GBA, in the mean over the grounds' polarities.

    `table` has a row for each row of the benchmark, trial and polarity: row, trial, val_wga, val_gba.
    """
    means = table.groupby(["row", "trial"], as_index=False)[["val_wga", "val_gba"]].mean()
    ranked = means.sort_values(["val_wga", "val_gba", "trial"], ascending=[False, False, True], kind="stable")
    best = ranked.drop_duplicates("row")
    return dict(zip(best["row"], best["trial"].astype(int), strict=True))
