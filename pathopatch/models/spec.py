"""Describe a trained model, everything but its weights, and check slides against it, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pathopatch.core.config import (
    LEAST_PX,
    MIN_SCANNED,
    MOST_PX,
    MPP_RANGE,
    MPP_TOLERANCE,
    Config,
    IntensityConfig,
    PatchLimits,
    PredictConfig,
    RegistrationConfig,
    TileConfig,
    TimmArguments,
    TissueConfig,
)
from pathopatch.core.errors import ChannelMismatchError, CheckpointIncompatibleError, InputUnsupportedError

if TYPE_CHECKING:
    from pathopatch.slides import Slide

BUNDLE_VERSION = 1
_ADJUSTABLE = {  # may change after training without making the weights wrong
    "decision_threshold", "decision_chosen_for", "temperature", "group_metrics", "data", "training",
    "parameters", "package_version", "min_tissue", "min_scanned", "seen", "onnx", "area_reliance",
}  # fmt: skip
ONNX_NETWORK = "onnx"
"""Architecture of a network that came as ONNX: ``model.onnx`` is all that is known of it."""
_LIKE = 0.02  # share by which um/px of a slide may differ from those of an audit
# Bounds of what a bundle may claim, since it may come from a stranger: far beyond any microscope and any of timm's.
_MOST_CHANNELS, _MOST_CLASSES = 1024, 1000
_MOST_FEATURES = 2**16  # values per patch of an encoder; the largest known has 4,608
_MOST_VALUES = 2**27  # of a patch: half a GiB as float32
# What members of an ensemble may differ in: everything that a slide is not cut or scaled by.
_MEMBERS_OWN = {
    "architecture", "timm_args", "backbone", "torchscript", "input_px", "crop_px", "mean", "std", "mask", "method",
    "schema_version",
}  # fmt: skip


def class_names(n_classes: int) -> tuple[str, ...]:
    """Return default class names: non-tumour and tumour for two classes, numbers for more."""
    if n_classes == 2:
        return ("non-tumour", "tumour")
    return tuple(f"class {number}" for number in range(n_classes))


class TrainingRange(Config):
    """Ranges of the training patches' values that contain all but 2 in 1000 patches.

    Sharpness is that of `pathopatch.patches.intensity.sharpness`, which grows with the tissue of a patch.
    """

    mean: tuple[tuple[float, float], ...]  # of each channel's mean over the patch, on the scale of [0, 1]
    sharpness: float | None = None  # the least of all; None: unknown
    # (tissue fraction, least sharpness from there on to the next), rising; None: unknown
    sharpness_by_tissue: tuple[tuple[float, float], ...] | None = None

    @model_validator(mode="after")
    def _tissue_rises(self) -> TrainingRange:
        starts = [start for start, _ in self.sharpness_by_tissue or ()]
        if starts != sorted(set(starts)):
            raise ValueError(f"sharpness_by_tissue from {starts}: must rise")
        return self


class OnnxGraph(Config):
    """Facts about ``model.onnx``: what it must be equal to, and what made it.

    It takes standardised patches: the resampling to ``input_px``, ``mean`` and ``std`` are applied before it.
    """

    sha256: str
    weights_sha256: str  # of ``model.safetensors``, to whose bytes the graph refers
    architecture: str
    input_shape: tuple[int, int, int]  # channels, and the mask where the network takes one; height, width
    inside_px: int = 0  # side to which the network itself brings patches; 0: it takes them as they come
    classes: int
    opset: int
    producer: str


OutputKind = Literal["logits", "probabilities"]
"""What the outputs of a network are, one a class."""


class TorchScriptSpec(Config):
    """How the network of a TorchScript archive becomes one of two classes; see `pathopatch.models.torchscript_archive`.

    The network gives a logit per class, or a single one, of the class against all else.
    """

    sha256: str  # of the archive
    class_names: tuple[str, ...] = Field(min_length=1, max_length=_MOST_CLASSES)  # as the archive's outputs
    chosen: tuple[int, ...] = Field(min_length=1)  # those that are the second class here; the rest is the first
    resize_px: int | None = Field(default=None, ge=1, le=MOST_PX)  # side that patches are brought to; None: as they are
    interpolation: int = Field(default=2, ge=0, le=5)  # Pillow's number of the filter
    gives_probabilities: Literal[False] = False  # of 0.1.0, which also took networks that end in a softmax

    @model_validator(mode="after")
    def _two_sides(self) -> TorchScriptSpec:
        n = len(self.class_names)
        if not set(self.chosen) <= set(range(n)) or len(set(self.chosen)) < len(self.chosen):
            raise ValueError(f"chosen is {self.chosen}: must be different numbers from 0 to {n - 1}")
        if n > 1 and len(self.chosen) == n:
            raise ValueError("all classes are chosen: no class is left to tell them from")
        return self


class AreaReliance(Config):
    """What `pathopatch audit-model` found of a model, on which slides, and what a correction of its answers needs.

    A margin is the logit less the decision threshold, over the temperature.
    """

    verdict: Literal["relies", "not shown", "not known"]
    direction: Literal[-1, 0, 1]  # 1: more tissue, more tumour
    eta: float | None = None
    adj: float | None = None
    slides: int = Field(ge=0)
    unit: Literal["patient", "block"] = "patient"  # what is counted as patients, and was resampled
    patients: int = Field(ge=0)
    patches: int = Field(ge=0)
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    model: str  # `joint_fingerprint` of what was asked
    backgrounds: tuple[str, ...]
    mpp: tuple[float, float] | None  # of the slides, um per level-0 px: the least and the largest; None: unknown
    areas: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=(), max_length=16)
    response: tuple[float, ...] = ()  # mean margin at each area
    # By kind of correction: what is added to margins after it, for as many patches of the audit as before to be called
    # tumour, and the share of these patches whose answer turns.
    shift: dict[str, float] = {}
    turned: dict[str, float] = {}

    @model_validator(mode="after")
    def _one_response_per_area(self) -> AreaReliance:
        if len(self.areas) != len(self.response) or list(self.areas) != sorted(set(self.areas)):
            raise ValueError("a response for each of the areas, which rise")
        kinds = {"subtract", "average"}
        if self.verdict == "relies" and not (
            self.areas and self.direction and set(self.shift) == set(self.turned) == kinds
        ):
            raise ValueError("a model that relies on the area has areas, a direction, a shift and what turns by it")
        return self


class BackboneSpec(Config):
    """How a frozen backbone is fed and what of it the linear head takes; see `pathopatch.models.frozen`."""

    side_px: int = Field(ge=8, le=MOST_PX)  # to which patches, or their crops, are brought inside the network
    # final: the network's own pooling; class+mean: class token and mean of the others; maps: the means of its maps of
    # strides 8, 16 and 32 (of tokens: of the last)
    pooling: Literal["final", "class+mean", "maps"]
    by_channel: bool = False  # each channel as grey by itself, features side by side; else the three are colour
    weights_sha256: str  # of the file that the backbone's weights came from
    weights_bytes: int = Field(default=0, ge=0)  # of that file
    source: str = ""  # where it is from: owner/name on the Hugging Face hub, or the file's name
    licence: str = ""  # "" where it is not known
    in_bundle: bool = True  # false: the bundle holds the head alone, and the file is looked up


class BundleSpec(Config):
    """Everything about a trained model but its weights.

    ``mean`` and ``std`` are those of the training patches, per channel, after scaling to [0, 1]. ``intensity`` and
    ``align`` are rules; each slide has its own windows and shifts.

    A head on features has an ``encoder``, whose values take the place of channels: ``mean`` and ``std`` are theirs, and
    patches have one pixel. How the slide was cut and scaled is a matter of the features.
    """

    schema_version: int = BUNDLE_VERSION
    package_version: str = ""
    architecture: str
    timm_args: TimmArguments = {}  # with which timm builds it
    backbone: BackboneSpec | None = None  # of a frozen network, whose head alone was trained; None: all of it was
    channels: tuple[str, ...] = Field(max_length=_MOST_CHANNELS)  # empty for features alone
    encoder: dict[str, Any] | None = None  # of features, as `Encoder.to_dict` returns it; None: the model takes patches
    dtype: str  # of the slides' pixels, or of the features, by numpy's name
    background: str = "auto"
    patch_px: int = Field(ge=1, le=MOST_PX)
    stride_px: int = Field(ge=1, le=MOST_PX)
    # None: trained on ready patches of unknown scale
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    input_px: int = Field(ge=1, le=MOST_PX)
    intensity: IntensityConfig = Field(default_factory=IntensityConfig)
    tissue: TissueConfig = Field(default_factory=TissueConfig)
    align: bool = False  # move the channels of each slide onto each other, by shifts measured on that slide
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # normalise: the network takes the tissue mask as a further channel; interior: crops of `crop_px` inside the tissue
    mask: Literal["none", "normalise", "interior"] = "none"
    crop_px: int | None = Field(default=None, ge=1, le=MOST_PX)  # on the scale of input_px
    min_tissue: float = Field(default=0.01, ge=0, le=1)
    min_scanned: float = Field(
        default=MIN_SCANNED, ge=0, le=1
    )  # below it a patch is not predicted, as below min_tissue
    class_names: tuple[str, ...] = Field(
        default=("non-tumour", "tumour"), min_length=2, max_length=_MOST_CLASSES
    )  # as the logits
    decision_threshold: float = 0.0  # on the logit: z1 - z0
    # "none": 0, the larger logit; of validation "wga": worst-group accuracy, "sensitivity 0.95": that share of class 1
    decision_chosen_for: str = "none"
    temperature: float = Field(default=1.0, gt=0)
    method: str
    parameters: dict[str, Any] = {}
    group_metrics: dict[str, Any] = {}
    # Numbers of slides, patients and patches, by group (see `training.data_summary`), and the audit's verdict.
    data: dict[str, Any] = {}
    training: dict[str, str] = {}  # fingerprints of what it was trained on
    onnx: OnnxGraph | None = None  # None: torch alone can run the network
    torchscript: TorchScriptSpec | None = None  # None: `architecture` names the network
    seen: TrainingRange | None = None  # appearance of the training patches; None: unknown
    area_reliance: AreaReliance | None = None  # None: nobody has asked

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> BundleSpec:
        if self.encoder is None:
            n, item = len(self.channels), "channels"
            if not n:
                raise ValueError("a model of patches has at least one channel")
            if len({name.casefold() for name in self.channels}) < n:
                raise ValueError(f"channels are {', '.join(self.channels)}: each may stand once")
            if self.patch_px < LEAST_PX:
                raise ValueError(f"patches of {self.patch_px} px, {LEAST_PX} at least")
        else:
            dim = self.encoder.get("dim")
            if not (isinstance(dim, int) and 1 <= dim <= _MOST_FEATURES):
                raise ValueError(f"an encoder of {dim!r} values, from 1 to {_MOST_FEATURES}")
            n, item = dim, "features"
            if self.channels or self.patch_px > 1 or self.input_px > 1 or self.mask != "none":
                raise ValueError("features have no channels, no mask, and one pixel")
        if not n == len(self.mean) == len(self.std):
            raise ValueError(f"{n} {item}, {len(self.mean)} means, {len(self.std)} sds")
        if (self.crop_px is None) != (self.mask != "interior") or (self.crop_px or 0) > self.input_px:
            raise ValueError("crop_px goes with mask = 'interior', and is at most input_px")
        if min(self.std) <= 0:
            raise ValueError("every std must be above 0")
        for side in (self.patch_px, self.input_px):
            if n * side**2 > _MOST_VALUES:
                raise ValueError(f"a patch of {n} x {side} x {side} values, {_MOST_VALUES} at most")
        return self

    @property
    def input_channels(self) -> int:
        """Number of channels that the network takes: those of the slide and the mask, or the features."""
        return len(self.mean) + (self.mask == "normalise")

    @property
    def network_px(self) -> int:
        """Side of what the network takes: of patches, or of their crops."""
        return self.crop_px or self.input_px

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of a patch as the network takes it: channels, height, width."""
        return self.input_channels, self.network_px, self.network_px

    @property
    def form(self) -> dict[str, Any]:
        """Arguments of `build_network` beside the architecture and the number of channels."""
        return {
            "n_classes": len(self.class_names),
            "input_px": self.network_px,
            "is_masked": self.mask == "normalise",
            "timm_args": self.timm_args,
            "backbone": self.backbone,
        }

    @property
    def lacks_backbone(self) -> bool:
        """Whether the bundle holds the head alone, and its backbone is a file of its own."""
        return self.backbone is not None and not self.backbone.in_bundle

    @property
    def is_imported(self) -> bool:
        """Whether another program made the model."""
        return "made_by" in self.parameters

    @property
    def decision_probability(self) -> float | None:
        """Probability above which a patch counts as the second of two classes; None for more classes."""
        if len(self.class_names) != 2:
            return None
        # The sigmoid as a tanh, which cannot overflow.
        return 0.5 * (1 + math.tanh(0.5 * self.decision_threshold / self.temperature))

    def contract(self) -> dict[str, Any]:
        """Return the settings that the weights depend on, as plain values. They must never be edited."""
        return self.model_dump(mode="json", exclude=_ADJUSTABLE)


