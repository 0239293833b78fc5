"""How a network is trained: phases of sampler and objective, run one after another by a loop that knows no method.

One concatenated forward pass a step, whatever streams the batch is made of: with BatchNorm in training mode two passes
would each use statistics that match neither the other's nor the stored ones. BatchNorm is frozen where weights are
pretrained; networks trained from scratch should use GroupNorm, for which one pass and two are the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pathopatch.config import TrainConfig
from pathopatch.debias import gerne
from pathopatch.debias.methods import Phase, steps_in_all
from pathopatch.errors import InputUnsupportedError, NonFiniteError
from pathopatch.files import write_json
from pathopatch.models.forward import pick_device
from pathopatch.models.networks import build_network, classifier_of, freeze_batchnorm
from pathopatch.training import checkpoint
from pathopatch.training.augment import augment, mixed_seed
from pathopatch.training.checkpoint import State
from pathopatch.training.dataset import PatchSet, channel_statistics
from pathopatch.training.fitted import Fitted, Keep
from pathopatch.training.passing import Drawn, Held, drawn, drawn_again, held, needs_groups, phases_of
from pathopatch.training.schedule import evaluation_steps, update_average
from pathopatch.training.selection import (
    Standardised,
    check_validation,
    decide,
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
_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """What stays the same over a run."""

    config: TrainConfig
    train: PatchSet
    val: PatchSet | None  # by which is selected: without what a phase draws from
    held: Held
    device: torch.device
    standardised: Standardised
    is_frozen: bool
    n_classes: int
    keep: Keep | None
    progress: Progress | None
    phases: tuple[Phase, ...]
    steps: int  # that the run is set to take; a phase has its own share of them in `config`
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
    if config.select != "last":
        needs_all = any(needs_groups(phase) for phase in phases)
        needs_attribute = any(phase.needs_val_attribute for phase in phases)
        check_validation(val, needs_groups=needs_all, needs_attribute=needs_attribute, shape=table_shape(train, val))
    validation_halves = held(val, phases, seed=config.seed)
    device = pick_device(config.device)
    with _reproducible(config, device):
        mean, std = channel_statistics(train)
        run = _Run(
            config=config,
            train=train,
            val=validation_halves.select,
            held=validation_halves,
            device=device,
            standardised=Standardised.of(mean, std, device),
            is_frozen=_is_frozen(config),
            n_classes=table_shape(train, val)[0],
            keep=keep,
            progress=progress,
            phases=phases,
            steps=config.steps,
        )
        state = _trained(run, len(mean))
        network = state.network.cpu().eval().requires_grad_(False)
        threshold = 0.0
        validation: dict[str, Any] = {}
        if run.val is not None:
            logits = logits_of(network.to(device), run.val, np.arange(len(run.val)), run.standardised)
            threshold, validation = decide(logits, run.val, tune_threshold=config.tune_threshold)
    return Fitted(
        network=network.cpu(),
        mean=mean,
        std=std,
        step=state.best["step"],
        history=tuple(state.history),
        decision_threshold=threshold,
        validation=validation,
        n_classes=run.n_classes,
    )


def _trained(run: _Run, channels: int) -> State:
    """Run all phases, from the checkpoint if there is one, and return the final state with the picked weights."""
    network = _new_network(run, channels)
    found = checkpoint.peek(run.keep.folder / CHECKPOINT, fingerprint=run.keep.fingerprint) if run.keep else None
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
    sampler = phase.sampler(
        data.label,
        data.attribute,
        batch_per_class=config.batch_per_class,
        steps=config.steps,
        seed=config.seed + state.phase,
    )
    losses = _Losses()
    for step in range(state.step, config.steps):
        indices = sampler.batch(step)
        torch.manual_seed(mixed_seed(config.seed, state.phase, step))  # dropout, so that a resumed run sees the same
        x = _inputs(run, data, indices, state.phase, step)  # (B, C, H, W)
        _train_mode(run, phase, state)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = state.network(x)  # (B, K)
        loss = cross_entropy(logits.float(), label[indices], reduction="none")  # (B,)
        total = state.objective(loss, group[indices])
        value = float(total.detach())
        if not math.isfinite(value):
            raise _non_finite(run, data, indices, state, f"the loss is {value}")
        state.optimizer.zero_grad()
        total.backward()
        state.optimizer.step()
        if state.average is not state.network:
            update_average(state.average, state.network, step)
        state.step = step + 1
        losses.add(total, state.objective)
        if state.step in evaluation_steps(config.steps, config.evaluations):
            if not _evaluate(run, phase, state, losses):
                raise _non_finite(run, data, indices, state, "a weight or a validation logit is not finite")
            losses = _Losses()
        if run.progress:
            done = steps_in_all(run.phases[: state.phase], run.steps) + state.step
            run.progress(done, steps_in_all(run.phases, run.steps), {"loss": value, **run.shown})


def _evaluate(run: _Run, phase: Phase, state: State, losses: _Losses) -> bool:
    """Measure on validation, keep the weights if they are the best so far, write the checkpoint.

    Returns False, and does none of it, if weights or logits are not finite.
    """
    if not all(bool(torch.isfinite(value).all()) for value in state.average.parameters()):
        return False
    rule = run.config.select if phase.select_by == "wga" or run.config.select == "last" else phase.select_by
    row: dict[str, Any] = {"phase": state.phase, "step": state.step, **losses.means()}
    measures: dict[str, float] = {}
    if run.val is not None:
        index = some_of_each_group(run.val, seed=run.config.seed)
        logits = logits_of(state.average, run.val, index, run.standardised)
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
    if run.keep:
        checkpoint.save(run.keep.folder / CHECKPOINT, state, fingerprint=run.keep.fingerprint)
    return True


class _Losses:
    """Means of the losses since the last evaluation; the two parts of an extrapolated one apart."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, total: Tensor, objective: nn.Module) -> None:
        """Count one step."""
        parts = {"loss": total.detach()}
        for name in ("loss_biased", "loss_less_biased"):
            if hasattr(objective, name):
                parts[name] = getattr(objective, name)
        self._sums = {name: self._sums.get(name, 0) + value.double() for name, value in parts.items()}
        self._count += 1

    def means(self) -> dict[str, float | None]:
        """Return the means by name; None for a part that the objective does not have."""
        found = {name: float(value) / self._count for name, value in self._sums.items()}
        return {name: found.get(name) for name in ("loss", "loss_biased", "loss_less_biased")}


