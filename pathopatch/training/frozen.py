"""Train a frozen network: compute the features of each patch once, and solve its head on them exactly.

Of several heads validation chooses one: each penalty, GERNE's extrapolation, and with ``choose`` also how the backbone
sees the patch. In a cross-validation the patients of train and val validate in turn, in inner folds, and the head that
is kept is solved on all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.errors import (
    GroupEmptyError,
    InputCorruptError,
    InputUnsupportedError,
    NonFiniteError,
    PathopatchError,
)
from pathopatch.debias import gerne
from pathopatch.debias.interventions import EditedPatch
from pathopatch.debias.methods import Method
from pathopatch.groups.assign import assign_folds
from pathopatch.models.backbones import BACKBONES, weights_facts
from pathopatch.models.device import pick_device
from pathopatch.models.forward import PatchClassifier, append_mask
from pathopatch.models.frozen import CROPPED_PX, WHOLE_PX, FeatureFunction, FrozenNetwork, is_transformer, open_features
from pathopatch.models.interior import CropChoice, cut_crops, has_crop
from pathopatch.models.networks import InteriorCrops, build_network, weights_path
from pathopatch.models.spec import BackboneSpec
from pathopatch.training.choice import ASKED, MOST_WITHOUT_CROP, N_ASKED, Comparison, Tried, comparison, ranked, steady
from pathopatch.training.convex import LogisticRegression, second_moments_of, solve_method, solver_factor, write_head
from pathopatch.training.crops import choose_crops, patches_with_crop
from pathopatch.training.dataset import PatchMasks, PatchSet
from pathopatch.training.group_checks import method_of, needs_groups
from pathopatch.training.intervene import intervenes
from pathopatch.training.invariance import EDITS, Edits, draw_pool, second_moment, versions
from pathopatch.training.loop import VALIDATION_MEASURES
from pathopatch.training.result import TrainingResult, finish
from pathopatch.training.search import search_space
from pathopatch.training.selection import check_validation, criterion, table_shape

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""L2 penalties of a head, of which validation chooses one."""
_BATCH = 256
_COMPARED = 8  # training patches of which a bundle must give the head's answers
_ROUNDING = 1e-3  # of features: OpenVINO's differ by 5e-5 in logits, those of a network with other heads by 8e-3
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255  # EfficientNet-Lite: (value - 127) / 128
Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network before its head is solved, and what it is fed with."""

    network: FrozenNetwork
    architecture: str
    timm_args: Mapping[str, Any]
    mask: str  # as `[train] mask`
    crop_px: int | None
    mean: tuple[float, ...]  # per channel, in the scale of [0, 1]
    std: tuple[float, ...]
    is_blank: bool = False  # pixels are replaced by the mean of their channel
    _runtimes: dict[Any, FeatureFunction] = field(default_factory=dict)  # a compiled network serves all slides

    def features(self, patches: PatchSet, *, device: str = "cpu", threads: int | None = None) -> Features:
        """Return the features (N, D) of patches; of crops their mean over each patch."""
        parts = [np.empty((0, self.network.classifier.in_features), np.float32)]
        for start in range(0, len(patches), _BATCH):
            part = slice(start, start + _BATCH)
            tissue = patches.tissue.read(part) if self.mask != "none" and patches.tissue else None
            parts.append(self._of_pixels(patches.read(part), tissue, device=device, threads=threads))
        return np.concatenate(parts)

    def of_versions(
        self,
        patches: PatchSet,
        index: NDArray[np.int64],
        edits: Edits,
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Features:
        """Return features (n, V, D) of the `versions` of patches at `index`; NaN where there is none, or no crop."""
        found = np.full((len(index), len(edits), self.network.classifier.in_features), np.nan, np.float32)
        at_once = max(1, _BATCH // len(edits))
        for start in range(0, len(index), at_once):
            made = list(versions(patches, index[start : start + at_once], edits))
            place = np.flatnonzero([bool(of_patch) for of_patch in made]) + start
            flat = [each for of_patch in made for each in of_patch]
            if flat:
                features = self.of_edited(flat, device=device, threads=threads)
                found[place] = features.reshape(len(place), len(edits), -1)
        return found

    def of_edited(self, made: Sequence[EditedPatch], *, device: str = "cpu", threads: int | None = None) -> Features:
        """Return the features (n, D) of edited patches in [0, 1]; NaN where there is no crop."""
        pixels, tissue = np.stack([each.pixels for each in made]), np.stack([each.tissue for each in made])
        features = self._of_pixels(pixels.astype(np.float32), tissue, device=device, threads=threads)
        if self.crop_px is not None:
            features[~has_crop(tissue, self.crop_px)] = np.nan
        return features

    def _of_pixels(
        self, pixels: NDArray[np.float32], tissue: NDArray[np.bool_] | None, *, device: str, threads: int | None
    ) -> Features:
        """Return the features (n, D) of patches (n, C, P, P) in [0, 1] with their tissue (n, P, P)."""
        channels, side = len(self.mean) + (self.mask == "normalise"), pixels.shape[2]
        key = channels, side, device, threads
        if key not in self._runtimes:
            self._runtimes[key] = open_features(
                _Features(self.network),
                channels=channels,
                input_px=self.crop_px or side,
                inside_px=self.network.form.side_px,
                device=pick_device(device),
                threads=threads,
            )
        runtime = self._runtimes[key]
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        x = (pixels - mean) / std
        if self.is_blank:
            x = np.zeros_like(x[:, :1])
        if self.mask != "none":
            assert tissue is not None
            x = append_mask(x, tissue)
        if self.crop_px is None:
            return runtime(x)
        crops, patch_number = cut_crops(x, self.crop_px)
        first = np.searchsorted(patch_number, np.arange(len(x)))
        total = np.add.reduceat(runtime(crops), first, axis=0)
        return np.asarray(total / np.bincount(patch_number)[:, None], np.float32)

    def of_blank_channel(self) -> Backbone:
        """Return what gives the features (N, D / C) of a grey channel that is its mean everywhere, of C channels."""
        form, is_masked = self.network.form, self.network.is_masked
        network = FrozenNetwork(self.network.backbone, form, channels=1, n_classes=2, is_masked=is_masked)
        return replace(self, network=network, mean=(0.0,), std=(1.0,), is_blank=True, _runtimes={})

    def facts(self) -> dict[str, Any]:
        """Return what the features of a patch depend on beside the patch, as plain values."""
        about: dict[str, Any] = {"architecture": self.architecture, "mask": self.mask, "crop_px": self.crop_px}
        about["timm_args"] = dict(self.timm_args)  # such as the number of heads, which changes no tensor's shape
        about |= {"blank": True} if self.is_blank else {}
        return about | {"form": self.network.form.model_dump(), "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class FeatureReader:
    """Compute features of patches, and of their versions; another one may read what was computed before."""

    threads: int | None = None

    def __call__(self, patches: PatchSet, backbone: Backbone) -> Features:
        """Return what `Backbone.features` does."""
        return backbone.features(patches, threads=self.threads)

    def of_versions(self, patches: PatchSet, index: NDArray[np.int64], backbone: Backbone, edits: Edits) -> Features:
        """Return what `Backbone.of_versions` does."""
        return backbone.of_versions(patches, index, edits, threads=self.threads)


class _Features(nn.Module):
    """A frozen network's features in place of its logits."""

    def __init__(self, network: FrozenNetwork) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.features(x)


