"""After which steps a run is evaluated, and how its weights are averaged on the way."""

from __future__ import annotations

import torch
from torch import nn


def evaluation_steps(steps: int, evaluations: int) -> frozenset[int]:
    """Return the steps after which to evaluate: evenly spread, the last one among them."""
    count = min(steps, evaluations)
    return frozenset(round(steps * (k + 1) / count) for k in range(count))


def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Move averaged weights towards the network's: w_ema += (1 - d) (w - w_ema), d = min(.99, (t + 1) / (t + 10)).

    Parameters
    ----------
    average, network : nn.Module
        Of one architecture; `average` is changed. Buffers are copied, since they are averages already.
    step : int
        t, from 0.
    """
    decay = min(0.99, (step + 1) / (step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)  # all in one call
        for stored, current in zip(average.buffers(), network.buffers(), strict=True):
            stored.copy_(current)
