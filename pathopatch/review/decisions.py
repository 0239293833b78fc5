"""Record decisions in ``OUT/review.sqlite``, to which rows are only ever appended.

`DecisionLog.record` and `undo` return once the row is on the disk. Several pages, in one process or many, may write
into one file.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pathopatch.core.errors import InputMissingError, ReviewConflictError
from pathopatch.core.files import disk_errors, fault_point, inside
from pathopatch.groups.decisions.decision import (
    FIELDS,
    UNDO,
    Decision,
    RecordedDecision,
    content_key,
    current_decisions,
    latest_decision,
    utc_text,
)
from pathopatch.groups.decisions.log import (
    LOCK_WAIT_S,
    LOG_VERSION,
    decision_of_row,
    is_lock_error,
    require_version,
    sqlite_errors,
)

T = TypeVar("T")

_RETRY_S = 0.02
# The triggers keep the history: no other program can change or remove a row either.
_SCHEMA = (
    """CREATE TABLE decisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT, made TEXT NOT NULL, reviewer TEXT NOT NULL, slide_id TEXT NOT NULL,
        x INTEGER, y INTEGER, verdict TEXT NOT NULL, reason TEXT NOT NULL, comment TEXT NOT NULL,
        fingerprint TEXT NOT NULL, run TEXT NOT NULL, threshold REAL, undoes INTEGER UNIQUE REFERENCES decisions (id),
        revision INTEGER NOT NULL, UNIQUE (slide_id, revision)) STRICT""",
    """CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions
        BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END""",
    """CREATE TRIGGER decisions_are_kept BEFORE DELETE ON decisions
        BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END""",
    f"PRAGMA user_version = {LOG_VERSION}",
)
_ALL = f"SELECT {', '.join(FIELDS)} FROM decisions ORDER BY id"
_OF_SLIDE = f"SELECT {', '.join(FIELDS)} FROM decisions WHERE slide_id = ? ORDER BY id"
_LAST = f"""SELECT {", ".join(FIELDS)} FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY slide_id ORDER BY made DESC, id DESC) AS place FROM decisions
    WHERE x IS NULL AND verdict != '{UNDO}' AND id NOT IN (SELECT undoes FROM decisions WHERE undoes IS NOT NULL)
) WHERE place = 1"""
_WRITTEN = tuple(name for name in FIELDS if name != "id")
_INSERT = f"INSERT INTO decisions ({', '.join(_WRITTEN)}) VALUES ({', '.join(f':{name}' for name in _WRITTEN)})"


@dataclass(frozen=True, kw_only=True)
class SlideState:
    """The decisions on one slide."""

    slide_id: str
    revision: int = 0  # the number of its rows; a reviewer who decides must have seen this one
    decision: RecordedDecision | None = None  # the verdict on the whole slide that stands
    patches: tuple[RecordedDecision, ...] = ()  # the labels of patches that stand, oldest first
    history: tuple[RecordedDecision, ...] = ()  # all rows, newest first
    fingerprint: str | None = None  # of the current heatmap; None where that is unknown

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; each row has ``outdated`` and ``stands``, those of patches ``x`` and ``y``."""
        standing_ids = {row.id for row in (self.decision, *self.patches) if row}

        def to_json(row: RecordedDecision) -> dict[str, Any]:
            return _with_outdated(row, self.fingerprint) | {"stands": row.id in standing_ids}

        return {
            "slide_id": self.slide_id,
            "revision": self.revision,
            "decision": to_json(self.decision) if self.decision else None,
            "patches": [to_json(row) for row in self.patches],
            "history": [to_json(row) for row in self.history],
        }


def _with_outdated(row: RecordedDecision, fingerprint: str | None) -> dict[str, Any]:
    """Return a row as JSON values; ``outdated``: it was made of another heatmap. None without a fingerprint."""
    return row.to_dict() | {"outdated": None if fingerprint is None else row.fingerprint != fingerprint}


