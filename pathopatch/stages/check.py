"""Open every slide of a manifest and report all problems at once: the command `check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core import artefacts
from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import LabelConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError, ManifestError, MppMissingError, PathopatchError, Problem
from pathopatch.core.progress import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.core.workers import Workers
from pathopatch.slides.manifest import SlideRow, read_manifest, slide_id_from_path, valid_slide_id
from pathopatch.stages.batch.run import Failure, each_slide
from pathopatch.stages.batch.tasks import label_source, open_row

if TYPE_CHECKING:
    import pandas as pd

    from pathopatch.patches.cohort import TissueIntensities
    from pathopatch.slides import Slide

SLIDE_COLUMNS = (
    "slide_id", "patient_id", "split", "width", "height", "bounds", "mpp", "levels", "channels", "dtype", "background",
    "has_labels", "annotation_classes", "source", "fingerprint",
)  # fmt: skip
"""Columns of ``slides.parquet``."""
_LOOKS = ("slide_id", "channels", "background")


def check_manifest(
    manifest_path: Path,
    work: Path | None = None,
    *,
    measure: TileConfig | None = None,
    labels: LabelConfig | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return one row per slide that is not excluded, after opening every slide; write ``slides.parquet`` into `work`.

    Masks and annotations are looked into as well; without `measure` at the headers of the masks alone.

    Parameters
    ----------
    manifest_path : Path
        The manifest.
    work : Path, optional
        Work folder.
    measure : TileConfig, optional
        Also look at the pixels, by these settings: the columns of `Description.measured` are added to the result.
    labels : LabelConfig, optional
        What the class names of annotations mean; None: not known yet, and any name is well.
    force : bool
        Replace what is known of a slide that changed under its id.
    progress : callable, optional
        Called after each slide.

    Raises
    ------
    ManifestError
        Everything wrong with the manifest and its slides, in one go.
    """
    rows = list(read_manifest(manifest_path).included)
    table, failures = open_slides(
        rows, facts_of=partial(_checked_facts, measure=measure, labels=labels), progress=progress
    )
    problems = [_as_problem(row, failures[row.slide_id].error) for row in rows if row.slide_id in failures]
    by_id = {row.slide_id: row for row in rows}
    for slide_id, errors in zip(table.get("slide_id", ()), table.get("label_errors", ()), strict=True):
        problems += [_as_problem(by_id[slide_id], error, role) for role, error in errors.items()]
    problems += mixed_backgrounds(rows, table)
    if problems:
        raise ManifestError(sorted(problems, key=lambda each: each.row or 0), place=str(manifest_path))
    table = table.drop(columns="label_errors", errors="ignore")
    if work is not None:
        write_slides(work, table[list(SLIDE_COLUMNS)], force=force)
    return table


def mixed_backgrounds(rows: Sequence[SlideRow], table: pd.DataFrame) -> list[Problem]:
    """Return a problem for each slide that looks to have another background than most slides of its channels.

    Slides whose background the manifest states are taken at its word.

    Parameters
    ----------
    rows : sequence of SlideRow
        Of the manifest.
    table : DataFrame
        Their facts, see `SLIDE_COLUMNS`.
    """
    by_id = {row.slide_id: row for row in rows}
    groups: dict[str, dict[str, str]] = {}
    known = table.reindex(columns=list(_LOOKS)).dropna()  # what is wrong with the others is told as it is
    for slide_id, channels, background in known.itertuples(index=False):
        told = ",".join(sorted(str(background).casefold().split(",")))
        groups.setdefault(",".join(sorted(str(channels).casefold().split(","))), {})[str(slide_id)] = told
    problems = []
    for slides in groups.values():
        usual, count = Counter(slides.values()).most_common(1)[0]
        for slide_id, background in slides.items():
            row = by_id[slide_id]
            if background != usual and row.background is None:
                message = f"slide {slide_id} looks {background} where there is no tissue, {count} others look {usual}"
                remedy = "write what is true into the column background, of this slide or of the others"
                problems.append(Problem(code="MODALITY_MISMATCH", row=row.row, column="background", value="",
                                        message=message, remedy=remedy, own=(slide_id,)))  # fmt: skip
    return problems


