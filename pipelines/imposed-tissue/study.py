"""Run the study, or what of it is missing; see README.md."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from imposed_tissue import cohort
from imposed_tissue.cells import Cell, cells_of, run, work_of
from imposed_tissue.controls import controls
from imposed_tissue.crops import find_crops
from imposed_tissue.settings import ImposedConfig, Polarity, load
from imposed_tissue.table import fill, frame, tables

from pathopatch import pipeline
from pathopatch.config import GroupsConfig, TileConfig
from pathopatch.files import read_json, write_json
from pathopatch.provenance import fingerprint

HERE = Path(__file__).resolve().parent
RESULTS, CONTROLS, MADE = "results", "controls", "made.json"


def main() -> None:
    """Make the cohorts, print the controls, train every cell that has no result yet, and print the tables."""
    asked = _arguments()
    config = load(asked.config)
    if asked.seeds:
        config = config.model_copy(update={"seeds": tuple(asked.seeds)})
    work: Path = asked.work
    make(work, config)
    print_controls(work, config)
    chosen = [cell for cell in cells_of(config) if asked.methods is None or cell.method in asked.methods]
    train(work, config, chosen, jobs=asked.jobs)
    table = frame(_known(work / RESULTS, [cell.key(config) for cell in cells_of(config)]), config)
    said = tables(table, _known(work / CONTROLS, [key for *_, key in _cohorts(config)]), config)
    print(said)
    if asked.readme:
        fill(asked.readme, said)
        text = table.round(4).to_csv(index=False, lineterminator="\n")
        asked.readme.with_name("results.csv").write_text(text, encoding="utf-8")


def make(work: Path, config: ImposedConfig) -> None:
    """Write and tile each polarity's and seed's cohort that is not there yet."""
    crops = None
    for seed in config.seeds:
        for polarity in config.polarities:
            folder = folder_of(work, polarity, seed)
            stamp = {"made_of": fingerprint([config.source, config.cohort.model_dump(mode="json"), seed, polarity])}
            if (folder / MADE).is_file() and read_json(folder / MADE) == stamp:
                continue
            if crops is None:
                print(f"looking for crops in {config.source}", flush=True)
                sizes = config.cohort.model_dump(include={"crop_px", "apart_px", "side_px", "min_tissue"})
                crops = find_crops(Path(config.source), **sizes)
            planned = cohort.plan(crops, config.cohort, seed=seed)
            cohort.write(folder, crops, planned, polarity=polarity)
            for name in cohort.SETS:
                pipeline.tile_patches(folder / name, work_of(folder, name), TileConfig(), force=True)
                rules = GroupsConfig(thresholds=config.thresholds, bins=config.bins)
                pipeline.groups(work_of(folder, name), rules, force=True)
            write_json(folder / MADE, stamp)
            print(f"made {folder.name}: {len(planned)} patches of {planned['crop'].nunique()} crops", flush=True)


def folder_of(work: Path, polarity: Polarity, seed: int) -> Path:
    """Return where a cohort lies."""
    return work / f"{polarity}-s{seed}"


def print_controls(work: Path, config: ImposedConfig) -> None:
    """Print the leak controls of each cohort, measured once."""
    for polarity, seed, key in _cohorts(config):
        path = work / CONTROLS / f"{key}.json"
        if not path.is_file():
            found = controls(folder_of(work, polarity, seed), config, seed=seed)
            write_json(path, {"polarity": polarity, "seed": seed, "auroc": found})
        for name, (value, low, high) in read_json(path)["auroc"].items():
            print(f"{polarity:<7} seed {seed}  {name:<24} AUROC {value:.3f} ({low:.3f} to {high:.3f})", flush=True)


def _cohorts(config: ImposedConfig) -> Iterator[tuple[Polarity, int, str]]:
    """Yield polarity, seed and the name of the controls' file of each cohort."""
    settings = config.model_dump(mode="json", include={"cohort", "train", "control_steps"})
    for seed in config.seeds:
        for polarity in config.polarities:
            yield polarity, seed, fingerprint([settings, seed, polarity])


def train(work: Path, config: ImposedConfig, cells: Sequence[Cell], *, jobs: int) -> None:
    """Train the cells that have no result, several at a time, and write a file for each."""
    missing = [cell for cell in cells if not (work / RESULTS / f"{cell.key(config)}.json").is_file()]
    print(f"{len(cells)} runs, {len(missing)} of them missing", flush=True)
    for done, row in enumerate(_run_all(work, config, missing, jobs), start=1):
        write_json(work / RESULTS / f"{row['key']}.json", row)
        cuts = ",".join(f"{cut:g}" for cut in row["cuts"])
        judged = "  ".join(f"WGA@{each:g} {100 * row[f'wga@{each:g}']:5.1f}" for each in config.thresholds)
        print(
            f"{done}/{len(missing)} {row['polarity']} seed {row['seed']} {row['method']:<14} by {cuts:<8} "
            f"{row['steps']} steps  {judged}  {row['seconds']:.0f} s",
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


def _known(folder: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the files with these names that are there."""
    return [read_json(path) for path in (folder / f"{key}.json" for key in keys) if path.is_file()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "study.toml")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "imposed-tissue")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--seeds", type=int, nargs="*", help="in place of the configured ones")
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--readme", type=Path, help="write the tables between the markers of this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
