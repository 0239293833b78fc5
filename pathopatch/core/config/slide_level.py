"""Settings of classification at slide level."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pathopatch.core.config.base import Config

SlidePooling = Literal["attention", "mean", "top-k", "area"]


class SlideLevelConfig(Config):
    """How a slide is classified by the features of its patches, or by predictions of its patches."""

    # attention, mean: trained on slide labels. top-k, area: from the predictions of a run that learnt patch labels
    pooling: tuple[SlidePooling, ...] = Field(default=("attention", "mean", "top-k", "area"), min_length=1)
    folds: int = Field(default=1, ge=1)  # 1: the splits or folds of the work folder; from 3 on: drawn by slide label
    split_seed: int = 0
    seed: int = Field(default=0, ge=0)
    hidden: int = Field(default=128, ge=2)  # values that a patch is projected to; 256 took twice as long
    dropout: float = Field(default=0.25, ge=0, lt=1)
    bag_patches: int = Field(default=2048, ge=1)  # of a slide in a training step, at most; drawn anew each time
    slides_per_step: int = Field(default=8, ge=1)
    epochs: int = Field(default=40, ge=1)
    patience: int = Field(
        default=10, ge=1
    )  # epochs without a better validation, or after a perfect AUROC, until the end
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    top_k: int = Field(default=10, ge=1)  # patches of the highest probability, whose mean is taken
    bootstrap: int = Field(default=1000, ge=0)  # resamplings of patients behind each interval
    threads: int | None = Field(default=None, ge=1)
    cache_gib: float = Field(default=2.0, ge=0)  # features held in memory; those of further slides are read each time

    @model_validator(mode="after")
    def _some_train(self) -> SlideLevelConfig:
        if self.folds == 2:
            raise ValueError("of two folds one tests and one validates: none is left to train on; use three or more")
        return self
