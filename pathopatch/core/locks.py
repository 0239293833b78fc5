"""Which process is at a slide? One at a time in each stage; whoever comes second waits.

A claim is the operating system's lock on a file in ``status/``, which a killed process does not keep. The file goes
with the claim; one that a killed process left is nobody's and is taken by the next. Claims are taken and given back
inside the folder's gate, a lock that is held no longer than that: so nobody ever waits for a file that is gone.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from pathopatch.core.errors import PathopatchError
from pathopatch.core.files import disk_errors, inside

GATE = ".lock"
_END = ".lock"
_EVERYONE = 0o666  # whoever may write in the folder may take what another one left there
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # said by some network drives
_GATE_S, _CLAIM_S = 0.005, 0.2  # between two looks
_log = logging.getLogger(__name__)


@contextmanager
def claimed(out: Path, name: str, *, words: str = "") -> Iterator[None]:
    """Wait until no other process, or thread, has a claim of this name on a work folder, and keep them waiting.

    Parameters
    ----------
    out : Path
        Work folder.
    name : str
        Of the claim; see `of_slide`.
    words : str
        What is claimed, for the line that says that another process has it; without it the wait is silent.

    Raises
    ------
    InputUnsupportedError
        The folder cannot be written to, or a symbolic link leads outside.
    DiskFullError
        No space was left.
    """
    path = inside(out, "status", name + _END)
    held = _taken(out, path)
    if held is None and words:
        _log.warning("another process is at %s: waiting until it ends", words)
    while held is None:
        time.sleep(_CLAIM_S)
        held = _taken(out, path)
    try:
        yield
    finally:
        with held, suppress(OSError, PathopatchError), gate(out):  # what went wrong before is what must be heard
            path.unlink(missing_ok=True)


def is_claimed(out: Path, name: str) -> bool:
    """Return whether another process, or thread, has a claim on a work folder."""
    path = inside(out, "status", name + _END)
    if not path.exists():
        return False
    with gate(out):
        held = _lock(path, is_patient=False)
        if held is None:
            return True
        with held:
            path.unlink(missing_ok=True)
    return False


def of_slide(slide_id: str, stage: str) -> str:
    """Return the name of the claim on a slide's outputs of one stage."""
    return f"{slide_id}.{stage}"


@contextmanager
def gate(out: Path) -> Iterator[None]:
    """Keep all other processes from what takes a moment in a work folder; not to be entered twice by one."""
    path = inside(out, "status", GATE)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _lock(path, is_patient=True)
    assert held is not None
    with held:
        yield


def _taken(out: Path, path: Path) -> ExitStack | None:
    with gate(out), disk_errors(path):
        return _lock(path, is_patient=False)


def _lock(path: Path, *, is_patient: bool) -> ExitStack | None:
    """Return what gives a lock back; None if another one has it. Where there are no locks, everyone has all."""
    lock, held = FileLock(path, mode=_EVERYONE, fallback_to_soft=False), ExitStack()
    try:
        lock.acquire(blocking=is_patient, poll_interval=_GATE_S)
    except Timeout:
        return None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _WITHOUT_LOCKS:
            raise
        _say_no_locks(path.parent)
    else:
        held.callback(lock.release)
    return held


@lru_cache(maxsize=16)
def _say_no_locks(folder: Path) -> None:
    _log.warning("%s lies on a drive without locks: run one process at a time on this work folder", folder)
