"""How one step changes the weights: in which precision, at which rate, and with what bound on the gradient."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from shutil import which

import torch
from torch import Tensor, nn

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.forward import is_bfloat16_native
from pathopatch.training.distributed import Ranks

_MOMENTUM = 0.9
_LEAST_SCALE = (
    2.0**-14
)  # of a loss: it begins at 2**16, is halved at each overflow, and no finite gradient needs so low


def training_dtype(requested: str, device: torch.device) -> torch.dtype:
    """Return the type in which the forward pass multiplies; weights and losses are float32 whatever it is.

    ``auto`` is bfloat16 on a CUDA device that multiplies it natively, float16 on an older one, and float32 elsewhere:
    on a processor the logits of two runs are compared bit for bit, and small networks gain little.

    Parameters
    ----------
    requested : str
        ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    device : torch.device
        Where the network is trained.

    Raises
    ------
    InputUnsupportedError
        float16 on another device than CUDA.
    """
    if requested == "auto":
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
    """Return what scales the loss so that float16 gradients do not vanish; None for the other types."""
    return torch.amp.GradScaler(device.type) if dtype == torch.float16 else None


def overflows_always(scaler: torch.amp.GradScaler | None) -> bool:
    """Return whether every step was left out for so long that no gradient can be a number, while the loss is one."""
    return scaler is not None and scaler.get_scale() < _LEAST_SCALE


def compiled(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a network's forward pass, compiled at its first call; weights and their names stay the network's own.

    Raises
    ------
    InputUnsupportedError
        The device is a processor, and there is no C++ compiler.
    """
    if device.type == "cpu" and not any(which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name):
        raise InputUnsupportedError(
            "no C++ compiler to compile the network with",
            place="[train] compile",
            remedy="install g++, or set [train] compile = false",
        )
    forward: Callable[[Tensor], Tensor] = torch.compile(network)
    return forward


def optimizer_of(weights: Sequence[nn.Parameter], config: TrainConfig, *, rate: float) -> torch.optim.Optimizer:
    """Return what moves some weights, at first by `rate`."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=_MOMENTUM, weight_decay=config.weight_decay)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=config.weight_decay, fused=True)  # one pass, not eight


def rate_factor(step: int, config: TrainConfig) -> float:
    """Return the factor on the learning rate of a step, a pure function of it.

    Over the warm-up the factor rises in equal parts from 1 / warmup_steps to 1. After it ``constant`` stays at 1, and
    ``cosine`` falls along half a cosine towards 0, which it would reach one step after the last.

    Parameters
    ----------
    step : int
        Of the phase, from 0.
    config : TrainConfig
        Names steps, schedule and warm-up.
    """
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
    clip_norm: float | None,
    scaler: torch.amp.GradScaler | None,
    ranks: Ranks,
) -> None:
    """Follow the gradient of the objective by one step.

    Parameters
    ----------
    total : Tensor, shape ()
        The objective of the whole batch.
    optimizer : torch.optim.Optimizer
        Its weights and state are changed.
    rate : float
        Learning rate of this step.
    clip_norm : float or None
        Largest norm of the gradient over all weights together; a longer one is shortened to it.
    scaler : GradScaler or None
        For float16: a step whose scaled gradient overflows is left out, and the scale is lowered.
    ranks : Ranks
        Each holds the part of the gradient that flows through its own samples; the parts are summed.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    optimizer.zero_grad()
    torch.autograd.backward(total if scaler is None else scaler.scale(total))
    ranks.sum_gradients(weights)
    if clip_norm is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(weights, clip_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
