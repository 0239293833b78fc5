"""Run the missing parts of the benchmark; see README.md."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from area_benchmark import cohort
from area_benchmark.cells import Cell, cells_of, load, run
from area_benchmark.crops import Crops, find_crops
from area_benchmark.search import trials_of, winners
from area_benchmark.settings import BenchmarkConfig
from area_benchmark.settings import load as load_benchmark
from area_benchmark.tables import fill, tables

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.config import GroupsConfig, TileConfig, TrainConfig
from pathopatch.core.files import read_json, write_json
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import import_patches
from pathopatch.training.fit import fit_arrays

HERE = Path(__file__).resolve().parent
MADE, README = "made.json", "README.md"
RESULTS, SEARCHED = "results.csv", "searched.csv"
"""Beside the README. Each row is added at once, and is not run again."""


def main() -> None:
    """Search the settings of each row, train every cell that has no result yet, and print the tables."""
    options = _arguments()
    config = load_benchmark(options.config)
    deadline = time.monotonic() + 60 * options.minutes
    search(config, options, deadline)
    found = _winning_settings(config, options.out)
    cells = [
        cell
        for cell in cells_of(config)
        if (not options.grounds or cell.ground in options.grounds)
        and (not options.rows or cell.row in options.rows)
        and (not options.cases or cell.case in options.cases)
    ]
    settings = {cell: config.settings(cell.row, seed=cell.seed, **found.get(cell.row, {})) for cell in cells}
    keys = {cell: cell.key(config, settings[cell]) for cell in cells}
    done = set(_rows(options.out / RESULTS)["key"])
    missing = [cell for cell in cells if keys[cell] not in done and (cell.row in found or not options.searched)]
    print(f"{len(cells)} runs, {len(missing)} of them missing", flush=True)
    tasks = [(_train, (cell, config, settings[cell], options.work)) for cell in missing]
    for row in _side_by_side(tasks, options.jobs, deadline):
        _add(options.out / RESULTS, row)
        wga = row[f"wga@{config.thresholds[0]:g}"]
        print(
            f"{row['ground']} {row['case']:<8} {row['polarity']} seed {row['seed']} {row['row']:<18} WGA {wga:5.1f}",
            flush=True,
        )
    results = _rows(options.out / RESULTS)
    kept = results[results["key"].isin(keys.values())]
    if len(kept):
        text = tables(kept, cut=config.thresholds[0])
        print(text)
        if options.readme:
            fill(options.out / README, text)


def search(config: BenchmarkConfig, options: argparse.Namespace, deadline: float) -> None:
    """Run the trials that have no row yet; each is trained on every polarity of the searched ground."""
    path, ground = options.out / SEARCHED, config.grounds[config.search.ground]
    done = set(_rows(path)["key"])
    tasks: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = []
    for row in dict.fromkeys(cell.row for cell in cells_of(config)):
        if options.rows and row not in options.rows:
            continue
        for number, drawn in enumerate(trials_of(config, row)):
            for polarity in ground.polarities:
                cell = Cell(config.search.ground, config.search.case, polarity, config.search.seed, row)
                settings = config.settings(row, seed=cell.seed, **drawn)
                if cell.key(config, settings) not in done:
                    tasks.append((_try, (cell, config, settings, options.work, number, drawn)))
    print(f"{len(tasks)} trials are missing", flush=True)
    for row_of_table in _side_by_side(tasks, options.jobs, deadline):
        _add(path, row_of_table)
        print(f"search {row_of_table['row']} trial {row_of_table['trial']}: {row_of_table['val_wga']:.1f}", flush=True)


def _winning_settings(config: BenchmarkConfig, out: Path) -> dict[str, dict[str, Any]]:
    """Return what the finished searches found, by row."""
    table = _rows(out / SEARCHED)
    if table.empty:
        return {}
    polarities = len(config.grounds[config.search.ground].polarities)
    found: dict[str, dict[str, Any]] = {}
    for row, part in table.groupby("row", sort=False):
        trials = trials_of(config, str(row)) if str(row) in {variant.name for variant in config.runs} else []
        if trials and len(part) == polarities * len(trials):
            found[str(row)] = trials[winners(part)[str(row)]]
    return found


def _try(
    cell: Cell, config: BenchmarkConfig, settings: TrainConfig, work: Path, number: int, drawn: dict[str, Any]
) -> dict[str, Any]:
    sets = load(make(work, config, cell), cell.case, config, input_px=settings.input_px)
    fitted = fit_arrays(sets["train"], sets["val"], settings)
    measures = {f"val_{name}": 100 * fitted.validation[name] for name in ("wga", "wga_at_zero", "gba")}
    about = {"row": cell.row, "trial": number, "polarity": cell.polarity, "drawn": json.dumps(drawn)}
    return {"key": cell.key(config, settings), **about, **measures}


def _train(cell: Cell, config: BenchmarkConfig, settings: TrainConfig, work: Path) -> dict[str, Any]:
    return run(cell, config, settings, make(work, config, cell))


def make(work: Path, config: BenchmarkConfig, cell: Cell) -> Path:
    """Write and tile a cell's cohort unless it is current, and return its folder."""
    ground = config.grounds[cell.ground]
    folder = work / f"{cell.ground}-{cell.polarity}-s{cell.seed}"
    stamp = {"made_of": fingerprint([ground.source, ground.cohort.model_dump(mode="json"), cell.cohort])}
    if (folder / MADE).is_file() and read_json(folder / MADE) == stamp:
        return folder
    crops = _crops(ground.source, **ground.cohort.model_dump(include={"crop_px", "apart_px", "side_px", "min_tissue"}))
    planned = cohort.plan(crops, ground.cohort, seed=cell.seed)
    cohort.write(folder, crops, planned, polarity=cell.polarity, label=ground.cohort.label)
    for name in cohort.SETS:
        import_patches(folder / name, folder / f"work-{name}", TileConfig(), force=True)
        form_groups(folder / f"work-{name}", GroupsConfig(thresholds=config.thresholds), force=True)
    write_json(folder / MADE, stamp)
    print(f"made {folder.name}: {len(planned)} patches of {planned['crop'].nunique()} crops", flush=True)
    return folder


@cache
def _crops(source: str, **sizes: Any) -> Crops:
    """Return the crops of a set, from a cache after the first call."""
    return find_crops(Path(source), **sizes)


def _side_by_side(
    tasks: Sequence[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]], jobs: int, deadline: float
) -> Iterator[dict[str, Any]]:
    """Yield results as they come, a core each; after the deadline none is begun. One process makes each cohort."""
    cohorts: dict[tuple[Any, ...], tuple[Any, ...]] = {arguments[0].cohort: arguments for _, arguments in tasks}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for cell, config, _, work, *_ in cohorts.values():
            pool.submit(make, work, config, cell).result()
        waiting, running = list(reversed(tasks)), set()
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < deadline:
                function, arguments = waiting.pop()
                running.add(pool.submit(function, *arguments))
            if not running:
                return
            finished = next(as_completed(running))
            running.remove(finished)
            yield finished.result()


def _rows(path: Path) -> pd.DataFrame:
    """Return a table of results; without rows where there is none yet."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame({"key": []})


def _add(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a table of results."""
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    text = pd.DataFrame([rounded]).to_csv(index=False, header=not path.is_file(), lineterminator="\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "benchmark.toml")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "area-benchmark")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this")
    parser.add_argument("--grounds", nargs="*", help="only these")
    parser.add_argument("--cases", nargs="*", help="only these")
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--searched", action="store_true", help="only rows whose search has ended")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv, searched.csv and README.md")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
