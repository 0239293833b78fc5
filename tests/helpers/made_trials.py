"""A made-up search: the ``trials.csv`` of a run."""

from __future__ import annotations

import numpy as np
import pandas as pd


def trials_of(n: int, *, s: bool, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    grid = np.array([1.0, 0.9, 1.1, 0.75, 1.25, 0.5, 1.5, 1.0])[:n] if s else np.full(n, np.nan)
    c = np.where(np.arange(n) % 2, 1.0, 0.5)
    wga = 0.75 - 0.5 * (np.nan_to_num(grid, nan=1.0) - 1.05) ** 2 + rng.normal(0, 0.02, n)
    table = pd.DataFrame({"trial": range(n), "learning_rate": 10 ** rng.uniform(-3.5, -2.5, n), "weight_decay": 0.01})
    table = table.assign(c=c, beta=grid / c - 1, s=grid, value=wga, wga=wga, wga_low=wga - 0.08, wga_high=wga + 0.07)
    table = table.assign(
        gba=wga + 0.1, gba_low=wga + 0.07, gba_high=wga + 0.12, wga_at_zero=wga - 0.05, likelihood=-0.5, step=500.0
    )
    table = table.assign(steps=600, state="complete", won=np.arange(n) == wga.argmax())
    if n > 5:
        table.loc[5, ["wga", "wga_low", "wga_high", "gba", "gba_low", "gba_high", "step"]] = np.nan
        table.loc[5, ["value", "steps", "state", "won"]] = [0.4, 250, "pruned", False]
    return table
