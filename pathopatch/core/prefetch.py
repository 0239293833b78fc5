"""Prepare the next items of a sequence in another thread while the current one is used, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetch_items(parts: Iterator[T], *, ahead: int) -> Generator[T]:
    """Yield the items of an iterator, which one other thread takes from it up to `ahead` items before they are due.

    What the iterator raises is raised where its item was due. A caller that stops earlier waits for the item in work.
    """
    end = object()
    with closing(prefetch_results(lambda _: next(parts, end), repeat(None), ahead=ahead)) as items:
        for item in items:
            if item is end:
                return
            yield item  # type: ignore[misc]


def prefetch_results(make: Callable[[S], T], steps: Iterable[S], *, ahead: int, threads: int = 1) -> Generator[T]:
    """Yield ``make(step)`` for each step in order, made by other threads up to `ahead` steps before it is due.

    What `make` raises is raised where its result was due. A caller that stops earlier waits for those in work.
    """
    if ahead == 0:
        yield from map(make, steps)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        try:
            for step in steps:
                waiting.append(pool.submit(make, step))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
