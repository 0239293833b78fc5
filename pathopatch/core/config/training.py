"""Settings of training: groups, splits, augmentation, the method, its search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pathopatch.core.config.base import (
    LEAST_PX,
    MIN_SCANNED,
    MOST_PX,
    Config,
    Fraction,
    PatchLimits,
    Seed,
    Threads,
    parse,
    require_unit_scale,
)
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.method_names import COMPOSING_METHODS, known_method

MethodName = Annotated[str, AfterValidator(known_method)]
"""A method of the package, or a registered one."""


class GroupsConfig(Config):
    """Which thresholds of the tissue fraction form the attribute."""

    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.25, 0.5), min_length=1)
    """Thresholds of the tissue fraction. Each gives groups of its own, and every run is evaluated at all of them."""
    bins: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Cuts of an attribute of several bins; empty for none."""
    min_tissue: Fraction = 0.01
    """Tissue fraction below which a patch is blank glass: it has no group and no prediction."""
    min_scanned: Fraction = MIN_SCANNED
    """Scanned share below which a patch has no group and no prediction: it shows mostly fill, or overhangs the slide.
    """
    split_seed: Seed = 0
    """Seed of the split by patient, or by block, where the manifest leaves it open."""

    @model_validator(mode="after")
    def _distinct(self) -> GroupsConfig:
        if len(set(self.thresholds)) != len(self.thresholds):
            raise ValueError("thresholds must differ from each other")
        if list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must rise")
        return self

    @property
    def limits(self) -> PatchLimits:
        """Least shares of a patch that has a group."""
        return {"min_tissue": self.min_tissue, "min_scanned": self.min_scanned}


def known_limits(audit: Mapping[str, Any]) -> PatchLimits:
    """Return the limits by which the groups of an audit were formed; the defaults where it does not say."""
    default = GroupsConfig().limits
    return {
        "min_tissue": audit.get("min_tissue", default["min_tissue"]),
        "min_scanned": audit.get("min_scanned", default["min_scanned"]),
    }


class SplitsConfig(Config):
    """How often the cohort is divided; the seed is that of the groups."""

    folds: int = Field(default=1, ge=1)
    """1: one split, the manifest's or drawn by patient. From 3 on: cross-validation. By block where there are any."""
    distinct_patients: tuple[tuple[str, str], ...] = Field(default=(), exclude=True)  # without effect on what is made
    """Pairs of ids that are two patients, though they may be two spellings of one: ``[["P-1", "P1"]]``."""

    @model_validator(mode="after")
    def _some_train(self) -> SplitsConfig:
        if self.folds == 2:
            raise ValueError("of two folds one tests and one validates: none is left to train on; use three or more")
        return self


class AugmentConfig(Config):
    """How training patches are varied. What is off by default was not shown to help."""

    flips: bool = True
    """The eight symmetries of the square; tissue has no up."""
    rotate_degrees: float = Field(default=0.0, ge=0, le=45)
    """Rotation by up to this, either way."""
    zoom: float = Field(default=0.0, ge=0, le=0.3)
    """0.1: by 0.9 to 1.1. The tissue fraction moves a little with it."""
    shift: float = Field(default=0.0, ge=0, le=0.3)
    """Share of the side; tissue at the edge may leave the patch."""
    gain: float = Field(default=0.1, ge=0, lt=1)
    """Factor of each channel, 1 +- this, as detectors and laser power differ between slides. RGB is left alone."""
    offset: float = Field(default=0.05, ge=0, le=0.5)
    """Constant added to each channel, up to this. RGB is left alone."""
    stain: float = Field(default=0.0, ge=0, lt=1)
    """Brightfield RGB only: haematoxylin, eosin and DAB each by 1 +- this."""
    color: float = Field(default=0.0, ge=0, lt=1)
    """Brightfield RGB only: brightness, contrast and saturation by 1 +- this."""


# Of timm's constructors, what shapes a network. `timm.create_model` takes others that read files, such as
# checkpoint_path and pretrained_cfg: a bundle from a stranger must not name a file of this machine.
_TIMM_ARGUMENTS = (
    "act_layer", "attn_drop_rate", "base_width", "bn_eps", "bn_momentum", "cardinality", "class_token", "depth",
    "drop_block_rate", "drop_path_rate", "drop_rate", "dynamic_img_size", "embed_dim", "fc_norm", "final_norm",
    "global_pool", "img_size", "init_values", "mlp_layer", "mlp_ratio", "no_embed_class", "num_heads", "output_stride",
    "patch_drop_rate", "patch_size", "pos_drop_rate", "pre_norm", "proj_drop_rate", "qk_norm", "qkv_bias",
    "reg_tokens", "stem_type", "stem_width", "window_size",
)  # fmt: skip


