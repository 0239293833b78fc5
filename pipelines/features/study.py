"""Train heads on features of two real data sets by every method, and print the tables; see README.md.

A case that is in ``results.csv`` is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core.config import GroupsConfig, TrainConfig, TuneConfig
from pathopatch.core.errors import PathopatchError
from pathopatch.core.files import read_json
from pathopatch.core.method_names import METHOD_NAMES
from pathopatch.metrics.accuracy import auroc
from pathopatch.stages.evaluate import evaluate_runs
from pathopatch.stages.groups import form_groups
from pathopatch.stages.import_features import import_features
from pathopatch.stages.train import require_training, train_run

RESULTS = Path(__file__).resolve().parent / "results.csv"
METHODS = [name for name in METHOD_NAMES if name not in ("intervene", "auto")]  # those two compose pixels
PENALTIES = (0.01, 1.0, 100.0)  # of two slides: no validation can choose one
DIRECTIONS = {"14082 to 14306": ("train", "test"), "14306 to 14082": ("test", "train")}  # split of 14082, of 14306
THRESHOLDS = {"idc": 0.75, "lung": 0.65}  # by the sizes of the groups alone: the smallest are as large as they can be
LUNG_SEEDS = (0, 1, 2)  # of split and search
TRIALS = 8
MEASURES = {"AUROC": ("auroc", "{:.3f}"), "worst group": ("wga", "{:.1f}"), "mean of groups": ("gba", "{:.1f}")}
# Fine-tuned networks on the same squares: AUROC, worst group, see ../idc/README.md. `results.csv` still has rows of
# oversample and gerne-auto, which an earlier version had.
FINE_TUNED = {
    "14082 to 14306": {
        "erm": "0.914, 36.9", "erm-balanced": "0.912, 40.5", "reweight": "0.932, 44.1",
        "resample": "0.913, 46.8", "oversample": "0.918, 54.6", "groupdro": "0.921, 53.6",
        "gerne": "0.916, 28.8", "gerne-unknown": "0.905, 22.1", "jtt": "0.898, 47.1",
        "gerne-auto": "0.909, 39.2",
    },
    "14306 to 14082": {
        "erm": "0.952, 62.4", "erm-balanced": "0.953, 71.0", "reweight": "0.931, 69.9",
        "resample": "0.942, 64.5", "oversample": "0.935, 64.5", "groupdro": "0.937, 65.6",
        "gerne": "0.918, 71.0", "gerne-unknown": "0.900, 28.7", "jtt": "0.905, 63.4",
        "gerne-auto": "0.894, 70.6",
    },
}  # fmt: skip


def main() -> None:
    """Train what is missing, add it to ``results.csv`` and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the encoded features, see run.sh")
    parser.add_argument("--studies", nargs="*", default=["idc", "lung"], choices=["idc", "lung"])
    arguments = parser.parse_args()
    require_training()  # so that no run's seconds hold the imports
    for name in arguments.studies:
        for rows in {"idc": idc, "lung": lung}[name](arguments.work):
            table = pd.concat([results(), pd.DataFrame(rows)], ignore_index=True)
            table.round(4).to_csv(RESULTS, index=False)
    print(tables(results()))


def results() -> pd.DataFrame:
    """Return all rows that there are."""
    return pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame(columns=["study", "case", "pooling"])


def is_done(study: str, case: str, pooling: str) -> bool:
    """Return whether the results have a case already."""
    return bool((results()[["study", "case", "pooling"]] == [study, case, pooling]).all(axis=1).any())


def idc(work: Path) -> Iterator[list[dict[str, Any]]]:
    """Train on one breast carcinoma slide and test on the other, both ways, by each pooling, penalty and method."""
    for pooling, (direction, splits) in product(("mean", "tissue-mean"), DIRECTIONS.items()):
        if is_done("idc", direction, pooling):
            continue
        encoded = work / f"features-idc-{pooling}"
        labels = encoded / f"labels {direction}.csv"
        exchanged = pd.read_csv(encoded / "labels.csv", dtype={"patient_id": str})
        split_of = dict(zip(("14082", "14306"), splits, strict=True))
        exchanged.assign(split=exchanged["patient_id"].map(split_of)).to_csv(labels, index=False)
        heads = encoded / f"heads {direction}"
        import_features(heads, only_folder(encoded / "features"), labels)
        form_groups(heads, GroupsConfig(thresholds=(THRESHOLDS["idc"],)))
        runs = [
            TrainConfig(
                method=method, threshold=THRESHOLDS["idc"], weight_decay=penalty, name=f"{penalty:g}", threads=1,
                select="last", tune_threshold=False,
            )
            for penalty, method in product(PENALTIES, METHODS)
        ]  # fmt: skip
        case = {"study": "idc", "case": direction, "pooling": pooling}
        rows = trained(heads, runs, None, threshold=THRESHOLDS["idc"])
        yield [{**case, **row} for row in rows]


