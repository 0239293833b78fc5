"""The training loop, whatever the method.

Batches are prepared in threads while the network computes. The content of a batch depends on the seed and the step
alone, never on when it was made. A method differs from another in its sampler and its objective alone (see
`pathopatch.debias.methods`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError, NonFiniteError, OutOfMemoryError
from pathopatch.core.files import fault_point, write_json
from pathopatch.core.workers import prefetch_results
from pathopatch.debias import gerne
from pathopatch.debias.methods import Method, takes_area
from pathopatch.debias.samplers import BatchSampler
from pathopatch.models.forward import append_mask
from pathopatch.models.interior import CropChoice
from pathopatch.models.networks import freeze_batchnorm
from pathopatch.models.runtime.torch_runtime import largest_fitting, release
from pathopatch.training import checkpoint
from pathopatch.training.checkpoint import NONFINITE, CheckpointFolder, LossMeans, State
from pathopatch.training.dataset import PatchSet, mixed_seed
from pathopatch.training.distributed import ProcessGroup, shard_indices
from pathopatch.training.intervene import Intervention, intervention_of
from pathopatch.training.optimise import (
    evaluation_steps,
    overflows_always,
    rate_factor,
    take_step,
    update_average,
)
from pathopatch.training.selection import (
    BATCH,
    Standardizer,
    criterion,
    logits_of,
    sample_each_group,
    score,
)

VALIDATION_MEASURES = ("wga", "wga_at_zero", "gba", "equal_area", "nll")
"""What the history says of each validation pass."""
_LOADERS_ON_GPU = 4
_AHEAD = 2  # batches, at least one by each loader
_TRAINING = 0  # what a seed is for is part of it
Augment = Callable[[Tensor, NDArray[np.int64], int, int], Tensor]
"""Patches (n, C, H, W) in [0, 1], their positions in the batch, its size, and the step, to augmented patches."""
StepCallback = Callable[[int, int, dict[str, float]], None]
"""Called after each step with the steps done, their total, and the latest measures."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The patches of a step."""

    step: int  # from 0
    indices: list[int]  # samples of the whole batch
    places: NDArray[np.int64]  # (world, b): positions in the batch that each process holds
    own_indices: list[int]  # samples of this process
    group: NDArray[np.int64]  # (B,): of each sample of the whole batch, as it is after an intervention
    x: Tensor  # float32 (b, C, H, W): those samples, augmented and standardised, on the device; with the mask, C + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The constants of a run: its patches as it takes them, and what was done to them."""

    config: TrainConfig  # with the side of crops, where there are some
    method: Method
    train: PatchSet
    val: PatchSet | None  # selects the checkpoint and the decision threshold
    is_composed: bool  # validation was composed, since it lacks a group
    crops: CropChoice | None
    without_crop: tuple[int, int]  # training patches left out, and validation patches counted as wrong
    answered: NDArray[np.bool_] | None  # which of `val` the network judges at all; None: all
    mean: tuple[float, ...]  # per channel
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype
    standardize: Standardizer
    n_classes: int
    processes: ProcessGroup
    checkpoints: CheckpointFolder | None
    progress: StepCallback | None
    shown: dict[str, float] = field(default_factory=dict)  # latest validation measures, for the progress bar


def train_network(run: Run, state: State) -> None:
    """Take the steps of a run that are not done yet."""
    config, processes, network = run.config, run.processes, state.network
    label = torch.tensor(run.train.label, device=run.device)  # (N,)
    reads_area = takes_area(state.objective.forward)
    evaluated = evaluation_steps(config.steps, config.evaluations)
    own_rank = [] if processes.is_first else [processes.rank]  # each process drops other units
    for batch in _batches_of(run, state.step, reads_area=reads_area):
        # Seeded at every step: a resumed run must drop the same units, and the sequence before it was never drawn.
        step_seed = mixed_seed(config.seed, _TRAINING, batch.step, *own_rank)
        # For a GPU that is not used yet, torch.manual_seed formats a traceback each time.
        (torch.default_generator if run.device.type == "cpu" else torch).manual_seed(step_seed)
        network.train()
        state.objective.train()
        if str(config.pretrained) != "none":
            freeze_batchnorm(network)  # their statistics are of millions of images, ours of batches of a few dozen
        try:
            own_loss, own_logits = _losses(run, network, batch.x, label[batch.own_indices])
            loss = processes.gather(own_loss, batch.places)  # (B,)
            further = _area_terms(run, batch, own_logits, label) if reads_area else {}
            # GERNE's extrapolation, GroupDRO's group weights, ...: this line is all that the loop sees of a method.
            total = state.objective(loss, torch.from_numpy(batch.group).to(run.device), **further)
            total_value = float(total.detach())
            # Checked before the step: the weights must not be touched by a gradient that is not finite.
            if not math.isfinite(total_value):
                bad = [batch.indices[place] for place in torch.nonzero(~torch.isfinite(loss)).flatten().tolist()]
                raise _divergence_error(run, batch, state, f"the loss is {total_value}", bad)
            rate = config.learning_rate * rate_factor(batch.step, config)
            take_step(total, state.optimizer, rate=rate, scaler=state.scaler, processes=processes)
            processes.average_buffers(network)  # before the average copies them
            if state.average is not network:
                update_average(state.average, network, batch.step)
            state.losses.add(total, state.objective)
        except torch.OutOfMemoryError as error:
            release(error)
            raise _memory_error(run, state, batch, label) from error
        state.step = batch.step + 1

        if state.step in evaluated:
            # In this order: a checkpoint never holds weights that are not finite.
            if not _is_finite(state) or not evaluate(run, state):
                raise _divergence_error(run, batch, state, "a weight or a validation logit is not finite")
            if overflows_always(state.scaler):
                raise _divergence_error(run, batch, state, "no gradient is finite in float16")
            if run.checkpoints and processes.is_first:
                checkpoint.save(run.checkpoints, state)
        fault_point("step")
        if run.progress:
            run.progress(state.step, config.steps, {"loss": total_value, **run.shown})


