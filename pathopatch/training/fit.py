"""Set up a run on loaded patches, train its network, and return the weights that validation selects."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from pathopatch.core.config import AugmentConfig, TrainConfig
from pathopatch.core.errors import ChannelMismatchError, GroupEmptyError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.methods import Method
from pathopatch.models.networks import InteriorCrops, build_network, has_batchnorm
from pathopatch.training import checkpoint
from pathopatch.training.checkpoint import CheckpointFolder, State
from pathopatch.training.convex import solve_head
from pathopatch.training.crops import keep_crops, patches_with_crop
from pathopatch.training.dataset import PatchSet
from pathopatch.training.distributed import ProcessGroup
from pathopatch.training.frozen import FeatureReader, fit_frozen, open_backbone
from pathopatch.training.group_checks import method_of, needs_groups
from pathopatch.training.intervene import composed_validation, intervenes
from pathopatch.training.loop import Run, StepCallback, compute_logits, train_network
from pathopatch.training.optimise import build_optimizer, loss_scaler, reproducible, training_dtype
from pathopatch.training.result import TrainingResult, finish
from pathopatch.training.selection import Standardizer, check_validation, lacks_a_group, table_shape


def fit_arrays(
    train: PatchSet,
    val: PatchSet | None,
    config: TrainConfig,
    *,
    method: Method | None = None,
    checkpoints: CheckpointFolder | None = None,
    progress: StepCallback | None = None,
    read_features: FeatureReader | None = None,
    inner_folds: int = 0,
) -> TrainingResult:
    """Train a network on loaded patches and return the weights that validation selects.

    With equal arguments on one processor thread the result is the same to the bit, also when the run was killed at
    any point and started again with the same `checkpoints`. `val` may be None where ``config.select`` is ``last``.
    `method` is by default that of `config`. `checkpoints` is where a checkpoint is written at every
    evaluation and looked for first; None: nothing touches the disk. What `progress` raises stops the run. Of a frozen
    network `read_features` computes what its head is solved on, by default anew; `inner_folds` are as of `fit_frozen`.

    Raises
    ------
    GroupEmptyError
        A group that the method needs has no patch in training or validation.
    BetaOutOfBoundsError
        A beta outside the bounds of the training groups.
    NonFiniteError
        The loss or the weights became NaN or infinite; the last good checkpoint is kept, and the batch's patch_ids
        are in ``nonfinite.json`` beside it.
    InputUnsupportedError
        No training patches, or a setting that does not go with the others.
    """
    method = method or method_of(config)
    if len(train) == 0:
        raise InputUnsupportedError(
            "no labelled training patches",
            place="groups.parquet",
            remedy="give slides of the training split a tumor_mask in the manifest",
        )
    processes = ProcessGroup.current()
    device = processes.device(config.device)
    with reproducible(config.threads, device):
        if config.frozen:
            return fit_frozen(train, val, config, read_features=read_features, inner_folds=inner_folds)
        options: dict[str, Any] = {"processes": processes, "checkpoints": checkpoints, "progress": progress}
        return _fit_steps(_prepared(train, val, config, method, device=device, **options))


def _fit_steps(run: Run) -> TrainingResult:
    """Take the steps of a run, or solve its linear head, from its checkpoint on."""
    state = _first_state(run)
    if run.checkpoints and checkpoint.restore(run.checkpoints, state):
        run.processes.barrier()  # all have read it before the first writes another
    (solve_head if run.config.is_solved else train_network)(run, state)
    network = state.network
    network.load_state_dict(state.best_weights)
    return finish(
        network,
        run.config,
        None if run.val is None else (compute_logits(run, network, run.val, np.arange(len(run.val))), run.val),
        answered=run.answered,
        is_composed=run.is_composed,
        mean=run.mean,
        std=run.std,
        step=state.best["step"],
        history=tuple(state.history),
        n_classes=run.n_classes,
        crops=run.crops,
        without_crop=run.without_crop,
    )


def _prepared(
    train: PatchSet,
    val: PatchSet | None,
    config: TrainConfig,
    method: Method,
    *,
    device: torch.device,
    **options: Any,
) -> Run:
    """Leave out training patches without a crop, and compose validation that lacks a group; errors as `fit_arrays`."""
    val = val if val is None or len(val) else None
    crops, without_crop = None, (0, 0)
    if config.mask == "interior":
        count = len(train)
        train, crops = keep_crops(train, config)
        config = config.with_crops(crops.crop_px)
        lacking = 0 if val is None else int((~patches_with_crop(val, crops.crop_px)).sum())
        without_crop = count - len(train), lacking
    shape = n_classes, _ = table_shape(train, val)
    composes = intervenes(method, config)
    is_composed = composes and config.select != "last" and lacks_a_group(val)
    if is_composed:
        assert val is not None
        val = composed_validation(val, config)
    answered = None if crops is None or val is None else patches_with_crop(val, crops.crop_px)
    _require_validation(val if answered is None or answered.any() else None, method, config, shape)
    is_known = train.attribute >= 0
    if not is_known.all() and not (is_known.any() and needs_groups(method)):
        # Where no attribute is known it is 0 for all, so a sampler that needs groups names those that are empty.
        train = train.with_attribute(np.where(is_known, train.attribute, 0))
    if composes and (val is None or not config.tune_threshold):
        # On two carcinoma slides the ranking held on the unseen patient, and nearly all tissue was called tumour.
        warnings.warn(
            "patches are composed, and no validation patients say where the decision lies: a model that ignores area "
            "ranks patches of another patient well, but its threshold may be far off; give validation patients, and "
            "leave [train] tune_threshold on",
            UserWarning,
            stacklevel=3,
        )
    _check_channels(config.augmentation, train)
    mean, std = _standardisation(train, config)
    return Run(
        config=config,
        method=method,
        train=train,
        val=val,
        is_composed=is_composed,
        crops=crops,
        without_crop=without_crop,
        answered=answered,
        mean=mean,
        std=std,
        device=device,
        dtype=training_dtype(config.precision, device),
        standardize=Standardizer(mean, std, device, has_mask=config.mask != "none"),
        n_classes=n_classes,
        **options,
    )


def _first_state(run: Run) -> State:
    """Return what a run changes, before its first step."""
    config, device = run.config, run.device
    torch.manual_seed(config.seed)
    network = network_to_train(config, len(run.mean), run.n_classes)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = list(network.requires_grad_(True).parameters())
    return State(
        network,
        copy.deepcopy(network).eval().requires_grad_(False) if config.average_weights else network,
        build_optimizer(weights, config),
        run.method.objective(gerne.cell_counts(run.train.label, run.train.attribute)).to(device),
        scaler=loss_scaler(run.dtype, device),
    )


def _require_validation(val: PatchSet | None, method: Method, config: TrainConfig, shape: tuple[int, int]) -> None:
    """Refuse before the first step validation patches by which the checkpoint or the threshold cannot be chosen."""
    if config.select != "last":
        check_validation(val, needs_groups=needs_groups(method), shape=shape, select=config.select, seed=config.seed)
    if config.sensitivity is None:
        return
    if shape[0] > 2 or val is None:
        raise InputUnsupportedError(
            f"sensitivity = {config.sensitivity:g} with {shape[0]} classes and {len(val or ())} validation patches",
            place="[train] sensitivity",
            remedy="leave it out: it is of the second of two classes, on validation",
        )
    if not (val.label == 1).any():
        raise GroupEmptyError(
            f"sensitivity = {config.sensitivity:g}, and no validation patch of class 1",
            place="split 'val'",
            remedy="move patients between the splits, or leave [train] sensitivity out",
        )


def _standardisation(train: PatchSet, config: TrainConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel: those of the configuration, else of the training patches."""
    if config.mean is None or config.std is None:
        return train.statistics
    if len(config.mean) != (channels := train.read(slice(1)).shape[1]):
        raise ChannelMismatchError(
            f"{len(config.mean)} means for {channels} channels",
            place="[train] mean",
            remedy="give a value for each channel, in the order of the slides",
        )
    return config.mean, config.std


