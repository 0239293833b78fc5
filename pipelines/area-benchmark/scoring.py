"""Measure whether trials and checkpoints are better compared by a plain or by a cross-fitted validation score.

The threshold of a plain score is fitted on the patches that it scores; that of a cross-fitted one on the other half of
the patients. Each run of seeds 0 to 3 keeps the validation score of every checkpoint by each rule, with the test WGA at
the threshold that all of validation chooses. Rows are added to ``scoring.csv``; see README.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from area_benchmark.cells import Cell, load_inputs
from area_benchmark.search import trials_of
from area_benchmark.settings import BenchmarkConfig
from area_benchmark.settings import load as load_benchmark
from area_benchmark.tables import interval
from benchmark import HERE, _add, _pooled, _rows, make
from numpy.typing import NDArray

from pathopatch import metrics
from pathopatch.training import loop
from pathopatch.training.crops import keep_crops, patches_with_crop
from pathopatch.training.fit import fit_arrays

SCORING = "scoring.csv"
SEEDS, TRIALS, ROWS = (0, 1, 2, 3), 4, ("resample", "interior erm")
RULES = ("plain", "cross-fitted", "at zero")
_HALVES = 10  # random divisions of the validation patients, of which a cross-fitted score is the mean
_COHORT, _TRIAL = ["row", "polarity", "seed"], ["row", "polarity", "seed", "trial"]


def main() -> None:
    """Run what has no row yet, and print what each rule picks."""
    options = _arguments()
    config, path = load_benchmark(options.config), options.out / SCORING
    known = _rows(path)
    done = set(map(tuple, known[_TRIAL].to_numpy())) if len(known) else set()
    cells = [
        (Cell(config.search.ground, config.search.case, polarity, seed, row), number)
        for seed in SEEDS
        for polarity in config.grounds[config.search.ground].polarities
        for row in ROWS
        for number in range(TRIALS)
        if (row, polarity, seed, number) not in done
    ]
    for cell, _ in cells:
        make(options.work, config, cell)
    deadline = time.monotonic() + 60 * options.minutes
    tasks = [(checkpoints, (cell, number, config, options.work)) for cell, number in cells]
    for rows in _pooled(tasks, options.jobs, deadline):
        _add(path, rows["checkpoints"])
        print({name: rows["checkpoints"][0][name] for name in _TRIAL}, flush=True)
    print(table(_rows(path)))


def checkpoints(cell: Cell, number: int, config: BenchmarkConfig, work: Path) -> dict[str, Any]:
    """Return a row for every checkpoint of a trial: its score by each rule, and its WGA on test."""
    torch.set_num_threads(1)
    settings = config.settings(cell.row, seed=cell.seed, **trials_of(config, cell.row)[number])
    sets = load_inputs(make(work, config, cell), cell, config, input_px=settings.input_px)
    test, compute, rows = sets["test"], loop.compute_logits, []
    if settings.mask == "interior":  # patches without a crop are left out, of validation too
        has_crop = patches_with_crop(test, keep_crops(sets["train"], settings)[1].crop_px)
        test = test.rows(has_crop) if has_crop.any() else test

    def recorded(run: Any, network: Any, patches: Any, index: NDArray[np.int64]) -> NDArray[np.float64]:
        every = compute(run, network, patches, index)
        logits, index = (every, index) if run.judged is None else (every[run.judged[index]], index[run.judged[index]])
        judged = compute(run, network, test, np.arange(len(test)))
        own = patches.label[index], patches.attribute[index]
        scores = scores_of(logits[:, 1] - logits[:, 0], *own, patches.patient[index], seed=cell.seed)
        threshold = metrics.best_decision_threshold(logits[:, 1] - logits[:, 0], *own)
        positive = (judged[:, 1] - judged[:, 0] > threshold).astype(np.int64)
        wga = 100 * metrics.worst_group_accuracy(positive, test.label, test.attribute)
        about = {"row": cell.row, "polarity": cell.polarity, "seed": cell.seed, "trial": number}
        rows.append({**about, "checkpoint": len(rows), **scores, "test_wga": wga})
        return every

    with patch.object(loop, "compute_logits", recorded):
        fit_arrays(sets["train"], sets["val"], settings)
    return {"checkpoints": rows}


def scores_of(
    margin: NDArray[np.float64], y: NDArray[np.int64], a: NDArray[np.int64], patient: NDArray[Any], *, seed: int
) -> dict[str, float]:
    """Return the validation WGA of margins (N,) by each rule, in percent."""

    def wga(rows: NDArray[np.bool_], threshold: float) -> float:
        positive = (margin[rows] > threshold).astype(np.int64)
        return 100 * metrics.worst_group_accuracy(positive, y[rows], a[rows])

    everyone = np.ones(len(y), np.bool_)
    crossed = []
    for half in range(_HALVES):
        names = np.random.default_rng((seed, half)).permutation(np.unique(patient))
        first = np.isin(patient, names[: len(names) // 2])
        for fitted in (first, ~first):
            threshold = metrics.best_decision_threshold(margin[fitted], y[fitted], a[fitted])
            crossed.append(wga(~fitted, threshold))
    plain = wga(everyone, metrics.best_decision_threshold(margin, y, a))
    return dict(zip(RULES, (plain, float(np.mean(crossed)), wga(everyone, 0.0)), strict=True))


def table(rows: pd.DataFrame) -> str:
    """Return the test WGA of what each rule picks, of checkpoints and of trials, paired over cohorts."""
    lines = ["| picks | row | rule | cohorts | test WGA | less plain, 95 % interval over cohorts |", "|---" * 6 + "|"]
    for what, keys in (("a checkpoint of each trial", _TRIAL), ("trial and checkpoint", _COHORT)):
        for row, part in rows.groupby("row", sort=False):
            picked = {
                rule: part.loc[part.groupby(keys)[rule].idxmax()].groupby(_COHORT)["test_wga"].mean() for rule in RULES
            }
            for rule, wga in picked.items():
                less = (wga - picked["plain"]).to_numpy()
                low, high = interval(less)
                shown = "" if rule == "plain" else f"{less.mean():+.2f} ({low:+.2f} to {high:+.2f})"
                lines.append(f"| {what} | {row} | {rule} | {len(wga)} | {wga.mean():.1f} | {shown} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config", type=Path, default=HERE / "benchmark.toml")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "area-benchmark")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of scoring.csv")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this")
    return parser.parse_args()


if __name__ == "__main__":
    main()
