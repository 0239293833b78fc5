"""Read the log of decisions ``review.sqlite``, also while a review page is writing to it.

Each decision replaces the file by a longer one, so that whoever copies this one file has every decision in it. A file
that is open never changes: reading takes no lock.
"""

from __future__ import annotations

import os
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

LATE_COLUMNS = {
    name: f"ALTER TABLE decisions ADD COLUMN {name} TEXT NOT NULL DEFAULT ''"
    for name in ("sorted_as", "region", "settles")
}
"""Columns that the earliest logs lack, and what adds them."""
_SETTINGS = (
    """CREATE TABLE IF NOT EXISTS settings (id INTEGER PRIMARY KEY AUTOINCREMENT, made TEXT NOT NULL,
        reviewer TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL) STRICT""",
    *(
        f"""CREATE TRIGGER IF NOT EXISTS settings_{name} BEFORE {event} ON settings
        BEGIN SELECT RAISE(ABORT, 'settings are only appended'); END"""
        for name, event in (("stay", "UPDATE"), ("are_kept", "DELETE"))
    ),
)
"""Table of the folder's settings, that the earliest logs lack: the latest row of a name counts."""
ALL_ROWS = f"SELECT {', '.join(FIELDS)} FROM decisions ORDER BY id"

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA)
_JOURNALS = ("-journal", "-wal")
_JOURNAL_MODE = slice(18, 20)  # bytes of SQLite's header that say how it is written
_ROLLBACK = b"\1\1"


def read_log(path: Path) -> list[RecordedDecision]:
    """Return all rows of a log ``OUT/review.sqlite`` as written; none if there is no file. The folder may be read-only.

    Raises
    ------
    InputCorruptError
        It is damaged, or no log of decisions.
    InputUnsupportedError
        It may not be read, or is a symbolic link to outside its folder.
    SlideTimeoutError, StaleArtefactError
        Another program kept it locked, or a newer version of this package wrote it.
    """
    if not inside(path.parent, path.name).is_file():
        return []
    with sqlite_errors(path), closing(load_log(path)) as log:
        return [decision_of_row(row) for row in log.execute(ALL_ROWS)]


def load_log(path: Path, *, busy_s: float = LOCK_WAIT_S) -> sqlite3.Connection:
    """Return the log that a file holds now, as a database in memory. `busy_s`: longest wait for other programs, s."""
    if not path.is_file():  # a pipe would wait for whoever writes into it
        raise InputUnsupportedError("no file of decisions", place=str(path), remedy="move away what is there")
    # Only a program that writes in place leaves a journal; SQLite must put its pages in order.
    journals = [path.with_name(path.name + ending) for ending in _JOURNALS]
    if any(journal.is_file() and journal.stat().st_size for journal in journals):
        with closing(open_in_place(path, busy_s)) as connection:
            return log_in_memory(connection.serialize(), path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputUnsupportedError(
            f"cannot use the decisions: {error.strerror}", place=str(path), remedy="use a file that you may read"
        ) from error
    return log_in_memory(content, path)


def open_in_place(path: Path, busy_s: float) -> sqlite3.Connection:
    """Return a connection to the file itself, with what another program's journal holds merged into it."""
    address = f"file:{quote(os.fspath(path.absolute()))}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def log_in_memory(content: bytes, path: Path) -> sqlite3.Connection:
    """Return the bytes of a log as a database in memory, its version checked. `path` is named in errors."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        if not content:
            raise InputCorruptError(
                "the file of decisions is empty: it was cut, or not copied to its end",
                place=str(path),
                remedy="put a whole copy of it back; or move it away, and take over an export with review --import",
            )
        # In memory there is no write-ahead log; a file that says so would not open.
        header = content[: _JOURNAL_MODE.start] + _ROLLBACK
        connection.deserialize(header + content[_JOURNAL_MODE.stop :])
        _require_version(connection, path)
        _require_whole(connection, path)
        columns = {column[1] for column in connection.execute("PRAGMA table_info(decisions)")}
        for name in [name for name in LATE_COLUMNS if name not in columns]:
            connection.execute(LATE_COLUMNS[name])
        for statement in _SETTINGS:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_whole(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a log whose index contradicts its rows: queries would find different decisions, and no one knows which."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise InputCorruptError(
            f"the decisions are damaged: {found}",
            place=str(path),
            remedy="put a whole copy of it back; or move it away, and take over an export with review --import",
        )


def decision_of_row(values: tuple[object, ...]) -> RecordedDecision:
    """Return the decision of a row whose values come in the order of `FIELDS`."""
    return RecordedDecision(**dict(zip(FIELDS, values, strict=True)))  # type: ignore[arg-type]  # the class checks them


def _require_version(connection: sqlite3.Connection, path: Path) -> None:
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


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors with code, place and remedy: locked, disk full, not writable, damaged."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", -1) & 0xFF  # without details; Python's own errors have none
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
