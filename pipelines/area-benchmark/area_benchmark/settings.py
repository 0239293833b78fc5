"""Settings of the benchmark: grounds, rows, and which rows run where."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import area_benchmark.methods  # noqa: F401  # registers its rows' methods
from pathopatch.core.config import Config, RunVariant, TrainConfig, parse
from pathopatch.slides.slide_paths import expand_variables

Polarity = Literal["bright", "dark"]
Case = Literal["30 %", "15 %", "5 %", "1 %", "0.2 %", "0 %", "0 %, none in validation", "ceiling"]
"""Share of the training crops of each class that have the size of the other class; half of them at the ceiling."""
_EARLIER = {"groupdro.eta": "groupdro_eta", "composing.share": "intervene", "composing.growth": "intervene_growth"}
Share = Annotated[float, Field(ge=0, le=1)]
Label = Literal["class", "waves", "any tumour"]
"""What makes a patch tumour: the class of its crop; waves of the stain that are longer than a small crop, on normal
tissue; or a part with tumour in normal tissue."""


class CohortConfig(Config):
    """How the patches of a ground are made."""

    label: Label = "class"
    crop_px: int = Field(default=64, ge=16)  # px of the image; with crops of 48 px the ceiling stays below 80
    apart_px: int = Field(default=16, ge=4)  # crops of one image may overlap: otherwise normal lung has too few
    side_px: int = Field(default=48, ge=16)  # size of the finished patch
    min_tissue: Share = 0.93
    train: int = Field(default=1000, ge=2)  # crops of each class
    val: int = Field(default=150, ge=1)  # crops of each class, each rendered at both sizes, so this many in each group
    test: int = Field(default=300, ge=1)
    split_shares: tuple[Share, Share, Share] = (0.64, 0.14, 0.22)  # of the source tiles
    large: tuple[Share, Share] = (0.55, 0.90)  # share of the island
    small: tuple[Share, Share] = (0.12, 0.45)

    @model_validator(mode="after")
    def _sizes_are_apart(self) -> CohortConfig:
        if not self.small[0] < self.small[1] < self.large[0] < self.large[1]:
            raise ValueError("small and large must be two ranges that rise and do not meet")
        return self


class GroundConfig(Config):
    """Tissue on which an area is imposed."""

    source: str  # folder or CSV of labelled images, as `pathopatch tile --patches` takes it; ${NAME} is expanded
    seeds: tuple[int, ...] = Field(min_length=1)  # of split, crops and training
    polarities: tuple[Polarity, ...] = ("bright", "dark")
    cohort: CohortConfig = CohortConfig()


class CellsConfig(Config):
    """Rows that run on a ground in some cases."""

    ground: str
    cases: tuple[Case, ...] = Field(min_length=1)
    rows: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = ()  # in place of the ground's
    polarities: tuple[Polarity, ...] = ()


class NaturalConfig(Config):
    """Rows that run on natural tissue, by the settings that all rows of the ground share."""

    ground: Literal["demo", "idc", "ocdc", "lung images", "ucsb_breast", "shg_cores"]
    seeds: tuple[int, ...] = Field(min_length=1)
    rows: tuple[str, ...] = Field(min_length=1)
    without: dict[str, tuple[str, ...]] = {}  # case -> rows that it has not: they need every group


class FrozenGround(Config):
    """Cases of a ground on which the frozen rows run."""

    ground: str
    cases: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    without: dict[str, tuple[str, ...]] = {}  # case -> rows that it has not


class FrozenConfig(Config):
    """Heads on a frozen backbone: their rows, and where they run."""

    rows: dict[str, dict[str, Any]] = {}  # settings of [train] beside those that all rows of a ground share
    grounds: tuple[FrozenGround, ...] = ()


class SearchConfig(Config):
    """How the settings of each row are chosen, on one seed that is not reported."""

    ground: str
    case: Case
    seed: int
    trials: int = Field(ge=1)  # of each row
    learning_rates: tuple[float, float] = (5e-4, 5e-3)
    weight_decays: tuple[float, float] = (1e-3, 1e1)


class BenchmarkConfig(Config):
    """The whole benchmark."""

    grounds: dict[str, GroundConfig]
    runs: tuple[RunVariant, ...] = Field(min_length=1)
    cells: tuple[CellsConfig, ...] = Field(min_length=1)
    natural: tuple[NaturalConfig, ...] = ()
    frozen: FrozenConfig | None = None
    inputs: dict[str, Literal["erased", "masks alone"]] = {}  # row -> what its network sees in place of the patches
    search: SearchConfig
    thresholds: tuple[float, ...] = (0.5, 0.3)  # that a model is judged at; the first forms the groups
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _names_are_known(self) -> BenchmarkConfig:
        names = {variant.name for variant in self.runs}
        if unknown := sorted({row for cells in (*self.cells, *self.natural) for row in cells.rows} - names):
            raise ValueError(f"cells name {', '.join(unknown)}, which are not among [[runs]]")
        if unknown := sorted({cells.ground for cells in (*self.cells, self.search)} - set(self.grounds)):
            raise ValueError(f"no ground {', '.join(unknown)}")
        return self

    def settings(self, row: str, *, seed: int, **searched: Any) -> TrainConfig:
        """Return the settings of a row's run, with those that the search found."""
        base = self.train.model_copy(update={"threshold": self.thresholds[0]})
        return self.variant_of(row, base, seed=seed, **searched)

    def variant_of(self, row: str, base: TrainConfig, *, seed: int, **searched: Any) -> TrainConfig:
        """Return what a row makes of settings that all rows share."""
        variant = next(variant for variant in self.runs if variant.name == row)
        same = {"seed": seed, "threads": 1, "device": "cpu"}
        return parse(TrainConfig, variant.settings(base).model_dump() | same | searched, place=f"[[runs]] {row}")


def flat_settings(settings: TrainConfig) -> dict[str, Any]:
    """Return the settings that are not the defaults, named as they once were: the keys of results are made of them."""
    own = settings.model_dump(mode="json", exclude={"threads", "device", "name", "row_name"}, exclude_defaults=True)
    for table in ("gerne", "groupdro", "composing", "interior", "method_args"):
        own |= {_EARLIER.get(f"{table}.{name}", name): value for name, value in own.pop(table, {}).items()}
    return own


def load(path: Path) -> BenchmarkConfig:
    """Return the benchmark of a TOML file; a relative `source` is relative to the file."""
    config = parse(BenchmarkConfig, tomllib.loads(path.read_text(encoding="utf-8")), place=str(path))
    folder = path.resolve().parent
    grounds = {
        name: ground.model_copy(update={"source": str(folder / expand_variables(ground.source)[0])})
        for name, ground in config.grounds.items()
    }
    return config.model_copy(update={"grounds": grounds})
