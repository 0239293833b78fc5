"""The callback by which a stage reports its progress."""

from __future__ import annotations

from typing import Protocol

WITHIN_SLIDE = "patches"
"""The task within one slide, which other tasks count as a whole."""


class Progress(Protocol):
    """Called by a stage after each unit of work; the command line draws bars or writes lines with it."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` units of the task `what` are finished; 0 where the first one takes long."""
        ...
