"""Settings of a whole study, its evaluation and its predictions."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pathopatch.core.config.base import Config, Fraction, Seed, Threads, parse
from pathopatch.core.config.slides import ReadyConfig, TileConfig
from pathopatch.core.config.training import (
    LEARNT_BY_STEPS,
    GroupsConfig,
    MethodName,
    SplitsConfig,
    TrainConfig,
    TuneConfig,
)
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.input_files import open_regular, require_narrow


class EvaluateConfig(Config):
    """How runs are evaluated."""

    bootstrap: int = Field(default=1000, ge=0)
    """Resamplings of patients, or of blocks where there are any, behind intervals of AUROCs and of differences."""
    seed: Seed = 0
    """Seed of the bootstrap."""
    ablation: bool = True
    """Predict once more without each channel, to show on which ones a model relies."""


AreaCorrection = Literal["none", "subtract", "average"]
"""subtract: the mean response at the patch's own area; average: ask at five areas, which takes many times as long."""


Output = Literal["patches.geojson.gz", "patches.csv", "heatmap.ome.zarr"]


class PredictConfig(Config):
    """How slides are predicted."""

    deidentify: bool = False
    """Outputs name neither files nor patients; slides are called by their content."""
    all_patches: bool = False
    """Predict patches without tissue too."""
    min_tissue: Fraction | None = None
    """Least tissue fraction of a patch. None: the bundle's."""
    max_bad_tiles: Fraction = 0.0
    """Share of a slide's area that may be undecodable; its patches have no value."""
    area_correct: AreaCorrection = "none"
    """Correct the answers of a model that `audit-model --record` found to rely on the tissue area."""
    stride_px: int | None = Field(default=None, ge=1)
    """Step between patches, px at the bundle's mpp. None: the bundle's."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    runtime: Literal["auto", "openvino", "torch"] = "auto"
    """auto: torch on a GPU and for a bundle without `model.onnx`, else openvino, which is faster on processors."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: float32. bfloat16 is faster on processors and GPUs that have it, and moves probabilities."""
    threads: Threads | None = None
    """Processor threads. None: all cores."""
    outputs: tuple[Output, ...] = Field(default=(), exclude=True)
    """Further files of each slide: patches for QuPath, patches in wsinfer's columns, the map for napari. Slides that
    lack one are predicted again.
    """
    replace_changed: bool = Field(default=False, exclude=True)
    """Predict a slide again whose file changed under its name."""
    fetch: str | None = Field(default=None, exclude=True)
    """Command that brings a slide's file to this machine, such as `aws s3 cp {source} {file}`. None: slides are on a
    drive.
    """
    fetch_id: str | None = Field(default=None, exclude=True)
    """Command with {source} that prints what changes when the slide does, such as an ETag. None: what is predicted is
    not fetched again.
    """

    @model_validator(mode="after")
    def _check_fetch(self) -> Self:
        for name, words in {"fetch": ("{source}", "{file}"), "fetch_id": ("{source}",)}.items():
            text = getattr(self, name)
            if text is not None and not all(word in text for word in words):
                raise ValueError(f"{name}: {text!r} needs {' and '.join(words)}, as in 'cp {{source}} {{file}}'")
        if self.fetch is not None and self.deidentify:
            raise ValueError("fetch: slides that are de-identified are called by their content: bring them first")
        if self.fetch_id is not None and self.fetch is None:
            raise ValueError("fetch_id: nothing is fetched: set fetch, too")
        return self


class BatchConfig(Config):
    """How the work on many slides is shared, and when a slide is given up."""

    workers: int = Field(default=1, ge=1)
    """Worker processes, one slide at a time in each."""
    timeout_s: float | None = Field(default=None, ge=1)
    """Give up a slide that takes more seconds, in a process of its own. None: never."""
    memory_gb: float | None = Field(default=None, ge=0.1)
    """Give up a slide for which a process of its own holds more GB. None: never."""

    @property
    def limit_bytes(self) -> float | None:
        """Resident memory that a process may hold for a slide."""
        return self.memory_gb and 1e9 * self.memory_gb