def check_slide(spec: BundleSpec, slide: Slide) -> list[str]:
    """Refuse a slide that does not fit a model; return warnings.

    They say that the model's scale is unknown, or that the slide looks different from the background that the model
    states.

    Raises
    ------
    ChannelMismatchError
        Another number of channels, or another pixel type; both sides are named.
    CheckpointIncompatibleError
        Other names or another order of the channels, a slide coarser than the model's mpp, or one of the other
        background (dark or bright).
    MppMissingError
        The model needs a scale and the slide has none.
    """
    place = ", ".join(str(path) for path in slide.paths)
    if spec.encoder is not None:
        raise CheckpointIncompatibleError(
            f"the model takes features of {spec.encoder.get('name', 'an encoder')}, not a slide",
            place=place,
            remedy="give the slide's features, made by that encoder",
        )
    if len(slide.channels) != len(spec.channels) or str(slide.dtype) != spec.dtype:
        raise ChannelMismatchError(
            f"the slide has {_listed(slide.channels)} of {slide.dtype}, "
            f"the model was trained on {_listed(spec.channels)} of {spec.dtype}",
            place=place,
            remedy="give the channels and the file type that the model was trained on",
        )
    if tuple(slide.channels) != spec.channels:
        raise CheckpointIncompatibleError(
            f"the slide's channels are {_listed(slide.channels)}, the model's {_listed(spec.channels)}",
            place=place,
            remedy="give the model's channels under its names; their order and case do not matter to predict",
        )
    if spec.mpp is not None and slide.mpp > spec.mpp * (1 + MPP_TOLERANCE):
        raise CheckpointIncompatibleError(
            f"the slide has {slide.mpp:g} um/px, the model needs {spec.mpp:g} or finer",
            place=place,
            remedy="scan at a finer resolution, or use a model trained at this one",
        )
    warnings = []
    if spec.mpp is None:
        warnings.append(
            f"the model's scale is unknown: the slide is read at its own {slide.mpp:g} um/px; if the training patches "
            "had another scale, the probabilities mean nothing"
        )
    if spec.background in ("auto", slide.background):
        return warnings
    if spec.tissue.background != "auto":  # the model's own setting overrides what the slide looks like
        stated = spec.tissue.background
        return [*warnings, f"taken as {stated} where there is no tissue, as the model states; it looks different"]
    raise CheckpointIncompatibleError(
        f"the slide is {slide.background} where there is no tissue, the model's slides are {spec.background}",
        place=place,
        remedy=f"use a model trained on such slides; if this one is in fact {spec.background}, say so in the "
        "column background of a manifest",
    )


