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
from area_benchmark.cells import (
    CONFLICTING,
    Cell,
    cells_of,
    load_inputs,
    natural_key,
    run,
    run_natural,
)
from area_benchmark.crops import Crops, find_crops
from area_benchmark.frozen import Case, cases_of, run_frozen
from area_benchmark.natural import SETTINGS, folds
from area_benchmark.natural import cases as natural_cases
from area_benchmark.search import trials_of, winners
from area_benchmark.settings import BenchmarkConfig
from area_benchmark.settings import load as load_benchmark
from area_benchmark.tables import before_and_now, fill, frozen_tables, natural_tables, tables

from pathopatch.core.artefacts import fingerprint
from pathopatch.core.config import GroupsConfig, TileConfig, TrainConfig
from pathopatch.core.errors import PathopatchError
from pathopatch.core.files import read_json, write_json
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import import_patches
from pathopatch.training.fit import fit_arrays

HERE = Path(__file__).resolve().parent
MADE, README = "made.json", "README.md"
RESULTS, SEARCHED, NATURAL, FROZEN, EARLIER = (
    "results.csv", "searched.csv", "natural.csv", "frozen.csv", "earlier.csv"
)  # fmt: skip
"""Beside the README. Each row is added at once, and is not run again."""


def main() -> None:
    """Search the settings of each row, train every cell that has no result yet, and print the tables."""
    options = _arguments()
    config = load_benchmark(options.config)
    deadline = time.monotonic() + 60 * options.minutes
    search(config, options, deadline)
    found = winning_settings(config, options.out)
    settings = {
        cell: config.settings(cell.row, seed=cell.seed, **found[cell.row])
        for cell in cells_of(config)
        if cell.row in found
    }
    keys = {cell: cell.key(config, own) for cell, own in settings.items()}
    done = set(_rows(options.out / RESULTS)["key"])
    wanted = [cell for cell in keys if _is_wanted(options, "searched", cell.ground, cell.row, cell.case)]
    missing = [cell for cell in wanted if keys[cell] not in done]
    print(f"{len(keys)} runs of searched rows, {len(missing)} of them missing and asked for", flush=True)
    tasks = [(_train, (cell, config, settings[cell], options.work)) for cell in missing]
    for row in _side_by_side(tasks, options.jobs, deadline):
        _add(options.out / RESULTS, [row])
        wga = row[f"wga@{config.thresholds[0]:g}"]
        print(
            f"{row['ground']} {row['case']:<8} {row['polarity']} seed {row['seed']} {row['row']:<18} WGA {wga:5.1f}",
            flush=True,
        )
    natural_keys, frozen_keys = _run_natural(config, options, deadline), _run_frozen(config, options, deadline)
    frozen_rows = () if config.frozen is None else tuple(config.frozen.rows)
    results, natural, frozen = (
        _ordered(table[table["key"].isin(every)], config, rows)
        for table, every, rows in (
            (_rows(options.out / RESULTS), keys.values(), ()),
            (_rows(options.out / NATURAL), natural_keys, ()),
            (_rows(options.out / FROZEN), frozen_keys, frozen_rows),
        )
    )
    wga = pd.concat([results.rename(columns={f"wga@{config.thresholds[0]:g}": "wga"}), natural])
    made = [
        tables(results, cut=config.thresholds[0]),
        natural_tables(natural),
        frozen_tables(frozen),
        before_and_now(pd.read_csv(HERE / EARLIER), wga),
    ]
    text = "\n\n".join(part for part in made if part)
    print(text)
    if options.readme:
        fill(options.out / README, text)


def _ordered(table: pd.DataFrame, config: BenchmarkConfig, rows: Sequence[str]) -> pd.DataFrame:
    """Return results by ground as they came, then by case and row as the settings, or `rows`, list them."""
    if table.empty:
        return table
    places = {
        "ground": list(dict.fromkeys(table["ground"])),
        "case": [*CONFLICTING, *(case for ground in SETTINGS for case in natural_cases(ground))],
        "row": list(rows) or [variant.name for variant in config.runs],
    }

    def place(column: pd.Series) -> pd.Series:
        names = places[str(column.name)]
        return column.map(lambda name: names.index(name) if name in names else len(names))

    return table.sort_values(list(places), key=place, kind="stable")


