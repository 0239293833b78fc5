"""Time the training of heads on 100,000 made features of 1,536 values.

Label and tissue fraction are directions in feature space. In training 95 % of the patches have much tissue where they
are tumour, and little where they are not; in validation and test half of them. Features of neighbouring dimensions are
correlated, as those of encoders are.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from pathopatch.core.config import GroupsConfig, TrainConfig, TuneConfig

METHODS = ("erm", "resample", "groupdro", "gerne")
SEEDS = (0, 1, 2)
PER_SLIDE = 1000
CONFLICT = {"train": 0.05, "val": 0.5, "test": 0.5}


def main() -> None:
    """Make the features, train all methods and seeds with search, evaluate; print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=100, help="slides to train on, of 1,000 patches each")
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--trials", type=int, default=8)
    arguments = parser.parse_args()
    folder, work = arguments.folder, arguments.folder / "work"
    if not (folder / "labels.csv").is_file():
        timed("make", make, folder, arguments.slides, arguments.dim)
    timed("import", import_all, work, folder)
    runs = [TrainConfig(method=name, seed=seed) for seed in SEEDS for name in arguments.methods]
    timed("tune", tune_all, work, runs, arguments.trials)
    timed("evaluate", evaluate_all, work)


def timed(name: str, function: Callable[..., None], *values: object) -> None:
    """Run a step in a process of its own, and print its seconds and the peak of its memory."""
    process = get_context("spawn").Process(target=_measured, args=(name, function, values))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def _measured(name: str, function: Callable[..., None], values: tuple[object, ...]) -> None:
    start = time.perf_counter()
    function(*values)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    print(f"{name}: {seconds:.1f} s, {cpu:.1f} s of processors, peak {usage.ru_maxrss / 2**20:.2f} GiB", flush=True)


def make(folder: Path, slides: int, dim: int) -> None:
    """Write a feature file per slide in TRIDENT's layout, and labels; a tenth more slides each validate and test."""
    rng = np.random.default_rng(0)
    mixing = (rng.standard_normal((dim, dim)) * (3 * np.arange(1, dim + 1) ** -0.5)[:, None]).astype(np.float32)
    splits = ["train"] * slides + ["val"] * (slides // 10) + ["test"] * (slides // 10)
    place, tables = folder / "20x_256px_0px_overlap" / "features_made", []
    place.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(splits):
        name = f"s{number:04}"
        label = np.arange(PER_SLIDE) % 2
        has_much = np.where(rng.random(PER_SLIDE) < CONFLICT[split], 1 - label, label)
        hidden = rng.standard_normal((PER_SLIDE, dim)).astype(np.float32)
        hidden[:, 40] += 1.5 * (2 * label - 1)
        hidden[:, 10] += 1.5 * (2 * has_much - 1)
        xy = 512 * np.stack([np.arange(PER_SLIDE) % 32, np.arange(PER_SLIDE) // 32], axis=1)
        with h5py.File(place / f"{name}.h5", "w") as file:
            file["features"] = (hidden @ mixing).astype(np.float16)
            file["features"].attrs.update({"name": name, "savetodir": "", "encoder": "made"})
            file["coords"] = xy
            file["coords"].attrs.update(
                {
                    "patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20,
                    "overlap": 0, "name": name, "savetodir": "", "level0_width": 40_000, "level0_height": 40_000,
                }
            )  # fmt: skip
        tissue = rng.uniform(0.05, 0.24, PER_SLIDE) + 0.5 * has_much
        columns = {"slide_id": name, "x": xy[:, 0], "y": xy[:, 1], "label": label, "tissue_fraction": tissue.round(3)}
        tables.append(pd.DataFrame(columns).assign(split=split))
    pd.concat(tables).to_csv(folder / "labels.csv", index=False)


def import_all(work: Path, folder: Path) -> None:
    """Make the work folder and its groups."""
    from pathopatch.stages.groups import form_groups
    from pathopatch.stages.import_features import import_features

    import_features(work, folder / "20x_256px_0px_overlap" / "features_made", folder / "labels.csv")
    form_groups(work, GroupsConfig())


def tune_all(work: Path, runs: list[TrainConfig], trials: int) -> None:
    """Search the settings of each run."""
    from pathopatch.stages.train import train_run

    for run in runs:
        start = time.perf_counter()
        train_run(work, run, TuneConfig(trials=trials), force=True)
        print(f"  {run.run_name}: {time.perf_counter() - start:.1f} s", flush=True)


def evaluate_all(work: Path) -> None:
    """Evaluate all runs and print the worst-group accuracies on test."""
    from pathopatch.stages.evaluate import evaluate_runs

    table = evaluate_runs(work)
    shown = table[(table["split"] == "test") & (table["threshold"] == 0.25)]
    print(shown[["run", "wga", "wga_low", "wga_high", "gba"]].to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
