"""Print what a command shows: messages on standard error, progress bars, outcomes of slides, a plan."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pathopatch.core.errors import Remark, merged, shared_text
from pathopatch.core.text import WITHIN_SLIDE, duration

if TYPE_CHECKING:
    from pathopatch.core.config import BatchOptions
    from pathopatch.core.errors import PathopatchError
    from pathopatch.core.input_files import LeftOut
    from pathopatch.core.task import Outcome, Progress
    from pathopatch.stages.dry_run import Plan


_SECONDS_BETWEEN = 60.0  # of lines of progress, where no bars can be drawn


def say(text: str) -> None:
    """Print a line for a person on standard error, so that results can be piped on."""
    print(text, file=sys.stderr)


_stays = "finished outputs are kept, run the same command again to go on"


def set_interrupt_note(text: str) -> None:
    """Set what is said to stay when Ctrl-C or SIGTERM ends this command; else it is what a stage would say."""
    global _stays
    _stays = text


def interrupt_note() -> str:
    """Return what stays when a signal ends the command."""
    return _stays


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress | None]:
    """Yield a callback that draws a bar per task on standard error, or writes lines there; None when quiet.

    Print results after the block: while bars are drawn, rich sends what is printed to standard error.
    """
    if quiet:
        yield None
        return
    from rich.console import Console

    console = Console(stderr=True)
    # FORCE_COLOR makes a pipe a terminal to rich, and bars would fill a log.
    if not (sys.stderr.isatty() and console.is_interactive):
        yield ProgressLines(say)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("elapsed"),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def advance(what: str, done: int, total: int, note: str = "") -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, note=note, rate="")
        task = bars.tasks[bars.task_ids.index(tasks[what])]
        if done < task.completed:  # of the next slide
            bars.reset(tasks[what])
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        bars.update(tasks[what], completed=done, total=total, note=note, rate=rate)

    with bars:
        yield advance


def finish(
    outcomes: Sequence[Outcome],
    batch: BatchOptions | None = None,
    *,
    untrained: Mapping[str, PathopatchError] | None = None,
) -> None:
    """Print what became of the slides, and of runs that were not trained, and exit with the batch's code."""
    from collections import Counter

    from pathopatch.stages.batch.run import exit_code, states_by_slide

    if batch is not None and batch.retry_failed and not outcomes:
        say("no slide failed before: there is nothing to retry")
    say_failures(outcomes)
    warnings = [(outcome.slide_id, warning) for outcome in outcomes for warning in outcome.warnings]
    empty = "too little tissue found, its outputs are empty (done_empty)"
    say_warnings([(outcome.slide_id, empty) for outcome in outcomes if outcome.state == "done_empty"] + warnings)
    refused = [_remark("not trained: ", run, str(error), names_file=True) for run, error in (untrained or {}).items()]
    for line in merged(refused, "run"):
        say(line)
    states = Counter(states_by_slide(outcomes).values())
    if states:  # a study of features has no slides
        print("slides: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    if code := exit_code(outcomes) or (3 if untrained else 0):
        raise typer.Exit(code)


def say_warnings(warnings: Iterable[tuple[str, str]]) -> None:
    """Print warnings of slides, given by slide_id; one that many slides share once."""
    for line in merged([_remark("warning: ", slide_id, warning) for slide_id, warning in warnings], "slide"):
        say(line)


def say_left_out(left_out: Iterable[LeftOut], root: Path | None = None) -> None:
    """Print files that are no slides to work on, with the reasons; one that many files share once."""
    remarks = []
    for item in left_out:
        name = str(item.path.relative_to(root) if root and item.path.is_relative_to(root) else item.path)
        shared = shared_text(item.reason, item.path.name, item.path.stem)
        remarks.append(Remark(name, f"left out: {name}: {item.reason}", f"left out: {shared}", names_file=True))
    for line in merged(remarks, "file"):
        say(line)


def say_failures(outcomes: Iterable[Outcome]) -> None:
    """Print why slides failed; a reason that many of them share once."""
    failed = [(outcome.slide_id, outcome.message) for outcome in outcomes if outcome.state == "failed"]
    for line in merged([_remark("failed: ", *reason, names_file=True) for reason in failed], "slide"):
        say(line)


def _remark(kind: str, place: str, message: str, *, names_file: bool = False) -> Remark:
    """Return a line about a slide or a run; slides share an error without their own files, and a warning as it is."""
    return Remark(place, f"{kind}{place}: {message}", kind + shared_text(message, place), names_file)


def show_plan(plan: Plan, workers: int) -> None:
    """Print a plan and the slides that cannot be worked on, and exit as the stage would."""
    print(plan.text(workers))
    say_failures(plan.failed)
    if plan.exit_code:
        raise typer.Exit(plan.exit_code)


@dataclass(kw_only=True)
class _Stage:
    """The stage that runs now, and how far it is."""

    name: str
    total: int
    began: float  # s of the clock
    first: int  # units that were done when it began
    done: int
    spoke: float  # s of the clock, at the latest line


class ProgressLines:
    """Write a line at the start and the end of each stage, and at most one a minute between; a `Progress`.

    Parameters
    ----------
    write : callable
        Takes each line.
    clock : callable, optional
        Seconds of a clock that never goes back.
    """

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._stage: _Stage | None = None

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` units of the stage `what` are finished."""
        now, stage = self._clock(), self._stage
        if what == WITHIN_SLIDE and stage is not None:
            # Cohorts have thousands of slides: what is within one has no lines of its own.
            self._write_now_and_then(stage, now, f"{note}: {done:,} of {total:,} {what}")
            return
        if stage is None or what != stage.name or done < stage.done:
            if total < 1:
                return
            stage = self._begin(what, done, total, now)
        stage.done, stage.total = done, total
        if done >= total:
            self._write(f"{what}: finished, {done:,} of {total:,} in {duration(now - stage.began)}")
            self._stage = None
            return
        self._write_now_and_then(stage, now, note)

    def _begin(self, what: str, done: int, total: int, now: float) -> _Stage:
        earlier = self._stage
        if earlier is not None:  # such as a training that stopped early
            self._write(f"{earlier.name}: ended at {earlier.done:,} of {earlier.total:,}")
        if done < total:
            self._write(f"{what}: started, {done:,} of {total:,}")
        self._stage = _Stage(name=what, total=total, began=now, first=done, done=done, spoke=now)
        return self._stage

    def _write_now_and_then(self, stage: _Stage, now: float, note: str) -> None:
        if now - stage.spoke < _SECONDS_BETWEEN:
            return
        stage.spoke = now
        parts = [f"{stage.name}: {stage.done:,} of {stage.total:,} after {duration(now - stage.began)}"]
        if units := stage.done - stage.first:
            rate = units / (now - stage.began)
            parts.append(f"{rate:.1f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute")
            parts.append(f"about {duration((stage.total - stage.done) / rate)} left")
        self._write(", ".join([*parts, note] if note else parts))
