"""Evaluate trained runs on every group and compare them: the command `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import REPETITIONS

if TYPE_CHECKING:
    import pandas as pd


def evaluate_runs(
    work: Path,
    runs: Sequence[str] | None = None,
    config: EvaluateConfig | None = None,
    *,
    device: str = "auto",
    runtime: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Evaluate runs, all finished ones by default, on every group; write the comparison and return it.

    Of a cross-validation the runs of each fold are evaluated, then their pooled test predictions, and of repetitions.
    Settings are by default those that the study of the work folder has, if there was one.

    Raises
    ------
    InputMissingError
        There is no finished run.
    """
    from pathopatch.evaluation.compare import compare
    from pathopatch.evaluation.evaluate import evaluate_run
    from pathopatch.evaluation.pooled import fold_folders, pool_run
    from pathopatch.evaluation.run_settings import study_settings

    config = config or study_settings(work)
    folds = fold_folders(work)
    evaluated: set[str] = set()
    for part in folds or [work]:
        names = list(runs) if runs else finished_runs(part)
        if not names:
            raise InputMissingError("no finished run", place=str(part / "runs"), remedy="run pathopatch train first")
        what = f"evaluate {part.name}" if folds else "evaluate"
        if progress:
            progress(what, 0, len(names))
        for number, name in enumerate(names, 1):
            evaluate_run(part, name, config=config, device=device, runtime=runtime, force=force)
            if progress:
                progress(what, number, len(names), name)
        evaluated |= set(names)
        comparison = compare(part, config=config)
    if not folds:
        return comparison
    evaluated |= {path.parent.name for path in work.glob(f"{REPETITIONS}/*/runs/*/evaluation")}
    for name in sorted(evaluated):
        pool_run(work, name, config=config, force=force)
    return compare(work, config=config)


def comparison_of_runs(work: Path, table: pd.DataFrame) -> str:
    """Return the comparison of evaluated runs as the terminal shows it."""
    from pathopatch.evaluation import compare

    return compare.comparison_text(work, table)


def evaluate_model(work: Path, model: Path, **options: Any) -> str:
    """Judge a bundle from anywhere on labelled patches, see `evaluate_bundle`; return the results and their place."""
    from pathopatch.evaluation.external_validation import evaluate_bundle, external_validation_text

    folder = evaluate_bundle(work, model, **options)
    return f"{external_validation_text(folder)}\nnumbers: {folder}"


def finished_runs(work: Path) -> list[str]:
    """Return the names of the runs whose training is finished, sorted."""
    return sorted(path.parent.name for path in work.glob("runs/*/run.json"))
