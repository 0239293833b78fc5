"""Define the task of each stage for one slide, picklable for a worker process, and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pathopatch.core.config import EncodeConfig, PredictConfig, TileConfig
from pathopatch.core.progress import WITHIN_SLIDE, Progress
from pathopatch.core.workers import worker_number
from pathopatch.slides.manifest import SlideRow

if TYPE_CHECKING:
    from pathopatch.features.encode import PatchSource
    from pathopatch.features.encoder_network import LoadedEncoder
    from pathopatch.features.patch_encoder import PatchEncoder
    from pathopatch.models.forward import Ensemble
    from pathopatch.patches.labels import LabelSource
    from pathopatch.slides import Slide


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one slide: a state (done, done_empty, current, failed), its counts and warnings, or its error."""

    slide_id: str
    state: str
    code: str = ""
    message: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class HasSlideId(Protocol):
    """Something that belongs to one slide, such as a row of the manifest."""

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        ...


class SlideTask(HasSlideId, Protocol):
    """One slide's work; picklable, so that it can go to a worker process."""

    @property
    def stage(self) -> str:
        """The stage's name, the key in the slide's status file."""
        ...

    @property
    def out(self) -> Path:
        """The work folder."""
        ...

    @property
    def force(self) -> bool:
        """Whether stale outputs are redone."""
        ...

    @property
    def deidentified(self) -> bool:
        """Whether nothing that is written may name a file."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went."""
        ...

    def run(self, progress: Progress | None = None) -> Outcome:
        """Do the work, saying how far through the slide it is, and return what became of the slide."""
        ...


def open_row(row: SlideRow, *, fallback_mpp: float | None = None) -> Slide:
    """Return the slide of a manifest row; the caller closes it.

    `fallback_mpp` (um per px) is the slide's own where neither its file nor the manifest states one. A note tells where
    it contradicts them.
    """
    from pathopatch.slides import in_order, open_slide
    from pathopatch.slides.resolution import mpp_agrees

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
        whole_slide_non_tumor=row.whole_slide_non_tumor,
        labelled_mask=row.labelled_mask,
        annotations=row.annotations,
    )


