"""Predict one slide or a cohort: the command `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from pathopatch.core.config import PredictConfig
from pathopatch.core.progress import Progress
from pathopatch.core.status import compact_status
from pathopatch.slides.manifest import SlideRow
from pathopatch.slides.pseudonyms import pseudonymize, require_unmixed
from pathopatch.stages.batch.run import run_slides, select_tasks, workers_for
from pathopatch.stages.batch.runlog import logged, progress_counter
from pathopatch.stages.batch.tasks import Outcome, PredictTask
from pathopatch.stages.clean import remove_stale_files


def predict_cohort(
    cohort: Sequence[SlideRow],
    model: Path | Sequence[Path],
    out: Path,
    config: PredictConfig,
    *,
    slide_mpp: float | None = None,
    workers: int = 1,
    limit_s: float | None = None,
    limit_bytes: int | None = None,
    only_failed: bool = False,
    totals: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Predict slides; write tables, heatmaps, ``cohort.csv`` and ``patients.csv``; return the outcome of each slide.

    The last two are written however the run ends, and about every minute before. Without `totals` they are left as they
    are, for many runs on one folder. Limits and `only_failed` are those of `pathopatch.stages.tile.tile_cohort`.

    Parameters
    ----------
    cohort : sequence of SlideRow
        See `pathopatch.stages.check.slides_to_predict`.
    model : Path or sequence of Path
        Folder of a bundle, or several, whose probabilities are averaged.
    out : Path
        Work folder.
    config : PredictConfig
        Stride, device, flags and exports.
    slide_mpp : float, optional
        um per level-0 px of slides whose files state none.

    Raises
    ------
    PathopatchError
        The bundles, the stride or the device are refused, before any slide is opened.
    """
    models = (model,) if isinstance(model, Path) else tuple(model)
    require_unmixed(out, deidentify=config.deidentify)
    rows = pseudonymize(cohort) if config.deidentify else cohort  # rows with pseudonyms keep them
    tasks = [PredictTask(row, models, config, out, force, slide_mpp) for row in rows]
    tasks = select_tasks(tasks, only_failed=only_failed)
    # The processes start first and load their libraries while this one checks the bundles.
    with workers_for(tasks, workers, limit_s=limit_s, limit_bytes=limit_bytes) as processes:
        from pathopatch.heatmaps.predict import tiling_of
        from pathopatch.models.spec import check_bundles
        from pathopatch.stages.batch.cohort_summary import keep_cohort_tables

        # What is wrong with the command is one error here, not one per slide in place of earlier outcomes.
        tiling_of(check_bundles(models), config)
        if config.device not in ("auto", "cpu"):  # every machine has these; asking for others loads torch
            from pathopatch.models.forward import pick_device

            pick_device(config.device)
        counter = progress_counter("predict", len(tasks), progress)
        with (
            keep_cohort_tables(out, counter) if totals else nullcontext(counter) as on_counted,
            logged(out, "predict", on_counted, slides=len(tasks), deidentified=config.deidentify) as on_done,
        ):
            outcomes = run_slides(tasks, workers=processes, on_done=on_done, progress=progress)
    remove_stale_files(out)
    compact_status(out)
    return outcomes
