"""Threads, precision, learning rate, gradient step, weight average, and when to evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.device import full_float32, is_bfloat16_native
from pathopatch.training.distributed import ProcessGroup

_MOMENTUM = 0.9
# The scale of a float16 loss begins at 2**16 and is halved at each overflow; no finite gradient needs one this low.
_LEAST_SCALE = 2.0**-14


@contextmanager
def reproducible(threads: int | None, device: torch.device) -> Iterator[None]:
    """Set the number of threads (None: unchanged) and full float32; restore both and the random state at the end."""
    threads_before = torch.get_num_threads()
    with full_float32, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if threads is not None:
                # The order in which floats are summed depends on the number of threads.
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(threads_before)


def training_dtype(requested: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the forward pass for [train] precision; weights and losses are always float32."""
    if requested == "auto":
        # float32 on processors: logits of two runs are compared bit for bit there, and small networks gain little.
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if is_bfloat16_native(device) else torch.float16
    if requested == "float16" and device.type != "cuda":
        raise InputUnsupportedError(
            f"no training in float16 on {device.type}",
            place="[train] precision",
            remedy="use 'auto', 'bfloat16' or 'float32'; float16 and its scaled loss are for CUDA devices",
        )
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[requested]


def loss_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler | None:
    """Return the scaler that keeps float16 gradients from vanishing; None for other dtypes."""
    return torch.amp.GradScaler(device.type) if dtype == torch.float16 else None


def overflows_always(scaler: torch.amp.GradScaler | None) -> bool:
    """Return whether so many steps overflowed that no gradient can be finite, although the loss is."""
    return scaler is not None and scaler.get_scale() < _LEAST_SCALE


def build_optimizer(weights: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return the configured optimiser of some weights."""
    rate = config.learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=_MOMENTUM, weight_decay=config.weight_decay)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=config.weight_decay, fused=True)  # one pass, not eight


def rate_factor(step: int, config: TrainConfig) -> float:
    """Return the factor on the learning rate at a step, from 0; it depends on the step alone.

    Over the warm-up the factor rises in equal parts from 1 / warmup_steps to 1. After it ``constant`` stays at 1, and
    ``cosine`` falls along half a cosine towards 0, which it would reach one step after the last.
    """
    # No torch scheduler: its state would have to be stored and restored, and this has none.
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def take_step(
    total: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    rate: float,
    scaler: torch.amp.GradScaler | None,
    processes: ProcessGroup,
) -> None:
    """Take one gradient step of the objective of the whole batch.

    With a `scaler`, a step whose scaled gradient overflows is left out, and the scale is lowered. Each process holds
    the gradient through its own samples.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    optimizer.zero_grad()
    torch.autograd.backward(total if scaler is None else scaler.scale(total))
    processes.sum_gradients(weights)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Move averaged weights towards the network's: w_ema += (1 - d) (w - w_ema), d = min(.99, (t + 1) / (t + 10))."""
    # d rises from 0.1: the random initial weights are forgotten within a few steps. torch's AveragedModel copies the
    # weights at its first step, counts its steps in a buffer, and prefixes all names: more code than these five lines.
    decay = min(0.99, (step + 1) / (step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)  # all in one call
        # BatchNorm's statistics are averages already: a second average would lag behind the weights.
        for stored, current in zip(average.buffers(), network.buffers(), strict=True):
            stored.copy_(current)


def evaluation_steps(steps: int, evaluations: int) -> frozenset[int]:
    """Return the steps after which to evaluate: evenly spread, the last one among them."""
    count = min(steps, evaluations)
    return frozenset(round(steps * (k + 1) / count) for k in range(count))