def _batches_of(run: Run, first: int, *, reads_area: bool) -> Iterator[Batch]:
    """Return the batches of a run from a step on; `reads_area`: its objective reads the tissue area of the patches."""
    # albumentations takes a second to import: commands that do not train must not wait for it.
    from pathopatch.training.augment import Augmentation

    config, data, augment = run.config, run.train, None
    if rules := config.augmentation:
        seed = mixed_seed(config.seed, _TRAINING)
        augment = Augmentation(rules, seed=seed, is_rgb=data.is_rgb, has_mask=run.standardize.has_mask)
    sizes = {"batch_per_class": config.batch_per_class, "steps": config.steps, "seed": config.seed}
    sampler = run.method.batches(data.label, data.attribute, data.tissue_fraction, **sizes)
    # Whole multiples of the processes in every cell, so that each process holds the same mixture of groups.
    sampler = sampler.in_units(config.cell_unit or run.processes.world)
    intervention = intervention_of(run.method, data, config)
    if intervention is not None and reads_area:
        raise InputUnsupportedError(
            f"{config.method} penalises the area of patches as they are, and composed ones have another",
            place="[train.composing] share",
            remedy="leave it out",
        )
    return load_batches(
        sampler,
        data,
        range(first, config.steps),  # a resumed run starts at the step of its checkpoint
        n_attributes=gerne.cell_counts(data.label, data.attribute).shape[1],
        intervention=intervention,
        augment=augment,
        standardize=run.standardize,
        processes=run.processes,
        loaders=config.loaders or (_LOADERS_ON_GPU if run.device.type == "cuda" else 1),
    )