def lung(work: Path) -> Iterator[list[dict[str, Any]]]:
    """Train on lung patches that are split by source tile, and search the penalty and the method's own settings."""
    encoded = work / "features-lung"
    for seed in LUNG_SEEDS:
        if is_done("lung", f"split {seed}", "mean"):
            continue
        heads = encoded / f"heads-{seed}"
        import_features(heads, only_folder(encoded / "features"), encoded / "labels.csv")
        form_groups(heads, GroupsConfig(thresholds=(THRESHOLDS["lung"],), split_seed=seed))
        runs = [TrainConfig(method=method, threshold=THRESHOLDS["lung"], seed=seed, threads=1) for method in METHODS]
        case = {"study": "lung", "case": f"split {seed}", "pooling": "mean"}
        rows = trained(heads, runs, TuneConfig(trials=TRIALS), threshold=THRESHOLDS["lung"])
        yield [{**case, **row} for row in rows]


def only_folder(folder: Path) -> Path:
    """Return the one folder in a folder: that of the encoder."""
    (found,) = folder.iterdir()
    return found


def trained(
    work: Path, runs: list[TrainConfig], search: TuneConfig | None, *, threshold: float
) -> Iterator[dict[str, Any]]:
    """Train and evaluate runs; yield the numbers of each on the test split. What is refused is printed."""
    seconds = {}
    for run in runs:
        start = time.process_time()
        try:
            train_run(work, run, search, force=True)  # a run of an earlier attempt would take no seconds
        except PathopatchError as error:
            print(f"{work.name}, {run.run_name}: {error}", flush=True)
            continue
        seconds[run.run_name] = time.process_time() - start
    evaluate_runs(work)
    for run in runs:
        if run.run_name in seconds:
            folder = work / "runs" / run.run_name
            penalty = read_json(folder / "config.json")["weight_decay"]  # after a search, the one that it chose
            numbers = judged(folder / "evaluation", threshold=threshold)
            yield {
                "seed": run.seed,
                "method": run.method,
                "penalty": penalty,
                **numbers,
                "seconds": seconds[run.run_name],
            }


def judged(evaluation: Path, *, threshold: float) -> dict[str, Any]:
    """Return the numbers of an evaluated run on the test split; accuracies in percent."""
    table = pd.read_parquet(evaluation / "predictions.parquet")
    table = table[table["split"] == "test"]
    numbers = read_json(evaluation / "metrics.json")["splits"]["test"]
    by_group = numbers["thresholds"][f"{threshold:g}"]
    groups = by_group["groups"]
    return {
        "auroc": auroc(table["probability"].to_numpy(), table["label"].to_numpy()),
        "wga": 100 * by_group["wga"]["value"],
        "gba": 100 * by_group["gba"]["value"],
        **{f"group_{group['group']}": 100 * group["accuracy"] for group in groups},
        **{f"n_{group['group']}": group["n"] for group in groups},
        **{
            f"slope_{label}": float(np.polyfit(part["tissue_fraction"], part["probability"], 1)[0])
            for label, part in table.groupby("label")
        },
    }


def tables(table: pd.DataFrame) -> str:
    """Return Markdown tables: two slides by penalty beside fine-tuned networks; lung, mean ± sd of the splits."""
    of_idc, of_lung = table[table["study"] == "idc"], table[table["study"] == "lung"]
    lines = []
    for direction, part in of_idc.groupby("case", sort=False):
        columns = list(product(("mean", "tissue-mean"), PENALTIES))
        head = ["method", *(f"{pooling}, {penalty:g}" for pooling, penalty in columns), "fine-tuned", "seconds"]
        lines += ["", f"{direction}: AUROC, worst group in percent", "", _row(head), "|---" * len(head) + "|"]
        for method, rows in part.groupby("method", sort=False):
            found = rows.set_index(["pooling", "penalty"])
            cells = [_numbers(found.loc[column]) for column in columns if column in found.index]
            seconds = f"{rows['seconds'].median():.1f}"
            lines.append(_row([str(method), *cells, FINE_TUNED[str(direction)][str(method)], seconds]))
    head = ["method", *MEASURES, "slope, non-tumour", "slope, tumour", "seconds"]
    lines += ["", "lung: mean ± sd of the splits", "", _row(head), "|---" * len(head) + "|"]
    for method, rows in of_lung.groupby("method", sort=False):
        cells = [_mean(rows[column], form) for column, form in MEASURES.values()]
        cells += [_mean(rows[column], "{:.2f}") for column in ("slope_0", "slope_1")]
        lines.append(_row([str(method), *cells, f"{rows['seconds'].mean():.0f}"]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _numbers(row: pd.Series) -> str:
    return f"{row['auroc']:.3f}, {row['wga']:.1f}"


def _mean(values: pd.Series, form: str) -> str:
    return f"{form.format(values.mean())} ± {form.format(values.std(ddof=1))}"


if __name__ == "__main__":
    main()
