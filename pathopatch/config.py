"""What can be set: one frozen model per stage, each default in one place with its reason.

Configurations are read from TOML, checked once, and stored as JSON beside the results. Unknown keys are errors.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pathopatch.errors import InputMissingError, InputUnsupportedError

MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel outside this range are taken for a mistake in the file or the manifest."""

MethodName = Literal[
    "erm",
    "erm-balanced",
    "reweight",
    "resample",
    "oversample",
    "groupdro",
    "gerne",
    "gerne-unknown",
    "jtt",
    "dfr",
    "gerne-auto",
]
RANK_METHODS = ("resample", "gerne", "gerne-auto")
"""Methods with a form that draws by the rank of the tissue fraction."""
Fraction = Annotated[float, Field(ge=0, le=1)]
T = TypeVar("T", bound="Config")


class Config(BaseModel):
    """Base of all configurations: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TissueConfig(Config):
    """How tissue is told from background (found on the overview, applied at the target mpp).

    A slide whose manifest row names a `tissue_mask` takes that in place of all this.
    """

    background: Literal["auto", "dark", "bright"] = "auto"
    method: Literal["otsu", "triangle", "fixed"] = "otsu"
    fixed_threshold: Fraction | None = None  # on the tissue signal in [0, 1]; for method = "fixed"
    channels: tuple[str, ...] = ()  # which count; empty: all that show any tissue
    # A threshold for each channel, and a pixel is tissue if it passes any: a bright channel must not hide a dim one. Or
    # one threshold on the largest of the scaled channels, as always with method = "fixed" and for brightfield RGB.
    combine: Literal["each", "maximum"] = "each"
    ignore_pens: bool = True  # brightfield RGB; off for blue and green stains (trichrome, Alcian blue)
    ignore_borders: bool = True  # brightfield RGB: near-black borders, black unscanned areas
    min_speck_um2: float = Field(default=400.0, ge=0)  # about one cell of 20 um: smaller is dust
    max_hole_um2: float = Field(default=400.0, ge=0)

    @model_validator(mode="after")
    def _fixed_needs_a_value(self) -> TissueConfig:
        if (self.method == "fixed") != (self.fixed_threshold is not None):
            raise ValueError("fixed_threshold goes with method = 'fixed', and only with it")
        return self


class IntensityConfig(Config):
    """The rule by which stored intensities become [0, 1]: RGB uint8 is 0 to 255, other channels by percentiles.

    The percentiles are of tissue pixels on the overview, per channel: of each slide, or of the cohort's training slides
    together, each slide counting alike. `tile` writes a cohort's windows into `windows`, so that stores and bundles
    carry them.
    """

    low_percentile: float = Field(default=1.0, ge=0, le=100)
    high_percentile: float = Field(default=99.5, ge=0, le=100)  # a few hot pixels must not set the scale
    scope: Literal["slide", "cohort"] = "slide"  # slide: exposure and stain differ more between slides than tissue does
    windows: dict[
        str, tuple[float, float]
    ] = {}  # channel -> (low, high), source units; these channels are not measured
    sharpness_mpp: float = Field(default=1.0, ge=MPP_RANGE[0], le=MPP_RANGE[1])  # scanners lose focus at this scale

    @model_validator(mode="after")
    def _low_below_high(self) -> IntensityConfig:
        if self.low_percentile >= self.high_percentile:
            raise ValueError("low_percentile must be below high_percentile")
        empty = [name for name, (low, high) in self.windows.items() if not low < high]
        if empty:
            raise ValueError(f"the window of {', '.join(empty)} is empty: low must be below high")
        return self


class AnnotationConfig(Config):
    """What the class names of annotation files mean (QuPath's classifications, ASAP's groups).

    A name that stands in a file and in none of the lists is an error: what it means is not guessed. Outlines without
    a class are named "(unclassified)" in QuPath's files and "None" in ASAP's.
    """

    tumor: tuple[str, ...] = ()
    non_tumor: tuple[str, ...] = ()  # labelled; where it overlaps tumour, tumour counts
    holes: tuple[str, ...] = ()  # labelled non-tumour that is cut out of the tumour
    ignored: tuple[str, ...] = ()
    labelled: Literal["annotated", "whole-slide"] = "annotated"  # safe: what nobody outlined has no label
    subtracted_bounds: bool = True  # QuPath through OpenSlide subtracts bounds-x/y; false for its other readers

    @model_validator(mode="after")
    def _one_meaning_each(self) -> AnnotationConfig:
        names = [*self.tumor, *self.non_tumor, *self.holes, *self.ignored]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands more than once in tumor, non_tumor, holes and ignored")
        return self


class LabelConfig(Config):
    """When a patch is a tumour patch, when it counts as labelled at all, and when it is neither one nor the other."""

    min_tumor_fraction: Fraction | None = None  # None: any tumour, that is 1 / patch area
    min_labelled_fraction: float = Field(default=0.5, gt=0, le=1)
    ambiguous: tuple[Fraction, Fraction] | None = None  # non-tumour up to low, tumour from high, no label between
    annotations: AnnotationConfig = AnnotationConfig()

    @model_validator(mode="after")
    def _zone_rises_and_holds_the_limit(self) -> LabelConfig:
        if self.ambiguous is None:
            return self
        low, high = self.ambiguous
        if low >= high:
            raise ValueError("ambiguous must be [low, high] with low below high")
        if self.min_tumor_fraction is not None and not low <= self.min_tumor_fraction <= high:
            raise ValueError("min_tumor_fraction must lie in the ambiguous zone, or be left out: the zone decides")
        return self


class RegistrationConfig(Config):
    """What is done about channels that do not lie on each other."""

    align: bool = False  # pixels stay where the microscope put them unless asked
    warn_um: float = Field(default=2.0, gt=0)  # a fifth of a nucleus; measured shifts are good to a few tenths of a px


class TileConfig(Config):
    """How slides are cut into patches."""

    patch_px: int = Field(default=256, ge=8, le=4096)
    stride_px: int | None = Field(default=None, ge=1)  # None: patch_px, patches side by side
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])  # None: the slides' own
    store: Literal["zarr", "none"] = "zarr"
    tissue: TissueConfig = TissueConfig()
    intensity: IntensityConfig = IntensityConfig()
    registration: RegistrationConfig = RegistrationConfig()
    labels: LabelConfig = LabelConfig()

    @model_validator(mode="after")
    def _no_gaps(self) -> TileConfig:
        if self.stride_px is not None and self.stride_px > self.patch_px:
            raise ValueError("stride_px must not exceed patch_px: the slide would not be covered")
        return self

    @property
    def step_px(self) -> int:
        """Distance of neighbouring patches, target-mpp px."""
        return self.patch_px if self.stride_px is None else self.stride_px


class ReadyConfig(Config):
    """What is done to ready images that are not of one size."""

    px: int | None = Field(default=None, ge=8, le=4096)  # side that all are brought to; None: they are as they are
    # crop: the middle square, resampled; stretch: the whole image, its sides resampled apart
    fit: Literal["crop", "stretch"] = "crop"


class GroupsConfig(Config):
    """Which thresholds of the tissue fraction form the attribute."""

    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.25, 0.5), min_length=1)
    bins: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    min_tissue: Fraction = 0.01  # below it a patch is blank glass: no group, no prediction
    split_seed: int = 0

    @model_validator(mode="after")
    def _distinct(self) -> GroupsConfig:
        if len(set(self.thresholds)) != len(self.thresholds):
            raise ValueError("thresholds must differ from each other")
        if list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must rise")
        return self


class SplitsConfig(Config):
    """How often the cohort is divided; the seed is that of the groups."""

    folds: int = Field(default=1, ge=1)  # 1: one split, the manifest's or drawn; from 3 on: cross-validation by patient

    @model_validator(mode="after")
    def _some_train(self) -> SplitsConfig:
        if self.folds == 2:
            raise ValueError("of two folds one tests and one validates: none is left to train on; use three or more")
        return self


class AugmentConfig(Config):
    """How training patches are varied. What is off by default was not shown to help."""

    flips: bool = True  # the eight symmetries of the square: tissue has no up
    rotate_degrees: float = Field(default=0.0, ge=0, le=45)  # up to this either way
    zoom: float = Field(default=0.0, ge=0, le=0.3)  # 0.1: by 0.9 to 1.1; the share of tissue moves a little with it
    shift: float = Field(default=0.0, ge=0, le=0.3)  # share of the side; tissue at the edge may leave the patch
    # Nonlinear microscopy and fluorescence: each channel by itself. Brightfield RGB is left alone by the first two.
    gain: float = Field(default=0.1, ge=0, lt=1)  # detectors and laser power differ by about this from slide to slide
    offset: float = Field(default=0.05, ge=0, le=0.5)
    photons: float | None = Field(default=None, ge=1)  # shot noise: the fewest counts at the top of the window
    # Brightfield RGB only
    stain: float = Field(default=0.0, ge=0, lt=1)  # haematoxylin, eosin and DAB each by 1 +- this
    color: float = Field(default=0.0, ge=0, lt=1)  # brightness, contrast and saturation by 1 +- this


class TrainConfig(Config):
    """One training run."""

    method: MethodName = "gerne"
    threshold: float = Field(default=0.25, gt=0, lt=1)
    architecture: str = "small-groupnorm"  # ours, for training from scratch; or mlp-100, or any timm network
    input_px: int = Field(default=64, ge=8)
    pretrained: Literal["none", "efficientnet-lite0"] | Path = "none"
    freeze_batchnorm: bool | None = None  # None: frozen if and only if weights are pretrained
    steps: int = Field(default=600, ge=1)
    batch_per_class: int = Field(default=32, ge=2)  # samples of each class in a step, all streams together
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    c: float = Field(default=0.5, gt=0, le=1)  # gerne only
    beta: float = 1.0  # gerne only; with c = .5 this is s = c (beta + 1) = 1
    groupdro_eta: float = Field(default=0.01, gt=0)
    average_weights: bool = True  # exponential moving average; GERNE's steps are noisy
    tune_threshold: bool = True  # one decision threshold, chosen on validation for WGA
    select: Literal["wga", "gba", "last"] = "wga"  # which checkpoint; "last" uses no validation
    evaluations: int = Field(default=12, ge=1)  # validation passes, evenly spread over the steps
    augment: bool | AugmentConfig = True  # true: AugmentConfig as it stands
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on processors
    threads: int | None = Field(default=None, ge=1)
    train_splits: tuple[Literal["train", "val"], ...] = ("train",)  # "val" only where nothing is selected on it
    cache_gib: float = Field(default=1.5, gt=0)  # patches at input_px are held in memory up to this
    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    # what single methods read beside c, beta and groupdro_eta
    s: float = 1.25  # oversample: of two to five attribute values, inside the bounds whatever their shares
    t: float = Field(default=0.1, gt=0, lt=1)  # gerne-unknown: hard share of each class; to be tuned
    biased_lr_scale: float = Field(default=1.0, gt=0)  # gerne-unknown; the paper's tenth was under-trained
    biased_weight_decay_scale: float = Field(default=2.0, gt=0)  # gerne-unknown; the paper's
    # gerne-unknown: which biased model; the paper's is the best by class, but a balanced validation prefers the least
    # biased one, whose hard samples are not the minority: then the last
    biased_select: Literal["cba", "last"] = "cba"
    jtt_upweight: float = Field(default=20.0, ge=1)  # samples that one of the error set stands for
    jtt_identify_share: float = Field(default=0.25, gt=0, le=1)  # of `steps`; longer, and no error is left
    dfr_refit_share: float = Field(default=1.0, gt=0)  # of `steps`, for the last layer alone
    dfr_lr_scale: float = Field(default=10.0, gt=0)  # of the last layer alone, for adamw; with sgd rather 1
    # the decision threshold of tune_threshold finds this share of tumour on validation; None: it has the highest WGA
    sensitivity: float | None = Field(default=None, gt=0, le=1)
    # What is drawn by, and what selects. By default both are the groups at `threshold`.
    attribute: Literal["groups", "rank"] = "groups"  # rank: of the tissue fraction; selected at `threshold`
    bins: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()  # an attribute of several bins in place of `threshold`
    least_per_bin: int = Field(default=10, ge=0)  # patches of each label in train and val; below it a bin joins its
    # neighbour: a cell of fewer is learnt by heart, and its accuracy on validation is known to 16 points only
    select_at: Annotated[float, Field(gt=0, lt=1)] | None = None  # select by WGA at this threshold; None: as drawn

    @model_validator(mode="after")
    def _one_attribute(self) -> TrainConfig:
        if list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must rise")
        if self.bins and self.attribute == "rank":
            raise ValueError("give bins or attribute = 'rank', not both")
        return self

    # how a step is taken
    clip_norm: float | None = Field(default=None, gt=0)  # of the whole gradient; None: as it comes
    schedule: Literal["constant", "cosine"] = "constant"  # the averaged weights do what a falling rate does
    warmup_steps: int = Field(default=0, ge=0)  # in each phase
    compile: bool = False  # torch.compile: starts a minute later, for long runs; needs a C++ compiler
    cell_unit: int | None = Field(default=None, ge=1)  # samples of a cell come in multiples; None: of the processes
    # how a run is kept and shown; none of it changes what is learnt
    checkpoint_every: int | None = Field(default=None, ge=1)  # steps; None: at evaluations, which always write one
    prefetch: int = Field(default=2, ge=0)  # batches made ahead by a thread; 0: each when it is due
    tensorboard: bool = False  # event files too; needs the extra `tensorboard`

    @model_validator(mode="after")
    def _nothing_is_selected_on_training_patches(self) -> TrainConfig:
        if "val" in self.train_splits and (self.select != "last" or self.tune_threshold):
            raise ValueError("training on val needs select = 'last' and tune_threshold = false")
        if self.sensitivity is not None and not self.tune_threshold:
            raise ValueError("sensitivity says how the threshold is tuned: it needs tune_threshold = true")
        return self

    @property
    def augmentation(self) -> AugmentConfig | None:
        """What `augment` asks for; None for nothing."""
        if isinstance(self.augment, AugmentConfig):
            return self.augment
        return AugmentConfig() if self.augment else None

    @property
    def run_name(self) -> str:
        """Folder name of this run under ``runs/``."""
        tail = f"-{self.name}" if self.name else ""
        return f"{self.method}-{self._drawn_by}-s{self.seed}{tail}"

    @property
    def _drawn_by(self) -> str:
        """``t0.25``; of bins ``b0.3_0.5``, by rank ``r0.25``; then ``-at0.5`` where that selects."""
        selected = "" if self.select_at is None else f"-at{self.select_at:g}"
        if self.bins:
            return "b" + "_".join(f"{cut:g}" for cut in self.bins) + selected
        return f"{'r' if self.attribute == 'rank' else 't'}{self.threshold:g}{selected}"


class TuneConfig(Config):
    """How runs are searched: the same number of trials, or the same number of training steps, for every method."""

    trials: int = Field(default=8, ge=1)
    s_values: tuple[float, ...] = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)  # s = c (beta + 1), cut at the bounds
    c_values: tuple[float, ...] = (0.5, 1.0)
    learning_rates: tuple[float, float] = (3e-4, 3e-3)
    weight_decays: tuple[float, float] = (1e-4, 1e-1)
    objective: Literal["wga", "gba"] = "wga"
    # Steps that all trials of a run may take together, pruned and diverged ones included; it takes the place of
    # `trials`. None: as many as the trials need.
    budget_steps: int | None = Field(default=None, ge=1)
    # Hard share where attributes are unknown: the conflicting share is not known, from 1 in 500 to a half.
    t_range: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]] = (2e-3, 0.5)
    biased_lr_scale_range: tuple[float, float] = (0.1, 3.0)  # the paper's tenth was under-trained where measured
    # End a trial that is among the worst quarter at equal steps. Off: what is slow to learn may be best in the end,
    # and debiased models are judged at convergence.
    prune: bool = False
    bootstrap: int = Field(default=1000, ge=0)  # resamplings of patients behind the interval of each trial


class EvaluateConfig(Config):
    """How runs are judged."""

    bootstrap: int = Field(default=1000, ge=0)  # resamplings of patients behind each interval
    seed: int = 0
    least_per_group: int = Field(default=25, ge=1)  # in a sweep; the standard error of a smaller group tops 10 points
    ablation: bool = True  # predict once more without each channel: which ones a model leans on


class PredictConfig(Config):
    """How slides are predicted."""

    batch: int = Field(default=64, ge=1)
    all_patches: bool = False
    min_tissue: Fraction | None = None  # None: the bundle's
    stride_px: int | None = Field(default=None, ge=1)
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(default=None, ge=1)


class StudyConfig(Config):
    """A whole study: ``pathopatch run study.toml``.

    It starts from slides (`manifest`) or from ready patches (`patches`), which have no slides to predict and are cut as
    they are.
    """

    manifest: Path | None = None
    patches: Path | None = None  # folder or CSV, as `pathopatch tile --patches` takes it
    work: Path
    tile: TileConfig = TileConfig()
    ready: ReadyConfig = ReadyConfig()  # goes with patches
    groups: GroupsConfig = GroupsConfig()
    methods: tuple[MethodName, ...] = Field(
        default=("erm", "erm-balanced", "resample", "groupdro", "gerne"), min_length=1
    )
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    train: TrainConfig = TrainConfig()
    tune: TuneConfig | None = None  # None: train once with the settings of [train]
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    predict_split: Literal["train", "val", "test", "all", "none"] = "test"
    jobs: int = Field(default=1, ge=1)  # training runs side by side, each with cores / jobs threads
    # What the methods are trained by: each threshold of [groups], its bins if it has any, and, where a method has
    # such a form, the rank of the tissue fraction, selected at each threshold.
    attributes: tuple[Literal["thresholds", "bins", "rank"], ...] = Field(default=("thresholds", "bins"), min_length=1)
    splits: SplitsConfig = SplitsConfig()

    @model_validator(mode="after")
    def _a_fold_predicts_what_it_tests(self) -> StudyConfig:
        if self.splits.folds > 1 and self.predict_split not in ("test", "none"):
            raise ValueError("with folds each slide is predicted by a model that has not seen its patient, or none is")
        return self

    @model_validator(mode="before")
    @classmethod
    def _patches_are_not_predicted(cls, raw: Any) -> Any:
        has_no_slides = isinstance(raw, dict) and raw.get("patches") is not None
        return {"predict_split": "none", **raw} if has_no_slides else raw

    @model_validator(mode="after")
    def _slides_or_patches(self) -> StudyConfig:
        if (self.manifest is None) == (self.patches is None):
            raise ValueError("give manifest or patches, one of the two")
        if self.patches is None:
            if self.ready != ReadyConfig():
                raise ValueError("ready goes with patches: slides are cut as [tile] says")
            return self
        default = TileConfig()
        asked = [
            f"tile.{name}" for name in ("patch_px", "stride_px") if getattr(self.tile, name) != getattr(default, name)
        ]
        asked += ["predict_split"] if self.predict_split != "none" else []
        if asked:
            raise ValueError(f"ready patches are as they are and have no slides: leave out {', '.join(asked)}")
        return self


def load_study(path: Path) -> StudyConfig:
    """Return the study written in a TOML file; relative paths in it are relative to the file.

    Parameters
    ----------
    path : Path
        TOML file.

    Raises
    ------
    InputMissingError
        There is no such file.
    InputUnsupportedError
        It is not TOML, or a key is unknown, missing or out of range; all such keys are listed.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputMissingError(
            f"no study file {path}", place=str(path), remedy="give the path of a TOML study file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputUnsupportedError(
            f"not a TOML file: {error}", place=str(path), remedy="mend the syntax at that line"
        ) from error
    study = parse(StudyConfig, raw, place=str(path))
    base = path.resolve().parent
    given = {name: getattr(study, name) for name in ("manifest", "patches", "work")}
    return study.model_copy(update={name: base / path for name, path in given.items() if path is not None})


def parse(kind: type[T], raw: dict[str, Any], *, place: str) -> T:
    """Return a checked configuration from plain values.

    Raises
    ------
    InputUnsupportedError
        Lists every unknown, missing or invalid key.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or '(top)'}: {item['msg']} (got {item.get('input')!r})"
            for item in error.errors(include_url=False)
        ]
        raise InputUnsupportedError(
            "configuration refused: " + "; ".join(lines),
            place=place,
            remedy="correct or remove these keys",
        ) from error
