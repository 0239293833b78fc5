"""Run one task per slide in worker processes; a failed slide never stops the others.

A worker that dies takes down its own slide only. That slide is tried again after all others, and recorded as
WORKER_CRASH if it kills its worker once more.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pathopatch.core.errors import (
    DuplicateIdError,
    InternalError,
    OutOfMemoryError,
    PathopatchError,
    SlideTimeoutError,
    StaleArtefactError,
    WorkerCrashError,
)
from pathopatch.core.locks import is_locked, slide_lock
from pathopatch.core.progress import Progress
from pathopatch.core.status import FINISHED, is_recorded_done, read_status, update_status
from pathopatch.core.workers import WorkerDied, Workers
from pathopatch.stages.batch.tasks import HasSlideId, Outcome, SlideTask

R = TypeVar("R")
S = TypeVar("S", bound=HasSlideId)
T = TypeVar("T", bound=SlideTask)

GOOD_STATES = (*FINISHED, "current")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one slide's work has no result.

    Parameters
    ----------
    error : PathopatchError
        What went wrong.
    seconds : float or None
        How long that took; None where a worker did not live to say it.
    trace : str
        Where in this package, if it is a fault of its own.
    """

    error: PathopatchError
    seconds: float | None = None
    trace: str = ""


def workers_for(
    tasks: Sequence[SlideTask], workers: int, *, limit_s: float | None = None, limit_bytes: int | None = None
) -> Workers:
    """Return processes for tasks, no more than there are slides to work on; enter them before they are used.

    Parameters
    ----------
    tasks : sequence of SlideTask
        One per slide.
    workers : int
        Processes at most; with 1, or a single slide, the work is done in this process.
    limit_s : float, optional
        Seconds a slide may take; see `Workers`.
    limit_bytes : int, optional
        Memory that a process may hold; see `Workers`.
    """
    if workers <= 1 or len(tasks) <= 1:
        return Workers(0)
    unfinished = sum(task.force or not _is_finished(task) for task in tasks)
    count = min(workers, max(1, unfinished))
    return Workers(count, prepare=partial(_prepare, tasks[0].stage, count), limit_s=limit_s, limit_bytes=limit_bytes)


def select_tasks(tasks: list[T], *, only_failed: bool) -> list[T]:
    """Return the tasks to run: all, or those whose slides failed before."""
    if not only_failed:
        return tasks
    return [task for task in tasks if read_status(task.out, task.slide_id).get(task.stage, {}).get("state") == "failed"]


def _is_finished(task: SlideTask) -> bool:
    """Return whether a slide's status says done; if its output still holds, only its stage can tell."""
    try:
        return is_recorded_done(task.out, task.slide_id, task.stage)
    except PathopatchError:  # what is wrong with the work folder is said when it is worked in
        return False


