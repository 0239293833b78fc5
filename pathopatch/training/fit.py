"""Set up a run on loaded patches, train its phases one after another, and return the selected weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from pathopatch.core.config import AugmentConfig, TrainConfig
from pathopatch.core.errors import ChannelMismatchError, InputUnsupportedError
from pathopatch.debias import gerne
from pathopatch.debias.methods import Phase
from pathopatch.models.networks import InteriorCrops, build_network, classifier_of, has_batchnorm
from pathopatch.training import checkpoint
from pathopatch.training.checkpoint import CheckpointFolder, State
from pathopatch.training.convex import solve_phase
from pathopatch.training.dataset import PatchSet
from pathopatch.training.distributed import ProcessGroup
from pathopatch.training.frozen import FeatureReader, fit_frozen, open_backbone
from pathopatch.training.intervene import composed_validation, intervenes
from pathopatch.training.loop import Run, StepCallback, compute_logits, run_phase
from pathopatch.training.optimise import build_optimizer, loss_scaler, reproducible, training_dtype
from pathopatch.training.phase_data import (
    PhaseData,
    check_phases,
    keep_crops,
    needs_groups,
    patches_with_crop,
    phase_data,
    phases_of,
    split_validation,
)
from pathopatch.training.result import TrainingResult
from pathopatch.training.selection import (
    DecisionThreshold,
    Standardizer,
    check_validation,
    choose_threshold,
    lacks_a_group,
    table_shape,
)


def fit_arrays(
    train: PatchSet,
    val: PatchSet | None,
    config: TrainConfig,
    *,
    phases: Sequence[Phase] | None = None,
    checkpoints: CheckpointFolder | None = None,
    progress: StepCallback | None = None,
    read_features: FeatureReader | None = None,
    inner_folds: int = 0,
) -> TrainingResult:
    """Train a network on loaded patches and return the weights that validation selects.

    With equal arguments on one processor thread the result is the same to the bit, also when the run was killed at
    any point and started again with the same `checkpoints`. `val` may be None where ``config.select`` is ``last``.
    `phases` are the method, by default that of `config`. `checkpoints` is where a checkpoint is written at every
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
    phases = tuple(phases or phases_of(config))
    if len(train) == 0:
        raise InputUnsupportedError(
            "no labelled training patches",
            place="groups.parquet",
            remedy="give slides of the training split a tumor_mask in the manifest",
        )
    if config.frozen:
        return fit_frozen(train, val, config, read_features=read_features, inner_folds=inner_folds)
    crops, without_crop = None, (0, 0)
    if config.mask == "interior":
        train, _, crops, without_crop = keep_crops(train, val, config)
        config = config.model_copy(update={"crop_px": crops.crop_px})
    # Everything that can be refused is refused here: a later phase may begin hours after the first step.
    validation = split_validation(val, phases, seed=config.seed)
    if crops is not None and validation.held_out is not None:  # no phase learns from patches without a crop
        has_crop = patches_with_crop(validation.held_out, crops.crop_px)
        validation = replace(validation, held_out=validation.held_out.rows(has_crop))
    n_classes, n_attributes = table_shape(train, val)
    is_composed = intervenes(phases, config) and config.select != "last" and lacks_a_group(validation.select)
    if is_composed:
        assert validation.select is not None
        validation = replace(validation, select=composed_validation(validation.select, config))
    judged = None
    if crops is not None and validation.select is not None:
        judged = patches_with_crop(validation.select, crops.crop_px)
    if config.select != "last":
        check_validation(
            validation.select if judged is None or judged.any() else None,
            needs_groups=any(needs_groups(phase) for phase in phases),
            needs_attribute=any(phase.needs_val_attribute for phase in phases),
            shape=(n_classes, n_attributes),
            select=config.select,
            seed=config.seed,
        )
    check_phases(phases, train, validation, config, n_classes=n_classes)
    if intervenes(phases, config) and (validation.select is None or not config.tune_threshold):
        # On two carcinoma slides the ranking held on the unseen patient, and nearly all tissue was called tumour.
        warnings.warn(
            "patches are composed, and no validation patients say where the decision lies: a model that ignores area "
            "ranks patches of another patient well, but its threshold may be far off; give validation patients, and "
            "leave [train] tune_threshold on",
            UserWarning,
            stacklevel=2,
        )
    check_channels(config.augmentation, is_rgb=train.is_rgb, channels=train.source.channels if train.source else ())
    processes = ProcessGroup.current()
    device = processes.device(config.device)
    dtype = training_dtype(config.precision, device)
    with reproducible(config.threads, device):
        mean, std = _standardisation(train, config)
        # Pretrained statistics are of millions of images, those of our batches of a few dozen patches.
        is_pretrained, is_masked = str(config.pretrained) != "none", config.mask != "none"
        run = Run(
            config=config,
            train=train,
            val=validation.select,
            judged=judged,
            validation=validation,
            device=device,
            dtype=dtype,
            standardize=Standardizer(mean, std, device, has_mask=is_masked),
            has_frozen_batchnorm=is_pretrained,
            n_classes=n_classes,
            phases=phases,
            steps=config.steps,
            processes=processes,
            checkpoints=checkpoints,
            progress=progress,
        )
        state = _run_phases(run, channels=len(mean))
        network = state.network.cpu().eval().requires_grad_(False)
        decision = DecisionThreshold()
        if run.val is not None:
            decision = choose_threshold(
                compute_logits(run, network.to(device), run.val, np.arange(len(run.val))),
                run.val,
                tune_threshold=config.tune_threshold,
                sensitivity=config.sensitivity,
                judged=judged,
            )
    held_out = validation.held_out
    return TrainingResult(
        network=network.cpu(),
        mean=mean,
        std=std,
        step=state.best["step"],
        history=tuple(state.history),
        decision_threshold=decision.threshold,
        decision_chosen_for=decision.chosen_for,
        temperature=decision.temperature,
        validation=decision.validation | ({"is_composed": True} if is_composed else {}),
        n_classes=n_classes,
        has_mask=is_masked,
        crops=crops,
        without_crop=without_crop,
        learnt_from_val=tuple(str(name) for name in held_out.patch_id) if held_out else (),
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


def _run_phases(run: Run, *, channels: int) -> State:
    """Run all phases, from the checkpoint if there is one; return the final state, its network the selected one."""
    network = _new_network(run, channels)
    header = checkpoint.read_header(run.checkpoints)
    history: list[dict[str, Any]] = []
    for number, phase in enumerate(run.phases):
        if header and number < header["phase"]:
            continue  # done before the run was killed: the checkpoint holds what came out of it
        is_resumed = bool(header and number == header["phase"])
        data = _phase_data(run, phase, network, is_resumed=is_resumed)
        if phase.starts_anew and number > 0:
            network = _new_network(run, channels)
        steps, weight_decay = phase.steps(run.config.steps), run.config.weight_decay * phase.weight_decay_scale
        phase_run = replace(run, config=run.config.model_copy(update={"steps": steps, "weight_decay": weight_decay}))
        state = _initial_state(phase_run, phase, number, network, data, history)
        if run.checkpoints and header and is_resumed:
            checkpoint.restore(run.checkpoints, state, header)
            run.processes.barrier()  # all have read it before the first writes another
        train_phase = solve_phase if run.config.is_solved else run_phase
        train_phase(phase_run, phase, state, data.patches)
        # The next phase goes on from the selected weights, not from the last ones.
        network.load_state_dict(state.best_weights)
        history = state.history
    return state


def _initial_state(
    run: Run, phase: Phase, number: int, network: nn.Module, data: PhaseData, history: list[dict[str, Any]]
) -> State:
    """Return the state before the first step of a phase."""
    config, patches = run.config, data.patches
    network.requires_grad_(phase.trainable == "all")
    classifier_of(network).requires_grad_(True)
    weights = [p for p in network.parameters() if p.requires_grad]
    return State(
        network,
        copy.deepcopy(network).eval().requires_grad_(False) if config.average_weights else network,
        build_optimizer(weights, config, rate=config.learning_rate * phase.lr_scale),
        phase.objective(gerne.cell_counts(patches.label, patches.attribute)).to(run.device),
        attribute=patches.attribute,
        report=data.report,
        scaler=loss_scaler(run.dtype, run.device),
        phase=number,
        history=history,
    )


def _new_network(run: Run, channels: int) -> nn.Module:
    """Return the network that the run starts from."""
    torch.manual_seed(run.config.seed)
    network = network_of(run.config, channels, run.n_classes)
    return network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def network_of(config: TrainConfig, channels: int = 3, n_classes: int = 2) -> nn.Module:
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
        input_px=config.crop_px or config.input_px,
        is_masked=config.mask == "normalise",
        timm_args=config.timm_args,
    )
    if config.crop_px is not None:
        network = InteriorCrops(network, config.crop_px)
    if config.mask == "normalise" and has_batchnorm(network) and str(config.pretrained) == "none":
        raise InputUnsupportedError(
            f"the batch norms of {config.architecture} learn statistics over all pixels, not over the tissue",
            place="[train] mask",
            remedy="use small-groupnorm or pretrained weights, whose batch norms are frozen, or set mask = 'none'",
        )
    return network


