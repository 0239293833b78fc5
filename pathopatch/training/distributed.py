"""Train in several processes that take each step together, with the result of one process.

``torchrun`` starts the processes. Each holds the whole network and a part of every batch. The losses of all parts are
gathered before the objective sees them, so the objective is that of the whole batch whatever the method. Each process
computes the gradient through its own samples, and the gradients are summed. Two things differ from one process:
dropout, and BatchNorm in training mode, which normalises by the samples of its own process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.models.device import pick_device


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together: number of this one, from 0, and how many there are."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> ProcessGroup:
        """Return the process group that this process has joined, or this process alone."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1))  # a tensor on the processor works with every backend

    def device(self, name: str) -> torch.device:
        """Return the device of this process: of several, each takes a CUDA device, and they share too few."""
        if self.world == 1:
            return pick_device(name)
        if name.startswith("cuda:"):
            raise InputUnsupportedError(
                f"{self.world} processes on {name}", place="[train] device", remedy="use 'auto', 'cuda' or 'cpu'"
            )
        device = pick_device(name)
        return _own_gpu() if device.type == "cuda" else device

    def gather(self, own: Tensor, places: NDArray[np.int64]) -> Tensor:
        """Return values (B, ...) of the whole batch, in its order; gradients flow only into this process's own.

        `own` (b, ...) belongs to the samples at ``places[rank]``; `places` (world, b) holds every position once.
        """
        if self.world == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(parts, own.detach().contiguous())
        order = torch.from_numpy(places).to(own.device)  # (world, b)
        whole = torch.empty(order.numel(), *own.shape[1:], dtype=own.dtype, device=own.device)
        whole[order.flatten()] = torch.cat(parts)
        # Gathered values carry no gradient: the own ones are put back with theirs.
        return whole.index_copy(0, order[self.rank], own)

    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes."""
        if self.world == 1:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])  # one exchange instead of one per weight
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))

    def average_buffers(self, network: nn.Module) -> None:
        """Replace BatchNorm's stored statistics by their mean over all processes, so that all hold one network."""
        if self.world == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.world

    def map_chunks(
        self, compute: Callable[[NDArray[np.int64]], NDArray[Any]], index: NDArray[np.int64], *, chunk: int
    ) -> NDArray[Any]:
        """Return ``compute(index)``, (n,) to (n, ...), computed in chunks that the processes share out."""
        if self.world == 1:
            return compute(index)
        starts = range(0, len(index), chunk)
        own_parts = [compute(index[start : start + chunk]) for start in starts[self.rank :: self.world]]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, own_parts)  # small: a few numbers per patch
        parts: list[Any] = [None] * len(starts)
        for rank, rank_parts in enumerate(gathered):
            parts[rank :: self.world] = rank_parts
        return np.concatenate(parts)


def shard_indices(group: NDArray[np.int64], *, parts: int, world: int) -> NDArray[np.int64]:
    """Return which positions of a batch each process holds: int64 (world, B / world), ascending in each row.

    Within each of the batch's equal `parts` (halves of an extrapolated batch) and each `group` (B,), a process takes
    ``[rank::world]``: equally many of each where the counts are multiples of `world`, otherwise up to one more or less.
    """
    if len(group) % (parts * world):
        raise InputUnsupportedError(
            f"a batch of {len(group)} in {parts} parts cannot be shared by {world} processes",
            place="[train] batch_per_class",
            remedy=f"make it a multiple of {parts * world}",
        )
    halves = np.arange(len(group), dtype=np.int64).reshape(parts, -1)  # (parts, B / parts)
    by_group = [half[np.argsort(group[half], kind="stable")] for half in halves]
    return np.stack([np.sort(np.concatenate([half[rank::world] for half in by_group])) for rank in range(world)])


def is_first_process() -> bool:
    """Return whether this process is the only one or the first of those that torchrun started."""
    return not dist.is_torchelastic_launched() or os.environ.get("RANK", "0") == "0"


def refuse_torchrun(what: str) -> None:
    """Raise InputUnsupportedError where torchrun started several processes for a task of one process."""
    if dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputUnsupportedError(
            f"{what} under torchrun", place="torchrun", remedy="start it without, or train single runs with torchrun"
        )


def _own_gpu() -> torch.device:
    """Return the CUDA device of this process."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _shares_gpu() -> bool:
    """Return whether there are fewer GPUs than processes on this machine: NCCL wants a GPU for each, gloo does not."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > torch.cuda.device_count()


@contextmanager
def process_group(device: str = "auto") -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, if it did, and leave them at the end."""
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield ProcessGroup.current()
        return
    is_cuda = pick_device(device).type == "cuda"
    if is_cuda:
        torch.cuda.set_device(_own_gpu())
    # gloo also with CUDA: barriers and logits are exchanged on the processor.
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda and not _shares_gpu() else "gloo")
    try:
        yield ProcessGroup.current()
    finally:
        dist.destroy_process_group()
