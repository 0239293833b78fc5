"""Locks on work folders: one process at a time, and the others wait.

A lock is the operating system's, on a file in ``status/locks/``; a killed process does not keep it. The files are empty
and permanent. A file that is never deleted cannot be deleted under a waiting process, so taking a lock needs no second
lock. Slides share `SLOTS` names by a hash of their id: two slides of one name wait for each other and lose only time.
"""

from __future__ import annotations

import errno
import logging
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from pathopatch.core.errors import InputUnsupportedError, PathopatchError, SlideTimeoutError
from pathopatch.core.files import disk_errors, inside

FOLDER = ("status", "locks")
SLOTS = 65536  # with 256, 400 workers took 23 rounds for 5,000 equal slides in place of 13
STATUS = "status"
"""Lock on the status files of a work folder, held only while one is written."""
REVIEW = "review"
"""Lock on the log of decisions, held only while one is written."""
_ALL_USERS = 0o666  # another user who may write in the folder may also take its locks
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # raised on some network drives
_SHORT_POLL_S, _LONG_POLL_S = 0.005, 0.2
_log = logging.getLogger(__name__)
_held = threading.local()  # locks of slides that this thread took: what makes the outputs may ask for them again


def slide_lock(slide_id: str, stage: str) -> str:
    """Return the name of the lock on a slide's outputs of one stage."""
    return f"{stage}-{zlib.crc32(slide_id.encode()) % SLOTS:04x}"


@contextmanager
def folder_lock(out: Path, name: str, *, waiting_for: str = "", limit_s: float | None = None) -> Iterator[None]:
    """Hold a lock of a work folder; wait while another process, or thread, holds it.

    A thread that has it by `free_lock` goes on. Else it is not to be entered twice by one.

    `name` is `STATUS`, `REVIEW`, or what `slide_lock` returns. With `waiting_for`, what is locked, a warning tells of
    the wait. `limit_s` is the longest wait, s.

    Raises
    ------
    SlideTimeoutError
        Another kept it for longer than `limit_s`.
    InputUnsupportedError
        The folder cannot be written to, or a symbolic link leads outside.
    DiskFullError
        No space was left.
    """
    if (out.absolute(), name) in getattr(_held, "locks", ()):
        yield
        return
    release = _acquire(out, name)
    if release is None:
        if waiting_for:
            _log.warning("another process is at %s: waiting until it ends", waiting_for)
        poll_s = _SHORT_POLL_S if name in (STATUS, REVIEW) else _LONG_POLL_S
        release = _acquire(out, name, poll_s=poll_s, limit_s=limit_s)
    if release is None:
        raise SlideTimeoutError(
            f"another process is still at it after {limit_s:g} s",
            place=str(out),
            remedy="end the program that holds the lock, then try again",
        )
    try:
        yield
    finally:
        release()


@contextmanager
def free_lock(out: Path, name: str) -> Iterator[bool]:
    """Hold a lock of a work folder if no other has it; yield whether it is held. Errors are those of `folder_lock`."""
    if (release := _acquire(out, name)) is None:
        yield False
        return
    own = {(out.absolute(), name)}
    _held.locks = getattr(_held, "locks", set()) | own
    try:
        yield True
    finally:
        _held.locks -= own
        release()


@contextmanager
def sole_command(out: Path) -> Iterator[None]:
    """On a drive without locks, be the only command that works on a folder; elsewhere do nothing.

    Raises
    ------
    InputUnsupportedError
        Another is at work, or was killed on another machine.
    """
    release: Callable[[], None] | None = None
    only: AbstractContextManager[object] = nullcontext()
    with suppress(PathopatchError):  # what else is wrong with the folder is said of each slide
        release = _acquire(out, STATUS)
    if release is _no_lock:
        mark = inside(out, *FOLDER, "command")  # one process can make it; if that is dead on this machine, another
        try:
            with disk_errors(mark):
                only = SoftFileLock(mark).acquire(blocking=False)
        except Timeout as error:
            raise InputUnsupportedError(
                "another command works here, on a drive without locks",
                place=str(out),
                remedy=f"let it end, or if it was killed remove {mark}; several need a folder on a drive with locks",
            ) from error
    elif release is not None:
        release()
    with only:
        yield


def is_locked(out: Path, name: str) -> bool:
    """Return whether another process, or thread, holds a lock of a work folder."""
    if not inside(out, *FOLDER, f"{name}.lock").exists():
        return False
    release = _acquire(out, name)
    if release is None:
        return True
    release()
    return False


def _acquire(
    out: Path, name: str, *, poll_s: float | None = None, limit_s: float | None = None
) -> Callable[[], None] | None:
    """Acquire a lock and return what releases it; None if another holds it for `limit_s`, or now without `poll_s`."""
    path = inside(out, *FOLDER, f"{name}.lock")
    lock = FileLock(path, mode=_ALL_USERS, fallback_to_soft=False)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(limit_s, blocking=poll_s is not None, poll_interval=poll_s or _SHORT_POLL_S)
        except Timeout:
            return None
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            if name == REVIEW:  # made anew by each decision: of two at a time one would be lost
                raise InputUnsupportedError(
                    "a drive without locks cannot keep decisions", place=str(out), remedy="copy the folder to another"
                ) from error
            _warn_no_locks(path.parent)
            return _no_lock
    return lock.release


def _no_lock() -> None:
    """Release nothing: what `_acquire` returns on a drive without locks."""


@lru_cache(maxsize=16)
def _warn_no_locks(folder: Path) -> None:
    _log.warning("%s lies on a drive without locks: run one command at a time on this work folder", folder)