def check_correction(spec: BundleSpec, slide: Slide) -> None:
    """Refuse a slide unlike those by which a model's reliance on the area was audited: CheckpointIncompatibleError."""
    found = spec.area_reliance
    assert found is not None  # `require_reliance` has refused others
    low, high = found.mpp or (math.inf, -math.inf)
    if slide.background in found.backgrounds and low * (1 - _LIKE) <= slide.mpp <= high * (1 + _LIKE):
        return
    scale = "unknown scale" if found.mpp is None else f"{low:g} to {high:g} um/px"
    raise CheckpointIncompatibleError(
        f"the slide has {slide.mpp:g} um/px and is {slide.background}; the model's reliance on the tissue area was "
        f"audited on slides of {scale}, background {' or '.join(found.backgrounds) or 'unknown'}",
        place="--area-correct",
        remedy="leave it out, or audit the model on such slides: pathopatch audit-model MODEL SLIDES -o OUT --record",
    )


def check_features(spec: BundleSpec, encoder: Mapping[str, Any] | None, *, place: str = "") -> list[str]:
    """Refuse features of another encoder than a head was trained on; return warnings about what is not known.

    `encoder` is what made the features, as `Encoder.to_dict` returns it; None: there are patches.
    CheckpointIncompatibleError names each known fact that differs, or the kind of data that the model takes.
    """
    if spec.encoder is None or encoder is None:
        kinds = ("patches", "features") if spec.encoder is None else ("features", "patches")
        raise CheckpointIncompatibleError(
            f"the model takes {kinds[0]} and is given {kinds[1]}",
            place=place,
            remedy="use a model that was trained on the same kind of data",
        )
    trained = spec.encoder
    known = sorted(trained.keys() & encoder.keys())
    differing = [
        f"{key} is {encoder[key]!r}, the model's {trained[key]!r}" for key in known if encoder[key] != trained[key]
    ]
    if differing:
        raise CheckpointIncompatibleError(
            "the features are not those that the model was trained on: " + "; ".join(differing),
            place=place,
            remedy="make the features with the encoder that the model's README.md names",
        )
    not_compared = [name for name in ("name", "pooling") if name not in known]
    if not not_compared:
        return []
    return [
        f"The encoder's {' and '.join(not_compared)} could not be compared: the model or the feature files "
        f"do not state {'it' if len(not_compared) == 1 else 'them'}."
    ]


