"""Run one task per slide in worker processes, and log what became of each; a failed slide never stops the others.

A worker that dies takes down its own slide only. That slide is tried again after all others, and recorded as
WORKER_CRASH if it kills its worker once more. The log is ``logs/<stage>-<time>-<process>.jsonl``, one JSON object per
line: what was begun, what became of each slide, how the run ended. A killed run has no last line. Logs may be
deleted any time: what became of a slide stands in its status.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pathopatch.core.config import BatchOptions
from pathopatch.core.errors import (
    DiskFullError,
    DuplicateIdError,
    InternalError,
    OutOfMemoryError,
    PathopatchError,
    SlideTimeoutError,
    StaleArtefactError,
    WorkerCrashError,
    with_code,
)
from pathopatch.core.files import disk_errors, inside
from pathopatch.core.locks import free_lock, slide_lock
from pathopatch.core.status import FINISHED, SlideStatus, is_recorded_done, read_status
from pathopatch.core.task import HasSlideId, Outcome, Progress
from pathopatch.core.text import WITHIN_SLIDE, pluralize
from pathopatch.core.version import __version__
from pathopatch.core.workers import WorkerDied, Workers
from pathopatch.slides.slide_paths import file_of

R = TypeVar("R")
S = TypeVar("S", bound=HasSlideId)

DEFAULT_BATCH = BatchOptions()
GOOD_STATES = (*FINISHED, "current", "ignored")
LOGS = "logs"
KEPT_RUNS = 20
"""Of each stage; the logs of earlier runs go."""
_MOST_COMMAND = 2000  # characters: a status of each failed slide repeats it


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one slide's work has no result.

    `seconds` is None where a worker died before it could say; `trace` says where a fault of this package is.
    """

    error: PathopatchError
    seconds: float | None = None
    trace: str = ""


def workers_for(out: Path, stage: str, rows: Sequence[HasSlideId], batch: BatchOptions) -> Workers:
    """Return processes for slides, at most as many as there are to work on; enter them before they are used.

    With one worker, or a single slide, the work is done in this process, unless it has a limit; see `Workers`.
    """
    count = 0
    if batch.workers > 1 and len(rows) > 1:
        unfinished = sum(batch.force or not _looks_finished(out, stage, row) for row in rows)
        count = min(batch.workers, max(1, unfinished))
    prepare = partial(_prepare, stage, max(1, count)) if rows else None
    return Workers(count, prepare=prepare, limit_s=batch.timeout_s, limit_bytes=batch.limit_bytes)


def chosen(out: Path, stage: str, rows: Sequence[S], batch: BatchOptions) -> list[S]:
    """Return the slides to work on: all, or those that failed before."""
    if not batch.retry_failed:
        return list(rows)
    return [row for row in rows if read_status(out, row.slide_id).get(stage, {}).get("state") == "failed"]


def _looks_finished(out: Path, stage: str, row: HasSlideId) -> bool:
    """Return whether a slide's status says done, to count processes by; only `made` can tell whether it is."""
    try:
        return is_recorded_done(out, row.slide_id, stage)
    except PathopatchError:  # what is wrong with the work folder is said when it is worked in
        return False


