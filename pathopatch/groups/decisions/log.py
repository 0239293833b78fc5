"""Read the log of decisions ``review.sqlite``, also while a review page is writing to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from pathopatch.core.errors import (
    DiskFullError,
    InputCorruptError,
    InputUnsupportedError,
    SlideTimeoutError,
    StaleArtefactError,
)
from pathopatch.core.files import inside
from pathopatch.groups.decisions.decision import FIELDS, RecordedDecision

LOG_NAME = "review.sqlite"
"""Name of the log in a folder of predictions."""
LOG_VERSION = 1
"""Version of the log's columns, stored as SQLite's user_version."""
LOCK_WAIT_S = 5.0
"""Longest wait for a lock that another process holds."""

_SELECT = f"SELECT {', '.join(FIELDS)} FROM decisions ORDER BY id"
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA)


def read_log(path: Path) -> list[RecordedDecision]:
    """Return all rows of a log ``OUT/review.sqlite`` as written; none if there is no file. The folder may be read-only.

    Raises
    ------
    InputCorruptError
        It is damaged, or no log of decisions.
    InputUnsupportedError
        It may not be read, or is a symbolic link to outside its folder.
    SlideTimeoutError, StaleArtefactError
        Another process kept it locked, or a newer version of this package wrote it.
    """
    if not inside(path.parent, path.name).is_file():
        return []
    with sqlite_errors(path):
        try:
            # Writable, so that SQLite may lock the file and recover the journal of a page that was killed.
            return _rows(path, "mode=rw")
        except sqlite3.OperationalError as error:
            journal = path.with_name(f"{path.name}-wal")
            # Immutable reading ignores the journal: rows in it would be missing.
            if _primary_code(error) not in _UNWRITABLE or (journal.is_file() and journal.stat().st_size):
                raise
            # In a read-only folder no lock file can be made, so no other process writes either.
            return _rows(path, "mode=ro&immutable=1")


def _rows(path: Path, mode: str) -> list[RecordedDecision]:
    address = f"file:{quote(str(path.absolute()))}?{mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=LOCK_WAIT_S)) as connection:
        require_version(connection, path)
        return [decision_of_row(row) for row in connection.execute(_SELECT)]


def decision_of_row(values: tuple[object, ...]) -> RecordedDecision:
    """Return the decision of a row whose values come in the order of `FIELDS`."""
    return RecordedDecision(**dict(zip(FIELDS, values, strict=True)))  # type: ignore[arg-type]  # the class checks them


def require_version(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse an SQLite file that is no log, or a log of a newer version of this package."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > LOG_VERSION:
        raise StaleArtefactError(
            f"decisions of layout {version}, this version reads {LOG_VERSION}",
            place=str(path),
            remedy="use a newer version of pathopatch",
        )
    if version != LOG_VERSION:
        raise InputCorruptError("no decisions of pathopatch", place=str(path), remedy="move this file away")


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's error code without its details; -1 where Python raised it."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else int(code) & 0xFF


def is_lock_error(error: sqlite3.Error) -> bool:
    """Return whether another process holds the lock, so that a second try may succeed."""
    return _primary_code(error) in _BUSY


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors with code, place and remedy: locked, disk full, not writable, damaged."""
    try:
        yield
    except sqlite3.Error as error:
        code = _primary_code(error)
        if code in _BUSY:
            raise SlideTimeoutError(
                "the decisions are locked by another process; nothing was written",
                place=str(path),
                remedy="end the program that holds the file, then try again",
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(
                "no space left; nothing was written", place=str(path), remedy="free space, then try again"
            ) from error
        if code in _UNWRITABLE or code == sqlite3.SQLITE_IOERR:
            raise InputUnsupportedError(
                f"cannot use the decisions: {error}", place=str(path), remedy="use a folder that you may write to"
            ) from error
        if code in _BROKEN or isinstance(error, sqlite3.DatabaseError) and code == sqlite3.SQLITE_ERROR:
            raise InputCorruptError(
                f"not readable decisions: {error}", place=str(path), remedy="move this file away, import an export"
            ) from error
        raise
