"""START HERE: the stages in order, as `pathopatch run` calls them through `pathopatch.stages.study`.

Each stage reads named artefacts of the work folder and writes one new artefact:
check, tile, groups, train (or tune), evaluate, predict, report.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pathopatch.core import files
from pathopatch.core.config import (
    EvaluateConfig,
    PredictConfig,
    ReadyConfig,
    TileConfig,
    TrainConfig,
    TuneConfig,
)
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, ManifestError
from pathopatch.core.progress import Progress
from pathopatch.core.status import read_status, roll
from pathopatch.core.workers import Workers
from pathopatch.slides.manifest import SlideRow, read_manifest
from pathopatch.slides.pseudonyms import pseudonymous, require_apart
from pathopatch.slides.resolution import mpp_agrees
from pathopatch.stages.audit import audit_text
from pathopatch.stages.batch.run import fail, run_slides, workers_for
from pathopatch.stages.batch.runlog import logged
from pathopatch.stages.batch.tasks import Outcome, PredictTask, SlideTask, TileTask
from pathopatch.stages.check import (
    check,
    describe,
    included,
    measure_intensities,
    mixed_backgrounds,
    open_slides,
    slides_to_predict,
    write_slides,
)
from pathopatch.stages.clean import sweep

if TYPE_CHECKING:
    import pandas as pd

    from pathopatch.core.config import GroupsConfig
    from pathopatch.report.contact_sheet import ContactSheet

__all__ = [
    "Progress",
    "audit_text",
    "check",
    "describe",
    "slides_to_predict",
]  # stages, or parts, of other modules

Task = TypeVar("Task", bound=SlideTask)


# --- tile ----------------------------------------------------------------------------------------------------------


def tile(
    manifest_path: Path,
    work: Path,
    config: TileConfig,
    *,
    workers: int = 1,
    limit_s: float | None = None,
    limit_bytes: int | None = None,
    only_failed: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Check the manifest, then cut every slide into patches; return what became of each slide.

    All slides are opened before one is tiled, by the same processes. A slide that cannot be opened fails alone; the
    others go on.

    Parameters
    ----------
    manifest_path : Path
        The manifest.
    work : Path
        Work folder.
    config : TileConfig
        How the slides are cut.
    workers : int
        Processes, one slide at a time in each.
    limit_s : float, optional
        With several processes: a slide that takes longer, to be opened or to be tiled, fails.
    limit_bytes : int, optional
        With several processes: a slide for which one holds more memory fails.
    only_failed : bool
        Leave all slides as they are but those that failed before.
    force : bool
        Redo what was made otherwise, in place of stopping.
    progress : callable, optional
        Called after each slide that was opened, and after each that was tiled.

    Raises
    ------
    ManifestError
        Everything wrong with the manifest itself.
    InputUnsupportedError
        No target mpp was given and the slides' own differ by more than 2 %.
    """
    rows = included(read_manifest(manifest_path))
    tasks = _asked([TileTask(row, config, work, force) for row in rows], only_failed=only_failed)
    wanted = {task.slide_id for task in tasks}
    with workers_for(tasks, workers, limit_s=limit_s, limit_bytes=limit_bytes) as processes:
        table, failures = open_slides(rows, workers=processes, progress=progress)
        if len(table):
            one_mpp(table, config)
            if config.tissue.background == "auto" and (problems := mixed_backgrounds(rows, table)):
                raise ManifestError(problems, place=str(manifest_path))
            write_slides(work, table, force=force)
            rows = _with_what_is_known(rows, table)
            config = _with_cohort_windows(rows, table, config, work, processes, force=force)
        counted = _counter("tile", len(tasks), progress)
        with logged(work, "tile", counted, slides=len(tasks)) as on_done:
            outcomes = {
                each.slide_id: fail(each, failures[each.slide_id]) for each in tasks if each.slide_id in failures
            }
            for outcome in outcomes.values():
                on_done(outcome)
            opened = [TileTask(row, config, work, force) for row in rows if row.slide_id in wanted - failures.keys()]
            outcomes |= {
                each.slide_id: each
                for each in run_slides(opened, workers=processes, on_done=on_done, progress=progress)
            }
        done = [task for task in opened if outcomes[task.slide_id].state != "failed"]
        outcomes |= _tiled_by_the_cohorts_levels(done, [row.slide_id for row in rows], processes, progress)
    sweep(work)
    roll(work)
    return [outcomes[task.slide_id] for task in tasks]


