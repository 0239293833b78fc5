"""Share a list of work among processes, and prepare the next items of a sequence in other threads.

A process that dies or hangs costs only the item it works on. Each has a pipe of its own and one item at a time, so the
item of a dead process is known, and nothing that it held stops the others.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import repeat
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

SPAWN = get_context("spawn")
_GRACE_S = 10.0  # for a process without work to end by itself

_MEMORY_POLL_S = 0.5


@dataclass(frozen=True)
class WorkerDied:
    """A piece of work that has no result: its process died at it, or was ended for its time or its memory."""

    is_late: bool = False
    is_large: bool = False


@dataclass
class _Worker:
    """A process, the pipe to it, which piece it is at (None: at none), and when that must be done."""

    process: SpawnProcess
    pipe: Connection
    piece: int | None = None
    due: float = math.inf


@dataclass
class Workers:
    """Processes that live through several lists of work, so that what they import is imported once.

    Parameters
    ----------
    count : int
        Processes; 0: the work is done in this process, or with a limit in one other, which can be ended.
    prepare : callable, optional
        Called once in each process before any work, such as what imports that work needs; picklable.
    limit_s : float, optional
        A process that is longer at one piece, its start included, is ended.
    limit_bytes : float, optional
        A process that holds more resident memory while it is at a piece is ended.
    """

    count: int
    _: KW_ONLY
    prepare: Callable[[], None] | None = None
    limit_s: float | None = None
    limit_bytes: float | None = None
    _workers: list[_Worker] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.limit_s is not None or self.limit_bytes is not None:
            self.count = max(1, self.count)

    def __enter__(self) -> Self:
        for _ in range(self.count):
            self._workers.append(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.pipe.close()  # which ends a process that has no work
            if error is not None or worker.piece is not None:  # the work under way is given up
                worker.process.kill()
        deadline = time.monotonic() + _GRACE_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
        self._workers = []

    def run(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | WorkerDied]]:
        """Yield the index of each item and what `work` returned for it, as they come.

        `work`, its argument and its result are picklable. In another process an exception in it counts as a death.
        Items whose process dies are tried once more, one by one after all others: memory may have been short.
        """
        if not self.count:
            yield from ((index, work(item)) for index, item in enumerate(items))
            return
        again: list[int] = []
        try:
            for index, result in self._share(work, enumerate(items), self.count):
                if isinstance(result, WorkerDied) and not (result.is_late or result.is_large):
                    again.append(index)
                else:
                    yield index, result
            for index in again:
                yield from self._share(work, [(index, items[index])], 1)
        finally:  # where the caller stops early, results under way must not be taken for those of later work
            for worker in [worker for worker in self._workers if worker.piece is not None]:
                self._end(worker, WorkerDied())

    def _share(
        self, work: Callable[[T], R], pieces: Iterable[tuple[int, T]], count: int
    ) -> Iterator[tuple[int, R | WorkerDied]]:
        """Yield results of pieces that at most `count` processes share."""
        waiting = deque(pieces)
        while True:
            busy = [worker for worker in self._workers if worker.piece is not None]
            while waiting and len(busy) < count:
                index, item = waiting.popleft()
                busy.append(self._give(index, (work, item)))
            if not busy:
                return
            first = min(worker.due for worker in busy)
            patience = min(first - time.monotonic(), math.inf if self.limit_bytes is None else _MEMORY_POLL_S)
            wait([worker.pipe for worker in busy], None if patience == math.inf else max(0.0, patience))
            for worker in busy:
                if worker.pipe.poll():
                    yield self._take(worker)
                elif worker.due <= time.monotonic():
                    yield self._end(worker, WorkerDied(is_late=True))
                elif self.limit_bytes is not None and _resident_bytes(worker.process) > self.limit_bytes:
                    yield self._end(worker, WorkerDied(is_large=True))

    def _give(self, index: int, piece: tuple[Any, Any]) -> _Worker:
        """Return the process that is at a piece from now on, a new one if none is free."""
        idle = [worker for worker in self._workers if worker.piece is None]
        if not idle:
            idle = [self._start()]
            self._workers.append(idle[0])
        worker = idle[0]
        worker.piece = index
        worker.due = math.inf if self.limit_s is None else time.monotonic() + self.limit_s
        with suppress(OSError):  # it died meanwhile, which its pipe says when it is read
            worker.pipe.send(piece)
        return worker

    def _take(self, worker: _Worker) -> tuple[int, Any]:
        """Return the index of a process's piece and its result; the process is free then, or gone."""
        try:
            result = worker.pipe.recv()
        except (EOFError, OSError):
            return self._end(worker, WorkerDied())
        assert worker.piece is not None
        index, worker.piece = worker.piece, None
        return index, result

    def _end(self, worker: _Worker, result: WorkerDied) -> tuple[int, WorkerDied]:
        """Remove a process that died or is to die; return the index of its piece and that it is lost."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        assert worker.piece is not None
        return worker.piece, result

    def _start(self) -> _Worker:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_serve, args=(theirs, self.prepare), daemon=True)
        process.start()
        theirs.close()  # the process has the only other end, so that its death closes the pipe
        return _Worker(process, ours)


def _resident_bytes(process: SpawnProcess) -> int:
    """Return how much memory a process holds; 0 of one that is gone."""
    import psutil  # here: it takes a while, and few processes have a limit

    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _serve(pipe: Connection, prepare: Callable[[], None] | None) -> None:
    """Work in a process of its own until the pipe is closed."""
    follow_parent()
    if prepare is not None:
        prepare()
    while True:
        try:
            work, item = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(work(item))


def follow_parent() -> None:
    """Leave Ctrl-C to this process's parent, and end this process when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone, however that went."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
