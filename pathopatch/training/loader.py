"""How batches are ready when the network asks: a thread reads and varies the next ones while it computes.

What a batch holds depends on the seed and the step alone, never on when it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.prefetch import in_advance
from pathopatch.debias.methods import Batches
from pathopatch.training.augment import Vary
from pathopatch.training.dataset import PatchSet
from pathopatch.training.distributed import Ranks, shares
from pathopatch.training.selection import Standardised


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step needs.

    Parameters
    ----------
    step : int
        From 0.
    indices : list of int
        The samples of the whole batch.
    places : ndarray of int64, shape (world, b)
        Positions in the batch that each process holds.
    mine : list of int
        The samples of this process.
    x : Tensor of float32, shape (b, C, H, W)
        The patches of this process, varied and standardised, on the device.
    """

    step: int
    indices: list[int]
    places: NDArray[np.int64]
    mine: list[int]
    x: Tensor


def batches(
    sampler: Batches,
    data: PatchSet,
    steps: Iterable[int],
    *,
    group: NDArray[np.int64],
    vary: Vary | None,
    standardised: Standardised,
    ranks: Ranks,
    ahead: int,
) -> Iterator[Batch]:
    """Yield the batches of some steps in order.

    Parameters
    ----------
    sampler : Batches
        Gives the indices of each step.
    data : PatchSet
        What they are indices of.
    steps : iterable of int
        Which steps.
    group : ndarray of int64, shape (N,)
        Group of each sample; processes share the samples of each group evenly.
    vary : callable or None
        Augmentation.
    standardised : Standardised
        Of the training set; its device is where the batches go.
    ranks : Ranks
        Who holds what.
    ahead : int
        Batches that may be made before they are asked for; 0 makes each when it is asked for, in the calling thread.
    """
    device = standardised.mean.device
    parts = int(getattr(sampler, "parts", 1))

    def make(step: int) -> Batch:
        indices = sampler.batch(step)
        if ranks.world == 1:
            places = np.arange(len(indices), dtype=np.int64)[None]
        else:
            places = shares(group[indices], parts=parts, world=ranks.world)
        mine = [indices[place] for place in places[ranks.rank]]
        x = torch.from_numpy(data.read(mine))
        if vary is not None:
            x = vary(x, places[ranks.rank], len(indices), step)
        x = x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
        return Batch(step, indices, places, mine, standardised.in_place(x))

    return in_advance(make, steps, ahead=ahead)


def in_units(sampler: Batches, unit: int) -> Batches:
    """Return a sampler that draws the samples of a cell in multiples of `unit`.

    Raises
    ------
    InputUnsupportedError
        The sampler cannot, or its batches are no multiple.
    """
    if unit == 1:
        return sampler
    change = getattr(sampler, "in_units", None)
    if change is None:
        raise InputUnsupportedError(
            f"{type(sampler).__name__} does not draw in units of {unit}",
            place="[train] cell_unit",
            remedy="give it a method in_units, or set [train] cell_unit = 1",
        )
    found: Batches = change(unit)
    return found