def slides_to_predict(source: str, *, slide_id: str | None = None, is_slide: bool = False) -> list[SlideRow]:
    """Return the rows that a command line's SLIDE or MANIFEST names.

    Parameters
    ----------
    source : str
        A manifest (``.csv``), a slide's path, or ``CARS=a.tif,TPEF=b.tif``.
    slide_id : str, optional
        Id of a single slide; default is its file's stem.
    is_slide : bool
        A manifest is no answer.

    Raises
    ------
    InputUnsupportedError
        The id is none, or a manifest, which names its own slides, is given one.
    ManifestError, InputMissingError
        As `read_manifest`.
    """
    from pathopatch.slides import parse_source

    if not is_slide and source.lower().endswith(".csv"):
        if slide_id is not None:
            raise InputUnsupportedError(
                f"an id {slide_id!r} for a whole manifest", place="--slide-id", remedy="give ids in its column slide_id"
            )
        return list(read_manifest(Path(source)).included)
    parsed = parse_source(source)
    first = next(iter(parsed.values())) if isinstance(parsed, dict) else parsed
    identity = slide_id or slide_id_from_path(first)
    if not valid_slide_id(identity):
        raise InputUnsupportedError(
            f"{identity!r} is no slide id", place="--slide-id", remedy="use letters, digits, dot, dash and underscore"
        )
    texts = {name: str(path) for name, path in parsed.items()} if isinstance(parsed, dict) else str(parsed)
    return [SlideRow(row=1, slide_id=identity, patient_id=identity, source=texts)]


def open_slides(
    rows: Sequence[SlideRow],
    *,
    facts_of: Callable[[SlideRow], dict[str, Any]] | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, dict[str, Failure]]:
    """Return the facts of each slide that opens, a row a slide, and why each other does not, by slide_id.

    Parameters
    ----------
    rows : sequence of SlideRow
        The slides; the table has their order.
    facts_of : callable, optional
        Picklable; default is `slide_facts`.
    workers : Workers, optional
        Processes that run, in which the slides are opened; default is this process.
    progress : callable, optional
        Called after each slide.
    """
    import pandas as pd  # here: processes are to start before this one has loaded what it needs

    facts: dict[str, dict[str, Any]] = {}
    failures: dict[str, Failure] = {}
    opened = each_slide(facts_of or slide_facts, rows, workers or Workers(0))
    for number, (row, result) in enumerate(opened, 1):
        if isinstance(result, Failure):
            failures[row.slide_id] = result
        else:
            facts[row.slide_id] = result
        if progress:
            progress("check", number, len(rows), row.slide_id)
    return pd.DataFrame([facts[row.slide_id] for row in rows if row.slide_id in facts]), failures


def measure_intensities(
    rows: Sequence[SlideRow], *, config: TileConfig, workers: Workers
) -> dict[str, TissueIntensities | PathopatchError]:
    """Return how bright the tissue of each slide is, or why it cannot be said, by slide_id."""
    found = each_slide(partial(_intensities, config=config), rows, workers)
    return {row.slide_id: result.error if isinstance(result, Failure) else result for row, result in found}


def _intensities(row: SlideRow, config: TileConfig) -> TissueIntensities:
    from pathopatch.patches.cohort import tissue_intensities

    with open_row(row) as slide:
        return tissue_intensities(slide, config, tissue_mask=row.tissue_mask)


def slide_facts(row: SlideRow) -> dict[str, Any]:
    """Return what one slide is: identity, geometry, channels, and the fingerprint of its files."""
    with open_row(row) as slide:
        return _facts(row, slide)


