"""How a network is trained: phases of sampler and objective, run one after another by a loop that knows no method.

One concatenated forward pass a step, whatever streams the batch is made of: with BatchNorm in training mode two passes
would each use statistics that match neither the other's nor the stored ones. BatchNorm is frozen where weights are
pretrained; networks trained from scratch should use GroupNorm, for which one pass and two are the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from pathopatch.config import TrainConfig
from pathopatch.debias import gerne
from pathopatch.debias.methods import Phase, method
from pathopatch.errors import GroupEmptyError, InputUnsupportedError, NonFiniteError
from pathopatch.faultpoints import fault_point
from pathopatch.files import write_json
from pathopatch.models.networks import build_network, classifier_of, freeze_batchnorm
from pathopatch.training import checkpoint
from pathopatch.training.augment import check_channels, mixed_seed, varied_by
from pathopatch.training.checkpoint import State
from pathopatch.training.dataset import PatchSet, channel_statistics
from pathopatch.training.history import Events, Losses
from pathopatch.training.loader import Batch, batches, in_units
from pathopatch.training.optimise import compiled, loss_scaler, optimizer_of, rate_factor, take_step, training_dtype
from pathopatch.training.ranks import Ranks
from pathopatch.training.reproducible import dropout_seed, reproducible
from pathopatch.training.schedule import evaluation_steps, update_average
from pathopatch.training.selection import (
    BATCH,
    Standardised,
    check_validation,
    decide,
    is_better,
    margins,
    measure,
    score,
    some_of_each_group,
)

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with the steps done, their total, and the latest measures."""

CHECKPOINT, NONFINITE = "checkpoint.safetensors", "nonfinite.json"


@dataclass(frozen=True)
class Keep:
    """Where a run keeps its checkpoint, and of what configuration and inputs it is.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    fingerprint : str
        A checkpoint of another fingerprint is not taken.
    """

    folder: Path
    fingerprint: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A trained network and how it was picked.

    Parameters
    ----------
    network : nn.Module
        The picked weights, float32, on the processor, in evaluation mode.
    mean, std : tuple of float
        Of the training set, per channel, in the scale of [0, 1].
    step : int
        Steps of the last phase after which the picked weights stood.
    history : tuple of dict
        One row per evaluation.
    decision_threshold : float
        On z1 - z0.
    validation : dict
        What all validation patches say, at that threshold and at 0; empty without validation.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    step: int
    history: tuple[dict[str, Any], ...]
    decision_threshold: float
    validation: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """What stays the same over a run."""

    config: TrainConfig
    train: PatchSet
    val: PatchSet | None
    device: torch.device
    standardised: Standardised
    is_frozen: bool
    keep: Keep | None
    progress: Progress | None
    phases: tuple[Phase, ...]
    ranks: Ranks
    dtype: torch.dtype
    events: Events
    shown: dict[str, float] = field(default_factory=dict)


