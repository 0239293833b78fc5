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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError
from pathopatch.core.faultpoints import fault_point
from pathopatch.core.files import write_json
from pathopatch.debias import gerne
from pathopatch.debias.methods import Phase, steps_in_all
from pathopatch.models.networks import build_network, classifier_of, freeze_batchnorm
from pathopatch.training import checkpoint
from pathopatch.training.augment import check_channels, mixed_seed, varied_by
from pathopatch.training.checkpoint import State
from pathopatch.training.checkpoint_folder import Fitted, Keep
from pathopatch.training.dataset import PatchSet, channel_statistics
from pathopatch.training.decision_threshold import Decision, decide
from pathopatch.training.distributed import Ranks
from pathopatch.training.history import Events, Losses
from pathopatch.training.loader import Batch, batches, in_units
from pathopatch.training.optimise import (
    compiled,
    loss_scaler,
    optimizer_of,
    overflows_always,
    rate_factor,
    take_step,
    training_dtype,
)
from pathopatch.training.phase_data import (
    Drawn,
    Held,
    batches_of,
    check_ahead,
    drawn,
    drawn_again,
    held,
    needs_groups,
    phases_of,
)
from pathopatch.training.reproducible import dropout_seed, reproducible
from pathopatch.training.schedule import evaluation_steps, update_average
from pathopatch.training.selection import (
    BATCH,
    Standardised,
    check_validation,
    is_better,
    logits_of,
    measure,
    score,
    softmax,
    some_of_each_group,
    table_shape,
)

__all__ = ["CHECKPOINT", "NONFINITE", "Fitted", "Keep", "Progress", "fit_arrays", "needs_groups"]

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with the steps done, their total, and the latest measures."""

CHECKPOINT, NONFINITE = "checkpoint.safetensors", "nonfinite.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """What stays the same over a run."""

    config: TrainConfig
    train: PatchSet
    val: PatchSet | None  # by which is selected: without what a phase learns from
    held: Held
    device: torch.device
    standardised: Standardised
    is_frozen: bool
    n_classes: int
    keep: Keep | None
    progress: Progress | None
    phases: tuple[Phase, ...]
    steps: int  # that the run is set to take; a phase has its own share of them in `config`
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
    phases = tuple(phases or phases_of(config))
    if len(train) == 0:
        raise InputUnsupportedError(
            f"no labelled training patches in {' or '.join(config.train_splits)}",
            place="groups.parquet",
            remedy="give slides of the training split a tumor_mask in the manifest",
        )
    validation_halves = held(val, phases, seed=config.seed)
    n_classes, n_attributes = table_shape(train, val)
    if config.select != "last":
        needs_all = any(needs_groups(phase) for phase in phases)
        needs_attribute = any(phase.needs_val_attribute for phase in phases)
        shape = (n_classes, n_attributes if config.select_at is None else table_shape(val)[1])  # there: another one
        check_validation(validation_halves.select, needs_groups=needs_all, needs_attribute=needs_attribute, shape=shape)
    check_ahead(phases, train, validation_halves, config, n_classes=n_classes)
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
            val=None if "val" in config.train_splits else validation_halves.select,
            held=validation_halves,
            device=device,
            standardised=Standardised.of(mean, std, device),
            is_frozen=_is_frozen(config),
            n_classes=n_classes,
            keep=keep,
            progress=progress,
            phases=phases,
            steps=config.steps,
            ranks=ranks,
            dtype=dtype,
            events=events,
        )
        state = _trained(run, len(mean))
        network = state.network.cpu().eval().requires_grad_(False)
        decision = Decision()
        if run.val is not None:
            decision = decide(
                _logits(run, network.to(device), run.val, np.arange(len(run.val))),
                run.val,
                tune_threshold=config.tune_threshold,
                sensitivity=config.sensitivity,
            )
    return Fitted(
        network=network.cpu(),
        mean=mean,
        std=std,
        step=state.best["step"],
        history=tuple(state.history),
        decision_threshold=decision.threshold,
        decision_chosen_for=decision.chosen_for,
        temperature=decision.temperature,
        validation=decision.validation,
        n_classes=n_classes,
        learnt_from_val=tuple(str(name) for name in validation_halves.out.patch_id) if validation_halves.out else (),
    )


def _trained(run: _Run, channels: int) -> State:
    """Run all phases, from the checkpoint if there is one, and return the final state with the picked weights."""
    network = _new_network(run, channels)
    found = checkpoint.peek(run.keep.folder / CHECKPOINT, fingerprint=run.keep.fingerprint) if run.keep else None
    if not found:
        run.events.clear()
    history: list[dict[str, Any]] = []
    for number, phase in enumerate(run.phases):
        if found and number < found["phase"]:
            continue
        is_resumed = bool(found and number == found["phase"])
        patches = _drawn(run, phase, network, is_resumed=is_resumed)
        if phase.starts_anew and number > 0:
            network = _new_network(run, channels)
        settings = {
            "steps": phase.steps(run.config.steps),
            "weight_decay": run.config.weight_decay * phase.weight_decay_scale,
        }
        of_phase = replace(run, config=run.config.model_copy(update=settings))
        state = _start(of_phase, phase, number, network, patches, history)
        if run.keep and found and is_resumed:
            checkpoint.restore(run.keep.folder / CHECKPOINT, state, found)
            run.ranks.barrier()  # all have read it before the first writes another
        _run_phase(of_phase, phase, state, patches.patches)
        network.load_state_dict(state.best_weights)
        history = state.history
    return state


def _run_phase(run: _Run, phase: Phase, state: State, data: PatchSet) -> None:
    """Take the steps of a phase that are not done yet: draw, vary, forward, objective, update, average, evaluate."""
    config = run.config
    counts = gerne.cell_counts(data.label, data.attribute)  # (K, A)
    label = torch.tensor(data.label, device=run.device)
    group = torch.tensor(counts.shape[1] * data.label + data.attribute, device=run.device)
    sampler = in_units(
        batches_of(phase, data, config, steps=config.steps, seed=config.seed + state.phase),
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
            if overflows_always(state.scaler):
                raise _stop(run, data, batch, state, "no gradient is finite in float16")
            _save(run, state)
        fault_point("step")
        if run.progress:
            done = steps_in_all(run.phases[: state.phase], run.steps) + state.step
            run.progress(done, steps_in_all(run.phases, run.steps), {"loss": value, **run.shown})


def _evaluate(run: _Run, phase: Phase, state: State) -> bool:
    """Measure on validation, keep the weights if they are the best so far; False if a logit is not finite."""
    rule = run.config.select if phase.select_by == "wga" or run.config.select == "last" else phase.select_by
    row: dict[str, Any] = {"phase": state.phase, "step": state.step, **state.losses.means()}
    measures: dict[str, float] = {}
    if run.val is not None:
        index = some_of_each_group(run.val, seed=run.config.seed)
        logits = _logits(run, state.average, run.val, index)
        if not np.isfinite(logits).all():
            return False
        measures = measure(logits, run.val.label[index], run.val.attribute[index])
        run.shown.update({"val_wga": measures["wga"], "val_gba": measures["gba"]})
        if phase.on_validation is not None:
            phase.on_validation(state.objective, measures)
    row |= {"val_wga": measures.get("wga"), "val_gba": measures.get("gba")} | state.report
    state.history = [*state.history, row]
    value = [float(state.step)] if rule == "last" else score(measures, rule)
    if is_better(value, state.best.get("score")):
        state.best = {"step": state.step, "score": value}
        state.best_weights = {k: checkpoint.copied(v) for k, v in state.average.state_dict().items()}
    state.losses = Losses()
    run.events.add(row, step=steps_in_all(run.phases[: state.phase], run.steps) + state.step)
    return True


def _logits(run: _Run, network: nn.Module, patches: PatchSet, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logits of some patches, each process doing its share: all go on from the same numbers."""
    return run.ranks.rows(lambda some: logits_of(network, patches, some, run.standardised), index, chunk=BATCH)