def open_backbone(config: TrainConfig, channels: Sequence[str] | int, *, n_classes: int = 2) -> Backbone:
    """Return the frozen network of a run's settings with its backbone's weights.

    `channels` are their names, or their number. Three called R, G, B are colour, as are three without names; of others
    each is fed as grey. Errors are those of `build_network` and `weights_path`.
    """
    names = ("R", "G", "B") if channels == 3 else channels
    count = names if isinstance(names, int) else len(names)
    file = weights_path(config.pretrained, config.architecture)
    known = BACKBONES.get(config.architecture)
    form = BackboneSpec(
        side_px=known.input_px if known else WHOLE_PX,
        pooling=config.pooling or ("maps" if config.mask != "none" else known.pooling if known else "final"),
        by_channel=names != ("R", "G", "B"),
        **weights_facts(config.architecture, file),
    )
    is_masked = config.mask == "normalise"
    build: dict[str, Any] = {"n_classes": n_classes, "is_masked": is_masked, "timm_args": config.timm_args}
    if config.mask == "interior":
        with torch.device("meta"):
            bare: Any = build_network(config.architecture, count, backbone=form, **build)
        if not is_transformer(bare.backbone):  # which is made for one size
            form = form.model_copy(update={"side_px": CROPPED_PX})
    network: Any = build_network(config.architecture, count, pretrained=config.pretrained, backbone=form, **build)
    mean, std = config.mean, config.std
    if mean is None or std is None:
        own: Any = network.backbone.pretrained_cfg
        is_lite = str(config.pretrained) == "efficientnet-lite0"
        lite = ((_LITE_MEAN,) * 3, (_LITE_STD,) * 3)
        mean, std = known.norm if known else lite if is_lite else (tuple(own["mean"]), tuple(own["std"]))
        if form.by_channel:
            mean, std = ((float(np.mean(values)),) * count for values in (mean, std))
    crop_px = config.interior.crop_px
    return Backbone(network, config.architecture, config.timm_args, config.mask, crop_px, mean, std)


