"""Slides that change while they are read, each at a moment of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pathopatch.core.task import Outcome
from pathopatch.slides import Slide
from pathopatch.stages.batch.run import attempt


def overwritten(path: Path) -> None:
    """In place, by as many bytes, and with the time of modification set back."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    """By another file of the same content and times."""
    other = path.with_name(f"{path.name}.other")  # two processes change two slides at once
    shutil.copy2(path, other)
    other.replace(path)


def appended(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGES = {"overwritten": overwritten, "replaced": replaced, "appended": appended, "cut": cut}


def attempt_counting(*work: Any, reads: Path, **options: Any) -> Outcome | None:
    """Work on a slide as a batch does; write how often the slide was read."""
    counts: list[int] = []
    with _at_each_read(counts.append):
        outcome = attempt(*work, **options)
    reads.write_text(str(len(counts)))
    return outcome


def attempt_changing(*work: Any, change: str, moments: Mapping[str, tuple[str, int]], **options: Any) -> Outcome | None:
    """Work on a slide as a batch does, changing it at a certain read; in any process of a batch.

    Parameters
    ----------
    change : str
        One of `CHANGES`.
    moments : mapping
        Per slide id the path of its file, and before which of its reads, from 1, it changes.
    """
    path, moment = moments.get(work[-1].slide_id, ("", 0))

    def change_at(read: int) -> None:
        if read == moment:
            CHANGES[change](Path(path))

    with _at_each_read(change_at):
        return attempt(*work, **options)


@contextmanager
def _at_each_read(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` before each read of any slide, with the number of the read, from 1."""
    read, count = Slide._blended, 0

    def counted(slide: Slide, *place: Any, **how: Any) -> Any:
        nonlocal count
        count += 1
        act(count)
        return read(slide, *place, **how)

    Slide._blended = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Slide._blended = read  # type: ignore[method-assign]