@dataclass(frozen=True)
class TileTask:
    """One slide to tile, by background levels of its cohort once these are known."""

    row: SlideRow
    config: TileConfig
    out: Path
    force: bool
    cohort_levels: Mapping[str, float] | None = None
    stage: str = "tile"
    deidentified: bool = False

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.row.slide_id

    @property
    def about(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went: nothing."""
        return {}

    def run(self, progress: Progress | None = None) -> Outcome:
        """Tile the slide."""
        from pathopatch.patches.tile import tile_slide

        with open_row(self.row) as slide:
            result = tile_slide(
                slide,
                self.config,
                self.out,
                slide_id=self.row.slide_id,
                patient_id=self.row.patient_id,
                labels=label_source(self.row),
                tissue_mask=self.row.tissue_mask,
                cohort_levels=self.cohort_levels,
                force=self.force,
                progress=_within(self.slide_id, progress),
            )
        counts = {"patches": result.patches}
        return Outcome(slide_id=self.slide_id, state=result.state, counts=counts, warnings=result.warnings)


@dataclass(frozen=True)
class PredictTask:
    """One slide to predict."""

    row: SlideRow
    models: tuple[Path, ...]
    config: PredictConfig
    out: Path
    force: bool
    slide_mpp: float | None = None
    stage: str = "predict"

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.row.slide_id

    @property
    def deidentified(self) -> bool:
        """Whether nothing that is written may name a file."""
        return self.config.deidentify

    @property
    def about(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went: its patient, for the tables of the cohort."""
        return {} if self.config.deidentify else {"patient_id": self.row.patient_id}

    def run(self, progress: Progress | None = None) -> Outcome:
        """Predict the slide."""
        from pathopatch.models.bundle import check_bundles
        from pathopatch.models.spec import check_slide
        from pathopatch.slides import tolerant

        spec = check_bundles(self.models)
        with open_row(replace(self.row, channel_order=spec.channels), fallback_mpp=self.slide_mpp) as slide:
            share = self.config.max_bad_tiles
            check_slide(spec, tolerant(slide, share) if share else slide)
            # Only now the network is loaded: a slide that is refused is told of at once.
            from pathopatch.heatmaps.artefacts import predict_to

            result = predict_to(
                slide,
                loaded_models(self.models, self.config),
                self.out,
                slide_id=self.slide_id,
                patient_id=self.row.patient_id,
                tissue_mask=self.row.tissue_mask,
                config=self.config,
                force=self.force,
                progress=_within(self.slide_id, progress),
            )
        return Outcome(slide_id=self.slide_id, state=result.state, counts=result.counts, warnings=result.warnings)


@dataclass(frozen=True)
class EncodeTask:
    """One slide to encode: a row of a manifest, or a tiled slide of a work folder."""

    slide: SlideRow | str  # a tiled slide by its id
    tiled: Path | None  # the work folder of a tiled slide
    tiling: TileConfig  # for a row
    config: EncodeConfig  # devices and precision are no longer "auto"
    out: Path
    force: bool
    slide_mpp: float | None = None
    stage: str = "encode"
    deidentified: bool = False

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.slide if isinstance(self.slide, str) else self.slide.slide_id

    @property
    def about(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went: nothing."""
        return {}

    def run(self, progress: Progress | None = None) -> Outcome:
        """Encode the slide."""
        from pathopatch.features.encode import slide_patches, stored_patches

        if isinstance(self.slide, str):
            assert self.tiled is not None
            return self._encode(stored_patches(self.tiled, self.slide, self.config), progress)
        row = self.slide
        with open_row(row, fallback_mpp=self.slide_mpp) as slide:
            source = slide_patches(slide, row.slide_id, self.tiling, self.config, tissue_mask=row.tissue_mask)
            return self._encode(source, progress)

    def _encode(self, source: PatchSource, progress: Progress | None) -> Outcome:
        from pathopatch.features.encode import encode_patches

        config = self.config
        device = config.devices[worker_number() % len(config.devices)]
        result = encode_patches(
            source,
            replace(loaded_encoder(config).encoder, precision=config.precision),
            partial(_opened_encoder, config, device),
            self.out,
            config,
            force=self.force,
            progress=_within(self.slide_id, progress) or (lambda _done, _all: None),
        )
        counts = {"patches": result.patches}
        return Outcome(slide_id=self.slide_id, state=result.state, counts=counts, warnings=result.warnings)


@lru_cache(maxsize=1)
def loaded_encoder(config: EncodeConfig) -> LoadedEncoder:
    """Return the encoder of a configuration with its weights, which a process reads once."""
    from pathopatch.features import patch_encoder

    return patch_encoder.load(config)


@lru_cache(maxsize=1)
def _opened_encoder(config: EncodeConfig, device: str) -> PatchEncoder:
    """Return the encoder of a configuration on a device, which a process opens once for all its slides."""
    from pathopatch.features import patch_encoder

    return patch_encoder.open_patch_encoder(
        loaded_encoder(config), device=device, precision=config.precision, threads=config.threads
    )


def _within(slide_id: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    """Return the callback that reports how many grid positions of a slide are done."""
    if progress is None:
        return None
    return lambda done, total: progress(WITHIN_SLIDE, done, total, slide_id)


def loaded_models(models: tuple[Path, ...], config: PredictConfig) -> Ensemble:
    """Return the models of some bundles, which are loaded once for all slides, unless their files change."""
    written_ns = tuple(file.stat().st_mtime_ns for folder in models for file in sorted(folder.glob("*")))
    return _loaded(models, config, written_ns)


@lru_cache(maxsize=1)
def _loaded(models: tuple[Path, ...], config: PredictConfig, written: tuple[int, ...]) -> Ensemble:
    from pathopatch.models.loading import load_ensemble

    options = {name: getattr(config, name) for name in ("device", "precision", "runtime", "threads")}
    return load_ensemble(models, **options)
