"""Record a run while it goes: its whole state in a checkpoint, and its mean losses.

A checkpoint is one file that is replaced in one step: tensors as safetensors, the rest as JSON in the header, so that
the two can never disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pathopatch.core.artefacts import Stamp, read_stamp
from pathopatch.core.files import atomic_path
from pathopatch.models.bundle import write_tensors

CHECKPOINT, NONFINITE = "checkpoint.safetensors", "nonfinite.json"
_HEADER = "pathopatch"
_PLAIN = ("step", "history", "best")  # parts of the state that are JSON
_PARTS = ("loss_biased", "loss_less_biased")  # the two terms of GERNE's extrapolated loss


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a run keeps its checkpoint."""

    folder: Path  # of the run
    stamp: Stamp  # a checkpoint of another one, or by another version, is not restored

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / CHECKPOINT


class LossMeans:
    """Mean losses since the last evaluation; the two terms of an extrapolated loss apart."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # tensors: a float would wait for the GPU at every step
        self._count = 0

    def add(self, total: Tensor, objective: nn.Module) -> None:
        """Count one step."""
        parts = {name: getattr(objective, name) for name in _PARTS if hasattr(objective, name)}
        parts = {"loss": total.detach(), **parts}
        self._sums = {name: self._sums.get(name, 0) + value.double() for name, value in parts.items()}
        self._count += 1

    def means(self) -> dict[str, float | None]:
        """Return the means by name; None for a term that the objective does not have."""
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        return {name: means.get(name) for name in ("loss", *_PARTS)}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain values."""
        return {"count": self._count, "sums": {name: float(value) for name, value in self._sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of a checkpoint."""
        self._count = state["count"]
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["sums"].items()}


@dataclass
class State:
    """The state of a run: what the loop changes."""

    network: nn.Module  # the weights being trained
    average: nn.Module  # their moving average; the same object as `network` where none is kept
    optimizer: torch.optim.Optimizer
    objective: nn.Module
    scaler: torch.amp.GradScaler | None = None  # of the loss, in float16
    losses: LossMeans = field(default_factory=LossMeans)  # since the last evaluation
    step: int = 0  # steps that are done
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per evaluation
    best: dict[str, Any] = field(default_factory=dict)  # `step` and `score` of the best evaluation so far
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # of that evaluation


def save(checkpoints: CheckpointFolder, state: State) -> None:
    """Write a checkpoint; the earlier one stays until the new one is complete."""
    tensors = _prefixed("network", state.network.state_dict())
    if state.average is not state.network:
        tensors |= _prefixed("average", state.average.state_dict())
    tensors |= _prefixed("objective", state.objective.state_dict())
    tensors |= _prefixed("best", state.best_weights)
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= _prefixed(f"optimizer.{index}", {k: v for k, v in values.items() if isinstance(v, Tensor)})
    header = {"stamp": checkpoints.stamp.to_dict(), **{name: getattr(state, name) for name in _PLAIN}}
    header |= {"losses": state.losses.state_dict(), "scaler": state.scaler.state_dict() if state.scaler else {}}
    with atomic_path(checkpoints.path) as temporary:
        write_tensors(temporary, tensors, {_HEADER: json.dumps(header)})


def read_checkpoint_header(checkpoints: CheckpointFolder) -> dict[str, Any] | None:
    """Return step, history and best of a checkpoint; None if none fits or can be read."""
    stored = read_stamp(checkpoints.path)
    if stored is None or stored.to_dict() != checkpoints.stamp.to_dict():
        return None  # a damaged checkpoint only costs time: the run starts again
    with safe_open(checkpoints.path, framework="pt") as stream:
        header: dict[str, Any] = json.loads(stream.metadata()[_HEADER])
    return header


def restore(checkpoints: CheckpointFolder, state: State) -> bool:
    """Fill the state from a checkpoint, bit for bit; False if none fits or can be read."""
    header = read_checkpoint_header(checkpoints)
    if header is None:
        return False
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in load_file(checkpoints.path).items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    state.network.load_state_dict(parts["network"])
    if state.average is not state.network:
        state.average.load_state_dict(parts["average"])
    state.objective.load_state_dict(parts.get("objective", {}))
    state.best_weights = parts.get("best", {})
    _restore_optimizer(state.optimizer, parts.get("optimizer", {}))
    if state.scaler and header["scaler"]:
        state.scaler.load_state_dict(header["scaler"])
    state.losses.load_state_dict(header["losses"])
    for name in _PLAIN:
        setattr(state, name, header[name])
    return True


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Fill an optimiser's state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # In the weight's memory layout: with another one the fused kernel could round otherwise.
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies under longer names, in the layout that safetensors needs."""
    return {f"{prefix}.{name}": copied(value) for name, value in tensors.items()}


def copied(value: Tensor) -> Tensor:
    """Return a copy on the processor, in plain layout, that shares no memory."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
