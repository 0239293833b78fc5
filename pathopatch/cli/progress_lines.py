"""Report progress in lines of text, for logs and pipes, where bars cannot be drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pathopatch.core.progress import WITHIN_SLIDE
from pathopatch.core.text import duration

_SECONDS_BETWEEN = 60.0


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
