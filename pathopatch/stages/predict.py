"""Predict slides, from pixels or from features: the command `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.config import BatchOptions, PredictConfig
from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.files import read_json, write_json
from pathopatch.core.input_files import LeftOut
from pathopatch.core.locks import STATUS, folder_lock, sole_command
from pathopatch.core.status import SlideStatus, read_status
from pathopatch.core.task import HasSlideId, Outcome, Progress, Within
from pathopatch.core.work_folder import WorkFolder
from pathopatch.models.backbones import find_weights
from pathopatch.models.bundle import INTO_BUNDLE
from pathopatch.models.loading import Model
from pathopatch.models.spec import BundleSpec, tiling_of
from pathopatch.slides.manifest import PSEUDONYM, SlideRow, file_times, pseudonymize
from pathopatch.stages.batch.fetch import Fetch, Scratch, fetching
from pathopatch.stages.batch.run import DEFAULT_BATCH, chosen, run_slides, workers_for
from pathopatch.stages.batch.run_summary import read_ignored, with_ignored
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.clean import remove_stale_files
from pathopatch.stages.find_slides import SlideFeaturesRow

if TYPE_CHECKING:
    from pathopatch.features.source import FromFeatures
    from pathopatch.heatmaps.predict import DrawnSource
    from pathopatch.models.forward import Ensemble
    from pathopatch.slides import Slide
    from pathopatch.stages.dry_run import Plan

STAGE = "predict"


def predict_cohort(
    cohort: Sequence[SlideRow] | Sequence[SlideFeaturesRow],
    model: Model | Path | Sequence[Path],
    out: Path,
    config: PredictConfig,
    batch: BatchOptions = DEFAULT_BATCH,
    *,
    slide_mpp: float | None = None,
    left_out: Sequence[LeftOut] = (),
    progress: Progress | None = None,
) -> list[Outcome]:
    """Predict slides; write tables, heatmaps and ``cohort.csv``, however the run ends; return each slide's outcome.

    Parameters
    ----------
    cohort : sequence of SlideRow or SlideFeaturesRow
        See `slides_to_predict` and `features_to_predict`.
    model : Model, Path or sequence of Path
        From `open_model` with the same settings, or folder of a bundle, or several, whose probabilities are averaged.
    slide_mpp : float, optional
        um per level-0 px of slides whose files state none.
    left_out : sequence of LeftOut
        What was found beside the slides, to be told of on the review page; not kept of de-identified ones.

    Raises
    ------
    PathopatchError
        The bundles, the stride or the device are refused, before any slide is opened; or as `sole_command`.
    """
    require_unmixed(out, deidentify=config.deidentify)
    listed = read_ignored(out)
    opened = model if isinstance(model, Model) else open_model(model, config)
    rows = chosen(out, STAGE, named(cohort, config), batch)
    one = partial(predict_one, model=opened, out=out, config=config, slide_mpp=slide_mpp, force=batch.force)
    with (
        sole_command(out),
        _fetching(rows, opened, out, config, batch, slide_mpp) if config.fetch else nullcontext() as scratch,
        workers_for(out, STAGE, rows, batch) as processes,
    ):
        from pathopatch.heatmaps.model_record import write_model_record
        from pathopatch.stages.batch.summaries import keep_cohort_table

        with suppress(PathopatchError, OSError):  # on a full disk the slides say so, one by one
            write_model_record(out, opened)
            record_left_out(out, () if config.deidentify else left_out, cohort, deidentify=config.deidentify)
        with keep_cohort_table(out):
            outcomes = run_slides(
                out,
                STAGE,
                one if scratch is None else partial(_fetch_and_predict, one, scratch, out, config),
                rows,
                processes,
                about=(lambda _: {}) if config.deidentify else _about,
                deidentified=config.deidentify,
                progress=progress,
            )
    remove_stale_files(out)
    return with_ignored(listed, outcomes)


def record_left_out(
    out: Path, left_out: Sequence[LeftOut], cohort: Sequence[HasSlideId], *, deidentify: bool = False
) -> None:
    """Add files to ``left-out.json``, and take out those that are predicted now or are gone; none with `deidentify`."""
    path, reasons = WorkFolder(out).left_out, dict[str, Any]()
    if deidentify:
        path.unlink(missing_ok=True)
        return
    used = {str(Path(file).absolute()) for row in cohort if isinstance(row, SlideRow) for file in row.sources}
    found = {_as_utf8(str(item.path.absolute())): _as_utf8(item.reason) for item in left_out}
    with folder_lock(out, STATUS):  # other processes may work on parts of the same cohort
        with suppress(InputMissingError, InputCorruptError):
            reasons = read_json(path)
        earlier = {file: reason for file, reason in reasons.items() if Path(file).exists()}
        found = {file: reason for file, reason in (earlier | found).items() if file not in used}
        if found != reasons:
            write_json(path, found)


def _as_utf8(text: str) -> str:
    """Return a text that JSON can hold, whatever the name of the file in it."""
    return text.encode(errors="backslashreplace").decode()


def open_model(models: Path | Sequence[Path], config: PredictConfig) -> Model:
    """Check bundles and whatever of the settings depends on them; raises as `predict_cohort`."""
    # What is wrong with the command is one error here, not one per slide in place of earlier outcomes.
    model = Model.of(models, area_correct=config.area_correct)
    if model.spec.encoder is None:
        tiling_of(model.spec, config)
    else:
        from pathopatch.heatmaps.predict import refuse_pixel_settings

        refuse_pixel_settings(config)
    for member in model.specs:
        if member.backbone is not None and member.lacks_backbone:
            find_weights(member.backbone)
    if config.device not in ("auto", "cpu"):  # every machine has these; asking for others loads torch
        from pathopatch.models.device import pick_device

        pick_device(config.device)
    return model


def slow_model_notes(model: Model, config: PredictConfig) -> list[str]:
    """Return notes on bundles that predict slowly, since torch alone can run them."""
    note = "{} has no model.onnx, so torch runs it, which is slow on a processor; add it: {}"
    return [
        note.format(folder, INTO_BUNDLE)
        for folder, spec in zip(model.folders, model.specs, strict=True)
        if config.runtime == "auto" and spec.onnx is None and spec.encoder is None and not spec.lacks_backbone
    ]


def predict_plan(
    cohort: Sequence[SlideRow],
    model: Model | Path | Sequence[Path],
    out: Path,
    config: PredictConfig,
    batch: BatchOptions = DEFAULT_BATCH,
    *,
    slide_mpp: float | None = None,
) -> Plan:
    """Return what `predict_cohort` would do with slides; the gigabytes are read, not kept."""
    from pathopatch.stages.dry_run import plan_slides

    if config.fetch is not None:
        raise InputUnsupportedError("--dry-run looks into slides, and these are to be fetched", remedy="leave it out")
    require_unmixed(out, deidentify=config.deidentify)
    opened = model if isinstance(model, Model) else open_model(model, config)
    one = partial(predict_one, model=opened, out=out, config=config, slide_mpp=slide_mpp, force=batch.force)
    return plan_slides(out, STAGE, one, chosen(out, STAGE, named(cohort, config), batch))


def named(
    cohort: Sequence[SlideRow] | Sequence[SlideFeaturesRow], config: PredictConfig
) -> list[SlideRow | SlideFeaturesRow]:
    """Return the slides under the names of their outputs: de-identified ones are called by their content."""
    if not config.deidentify:
        return list(cohort)
    return list(pseudonymize([row for row in cohort if isinstance(row, SlideRow)]))  # rows with pseudonyms keep them


def predict_one(
    row: SlideRow | SlideFeaturesRow,
    *,
    model: Model,
    out: Path,
    config: PredictConfig,
    slide_mpp: float | None = None,
    fetched: str | dict[str, str] | None = None,
    force: bool = False,
    dry: bool = False,
    progress: Within = lambda _done, _all: None,
) -> Outcome:
    """Predict a slide, or its features; raises as `write_prediction`.

    `fetched` is the slide's source on this machine, if that is not where the slide lies.
    """
    from pathopatch.heatmaps.predict import slide_source
    from pathopatch.heatmaps.prediction_files import write_prediction

    with _opened(row, model.spec, slide_mpp, fetched) as slide:
        if isinstance(row, SlideRow):
            assert slide is not None
            source: DrawnSource = slide_source(slide, model.spec, row.slide_id, config, tissue_mask=row.tissue_mask)
        else:
            source = _features(row, slide, model.spec, config, slide_mpp)
        # Only now the network is loaded: a slide that is refused is told of at once.
        return write_prediction(
            source,
            _loaded(model, config),
            out,
            patient_id=row.patient_id,
            lies_at=row.source if isinstance(row, SlideRow) and fetched is not None else None,
            config=config,
            force=force,
            dry=dry,
            progress=progress,
        )


def _fetching(
    rows: Sequence[SlideRow | SlideFeaturesRow],
    model: Model,
    out: Path,
    config: PredictConfig,
    batch: BatchOptions,
    slide_mpp: float | None,
) -> AbstractContextManager[Scratch]:
    """Bring slides by the command of the settings."""
    from pathopatch.heatmaps.prediction_files import finished_outcome

    assert config.fetch is not None
    unimportant = {"device", "threads", "runtime"}
    settings = config.model_dump(exclude=unimportant)
    fetch = Fetch(
        command=config.fetch,
        id_command=config.fetch_id,
        out=out,
        stage=STAGE,
        about={"model": model.fingerprint, "settings": settings, "mpp": slide_mpp},
        is_whole=lambda slide_id: finished_outcome(out, slide_id, config) is not None,
        force=batch.force,
    )
    return fetching(fetch, [row for row in rows if isinstance(row, SlideRow)], processes=batch.workers)


def _fetch_and_predict(
    one: Callable[..., Outcome], scratch: Scratch, out: Path, config: PredictConfig, row: SlideRow, *, progress: Within
) -> Outcome:
    """Do `predict_one` on a slide that is brought first, unless it is done; whoever works on it is waited for."""
    status = SlideStatus(out=out, slide_id=row.slide_id, stage=STAGE)
    from pathopatch.heatmaps.prediction_files import finished_outcome

    with status.locked():
        pass
    with scratch.fetched(row, status) as source:
        outcome = finished_outcome(out, row.slide_id, config) if source is None else None
        return one(row, fetched=source, progress=progress) if outcome is None else outcome


def _opened(
    row: SlideRow | SlideFeaturesRow,
    spec: BundleSpec,
    slide_mpp: float | None,
    fetched: str | dict[str, str] | None,
) -> AbstractContextManager[Slide | None]:
    """Open the slide, with the channels in the order of the model; None of features whose slide is not at hand."""
    slide = row if isinstance(row, SlideRow) else row.slide
    if slide is None:
        return nullcontext()
    if fetched is None and "://" in slide.sources[0]:
        raise InputMissingError(
            "an address, not a file", place=slide.sources[0], remedy="set [predict] fetch, or copy the slide to a drive"
        )
    order = slide.channel_order if spec.encoder is not None else spec.channels
    there = replace(slide, channel_order=order, source=slide.source if fetched is None else fetched)
    return open_row(there, fallback_mpp=slide_mpp)


def _features(
    row: SlideFeaturesRow, slide: Slide | None, spec: BundleSpec, config: PredictConfig, slide_mpp: float | None
) -> FromFeatures:
    from pathopatch.heatmaps.predict import feature_source

    mpp = slide.mpp if slide is not None and slide.has_mpp else slide_mpp
    return feature_source(row.features.read(row.slide_id).in_level0_px(mpp), spec, config, slide=slide)


def _about(row: SlideRow | SlideFeaturesRow) -> dict[str, Any]:
    """Return what the status of a slide that failed keeps, for the cohort's tables and to see whether it is gone."""
    # Their content is not read: the drive may be what failed.
    files = {"files": list(row.sources), "file_times": file_times(row.sources)} if isinstance(row, SlideRow) else {}
    return {"patient_id": row.patient_id, **files}


@lru_cache(maxsize=1)
def _loaded(model: Model, config: PredictConfig) -> Ensemble:
    """Return the networks of a model, which a process loads once for all slides."""
    return model.load(**{name: getattr(config, name) for name in ("device", "precision", "runtime", "threads")})


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
