"""Prepare batches in a thread while the network computes.

The content of a batch depends on the seed and the step alone, never on when it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.prefetch import prefetch_results
from pathopatch.debias.methods import Batches
from pathopatch.training.dataset import PatchSet
from pathopatch.training.distributed import ProcessGroup, shard_indices
from pathopatch.training.selection import Standardizer

Augment = Callable[[Tensor, NDArray[np.int64], int, int], Tensor]
"""Patches (n, C, H, W) in [0, 1], their positions in the batch, its size, and the step, to augmented patches."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The patches of a step."""

    step: int  # from 0
    indices: list[int]  # samples of the whole batch
    places: NDArray[np.int64]  # (world, b): positions in the batch that each process holds
    own_indices: list[int]  # samples of this process
    x: Tensor  # float32 (b, C, H, W): those samples, augmented and standardised, on the device


def load_batches(
    sampler: Batches,
    data: PatchSet,
    steps: Iterable[int],
    *,
    group: NDArray[np.int64],
    augment: Augment | None,
    standardize: Standardizer,
    processes: ProcessGroup,
    ahead: int,
) -> Iterator[Batch]:
    """Yield the batches of some steps in order.

    Up to `ahead` batches are made by another thread before they are due; 0 makes each when it is due, in this thread.
    Processes share the samples of each `group` (N,) evenly.
    """
    device = standardize.mean.device
    parts = int(getattr(sampler, "parts", 1))

    def make(step: int) -> Batch:
        indices = sampler.batch(step)
        if processes.world == 1:
            places = np.arange(len(indices), dtype=np.int64)[None]
        else:
            places = shard_indices(group[indices], parts=parts, world=processes.world)
        own_indices = [indices[place] for place in places[processes.rank]]
        x = torch.from_numpy(data.read(own_indices))
        if augment is not None:
            x = augment(x, places[processes.rank], len(indices), step)
        # Pinned memory is copied to the GPU while this thread reads on.
        x = x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
        return Batch(step, indices, places, own_indices, standardize.in_place(x))

    return prefetch_results(make, steps, ahead=ahead)


def with_cell_unit(sampler: Batches, unit: int) -> Batches:
    """Return a sampler that draws the samples of a cell in multiples of `unit`."""
    if unit == 1:
        return sampler
    in_units = getattr(sampler, "in_units", None)
    if in_units is None:
        raise InputUnsupportedError(
            f"{type(sampler).__name__} does not draw in units of {unit}",
            place="[train] cell_unit",
            remedy="give it a method in_units, or set [train] cell_unit = 1",
        )
    unit_sampler: Batches = in_units(unit)
    return unit_sampler