def joint_spec(specs: Sequence[BundleSpec]) -> BundleSpec:
    """Return the spec of one or more models of two classes together; refuse those that cut or scale slides differently.

    The logit of several models is the mean of (z1 - z0) / temperature, so the joint temperature is 1.
    """
    first = specs[0]
    if len(first.class_names) != 2:
        raise CheckpointIncompatibleError(
            f"the model has classes {first.class_names}", place="class_names", remedy="use a model of two classes"
        )
    for one, other in combinations(specs, 2):  # every pair: a member for both backgrounds must hide no contradiction
        _refuse_differences(one, other)
    if len(specs) == 1:
        return first
    joint = {
        "background": next((spec.background for spec in specs if spec.background != "auto"), "auto"),
        # Each threshold is on its member's logit, the joint one on the mean of the logits over their temperatures.
        "decision_threshold": float(np.mean([spec.decision_threshold / spec.temperature for spec in specs])),
        "decision_chosen_for": ", ".join(dict.fromkeys(spec.decision_chosen_for for spec in specs)),
        "temperature": 1.0,
        "method": ", ".join(dict.fromkeys(spec.method for spec in specs)),
        "parameters": {"members": len(specs)},
        "group_metrics": {},
        "data": {},
        "area_reliance": None,
        "seen": _seen_by_any([spec.seen for spec in specs]),
    }
    return first.model_copy(update=joint)


