"""Run the missing parts of the study; see README.md."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from imposed_tissue import cohort
from imposed_tissue.cells import Cell, cells_of, run, work_of
from imposed_tissue.controls import controls
from imposed_tissue.crops import Crops, find_crops
from imposed_tissue.settings import ImposedConfig, Polarity, load
from imposed_tissue.table import fill, flat, ordered, tables

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.config import GroupsConfig, TileConfig
from pathopatch.core.files import read_json, write_json
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import import_patches

HERE = Path(__file__).resolve().parent
MADE, README = "made.json", "README.md"
RESULTS, CONTROLS = "results.csv", "controls.csv"
"""Beside the README. Each row is added at once, and is not run again."""


def main() -> None:
    """Make the cohorts, measure the controls, train every cell that has no result yet, and print the tables."""
    options = _arguments()
    config = load(options.config)
    if options.seeds:
        config = config.model_copy(update={"seeds": tuple(options.seeds)})
    cells = {cell.key(config): cell for cell in cells_of(config)}
    chosen = {key: cell for key, cell in cells.items() if options.methods is None or cell.method in options.methods}
    measure_controls(options.work, options.out / CONTROLS, config)
    train(options.work, options.out / RESULTS, config, chosen, jobs=options.jobs)
    runs = _rows(options.out / RESULTS)
    table = ordered(runs[runs["key"].isin(cells)], config)  # without those of other settings
    checks = _rows(options.out / CONTROLS)
    text = tables(table, checks[checks["key"].isin([key for *_, key in _cohorts(config)])], config)
    print(text)
    if options.readme:
        fill(options.out / README, text)
        table.to_csv(options.out / RESULTS, index=False, lineterminator="\n")


def make(work: Path, config: ImposedConfig, *, polarity: Polarity, seed: int) -> Path:
    """Write and tile a cohort unless it is current, and return its folder."""
    folder = folder_of(work, polarity, seed)
    stamp = {"made_of": fingerprint([config.source, config.cohort.model_dump(mode="json"), seed, polarity])}
    if (folder / MADE).is_file() and read_json(folder / MADE) == stamp:
        return folder
    crops = _crops(config.source, **config.cohort.model_dump(include={"crop_px", "apart_px", "side_px", "min_tissue"}))
    planned = cohort.plan(crops, config.cohort, seed=seed)
    cohort.write(folder, crops, planned, polarity=polarity)
    for name in cohort.SETS:
        import_patches(folder / name, work_of(folder, name), TileConfig(), force=True)
        form_groups(work_of(folder, name), GroupsConfig(thresholds=config.thresholds), force=True)
    write_json(folder / MADE, stamp)
    print(f"made {folder.name}: {len(planned)} patches of {planned['crop'].nunique()} crops", flush=True)
    return folder


@cache
def _crops(source: str, **sizes: Any) -> Crops:
    """Return the crops of a set, from a cache after the first call."""
    print(f"looking for crops in {source}", flush=True)
    return find_crops(Path(source), **sizes)


def folder_of(work: Path, polarity: Polarity, seed: int) -> Path:
    """Return the folder of a cohort."""
    return work / f"{polarity}-s{seed}"


def measure_controls(work: Path, path: Path, config: ImposedConfig) -> None:
    """Measure the leak controls of each cohort without a row in the table."""
    measured_keys = _rows(path)["key"].tolist()
    for polarity, seed, key in _cohorts(config):
        if key in measured_keys:
            continue
        intervals = controls(make(work, config, polarity=polarity, seed=seed), config, seed=seed)
        for name, (value, low, high) in intervals.items():
            row = {"key": key, "polarity": polarity, "seed": seed, "suspect": name}
            _add(path, row | {"auroc": round(value, 4), "low": round(low, 4), "high": round(high, 4)})
            print(f"{polarity:<7} seed {seed}  {name:<24} AUROC {value:.3f} ({low:.3f} to {high:.3f})", flush=True)


def _cohorts(config: ImposedConfig) -> Iterator[tuple[Polarity, int, str]]:
    """Yield polarity and seed of each cohort, and a key that changes with the settings of its controls."""
    settings = config.model_dump(mode="json", include={"cohort", "train", "control_steps"}, exclude_defaults=True)
    for seed in config.seeds:
        for polarity in config.polarities:
            yield polarity, seed, fingerprint([settings, seed, polarity])


def train(work: Path, path: Path, config: ImposedConfig, cells: Mapping[str, Cell], *, jobs: int) -> None:
    """Train the cells that have no row in the table, several at a time, and add a row for each."""
    trained_keys = set(_rows(path)["key"])
    missing = [cell for key, cell in cells.items() if key not in trained_keys]
    print(f"{len(cells)} runs, {len(missing)} of them missing", flush=True)
    for polarity, seed in dict.fromkeys((cell.polarity, cell.seed) for cell in missing):
        make(work, config, polarity=polarity, seed=seed)
    for done, row in enumerate(_run_all(work, config, missing, jobs), start=1):
        _add(path, flat(row, config))
        cuts = ",".join(f"{cut:g}" for cut in row["cuts"])
        judged = "  ".join(
            f"WGA@{threshold:g} {100 * row[f'wga@{threshold:g}']:5.1f}" for threshold in config.thresholds
        )
        print(
            f"{done}/{len(missing)} {row['conflicting']:>2} {row['polarity']} seed {row['seed']} {row['method']:<14} "
            f"by {cuts:<8} {row['steps']} steps  {judged}  {row['seconds']:.0f} s",
            flush=True,
        )


def _run_all(work: Path, config: ImposedConfig, cells: Sequence[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    tasks = [(cell, config, folder_of(work, cell.polarity, cell.seed)) for cell in cells]
    if jobs <= 1:
        yield from (run(*task) for task in tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, *task) for task in tasks]):
            yield future.result()


def _rows(path: Path) -> pd.DataFrame:
    """Return a table of results; without rows where there is none yet."""
    return pd.read_csv(path, dtype={"cuts": str}) if path.is_file() else pd.DataFrame({"key": []})


def _add(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a table of results."""
    text = pd.DataFrame([row]).to_csv(index=False, header=not path.is_file(), lineterminator="\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "study.toml")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "imposed-tissue")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--seeds", type=int, nargs="*", help="in place of the configured ones")
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv, controls.csv and README.md")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md, rows put in order")
    return parser.parse_args()


if __name__ == "__main__":
    main()
