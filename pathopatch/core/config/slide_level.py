"""Settings of classification at slide level."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pathopatch.core.config.base import Config

SlidePooling = Literal["attention", "mean", "top-k", "area"]


class SlideLevelConfig(Config):
    """How a slide is classified by the features of its patches, or by predictions of its patches."""

    pooling: tuple[SlidePooling, ...] = Field(default=("attention", "mean", "top-k", "area"), min_length=1)
    """attention and mean are trained on slide labels; top-k and area use the predictions of a run on patches."""
    folds: int = Field(default=1, ge=1)
    """1: the splits or folds of the work folder. From 3 on: folds drawn by patient and slide label."""
    split_seed: int = 0
    """Seed of the split by patient."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights and of the patches drawn."""
    hidden: int = Field(default=128, ge=2)
    """Values that a patch is projected to; 256 took twice as long."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    """Share of these values that is left out at random in training."""
    bag_patches: int = Field(default=2048, ge=1)
    """Most patches of a slide in a training step; they are drawn anew each time."""
    slides_per_step: int = Field(default=8, ge=1)
    """Slides in a training step."""
    epochs: int = Field(default=40, ge=1)
    """Most passes over the training slides."""
    patience: int = Field(default=10, ge=1)
    """Epochs without a better validation, or after a perfect AUROC, until training ends."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Learning rate of AdamW."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay of AdamW."""
    top_k: int = Field(default=10, ge=1)
    """Patches with the highest probability whose mean is taken."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamplings of patients behind each interval."""
    threads: int | None = Field(default=None, ge=1)
    """Processor threads. None: all cores."""
    cache_gib: float = Field(default=2.0, ge=0)
    """Features that are held in memory, GiB; those of further slides are read each time."""

    @model_validator(mode="after")
    def _some_train(self) -> SlideLevelConfig:
        if self.folds == 2:
            raise ValueError("of two folds one tests and one validates: none is left to train on; use three or more")
        return self