def _refuse_differences(one: BundleSpec, other: BundleSpec) -> None:
    """Raise if two members would cut or scale a slide differently."""
    values, others = (
        {**spec.contract(), "min_tissue": spec.min_tissue, "min_scanned": spec.min_scanned} for spec in (one, other)
    )
    differing = [name for name in values if name not in _MEMBERS_OWN and values[name] != others.get(name)]
    if "auto" in (one.background, other.background):  # one of them takes slides of either kind
        differing = [name for name in differing if name != "background"]
    if differing:
        listed = "; ".join(f"{name} is {values[name]!r} and {others.get(name)!r}" for name in differing)
        raise CheckpointIncompatibleError(
            f"the members of the ensemble see different patches: {listed}",
            place="--model",
            remedy="use bundles that were trained on patches cut and scaled alike",
        )


def _seen_by_any(ranges: Sequence[TrainingRange | None]) -> TrainingRange | None:
    """Return the range that contains those of all members; None if a member has none."""
    stated = [seen for seen in ranges if seen is not None]
    if len(stated) < len(ranges):
        return None
    ends = np.array([seen.mean for seen in stated])  # (M, C, 2)
    least = [seen.sharpness for seen in stated if seen.sharpness is not None]
    return TrainingRange(
        mean=tuple(zip(ends[:, :, 0].min(axis=0).tolist(), ends[:, :, 1].max(axis=0).tolist(), strict=True)),
        sharpness=min(least) if len(least) == len(stated) else None,
        sharpness_by_tissue=_least_of_any([seen.sharpness_by_tissue for seen in stated]),
    )