def _area_terms(run: Run, batch: Batch, own_logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Return margin, area and label of a batch, each (B,), for an objective that reads the tissue area."""
    fraction = run.train.tissue_fraction[batch.indices]
    if own_logits.shape[1] != 2 or not np.isfinite(fraction).all():
        raise InputUnsupportedError(
            f"{run.config.method} needs two classes and the tissue area of every patch",
            place="[train] method",
            remedy="use resample or gerne",
        )
    margin = run.processes.gather(own_logits[:, 1] - own_logits[:, 0], batch.places)
    return {"margin": margin, "area": torch.from_numpy(fraction).to(run.device), "label": label[batch.indices]}


def _losses(run: Run, network: nn.Module, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss (b,) and the logits (b, K) of each sample."""
    # One pass over the whole batch, whatever streams it is made of. With BatchNorm in training mode two passes
    # would each use statistics that match neither each other's nor the stored ones.
    with torch.autocast(run.device.type, run.dtype, enabled=run.dtype != torch.float32):
        logits = network(x).float()
    # One loss per sample, in float32: the objective weights the samples, not the loss function.
    return cross_entropy(logits, label, reduction="none"), logits


def _memory_error(run: Run, state: State, batch: Batch, label: Tensor) -> OutOfMemoryError:
    """Try smaller batches, and return an error that names the largest one that fits."""
    state.optimizer.zero_grad()
    weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
    own_label = label[batch.own_indices]

    def learn(count: int) -> None:
        # The optimiser's first step allocates up to two numbers for each weight.
        reserved = [] if state.optimizer.state else [torch.empty_like(weight) for weight in weights * 2]
        torch.autograd.backward(_losses(run, state.network, batch.x[:count], own_label[:count])[0].mean())
        state.optimizer.zero_grad()
        del reserved

    fitting = largest_fitting(learn, len(own_label))
    per_class = run.config.batch_per_class * fitting // len(own_label)
    # Halves of a batch and processes share it evenly.
    unit = 2 * (run.config.cell_unit or run.processes.world)
    per_class -= per_class % unit
    return OutOfMemoryError(
        f"a step of {len(batch.indices)} samples does not fit the memory of {run.device}",
        place="[train] batch_per_class",
        remedy=f"use batch_per_class = {per_class}, which fits"
        if per_class
        else "use a smaller network or input_px, precision = 'bfloat16', or device = 'cpu'",
    )


def load_batches(
    sampler: BatchSampler,
    data: PatchSet,
    steps: Iterable[int],
    *,
    n_attributes: int,
    intervention: Intervention | None = None,
    augment: Augment | None,
    standardize: Standardizer,
    processes: ProcessGroup,
    loaders: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of some steps in order; processes share the samples of each group evenly.

    `loaders` threads make them before they are due.
    """
    device = standardize.mean.device
    group = n_attributes * data.label + data.attribute  # (N,)
    drawing = threading.Lock()  # a sampler keeps what it drew last

    def make(step: int) -> Batch:
        with drawing:
            indices = sampler.batch(step)
        if processes.world == 1:
            places = np.arange(len(indices), dtype=np.int64)[None]
        else:
            places = shard_indices(group[indices], parts=sampler.parts, world=processes.world)
        own_indices = [indices[place] for place in places[processes.rank]]
        pixels = torch.from_numpy(data.stored(own_indices)).float().numpy()  # NumPy takes 17 times as long
        groups = group[indices]
        if standardize.has_mask:
            assert data.tissue is not None
            pixels = append_mask(pixels, data.tissue.read(own_indices))
        if intervention is not None:
            drawn = intervention.draw(indices, step)
            intervention.apply(pixels, places[processes.rank], indices, drawn)
            groups = n_attributes * data.label[indices] + intervention.attributes(indices, drawn)
        x = torch.from_numpy(pixels)
        if augment is not None:
            x = augment(x, places[processes.rank], len(indices), step)
        # Pinned memory is copied to the GPU while this thread reads on.
        x = x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
        return Batch(step, indices, places, own_indices, groups, standardize(x))

    return prefetch_results(make, steps, ahead=max(_AHEAD, loaders), threads=loaders)


def evaluate(run: Run, state: State) -> bool:
    """Measure the average on validation and keep it if it is the best so far; False if a logit is not finite."""
    measures: dict[str, float] = {}
    if run.val is not None:
        index = sample_each_group(run.val, seed=run.config.seed)
        logits = compute_logits(run, state.average, run.val, index)
        if not np.isfinite(logits).all():
            return False
        measures = criterion(
            logits,
            run.val.label[index],
            run.val.attribute[index],
            run.val.tissue_fraction[index],
            tune_threshold=run.config.tune_threshold,
            sensitivity=run.config.sensitivity,
            answered=None if run.answered is None else run.answered[index],
        )
        run.shown.update({f"val_{name}": measures[name] for name in ("wga", "wga_at_zero", "gba")})
    row = {"step": state.step, **state.losses.means()} | {
        f"val_{name}": measures.get(name) for name in VALIDATION_MEASURES
    }
    state.history = [*state.history, row]
    rule = run.config.select
    new_score = [float(state.step)] if rule == "last" else score(measures, rule)
    if not state.best or new_score > state.best["score"]:  # of equals the first stays
        state.best = {"step": state.step, "score": new_score}
        state.best_weights = {k: checkpoint.copied(v) for k, v in state.average.state_dict().items()}
    state.losses = LossMeans()
    return True


def compute_logits(run: Run, network: nn.Module, patches: PatchSet, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logits (n, K) of some patches; each process computes its share, and all go on from the same ones."""
    return run.processes.map_chunks(lambda part: logits_of(network, patches, part, run.standardize), index, chunk=BATCH)


def _is_finite(state: State) -> bool:
    """Return whether all weights are finite."""
    # The average tells it for the network too: once a weight is not finite, its average never is again.
    values = state.average.state_dict().values()
    return all(bool(torch.isfinite(value).all()) for value in values if value.is_floating_point())


def _divergence_error(run: Run, batch: Batch, state: State, problem: str, bad: Sequence[int] = ()) -> NonFiniteError:
    """Write the batch's patch_ids beside the checkpoint, which stays, and return the error; alike on all processes."""
    names = run.train.patch_id
    patch_ids = {"patch_ids": names[batch.indices].tolist()}
    patch_ids["of_nonfinite_loss"] = names[list(bad)].tolist()  # their pixels are suspect
    place = f"step {batch.step + 1}"
    if run.checkpoints:
        path = run.checkpoints.folder / NONFINITE
        if run.processes.is_first:
            write_json(path, {"step": batch.step + 1, "what": problem, **patch_ids})
        place += f", batch in {path.name}"
    best = f"the best checkpoint, of step {state.best['step']}, is kept" if state.best else "no step was good"
    return NonFiniteError(
        f"{problem}; {best}",
        place=place,
        remedy="lower [train] learning_rate or [train.gerne] beta, or look at the batch's patches",
    )