@dataclass(frozen=True, eq=False)
class _View:
    """What the heads of one way to see the patches have in common."""

    backbone: Backbone
    features: Features  # (N, D), of train and then of val
    has_answer: NDArray[np.bool_]  # (N,)
    crops: CropChoice | None
    mean: NDArray[np.float64]  # (D,), of the training patches' features
    std: NDArray[np.float64]
    moments: NDArray[np.float64]  # (D, D)
    pool: NDArray[np.int64]  # (n,) rows of the patches of which there are versions
    versions: Features  # (n, V, D) of these
    metrics: dict[bytes, NDArray[np.float64]] = field(default_factory=dict)  # S by the rows of a fold
    factors: dict[tuple[float, float, bytes], NDArray[np.float64]] = field(default_factory=dict)

    def metric(self, rows: NDArray[np.bool_], invariance: float) -> NDArray[np.float64] | None:
        """Return 1 + rho S of some rows' versions; None without rho."""
        if not invariance:
            return None
        if (key := rows.tobytes()) not in self.metrics:
            own = rows[self.pool]
            self.metrics[key] = second_moment(self.features[self.pool[own]], self.versions[own], self.std)
        return np.eye(len(self.std)) + invariance * self.metrics[key]

    def factor(self, rows: NDArray[np.bool_], penalty: float, invariance: float) -> NDArray[np.float64]:
        """Return what the heads of one penalty share on some rows."""
        key = penalty, invariance, rows.tobytes() if invariance else b""
        if key not in self.factors:
            self.factors[key] = solver_factor(self.moments, penalty, self.metric(rows, invariance))
        return self.factors[key]

    def answered(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """Return which of some patches have an answer; None where all have."""
        return None if self.crops is None else self.has_answer[rows]


@dataclass(frozen=True, eq=False)
class Head:
    """A head that is solved, on features as the backbone gives them."""

    weight: NDArray[np.float64]  # (K, D)
    bias: NDArray[np.float64]  # (K,)

    def logits(self, features: Features) -> NDArray[np.float64]:
        """Return logits (N, K) of features (N, D)."""
        return np.asarray(features.astype(np.float64) @ self.weight.T + self.bias)

    def compare(self, model: PatchClassifier, patches: PatchSet, features: Features) -> None:
        """Refuse a model that answers patches otherwise than this head their features; it was solved on others."""
        size = np.abs(features).astype(np.float64) @ np.abs(self.weight.T) + np.abs(self.bias)
        tissue = None if patches.tissue is None else patches.tissue.read(slice(None))
        difference = np.abs(model.predict_logits(patches.read(slice(None)), tissue) - self.logits(features))
        if not (difference <= _ROUNDING * size).all():
            raise InputCorruptError(
                f"the head was solved on other features than the network gives: logits are {difference.max():.3g} off",
                place="features",
                remedy="remove the folder features from the work folder, and train again",
            )


def fit_frozen(
    train: PatchSet,
    val: PatchSet | None,
    config: TrainConfig,
    *,
    read_features: FeatureReader | None = None,
    inner_folds: int = 0,
) -> TrainingResult:
    """Solve the heads that a configuration asks for, and return the network with the one that validation chooses.

    With `inner_folds` train and val are divided anew by patient, each part validates once, and the chosen head is
    solved on all patches; of fewer patients each is a part. Errors are those of `fit_arrays`.
    """
    heads = _heads(train, val, config, read_features or FeatureReader(config.threads), inner_folds)
    data, by = heads.data, comparison(config, heads.data, heads.validated)
    tried, largest_s = _tried(heads, by)
    best = _kept(heads, ranked(tried, by)) if heads.selects else tried[0]
    if by.reason:
        warnings.warn(by.reason, UserWarning, stacklevel=2)
    view = heads.view(best.config)
    network: Any = view.backbone.network
    head = _solve(data, heads.kept, view, best.config, heads.n_classes)
    write_head(network.classifier, head.weight, head.bias)
    is_train, crop_px = np.arange(len(data)) < len(train), None if view.crops is None else view.crops.crop_px
    index = np.flatnonzero(is_train & view.has_answer)
    asked = index[np.linspace(0, len(index) - 1, _COMPARED).astype(np.int64)]
    margin = best.logits[:, 1] - best.logits[:, 0]
    divides = heads.selects and heads.kept.all()
    return finish(
        network if crop_px is None else InteriorCrops(network, crop_px),
        best.config,
        (best.logits, heads.validated) if heads.selects else None,
        answered=view.answered(heads.fold >= 0),
        mean=view.backbone.mean,
        std=view.backbone.std,
        step=1,
        history=tuple(each.row for each in tried if each.row),
        n_classes=heads.n_classes,
        crops=view.crops,
        without_crop=tuple(int((~view.has_answer[rows]).sum()) for rows in (is_train, ~is_train)),
        settings=best.config.with_crops(crop_px),
        inner_fold_logit=dict(zip(data.patch_id.tolist(), margin.tolist(), strict=True)) if divides else None,
        backbone=network.form,
        compare=partial(head.compare, patches=train.rows(asked), features=view.features[asked]),
        largest_s=largest_s,
    )


def _heads(train: PatchSet, val: PatchSet | None, config: TrainConfig, read: FeatureReader, inner_folds: int) -> _Heads:
    """Return the heads of a run before one is solved: by which patches they validate, each of them once."""
    sets = [train] if val is None or not len(val) else [train, val]
    data = _joined(sets)
    is_train = np.arange(len(data)) < len(train)
    n_units = len(np.unique(data.patient))
    # With "last" nothing is chosen, and val stays unseen. Of one patient no part validates.
    inner_folds = min(inner_folds, n_units) if config.select != "last" and n_units > 1 else 0
    fold = _inner_folds(data, inner_folds, config.seed) if inner_folds else np.where(is_train, -1, 0)
    kept = np.ones(len(data), np.bool_) if inner_folds else is_train
    heads = _Heads(sets, data, fold, kept, table_shape(train, val)[0], config, read)
    if heads.selects:
        every_group = not config.choose and needs_groups(method_of(config))
        check_validation(heads.validated, needs_groups=every_group, select=config.select, seed=config.seed)
    return heads


def _tried(heads: _Heads, by: Comparison) -> tuple[list[Tried], float | None]:
    """Return the heads that validation compares, and of gerne the bound of s, where one is met.

    Without selection it is the first head that there is.
    """
    config = heads.config
    ways = [config.model_copy(update={**way, "choose": False}) for way in by.ways]
    penalties = PENALTIES if heads.selects else (config.weight_decay,)
    candidates = [way.model_copy(update={"weight_decay": penalty}) for way in ways for penalty in penalties]
    tried: list[Tried] = []
    failed: PathopatchError | None = None
    is_extrapolated, largest_s = False, None
    while candidates:
        candidate = candidates.pop(0)
        try:
            if not heads.selects:
                heads.view(candidate)
                return [Tried(candidate, np.empty((0, heads.n_classes)), {}, {})], None
            tried.append(heads.validate(candidate))
        except (GroupEmptyError, InputUnsupportedError) as error:  # no patch of a group, no crop; another head may do
            failed = error
            continue
        if not candidates and config.method == "gerne" and not is_extrapolated:
            # s is searched at the penalty that suits s = 1: both together would take five times as long.
            best = ranked(tried, by)[0].config
            space, is_extrapolated = search_space(heads.solved_on(best), best, TuneConfig()), True
            points = [point for point in space.grid if point["c"] * (point["beta"] + 1) != config.gerne.s]
            candidates, largest_s = [best.with_trial(point) for point in points], space.largest_s
    if not tried:
        assert failed is not None  # there is a candidate at least
        raise failed
    return tried, largest_s


def _kept(heads: _Heads, ordered: Sequence[Tried]) -> Tried:
    """Return the head that is kept, of those that validation compared, best first."""
    if not heads.config.choose or heads.n_classes > 2:
        return ordered[0]
    best, is_steady = steady(ordered, heads.margins_at_areas)
    if not is_steady:
        warnings.warn(
            "where the tissue area of validation patches is set, the answers of each head follow it; the one that "
            f"follows least is kept: the area explains {100 * best.row['val_eta']:.0f} % of their variance",
            UserWarning,
            stacklevel=2,
        )
    return best


@dataclass(frozen=True, eq=False)
class _Heads:
    """What the heads of a run are solved on, and validated by."""

    sets: Sequence[PatchSet]
    data: PatchSet  # of all sets, without pixels
    fold: NDArray[np.int64]  # (N,): in which each patch validates; -1: it trains alone
    kept: NDArray[np.bool_]  # (N,): what the head that is kept is solved on
    n_classes: int
    config: TrainConfig
    read: FeatureReader
    views: dict[str, _View] = field(default_factory=dict)  # by mask
    of_asked: dict[str, Features] = field(default_factory=dict)

    @property
    def selects(self) -> bool:
        """Whether validation chooses between them."""
        return self.config.select != "last"

    @cached_property
    def validated(self) -> PatchSet:
        """Patches that validate."""
        return self.data.rows(self.fold >= 0)

    def view(self, config: TrainConfig) -> _View:
        """Return what the heads have in common that see patches as these settings say."""
        if config.mask not in self.views:
            least = {"most_without_crop": MOST_WITHOUT_CROP} if self.config.choose else {}
            self.views[config.mask] = _view(self.sets, self.data, config, self.read, n_classes=self.n_classes, **least)
        return self.views[config.mask]

    def solved_on(self, config: TrainConfig) -> list[PatchSet]:
        """Return the patches that each fold's head is solved on, and those of the head that is kept."""
        has_answer = self.view(config).has_answer
        parts = [*(self.fold != number for number in np.unique(self.fold[self.fold >= 0])), self.kept]
        return [self.data.rows(rows & has_answer) for rows in parts]

    def validate(self, config: TrainConfig) -> Tried:
        """Return a head's answers to the patches that validate, each by a head that was solved without its fold."""
        view, rows = self.view(config), self.fold >= 0
        logits = np.empty((len(self.data), self.n_classes))
        for number in np.unique(self.fold[rows]):
            held_out = self.fold == number
            head = _solve(self.data, ~held_out, view, config, self.n_classes)
            logits[held_out] = head.logits(view.features[held_out])
        measures = criterion(
            logits[rows],
            self.validated.label,
            self.validated.attribute,
            self.validated.tissue_fraction,
            tune_threshold=config.tune_threshold,
            sensitivity=config.sensitivity,
            answered=view.answered(rows),
        )
        shown = {f"val_{name}": measures[name] for name in VALIDATION_MEASURES}
        return Tried(config, logits[rows], measures, {"step": 1, **head_choice(config), **shown})

    def margins_at_areas(self, tried: Tried) -> NDArray[np.float64]:
        """Return margins (n, T) of validation patches at the areas of `ASKED`, by heads solved without their fold."""
        view = self.view(tried.config)
        asked = np.flatnonzero(self.fold >= 0)[draw_pool(self.validated, N_ASKED)]
        if tried.config.mask not in self.of_asked:
            self.of_asked[tried.config.mask] = _of_versions(self.sets, asked, view.backbone, self.read, ASKED)
        of_asked = self.of_asked[tried.config.mask]
        margins = np.empty(of_asked.shape[:2])
        for number in np.unique(self.fold[asked]):
            own = self.fold[asked] == number
            head = _solve(self.data, self.fold != number, view, tried.config, self.n_classes)
            logits = head.logits(of_asked[own].reshape(-1, of_asked.shape[2]))
            margins[own] = (logits[:, 1] - logits[:, 0]).reshape(-1, len(ASKED))
        return margins


def head_choice(config: TrainConfig) -> dict[str, Any]:
    """Return what validation may choose of a head's settings, as plain values."""
    own = {"mask": config.mask, "method": config.method, "weight_decay": config.weight_decay}
    own |= {"invariance": config.invariance} if config.invariance else {}
    return own | ({"s": config.gerne.s} if config.method == "gerne" else {})


def _joined(sets: Sequence[PatchSet]) -> PatchSet:
    """Return the patches of all sets without their pixels."""
    names = ("label", "attribute", "tissue_fraction", "patient", "patch_id")
    columns: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in sets]) for name in names}
    masks = [each.tissue for each in sets if each.tissue is not None]
    tissue = PatchMasks(np.concatenate([each.bits for each in masks]), masks[0].input_px) if masks else None
    x = np.empty((len(columns["label"]), 0, 0, 0), np.float32)
    return PatchSet(x=x, source=sets[0].source, tissue=tissue, **columns)


