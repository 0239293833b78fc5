"""Encode slides and predict their features: the command `predict` with a head on features and its encoder's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pathopatch.core.config import EncodeConfig, PredictConfig, parse
from pathopatch.core.errors import CheckpointIncompatibleError, InputMissingError
from pathopatch.core.progress import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.tasks import EncodeTask, Outcome
from pathopatch.stages.encode import described_encoder, encoder_tiling, with_devices
from pathopatch.stages.predict import BatchOptions, predict_tasks, require_unmixed
from pathopatch.stages.predict_features import PredictFeaturesTask

if TYPE_CHECKING:
    from pathopatch.models.spec import BundleSpec


@dataclass(frozen=True, kw_only=True)
class PredictedByFeatures:
    """What became of the slides, and what a user must know of the encoder."""

    outcomes: list[Outcome]
    notes: tuple[str, ...]


def predict_encoded(
    cohort: Sequence[SlideRow],
    model: Path | Sequence[Path],
    weights: Path,
    out: Path,
    config: PredictConfig,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    force: bool = False,
    **batch: Unpack[BatchOptions],
) -> PredictedByFeatures:
    """Encode each slide into ``features/<encoder key>/`` of `out`, and predict it from its features.

    `model` is the bundle of a head on features, or several, whose probabilities are averaged. `weights` is the file or
    folder of its encoder's weights; for TorchScript and transformers that of the encoder itself. `mpp` is um per
    px of the patches, by default the encoder's own. All else is as for `predict_cohort`.

    Raises
    ------
    CheckpointIncompatibleError
        The encoder is not the one that the head was trained on, or the head does not say which that is.
    PathopatchError
        The encoder, its weights, the bundles or the settings are refused, before any slide is opened.
    """
    from pathopatch.heatmaps.features import refuse_settings
    from pathopatch.models.bundle import check_bundles
    from pathopatch.models.spec import check_features

    models = (model,) if isinstance(model, Path) else tuple(model)
    refuse_settings(config)
    require_unmixed(out, deidentify=False)
    spec = check_bundles(models)
    encoding = with_devices(encoder_of(spec, weights, config), batch.get("workers", 1))
    encoder = described_encoder(encoding, limit_s=batch.get("limit_s"), limit_bytes=batch.get("limit_bytes"))
    known = replace(encoder.encoder, precision=encoding.precision)
    check_features(spec, known.to_dict(), place=str(weights))
    tiling = encoder_tiling(encoder, mpp)
    tasks = [
        PredictEncodedTask(
            EncodeTask(row, None, tiling, encoding, out, force, slide_mpp),
            WorkFolder(out).encoded(known.key, row.slide_id),
            models,
            config,
        )
        for row in cohort
    ]
    outcomes = predict_tasks(tasks, models, out, config, **batch)
    return PredictedByFeatures(outcomes=outcomes, notes=encoder.notes)


def encoder_of(spec: BundleSpec, weights: Path, config: PredictConfig) -> EncodeConfig:
    """Return how slides are encoded for a head: by the encoder of its features, with weights from a place.

    CheckpointIncompatibleError if the head does not say which encoder that is, or only the tool that made its features
    has it; InputMissingError if there is nothing at `weights`.
    """
    from pathopatch.features.encoder_files import holds_network
    from pathopatch.features.encoders import ENCODERS, crop_text
    from pathopatch.models.spec import patch_limits

    stated: dict[str, Any] = dict(spec.encoder or {})
    name = stated.get("name")
    if not weights.exists():
        raise InputMissingError(
            f"no file {weights.name}", place="--weights", remedy=f"give the weights of {name or 'the encoder'}"
        )
    values = {
        **patch_limits(spec, config),
        "devices": (config.device,),
        "threads": config.threads,
        "channels": stated.get("channels"),
    }
    if name in ENCODERS:
        values |= {"encoder": name, "weights": weights, "pooling": stated.get("pooling")}
    elif name is not None and holds_network(weights) and {"input_px", "mean", "std"} <= stated.keys():
        values |= {"encoder": str(weights)}
        if weights.is_dir():
            values |= {"pooling": stated.get("pooling")}
        if stated.get("crop") == crop_text(None, stated["input_px"]):  # else the folder itself says how it crops
            values |= {key: stated[key] for key in ("input_px", "mean", "std")}
    else:
        raise CheckpointIncompatibleError(
            f"the head takes features of {name!r}, which pathopatch encode does not know by that name"
            if name is not None
            else "the head does not say of which encoder its features are",
            place="--weights",
            remedy="make the features by the tool of the training features, and predict these",
        )
    return parse(EncodeConfig, values, place="--weights")


@dataclass(frozen=True)
class PredictEncodedTask:
    """One slide to encode, and to predict from its features."""

    encoding: EncodeTask
    features: Path  # the file that it writes
    models: tuple[Path, ...]
    config: PredictConfig
    stage: str = "predict"
    deidentified: bool = False

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.encoding.slide_id

    @property
    def out(self) -> Path:
        """The work folder."""
        return self.encoding.out

    @property
    def force(self) -> bool:
        """Whether stale outputs are redone."""
        return self.encoding.force

    @property
    def row(self) -> SlideRow:
        """The slide's row of the manifest."""
        assert isinstance(self.encoding.slide, SlideRow)
        return self.encoding.slide

    @property
    def about(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went: its patient, for the tables of the cohort."""
        return {"patient_id": self.row.patient_id}

    def run(self, progress: Progress | None = None) -> Outcome:
        """Encode the slide and predict it."""
        from pathopatch.features.readers import open_features

        encoded = self.encoding.run(progress)
        prediction = PredictFeaturesTask(
            self.slide_id,
            open_features(self.features),
            self.row,
            self.models,
            self.config,
            self.out,
            self.force,
            self.encoding.slide_mpp,
        )
        outcome = prediction.run(progress)
        return replace(outcome, warnings=tuple(dict.fromkeys([*encoded.warnings, *outcome.warnings])))
