"""What does a command show? Words on standard error, progress bars, what became of slides, a plan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathopatch.batch.tasks import Outcome
    from pathopatch.plan import Plan
    from pathopatch.progress import Progress


def say(text: str) -> None:
    """Print a line for a person on standard error, so that results can be piped on."""
    print(text, file=sys.stderr)


_stays = "finished outputs are kept, run the same command again to go on"


def if_ended(text: str) -> None:
    """Set what is said to stay when Ctrl-C or SIGTERM ends this command; else it is what a stage would say."""
    global _stays
    _stays = text


def what_stays() -> str:
    """Return what stays when a signal ends the command."""
    return _stays


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress | None]:
    """Yield a callback that draws one bar per task with rate and times on standard error; None when quiet."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
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


def finish(outcomes: list[Outcome]) -> None:
    """Print what became of the slides and exit with the batch's code."""
    from collections import Counter

    from pathopatch.batch.run import exit_code

    for outcome in outcomes:
        if outcome.state == "failed":
            say(f"failed: {outcome.slide_id}: {outcome.message}")
        elif outcome.state == "done_empty":
            say(f"warning: {outcome.slide_id}: too little tissue found, its outputs are empty (done_empty)")
        for warning in outcome.warnings:
            say(f"warning: {outcome.slide_id}: {warning}")
    states = Counter(outcome.state for outcome in outcomes)
    print("slides: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    if code := exit_code(outcomes):
        raise typer.Exit(code)


def show_plan(plan: Plan, workers: int) -> None:
    """Print a plan and the slides that cannot be worked on, and exit as the stage would."""
    print(plan.text(workers))
    for outcome in plan.failed:
        say(f"failed: {outcome.slide_id}: {outcome.message}")
    if plan.exit_code:
        raise typer.Exit(plan.exit_code)
