"""Measure what the tissue area alone reaches at equal area: on every ground, and by several rules in simulations.

Writes ``equal_area.csv`` and ``equal_area_simulated.csv`` beside this file. Needs PATHOPATCH_REAL_DATA, and no network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import benchmark
import numpy as np
import pandas as pd
from area_benchmark import natural
from area_benchmark.cells import Cell, load
from area_benchmark.settings import load as load_benchmark
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from pathopatch.metrics import auroc
from pathopatch.metrics.equal_area import _LEAST_PAIRS, CALIPERS, DISTANCE, _Patches, auroc_at_equal_area, tells_area

HERE = Path(__file__).resolve().parent
PIXELS = 128 * 128
TRUTH = 0.7602499  # Phi(1 / sqrt(2)): a score that knows the label by one standard deviation, and no area
RULES = {
    "distance 0.02": ("distance", (DISTANCE,), _LEAST_PAIRS),
    "distance": ("distance", (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0), _LEAST_PAIRS),
    "logit": ("logit", (9.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0), _LEAST_PAIRS),
    "rank": ("rank", CALIPERS, _LEAST_PAIRS),
    "rank, 100 pairs": ("rank", CALIPERS, 100),
    "rank, beyond noise": ("rank", CALIPERS, _LEAST_PAIRS),
}
"""Scale, its widest to narrowest distances, and the pairs that a narrower one must keep."""
REPEATS = {200: 100, 1000: 40, 5000: 10, 50_000: 3}


def grounds(work: Path, *, imposed_seeds: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each ground and case with the tissue fraction, label and fold of its test patches; equal ones once."""
    config = load_benchmark(HERE / "benchmark.toml")
    seeds = {part.ground: part.seeds for part in (*config.natural, *(config.frozen.grounds if config.frozen else ()))}
    for ground in natural.SETTINGS:
        for case in natural.cases(ground):
            if ", 0.25" in case or case in ("8 of each class", "none"):
                continue  # the same test patches as another case
            for seed in seeds[ground]:
                folds = natural.folds(ground, case, seed, work, is_frozen=True)
                parts = [_areas(fold.test).assign(fold=number) for number, fold in enumerate(folds)]
                yield f"{ground}, {case}, seed {seed}", pd.concat(parts)
    for ground, about in config.grounds.items():
        for seed in about.seeds[:imposed_seeds]:
            for polarity in about.polarities:
                folder = benchmark.make(work, config, Cell(ground, "1 %", polarity, seed, ""))
                test = load(folder, "1 %", config, input_px=64)["test"]
                yield f"{ground}, {polarity}, seed {seed}", _areas(test).assign(fold=0)


def _areas(patches: natural.PatchSet) -> pd.DataFrame:
    return pd.DataFrame({"fraction": patches.tissue_fraction, "label": patches.label})


def of_ground(name: str, table: pd.DataFrame) -> dict[str, object]:
    """Return the floor of a ground at a distance of 0.02 alone, and at the caliper."""
    fraction, label = table["fraction"].to_numpy(np.float64), table["label"].to_numpy(np.int64)
    before = Pairs(fraction, fraction, label, table["fold"].to_numpy(), "distance", DISTANCE)
    after = auroc_at_equal_area(fraction, label, fraction, stratum=table["fold"])
    return {
        "ground": name, "patches": len(table), "auroc": auroc(fraction, label),
        "pairs_before": before.count, "floor_before": before.value,
        "caliper": after.caliper, "pairs": after.pairs, "floor": after.floor, "partnered": after.partnered,
        "is_told": not tells_area(after.floor),
    }  # fmt: skip


class Pairs:
    """Pairs within `DISTANCE` and within a distance on some scale, and how often the tumour patch scores higher."""

    def __init__(
        self,
        score: NDArray[np.float64],
        fraction: NDArray[np.float64],
        label: NDArray[np.int64],
        stratum: NDArray[np.int64],
        scale: str,
        distance: float,
    ) -> None:
        patches = _Patches.of(score, label, fraction, stratum, None)
        positive, negative = (patches.rows(patches.label == y) for y in (1, 0))
        values = {"distance": fraction, "rank": rankdata(fraction) / len(fraction)}
        places = values.get(scale, np.log((fraction + 1e-3) / (1 - fraction + 1e-3)))[patches.order]
        places = places + 100 * (patches.key - patches.fraction)  # strata far apart
        own, others = places[patches.label == 0], places[patches.label == 1]
        first, end = negative.near(positive, 1.0)
        first = np.maximum(first, np.searchsorted(own, others - distance - 1e-9, "left"))
        end = np.maximum(first, np.minimum(end, np.searchsorted(own, others + distance + 1e-9, "right")))
        wins, size = negative.below(positive.level, first, end), end - first
        self.count, self.partnered = int(size.sum()), float((size > 0).mean())
        self.value = float(wins.sum() / self.count) if self.count else float("nan")
        # The tumour patches' part of the variance, doubled for the others', which weigh the same.
        self.error = float(np.sqrt(2 * ((wins - self.value * size) ** 2).sum()) / max(self.count, 1))