def _start(
    run: _Run, phase: Phase, number: int, network: nn.Module, patches: Drawn, history: list[dict[str, Any]]
) -> State:
    """Return the state before the first step of a phase."""
    config, data = run.config, patches.patches
    network.requires_grad_(phase.trainable == "all")
    classifier_of(network).requires_grad_(True)
    weights = [p for p in network.parameters() if p.requires_grad]
    rate = config.learning_rate * phase.lr_scale
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(weights, lr=rate, momentum=_MOMENTUM, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=config.weight_decay)
    average = copy.deepcopy(network).eval().requires_grad_(False) if config.average_weights else network
    objective = phase.objective(gerne.cell_counts(data.label, data.attribute)).to(run.device)
    return State(
        network,
        average,
        optimizer,
        objective,
        attribute=data.attribute,
        report=patches.report,
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
        return softmax(logits_of(network, patches, np.arange(len(patches)), run.standardised))

    return drawn(phase, run.train, run.held, probability=probability)


def _inputs(run: _Run, data: PatchSet, indices: list[int], phase: int, step: int) -> Tensor:
    """Return the patches of a step, varied and standardised, on the device."""
    x = torch.from_numpy(data.read(indices)).to(run.device)
    if run.config.augment:
        is_rgb = data.source is not None and data.source.is_rgb
        x = augment(x, seed=mixed_seed(run.config.seed, phase), step=step, jitter=not is_rgb)
    return run.standardised(x)


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


def _non_finite(run: _Run, data: PatchSet, indices: list[int], state: State, what: str) -> NonFiniteError:
    """Write the batch's patch_ids beside the checkpoint, which stays, and return the error."""
    patch_ids = [str(name) for name in data.patch_id[indices]]
    place = f"step {state.step + 1}"
    if run.keep:
        path = run.keep.folder / NONFINITE
        write_json(path, {"step": state.step + 1, "what": what, "patch_ids": patch_ids})
        place += f", batch in {path.name}"
    kept = f"the best checkpoint, of step {state.best['step']}, is kept" if state.best else "no step was good"
    return NonFiniteError(
        f"{what}; {kept}", place=place, remedy="lower learning_rate or beta, or look at the batch's patches"
    )


@contextmanager
def _reproducible(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Use the configured threads and leave torch's threads and random state as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if config.threads is not None:
                torch.set_num_threads(config.threads)
            yield
        finally:
            torch.set_num_threads(threads)
