"""Settings of this study, each default with its reason."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pathopatch.core.config import Config, TrainConfig, parse
from pathopatch.slides.manifest import expand_variables

Polarity = Literal["bright", "dark"]
Share = Annotated[float, Field(ge=0, le=1)]


class CohortConfig(Config):
    """Settings of the patches."""

    crop_px: int = Field(default=64, ge=16)  # px of the image; with crops of 48 px the ceiling stays below 80
    apart_px: int = Field(default=16, ge=4)  # crops of one image may overlap: otherwise normal lung has too few
    side_px: int = Field(default=48, ge=16)  # size of the finished patch
    min_tissue: Share = 0.93
    train: int = Field(default=1000, ge=2)  # crops of each class
    conflicting: int = Field(default=50, ge=1)  # of these: small tumour, or large non-tumour
    val: int = Field(default=150, ge=1)  # crops of each class, each rendered at both sizes, so this many in each group
    test: int = Field(default=300, ge=1)
    split_shares: tuple[Share, Share, Share] = (0.64, 0.14, 0.22)  # of the source tiles
    large: tuple[Share, Share] = (0.55, 0.90)  # share of the island
    small: tuple[Share, Share] = (0.12, 0.45)

    @model_validator(mode="after")
    def _sizes_are_apart(self) -> CohortConfig:
        if not self.small[0] < self.small[1] < self.large[0] < self.large[1]:
            raise ValueError("small and large must be two ranges that rise and do not meet")
        if self.conflicting >= self.train:
            raise ValueError("conflicting must be below train")
        return self


class ImposedConfig(Config):
    """Settings of the whole study."""

    source: str  # folder or CSV of labelled images, as `pathopatch tile --patches` takes it; ${NAME} is expanded
    polarities: tuple[Polarity, ...] = ("bright", "dark")
    seeds: tuple[int, ...] = (1, 2, 3)  # of split, crops and training; the design was tuned on seed 0
    thresholds: tuple[float, ...] = (0.5, 0.3)
    bins: tuple[float, ...] = (0.3, 0.5)
    methods: tuple[str, ...] = Field(min_length=1)
    longer: tuple[int, ...] = (2, 4)  # erm is also trained so many times longer: has it converged?
    control_steps: int = Field(default=400, ge=1)  # of the networks that see a mask or the ground alone
    cohort: CohortConfig = CohortConfig()
    train: TrainConfig = TrainConfig()
    of_method: dict[str, dict[str, Any]] = {}  # settings of single methods, chosen on validation of seed 0

    @model_validator(mode="after")
    def _settings_are_of_methods(self) -> ImposedConfig:
        unknown = sorted(set(self.of_method) - set(self.methods))
        if unknown:
            raise ValueError(f"of_method names {', '.join(unknown)}, which are not among the methods")
        return self


def load(path: Path) -> ImposedConfig:
    """Return the study of a TOML file; a relative `source` is relative to the file."""
    config = parse(ImposedConfig, tomllib.loads(path.read_text(encoding="utf-8")), place=str(path))
    source = path.resolve().parent / expand_variables(config.source)[0]
    return config.model_copy(update={"source": str(source)})
