"""Train runs, and search their settings: the commands `train` and `tune`."""

from __future__ import annotations

from pathlib import Path

from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.progress import Progress
from pathopatch.core.work_folder import FOLDS


def train_run(
    work: Path,
    config: TrainConfig,
    search: TuneConfig | None = None,
    *,
    workers: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train one run, in each fold of a cross-validation; return ``runs/<name>``, or ``folds`` of several.

    With `search` its settings are searched by validation first, and the winner is kept.
    """
    from pathopatch.training import runs_with_groups, train_one

    parts = training_folders(work)
    runs_with_groups(parts, [config])  # refuse before the first of several folds is trained
    folders = [train_one(part, config, search, workers=workers, force=force, progress=progress) for part in parts]
    return folders[0] if len(folders) == 1 else work / FOLDS


def training_folders(work: Path) -> list[Path]:
    """Return the work folders in which runs are trained: those of the folds, or the work folder itself."""
    from pathopatch.evaluation import fold_folders

    return fold_folders(work) or [work]