def _least_of_any(bins: Sequence[tuple[tuple[float, float], ...] | None]) -> tuple[tuple[float, float], ...] | None:
    """Return the least sharpness of any member from each tissue fraction on; None if a member has none."""
    tables = [np.array(table) for table in bins if table]  # (bins, 2) each
    if len(tables) < len(bins):
        return None
    starts = np.unique(np.concatenate([table[:, 0] for table in tables]))
    starts = starts[starts >= max(table[0, 0] for table in tables)]  # below it, one member saw no patches
    of_each = [table[np.searchsorted(table[:, 0], starts, side="right") - 1, 1] for table in tables]
    return tuple(zip(starts.tolist(), np.min(of_each, axis=0).tolist(), strict=True))


def _listed(channels: tuple[str, ...]) -> str:
    return f"{len(channels)} channels ({', '.join(channels)})"


def patch_limits(spec: BundleSpec, config: PredictConfig) -> PatchLimits:
    """Return the least tissue and scanned fraction of a patch that is predicted, by the names in a bundle."""
    if config.all_patches:
        return {"min_tissue": 0.0, "min_scanned": 0.0}
    min_tissue = spec.min_tissue if config.min_tissue is None else config.min_tissue
    return {"min_tissue": min_tissue, "min_scanned": spec.min_scanned}


def tiling_of(spec: BundleSpec, config: PredictConfig) -> TileConfig:
    """Return how a slide is cut for a model: as in its training, but for the stride of `config`.

    `InputUnsupportedError` if that exceeds the patch.
    """
    stride_px = spec.stride_px if config.stride_px is None else config.stride_px
    if stride_px > spec.patch_px:
        raise InputUnsupportedError(
            f"stride of {stride_px} px, patches have {spec.patch_px}",
            place="[predict] stride_px",
            remedy=f"give at most {spec.patch_px}, so that the patches cover the slide",
        )
    return TileConfig(
        patch_px=spec.patch_px,
        stride_px=stride_px,
        mpp=spec.mpp,
        store="none",
        tissue=spec.tissue,
        intensity=spec.intensity,
        registration=RegistrationConfig(align=spec.align),
    )