class BatchOptions(BatchConfig):
    """How one run over many slides goes: what a file may say of every run, and what is typed for this one."""

    retry_failed: bool = False
    """Only the slides that failed before."""
    dry_run: bool = False
    """Only say what is done, what there is to do, and what is refused."""
    quiet: bool = False
    """No progress, results only."""
    force: bool = False
    """Redo outputs that were made with other settings or inputs."""


class SettingsConfig(Config):
    """The tables of settings, each of which a stage reads: what ``--config`` takes alone, and a study holds as well."""

    tile: TileConfig = TileConfig()
    """How slides are cut into patches."""
    ready: ReadyConfig = ReadyConfig()
    """How ready patches are read; goes with `patches`."""
    groups: GroupsConfig = GroupsConfig()
    """How patches are grouped by tissue fraction."""
    train: TrainConfig = TrainConfig()
    """How a run is trained."""
    tune: TuneConfig | None = None
    """How runs are searched. None: train once with the settings of `[train]`."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How runs are evaluated."""
    predict: PredictConfig = PredictConfig()
    """How slides are predicted."""
    splits: SplitsConfig = SplitsConfig()
    """How the cohort is divided."""
    batch: BatchConfig = Field(default=BatchConfig(), exclude=True)  # without effect on results: not stored with them
    """How the work on slides is shared."""


_OF_NETWORK = {"architecture", "pretrained", "timm_args", "input_px", "mean", "std"}