def _run_natural(config: BenchmarkConfig, options: argparse.Namespace, deadline: float) -> list[str]:
    """Train what has no row yet on natural tissue; return the keys of all rows that there should be."""
    path = options.out / NATURAL
    names = [
        (part.ground, case, seed, row)
        for part in config.natural
        for case in natural_cases(part.ground)
        for row in part.rows
        for seed in part.seeds
        if row not in part.without.get(case, ())
    ]
    keys = {name: natural_key(*name, config) for name in names}
    done = set(_rows(path)["key"])
    missing = [
        name for name in names if keys[name] not in done and _is_wanted(options, "natural", name[0], name[3], name[1])
    ]
    print(f"{len(names)} runs on natural tissue, {len(missing)} of them missing and asked for", flush=True)
    if time.monotonic() < deadline:
        for ground, case, seed in dict.fromkeys(name[:3] for name in missing):
            next(folds(ground, case, seed, options.work))  # made and tiled by one process
    for row in _pooled([(run_natural, (*name, config, options.work)) for name in missing], options.jobs, deadline):
        _add(path, [row])
        print(f"{row['ground']} {row['case']} seed {row['seed']} {row['row']:<18} WGA {row['wga']:5.1f}", flush=True)
    return list(keys.values())


def _run_frozen(config: BenchmarkConfig, options: argparse.Namespace, deadline: float) -> list[str]:
    """Fit the frozen rows that have no result yet; return the keys of all that there should be."""
    path = options.out / FROZEN
    keys = {case: {row: case.key(row, config) for row in rows} for case, rows in cases_of(config).items()}
    done = set(_rows(path)["key"])
    tasks = []
    for case, own in keys.items():
        missing = [
            row for row, key in own.items()
            if key not in done and _is_wanted(options, "frozen", case.ground, row, case.case)
        ]  # fmt: skip
        if missing:
            tasks.append((_fit_frozen, (case, missing, config, options.work)))
    print(f"{sum(map(len, keys.values()))} frozen rows, {len(tasks)} cases with some missing and asked for", flush=True)
    natural = {case.ground: case for _, (case, *_) in tasks if case.ground not in config.grounds}
    for case in natural.values():
        next(folds(case.ground, case.case, case.seed, options.work, is_frozen=True))  # made and tiled by one process
    for made in _pooled(tasks, options.jobs, deadline):
        _add(path, made["rows"])
        for row in made["rows"]:
            about = f"{row['ground']} {row['case']} {row['polarity']} seed {row['seed']} {row['row']:<20}"
            print(f"{about} WGA {row['wga']:5.1f}, equal area {row['equal_area']:.3f}, {row['chosen']}", flush=True)
    return [key for own in keys.values() for key in own.values()]


def _fit_frozen(case: Case, rows: Sequence[str], config: BenchmarkConfig, work: Path) -> dict[str, Any]:
    imposed = case.ground in config.grounds
    cell: Any = Cell(case.ground, case.case, case.polarity, case.seed, "")  # type: ignore[arg-type]  # one of its own
    return run_frozen(case, rows, config, make(work, config, cell) if imposed else None, work)


def _is_wanted(options: argparse.Namespace, part: str, ground: str, row: str, case: str) -> bool:
    """Return whether a run is among those that the options name."""
    named = (options.parts, part), (options.grounds, ground), (options.rows, row), (options.cases, case)
    return all(not names or name in names for names, name in named)


