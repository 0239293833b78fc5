"""Settings of this study, each default with its reason."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pathopatch.core.config import Config, TrainConfig, parse
from pathopatch.slides.slide_paths import expand_variables

Polarity = Literal["bright", "dark"]
Share = Annotated[float, Field(ge=0, le=1)]


class CohortConfig(Config):
    """Settings of the patches."""

    crop_px: int = Field(default=64, ge=16)  # px of the image; with crops of 48 px the ceiling stays below 80
    apart_px: int = Field(default=16, ge=4)  # crops of one image may overlap: otherwise normal lung has too few
    side_px: int = Field(default=48, ge=16)  # size of the finished patch
    min_tissue: Share = 0.93
    train: int = Field(default=1000, ge=2)  # crops of each class
    conflicting: int = Field(default=50, ge=1)  # of these, at most: small tumour, or large non-tumour
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


class RunsConfig(Config):
    """Some runs: each of the methods at each of the cuts and lengths, for every seed and polarity."""

    methods: tuple[str, ...] = Field(min_length=1)  # rows of the tables: methods, or names of `of_method`
    conflicting: int | None = Field(default=None, ge=0)  # training crops of each class; None: all that the cohort has
    is_val_biased: bool = False  # whether validation lacks the conflicting groups too
    cuts: tuple[tuple[float, ...], ...] = ((0.5,),)  # of the tissue fraction: one threshold each, or those of bins
    times: tuple[int, ...] = (1,)  # times as many steps
    seeds: tuple[int, ...] = ()  # in place of the study's
    polarities: tuple[Polarity, ...] = ()


class ImposedConfig(Config):
    """Settings of the whole study."""

    source: str  # folder or CSV of labelled images, as `pathopatch tile --patches` takes it; ${NAME} is expanded
    polarities: tuple[Polarity, ...] = ("bright", "dark")
    seeds: tuple[int, ...] = (4, 5, 6, 7, 8)  # of split, crops and training; settings were chosen on seed 0
    thresholds: tuple[float, ...] = (0.5, 0.3)  # that a model is judged at
    runs: tuple[RunsConfig, ...] = Field(min_length=1)
    control_steps: int = Field(default=400, ge=1)  # of the networks that see a mask or the ground alone
    cohort: CohortConfig = CohortConfig()
    train: TrainConfig = TrainConfig()
    of_method: dict[str, dict[str, Any]] = {}  # settings of single rows, `method` and `ablation` among them

    @model_validator(mode="after")
    def _names_are_known(self) -> ImposedConfig:
        named = {name for runs in self.runs for name in runs.methods}
        if unknown := sorted(set(self.of_method) - named):
            raise ValueError(f"of_method names {', '.join(unknown)}, which are not among the methods")
        if any((runs.conflicting or 0) > self.cohort.conflicting for runs in self.runs):
            raise ValueError(f"a cohort has {self.cohort.conflicting} conflicting crops of each class at most")
        return self


def load(path: Path) -> ImposedConfig:
    """Return the study of a TOML file; a relative `source` is relative to the file."""
    config = parse(ImposedConfig, tomllib.loads(path.read_text(encoding="utf-8")), place=str(path))
    source = path.resolve().parent / expand_variables(config.source)[0]
    return config.model_copy(update={"source": str(source)})
