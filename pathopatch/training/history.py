"""Report a run while it goes: mean losses between evaluations, and event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import disk_errors, remove

EVENTS = "tensorboard"
_PARTS = ("loss_biased", "loss_less_biased")  # the two terms of GERNE's extrapolated loss


class LossMeans:
    """Mean losses since the last evaluation; the two terms of an extrapolated loss apart."""

    def __init__(self) -> None:
        # Tensors: a float would wait for the GPU at every step.
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, total: Tensor, objective: nn.Module) -> None:
        """Count one step."""
        parts = {"loss": total.detach()} | {
            name: getattr(objective, name) for name in _PARTS if hasattr(objective, name)
        }
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


class EventFiles:
    """Event files in ``tensorboard/`` of a run's folder, one point per evaluation; nothing where `folder` is None.

    Event files hold times, so equal runs do not leave equal ones.

    Raises
    ------
    InputUnsupportedError
        The extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path | None) -> None:
        # Checked now: a run of hours must not fail at its first evaluation.
        if folder is not None and find_spec("tensorboard") is None:
            raise InputUnsupportedError(
                "[train] tensorboard is true, and the package tensorboard is not installed",
                place="[train] tensorboard",
                remedy="pip install tensorboard, or set [train] tensorboard = false: history.csv is written anyway",
            )
        self._folder = folder
        self._writer: Any = None

    def clear(self) -> None:
        """Remove the files of earlier runs."""
        if self._folder is not None:
            remove(self._folder / EVENTS)

    def add(self, row: Mapping[str, Any], *, step: int) -> None:
        """Write the numbers of a row of ``history.csv``; `step` counts over all phases."""
        if self._folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        with disk_errors(self._folder):
            if self._writer is None:
                # A resumed run repeats the evaluations after its checkpoint: their earlier points are purged.
                self._writer = SummaryWriter(str(self._folder / EVENTS), purge_step=step)
            for name, value in row.items():
                if name not in ("phase", "step") and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        """Write what is buffered."""
        if self._writer is not None:
            self._writer.close()
