"""Open every slide of a manifest and report all problems at once: the command `check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.config import BatchOptions, LabelConfig, TileConfig
from pathopatch.core.errors import MppMissingError, PathopatchError, Problem, TableError
from pathopatch.core.patients import BLOCK
from pathopatch.core.task import Progress
from pathopatch.core.workers import Workers
from pathopatch.slides.manifest import SlideRow, read_manifest
from pathopatch.stages.batch.run import DEFAULT_BATCH
from pathopatch.stages.batch.slide_table import (
    SLIDE_COLUMNS,
    SLIDE_LABEL,
    label_source,
    label_warnings,
    open_row,
    open_slides,
    slide_facts,
    write_slides,
)

if TYPE_CHECKING:
    import pandas as pd


def check_manifest(
    manifest_path: Path,
    work: Path | None = None,
    batch: BatchOptions = DEFAULT_BATCH,
    *,
    measure: TileConfig | None = None,
    labels: LabelConfig | None = None,
    slide_mpp: float | None = None,
    distinct_patients: Collection[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Open every slide that is not excluded; return one row per slide and write ``slides.parquet`` into `work`.

    Masks and annotations are checked as well; of masks only the headers, unless `measure` is given: then pixels are
    measured by these settings, which adds the columns of `Description.measurements`. `labels` has the meaning of the
    annotations' class names; None accepts any name. `slide_mpp` is um per level-0 px of slides for which neither
    manifest nor file states it. `distinct_patients` are pairs of ids that are two patients.
    TableError lists all problems of the manifest and its slides.
    """
    manifest = read_manifest(manifest_path, distinct_patients=distinct_patients)
    rows = [replace(row, fallback_mpp=slide_mpp) for row in manifest.included]
    facts_of = partial(_checked_facts, measure=measure, labels=labels)
    with Workers(0, limit_s=batch.timeout_s, limit_bytes=batch.limit_bytes) as processes:
        table, failures = open_slides(rows, facts_of=facts_of, workers=processes, progress=progress)
    problems = [_as_problem(row, failures[row.slide_id].error) for row in rows if row.slide_id in failures]
    by_id = {row.slide_id: row for row in rows}
    for slide_id, errors in zip(table.get("slide_id", ()), table.get("label_errors", ()), strict=True):
        problems += [_as_problem(by_id[slide_id], error, role) for role, error in errors.items()]
    problems += mixed_backgrounds(rows, table)
    if problems:
        raise TableError(sorted(problems, key=lambda problem: problem.row or 0), place=str(manifest_path))
    table = table.drop(columns="label_errors", errors="ignore")
    if work is not None:
        columns = (*SLIDE_COLUMNS, BLOCK, SLIDE_LABEL)
        write_slides(work, table[[name for name in columns if name in table]], force=batch.force)
    return table


def _checked_facts(row: SlideRow, measure: TileConfig | None, labels: LabelConfig | None) -> dict[str, Any]:
    """Return a slide's facts and measurements, and under ``label_errors`` the errors of its masks by role."""
    from pathopatch.patches.analysis import grid_of
    from pathopatch.patches.labels import label_file_errors

    with open_row(row) as slide:
        source = label_source(row)
        errors = label_file_errors(
            source,
            tissue_mask=row.tissue_mask,
            slide_size=slide.size,
            bounds_origin=slide.bounds[:2],
            config=labels,
            grid=grid_of(slide, measure) if measure is not None and slide.has_mpp else None,
            is_quick=measure is None,
        )
        checked: dict[str, Any] = {"slide_id": row.slide_id, "label_errors": errors, "icc": slide.facts.icc}
        if measure is None:
            checked["warnings"] = slide.notes
        else:
            from pathopatch.patches.describe import describe_slide

            mask = None if "tissue_mask" in errors else row.tissue_mask
            stated = None if errors or labels is None and source.annotations is not None else source
            checked |= describe_slide(
                slide, measure, slide_id=row.slide_id, tissue_mask=mask, labels=stated
            ).measurements()
        checked["warnings"] = (*checked["warnings"], *label_warnings(row))
        return checked if errors else {**slide_facts(row, slide), **checked}


def mixed_backgrounds(rows: Sequence[SlideRow], table: pd.DataFrame) -> list[Problem]:
    """Return a problem for each slide whose background differs from that of most slides with the same channels.

    A background that the manifest states is accepted.
    """
    rows_by_id = {row.slide_id: row for row in rows}
    groups: dict[str, dict[str, str]] = {}
    opened = table.reindex(columns=["slide_id", "channels", "background"]).dropna()  # the others failed to open
    for slide_id, channels, background in opened.itertuples(index=False):
        by_channel = ",".join(sorted(str(background).casefold().split(",")))
        groups.setdefault(",".join(sorted(str(channels).casefold().split(","))), {})[str(slide_id)] = by_channel
    problems = []
    for backgrounds in groups.values():
        usual, count = Counter(backgrounds.values()).most_common(1)[0]
        for slide_id, background in backgrounds.items():
            row = rows_by_id[slide_id]
            if background != usual and row.background is None:
                message = f"slide {slide_id} looks {background} where there is no tissue, {count} others look {usual}"
                remedy = "write what is true into the column background, of this slide or of the others"
                problems.append(Problem(code="MODALITY_MISMATCH", row=row.row, column="background", value="",
                                        message=message, remedy=remedy, own=(slide_id,)))  # fmt: skip
    return problems


def _as_problem(row: SlideRow, error: PathopatchError, column: str = "") -> Problem:
    """Return an error of a slide, or of the file in a column, as a problem of its row."""
    if column:
        value = str(getattr(row, column))
    elif isinstance(error, MppMissingError):
        column, value = "mpp", ""
    else:
        column, value = "path", str(row.source)
    message = f"slide {row.slide_id}: {error.message}"
    return Problem(code=error.code, row=row.row, column=column, value=value,
                   message=message, remedy=error.remedy, own=(row.slide_id,))  # fmt: skip