def search(config: BenchmarkConfig, options: argparse.Namespace, deadline: float) -> None:
    """Run the trials that have no row yet; each is trained on every polarity of the searched ground."""
    path = options.out / SEARCHED
    done = set(_rows(path)["key"])
    tasks: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = []
    for row in dict.fromkeys(cell.row for cell in cells_of(config)):
        cases = [cell for cell in cells_of(config) if cell.row == row]
        if not any(_is_wanted(options, "searched", cell.ground, row, cell.case) for cell in cases):
            continue
        for number, drawn in enumerate(trials_of(config, row)):
            for cell in _searched_cells(config, row):
                settings = config.settings(row, seed=cell.seed, **drawn)
                if cell.key(config, settings) not in done:
                    tasks.append((_try, (cell, config, settings, options.work, number, drawn)))
    print(f"{len(tasks)} trials are missing", flush=True)
    for row_of_table in _side_by_side(tasks, options.jobs, deadline):
        _add(path, [row_of_table])
        print(f"search {row_of_table['row']} trial {row_of_table['trial']}: {row_of_table['val_wga']:.1f}", flush=True)


def winning_settings(config: BenchmarkConfig, out: Path) -> dict[str, dict[str, Any]]:
    """Return what the finished searches found, by row."""
    table = _rows(out / SEARCHED)
    if table.empty:
        return {}
    polarities = len(config.grounds[config.search.ground].polarities)
    found: dict[str, dict[str, Any]] = {}
    for row in dict.fromkeys(cell.row for cell in cells_of(config)):
        trials = trials_of(config, row)
        part = table[table["key"].isin(_trial_keys(config, row, trials))]
        if len(part) == polarities * len(trials):
            found[row] = trials[winners(part)[row]]
    return found


def _trial_keys(config: BenchmarkConfig, row: str, trials: Sequence[dict[str, Any]]) -> list[str]:
    return [
        cell.key(config, config.settings(row, seed=cell.seed, **drawn))
        for cell in _searched_cells(config, row)
        for drawn in trials
    ]


def _searched_cells(config: BenchmarkConfig, row: str) -> list[Cell]:
    about = config.search
    return [
        Cell(about.ground, about.case, polarity, about.seed, row)
        for polarity in config.grounds[about.ground].polarities
    ]


def _try(
    cell: Cell, config: BenchmarkConfig, settings: TrainConfig, work: Path, number: int, drawn: dict[str, Any]
) -> dict[str, Any]:
    sets = load_inputs(make(work, config, cell), cell, config, input_px=settings.input_px)
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
    """Yield what `_pooled` does, after one process has made the cohorts."""
    cohorts: dict[tuple[Any, ...], tuple[Any, ...]] = {arguments[0].cohort: arguments for _, arguments in tasks}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for cell, config, _, work, *_ in cohorts.values() if time.monotonic() < deadline else ():
            pool.submit(make, work, config, cell).result()
    yield from _pooled(tasks, jobs, deadline)


def _pooled(
    tasks: Sequence[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]], jobs: int, deadline: float
) -> Iterator[dict[str, Any]]:
    """Yield results as they come, a core each; after the deadline none is begun."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting, running = list(reversed(tasks)), set()
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < deadline:
                function, arguments = waiting.pop()
                running.add(pool.submit(function, *arguments))
            if not running:
                return
            finished = next(as_completed(running))
            running.remove(finished)
            try:
                yield finished.result()
            except (PathopatchError, ValueError) as error:  # the others go on
                print(f"failed: {error}", flush=True)


def _rows(path: Path) -> pd.DataFrame:
    """Return a table of results; without rows where there is none yet."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame({"key": []})


def _add(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a table of results, all at once; what a row lacks of its columns is left empty."""
    rounded = [{k: round(value, 4) if isinstance(value, float) else value for k, value in row.items()} for row in rows]
    table = pd.DataFrame(rounded)
    if path.is_file():
        table = table.reindex(columns=pd.read_csv(path, nrows=0).columns)
    text = table.to_csv(index=False, header=not path.is_file(), lineterminator="\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "benchmark.toml")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "area-benchmark")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this")
    parser.add_argument("--parts", nargs="*", choices=("searched", "natural", "frozen"), help="only these tables")
    parser.add_argument("--grounds", nargs="*", help="only these")
    parser.add_argument("--cases", nargs="*", help="only these")
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv, searched.csv and README.md")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