def _known_arguments(arguments: dict[str, str | bool | int | float]) -> dict[str, str | bool | int | float]:
    if unknown := sorted(set(arguments) - set(_TIMM_ARGUMENTS)):
        raise ValueError(f"{', '.join(unknown)} not allowed; allowed are {', '.join(_TIMM_ARGUMENTS)}")
    return arguments


TimmArguments = Annotated[dict[str, str | bool | int | float], AfterValidator(_known_arguments)]
"""Arguments of a network's constructor in timm, by their names; no other is accepted."""

LINEAR_HEAD = "linear"
"""Architecture of a head on features of an encoder."""
NO_EFFECT = {"device", "threads", "cache_gib", "name", "row_name", "loaders"}
"""Settings of training without effect on the weights, up to rounding: to change them makes no run stale."""


LEARNT_BY_STEPS = {
    "architecture", "pretrained", "timm_args", "steps", "batch_per_class", "optimizer", "learning_rate", "precision",
    "average_weights", "evaluations", "augment", "schedule", "warmup_steps",
}  # fmt: skip
"""Settings that speak of a network whose weights are learnt in steps: who gives one wants no frozen network."""


class GerneConfig(Config):
    """Parameters of gerne."""

    c: float = Field(default=0.5, gt=0, le=1)
    """gerne: how far the less biased batch goes."""
    beta: float = 1.0
    """gerne: extrapolation. With c = 0.5 the default gives s = c (beta + 1) = 1."""

    @property
    def s(self) -> float:
        """How far the expected batch goes from the data's shares of groups, at 0, to equal ones, at 1."""
        return self.c * (self.beta + 1)


class GroupDroConfig(Config):
    """Parameters of groupdro."""

    eta: float = Field(default=0.01, gt=0)
    """How fast the weights of groups follow their losses."""


class ComposingConfig(Config):
    """How training patches are composed to another tissue area."""

    share: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each class's draws that is composed to another tissue area. auto: by the size of the smallest group.
    None: as the method says."""
    growth: Literal["many", "own"] = "many"
    """Tissue that is added: many small pieces of other patches, or the patch's own tissue mirrored."""


class InteriorConfig(Config):
    """Crops of `mask = "interior"`."""

    crop_px: int | None = Field(default=None, ge=8, le=MOST_PX)
    """Side of the crops, px of the network's input. None: the largest even side at which 95 % of the training patches
    of each class and tenth of the tissue fraction have a crop."""