def _prepare(stage: str, workers: int) -> None:
    """Load what a stage needs, and leave the other workers their share of the cores."""
    import cv2

    cv2.setNumThreads(max(1, cv2.getNumThreads() // workers))
    if stage == "tile":
        import pathopatch.patches
    else:
        import pathopatch.heatmaps.artefacts
        import pathopatch.models.bundle  # noqa: F401


def run_slides(
    tasks: Sequence[SlideTask],
    *,
    workers: int | Workers = 1,
    on_done: Callable[[Outcome], None] | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Run every task and return the outcomes in the order of the tasks.

    A slide that another process is at comes after all others, and is waited for then: so two processes that are given
    the same slides share them.

    Parameters
    ----------
    tasks : sequence of SlideTask
        One per slide.
    workers : int or Workers
        How many processes at most, see `workers_for`; or such that run already.
    on_done : callable, optional
        Called with each outcome as it comes.
    progress : callable, optional
        Called with how far through its slide a task is, if the work is done in this process.
    """
    if isinstance(workers, int):
        with workers_for(tasks, workers) as processes:
            return run_slides(tasks, workers=processes, on_done=on_done, progress=progress)
    work = partial(attempt, progress=None if workers.count else progress)
    outcomes: dict[str, Outcome] = {}
    taken: list[SlideTask] = []
    for waits, part in ((False, tasks), (True, taken)):
        for task, result in each_slide(partial(work, waits=waits), part, workers):
            if result is None:
                taken.append(task)
                continue
            outcome = fail(task, result) if isinstance(result, Failure) else result
            outcomes[outcome.slide_id] = outcome
            if on_done is not None:
                on_done(outcome)
    return [outcomes[task.slide_id] for task in tasks]


def each_slide(work: Callable[[S], R], items: Sequence[S], workers: Workers) -> Iterator[tuple[S, R | Failure]]:
    """Yield what `work` returned for each slide, or why it did not, as they come.

    Parameters
    ----------
    work : callable
        Picklable.
    items : sequence
        One per slide.
    workers : Workers
        Processes that run.
    """
    for index, result in workers.run(partial(guarded, work), items):
        item = items[index]
        if isinstance(result, WorkerDied):
            yield item, Failure(error=_lost(item.slide_id, result))
        else:
            yield item, result


def _lost(slide_id: str, lost: WorkerDied) -> PathopatchError:
    if lost.is_late:
        return SlideTimeoutError(
            "the slide took longer than allowed", place=slide_id, remedy="look at its file, or allow more time"
        )
    if lost.is_large:
        return OutOfMemoryError(
            "the slide took more memory than allowed", place=slide_id, remedy="look at its file, or allow more memory"
        )
    return WorkerCrashError("the worker process died", place=slide_id)


def guarded(work: Callable[[S], R], item: S) -> R | Failure:
    """Return what `work` returns for a slide; whatever goes wrong becomes a failure with its code."""
    started = time.time()
    trace = ""
    error: PathopatchError
    try:
        return work(item)
    except PathopatchError as known:
        error = known
    except MemoryError as short:
        error = OutOfMemoryError(str(short) or "no memory left", place=item.slide_id)
    except Exception as fault:  # the worker boundary: one bad slide must not stop the batch
        error = InternalError(f"{type(fault).__name__}: {fault}", place=item.slide_id)
        trace = "".join(traceback.format_exception(fault))
    return Failure(error=error, seconds=time.time() - started, trace=trace)


def attempt(task: SlideTask, *, waits: bool, progress: Progress | None) -> Outcome | None:
    """Run a task; None if another process is at its slide and this one is not to wait for it."""
    if not waits and is_locked(task.out, slide_lock(task.slide_id, task.stage)):
        return None
    return task.run(progress)


def fail(task: SlideTask, failure: Failure) -> Outcome:
    """Record a failure in the slide's status and return it; a refusal touched nothing and leaves the status.

    What is there from an earlier run is still of the slide that the status named, and it goes on saying so.
    """
    error = failure.error
    if isinstance(error, StaleArtefactError | DuplicateIdError):
        return Outcome(slide_id=task.slide_id, state="failed", code=error.code, message=str(error))
    entry: dict[str, Any] = {
        "state": "failed",
        **task.about,
        "code": error.code,
        "message": f"{error.code}; what was said named files" if task.deidentified else str(error),
        "host": socket.gethostname(),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if failure.seconds is not None:
        entry["seconds"] = f"{failure.seconds:.2f}"
    if failure.trace and not task.deidentified:
        entry["trace"] = failure.trace
    try:
        before = read_status(task.out, task.slide_id).get(task.stage, {})
        if "source" in before:
            entry["source"] = before["source"]
        update_status(task.out, task.slide_id, task.stage, entry)
    except (PathopatchError, OSError) as second:  # the same full disk: the outcome still reaches the caller
        return Outcome(slide_id=task.slide_id, state="failed", code=error.code, message=f"{error}; {second}")
    return Outcome(slide_id=task.slide_id, state="failed", code=error.code, message=str(error))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 when every slide is done, 3 when some failed, 1 when none succeeded."""
    good = sum(outcome.state in GOOD_STATES for outcome in outcomes)
    if good == len(outcomes):
        return 0
    return 3 if good else 1


def states_by_slide(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return one state a slide, the worst that any of several stages left it in.

    Parameters
    ----------
    outcomes : sequence of Outcome
        In the order of the stages.
    """
    worst = ("failed", "done_empty", "done", "current")
    states: dict[str, str] = {}
    for outcome in outcomes:
        states[outcome.slide_id] = min(states.get(outcome.slide_id, outcome.state), outcome.state, key=worst.index)
    return states