class RunVariant(Config):
    """A row of a study's table: a name, and settings of ``[train]`` that differ from the study's own."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(max_length=64, pattern="[A-Za-z0-9]")
    """How tables call the row, such as "auto, masked"."""

    @model_validator(mode="after")
    def _study_sets_the_rest(self) -> RunVariant:
        if given := sorted({"seed", "threshold", "bins"} & set(self.model_extra or {})):
            raise ValueError(f"{', '.join(given)} of [[runs]]: all rows have the study's, from seeds and [groups]")
        return self

    def settings(self, train: TrainConfig) -> TrainConfig:
        """Return the settings of the row's runs, by the study's own `train`."""
        own, base = self.model_extra or {}, train.model_dump()
        is_other = own.get("frozen", train.frozen) != train.frozen  # a network of its own, at its own size
        left_out = (_OF_NETWORK if is_other else set()) | ({"method", "mask"} if own.get("choose") else set())
        base = {name: value for name, value in base.items() if name not in left_out}
        folder = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-")
        tables = {
            name: {**base[name], **value} for name, value in own.items()
            if isinstance(value, dict) and isinstance(TrainConfig.model_fields[name].annotation, type)
        }  # fmt: skip
        raw = {**base, **own, **tables, "name": folder, "row_name": self.name}
        return parse(TrainConfig, raw, place=f"[[runs]] {self.name}")


RECOMMENDED = RunVariant.model_validate({"name": "chosen head", "frozen": True, "choose": True})
"""The row that did best on real patients, see docs/understand/methods.md."""
_AUTO = RunVariant.model_validate({"name": "auto", "method": "auto"})
_MASKED = RunVariant.model_validate({"name": "auto, masked", "method": "auto", "mask": "normalise"})
_METHODS: tuple[MethodName, ...] = ("erm", "resample", "groupdro", "gerne")


def _given(section: Any) -> dict[str, Any]:
    """Return the settings that a section gives; of what is no section none, which its own check refuses."""
    if isinstance(section, Config):
        return section.model_dump(exclude_unset=True)
    return section if isinstance(section, dict) else {}


class StudyConfig(SettingsConfig):
    """A whole study: ``pathopatch run study.toml``.

    It starts from slides (`manifest`), from ready patches (`patches`), which have no slides to predict and are cut as
    they are, or from features of an encoder and the labels of their patches (`features`, `labels`).
    """

    manifest: Path | None = None
    """CSV with a row a slide."""
    patches: Path | None = None
    """Ready patches: a folder or a CSV, as `pathopatch tile --patches` takes it."""
    features: Path | None = None
    """Folder of feature files, as `pathopatch audit --features` takes it."""
    labels: Path | None = None
    """CSV of labels, as `pathopatch audit --labels` takes it; goes with `features`."""
    slides: Path | None = None
    """Folder of the slides on which tissue is measured; goes with `features`."""
    attribute: str | None = None
    """Column of the labels that forms the groups in place of tissue; goes with `features`."""
    work: Path
    """Work folder for all outputs."""
    decisions: Path | None = None
    """An exported review, as `pathopatch groups --decisions` takes it."""
    disputes: Literal["stop", "leave-out"] = "stop"
    """Slides and patches on which reviewers differ, and that nobody settled: stop and list them, or leave them out."""
    methods: tuple[MethodName, ...] = _METHODS
    """Methods to train, each at every threshold and seed."""
    runs: tuple[RunVariant, ...] = ()
    """Rows by name, with any settings of `[train]`, beside or in place of `methods`. Without both, a frozen network is
    taken, and a row whose head validation chooses joins the methods; from scratch, of slides, it is auto, masked.
    """
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    """Seeds of weights, batches and the search. No exact head moves: under folds each gives it other folds."""
    predict_split: Literal["train", "val", "test", "all", "none"] = "test"
    """Slides for which the best run draws heatmaps."""
    jobs: int | None = Field(default=None, ge=1)
    """Training runs side by side, each of one thread. By default as many as there are workers where all networks are
    frozen, else one.
    """
    attributes: tuple[Literal["thresholds", "bins"], ...] = Field(default=("thresholds", "bins"), min_length=1)
    """What the methods are trained by: each threshold of `[groups]`, and its bins if it has any."""

    @model_validator(mode="before")
    @classmethod
    def _default_rows(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        if raw.get("runs"):
            return {"methods": (), **raw}
        if {"methods", "features"} & raw.keys():
            return raw
        train, groups = (_given(raw.get(name, {})) for name in ("train", "groups"))
        rows: dict[str, Any] = {"methods": _METHODS, "runs": (RECOMMENDED,)}
        if not (LEARNT_BY_STEPS | {"frozen", "bins"}) & train.keys() and not groups.get("bins"):
            return {**rows, **raw, "train": {**train, "frozen": True}}
        if not train.get("frozen"):
            # The attribute of ready patches may be another one than the tissue, which alone can be composed.
            rows["runs"] = () if "patches" in raw else (_AUTO if "architecture" in train else _MASKED,)
        return {**rows, **raw}

    @model_validator(mode="before")
    @classmethod
    def _patches_are_not_predicted(cls, raw: Any) -> Any:
        has_no_slides = isinstance(raw, dict) and not {"patches", "features"}.isdisjoint(raw)
        return {"predict_split": "none", **raw} if has_no_slides else raw

    @model_validator(mode="after")
    def _groups_come_from_a_row(self) -> StudyConfig:
        if self.train.groups_from:
            raise ValueError("[train] groups_from: it is of [[runs]], each of which names another row")
        rows = {variant.name: str((variant.model_extra or {}).get("groups_from", "")) for variant in self.runs}
        for name, base in rows.items():
            if base and (rows.get(base) or base not in {*rows, *self.methods}):
                raise ValueError(f"[[runs]] {name}: groups_from names no row with known groups ({base!r})")
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> StudyConfig:
        if not self.methods and not self.runs:
            raise ValueError("give methods or [[runs]]")
        rows = [variant.settings(self.train) for variant in self.runs]
        if len({row.run_name for row in rows}) < len(rows):
            raise ValueError("two of [[runs]] have the same name, or names that differ in signs alone")
        if self.splits.folds > 1 and self.predict_split not in ("test", "none"):
            raise ValueError("with folds each slide is predicted by a model that has not seen its patient, or none is")
        if self.predict.deidentify and self.predict_split != "none":
            raise ValueError(
                "[predict] deidentify: a study's work folder names its slides; predict into another folder"
            )
        if (self.features is None) != (self.labels is None):
            raise ValueError("features and labels go together")
        if self.features is None and (self.slides is not None or self.attribute is not None):
            raise ValueError("slides and attribute go with features")
        if self.features is not None and self.tile != TileConfig():
            raise ValueError("features are not tiled: leave out [tile]")
        if self.features is not None and self.predict_split != "none":
            raise ValueError("features have no slides: leave out predict_split")
        return self

    @model_validator(mode="after")
    def _slides_or_patches(self) -> StudyConfig:
        if sum(source is not None for source in (self.manifest, self.patches, self.features)) != 1:
            raise ValueError("give manifest, patches or features, one of them")
        if self.patches is None:
            if self.ready != ReadyConfig():
                raise ValueError("[ready] goes with patches: slides are cut as [tile] says")
            return self
        default = TileConfig()
        misplaced = [
            f"[tile] {name}" for name in ("patch_px", "stride_px") if getattr(self.tile, name) != getattr(default, name)
        ]
        misplaced += ["[tile] mpp (the images' own scale is [ready] mpp)"] if self.tile.mpp is not None else []
        misplaced += ["predict_split"] if self.predict_split != "none" else []
        if misplaced:
            raise ValueError(f"ready patches are as they are and have no slides: leave out {', '.join(misplaced)}")
        return self


def load_study(path: Path | str) -> StudyConfig:
    r"""Return the study written in a TOML file; relative paths in it are relative to the file.

    ``$NAME`` and ``${NAME}`` in a path are expanded where there is such a variable.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputUnsupportedError
        It is not TOML, or a key is unknown, missing or out of range; all such keys are listed.

    Examples
    --------
    >>> _ = Path("study.toml").write_text('manifest = "cohort.csv"\nwork = "work"\nmethods = ["erm", "gerne"]')
    >>> pathopatch.load_study("study.toml").methods
    ('erm', 'gerne')
    """
    path = Path(path)
    study = parse(StudyConfig, read_toml(path), place=str(path))
    base = path.resolve().parent
    paths = ("manifest", "patches", "features", "labels", "slides", "decisions", "work")
    given = {name: getattr(study, name) for name in paths}
    expanded = {name: os.path.expandvars(path) for name, path in given.items() if path is not None}
    return study.model_copy(update={name: base / path for name, path in expanded.items()})


def load_settings(path: Path, *, reads: Sequence[str]) -> SettingsConfig:
    """Return the settings written in a TOML file: of a study, or tables alone, which need no manifest and no work.

    `reads` names the tables that the command reads; a file of tables alone must hold one of them.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputUnsupportedError
        As `load_study`; or none of it is read.
    """
    raw = read_toml(path)
    if not {"manifest", "patches", "features"}.isdisjoint(raw):
        return load_study(path)
    whole = {name: value for name, value in raw.items() if name != "work"}  # of a study that has no manifest yet
    settings = parse(SettingsConfig, whole, place=str(path))
    if not set(whole) & set(reads):
        listed = " and ".join(f"[{name}]" for name in reads)
        raise InputUnsupportedError(
            f"none of the tables that this command reads: {listed}",
            place=str(path),
            remedy=f"write its settings under {listed}",
        )
    return settings


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds."""
    try:
        with open_regular(path) as stream:
            content = stream.read()
        require_narrow(content, place=path)
        return tomllib.loads(content.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise InputMissingError(
            f"no study file {path}", place=str(path), remedy="give the path of a TOML study file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputUnsupportedError(
            f"not a TOML file: {error}", place=str(path), remedy="correct the syntax at that line"
        ) from error
