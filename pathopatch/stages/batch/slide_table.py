"""Open the slides of a cohort and keep their facts in ``slides.parquet``."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core import artefacts
from pathopatch.core.artefacts import Stamp, content_fingerprint, fingerprint
from pathopatch.core.errors import InputUnsupportedError, StaleArtefactError
from pathopatch.core.patients import BLOCK
from pathopatch.core.status import is_recorded_done
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.core.workers import Workers
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.run import Failure, each_slide

if TYPE_CHECKING:
    import pandas as pd

    from pathopatch.patches.labels import LabelSource
    from pathopatch.slides import Slide

SLIDE_COLUMNS = (
    "slide_id", "patient_id", "split", "width", "height", "bounds", "mpp", "levels", "channels", "dtype", "background",
    "has_labels", "annotation_classes", "source", "fingerprint",
)  # fmt: skip
"""Columns of ``slides.parquet`` of every cohort."""

SLIDE_LABEL = "slide_label"
"""Column of a cohort that a manifest lists: 1 or 0, of the slide as a whole; -1 where it has none."""

_STORED_COLUMNS = (*SLIDE_COLUMNS, BLOCK, SLIDE_LABEL)


def open_row(row: SlideRow, *, fallback_mpp: float | None = None) -> Slide:
    """Return the slide of a manifest row; the caller closes it.

    `fallback_mpp` (um per px) is the slide's own where neither its file nor the manifest states one. A note tells where
    it contradicts them.
    """
    from pathopatch.core.config import mpp_agrees
    from pathopatch.slides import in_order, open_slide

    slide = open_slide(row.source, mpp=row.mpp, channels=row.channels, background=row.background)
    fallback_mpp = row.fallback_mpp if fallback_mpp is None else fallback_mpp
    if not slide.has_mpp and fallback_mpp is not None:
        slide.close()
        slide = open_slide(row.source, mpp=fallback_mpp, channels=row.channels, background=row.background)
    ordered = in_order(slide, row.channel_order)
    if ordered is not slide:
        slide.close()
    if fallback_mpp is not None and not mpp_agrees(ordered.mpp, fallback_mpp):
        by = "the file" if row.mpp is None else "the manifest"
        ordered.add_note(f"um/px: {ordered.mpp:g} counts, as {by} says; --slide-mpp {fallback_mpp:g} is not used")
    return ordered


def label_source(row: SlideRow) -> LabelSource:
    """Return where a manifest row's labels come from."""
    from pathopatch.patches.labels import LabelSource

    return LabelSource(
        tumor_mask=row.tumor_mask,
        whole_slide=row.whole_slide,
        labelled_mask=row.labelled_mask,
        annotations=row.annotations,
    )


def label_warnings(row: SlideRow) -> tuple[str, ...]:
    """Return a warning if a slide has a label of its own and nothing labels its patches."""
    if row.slide_label is None or row.has_tumor:
        return ()
    return (
        "its patches have no label and no group, since slide_label is of the slide alone: fill tumor_mask, with a mask "
        "or with all or none where the whole slide is of one class, or annotations",
    )


def open_slides(
    rows: Sequence[SlideRow],
    *,
    facts_of: Callable[[SlideRow], dict[str, Any]] | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, dict[str, Failure]]:
    """Return the facts of each slide that opens, a row each in the order of `rows`, and the failures by slide_id.

    Without `workers` the slides are opened in this process. A `facts_of` (picklable) takes the place of `slide_facts`.
    """
    import pandas as pd  # not above: worker processes start before this one has loaded pandas

    work, workers = facts_of or _open_and_describe, workers or Workers(0)
    found = {row.slide_id: result for row, result in each_slide(work, rows, workers, bar="check", progress=progress)}
    failures = {name: result for name, result in found.items() if isinstance(result, Failure)}
    return pd.DataFrame([found[row.slide_id] for row in rows if row.slide_id not in failures]), failures


def _open_and_describe(row: SlideRow) -> dict[str, Any]:
    with open_row(row) as slide:
        return slide_facts(row, slide)


