"""What makes a run repeatable to the bit: its threads and random state, which are given back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pathopatch.training.augment import mixed_seed


def dropout_seed(seed: int, phase: int, step: int, *, rank: int = 0) -> int:
    """Return the seed of what a network draws in a step: a resumed run draws the same, each process its own."""
    return mixed_seed(seed, phase, step, rank) if rank else mixed_seed(seed, phase, step)


@contextmanager
def reproducible(threads: int | None, device: torch.device) -> Iterator[None]:
    """Use so many threads, and leave torch's threads and random state as they were.

    Parameters
    ----------
    threads : int or None
        None: as many as there were.
    device : torch.device
        Whose random state is given back, besides the processor's.
    """
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(before)