def simulated(kind: str, level: float, n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return tissue fractions of patches of 16,384 px and labels, which the fraction tells with an AUROC of `level`.

    full: the share of glass is beta(1, 55), rarer in tumour; steep: beta(a, 150) with a below 1 in tumour; empty: full,
    with tissue and glass swapped; half full: every other patch is full, the others uniform; uniform; four values.
    """
    rng = np.random.default_rng((seed, n))
    label = rng.integers(0, 2, n)
    glass = rng.beta(1, np.where(label == 1, 55 * level / (1 - level), 55))
    if kind == "steep":
        glass = rng.beta(np.where(label == 1, (1 - level) / level, 1), 150)
    shift = np.sqrt(2) * norm.ppf(level)
    evenly = rankdata(rng.normal(size=n) + shift * label) / n
    fraction = {"full": 1 - glass, "steep": 1 - glass, "empty": glass, "uniform": evenly}.get(kind)
    if fraction is None:
        fraction = np.where(rng.random(n) < 0.5, 1 - glass, 0.9 * evenly) if kind == "half full" else evenly
    return (np.round(4 * fraction) / 4 if kind == "four values" else np.round(PIXELS * fraction) / PIXELS), label


def of_simulation(kind: str, level: float, n: int) -> Iterator[dict[str, object]]:
    """Yield what each rule gives: the mean floor, how often it is in 0.45 to 0.55, pairs, and the error of a value."""
    found: dict[str, list[tuple[float, ...]]] = {rule: [] for rule in RULES}
    for seed in range(REPEATS[n]):
        fraction, label = simulated(kind, level, n, seed)
        score = label + np.random.default_rng((seed, 1)).normal(size=n)
        stratum = np.zeros(n, np.int64)
        for rule, (scale, distances, least) in RULES.items():
            chosen = None
            for distance in distances:
                pairs = Pairs(fraction, fraction, label, stratum, scale, distance)
                is_noise = rule.endswith("noise") and abs(pairs.value - 0.5) < 1.96 * pairs.error
                if (not tells_area(pairs.value) or is_noise) and (pairs.count >= least or distance == distances[0]):
                    chosen = pairs, distance
                    break
            pairs, distance = chosen or (Pairs(fraction, fraction, label, stratum, scale, distances[0]), distances[0])
            value = Pairs(score, fraction, label, stratum, scale, distance).value
            found[rule].append(
                (pairs.value, not tells_area(pairs.value), distance, pairs.count, pairs.partnered, value - TRUTH)
            )
    for rule, rows in found.items():
        floor, in_band, distance, count, partnered, error = np.array(rows).T
        yield {
            "kind": kind, "area_auroc": level, "n": n, "rule": rule, "floor": floor.mean(), "in_band": in_band.mean(),
            "distance": np.median(distance), "pairs": int(np.median(count)), "partnered": partnered.mean(),
            "value_rmse": np.sqrt((error**2).mean()),
        }  # fmt: skip


def main() -> None:
    """Measure, write the tables, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "area-benchmark")
    parser.add_argument("--imposed-seeds", type=int, default=2, help="cohorts with an imposed area of each ground")
    parser.add_argument("--parts", nargs="*", choices=("grounds", "simulated"), default=["grounds", "simulated"])
    options = parser.parse_args()
    if "grounds" in options.parts:
        rows = [of_ground(*each) for each in grounds(options.work, imposed_seeds=options.imposed_seeds)]
        _write("equal_area.csv", rows)
    if "simulated" in options.parts:
        kinds = [(kind, level) for kind in ("full", "empty", "half full", "uniform") for level in (0.6, 0.75, 0.9)]
        kinds += [("steep", 0.6), ("steep", 0.75), ("four values", 0.75)]
        _write("equal_area_simulated.csv", [row for n in REPEATS for each in kinds for row in of_simulation(*each, n)])


def _write(name: str, rows: list[dict[str, object]]) -> None:
    table = pd.DataFrame(rows).round(4)
    table.to_csv(HERE / name, index=False, lineterminator="\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
