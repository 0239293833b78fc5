"""Predict slides, from pixels or from features: the command `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathopatch.core.config import BatchOptions, PredictConfig
from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.files import read_json, write_json
from pathopatch.core.input_files import LeftOut
from pathopatch.core.locks import STATUS, folder_lock, sole_command
from pathopatch.core.status import read_status
from pathopatch.core.task import HasSlideId, Outcome, Progress, SlidePlan, SlideTask, Within
from pathopatch.core.work_folder import WorkFolder
from pathopatch.models.backbones import find_weights
from pathopatch.models.bundle import INTO_BUNDLE
from pathopatch.models.loading import Model
from pathopatch.models.spec import tiling_of
from pathopatch.slides.manifest import PSEUDONYM, SlideRow, pseudonymize
from pathopatch.stages.batch.run import DEFAULT_BATCH, chosen, run_slides, workers_for
from pathopatch.stages.batch.run_summary import read_ignored, with_ignored
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.clean import remove_stale_files
from pathopatch.stages.find_slides import SlideFeaturesRow

if TYPE_CHECKING:
    from pathopatch.features.source import FromFeatures
    from pathopatch.models.forward import Ensemble
    from pathopatch.patches.source import FromSlide
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
    tasks = chosen(predict_tasks(cohort, opened, out, config, slide_mpp=slide_mpp, force=batch.force), batch)
    with sole_command(out), workers_for(tasks, batch) as processes:
        from pathopatch.heatmaps.model_record import write_model_record
        from pathopatch.stages.batch.summaries import keep_cohort_table

        with suppress(PathopatchError, OSError):  # on a full disk the slides say so, one by one
            write_model_record(out, opened)
            record_left_out(out, () if config.deidentify else left_out, cohort, deidentify=config.deidentify)
        with keep_cohort_table(out):
            outcomes = run_slides(out, STAGE, tasks, processes, deidentified=config.deidentify, progress=progress)
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
    from pathopatch.stages.dry_run import plan_tasks

    require_unmixed(out, deidentify=config.deidentify)
    opened = model if isinstance(model, Model) else open_model(model, config)
    return plan_tasks(predict_tasks(cohort, opened, out, config, slide_mpp=slide_mpp, force=batch.force), batch)


def predict_tasks(
    cohort: Sequence[SlideRow] | Sequence[SlideFeaturesRow],
    model: Model,
    out: Path,
    config: PredictConfig,
    *,
    slide_mpp: float | None = None,
    force: bool = False,
) -> list[SlideTask[Any]]:
    """Return the task of each slide; de-identified slides are called by their content."""
    if config.deidentify:
        cohort = pseudonymize([row for row in cohort if isinstance(row, SlideRow)])  # rows with pseudonyms keep them
    work = _Work(model, config, out, force, slide_mpp)
    return [
        SlideTask(
            slide_id=row.slide_id,
            stage=STAGE,
            out=out,
            open=partial(work.opened, row),
            write=partial(work.predict, row),
            plan=partial(work.plan, row),
            force=force,
            deidentified=config.deidentify,
            about={} if config.deidentify else _about(row),
        )
        for row in cohort
    ]


def _about(row: SlideRow | SlideFeaturesRow) -> dict[str, Any]:
    """Return what the status of a slide that failed keeps, for the cohort's tables and to see whether it is gone."""
    return {"patient_id": row.patient_id, **({"files": list(row.sources)} if isinstance(row, SlideRow) else {})}


@dataclass(frozen=True)
class _Work:
    """What the command does with each of its slides."""

    model: Model
    config: PredictConfig
    out: Path
    force: bool
    slide_mpp: float | None

    def opened(self, row: SlideRow | SlideFeaturesRow) -> AbstractContextManager[Slide | None]:
        """Open the slide, with the channels in the order of the model; None of features whose slide is not at hand."""
        slide = row if isinstance(row, SlideRow) else row.slide
        if slide is None:
            return nullcontext()
        spec = self.model.spec
        order = slide.channel_order if spec.encoder is not None else spec.channels
        return open_row(replace(slide, channel_order=order), fallback_mpp=self.slide_mpp)

    def predict(self, row: SlideRow | SlideFeaturesRow, slide: Slide | None, progress: Within) -> Outcome:
        """Predict the slide, or its features."""
        from pathopatch.heatmaps.prediction_files import write_prediction

        source = self._pixels(row, slide) if isinstance(row, SlideRow) else self._features(row, slide)
        # Only now the network is loaded: a slide that is refused is told of at once.
        return write_prediction(
            source,
            _loaded(self.model, self.config),
            self.out,
            patient_id=row.patient_id,
            config=self.config,
            force=self.force,
            progress=progress,
        )

    def plan(self, row: SlideRow | SlideFeaturesRow, slide: Slide | None) -> SlidePlan:
        """Return what a dry run needs of a slide that is predicted from its pixels."""
        from pathopatch.heatmaps.prediction_files import prediction_outputs

        assert isinstance(row, SlideRow)
        source = self._pixels(row, slide)
        network = _loaded(self.model, self.config)
        outputs, _ = prediction_outputs(source, network, self.out, self.config, force=self.force)
        return SlidePlan(outputs=outputs, source=source)

    def _pixels(self, row: SlideRow, slide: Slide | None) -> FromSlide:
        from pathopatch.heatmaps.predict import slide_source

        assert slide is not None
        return slide_source(slide, self.model.spec, row.slide_id, self.config, tissue_mask=row.tissue_mask)

    def _features(self, row: SlideFeaturesRow, slide: Slide | None) -> FromFeatures:
        from pathopatch.heatmaps.predict import feature_source

        mpp = slide.mpp if slide is not None and slide.has_mpp else self.slide_mpp
        features = row.features.read(row.slide_id).in_level0_px(mpp)
        return feature_source(features, self.model.spec, self.config, slide=slide)


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