def slide_facts(row: SlideRow, slide: Slide) -> dict[str, Any]:
    """Return a slide's row of ``slides.parquet``: identity, geometry, channels, and its files' fingerprint."""
    width, height = slide.size
    facts = {
        "slide_id": row.slide_id,
        "patient_id": row.patient_id,
        **({BLOCK: row.block} if row.block else {}),
        "split": row.split,
        "width": width,
        "height": height,
        "bounds": ",".join(str(number) for number in slide.bounds),
        "mpp": slide.mpp,
        "levels": len(slide.levels),
        "channels": ",".join(slide.channels),
        "dtype": str(slide.dtype),
        "background": slide.background,
        "has_labels": row.has_tumor,
        "annotation_classes": _annotation_classes(row),
        "source": json.dumps(row.source, default=str, sort_keys=True),
        "fingerprint": content_fingerprint(slide.paths),
        SLIDE_LABEL: -1 if row.slide_label is None else row.slide_label,
    }
    slide.require_unchanged()
    return facts


def _annotation_classes(row: SlideRow) -> str:
    """Return the class names in a row's annotations, for whoever writes the configuration."""
    if row.annotations is None:
        return ""
    from pathopatch.patches.annotations.outlines import read_annotations

    return ", ".join(sorted(set(read_annotations(row.annotations).names)))


def write_slides(work: Path, table: pd.DataFrame, *, force: bool) -> None:
    """Write ``slides.parquet``. Slides may come and go; one that changed under its id is stale.

    Without `force` DuplicateIdError if another slide has the same id there, StaleArtefactError if its facts changed.
    """
    require_no_features(work)
    path = WorkFolder(work).slides
    stamp = Stamp(stage="check", inputs=dict(zip(table["slide_id"], _row_fingerprints(table), strict=True)))
    existing = artefacts.read_stamp(path)
    if existing is not None and not force:
        artefacts.require_schema(existing, place=path, remedy="run the same command with --force to make it anew")
        # Only slides that both tables hold can be stale: a cohort may grow and shrink.
        shared = stamp.inputs.keys() & existing.inputs.keys()
        _refuse_changes(path, table, {name for name in shared if stamp.inputs[name] != existing.inputs[name]})
    if stamp != existing:
        artefacts.write_table(path, table, stamp)


def with_finished(work: Path, table: pd.DataFrame, failed: Collection[str]) -> pd.DataFrame:
    """Return a table with the earlier rows of tiled slides that cannot be opened now: their patches are still there."""
    import pandas as pd

    path, kept = WorkFolder(work).slides, [name for name in failed if is_recorded_done(work, name, "tile")]
    if not kept or not path.is_file():
        return table
    earlier = artefacts.read_table(path)
    stored = [name for name in _STORED_COLUMNS if name in earlier]  # an earlier version had one column more
    return pd.concat([table, earlier.loc[earlier["slide_id"].isin(kept), stored]], ignore_index=True)


def require_no_features(work: Path) -> None:
    """Refuse a work folder of features, also one whose import was killed: its tables would be mixed with slides."""
    stamp = artefacts.read_stamp(WorkFolder(work).slides)
    if WorkFolder(work).features.is_file() or (stamp is not None and stamp.stage == "features"):
        raise InputUnsupportedError(
            "the patches of this work folder are features",
            place=str(work),
            remedy="choose another work folder for slides, with -o",
        )


def _refuse_changes(path: Path, table: pd.DataFrame, changed: Collection[str]) -> None:
    """Refuse slides that differ from those of the same ids in the earlier table; name their files, or the columns."""
    before, now = (
        {
            str(row["slide_id"]): {str(name): row[name] for name in _STORED_COLUMNS if name in row}
            for row in frame[frame["slide_id"].isin(changed)].to_dict("records")
        }
        for frame in (artefacts.read_table(path), table)
    )
    for slide_id in sorted(changed):
        if before[slide_id]["fingerprint"] != now[slide_id]["fingerprint"]:
            # JSON, or of a set of ready patches the plain path.
            texts = (str(rows[slide_id]["source"]) for rows in (before, now))
            sources = [json.loads(text) if text[:1] in ('"', "{") else text for text in texts]
            artefacts.require_same_source(*sources, slide_id=slide_id, place=path)
    if changed:
        raise StaleArtefactError(
            "the manifest, or a slide's file, changed: " + "; ".join(artefacts.changed_settings(before, now)),
            place=str(path),
            remedy="use --force to take over the change, or another work folder to keep both",
        )


def _row_fingerprints(table: pd.DataFrame) -> list[str]:
    # A slide without a label has the fingerprint of tables that lack the column: they are not stale.
    return [
        fingerprint({str(key): value for key, value in row.items() if (key, value) != (SLIDE_LABEL, -1)})
        for row in table.to_dict("records")
    ]
