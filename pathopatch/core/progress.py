"""How does a stage say how far it is? By calling what the command line, or a test, gives it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a stage calls to say how far it is."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` units of the task `what` are finished."""
        ...