def _prepare(stage: str, workers: int) -> None:
    """Load what a stage needs, and leave the other workers their share of the cores."""
    import cv2

    cv2.setNumThreads(max(1, cv2.getNumThreads() // workers))
    if stage == "tile":
        import pathopatch.patches
    else:
        import pathopatch.heatmaps.prediction_files
        import pathopatch.models.bundle  # noqa: F401


def run_slides(
    out: Path,
    stage: str,
    one: Callable[..., Outcome],
    rows: Sequence[S],
    workers: Workers | None = None,
    *,
    about: Callable[[S], Mapping[str, Any]] = lambda _: {},
    failures: Mapping[str, Failure] | None = None,
    what: str = "",
    deidentified: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Do a stage's work on slides, by default in this process, and return the outcomes in the order of the rows.

    The largest files come first, so that the last slide keeps nobody waiting for long. A slide that another process is
    at comes after all others, and is waited for then: so two processes that are given the same slides share them. A
    full disk ends the run: slides that it left undone have no outcome, and the message of the one that found it tells
    their number.

    Parameters
    ----------
    one : callable
        The work on a row (picklable), called with ``progress`` too, see `Within`.
    about : callable, optional
        What the status of a slide that failed keeps of its row.
    failures : mapping, optional
        Of slides that failed before their work, by slide_id.
    what : str
        What the progress bar is called; "": as the stage.
    deidentified : bool
        Whether nothing that is written may name a file.
    """
    workers, failures, what = workers or Workers(0), failures or {}, what or stage
    outcomes: dict[str, Outcome] = {}
    if progress:
        progress(what, 0, len(rows))

    work = partial(attempt, one, out, stage, progress=None if workers.count else progress)
    taken: list[S] = []
    with logged(out, stage, slide_ids=[row.slide_id for row in rows], deidentified=deidentified) as write_line:

        def done(outcome: Outcome) -> None:
            write_line(outcome)
            outcomes[outcome.slide_id] = outcome
            if progress:
                progress(what, len(outcomes), len(rows), f"{outcome.slide_id} {outcome.state}")

        def failed(row: S, failure: Failure) -> Outcome:
            return fail(out, stage, row.slide_id, failure, about=about(row), deidentified=deidentified)

        for row in rows:
            if row.slide_id in failures:
                done(failed(row, failures[row.slide_id]))
        ready = _largest_first([row for row in rows if row.slide_id not in failures])
        for waits, part in ((False, ready), (True, taken)):
            for row, result in each_slide(partial(work, waits=waits), part, workers):
                if result is None:
                    taken.append(row)
                    continue
                outcome = failed(row, result) if isinstance(result, Failure) else result
                if outcome.code != DiskFullError.code:
                    done(outcome)
                    continue
                # Each further slide would find the disk full as well, after its whole work.
                undone = len(rows) - len(outcomes) - 1
                more = f"; {pluralize(undone, 'further slide')} not done" if undone else ""
                done(replace(outcome, message=outcome.message + more))
                return [outcomes[each.slide_id] for each in rows if each.slide_id in outcomes]
    return [outcomes[row.slide_id] for row in rows]


def _largest_first(rows: Sequence[S]) -> list[S]:
    """Return slides by the size of their files; rows without files, and of one size, keep their order."""
    return sorted(rows, key=lambda row: -sum(map(_bytes_at, getattr(row, "sources", ()))))


def _bytes_at(source: str) -> int:
    """Return the size of a file, or of a folder's own files; 0 of what cannot be looked at, which is told later."""
    path = file_of(source)
    try:
        # A MIRAX file is small, and has its pixels in a folder of its name.
        folders = [place for place in {path, path.with_suffix("")} if place.is_dir()]
        files = [path, *(file for place in folders for file in place.iterdir())]
        return sum(file.stat().st_size for file in files if file.is_file())
    except (OSError, ValueError):
        return 0


def each_slide(
    work: Callable[[S], R],
    items: Sequence[S],
    workers: Workers,
    *,
    bar: str = "",
    progress: Progress | None = None,
) -> Iterator[tuple[S, R | Failure]]:
    """Yield what `work` (picklable) returned for each slide, or why it did not, as they come; count them on a `bar`."""
    if progress and items:
        progress(bar, 0, len(items))
    for number, (index, result) in enumerate(workers.run(partial(_result_or_failure, work), items), 1):
        item = items[index]
        if isinstance(result, WorkerDied):
            result = Failure(error=_death(item.slide_id, result))
        yield item, result
        if progress:
            progress(bar, number, len(items), item.slide_id)


@dataclass(frozen=True)
class Call(Generic[R]):
    """Work (picklable) that belongs to no slide; `slide_id` is its place in errors."""

    slide_id: str
    work: Callable[[], R]

    def __call__(self) -> R:
        """Return what the work returns."""
        return self.work()


def _death(place: str, died: WorkerDied) -> PathopatchError:
    """Return the error of a worker process that was ended or died."""
    if died.is_late:
        return SlideTimeoutError(
            "the slide took longer than allowed", place=place, remedy="look at its file, or allow more time"
        )
    if died.is_large:
        return OutOfMemoryError(
            "the slide took more memory than allowed", place=place, remedy="look at its file, or allow more memory"
        )
    return WorkerCrashError("the worker process died", place=place)


def _result_or_failure(work: Callable[[S], R], item: S) -> R | Failure:
    """Return what `work` returns for a slide; whatever goes wrong becomes a failure with its code."""
    started = time.time()
    try:
        return work(item)
    except Exception as fault:  # the worker boundary: one bad slide must not stop the batch
        error = with_code(fault, place=item.slide_id)
        trace = "".join(traceback.format_exception(fault)) if isinstance(error, InternalError) else ""
    return Failure(error=error, seconds=time.time() - started, trace=trace)


def attempt(
    one: Callable[..., Outcome], out: Path, stage: str, row: S, *, waits: bool, progress: Progress | None
) -> Outcome | None:
    """Do the work on a slide; None if another process is at it and this one is not to wait for it.

    The slide's lock is taken here, and kept: of two commands that start at once each takes the slides that are free.
    """

    def within(done: int, total: int) -> None:
        if progress is not None:
            progress(WITHIN_SLIDE, done, total, row.slide_id)

    if waits:
        return one(row, progress=within)
    with free_lock(out, slide_lock(row.slide_id, stage)) as is_mine:
        return one(row, progress=within) if is_mine else None


def fail(
    out: Path, stage: str, slide_id: str, failure: Failure, *, about: Mapping[str, Any], deidentified: bool = False
) -> Outcome:
    """Record a failure in the slide's status and return it; a refusal touched nothing and leaves the status.

    What is there from an earlier run is still of the slide that the status named, and it goes on saying so.
    """
    error = failure.error
    files = tuple(about.get("files", ()))
    outcome = Outcome(slide_id=slide_id, state="failed", code=error.code, message=str(error), files=files)
    if isinstance(error, StaleArtefactError | DuplicateIdError):
        return outcome
    entry: dict[str, Any] = {
        "state": "failed",
        **about,
        "code": error.code,
        "message": f"{error.code}; what was said named files" if deidentified else str(error),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if failure.seconds is not None:
        entry["seconds"] = f"{failure.seconds:.2f}"
    if failure.trace and not deidentified:
        entry["trace"] = failure.trace
    if not deidentified and (command := retry_command(stage)):
        entry["command"] = command
    status = SlideStatus(out=out, slide_id=slide_id, stage=stage)
    try:
        before = status.read()
        # Work that begins replaces "done" by "running": so nothing was begun, and the outputs are as they were.
        if before.get("state") in FINISHED:
            return outcome
        if "source" in before:
            entry["source"] = before["source"]
        status.write(entry)
    except (PathopatchError, OSError) as second:  # the outcome still reaches the caller
        if outcome.code != DiskFullError.code:  # of the same full disk all is said
            return replace(outcome, message=f"{error}; {second}")
    return outcome


def last_events(out: Path, stage: str) -> Iterator[dict[str, Any]]:
    """Yield what the log of a stage's last run has; without lines that were cut, or that another program wrote."""
    for log in sorted((out / LOGS).glob(f"{stage}-*.jsonl"))[-1:]:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and isinstance(event.get("slide_id", ""), str):
                    yield event


def retry_command(stage: str) -> str:
    """Return the shell command that repeats this process' command for slides that failed.

    "" in another program, in a folder that is gone, and for what a terminal must not be given: control characters act
    there even within quotes.
    """
    program, arguments = Path(sys.argv[0]), sys.argv[1:]
    if program.name == "pathopatch":
        start = "pathopatch"
    elif program.parts[-2:] == ("pathopatch", "__main__.py"):
        start = f"{shlex.quote(sys.executable)} -m pathopatch"
    else:
        return ""
    if stage in arguments[:1] and "--retry-failed" not in arguments:
        arguments = [stage, "--retry-failed", *arguments[1:]]
    try:
        command = f"cd {shlex.quote(str(Path.cwd()))} && {start} {shlex.join(arguments)}"
    except OSError:
        return ""
    return command if command.isprintable() and len(command) <= _MOST_COMMAND else ""


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of a batch, see `exit_code_of`."""
    return exit_code_of(sum(outcome.state in GOOD_STATES for outcome in outcomes), len(outcomes))


def exit_code_of(good: int, total: int) -> int:
    """Return 0 when every slide is done, 3 when some failed, 1 when none succeeded."""
    if good == total:
        return 0
    return 3 if good else 1


def states_by_slide(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return one state a slide, the worst that any of several stages, in their order, left it in."""
    worst = ("failed", "ignored", "done_empty", "done", "current")
    states: dict[str, str] = {}
    for outcome in outcomes:
        states[outcome.slide_id] = min(states.get(outcome.slide_id, outcome.state), outcome.state, key=worst.index)
    return states


@contextmanager
def logged(
    out: Path, stage: str, *, slide_ids: Sequence[str], deidentified: bool = False
) -> Iterator[Callable[[Outcome], None]]:
    """Yield what writes the line of a slide.

    A full disk ends no run for its log's sake: lines that cannot be written are lost. With `deidentified`, messages and
    warnings are left out, since they may name files.
    """
    started = time.time()
    stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(started))}{int(started * 1000) % 1000:03d}Z"
    path = inside(out, LOGS, f"{stage}-{stamp}-{os.getpid()}.jsonl")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for log in sorted(path.parent.glob(f"{stage}-*.jsonl"))[: 1 - KEPT_RUNS]:
            with suppress(OSError):  # perhaps another user's
                log.unlink()
    states: Counter[str] = Counter()

    def write(event: str, **fields: object) -> None:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": event,
            **{name: value for name, value in fields.items() if value},
        }
        with suppress(OSError), path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def slide_done(outcome: Outcome) -> None:
        states[outcome.state] += 1
        words = {} if deidentified else {"message": outcome.message, "warnings": list(outcome.warnings)}
        write(
            "slide",
            slide_id=outcome.slide_id,
            state=outcome.state,
            code=outcome.code,
            **words,
            counts=dict(outcome.counts),
        )

    about = {"version": __version__, "host": socket.gethostname(), "pid": os.getpid()}
    write("begin", stage=stage, slides=len(slide_ids), **about, slide_ids=list(slide_ids))
    how = "end"
    try:
        yield slide_done
    except BaseException as error:
        how = f"ended by {type(error).__name__}"
        raise
    finally:
        write(how, seconds=round(time.time() - started, 3), states=dict(states))