def _inner_folds(data: PatchSet, count: int, seed: int) -> NDArray[np.int64]:
    """Return the inner fold (N,) of each patch, from 0, by patient."""
    table = pd.DataFrame({"patient_id": data.patient.astype(str), "label": data.label})
    fold = assign_folds(table, folds=count, seed=seed, least=2)  # those that do not validate train
    return np.asarray(fold.loc[table["patient_id"]].to_numpy() - 1, np.int64)


def _view(
    sets: Sequence[PatchSet],
    data: PatchSet,
    config: TrainConfig,
    read: FeatureReader,
    *,
    n_classes: int,
    most_without_crop: float = 1.0,
) -> _View:
    """Return what the heads have in common that see the patches as `config` says; refuse it with too few crops."""
    crops, has_answer = None, np.ones(len(data), np.bool_)
    if config.mask == "interior":
        crops = choose_crops(sets[0], config)
        config = config.with_crops(crops.crop_px)
        has_answer = patches_with_crop(data, crops.crop_px, needed=len(sets[0]))
        if (share := 1 - has_answer[: len(sets[0])].mean()) > most_without_crop:
            raise InputUnsupportedError(f"{100 * share:.0f} % of the training patches hold no crop")
    source = sets[0].source
    channels = source.channels if source is not None and source.channels else sets[0].read(slice(0, 1)).shape[1]
    backbone = open_backbone(config, channels, n_classes=n_classes)
    features = np.concatenate([read(patches, backbone) for patches in sets])
    fitted = features[: len(sets[0])][has_answer[: len(sets[0])]]
    if not np.isfinite(features).all():
        raise NonFiniteError(
            "features of the backbone are NaN or infinite",
            place="[train] pretrained",
            remedy="give other weights, or look for damaged patches",
        )
    mean, std = fitted.mean(axis=0, dtype=np.float64), fitted.std(axis=0, dtype=np.float64)
    std[std < 1e-6 * (1 + np.abs(mean))] = 1.0  # a constant feature
    moments = second_moments_of(fitted, mean=mean, std=std)
    pool = draw_pool(data) if config.invariance else np.empty(0, np.int64)
    of_pool = _of_versions(sets, pool, backbone, read, EDITS)
    return _View(backbone, features, has_answer, crops, mean, std, moments, pool, of_pool)