def _tiled_by_the_cohorts_levels(
    tasks: Sequence[TileTask], cohort: Sequence[str], workers: Workers, progress: Progress | None
) -> dict[str, Outcome]:
    """Tile again the slides that show no background, where other slides of the cohort show it."""
    from pathopatch.patches.cohort import find_background_levels

    found = find_background_levels(tasks[0].out, [task.slide_id for task in tasks], cohort) if tasks else {}
    again = [replace(task, cohort_levels=found[task.slide_id], force=True) for task in tasks if task.slide_id in found]
    if not again:
        return {}
    counted = _counter("tile again", len(again), progress)
    with logged(again[0].out, "tile", counted, slides=len(again)) as on_done:
        return {each.slide_id: each for each in run_slides(again, workers=workers, on_done=on_done, progress=progress)}


def _asked(tasks: list[Task], *, only_failed: bool) -> list[Task]:
    """Return the tasks that there are to do."""
    if not only_failed:
        return tasks
    return [task for task in tasks if read_status(task.out, task.slide_id).get(task.stage, {}).get("state") == "failed"]


def _with_what_is_known(rows: Sequence[SlideRow], table: pd.DataFrame) -> list[SlideRow]:
    """Return rows with their slide's background, which is then not guessed again, and the first slide's channels."""
    known = dict(zip(table["slide_id"], table["background"], strict=True))
    order = tuple(str(table["channels"].iloc[0]).split(","))
    return [replace(row, background=known.get(row.slide_id, row.background), channel_order=order) for row in rows]


def _with_cohort_windows(
    rows: Sequence[SlideRow], table: pd.DataFrame, config: TileConfig, work: Path, workers: Workers, *, force: bool
) -> TileConfig:
    """Return the configuration with the cohort's intensity windows, if they are asked for."""
    if config.intensity.scope == "slide":
        return config
    from pathopatch.patches import cohort_config

    fingerprints = dict(zip(table["slide_id"], table["fingerprint"], strict=True))
    measured = partial(measure_intensities, config=config, workers=workers)
    return cohort_config(rows, config, work, fingerprints=fingerprints, measured=measured, force=force)


def tissue(
    work: Path, out: Path | None = None, *, force: bool = False, progress: Progress | None = None
) -> ContactSheet:
    """Draw what was taken for tissue on every tiled slide; see `pathopatch.report.contact_sheet`."""
    from pathopatch.report.contact_sheet import write_contact_sheet

    return write_contact_sheet(work, out, force=force, progress=progress)


