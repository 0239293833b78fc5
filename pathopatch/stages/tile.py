"""Cut the slides of a manifest into patches, or store ready patches: the command `tile`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pathopatch.core.config import BatchOptions, ReadyConfig, TileConfig, mpp_agrees
from pathopatch.core.errors import InputUnsupportedError, TableError
from pathopatch.core.locks import sole_command
from pathopatch.core.task import Outcome, Progress, SlidePlan, SlideTask, Within
from pathopatch.core.workers import Workers
from pathopatch.slides.manifest import SlideRow, read_manifest
from pathopatch.stages.batch.run import DEFAULT_BATCH, chosen, run_slides, workers_for
from pathopatch.stages.batch.slide_table import (
    label_source,
    label_warnings,
    open_row,
    open_slides,
    require_no_features,
    with_finished,
    write_slides,
)
from pathopatch.stages.check import mixed_backgrounds
from pathopatch.stages.clean import remove_stale_files
from pathopatch.stages.dry_run import Plan, plan_tasks

if TYPE_CHECKING:
    from pathopatch.slides import Slide

STAGE = "tile"


def tile_cohort(
    manifest_path: Path,
    work: Path,
    config: TileConfig,
    batch: BatchOptions = DEFAULT_BATCH,
    *,
    slide_mpp: float | None = None,
    distinct_patients: Collection[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> list[Outcome]:
    """Check the manifest, then cut every slide into patches; return the outcome of each slide.

    All slides are opened before the first is tiled, by the same processes. A slide that cannot be opened fails alone.
    `slide_mpp` is um per level-0 px of slides whose files state none. `distinct_patients` are
    pairs of ids that are two patients.

    Raises
    ------
    TableError
        Everything wrong with the manifest itself.
    InputUnsupportedError
        No target mpp is given and the slides' own differ by more than 2 %; or the patches of `work` are features;
        or as `sole_command`.
    """
    require_no_features(work)
    rows = _rows(manifest_path, batch, slide_mpp, distinct_patients)
    tasks = chosen([tile_task(row, config, work, force=batch.force) for row in rows], batch)
    selected = {task.slide_id for task in tasks}
    with ExitStack() as stack:
        processes = stack.enter_context(workers_for(tasks, batch))
        table, failures = open_slides(rows, workers=processes, progress=progress)
        if len(table):
            _refuse_mixed(table, rows, config, manifest_path)
        stack.enter_context(sole_command(work))  # which makes the folder
        if len(table):
            write_slides(work, with_finished(work, table, failures), force=batch.force)
            rows = _with_known_facts(rows, table)
        tasks = [tile_task(row, config, work, force=batch.force) for row in rows if row.slide_id in selected]
        tiled = run_slides(work, STAGE, tasks, processes, failures=failures, progress=progress)
        outcomes = {outcome.slide_id: outcome for outcome in tiled}
        succeeded = [row for row in rows if row.slide_id in outcomes and outcomes[row.slide_id].state != "failed"]
        every_id = [row.slide_id for row in rows]
        outcomes |= _tile_again_by_cohort_levels(succeeded, every_id, config, work, processes, progress)
    remove_stale_files(work)
    return list(outcomes.values())


def tile_plan(
    manifest_path: Path,
    work: Path,
    config: TileConfig,
    batch: BatchOptions = DEFAULT_BATCH,
    *,
    slide_mpp: float | None = None,
    distinct_patients: Collection[tuple[str, str]] = (),
) -> Plan:
    """Return what `tile_cohort` would do; arguments and errors as there."""
    require_no_features(work)
    rows = _rows(manifest_path, batch, slide_mpp, distinct_patients)
    table, failures = open_slides(rows)
    if len(table):
        _refuse_mixed(table, rows, config, manifest_path)
        rows = _with_known_facts(rows, table)
    tasks = [tile_task(row, config, work, force=batch.force) for row in rows]
    return plan_tasks(tasks, batch, {slide_id: failure.error for slide_id, failure in failures.items()})


def _rows(
    manifest_path: Path, batch: BatchOptions, slide_mpp: float | None, distinct: Collection[tuple[str, str]]
) -> list[SlideRow]:
    manifest = read_manifest(manifest_path, strict=False, distinct_patients=distinct)
    return [replace(row, fallback_mpp=slide_mpp) for row in manifest.included]


def tile_task(
    row: SlideRow,
    config: TileConfig,
    work: Path,
    *,
    force: bool = False,
    cohort_levels: Mapping[str, float] | None = None,
) -> SlideTask[Slide]:
    """Return the task of one slide, by background levels of its cohort once these are known."""
    made: dict[str, Any] = {"config": config, "out": work, "force": force}
    return SlideTask(
        slide_id=row.slide_id,
        stage=STAGE,
        out=work,
        open=partial(open_row, row),
        write=partial(_tile, row, cohort_levels=cohort_levels, **made),
        plan=partial(_plan, row, **made),
        force=force,
        about={"files": list(row.sources)},
    )


def _tile(row: SlideRow, slide: Slide, progress: Within, **made: Any) -> Outcome:
    """Tile the slide."""
    from pathopatch.patches.tile import tile_slide

    result = tile_slide(slide, progress=progress, **_about(row), **made)
    counts = {"patches": result.patches}
    warnings = (*result.warnings, *label_warnings(row))
    return Outcome(slide_id=row.slide_id, state=result.state, counts=counts, warnings=warnings)


def _plan(row: SlideRow, slide: Slide, *, config: TileConfig, **made: Any) -> SlidePlan:
    """Return what a dry run needs of the slide."""
    from pathopatch.patches.tile import tile_outputs

    outputs, source_of = tile_outputs(slide, config, **_about(row), **made)
    source, _ = source_of()
    return SlidePlan(outputs=outputs, source=source, keeps_pixels=config.store == "zarr")


def _about(row: SlideRow) -> dict[str, Any]:
    """Return what the manifest says of a slide, as arguments of `tile_slide`."""
    about: dict[str, Any] = {"slide_id": row.slide_id, "patient_id": row.patient_id, "block": row.block}
    return about | {"labels": label_source(row), "tissue_mask": row.tissue_mask}


def _refuse_mixed(table: pd.DataFrame, rows: Sequence[SlideRow], config: TileConfig, manifest_path: Path) -> None:
    """Refuse slides that do not go together: of several scales or backgrounds."""
    if config.mpp is None and not mpp_agrees(table["mpp"].min(), table["mpp"].max()):
        by_mpp = table.sort_values("mpp")
        (low, finest), (high, coarsest) = by_mpp[["slide_id", "mpp"]].iloc[[0, -1]].itertuples(index=False)
        raise InputUnsupportedError(
            f"the slides' mpp differ: {low} has {finest:g}, {high} has {coarsest:g} um/px",
            place="[tile] mpp",
            remedy=f"give the target: mpp of [tile], or tile --mpp {coarsest:g}",
        )
    if config.tissue.background == "auto" and (problems := mixed_backgrounds(rows, table)):
        raise TableError(problems, place=str(manifest_path))


def _with_known_facts(rows: Sequence[SlideRow], table: pd.DataFrame) -> list[SlideRow]:
    """Return rows with the background as found, so that it is not guessed again, and the first slide's channels."""
    backgrounds = dict(zip(table["slide_id"], table["background"], strict=True))
    order = tuple(str(table["channels"].iloc[0]).split(","))
    return [replace(row, background=backgrounds.get(row.slide_id, row.background), channel_order=order) for row in rows]


