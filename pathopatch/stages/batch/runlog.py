"""Log a run: ``logs/<stage>-<time>-<process>.jsonl``, one JSON object per line.

The first line says what was begun, each further one what became of a slide, the last one how the run ended; a run that
was killed has no last line. Statuses are the truth, the log is for looking back: an old one may be deleted any time.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from pathopatch.core.files import disk_errors, inside
from pathopatch.core.progress import Progress
from pathopatch.core.version import __version__

if TYPE_CHECKING:
    from pathopatch.stages.batch.tasks import Outcome

FOLDER = "logs"
KEPT_RUNS = 20
"""Of each stage; the logs of earlier runs go."""
_BYTES, _PARTS = 16 * 2**20, 4  # a log that grows on is continued in a new file, and so many old ones are kept


@contextmanager
def logged(
    out: Path, stage: str, on_done: Callable[[Outcome], None], *, slides: int, deidentified: bool = False
) -> Iterator[Callable[[Outcome], None]]:
    """Yield what is to be called after each slide: it writes a line, and calls `on_done`.

    A full disk ends no run for its log's sake: lines that cannot be written are lost.

    Parameters
    ----------
    out : Path
        Work folder.
    stage : str
        ``tile`` or ``predict``.
    on_done : callable
        Called with each outcome.
    slides : int
        How many there are to do.
    deidentified : bool
        Leave out what may name files: messages and warnings.

    Raises
    ------
    InputUnsupportedError
        The folder cannot be written to, or a symbolic link leads outside.
    """
    started = time.time()
    stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(started))}{int(started * 1000) % 1000:03d}Z"
    path = inside(out, FOLDER, f"{stage}-{stamp}-{os.getpid()}.jsonl")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget(path.parent, stage)
        handler = _Quiet(path, maxBytes=_BYTES, backupCount=_PARTS, encoding="utf-8", delay=True)
    states: Counter[str] = Counter()

    def write(event: str, **fields: object) -> None:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": event,
            **{name: value for name, value in fields.items() if value},
        }
        handler.emit(logging.makeLogRecord({"msg": "%s", "args": (json.dumps(line, ensure_ascii=False),)}))

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
        on_done(outcome)

    write("begin", stage=stage, slides=slides, version=__version__, host=socket.gethostname(), pid=os.getpid())
    how = "end"
    try:
        yield slide_done
    except BaseException as error:
        how = f"ended by {type(error).__name__}"
        raise
    finally:
        write(how, seconds=round(time.time() - started, 3), states=dict(states))
        handler.close()


class _Quiet(RotatingFileHandler):
    """A handler that writes whole lines at once, and says nothing where it cannot."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Do nothing."""


def _forget(folder: Path, stage: str) -> None:
    """Remove the logs of all but the latest runs of a stage, to leave room for one more."""
    runs = sorted({path.name.split(".jsonl")[0] for path in folder.glob(f"{stage}-*.jsonl*")})
    for run in runs[: max(0, len(runs) - KEPT_RUNS + 1)]:
        for path in folder.glob(f"{run}.jsonl*"):
            with suppress(OSError):
                path.unlink()


def progress_counter(what: str, total: int, progress: Progress | None) -> Callable[[Outcome], None]:
    """Return a callback for finished slides that counts them on a progress bar."""
    finished = 0

    def on_done(outcome: Outcome) -> None:
        nonlocal finished
        finished += 1
        if progress:
            progress(what, finished, total, f"{outcome.slide_id} {outcome.state}")

    return on_done