def _of_versions(
    sets: Sequence[PatchSet], index: NDArray[np.int64], backbone: Backbone, read: FeatureReader, edits: Edits
) -> Features:
    """Return features (n, V, D) of the versions of patches at a rising `index` of all sets together."""
    first = len(sets[0])
    parts = [index[index < first], index[index >= first] - first]
    none = np.empty((0, len(edits), backbone.network.classifier.in_features), np.float32)
    made = [read.of_versions(of, own, backbone, edits) for of, own in zip(sets, parts, strict=False) if len(own)]
    return np.concatenate([none, *made])


def _solve(data: PatchSet, rows: NDArray[np.bool_], view: _View, config: TrainConfig, n_classes: int) -> Head:
    """Return the head of a method for some patches, of which those without an answer are left out."""
    method = _exact_method(config)
    index = np.flatnonzero(rows & view.has_answer)
    label, attribute = data.label[index], np.maximum(data.attribute[index], 0)
    regression = LogisticRegression(
        view.features[index],
        label,
        mean=view.mean,
        std=view.std,
        factor=view.factor(rows, config.weight_decay, config.invariance or 0.0),
        n_classes=n_classes,
        penalty=config.weight_decay,
        metric=view.metric(rows, config.invariance or 0.0),
    )
    objective = method.objective(gerne.cell_counts(label, attribute))
    samples = label, attribute, data.tissue_fraction[index]
    solution, _ = solve_method(regression, method, objective, samples, config)
    weight, bias = solution.of_classes()
    return Head(weight / view.std, bias - weight @ (view.mean / view.std))


def _exact_method(config: TrainConfig) -> Method:
    """Return the configured method; InputUnsupportedError for one that an exact head on features cannot have."""
    method = method_of(config)
    if not intervenes(method, config) and hasattr(method.objective(np.ones((2, 2), np.int64)), "expected_weights"):
        return method
    raise InputUnsupportedError(
        f"{config.method} has no exact head on the features of a frozen network",
        place="[train] method",
        remedy="use erm, erm-balanced, resample, groupdro or gerne, or frozen = false",
    )