def fit_arrays(
    train: PatchSet,
    val: PatchSet | None,
    config: TrainConfig,
    *,
    phases: Sequence[Phase] | None = None,
    keep: Keep | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train a network on loaded patches and return the weights that validation prefers.

    With equal arguments on one processor thread the result is the same to the bit, also when the run was killed at
    any point and started again with the same `keep`.

    Parameters
    ----------
    train, val : PatchSet
        Patches to learn from and to select by; `val` may be None where ``config.select`` is ``last``.
    config : TrainConfig
        All settings.
    phases : sequence of Phase, optional
        The method; None for that of ``config.method``.
    keep : Keep, optional
        Where to write a checkpoint at every evaluation, and to look for one first. None: nothing touches the disk.
    progress : callable, optional
        Called after each step. What it raises stops the run, which can be taken up again.

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
    phases = tuple(phases or method(config.method, c=config.c, beta=config.beta, eta=config.groupdro_eta))
    if len(train) == 0:
        raise InputUnsupportedError(
            f"no labelled training patches in {' or '.join(config.train_splits)}",
            place="groups.parquet",
            remedy="give slides of the training split a tumor_mask in the manifest",
        )
    if config.select != "last":
        check_validation(val, needs_groups=any(needs_groups(phase) for phase in phases))
    ranks = Ranks.current()
    device = ranks.device(config.device)
    dtype = training_dtype(config.precision, device)
    check_channels(config.augmentation, is_rgb=train.is_rgb, channels=train.source.channels if train.source else ())
    events = Events(keep.folder if keep and config.tensorboard and ranks.is_first else None)
    with reproducible(config.threads, device), closing(events):
        mean, std = channel_statistics(train)
        run = _Run(
            config=config,
            train=train,
            val=val if val is not None and len(val) else None,
            device=device,
            standardised=Standardised.of(mean, std, device),
            is_frozen=_is_frozen(config),
            keep=keep,
            progress=progress,
            phases=phases,
            ranks=ranks,
            dtype=dtype,
            events=events,
        )
        state = _trained(run, len(mean))
        network = state.network.cpu().eval().requires_grad_(False)
        threshold = 0.0
        validation: dict[str, Any] = {}
        if run.val is not None:
            margin = _margins(run, network.to(device), np.arange(len(run.val)))
            threshold, validation = decide(margin, run.val, tune_threshold=config.tune_threshold)
    return Fitted(
        network=network.cpu(),
        mean=mean,
        std=std,
        step=state.best["step"],
        history=tuple(state.history),
        decision_threshold=threshold,
        validation=validation,
    )


def needs_groups(phase: Phase) -> bool:
    """Return whether a phase's sampler refuses data in which a group is empty."""
    try:
        phase.sampler([0, 1, 1], [0, 0, 1], batch_per_class=2, steps=1, seed=0)
    except GroupEmptyError:
        return True
    return False


def _trained(run: _Run, channels: int) -> State:
    """Run all phases, from the checkpoint if there is one, and return the final state with the picked weights."""
    config = run.config
    torch.manual_seed(config.seed)
    network = build_network(config.architecture, channels, pretrained=config.pretrained, input_px=config.input_px).to(
        run.device, memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    found = checkpoint.peek(run.keep.folder / CHECKPOINT, fingerprint=run.keep.fingerprint) if run.keep else None
    if not found:
        run.events.clear()
    history: list[dict[str, Any]] = []
    for number, phase in enumerate(run.phases):
        if found and number < found["phase"]:
            continue
        state = _start(run, phase, number, network, history)
        if run.keep and found and number == found["phase"]:
            checkpoint.restore(run.keep.folder / CHECKPOINT, state, found)
            run.ranks.barrier()  # all have read it before the first writes another
        _run_phase(run, phase, state)
        network.load_state_dict(state.best_weights)
        history = state.history
    return state


def _run_phase(run: _Run, phase: Phase, state: State) -> None:
    """Take the steps of a phase that are not done yet: draw, vary, forward, objective, update, average, evaluate."""
    config, data = run.config, _data(run, phase)
    counts = gerne.cell_counts(data.label, data.attribute)
    label = torch.tensor(data.label, device=run.device)
    group = torch.tensor(counts.shape[1] * data.label + data.attribute, device=run.device)
    sampler = in_units(
        phase.sampler(
            data.label,
            data.attribute,
            batch_per_class=config.batch_per_class,
            steps=config.steps,
            seed=config.seed + state.phase,
        ),
        config.cell_unit or run.ranks.world,
    )
    forward = compiled(state.network, run.device) if config.compile else state.network
    evaluated, every = evaluation_steps(config.steps, config.evaluations), config.checkpoint_every or config.steps
    for batch in batches(
        sampler,
        data,
        range(state.step, config.steps),
        group=group.numpy(force=True),
        vary=varied_by(config.augmentation, seed=mixed_seed(config.seed, state.phase), is_rgb=data.is_rgb),
        standardised=run.standardised,
        ranks=run.ranks,
        ahead=config.prefetch,
    ):
        torch.manual_seed(dropout_seed(config.seed, state.phase, batch.step, rank=run.ranks.rank))
        _train_mode(run, phase, state)
        with torch.autocast(run.device.type, run.dtype, enabled=run.dtype != torch.float32):
            logits = forward(batch.x)  # (b, K)
        part = cross_entropy(logits.float(), label[batch.mine], reduction="none")  # (b,)
        loss = run.ranks.whole_batch(part, batch.places)  # (B,)
        total = state.objective(loss, group[batch.indices])
        value = float(total.detach())
        if not math.isfinite(value):
            bad = [batch.indices[place] for place in torch.nonzero(~torch.isfinite(loss)).flatten().tolist()]
            raise _stop(run, data, batch, state, f"the loss is {value}", bad)
        rate = config.learning_rate * phase.lr_scale * rate_factor(batch.step, config)
        take_step(total, state.optimizer, rate=rate, clip_norm=config.clip_norm, scaler=state.scaler, ranks=run.ranks)
        run.ranks.share_statistics(state.network)
        if state.average is not state.network:
            update_average(state.average, state.network, batch.step)
        state.step = batch.step + 1
        state.losses.add(total, state.objective)
        is_evaluated = state.step in evaluated
        if is_evaluated or state.step % every == 0:
            if not _is_finite(state) or (is_evaluated and not _evaluate(run, phase, state)):
                raise _stop(run, data, batch, state, "a weight or a validation logit is not finite")
            _save(run, state)
        fault_point("step")
        if run.progress:
            done = state.phase * config.steps + state.step
            run.progress(done, len(run.phases) * config.steps, {"loss": value, **run.shown})


def _evaluate(run: _Run, phase: Phase, state: State) -> bool:
    """Measure on validation, keep the weights if they are the best so far; False if a logit is not finite."""
    rule = run.config.select if phase.select_by == "wga" else phase.select_by
    row: dict[str, Any] = {"phase": state.phase, "step": state.step, **state.losses.means()}
    measures: dict[str, float] = {}
    if run.val is not None:
        index = some_of_each_group(run.val, seed=run.config.seed)
        margin = _margins(run, state.average, index)
        if not np.isfinite(margin).all():
            return False
        measures = measure(margin, run.val.label[index], run.val.attribute[index])
        run.shown.update({"val_wga": measures["wga"], "val_gba": measures["gba"]})
        if phase.on_validation is not None:
            phase.on_validation(state.objective, measures)
    row |= {"val_wga": measures.get("wga"), "val_gba": measures.get("gba")}
    state.history = [*state.history, row]
    value = [float(state.step)] if rule == "last" else score(measures, rule)
    if is_better(value, state.best.get("score")):
        state.best = {"step": state.step, "score": value}
        state.best_weights = {k: checkpoint.copied(v) for k, v in state.average.state_dict().items()}
    state.losses = Losses()
    run.events.add(row, step=state.phase * run.config.steps + state.step)
    return True


def _margins(run: _Run, network: nn.Module, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what validation patches are judged by, each process doing its share of them."""
    val = run.val
    assert val is not None
    return run.ranks.rows(lambda some: margins(network, val, some, run.standardised), index, chunk=BATCH)


def _is_finite(state: State) -> bool:
    """Return whether the weights are numbers; where they are not, neither is their average from then on."""
    values = state.average.state_dict().values()
    return all(bool(torch.isfinite(value).all()) for value in values if value.is_floating_point())


def _save(run: _Run, state: State) -> None:
    """Write the checkpoint, if this process is the one that writes."""
    if run.keep and run.ranks.is_first:
        checkpoint.save(run.keep.folder / CHECKPOINT, state, fingerprint=run.keep.fingerprint)


def _start(run: _Run, phase: Phase, number: int, network: nn.Module, history: list[dict[str, Any]]) -> State:
    """Return the state before the first step of a phase."""
    config, data = run.config, _data(run, phase)
    network.requires_grad_(phase.trainable == "all")
    classifier_of(network).requires_grad_(True)
    weights = [p for p in network.parameters() if p.requires_grad]
    rate = config.learning_rate * phase.lr_scale
    optimizer = optimizer_of(weights, config, rate=rate)
    average = copy.deepcopy(network).eval().requires_grad_(False) if config.average_weights else network
    objective = phase.objective(gerne.cell_counts(data.label, data.attribute).size).to(run.device)
    scaler = loss_scaler(run.dtype, run.device)
    return State(network, average, optimizer, objective, scaler, phase=number, history=history)


def _data(run: _Run, phase: Phase) -> PatchSet:
    """Return the patches that a phase draws from."""
    found = {"train": run.train, "val": run.val}.get(phase.split)
    if found is None:
        raise InputUnsupportedError(
            f"the method needs patches of split {phase.split!r}", place="method", remedy="add patients to that split"
        )
    return found


def _train_mode(run: _Run, phase: Phase, state: State) -> None:
    """Set dropout and BatchNorm for a step; where only the head learns, statistics stay too."""
    state.network.train()
    state.objective.train()
    if run.is_frozen or phase.trainable == "head":
        freeze_batchnorm(state.network)


def _is_frozen(config: TrainConfig) -> bool:
    """Return whether BatchNorm keeps its statistics: if asked for, else if weights are pretrained."""
    if config.freeze_batchnorm is None:
        return str(config.pretrained) != "none"
    return config.freeze_batchnorm


def _stop(run: _Run, data: PatchSet, batch: Batch, state: State, what: str, bad: Sequence[int] = ()) -> NonFiniteError:
    """Write the batch's patch_ids beside the checkpoint, which stays, and return the error; on all processes alike."""
    found = {"patch_ids": [str(name) for name in data.patch_id[batch.indices]]}
    found["of_nonfinite_loss"] = [str(name) for name in data.patch_id[list(bad)]]  # one of them: look at its pixels
    place = f"step {batch.step + 1}"
    if run.keep:
        path = run.keep.folder / NONFINITE
        if run.ranks.is_first:
            write_json(path, {"phase": state.phase, "step": batch.step + 1, "what": what, **found})
        place += f", batch in {path.name}"
    kept = f"the best checkpoint, of step {state.best['step']}, is kept" if state.best else "no step was good"
    return NonFiniteError(
        f"{what}; {kept}", place=place, remedy="lower learning_rate or beta, or look at the batch's patches"
    )