def _is_finite(state: State) -> bool:
    """Return whether the weights are numbers; where they are not, neither is their average from then on."""
    values = state.average.state_dict().values()
    return all(bool(torch.isfinite(value).all()) for value in values if value.is_floating_point())


def _save(run: _Run, state: State) -> None:
    """Write the checkpoint, if this process is the one that writes."""
    if run.keep and run.ranks.is_first:
        checkpoint.save(run.keep.folder / CHECKPOINT, state, fingerprint=run.keep.fingerprint)


def _start(
    run: _Run, phase: Phase, number: int, network: nn.Module, patches: Drawn, history: list[dict[str, Any]]
) -> State:
    """Return the state before the first step of a phase."""
    config, data = run.config, patches.patches
    network.requires_grad_(phase.trainable == "all")
    classifier_of(network).requires_grad_(True)
    weights = [p for p in network.parameters() if p.requires_grad]
    rate = config.learning_rate * phase.lr_scale
    optimizer = optimizer_of(weights, config, rate=rate)
    average = copy.deepcopy(network).eval().requires_grad_(False) if config.average_weights else network
    objective = phase.objective(gerne.cell_counts(data.label, data.attribute)).to(run.device)
    return State(
        network,
        average,
        optimizer,
        objective,
        attribute=data.attribute,
        report=patches.report,
        scaler=loss_scaler(run.dtype, run.device),
        phase=number,
        history=history,
    )


def _new_network(run: _Run, channels: int) -> nn.Module:
    """Return the network that the run starts from."""
    torch.manual_seed(run.config.seed)
    network = build_network(
        run.config.architecture,
        channels,
        pretrained=run.config.pretrained,
        n_classes=run.n_classes,
        input_px=run.config.input_px,
    )
    return network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _drawn(run: _Run, phase: Phase, network: nn.Module, *, is_resumed: bool) -> Drawn:
    """Return what a phase draws from, by what the network so far says of it or as the checkpoint has it."""
    if run.keep and is_resumed:
        attribute = checkpoint.drawn_attribute(run.keep.folder / CHECKPOINT)
        return Drawn(drawn_again(phase, run.train, run.held, attribute))

    def probability(patches: PatchSet) -> NDArray[np.float64]:
        return softmax(_logits(run, network, patches, np.arange(len(patches))))

    return drawn(phase, run.train, run.held, probability=probability)


def _train_mode(run: _Run, phase: Phase, state: State) -> None:
    """Set dropout and BatchNorm for a step; where only the last layer learns, all is as in prediction."""
    state.network.train(phase.trainable == "all")
    state.objective.train()
    if run.is_frozen:
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
        f"{what}; {kept}",
        place=place,
        remedy="lower [train] learning_rate or [train] beta, or look at the batch's patches",
    )