def tile_patches(
    source: Path,
    work: Path,
    config: TileConfig,
    *,
    ready: ReadyConfig | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Store a set of ready patches as if it were one tiled slide; return what became of it.

    The work folder then holds this set and nothing else: its slides, if it had any, are no longer in the cohort.

    Raises
    ------
    PathopatchError
        As `pathopatch.patches.tile_patches`: a set has no part that could fail alone.
    """
    import pandas as pd

    from pathopatch.patches import tile_patches as store_patches

    def count(done: int, total: int) -> None:
        if progress:
            progress("tile", done, total)

    result, facts = store_patches(source, config, work, ready=ready, force=force, progress=count)
    write_slides(work, pd.DataFrame([facts]), force=force)
    counts = {"patches": result.patches}
    return [Outcome(slide_id=result.slide_id, state=result.state, counts=counts, warnings=result.warnings)]


def one_mpp(table: pd.DataFrame, config: TileConfig) -> None:
    """Refuse a cohort of several mpp without a target.

    Raises
    ------
    InputUnsupportedError
        No target mpp is given and the slides' own differ by more than 2 %; the finest and the coarsest are named.
    """
    if config.mpp is None and not mpp_agrees(table["mpp"].min(), table["mpp"].max()):
        by_mpp = table.sort_values("mpp")
        low, high = by_mpp["slide_id"].iloc[0], by_mpp["slide_id"].iloc[-1]
        raise InputUnsupportedError(
            f"the slides' mpp differ: {low} has {table['mpp'].min():g}, {high} has {table['mpp'].max():g} um/px",
            place="[tile] mpp",
            remedy=f"give the target with --mpp, for instance --mpp {table['mpp'].max():g}",
        )


def _counter(what: str, total: int, progress: Progress | None) -> Any:
    """Return a callback for finished slides that counts them on a progress bar."""
    finished = 0

    def on_done(outcome: Outcome) -> None:
        nonlocal finished
        finished += 1
        if progress:
            progress(what, finished, total, f"{outcome.slide_id} {outcome.state}")

    return on_done


# --- groups --------------------------------------------------------------------------------------------------------


def groups(
    work: Path, config: GroupsConfig, *, folds: int = 1, decisions: Path | None = None, force: bool = False
) -> pd.DataFrame:
    """Assign split, group and, in a cross-validation, fold to each patch; see `pathopatch.stages.groups.groups`."""
    from pathopatch.stages.groups import groups as formed

    return formed(work, config, folds=folds, decisions=decisions, force=force)


# --- train, tune, evaluate -----------------------------------------------------------------------------------------


def train(work: Path, config: TrainConfig, *, force: bool = False, progress: Progress | None = None) -> Path:
    """Train one run; return its folder ``runs/<name>``, or with folds, in each of which it is trained, ``folds``."""
    from pathopatch.training import runs_with_groups, train_one

    runs_with_groups(parts(work), [config])  # refused before the first of several folds is trained
    made = [train_one(each, config, force=force, progress=progress) for each in parts(work)]
    return made[0] if len(made) == 1 else work / files.FOLDS


def tune(
    work: Path,
    config: TrainConfig,
    search: TuneConfig,
    *,
    workers: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Search a method's settings by validation and keep the winner; return what `train` returns."""
    from pathopatch.training import runs_with_groups, train_one

    runs_with_groups(parts(work), [config])
    made = [train_one(each, config, search, workers=workers, force=force, progress=progress) for each in parts(work)]
    return made[0] if len(made) == 1 else work / files.FOLDS


def parts(work: Path) -> list[Path]:
    """Return the work folders in which runs are trained: those of the folds, or the work folder itself."""
    from pathopatch.evaluation import fold_folders

    return fold_folders(work) or [work]


def evaluate(
    work: Path,
    runs: Sequence[str] | None = None,
    config: EvaluateConfig | None = None,
    *,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Judge runs on every group (all finished runs by default) and write the comparison; return it.

    With folds, the runs of each, and then their test predictions pooled.

    Raises
    ------
    InputMissingError
        There is no finished run.
    """
    from pathopatch.evaluation import compare, evaluate_run, fold_folders, pool_run, write_fold_tables

    folds, pooled = fold_folders(work), set()
    for part in folds or [work]:
        names = list(runs) if runs else finished_runs(part)
        if not names:
            raise InputMissingError("no finished run", place=str(part / "runs"), remedy="run pathopatch train first")
        for number, name in enumerate(names, 1):
            evaluate_run(part, name, config=config or EvaluateConfig(), device=device, force=force)
            if progress:
                progress(f"evaluate {part.name}" if folds else "evaluate", number, len(names), name)
        pooled |= set(names)
        compared = compare(part, config=config)
    if not folds:
        return compared
    for name in sorted(pooled):
        pool_run(work, name, config=config, force=force)
    write_fold_tables(work)
    return compare(work, config=config)


def finished_runs(work: Path) -> list[str]:
    """Return the names of the runs whose training is finished, sorted."""
    return sorted(path.parent.name for path in (work / "runs").glob("*/run.json"))


def comparison_text(work: Path) -> str:
    """Return the comparison of the evaluated runs as a text table."""
    from pathopatch.evaluation import comparison_table

    return comparison_table(work)


# --- predict, report -----------------------------------------------------------------------------------------------


def predict(
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
    """Predict slides; write tables, heatmaps, ``cohort.csv`` and ``patients.csv``; return what became of each.

    The last two are written however the run ends, and every minute or so before; without `totals` they are left as they
    are, which many runs on one folder do. For limits and `only_failed` see `tile`.

    `model` is the folder of a bundle, or those of several, whose mean is taken. Bundles, stride and device are checked
    before any slide: see `check_bundles`, `tiling_of` and `pick_device`.
    """
    models = (model,) if isinstance(model, Path) else tuple(model)
    require_apart(out, deidentify=config.deidentify)
    rows = pseudonymous(cohort) if config.deidentify else cohort  # those that have such names keep them
    tasks = [PredictTask(row, models, config, out, force, slide_mpp) for row in rows]
    tasks = _asked(tasks, only_failed=only_failed)
    # The processes load their libraries meanwhile.
    with workers_for(tasks, workers, limit_s=limit_s, limit_bytes=limit_bytes) as processes:
        from pathopatch.heatmaps import tiling_of
        from pathopatch.models import check_bundles
        from pathopatch.stages.batch.cohort_summary import cohort_kept

        # What is wrong with the command is one error, not one a slide that takes the place of what was found before.
        tiling_of(check_bundles(models), config)
        if config.device not in ("auto", "cpu"):  # which every machine has; the others need torch to be asked for
            from pathopatch.models import pick_device

            pick_device(config.device)
        counted = _counter("predict", len(tasks), progress)
        with (
            cohort_kept(out, counted) if totals else nullcontext(counted) as kept,
            logged(out, "predict", kept, slides=len(tasks), names_nothing=config.deidentify) as on_done,
        ):
            outcomes = run_slides(tasks, workers=processes, on_done=on_done, progress=progress)
    sweep(out)
    roll(out)
    return outcomes


def report(work: Path) -> Path:
    """Write ``report/index.html`` from whatever is in the work folder; return its path."""
    from pathopatch.report import write_report

    return write_report(work)
