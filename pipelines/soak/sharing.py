"""Simulate how long processes that share a folder by locks need, in units of one slide of mean size.

``python pipelines/soak/sharing.py`` prints the least possible time for each case beside that in which slides are taken:
by 256 or by `SLOTS` names of locks, in the order of their names or the largest first. Sizes that differ are lognormal.
"""

from __future__ import annotations

import heapq
import zlib

import numpy as np

from pathopatch.core.locks import SLOTS

CASES = ((1_000, 160), (5_000, 400))  # slides, processes
SIGMA = 0.5  # of the logarithm of a slide's time


def main() -> None:
    rng = np.random.default_rng(0)
    for slides, processes in CASES:
        for text, seconds in (("equal", np.ones(slides)), ("unequal", rng.lognormal(0, SIGMA, slides))):
            least = max(seconds.sum() / processes, seconds.max())
            for order in ("by name", "largest first"):
                names = np.arange(slides) if order == "by name" else np.argsort(-seconds, kind="stable")
                taken = [time_of(seconds[names], names, processes, slots) / least for slots in (256, SLOTS)]
                print(f"{slides} {text} slides, {processes} processes, {order}: least {least:.2f}; of it", *taken)


def time_of(seconds: np.ndarray, names: np.ndarray, processes: int, slots: int) -> float:
    """Return when the last slide is done, as `run_slides` takes them: free ones first, then those that were locked."""
    lock = [zlib.crc32(f"slide-{name:05d}".encode()) % slots for name in names.tolist()]
    begun, held_until, last = set[int](), dict[int, float](), 0.0
    waiting = [(process * 1e-6, process) for process in range(processes)]
    # What each process goes through: a place in the list of slides, and the slides that it found locked.
    todo = [iter(range(len(seconds))) for _ in waiting]
    locked: list[list[int]] = [[] for _ in waiting]
    while waiting:
        now, process = heapq.heappop(waiting)
        for slide in todo[process]:
            if held_until.get(lock[slide], 0.0) > now:
                locked[process].append(slide)
            elif slide not in begun:
                begun.add(slide)
                held_until[lock[slide]] = last_of = now + float(seconds[slide])
                last = max(last, last_of)
                heapq.heappush(waiting, (last_of, process))
                break
        else:  # it waits for the first that is locked, and then looks at it
            while locked[process] and locked[process][0] in begun and held_until[lock[locked[process][0]]] <= now:
                locked[process].pop(0)
            if locked[process]:
                slide = locked[process][0]
                if held_until.get(lock[slide], 0.0) > now:
                    heapq.heappush(waiting, (held_until[lock[slide]], process))
                else:
                    locked[process].pop(0)
                    begun.add(slide)
                    held_until[lock[slide]] = end = now + float(seconds[slide])
                    last = max(last, end)
                    heapq.heappush(waiting, (end, process))
    assert len(begun) == len(seconds)
    return last


if __name__ == "__main__":
    main()
