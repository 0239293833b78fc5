"""Settings of training: groups, splits, augmentation, the method, its search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pathopatch.core.config.base import MOST_PX, Config, Fraction
from pathopatch.core.method_names import COMPOSING_METHODS, MethodName


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


HEAD_NETWORKS: dict[str, str] = {"linear": "linear", "mlp": "mlp-head"}
"""Architecture of each head."""
_LEAST_PX = 8  # of patches; features are patches of one pixel


class TrainConfig(Config):
    """One training run."""

    method: MethodName = "gerne"
    threshold: float = Field(default=0.25, gt=0, lt=1)
    architecture: str = "small-groupnorm"  # ours, for training from scratch; or mlp-100, or any timm network
    input_px: int = Field(default=64, ge=1, le=MOST_PX)
    # On features of an encoder, in place of a network: linear is solved to convergence, mlp has one hidden layer.
    head: Literal["linear", "mlp"] | None = None  # None: linear on features, none on patches
    pretrained: Literal["none", "efficientnet-lite0"] | Path = "none"
    timm_args: dict[str, str | bool | int | float] = {}  # of timm.create_model; layers by name, such as SwiGLUPacked
    freeze: Literal["none", "backbone"] = "none"  # backbone: the classifier alone learns
    # By which channels in [0, 1] are standardised; None: by the training patches. Pretrained weights expect their own.
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
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
    threshold_by_area: bool = False  # the decision threshold may rise or fall with the tissue fraction
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
    # Share of each class's draws that are composed to another tissue area; auto: by the size of the smallest group.
    intervene: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] | None = None
    intervene_growth: Literal["many", "one", "own"] = "many"  # tissue that is added; see debias.interventions.compose
    pair_weight: float = Field(default=0.0, ge=0)  # of the squared difference of logits between a patch and its copy
    mask: Literal["none", "normalise"] = "none"  # normalise: the network sees tissue alone; see models.masked

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> TrainConfig:
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std go together, a value for each channel")
        return self

    @model_validator(mode="after")
    def _one_attribute(self) -> TrainConfig:
        if list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must rise")
        if self.bins and self.attribute == "rank":
            raise ValueError("give bins or attribute = 'rank', not both")
        return self

    @model_validator(mode="after")
    def _a_head_takes_features(self) -> TrainConfig:
        if self.head is None:
            if self.input_px < _LEAST_PX:
                raise ValueError(f"input_px must be at least {_LEAST_PX}")
            return self
        if self.architecture not in (TrainConfig.model_fields["architecture"].default, HEAD_NETWORKS[self.head]):
            raise ValueError(f"a head takes features, and {self.architecture} takes patches: give head or architecture")
        if str(self.pretrained) != "none":
            raise ValueError("a head on features has no pretrained weights")
        if self.method in COMPOSING_METHODS or self.intervene is not None or self.pair_weight:
            raise ValueError("features of an encoder cannot be composed to another tissue area: that needs patches")
        if self.mask != "none":
            raise ValueError("features of an encoder cannot be masked: mask needs patches")
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
        if self.threshold_by_area and (self.sensitivity is not None or not self.tune_threshold):
            raise ValueError("threshold_by_area is tuned for the worst group: it needs tune_threshold, no sensitivity")
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

    @model_validator(mode="after")
    def _ranges_rise_above_zero(self) -> TuneConfig:
        for name in ("learning_rates", "weight_decays", "t_range", "biased_lr_scale_range"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must rise and be above 0: it is searched on a logarithmic scale")
        return self
