"""Cut the slides of a manifest into patches, or store ready patches: the command `tile`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.config import BatchOptions, ReadyConfig, TileConfig, mpp_agrees
from pathopatch.core.errors import InputUnsupportedError, TableError
from pathopatch.core.locks import sole_command
from pathopatch.core.task import Outcome, Progress, Within
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
from pathopatch.stages.dry_run import Plan, plan_slides

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
    rows = _rows(manifest_path, slide_mpp, distinct_patients)
    selected = chosen(work, STAGE, rows, batch)
    with ExitStack() as stack:
        processes = stack.enter_context(workers_for(work, STAGE, selected, batch))
        table, failures = open_slides(rows, workers=processes, progress=progress)
        if len(table):
            _refuse_mixed(table, rows, config, manifest_path)
        stack.enter_context(sole_command(work))  # which makes the folder
        if len(table):
            write_slides(work, with_finished(work, table, failures), force=batch.force)
            rows = _with_known_facts(rows, table)
        names = {row.slide_id for row in selected}
        run: dict[str, Any] = {"workers": processes, "about": _files, "progress": progress}
        one = partial(tile_one, config=config, out=work)
        to_tile = [row for row in rows if row.slide_id in names]
        tiled = run_slides(work, STAGE, partial(one, force=batch.force), to_tile, failures=failures, **run)
        outcomes = {outcome.slide_id: outcome for outcome in tiled}
        succeeded = [row for row in rows if row.slide_id in outcomes and outcomes[row.slide_id].state != "failed"]
        # Slides that show no background are tiled again, by the level that the others show.
        if levels := _background_levels(work, succeeded, rows):
            again = [row for row in succeeded if row.slide_id in levels]
            of_cohort = partial(one, levels=levels, force=True)
            done = run_slides(work, STAGE, of_cohort, again, what="tile again", **run)
            outcomes |= {outcome.slide_id: outcome for outcome in done}
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
    rows = _rows(manifest_path, slide_mpp, distinct_patients)
    table, failures = open_slides(rows)
    if len(table):
        _refuse_mixed(table, rows, config, manifest_path)
        rows = _with_known_facts(rows, table)
    one = partial(tile_one, config=config, out=work, force=batch.force)
    return plan_slides(work, STAGE, one, chosen(work, STAGE, rows, batch), failures)


def _rows(manifest_path: Path, slide_mpp: float | None, distinct: Collection[tuple[str, str]]) -> list[SlideRow]:
    manifest = read_manifest(manifest_path, strict=False, distinct_patients=distinct)
    return [replace(row, fallback_mpp=slide_mpp) for row in manifest.included]


def tile_one(
    row: SlideRow,
    *,
    config: TileConfig,
    out: Path,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    force: bool = False,
    dry: bool = False,
    progress: Within | None = None,
) -> Outcome:
    """Tile a slide; `levels` are the background levels of its cohort, by slide_id. Raises as `tile_slide`."""
    from pathopatch.patches.tile import tile_slide

    with open_row(row) as slide:
        outcome = tile_slide(
            slide,
            config,
            out,
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            block=row.block,
            labels=label_source(row),
            tissue_mask=row.tissue_mask,
            cohort_levels=None if levels is None else levels[row.slide_id],
            force=force,
            dry=dry,
            progress=progress,
        )
    return replace(outcome, warnings=(*outcome.warnings, *label_warnings(row)))


def _files(row: SlideRow) -> dict[str, Any]:
    """Return what the status of a slide that failed keeps."""
    return {"files": list(row.sources)}


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


def _background_levels(
    work: Path, tiled: Sequence[SlideRow], cohort: Sequence[SlideRow]
) -> dict[str, Mapping[str, float]]:
    """Return the background levels that other slides show, by slide_id of those that show none."""
    from pathopatch.patches.background_levels import find_background_levels

    names = ([row.slide_id for row in rows] for rows in (tiled, cohort))
    return dict(find_background_levels(work, *names)) if tiled else {}


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
    outcome, facts = tile_patches(source, config, work, **given, progress=report_patches)
    write_slides(work, pd.DataFrame([facts]), force=force)
    return [outcome]