def _phase_data(run: Run, phase: Phase, network: nn.Module, *, is_resumed: bool) -> PhaseData:
    """Return what a phase draws from; its pseudo-attributes come from the network so far or from the checkpoint."""

    def probability(patches: PatchSet) -> NDArray[np.float64]:
        logits = compute_logits(run, network, patches, np.arange(len(patches)))
        return np.asarray(softmax(logits, axis=1), dtype=np.float64)

    attribute = checkpoint.read_attribute(run.checkpoints) if run.checkpoints and is_resumed else None
    return phase_data(
        phase, run.train, run.validation, probability=probability, attribute=attribute, seed=run.config.seed
    )


def check_channels(rules: AugmentConfig | None, *, is_rgb: bool, channels: tuple[str, ...] = ()) -> None:
    """Raise ChannelMismatchError for stain or colour of other channels than RGB, or shot noise of RGB."""
    if rules is None:
        return
    colour = [name for name in ("stain", "color") if getattr(rules, name) > 0]
    if colour and not is_rgb:
        raise ChannelMismatchError(
            f"{' and '.join(colour)} vary brightfield RGB, and the channels are {', '.join(channels) or 'others'}",
            place="[train.augment]",
            remedy="leave them at 0; gain, offset and photons are for such channels",
        )
    if rules.photons is not None and is_rgb:
        raise ChannelMismatchError(
            "photons describes detectors that count them, and the channels are brightfield RGB",
            place="[train.augment]",
            remedy="leave it out; stain and color are for such channels",
        )