def _tile_again_by_cohort_levels(
    rows: Sequence[SlideRow],
    cohort: Sequence[str],
    config: TileConfig,
    work: Path,
    workers: Workers,
    progress: Progress | None,
) -> dict[str, Outcome]:
    """Tile again the slides that show no background, by the background level that other slides of the cohort show."""
    from pathopatch.patches.background_levels import find_background_levels

    levels = find_background_levels(work, [row.slide_id for row in rows], cohort) if rows else {}
    again = [
        tile_task(row, config, work, force=True, cohort_levels=levels[row.slide_id])
        for row in rows
        if row.slide_id in levels
    ]
    if not again:
        return {}
    outcomes = run_slides(work, STAGE, again, workers, what="tile again", progress=progress)
    return {outcome.slide_id: outcome for outcome in outcomes}


def import_patches(
    source: Path,
    work: Path,
    config: TileConfig,
    *,
    ready: ReadyConfig | None = None,
    distinct_patients: Collection[tuple[str, str]] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Store a set of ready patches as if it were one tiled slide; return its outcome.

    The work folder then holds this set and nothing else: slides that it had are no longer in the cohort. Errors are
    raised: a set has no part that could fail alone.
    """
    from pathopatch.patches.patch_import import tile_patches

    require_no_features(work)

    def report_patches(done: int, total: int) -> None:
        if progress:
            progress("tile", done, total)

    given: dict[str, Any] = {"ready": ready, "distinct_patients": distinct_patients, "force": force}
    result, facts = tile_patches(source, config, work, **given, progress=report_patches)
    write_slides(work, pd.DataFrame([facts]), force=force)
    counts = {"patches": result.patches}
    return [Outcome(slide_id=result.slide_id, state=result.state, counts=counts, warnings=result.warnings)]
