"""Predict one slide or a cohort: the command `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypedDict, Unpack

from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputUnsupportedError, PathopatchError
from pathopatch.core.progress import Progress
from pathopatch.core.status import read_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.slides.manifest import PSEUDONYM, SlideRow, is_manifest, pseudonymize, read_manifest
from pathopatch.slides.slide_paths import ID_REMEDY, slide_id_from_path, slide_id_from_text, valid_slide_id
from pathopatch.stages.batch.run import failed_before, logged, progress_counter, run_slides, workers_for
from pathopatch.stages.batch.tasks import Outcome, PredictTask, SlideTask
from pathopatch.stages.clean import remove_stale_files


class BatchOptions(TypedDict, total=False):
    """Arguments of `predict_tasks` that a caller may leave out."""

    workers: int
    limit_s: float | None
    limit_bytes: float | None
    only_failed: bool
    totals: bool
    progress: Progress | None


def predict_cohort(
    cohort: Sequence[SlideRow],
    model: Path | Sequence[Path],
    out: Path,
    config: PredictConfig,
    *,
    slide_mpp: float | None = None,
    force: bool = False,
    **batch: Unpack[BatchOptions],
) -> list[Outcome]:
    """Predict slides; write tables, heatmaps, ``cohort.csv`` and ``patients.csv``; return the outcome of each slide.

    The last two are written however the run ends, and about every minute before. Without `totals` they are left as they
    are, for many runs on one folder. Limits and `only_failed` are those of `pathopatch.stages.tile.tile_cohort`.

    Parameters
    ----------
    cohort : sequence of SlideRow
        See `slides_to_predict`.
    model : Path or sequence of Path
        Folder of a bundle, or several, whose probabilities are averaged.
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
    return predict_tasks(tasks, models, out, config, **batch)


def predict_tasks(
    tasks: Sequence[SlideTask],
    models: Sequence[Path],
    out: Path,
    config: PredictConfig,
    *,
    workers: int = 1,
    limit_s: float | None = None,
    limit_bytes: float | None = None,
    only_failed: bool = False,
    totals: bool = True,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Run tasks of one slide each, from pixels or from features; arguments and errors as of `predict_cohort`."""
    tasks = failed_before(tasks) if only_failed else tasks
    # The processes start first and load their libraries while this one checks the bundles.
    with workers_for(tasks, workers, limit_s=limit_s, limit_bytes=limit_bytes) as processes:
        from pathopatch.heatmaps.model_record import write_model_record
        from pathopatch.models.bundle import check_bundles
        from pathopatch.models.spec import tiling_of
        from pathopatch.stages.batch.summaries import keep_cohort_tables

        # What is wrong with the command is one error here, not one per slide in place of earlier outcomes.
        spec = check_bundles(models)
        if spec.encoder is None:
            tiling_of(spec, config)
        if config.device not in ("auto", "cpu"):  # every machine has these; asking for others loads torch
            from pathopatch.models.device import pick_device

            pick_device(config.device)
        with suppress(PathopatchError, OSError):  # on a full disk the slides say so, one by one
            write_model_record(out, models)
        counter = progress_counter("predict", len(tasks), progress)
        with (
            keep_cohort_tables(out, counter) if totals else nullcontext(counter) as on_counted,
            logged(out, "predict", on_counted, slides=len(tasks), deidentified=config.deidentify) as on_done,
        ):
            outcomes = run_slides(tasks, workers=processes, on_done=on_done, progress=progress)
    remove_stale_files(out)
    return outcomes


def slides_to_predict(
    source: str, *, slide_id: str | None = None, is_slide: bool = False, strict: bool = False
) -> list[SlideRow]:
    """Return the rows that a command line's SLIDE or MANIFEST names: a ``.csv``, a path, or ``CARS=a.tif,TPEF=b.tif``.

    The id of a single slide is its file's stem, or what the stems of its files share, unless `slide_id` is given. With
    `is_slide`, `source` is no manifest. With `strict`, a missing file is an error of the manifest, not of its slide.

    Raises
    ------
    InputUnsupportedError
        The id is invalid, or was given for a manifest, which names its own slides.
    TableError, InputMissingError
        As `read_manifest`.
    """
    from pathopatch.slides import parse_source
    from pathopatch.slides.discovery_files import set_name

    if not is_slide and is_manifest(source):
        if slide_id is not None:
            raise InputUnsupportedError(
                f"an id {slide_id!r} for a whole manifest", place="--slide-id", remedy="give ids in its column slide_id"
            )
        return list(read_manifest(Path(source), strict=strict).included)
    parsed = parse_source(source)
    identity = slide_id or (
        slide_id_from_text(set_name(parsed)) if isinstance(parsed, dict) else slide_id_from_path(parsed)
    )
    if not valid_slide_id(identity):
        raise InputUnsupportedError(f"{identity!r} is no slide id", place="--slide-id", remedy=ID_REMEDY)
    texts = {name: str(path) for name, path in parsed.items()} if isinstance(parsed, dict) else str(parsed)
    return [SlideRow(row=1, slide_id=identity, patient_id=identity, source=texts)]


def require_unmixed(out: Path, *, deidentify: bool) -> None:
    """Refuse to put de-identified slides and named ones into one work folder, which may not exist yet.

    Raises
    ------
    InputUnsupportedError
        The folder holds slides of the other kind.
    """
    # The tables of a work folder list every slide that was predicted into it: a name beside a pseudonym would tell
    # whose slide it is.
    ids = {path.stem for pattern in ("status/*.json", "predictions/*.parquet") for path in out.glob(pattern)}
    deidentified = {name for name in ids if PSEUDONYM.fullmatch(name) and not _is_identified(out, name)}
    if deidentify and (ids - deidentified or WorkFolder(out).slides.exists()):
        raise InputUnsupportedError(
            "the folder names slides: they were worked on without --deidentify",
            place=str(out),
            remedy="choose another folder for de-identified outputs",
        )
    if deidentified and not deidentify:
        raise InputUnsupportedError(
            f"the folder holds de-identified slides ({len(deidentified)}), and this run would add named ones",
            place=str(out),
            remedy="give --deidentify as before, or choose another folder",
        )


def _is_identified(out: Path, slide_id: str) -> bool:
    """Return whether a slide's status names its patient or its files."""
    # A user's own slide id may look like a pseudonym.
    return any(entry.get(name) for entry in read_status(out, slide_id).values() for name in ("patient_id", "source"))