class DecisionLog:
    """The decisions of one folder of predictions, open for reading and writing; safe to share among threads.

    `path` is created if it is missing. `fingerprint_of` maps a slide id to the fingerprint of its current heatmap, or
    to "" for no heatmap; without it ``outdated`` is None. `busy_s` is how long to wait for another process's lock, s.

    Raises
    ------
    InputCorruptError, StaleArtefactError
        The file is no such log, or a newer version of this package wrote it.
    InputUnsupportedError
        It cannot be written, or a symbolic link leads outside its folder.
    SlideTimeoutError
        Another process kept it locked.
    """

    def __init__(
        self, path: Path, *, fingerprint_of: Callable[[str], str] | None = None, busy_s: float = LOCK_WAIT_S
    ) -> None:
        self.path = inside(path.parent, path.name)
        self._fingerprint_of = fingerprint_of
        self._busy_s = busy_s
        self._lock = threading.RLock()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite_errors(path):
            self._connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file; the rows are on the disk already."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, decision: Decision, *, revision: int) -> RecordedDecision:
        """Write a decision on the state of a slide that the reviewer saw; return its row once it is on the disk.

        Raises
        ------
        ReviewConflictError
            The slide has another revision: somebody else decided meanwhile. The error's ``state`` has that.
        SlideTimeoutError, DiskFullError, InputUnsupportedError, InputCorruptError
            It could not be written; nothing was.
        """
        with self._writing():
            self._require_revision(decision.slide_id, revision)
            return self._append(decision)

    def undo(self, slide_id: str, reviewer: str, revision: int) -> RecordedDecision:
        """Withdraw the newest row of a slide that stands, and return the row that records this; errors as `record`.

        InputMissingError if no row stands.
        """
        with self._writing():
            self._require_revision(slide_id, revision)
            last = latest_decision(self._read(_OF_SLIDE, slide_id))
            if last is None:
                raise InputMissingError("nothing to withdraw", place=slide_id, remedy="decide something first")
            return self._append(replace(last, verdict=UNDO, reviewer=reviewer, reason="", comment="", undoes=last.id))

    def merge(self, rows: Sequence[RecordedDecision]) -> int:
        """Add the rows of another log that are not here yet, all or none, and return their number; errors as `record`.

        `rows` come in the order in which they were written, with that log's ids; a time of "" becomes now. By time, the
        latest verdict stands, in whichever log it was made. The same rows a second time change nothing.
        """
        with self._writing():
            own_rows = self.rows()
            own_ids = {content_key(row): row.id for row in own_rows}
            # A file written by hand has no times: its rows are compared without them.
            own_ids |= {content_key(replace(row, made="")): row.id for row in own_rows}
            withdrawn = {row.undoes for row in own_rows}
            id_map: dict[int | None, int] = {None: 0}  # that log's id -> this log's
            added = 0
            for row in rows:
                own = replace(row, undoes=None if row.undoes is None else id_map[row.undoes])
                if content_key(own) in own_ids or (own.undoes is not None and own.undoes in withdrawn):
                    id_map[row.id] = own_ids.get(content_key(own), 0)
                    continue
                id_map[row.id] = own_ids[content_key(own)] = self._append(own, made=row.made).id
                added += 1
            return added

    def rows(self) -> list[RecordedDecision]:
        """Return all rows of all slides, in the order in which they were written."""
        return self._read(_ALL)

    def state(self, slide_id: str) -> SlideState:
        """Return the decisions on a slide; an empty state where there are none."""
        rows = self._read(_OF_SLIDE, slide_id)
        current = current_decisions(rows)
        return SlideState(
            slide_id=slide_id,
            revision=len(rows),
            decision=next((row for row in current if row.x is None), None),
            patches=tuple(row for row in current if row.x is not None),
            history=tuple(reversed(rows)),
            fingerprint=self._fingerprint(slide_id),
        )

    def last(self) -> dict[str, dict[str, Any]]:
        """Return by slide the verdict that stands, as JSON values with ``outdated``; one query for all slides."""
        return {row.slide_id: _with_outdated(row, self._fingerprint(row.slide_id)) for row in self._read(_LAST)}

    def _fingerprint(self, slide_id: str) -> str | None:
        """Return the fingerprint of the current heatmap; "" for a slide without one."""
        if self._fingerprint_of is None:
            return None
        try:
            return self._fingerprint_of(slide_id)
        except InputMissingError:
            return ""

    def _read(self, query: str, *values: object) -> list[RecordedDecision]:
        with self._lock, sqlite_errors(self.path):
            rows = self._retried(lambda: self._connection.execute(query, values).fetchall())
        return [decision_of_row(row) for row in rows]

    def _require_revision(self, slide_id: str, revision: int) -> None:
        """Refuse a decision on a slide whose state has changed since the reviewer saw it."""
        state = self.state(slide_id)
        if state.revision != revision:
            raise ReviewConflictError(
                f"slide {slide_id} has {state.revision} decisions by now, the page showed {revision}",
                place=str(self.path),
                remedy="look at the new decisions, then decide again",
                state=state.to_dict(),
            )

    def _append(self, decision: Decision, *, made: str = "") -> RecordedDecision:
        """Add a row within the open transaction; without a time it gets the current one."""
        query = "SELECT COUNT(*), MAX(made) FROM decisions WHERE slide_id = ?"
        count, latest = self._connection.execute(query, (decision.slide_id,)).fetchone()
        values = asdict(decision) | {"id": 0, "made": made or _after(latest), "revision": count + 1}
        row = RecordedDecision(**values)
        row_id = self._connection.execute(_INSERT, row.to_dict()).lastrowid
        assert row_id is not None  # an INSERT has one
        return replace(row, id=row_id)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the write lock; added rows are on the disk at the end, or none of them is there."""
        with self._lock, sqlite_errors(self.path):
            # IMMEDIATE takes the write lock at once: a deferred transaction could read a revision that another
            # process then outdates.
            self._retried(lambda: self._connection.execute("BEGIN IMMEDIATE"))
            try:
                yield
                fault_point("deciding")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            fault_point("decided")

    def _prepare(self) -> None:
        """Create the table in an empty file, or check the version of an existing one."""
        self._connection.execute("PRAGMA foreign_keys = ON")
        if not self._is_empty():
            require_version(self._connection, self.path)
        self._retried(lambda: self._connection.execute("PRAGMA journal_mode = WAL").fetchone())
        # In WAL mode only FULL waits for the disk at each commit.
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._writing():
            # Asked again under the write lock: another process may have created the table meanwhile.
            if self._is_empty():
                for statement in _SCHEMA:
                    self._connection.execute(statement)

    def _is_empty(self) -> bool:
        query = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)"
        (is_empty,) = self._retried(lambda: self._connection.execute(query).fetchone())
        return bool(is_empty)

    def _retried(self, action: Callable[[], T]) -> T:
        """Return the result of an action, repeated while another process holds the lock."""
        # SQLite's own timeout does not cover every case, such as a change of the journal mode.
        deadline = time.monotonic() + self._busy_s
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if not is_lock_error(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_S)


def _after(latest: str | None) -> str:
    """Return the current time, or one just after the latest row's if the clock was set back."""
    # The newest verdict by time stands, so a slide's rows must be in the order of their times.
    now = utc_text(datetime.now(UTC))
    if latest is None or now > latest:
        return now
    return utc_text(datetime.fromisoformat(latest) + timedelta(microseconds=1))
