"""Predict an open slide, or features, into a folder, as the command `predict` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pathopatch.core.config import PredictConfig
from pathopatch.core.task import Outcome, SlideOutputs
from pathopatch.features.slide_features import SlideFeatures
from pathopatch.heatmaps.artefacts import prediction_outputs, write_prediction
from pathopatch.heatmaps.predict import feature_source, slide_source
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.slides import Slide

DEFAULTS = PredictConfig()


def ensemble_of(model: PatchClassifier | Ensemble) -> Ensemble:
    return model if isinstance(model, Ensemble) else Ensemble([model])


def predict_to(
    slide: Slide,
    model: PatchClassifier | Ensemble,
    out: Path,
    *,
    slide_id: str,
    tissue_mask: Path | None = None,
    config: PredictConfig = DEFAULTS,
    **options: Any,
) -> Outcome:
    ensemble = ensemble_of(model)
    source = slide_source(slide, ensemble.spec, slide_id, config, tissue_mask=tissue_mask)
    return write_prediction(source, ensemble, out, config=config, **options)


def outputs_of(
    slide: Slide, model: PatchClassifier | Ensemble, out: Path, *, slide_id: str, config: PredictConfig = DEFAULTS
) -> SlideOutputs:
    ensemble = ensemble_of(model)
    source = slide_source(slide, ensemble.spec, slide_id, config)
    return prediction_outputs(source, ensemble, out, config)[0]


def predict_features_to(
    features: SlideFeatures,
    model: Ensemble,
    out: Path,
    *,
    slide: Slide | None = None,
    config: PredictConfig = DEFAULTS,
    **options: Any,
) -> Outcome:
    source = feature_source(features, model.spec, config, slide=slide)
    return write_prediction(source, model, out, config=config, **options)
