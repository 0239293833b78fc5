"""What can be set in this study, each default with its reason."""

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
    """How the patches are made."""

    crop_px: int = Field(default=64, ge=16)  # px of the image; crops of 48 px show too little for a ceiling above 80
    apart_px: int = Field(default=16, ge=4)  # crops of one image overlap, or normal lung has too few that are full
    side_px: int = Field(default=48, ge=16)  # that they are brought to
    min_tissue: Share = 0.93
    train: int = Field(default=1000, ge=2)  # crops of each class
    conflicting: int = Field(default=50, ge=1)  # of these: small tumour, or large non-tumour
    val: int = Field(default=150, ge=1)  # crops of each class, each rendered at both sizes: so many in each group
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
    """The whole study."""

    source: str  # folder or CSV of labelled images, as `pathopatch tile --patches` takes it; ${NAME} is expanded
    polarities: tuple[Polarity, ...] = ("bright", "dark")
    seeds: tuple[int, ...] = (1, 2, 3)  # split, draw and training; seed 0 is the one that the design was tuned on
    thresholds: tuple[float, ...] = (0.5, 0.3)
    bins: tuple[float, ...] = (0.3, 0.5)
    methods: tuple[str, ...] = Field(min_length=1)
    longer: tuple[int, ...] = (2, 4)  # factors on the steps at which erm is trained as well: is it at convergence?
    control_steps: int = Field(default=400, ge=1)  # of the networks that are shown a mask or the ground alone
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
    """Return the study written in a TOML file; a relative `source` is relative to it."""
    config = parse(ImposedConfig, tomllib.loads(path.read_text(encoding="utf-8")), place=str(path))
    source = path.resolve().parent / expand_variables(config.source)[0]
    return config.model_copy(update={"source": str(source)})