class TrainConfig(Config):
    """One training run."""

    method: MethodName = "gerne"
    """How samples are drawn and what is minimised: erm, erm-balanced, resample, groupdro, gerne or auto. Default:
    gerne; `pathopatch train` says in its first line what it takes where no setting says how to train.
    """
    method_args: dict[str, float] = {}
    """Parameters of a method that was added by `pathopatch.debias.methods.register_method`."""
    threshold: float = Field(default=0.25, gt=0, lt=1)
    """Threshold of the tissue fraction that forms the groups."""
    frozen: bool = False
    """Solve a linear head on a pretrained network, whose weights stay. Without an architecture: EfficientNet-Lite0."""
    choose: bool = False
    """frozen: validation chooses among masked erm, masked resample and interior erm."""
    invariance: float | None = Field(default=None, ge=0)
    """frozen: what the head pays where its answer moves with the tissue area, which is set on training patches.
    None: 10 for the masked heads of `choose`, else 0, which is nothing."""
    pooling: Literal["final", "maps"] | None = None
    """frozen: final: the network's own; maps: the means of its maps of strides 8, 16 and 32. None: maps with a mask,
    else final."""
    inner_folds: int = Field(default=5, ge=3)
    """frozen, under [splits] folds: parts of train and val that validate in turn; the head is solved on all.
    Of fewer patients, or blocks, each is a part."""
    architecture: str = "small-groupnorm"
    """small-groupnorm, made for training from scratch, mlp-100, or any timm network; frozen: also a published model.
    On features it is always linear."""
    input_px: int = Field(default=64, ge=1, le=MOST_PX)
    """Side that patches are brought to for the network, px; of a frozen one at most, and 224 by default."""
    pretrained: Literal["none", "efficientnet-lite0"] | Path = "none"
    """Weights to start from: efficientnet-lite0 (extra `train`), or a file."""
    timm_args: TimmArguments = {}
    """Arguments of the network in timm, such as depth; layers are given by name, such as SwiGLUPacked."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel in [0, 1]. None: that of the training patches; pretrained weights expect their own."""
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Standard deviation of each channel; goes with `mean`."""
    steps: int = Field(default=600, ge=1)
    """Training steps."""
    batch_per_class: int = Field(default=32, ge=2, le=2**13)
    """Samples of each class in a step, all streams together."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """adamw or sgd."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate at the start; of a search that of its first trial. Linear heads are solved exactly, without it."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay; of a linear head the L2 penalty."""
    gerne: GerneConfig = GerneConfig()
    """Parameters of the method gerne."""
    groupdro: GroupDroConfig = GroupDroConfig()
    """Parameters of the method groupdro."""
    composing: ComposingConfig = ComposingConfig()
    """How training patches are composed to another tissue area, for any method."""
    interior: InteriorConfig = InteriorConfig()
    """Crops of `mask = "interior"`."""
    average_weights: bool = True
    """Keep an exponential moving average of the weights; GERNE's steps are noisy."""
    tune_threshold: bool = True
    """Choose one decision threshold on validation, for the best WGA."""
    select: Literal["wga", "gba", "equal_area", "last"] = "wga"
    """Measure on validation by which the checkpoint is chosen, at the threshold of `tune_threshold`; last uses none.
    equal_area, AUROC at equal area, needs no threshold."""
    evaluations: int = Field(default=12, ge=1)
    """Validation passes, evenly spread over the steps."""
    augment: bool | AugmentConfig = True
    """true: the defaults of `[train.augment]`; false: no variation."""
    seed: Seed = 0
    """Seed of weights, batches and augmentation."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs that have it, float16 with a scaled loss on older ones, float32 on processors."""
    threads: Threads | None = None
    """Processor threads. None: all cores. A linear head is solved by one."""
    cache_gib: float = Field(default=1.5, gt=0)
    """Patches at `input_px` are held in memory up to this, GiB."""
    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    """Ending of the run's folder name."""
    row_name: str = Field(default="", max_length=64)
    """What tables call the run; `[[runs]]` of a study sets it."""
    sensitivity: float | None = Field(default=None, gt=0, le=1)
    """The decision threshold finds this share of tumour on validation. None: it has the highest WGA."""
    bins: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Cuts of an attribute of several bins, in place of `threshold`."""
    least_per_bin: int = Field(default=10, ge=0)
    """Least patches of each label in train and val; below it a bin joins its neighbour. Fewer are learnt by heart, and
    their accuracy is known to 16 points only.
    """
    groups_from: str = Field(default="", max_length=200)
    """Draw by the patches that the model of this run finds hardest, see `pathopatch groups --from-run`; in a study by
    that of this row. Validation selects by the known attribute at `threshold`, where there is one."""
    hard_share: float = Field(default=0.1, gt=0, lt=1)
    """groups_from: share of each class that is hard; to be tuned."""
    mask: Literal["none", "normalise", "interior"] = "none"
    """normalise: the network sees tissue alone. interior: it sees crops that lie wholly in tissue, so area is constant.
    Their bundles need the mask, which predict measures."""

    @model_validator(mode="before")
    @classmethod
    def _frozen_is_pretrained(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("frozen") is True and "architecture" not in given:
            given = {"pretrained": "efficientnet-lite0", **given, "architecture": "tf_efficientnet_lite0"}
        if isinstance(given, Mapping) and given.get("frozen") is True and "input_px" not in given:
            given = {**given, "input_px": 224}
        if isinstance(given, Mapping) and given.get("choose") is True:
            given = {"method": "erm", **given}  # until validation has chosen
        return given

    schedule: Literal["constant", "cosine"] = "constant"
    """constant or cosine. The averaged weights do what a falling rate does."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the rate rises."""
    cell_unit: int | None = Field(default=None, ge=1)
    """Samples of a cell come in multiples of this. None: of the number of processes."""
    loaders: Threads | None = None
    """Threads that make batches ahead. None: 4 on GPUs, 1 on processors, whose cores the network needs."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> TrainConfig:
        crop_px = self.interior.crop_px
        if self.frozen and str(self.pretrained) == "none":
            raise ValueError("a frozen network has weights from elsewhere: give pretrained, or leave architecture out")
        if self.frozen and self.bins:
            raise ValueError("bins need a network that is trained: leave out frozen, or bins")
        if self.invariance and not self.frozen:
            raise ValueError("invariance is of the head of a frozen network: it needs frozen = true")
        if self.pooling and not self.frozen:
            raise ValueError("pooling is of the features of a frozen network: it needs frozen = true")
        if self.pooling == "final" and (self.choose or self.mask != "none"):
            raise ValueError("a mask needs the network's maps: leave out pooling, or mask and choose")
        if self.choose and not self.frozen:
            raise ValueError("choose compares heads of a frozen network: it needs frozen = true")
        if self.choose and (self.method, self.mask) != ("erm", "none"):
            raise ValueError("choose lets validation take method and mask: leave out choose, or method and mask")
        if self.groups_from and (self.choose or self.bins):
            raise ValueError("groups_from is an attribute of its own: leave out bins and choose")
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std go together, a value for each channel")
        if crop_px is not None and (self.mask != "interior" or crop_px > self.input_px):
            raise ValueError("crop_px goes with mask = 'interior', and is at most input_px")
        if list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must rise")
        if self.sensitivity is not None and not self.tune_threshold:
            raise ValueError("sensitivity says how the threshold is tuned: it needs tune_threshold = true")
        return self

    @model_validator(mode="after")
    def _the_network_takes_the_input(self) -> TrainConfig:
        if self.architecture != LINEAR_HEAD:
            if self.input_px < LEAST_PX:  # of patches: features are patches of one pixel
                raise ValueError(f"input_px must be at least {LEAST_PX}")
            require_unit_scale(self.mean or (), self.std or ())  # features have any scale
            return self
        if str(self.pretrained) != "none":
            raise ValueError("a head on features has no pretrained weights")
        if self.method in COMPOSING_METHODS or self.composing.share is not None:
            raise ValueError("features of an encoder cannot be composed to another tissue area: that needs patches")
        if self.mask != "none":
            raise ValueError("features of an encoder cannot be masked: mask needs patches")
        return self

    def with_crops(self, crop_px: int | None) -> TrainConfig:
        """Return these settings with crops of a side."""
        return self.model_copy(update={"interior": InteriorConfig(crop_px=crop_px)})

    def with_trial(self, values: Mapping[str, float]) -> TrainConfig:
        """Return these settings with those of a search's trial: c and beta are gerne's."""
        own = {name: value for name, value in values.items() if name in GerneConfig.model_fields}
        others = {name: value for name, value in values.items() if name not in own}
        return self.model_copy(update={**others, "gerne": self.gerne.model_copy(update=own)})

    @property
    def is_solved(self) -> bool:
        """Whether a linear head is solved to convergence: on features, or on those of a frozen network."""
        return self.frozen or self.architecture == LINEAR_HEAD

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
        drawn_by = "b" + "_".join(f"{cut:g}" for cut in self.bins) if self.bins else f"t{self.threshold:g}"
        hard = f"-h{self.hard_share:g}" if self.groups_from else ""
        return f"{'chosen' if self.choose else self.method}-{drawn_by}{hard}-s{self.seed}{tail}"


class TuneConfig(Config):
    """How runs are searched: with the same number of trials for every method."""

    trials: int = Field(default=8, ge=1)
    """Trials of each run; every method gets as many."""
    s_values: tuple[float, ...] = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
    """Values of s = c (beta + 1) to try. The largest inside the bounds takes the place of a larger one."""
    c_values: tuple[float, ...] = (0.5, 1.0)
    """Values of c to try."""
    learning_rates: tuple[float, float] = (3e-4, 3e-3)
    """Range of learning rates, searched on a logarithmic scale."""
    weight_decays: tuple[float, float] = (1e-4, 1e-1)
    """Range of weight decays, searched on a logarithmic scale."""
    penalties: tuple[float, float] = (1e-4, 1e2)
    """Range of weight decays in its place for linear heads, where it is the L2 penalty. Weights act on heads that
    separate their few patches only where the penalty is strong."""
    objective: Literal["wga", "gba", "equal_area"] = "wga"
    """Measure on validation by which trials are compared, at the decision threshold that validation chooses.
    equal_area, AUROC at equal area, needs no threshold."""

    @model_validator(mode="after")
    def _ranges_rise_above_zero(self) -> TuneConfig:
        for name in ("learning_rates", "weight_decays", "penalties"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must rise and be above 0: it is searched on a logarithmic scale")
        return self


EXACT = {"steps": 1, "evaluations": 1, "average_weights": False, "augment": False}
"""Settings of a head that is solved to convergence at once."""


def head_settings(config: TrainConfig) -> TrainConfig:
    """Return the settings of a run on features; of settings that it has returned before, the same.

    InputUnsupportedError for settings that features do not allow, such as an architecture or an intervention.
    """
    if config.architecture not in (TrainConfig.model_fields["architecture"].default, LINEAR_HEAD):
        raise InputUnsupportedError(
            f"{config.architecture} takes patches, and these are features",
            place="[train] architecture",
            remedy="leave out architecture and frozen: a linear head is trained on features",
        )
    fixed = {**EXACT, "architecture": LINEAR_HEAD, "input_px": 1}
    return parse(TrainConfig, {**config.model_dump(), **fixed}, place="[train]")
