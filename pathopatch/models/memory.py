"""Find the batch that fits the memory of a device."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable

import torch


def largest_fitting(run: Callable[[int], object], most: int) -> int:
    """Return the largest n below `most` for which ``run(n)`` finds enough memory, by bisection; 0 if none does.

    `run` tries n samples and keeps nothing; `most` samples are known not to fit.
    """
    fitting, too_many = 0, most
    while too_many - fitting > 1:
        count = (fitting + too_many) // 2
        if _fits(run, count):
            fitting = count
        else:
            too_many = count
    return fitting


def _fits(run: Callable[[int], object], count: int) -> bool:
    try:
        run(count)
    except torch.OutOfMemoryError as error:
        release(error)
        return False
    return True


def release(error: torch.OutOfMemoryError) -> None:
    """Free what the calls that ran out of memory still hold."""
    # The frames of a traceback keep their variables: here the activations of the whole batch.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
