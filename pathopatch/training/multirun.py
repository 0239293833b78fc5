"""How are several runs trained on one machine? One after another, or side by side, a process each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.progress import Progress
from pathopatch.training.distributed import refuse_several
from pathopatch.training.fit import Progress as StepProgress
from pathopatch.training.run import fit
from pathopatch.training.tune import tune


def train_many(
    work: Path,
    configs: Sequence[TrainConfig],
    search: TuneConfig | None,
    *,
    jobs: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Train, or tune where `search` is given, several runs; return their folders in the order of `configs`.

    With more than one job each runs in a process of its own with one thread: on few cores and small networks that is
    faster than sharing threads, and it makes the results independent of the number of jobs.
    """
    refuse_several("a study")
    if jobs <= 1:
        return [train_one(work, config, search, force=force, progress=progress) for config in configs]
    folders: dict[str, Path] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(train_one, work, config, search, force=force): config for config in configs}
        for future in as_completed(futures):
            config = futures[future]
            folders[config.run_name] = future.result()
            if progress:
                progress("train" if search is None else "tune", len(folders), len(configs), config.run_name)
    return [folders[config.run_name] for config in configs]


def train_one(
    work: Path,
    config: TrainConfig,
    search: TuneConfig | None = None,
    *,
    workers: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train one run, or tune it with `workers` processes where `search` is given; return its folder ``runs/<name>``."""
    on_step = None if progress is None else _on_step(config, progress)
    if search is None:
        return fit(work, config, force=force, progress=on_step)
    refuse_several("tuning")
    return tune(work, config, search, workers=workers, force=force, progress=on_step)


def _on_step(config: TrainConfig, progress: Progress) -> StepProgress:
    """Return the training loop's callback that moves a bar named after the run."""

    def callback(step: int, total: int, metrics: dict[str, float]) -> None:
        shown = " ".join(f"{key} {value:.3f}" for key, value in metrics.items() if isinstance(value, float))
        progress(config.run_name, step, total, shown)

    return callback
