"""How several processes take one step together, as one process would: who holds which samples, and what they share.

Started by ``torchrun``, each process holds the whole network and a part of every batch. The losses of all parts are
brought together before the objective sees them, so that it is that of the whole batch whatever the method is: group
weights, halves and the logged parts are the same everywhere. Its gradient reaches each process through its own samples
alone, and the parts are summed. What is not the same as in one process: dropout, and BatchNorm in training mode, which
normalises by the samples of its own process.
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
from pathopatch.models.forward import pick_device


@dataclass(frozen=True)
class Ranks:
    """The processes that train together.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    world : int
        How many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return those of the process group that this process has joined; itself alone without one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1))  # on the processor, so that it does the same on every kind of device

    def device(self, name: str) -> torch.device:
        """Return the device of this process; where there are several, each has the CUDA device of its local number.

        Raises
        ------
        InputUnsupportedError
            There is no such device, or one CUDA device is named for several processes.
        """
        if self.world == 1:
            return pick_device(name)
        if name.startswith("cuda:"):
            raise InputUnsupportedError(
                f"{self.world} processes on {name}", place="[train] device", remedy="use 'auto', 'cuda' or 'cpu'"
            )
        device = pick_device(name)
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device.type == "cuda" else device

    def whole_batch(self, loss: Tensor, places: NDArray[np.int64]) -> Tensor:
        """Return the losses of the whole batch in its own order; a gradient flows into those of this process.

        Parameters
        ----------
        loss : Tensor of float, shape (b,)
            Of the samples at ``places[rank]``.
        places : ndarray of int64, shape (world, b)
            Positions in the batch that each process holds; together all of them.

        Returns
        -------
        Tensor of float, shape (world * b,)
        """
        if self.world == 1:
            return loss
        parts = [torch.empty_like(loss) for _ in range(self.world)]
        dist.all_gather(parts, loss.detach().contiguous())
        order = torch.from_numpy(places).to(loss.device)  # (world, b)
        whole = torch.empty(order.numel(), dtype=loss.dtype, device=loss.device)
        whole[order.flatten()] = torch.cat(parts)
        return whole.index_copy(0, order[self.rank], loss)

    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes, in one exchange."""
        if self.world == 1:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))

    def share_statistics(self, network: nn.Module) -> None:
        """Replace what BatchNorm has stored by its mean over all processes, so that all hold one network."""
        if self.world == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.world

    def rows(
        self, compute: Callable[[NDArray[np.int64]], NDArray[Any]], index: NDArray[np.int64], *, chunk: int
    ) -> NDArray[Any]:
        """Return ``compute(index)``, of which each process does some chunks; chunk by chunk the same as in one.

        Parameters
        ----------
        compute : callable
            Indices of shape (n,) to an array of shape (n, ...).
        index : ndarray of int64, shape (n,)
            All that is wanted.
        chunk : int
            Indices that are computed together.
        """
        if self.world == 1:
            return compute(index)
        mine = [compute(index[start : start + chunk]) for start in self._starts(len(index), chunk)]
        shared: list[Any] = [None] * self.world
        dist.all_gather_object(shared, mine)  # small: one number or a few for a patch
        parts = {
            start: part
            for rank in range(self.world)
            for start, part in zip(Ranks(rank, self.world)._starts(len(index), chunk), shared[rank], strict=True)
        }
        return np.concatenate([parts[start] for start in sorted(parts)])

    def _starts(self, length: int, chunk: int) -> range:
        """Return where the chunks of this process begin."""
        return range(self.rank * chunk, length, self.world * chunk)


def shares(group: NDArray[np.int64], *, parts: int, world: int) -> NDArray[np.int64]:
    """Return which positions of a batch each process holds.

    Within each part (the halves of an extrapolated batch) and each group a process takes ``[rank::world]``. Where the
    counts are multiples of `world`, all processes hold as many of each; otherwise they differ by one at most.

    Parameters
    ----------
    group : ndarray of int64, shape (B,)
        Group of each sample, in the order of the batch.
    parts : int
        Equal parts that the batch is made of, one after another.
    world : int
        Number of processes.

    Returns
    -------
    ndarray of int64, shape (world, B / world)
        Positions, ascending in each row.

    Raises
    ------
    InputUnsupportedError
        A part cannot be shared out evenly.
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


def refuse_several(what: str) -> None:
    """Raise where torchrun started several processes for what only one can do.

    Raises
    ------
    InputUnsupportedError
        There are several.
    """
    if dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputUnsupportedError(
            f"{what} under torchrun", place="torchrun", remedy="start it without, or train single runs with torchrun"
        )


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    They exchange tensors by NCCL on CUDA devices and by gloo on processors.

    Parameters
    ----------
    device : str
        As in the configuration.
    """
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield Ranks.current()
        return
    is_cuda = pick_device(device).type == "cuda"
    if is_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
    try:
        yield Ranks.current()
    finally:
        dist.destroy_process_group()