def network_to_train(config: TrainConfig, channels: int = 3, n_classes: int = 2) -> nn.Module:
    """Return a network by the settings of a run; errors are those of `build_network`, and of a mask over batch norms.

    A study calls it for each row before the first one trains, with channels that are not known yet.
    """
    if config.frozen:
        return open_backbone(config, channels, n_classes=n_classes).network
    network = build_network(
        config.architecture,
        channels,
        pretrained=config.pretrained,
        n_classes=n_classes,
        input_px=config.interior.crop_px or config.input_px,
        is_masked=config.mask == "normalise",
        timm_args=config.timm_args,
    )
    if config.interior.crop_px is not None:
        network = InteriorCrops(network, config.interior.crop_px)
    if config.mask == "normalise" and has_batchnorm(network) and str(config.pretrained) == "none":
        raise InputUnsupportedError(
            f"the batch norms of {config.architecture} learn statistics over all pixels, not over the tissue",
            place="[train] mask",
            remedy="use small-groupnorm or pretrained weights, whose batch norms are frozen, or set mask = 'none'",
        )
    return network


def _check_channels(rules: AugmentConfig | None, train: PatchSet) -> None:
    """Raise ChannelMismatchError for stain or colour of other channels than RGB."""
    if rules is None:
        return
    colour = [name for name in ("stain", "color") if getattr(rules, name) > 0]
    if colour and not train.is_rgb:
        channels = train.source.channels if train.source else ()
        raise ChannelMismatchError(
            f"{' and '.join(colour)} vary brightfield RGB, and the channels are {', '.join(channels) or 'others'}",
            place="[train.augment]",
            remedy="leave them at 0; gain and offset are for such channels",
        )
