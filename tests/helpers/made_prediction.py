"""Predict made slides, or features, into a folder, as the command `predict` does, by a model of known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from pathopatch.core.config import IntensityConfig, PredictConfig, TissueConfig
from pathopatch.core.task import Outcome
from pathopatch.features.slide_features import SlideFeatures
from pathopatch.heatmaps.predict import feature_source, slide_source
from pathopatch.heatmaps.prediction_files import write_prediction
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.models.runtime.torch_runtime import TorchRuntime
from pathopatch.models.spec import BundleSpec
from pathopatch.slides import Slide, open_slide

DEFAULTS = PredictConfig()
GLASS, TISSUE, TUMOUR = 10, 100, 200  # `mean_model` scales them to 0 or below, 0 and 1 where all three occur


class MeanIntensity(torch.nn.Module):
    """Two logits, 0 and `gain` times the mean of the scaled patch, less `bias`."""

    def __init__(self, gain: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.gain, self.bias = torch.nn.Parameter(torch.tensor(gain)), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.gain * x.mean(dim=(1, 2, 3)) - self.bias
        return torch.stack([torch.zeros_like(mean), mean], dim=1)


def mean_model(
    patch_px: int = 16,
    stride_px: int = 16,
    *,
    gain: float = 1.0,
    bias: float = 0.0,
    network: type[MeanIntensity] = MeanIntensity,
    **changed: Any,
) -> PatchClassifier:
    """Return a model of dark slides of one channel at 0.5 um/px; tissue is what is brighter than a fourth."""
    values = {
        "architecture": "mean", "channels": ("SHG",), "dtype": "uint8", "background": "dark", "patch_px": patch_px,
        "stride_px": stride_px, "mpp": 0.5, "input_px": patch_px, "mean": (0.0,), "std": (1.0,), "method": "erm",
        "tissue": TissueConfig(background="dark", method="fixed", fixed_threshold=0.25, min_speck_um2=0,
                               max_hole_um2=0),
        "intensity": IntensityConfig(low_percentile=0, high_percentile=100),
    }  # fmt: skip
    return PatchClassifier(BundleSpec(**(values | changed)), TorchRuntime(network(gain, bias)))


def grey_slide(path: Path, image: np.ndarray) -> Slide:
    """Write a dark slide of one channel at 0.5 um/px, and open it."""
    tifffile.imwrite(
        path, image, tile=(64, 64), photometric="minisblack", resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
    )
    return open_slide(path, channels=("SHG",), background="dark")


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
