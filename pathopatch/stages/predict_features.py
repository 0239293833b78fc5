"""Predict slides from feature files by heads on features: the command `predict` with a head as its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputMissingError, PathopatchError
from pathopatch.core.progress import Progress
from pathopatch.slides.manifest import SlideRow, is_manifest, read_manifest
from pathopatch.stages.batch.tasks import Outcome, loaded_models, open_row
from pathopatch.stages.predict import BatchOptions, predict_tasks

if TYPE_CHECKING:
    from pathopatch.features.readers.folder import SlideFolder


def takes_features(models: Sequence[Path]) -> bool:
    """Return whether the first of some bundles is a head on features; what is no bundle is refused later."""
    from pathopatch.models.bundle import read_spec

    with suppress(PathopatchError):
        return read_spec(models[0]).encoder is not None
    return False


def predict_features(
    source: Path,
    model: Path | Sequence[Path],
    out: Path,
    config: PredictConfig,
    *,
    slides: Path | None = None,
    slide_mpp: float | None = None,
    force: bool = False,
    **batch: Unpack[BatchOptions],
) -> list[Outcome]:
    """Predict the slides of a feature folder or file; write what `predict_cohort` writes; return the outcomes.

    `source` as `open_features` takes it; `model` is the bundle of a head, or several, whose probabilities are averaged.
    `slides` is a folder of the slides, found by the names of the feature files, or a manifest of them, which names
    patients too: they are drawn under the maps, and their tissue is measured where the feature files have none.
    `slide_mpp` is um per level-0 px, where neither feature files nor slides state it.

    Raises
    ------
    InputMissingError
        There are no features, or a slide of theirs is not in `slides`.
    PathopatchError
        The bundles or the feature files are refused.
    """
    from pathopatch.features.readers import open_features

    models = (model,) if isinstance(model, Path) else tuple(model)
    try:
        folder = open_features(source)
    except InputMissingError as error:
        if not source.is_file():
            raise
        raise InputMissingError(
            "the model takes features, and this file has none",
            place=str(source),
            remedy="give --weights of the encoder; or encode the slides first, and name the folder of their features",
        ) from error
    rows = _rows(slides, folder.slide_ids)
    tasks = [
        PredictFeaturesTask(slide_id, folder, rows.get(slide_id), models, config, out, force, slide_mpp)
        for slide_id in folder.slide_ids
    ]
    return predict_tasks(tasks, models, out, config, **batch)


def _rows(slides: Path | None, slide_ids: Sequence[str]) -> dict[str, SlideRow]:
    """Return the row of each slide, of a manifest or made of the files of a folder."""
    if slides is None:
        return {}
    if is_manifest(slides):
        rows = {row.slide_id: row for row in read_manifest(slides).included}
        if missing := [slide_id for slide_id in slide_ids if slide_id not in rows]:
            raise InputMissingError(
                f"no row for {len(missing)} of {len(slide_ids)} feature files, such as {', '.join(missing[:3])}",
                place=str(slides),
                remedy="give each slide a row whose slide_id is the name of its feature file",
            )
        return rows
    from pathopatch.features.tissue import find_slides

    paths = find_slides(slides, slide_ids)
    return {
        slide_id: SlideRow(row=number, slide_id=slide_id, patient_id=slide_id, source=str(path))
        for number, (slide_id, path) in enumerate(paths.items(), 1)
    }


@dataclass(frozen=True)
class PredictFeaturesTask:
    """One slide to predict from its features."""

    slide_id: str
    folder: SlideFolder  # listed once: of a thousand slides a thousand files are opened to list them
    row: SlideRow | None  # the slide itself, where it is at hand
    models: tuple[Path, ...]
    config: PredictConfig
    out: Path
    force: bool
    slide_mpp: float | None = None
    stage: str = "predict"
    deidentified: bool = False

    @property
    def patient_id(self) -> str:
        """The slide's patient; the slide itself where no manifest says."""
        return self.slide_id if self.row is None else self.row.patient_id

    @property
    def about(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went: its patient, for the tables of the cohort."""
        return {"patient_id": self.patient_id}

    def run(self, progress: Progress | None = None) -> Outcome:
        """Predict the slide."""
        from pathopatch.heatmaps.features import predict_features_to

        features = self.folder.read(self.slide_id)
        model = loaded_models(self.models, self.config)
        opened = nullcontext() if self.row is None else open_row(self.row, fallback_mpp=self.slide_mpp)
        with opened as slide:
            mpp = slide.mpp if slide is not None and slide.has_mpp else self.slide_mpp
            result = predict_features_to(
                features.in_level0_px(mpp),
                model,
                self.out,
                slide=slide,
                patient_id=self.patient_id,
                config=self.config,
                force=self.force,
            )
        return Outcome(slide_id=self.slide_id, state=result.state, counts=result.counts, warnings=result.warnings)
