"""What a stage's work on one slide is called with, and what becomes of the slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Within = Callable[[int, int], None]
"""Called with (grid positions done, all)."""


class Progress(Protocol):
    """Called by a stage after each unit of work; the command line draws bars or writes lines with it."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` units of the task `what` are finished; 0 where the first one takes long."""
        ...


class HasSlideId(Protocol):
    """Something that belongs to one slide, such as a row of the manifest."""

    @property
    def slide_id(self) -> str:
        """The slide's checked id."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one slide: done, done_empty, current, failed or ignored; its counts and warnings, or its error.

    Of a dry run: current, failed, or to do, with what a run would read as its counts.
    """

    slide_id: str
    state: str
    code: str = ""
    message: str = ""
    files: tuple[str, ...] = ()  # of a slide that failed, where they may be named
    counts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def patches(self) -> int:
        """Number of the slide's patches."""
        return int(self.counts.get("patches", 0))
