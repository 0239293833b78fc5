"""Many slides on one machine: one slide at a time in each worker process, and what became of every one.

One bad slide never stops the others. A worker that dies takes down its own slide only: the slides that were under way
are tried again one by one, and the one that kills its worker once more is recorded as WORKER_CRASH.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from pathopatch.config import PredictConfig, TileConfig
from pathopatch.errors import InternalError, OutOfMemoryError, PathopatchError, StaleArtefactError, WorkerCrashError
from pathopatch.manifest import SlideRow
from pathopatch.provenance import update_status
from pathopatch.slides import Slide, open_slide

if TYPE_CHECKING:
    from pathopatch.patches import LabelSource

GOOD_STATES = ("done", "done_empty", "current")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one slide: a state (done, done_empty, current, failed), its counts and warnings, or its error."""

    slide_id: str
    state: str
    code: str = ""
    message: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class SlideTask(Protocol):
    """One slide's work; picklable, so that it can go to a worker process."""

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        ...

    @property
    def stage(self) -> str:
        """The stage's name, the key in the slide's status file."""
        ...

    @property
    def out(self) -> Path:
        """The work folder."""
        ...

    def run(self) -> Outcome:
        """Do the work and return what became of the slide."""
        ...


def open_row(row: SlideRow, *, fallback_mpp: float | None = None) -> Slide:
    """Return the slide of a manifest row; the caller closes it.

    Parameters
    ----------
    row : SlideRow
        What the manifest says.
    fallback_mpp : float, optional
        The slide's um per px where neither its file nor the manifest states one.
    """
    slide = open_slide(row.source, mpp=row.mpp, channels=row.channels, background=row.background)
    if slide.has_mpp or fallback_mpp is None:
        return slide
    slide.close()
    return open_slide(row.source, mpp=fallback_mpp, channels=row.channels, background=row.background)


def label_source(row: SlideRow) -> LabelSource:
    """Return where a manifest row's labels come from."""
    from pathopatch.patches import LabelSource

    return LabelSource(
        tumor_mask=row.tumor_mask,
        whole_slide_non_tumor=row.whole_slide_non_tumor,
        labelled_mask=row.labelled_mask,
        annotations=row.annotations,
    )


@dataclass(frozen=True)
class TileTask:
    """One slide to tile."""

    row: SlideRow
    config: TileConfig
    out: Path
    force: bool
    stage: str = "tile"

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.row.slide_id

    def run(self) -> Outcome:
        """Tile the slide."""
        from pathopatch.patches import tile_slide

        with open_row(self.row) as slide:
            result = tile_slide(
                slide,
                self.config,
                self.out,
                slide_id=self.row.slide_id,
                patient_id=self.row.patient_id,
                labels=label_source(self.row),
                tissue_mask=self.row.tissue_mask,
                force=self.force,
            )
        counts = {"patches": result.patches}
        return Outcome(slide_id=self.slide_id, state=result.state, counts=counts, warnings=result.warnings)


@dataclass(frozen=True)
class PredictTask:
    """One slide to predict."""

    row: SlideRow
    model: Path
    config: PredictConfig
    out: Path
    force: bool
    slide_mpp: float | None = None
    stage: str = "predict"

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.row.slide_id

    def run(self) -> Outcome:
        """Predict the slide."""
        from pathopatch.heatmaps import predict_to
        from pathopatch.models import load_model

        model = load_model(self.model, device=self.config.device, precision=self.config.precision)
        with open_row(self.row, fallback_mpp=self.slide_mpp) as slide:
            result = predict_to(
                slide,
                model,
                self.out,
                slide_id=self.slide_id,
                tissue_mask=self.row.tissue_mask,
                config=self.config,
                force=self.force,
            )
        return Outcome(slide_id=self.slide_id, state=result.state, counts=result.counts, warnings=result.warnings)


def run_slides(
    tasks: Sequence[SlideTask], *, workers: int = 1, on_done: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Run every task and return the outcomes in the order of the tasks.

    Parameters
    ----------
    tasks : sequence of SlideTask
        One per slide.
    workers : int
        Processes; 1 works in this process.
    on_done : callable, optional
        Called with each outcome as it comes.
    """
    outcomes: dict[str, Outcome] = {}

    def keep(outcome: Outcome) -> None:
        outcomes[outcome.slide_id] = outcome
        if on_done is not None:
            on_done(outcome)

    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            keep(attempt(task))
    else:
        suspects = _run_pool(tasks, workers, keep)
        for task in suspects:
            for again in _run_pool([task], 1, keep):
                keep(_failed(again, WorkerCrashError("the worker process died", place=again.slide_id)))
    return [outcomes[task.slide_id] for task in tasks]


def _run_pool(tasks: Sequence[SlideTask], workers: int, keep: Callable[[Outcome], None]) -> list[SlideTask]:
    """Run tasks in spawned processes; return those that a dying worker left without an outcome."""
    lost: list[SlideTask] = []
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        futures: dict[Future[Outcome], SlideTask] = {pool.submit(attempt, task): task for task in tasks}
        for future in as_completed(futures):
            try:
                keep(future.result())
            except BrokenProcessPool:
                lost.append(futures[future])
    except BaseException:  # interrupted or terminated: the slides under way are given up, the rest is not begun
        pids = list(pool._processes)
        pool.shutdown(wait=False, cancel_futures=True)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    pool.shutdown()
    return lost


def _end_with_parent() -> None:
    """Make this worker end when its parent is gone, however that went, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def attempt(task: SlideTask) -> Outcome:
    """Return a task's outcome; whatever goes wrong becomes a failed outcome and a status entry with its code."""
    started = time.time()
    try:
        outcome = task.run()
    except PathopatchError as error:
        return _failed(task, error, started)
    except MemoryError as error:
        return _failed(task, OutOfMemoryError(str(error) or "no memory left", place=task.slide_id), started)
    except Exception as error:  # the worker boundary: one bad slide must not stop the batch
        trace = "".join(traceback.format_exception(error))
        return _failed(task, InternalError(f"{type(error).__name__}: {error}", place=task.slide_id), started, trace)
    return outcome


def _failed(task: SlideTask, error: PathopatchError, started: float | None = None, trace: str = "") -> Outcome:
    """Record a failure in the slide's status and return it; a refusal touched nothing and leaves the status."""
    if isinstance(error, StaleArtefactError):
        return Outcome(slide_id=task.slide_id, state="failed", code=error.code, message=str(error))
    entry = {
        "state": "failed",
        "code": error.code,
        "message": str(error),
        "host": socket.gethostname(),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if started is not None:
        entry["seconds"] = f"{time.time() - started:.2f}"
    if trace:
        entry["trace"] = trace
    try:
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
