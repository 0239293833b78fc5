"""Train the missing runs of the study on natural tissue, and print its tables; see README.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from grounds import Case, cases, load

from pathopatch import metrics
from pathopatch.core.config import TrainConfig, parse
from pathopatch.evaluation.tissue_dependence import slope
from pathopatch.training.fit import fit_arrays

HERE = Path(__file__).resolve().parent
RESULTS = "results.csv"
SEEDS = {"demo": (1, 2, 3), "idc": (0, 1, 2), "ocdc": (1,), "features": (4, 5, 6)}
METHODS: dict[str, dict[str, Any]] = {
    "erm": {},
    "resample": {},
    "auto": {},
    "auto, masked": {"method": "auto", "mask": "normalise"},
}
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
COLUMNS = [
    *("ground", "case", "seed", "method", "wga", "gba"),
    *(f"{name}_{group}" for name in ("group", "n") for group in range(4)),
    *("auroc", "slope_0", "slope_1", "seconds"),
]
_SAME = ["ground", "case", "method"]
_MEASURES = {
    "WGA": "wga",
    "GBA": "gba",
    "AUROC": "auroc",
    "slope, non-tumour": "slope_0",
    "slope, tumour": "slope_1",
}


def main() -> None:
    """Train what has no row yet, and print the tables."""
    options = _arguments()
    path = options.out / RESULTS
    done = _rows(path)
    known = set(zip(done["ground"], done["case"], done["seed"], done["method"], strict=True))
    tasks = [
        (case, name)
        for ground in options.grounds
        if ground != "features"
        for case, name in product(cases(ground, options.seeds or SEEDS[ground]), options.methods or METHODS)
        if (case.ground, case.name, case.seed, name) not in known and not (name == "resample" and case.minority == 0)
    ]
    print(f"{len(tasks)} runs are missing", flush=True)
    for case in dict.fromkeys(case for case, _ in tasks):
        next(iter(load(case, options.work)))  # made and tiled by one process
    for row in _run_all(tasks, options.work, options.jobs):
        _add(path, row)
        print(f"{row['ground']} {row['case']} seed {row['seed']} {row['method']}: WGA {row['wga']:.1f}", flush=True)
    if "features" in options.grounds:
        import features

        for polarity, seed in product(("bright", "dark"), options.seeds or SEEDS["features"]):
            if ("features", features.name_of(polarity, 10), seed, "resample") not in known:
                for row in features.rows(options.imposed, polarity=polarity, seed=seed, conflicting=10):
                    _add(path, row)
    text = tables(_rows(path))
    print(text)
    if options.readme:
        _fill(options.out / "README.md", text)


def run(case: Case, name: str, work: Path) -> dict[str, Any]:
    """Train a method on a case, judge it on the patches of all its folds together, and return a row."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    margin, label, attribute, fraction = ([] for _ in range(4))
    for data in load(case, work):
        raw = data.config.model_dump() | {"method": name, "seed": case.seed, "threads": 1, "device": "cpu"}
        config = parse(TrainConfig, raw | METHODS[name], place=name)
        fitted = fit_arrays(data.train, data.val, config)
        margin.append((fitted.margins(data.test) - fitted.decision_threshold) / fitted.temperature)
        label.append(data.test.label)
        attribute.append(data.test.attribute)
        fraction.append(data.test.tissue_fraction)
    z, y, a, share = map(np.concatenate, (margin, label, attribute, fraction))
    groups = metrics.group_accuracies((z > 0).astype(np.int64), y, a)
    probability = 0.5 * (1 + np.tanh(z / 2))
    row: dict[str, Any] = {"ground": case.ground, "case": case.name, "seed": case.seed, "method": name}
    row |= {"wga": 100 * np.nanmin(groups.accuracy), "gba": 100 * np.nanmean(groups.accuracy)}
    row |= {f"group_{number}": 100 * value for number, value in enumerate(groups.accuracy.ravel().tolist())}
    row |= {f"n_{number}": value for number, value in enumerate(groups.n.ravel().tolist())}
    row |= {"auroc": metrics.auroc(z, y), **{f"slope_{c}": slope(share[y == c], probability[y == c]) for c in (0, 1)}}
    row["seconds"] = time.perf_counter() - start
    return row


def tables(table: pd.DataFrame) -> str:
    """Return a Markdown table of the mean ± sd over the seeds for each ground, and WGA less resampling's."""
    lines: list[str] = []
    for ground, part in table.groupby("ground", sort=False):
        head = ["case", "method", "seeds", *_MEASURES, "WGA less resample", "lowest"]
        lines += [f"### {ground}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        reference = part[part["method"] == "resample"].set_index(["case", "seed"])["wga"]
        for (_, case, name), runs in part.groupby(_SAME, sort=False):
            less = (runs.set_index(["case", "seed"])["wga"] - reference).dropna()
            cells = [_mean(runs[column], 3 if column not in ("wga", "gba") else 1) for column in _MEASURES.values()]
            is_compared = len(less) and name != "resample"
            cells += [_mean(less, 1, "+"), f"{less.min():+.1f}"] if is_compared else ["", ""]
            lines.append(f"| {case} | {name} | {len(runs)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _mean(values: pd.Series, digits: int, sign: str = "") -> str:
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.{digits}f}{spread}"


def _run_all(tasks: list[tuple[Case, str]], work: Path, jobs: int) -> Iterator[dict[str, Any]]:
    if jobs <= 1:
        yield from (run(case, name, work) for case, name in tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, case, name, work) for case, name in tasks]):
            yield future.result()


def _rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.is_file() else pd.DataFrame({name: [] for name in COLUMNS})


def _add(path: Path, row: dict[str, Any]) -> None:
    row = {key: round(float(value), 4) if isinstance(value, float) else value for key, value in row.items()}
    text = pd.DataFrame([row], columns=COLUMNS).to_csv(index=False, header=not path.is_file(), lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _fill(readme: Path, text: str) -> None:
    head, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grounds", nargs="*", default=list(SEEDS))
    parser.add_argument("--methods", nargs="*", choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="*", help="in place of each ground's own")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "interventions")
    parser.add_argument("--imposed", type=Path, default=HERE.parents[1] / "work" / "imposed-tissue")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv and README.md")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
