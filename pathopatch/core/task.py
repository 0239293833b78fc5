"""One stage's work on one slide: the task that a worker process runs, and the outputs that it makes unless they exist.

Every stage goes the same way: lock the slide, compare stamps, read batches of patches, write under temporary names,
and record the slide's status last.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pathopatch.core import artefacts
from pathopatch.core.artefacts import Stamp, read_stamp
from pathopatch.core.errors import InputCorruptError, PathopatchError
from pathopatch.core.locks import folder_lock, slide_lock
from pathopatch.core.status import update_status
from pathopatch.core.text import WITHIN_SLIDE

S = TypeVar("S")

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
    """What became of one slide: done, done_empty, current, failed or ignored; its counts and warnings, or its error."""

    slide_id: str
    state: str
    code: str = ""
    message: str = ""
    files: tuple[str, ...] = ()  # of a slide that failed, where they may be named
    counts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SlideTask(Generic[S]):
    """One slide's work in one stage; picklable, if its functions are, so that it can go to a worker process."""

    slide_id: str
    stage: str  # the key in the slide's status file
    out: Path  # the work folder
    open: Callable[[], AbstractContextManager[S]]  # the slide, or what there is of it
    write: Callable[[S, Within], Outcome]  # the stage's work: makes the outputs, unless they are current
    plan: Callable[[S], SlidePlan] | None = None  # what a dry run needs in place of `write`
    force: bool = False  # whether stale outputs are redone
    deidentified: bool = False  # whether nothing that is written may name a file
    about: Mapping[str, Any] = field(default_factory=dict)  # recorded in the slide's status, whatever the outcome

    def run(self, progress: Progress | None = None) -> Outcome:
        """Open the slide, do the work on it, and return what became of it."""

        def within(done: int, total: int) -> None:
            if progress is not None:
                progress(WITHIN_SLIDE, done, total, self.slide_id)

        with self.open() as opened:
            return self.write(opened, within)


@dataclass(frozen=True, kw_only=True)
class SlideOutputs:
    """What a stage writes of one slide: its parts, what they are made of, and how to tell whether they are whole.

    Parameters
    ----------
    parts : tuple of Path
        Files or folders with one and the same stamp; the first has it only when all are written.
    make_stamp : callable
        Returns the stamp; called with the slide locked.
    refuse : callable, optional
        Called with the new stamp, the existing one and its place where they differ; may raise, as `is_up_to_date` says.
    is_whole : callable, optional
        Asked where the stamps agree: False makes the outputs anew.
    require_unchanged : callable, optional
        Raises InputChangedError if inputs changed; to be called when all is read, before anything takes its place.
        It is called as well if the work fails, since a change of its inputs may be the reason.
    about : mapping, optional
        Recorded in the slide's status from the beginning.
    """

    out: Path
    slide_id: str
    stage: str
    parts: tuple[Path, ...]
    make_stamp: Callable[[], Stamp]
    force: bool = False
    refuse: Callable[[Stamp, Stamp, Path], bool | None] | None = None
    is_whole: Callable[[], bool] = lambda: True
    require_unchanged: Callable[[], None] = lambda: None
    about: Mapping[str, Any] = field(default_factory=dict)

    def are_current(self) -> bool:
        """Return whether the work would find its own finished outputs and do nothing; nothing is written or locked.

        StaleArtefactError or DuplicateIdError if the work would be refused.
        """
        if read_stamp(self.parts[0]) is None:  # first, since making a stamp reads pixels of the slide
            return False
        return self._match(self.make_stamp())

    def _match(self, stamp: Stamp) -> bool:
        """Return whether whole outputs with this stamp are there."""
        existing, refuse = [read_stamp(path) for path in self.parts], self.refuse
        is_up_to_date = artefacts.is_up_to_date(
            *self.parts,
            stamp=stamp,
            force=self.force,
            existing=existing,
            refuse=None if refuse is None else lambda existing, place: refuse(stamp, existing, place),
        )
        return is_up_to_date and self.is_whole()

    @contextmanager
    def made(self) -> Iterator[SlideArtefact]:
        """Hold the slide's lock and yield the outputs in the making; a second process waits for the first one.

        Errors are those of `is_up_to_date` and `folder_lock`, and InputChangedError.
        """
        lock, waiting_for = slide_lock(self.slide_id, self.stage), f"slide {self.slide_id} ({self.stage})"
        with folder_lock(self.out, lock, waiting_for=waiting_for):
            made = SlideArtefact(outputs=self, stamp=self.make_stamp(), is_current=False)
            try:
                made.is_current = self._match(made.stamp)
            except InputCorruptError:
                made.record_running()  # what is damaged is finished no longer
                raise
            if not made.is_current:
                made.record_running()
            try:
                yield made
            except PathopatchError:
                self.require_unchanged()  # a change of the inputs may be the reason
                raise


@dataclass(kw_only=True)
class SlideArtefact:
    """A slide's outputs in the making. If `is_current`, they are there already, and need not be written."""

    outputs: SlideOutputs
    stamp: Stamp
    is_current: bool
    _began: float = field(default_factory=time.time)

    def record_running(self) -> None:
        """Write that the work on the slide has begun: from now on an earlier "done" is no longer true."""
        self._update({"state": "running", "host": socket.gethostname(), **self.outputs.about})

    def record(self, entry: Mapping[str, Any]) -> None:
        """Write how the work on the slide ended, with times and host, which stand in its status and nowhere else."""
        seconds = {} if self.is_current else {"seconds": f"{time.time() - self._began:.2f}"}
        ended = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._update({**entry, "host": socket.gethostname(), **seconds, "ended": ended})

    def _update(self, entry: Mapping[str, Any]) -> None:
        update_status(self.outputs.out, self.outputs.slide_id, self.outputs.stage, entry)


@dataclass(frozen=True, kw_only=True)
class SlidePlan:
    """What a task would do: its outputs, and the patches that it would read."""

    outputs: SlideOutputs
    source: Any  # a `pathopatch.patches.source.FromSlide`
    keeps_pixels: bool = True