def _checked_facts(row: SlideRow, measure: TileConfig | None, labels: LabelConfig | None) -> dict[str, Any]:
    """Return what one slide is, what its pixels say, and under ``label_errors`` what is wrong with its masks."""
    from pathopatch.patches.labels import label_file_errors

    with open_row(row) as slide:
        errors = label_file_errors(
            label_source(row),
            tissue_mask=row.tissue_mask,
            slide_size=slide.size,
            bounds_origin=slide.bounds[:2],
            config=labels,
            is_quick=measure is None,
        )
        known: dict[str, Any] = {"slide_id": row.slide_id, "label_errors": errors}
        if measure is not None:
            from pathopatch.patches.describe import describe_slide

            mask = None if "tissue_mask" in errors else row.tissue_mask
            known |= describe_slide(slide, measure, slide_id=row.slide_id, tissue_mask=mask).measurements()
        return known if errors else {**_facts(row, slide), **known}


def _annotation_classes(row: SlideRow) -> str:
    """Return the class names that a row's annotations use, for whoever fills in the configuration."""
    if row.annotations is None:
        return ""
    from pathopatch.patches.annotations.regions import read_annotations

    return ", ".join(sorted(set(read_annotations(row.annotations).names)))


def _facts(row: SlideRow, slide: Slide) -> dict[str, Any]:
    """Return the columns of ``slides.parquet``."""
    width, height = slide.size
    values = (
        row.slide_id,
        row.patient_id,
        row.split,
        width,
        height,
        ",".join(str(number) for number in slide.bounds),
        slide.mpp,
        len(slide.levels),
        ",".join(slide.channels),
        str(slide.dtype),
        slide.background,
        row.has_tumor,
        _annotation_classes(row),
        json.dumps(row.source, default=str, sort_keys=True),
        artefacts.fingerprint([artefacts.fingerprint_file(path) for path in slide.paths]),
    )
    return dict(zip(SLIDE_COLUMNS, values, strict=True))


def _as_problem(row: SlideRow, error: PathopatchError, column: str = "") -> Problem:
    """Return an error of a slide, or of the file that a column names, as a problem of its row."""
    if column:
        value = str(getattr(row, column))
    elif isinstance(error, MppMissingError):
        column, value = "mpp", ""
    else:
        column, value = "path", str(row.source)
    message = f"slide {row.slide_id}: {error.message}"
    return Problem(
        code=error.code,
        row=row.row,
        column=column,
        value=value,
        message=message,
        remedy=error.remedy,
        own=(row.slide_id,),
    )


def write_slides(work: Path, table: pd.DataFrame, *, force: bool) -> None:
    """Write ``slides.parquet``; slides may come and go, but one that changed under its id is stale.

    Raises
    ------
    DuplicateIdError
        Another slide is there under the same id, and `force` is off.
    StaleArtefactError
        What is known of a slide changed, and `force` is off.
    """
    path = WorkFolder(work).slides
    stamp = Stamp(stage="check", inputs=dict(zip(table["slide_id"], _fingerprints(table), strict=True)))
    existing = artefacts.table_stamp(path)
    if existing is not None:
        if not force and stamp.schema_version == existing.schema_version:
            _refuse_other_slides(path, table)
        shared = stamp.inputs.keys() & existing.inputs.keys()
        known, now = (replace(each, inputs={k: each.inputs[k] for k in shared}) for each in (existing, stamp))
        artefacts.is_up_to_date(path, stamp=now, force=force, existing=[known])
    if stamp != existing:
        artefacts.write_table(path, table, stamp)


def _refuse_other_slides(path: Path, table: pd.DataFrame) -> None:
    """Refuse slides of other files and other content than those that are known under their ids."""
    known = artefacts.read_table(path).set_index("slide_id")
    for slide_id, source, content in zip(table["slide_id"], table["source"], table["fingerprint"], strict=True):
        if slide_id in known.index and known.at[slide_id, "fingerprint"] != content:
            before, now = (_source(str(text)) for text in (known.at[slide_id, "source"], source))
            artefacts.require_same_source(before, now, slide_id=slide_id, place=path)


def _source(text: str) -> object:
    """Return a source as it was before it became a cell; a set of ready patches stands there as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _fingerprints(table: pd.DataFrame) -> list[str]:
    return [artefacts.fingerprint({str(key): value for key, value in row.items()}) for row in table.to_dict("records")]
