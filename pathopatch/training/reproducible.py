"""Seeds, threads and random state: equal runs give equal bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed_seed(*parts: int) -> int:
    """Return one seed of 63 bits that depends on all parts; neighbouring parts give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def dropout_seed(seed: int, phase: int, step: int, *, rank: int = 0) -> int:
    """Return the seed of the network's own draws in a step: the same after a resume, another in each process."""
    return mixed_seed(seed, phase, step, rank) if rank else mixed_seed(seed, phase, step)


@contextmanager
def reproducible(threads: int | None, device: torch.device) -> Iterator[None]:
    """Set torch's number of threads (None: unchanged), and restore it and the random state at the end."""
    threads_before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if threads is not None:
                # The order in which floats are summed depends on the number of threads.
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(threads_before)
