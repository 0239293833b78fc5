"""Many slides on one machine: one slide at a time in each worker process, and what became of every one.

One bad slide never stops the others. A worker that dies takes down its own slide only: that slide is tried again after
all others, and recorded as WORKER_CRASH if it kills its worker once more.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pathopatch.config import PredictConfig, TileConfig
from pathopatch.errors import (
    DuplicateIdError,
    InternalError,
    OutOfMemoryError,
    PathopatchError,
    SlideTimeoutError,
    StaleArtefactError,
    WorkerCrashError,
)
from pathopatch.manifest import SlideRow
from pathopatch.provenance import read_status, update_status
from pathopatch.workers import Lost, Workers

if TYPE_CHECKING:
    from pathopatch.models import Ensemble
    from pathopatch.patches import LabelSource
    from pathopatch.slides import Slide

R = TypeVar("R")

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


class OfSlide(Protocol):
    """Something that belongs to one slide, such as a row of the manifest."""

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        ...


S = TypeVar("S", bound=OfSlide)


class SlideTask(OfSlide, Protocol):
    """One slide's work; picklable, so that it can go to a worker process."""

    @property
    def stage(self) -> str:
        """The stage's name, the key in the slide's status file."""
        ...

    @property
    def out(self) -> Path:
        """The work folder."""
        ...

    @property
    def force(self) -> bool:
        """Whether what was made otherwise is made anew."""
        ...

    @property
    def names_nothing(self) -> bool:
        """Whether nothing that is written may name a file."""
        ...

    @property
    def of_slide(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went."""
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
    from pathopatch.slides import open_slide

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
    names_nothing: bool = False

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.row.slide_id

    @property
    def of_slide(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went: nothing."""
        return {}

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
    models: tuple[Path, ...]
    config: PredictConfig
    out: Path
    force: bool
    slide_mpp: float | None = None
    stage: str = "predict"

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        return self.row.slide_id

    @property
    def names_nothing(self) -> bool:
        """Whether nothing that is written may name a file."""
        return self.config.deidentify

    @property
    def of_slide(self) -> Mapping[str, Any]:
        """What the slide's status says of it however the work went: its patient, for the tables of the cohort."""
        return {} if self.config.deidentify else {"patient_id": self.row.patient_id}

    def run(self) -> Outcome:
        """Predict the slide."""
        from pathopatch.heatmaps import predict_to

        model = _loaded(self.models, self.config.device, self.config.precision, _written(self.models))
        with open_row(self.row, fallback_mpp=self.slide_mpp) as slide:
            result = predict_to(
                slide,
                model,
                self.out,
                slide_id=self.slide_id,
                patient_id=self.row.patient_id,
                tissue_mask=self.row.tissue_mask,
                config=self.config,
                force=self.force,
            )
        return Outcome(slide_id=self.slide_id, state=result.state, counts=result.counts, warnings=result.warnings)


@lru_cache(maxsize=1)
def _loaded(models: tuple[Path, ...], device: str, precision: str, written: tuple[int, ...]) -> Ensemble:
    """Return the models of some bundles, which a process loads once for all its slides, unless they changed."""
    from pathopatch.models import load_ensemble

    return load_ensemble(models, device=device, precision=precision)


def _written(models: tuple[Path, ...]) -> tuple[int, ...]:
    """Return when each file of some bundles was last written, ns; nothing of what is not there."""
    return tuple(file.stat().st_mtime_ns for folder in models for file in sorted(folder.glob("*")))


def workers_for(tasks: Sequence[SlideTask], workers: int, *, limit_s: float | None = None) -> Workers:
    """Return processes for tasks, no more than there are slides to work on; enter them before they are used.

    Parameters
    ----------
    tasks : sequence of SlideTask
        One per slide.
    workers : int
        Processes at most; with 1, or a single slide, the work is done in this process.
    limit_s : float, optional
        See `Workers`.
    """
    if workers <= 1 or len(tasks) <= 1:
        return Workers(0)
    unfinished = sum(task.force or not _is_finished(task) for task in tasks)
    count = min(workers, max(1, unfinished))
    return Workers(count, prepare=partial(_prepare, tasks[0].stage, count), limit_s=limit_s)


def _is_finished(task: SlideTask) -> bool:
    """Return whether a slide's status says done; if its output still holds, only its stage can tell."""
    try:
        return read_status(task.out, task.slide_id).get(task.stage, {}).get("state") in ("done", "done_empty")
    except PathopatchError:  # what is wrong with the work folder is said when it is worked in
        return False


def _prepare(stage: str, workers: int) -> None:
    """Load what a stage needs, and leave the other workers their share of the cores."""
    import cv2

    cv2.setNumThreads(max(1, cv2.getNumThreads() // workers))
    if stage == "tile":
        import pathopatch.patches
    else:
        import pathopatch.heatmaps.predict
        import pathopatch.models  # noqa: F401


def run_slides(
    tasks: Sequence[SlideTask],
    *,
    workers: int | Workers = 1,
    on_done: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Run every task and return the outcomes in the order of the tasks.

    Parameters
    ----------
    tasks : sequence of SlideTask
        One per slide.
    workers : int or Workers
        How many processes at most, see `workers_for`; or such that run already.
    on_done : callable, optional
        Called with each outcome as it comes.
    """
    if isinstance(workers, int):
        with workers_for(tasks, workers) as processes:
            return run_slides(tasks, workers=processes, on_done=on_done)
    outcomes: dict[str, Outcome] = {}
    for task, result in each_slide(attempt, tasks, workers):
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
        if isinstance(result, Lost):
            yield item, Failure(error=_lost(item.slide_id, result))
        else:
            yield item, result


def _lost(slide_id: str, lost: Lost) -> PathopatchError:
    if lost.is_late:
        return SlideTimeoutError(
            "the slide took longer than allowed", place=slide_id, remedy="look at its file, or allow more time"
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


def attempt(task: SlideTask) -> Outcome:
    """Return a task's outcome; whatever goes wrong becomes a failed outcome and a status entry with its code."""
    result = guarded(_run, task)
    return fail(task, result) if isinstance(result, Failure) else result


def _run(task: SlideTask) -> Outcome:
    return task.run()


def fail(task: SlideTask, failure: Failure) -> Outcome:
    """Record a failure in the slide's status and return it; a refusal touched nothing and leaves the status.

    What is there from an earlier run is still of the slide that the status named, and it goes on saying so.
    """
    error = failure.error
    if isinstance(error, StaleArtefactError | DuplicateIdError):
        return Outcome(slide_id=task.slide_id, state="failed", code=error.code, message=str(error))
    entry: dict[str, Any] = {
        "state": "failed",
        **task.of_slide,
        "code": error.code,
        "message": f"{error.code}; what was said named files" if task.names_nothing else str(error),
        "host": socket.gethostname(),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if failure.seconds is not None:
        entry["seconds"] = f"{failure.seconds:.2f}"
    if failure.trace and not task.names_nothing:
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
