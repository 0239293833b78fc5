"""The spec of a trained model: everything but its weights."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from pathopatch.core.config import Config, IntensityConfig, TissueConfig

BUNDLE_VERSION = 1
_ADJUSTABLE = {  # may change after training without making the weights wrong
    "decision_threshold",
    "decision_chosen_for",
    "temperature",
    "group_metrics",
    "data",
    "training",
    "parameters",
    "package_version",
    "min_tissue",
    "seen",
}


def class_names(n_classes: int) -> tuple[str, ...]:
    """Return default class names: non-tumour and tumour for two classes, numbers for more."""
    if n_classes == 2:
        return ("non-tumour", "tumour")
    return tuple(f"class {number}" for number in range(n_classes))


class SeenRange(Config):
    """Ranges of the training patches' values that contain all but 2 in 1000 patches.

    Sharpness is that of `pathopatch.patches.intensity.sharpness`, which grows with the tissue of a patch.
    """

    mean: tuple[tuple[float, float], ...]  # of each channel's mean over the patch, on the scale of [0, 1]
    sharpness: float | None = None  # the least of all; None: unknown
    # (tissue fraction, least sharpness from there on to the next), rising; None: unknown
    sharpness_by_tissue: tuple[tuple[float, float], ...] | None = None

    @model_validator(mode="after")
    def _tissue_rises(self) -> SeenRange:
        starts = [start for start, _ in self.sharpness_by_tissue or ()]
        if starts != sorted(set(starts)):
            raise ValueError(f"sharpness_by_tissue from {starts}: must rise")
        return self


class BundleSpec(Config):
    """Everything about a trained model but its weights.

    ``mean`` and ``std`` are those of the training patches, per channel, after scaling to [0, 1]. ``intensity`` and
    ``align`` are rules; each slide has its own windows and shifts.
    """

    schema_version: int = BUNDLE_VERSION
    package_version: str = ""
    architecture: str
    channels: tuple[str, ...] = Field(min_length=1)
    dtype: str  # of the slides' pixels, by numpy's name
    background: str = "auto"
    patch_px: int = Field(ge=1)
    stride_px: int = Field(ge=1)
    mpp: float | None = Field(default=None, gt=0)  # None: trained on ready patches of unknown scale
    input_px: int = Field(ge=1)
    intensity: IntensityConfig = IntensityConfig()
    tissue: TissueConfig = TissueConfig()
    align: bool = False  # move the channels of each slide onto each other, by shifts measured on that slide
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_tissue: float = Field(default=0.01, ge=0, le=1)
    class_names: tuple[str, ...] = Field(default=("non-tumour", "tumour"), min_length=2)  # in the order of the logits
    decision_threshold: float = 0.0  # on the logit z1 - z0
    # "none": 0, the larger logit; of validation "wga": worst-group accuracy, "sensitivity 0.95": that share of class 1
    decision_chosen_for: str = "none"
    temperature: float = Field(default=1.0, gt=0)
    method: str
    parameters: dict[str, Any] = {}
    group_metrics: dict[str, Any] = {}
    data: dict[str, Any] = {}  # numbers of slides, patients and patches, by group; see `training.data_summary`
    training: dict[str, str] = {}  # fingerprints of what it was trained on
    seen: SeenRange | None = None  # appearance of the training patches; None: unknown

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> BundleSpec:
        if not len(self.channels) == len(self.mean) == len(self.std):
            raise ValueError(f"{len(self.channels)} channels, {len(self.mean)} means, {len(self.std)} sds")
        if min(self.std) <= 0:
            raise ValueError("every std must be above 0")
        return self

    @property
    def decision_probability(self) -> float | None:
        """Probability above which a patch counts as the second of two classes; None for more classes."""
        if len(self.class_names) != 2:
            return None
        # The sigmoid as a tanh, which cannot overflow.
        return 0.5 * (1 + math.tanh(0.5 * self.decision_threshold / self.temperature))

    def contract(self) -> dict[str, Any]:
        """Return the settings that the weights depend on, as plain values. They must never be edited."""
        return self.model_dump(mode="json", exclude=_ADJUSTABLE)
