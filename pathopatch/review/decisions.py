"""Answers what was decided, by whom, of what: ``OUT/review.sqlite``, to which rows are only ever appended.

What `record` and `undo` return is on the disk. Several pages, in one process or many, may write into one file.
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
from pathopatch.core.faultpoints import fault_point
from pathopatch.core.files import disk_errors, inside
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

_PAUSE_S = 0.02
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
    """What is decided of one slide by now.

    Parameters
    ----------
    slide_id : str
        The slide.
    revision : int
        How many rows it has; what the next one must have seen.
    decision : RecordedDecision or None
        The verdict on the whole slide that stands.
    patches : tuple of RecordedDecision
        The labels of patches that stand, oldest first.
    history : tuple of RecordedDecision
        All rows, newest first.
    fingerprint : str or None
        Of the heatmap that is there now; None where that is not known.
    """

    slide_id: str
    revision: int = 0
    decision: RecordedDecision | None = None
    patches: tuple[RecordedDecision, ...] = ()
    history: tuple[RecordedDecision, ...] = ()
    fingerprint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; each row says ``outdated`` and ``stands``, those of patches ``x`` and ``y``."""
        stands = {row.id for row in (*self.patches, *((self.decision,) if self.decision else ()))}

        def told(row: RecordedDecision) -> dict[str, Any]:
            return described(row, self.fingerprint) | {"stands": row.id in stands}

        return {
            "slide_id": self.slide_id,
            "revision": self.revision,
            "decision": told(self.decision) if self.decision else None,
            "patches": [told(row) for row in self.patches],
            "history": [told(row) for row in self.history],
        }


def described(row: RecordedDecision, fingerprint: str | None) -> dict[str, Any]:
    """Return a row as plain values, and whether it was made of another heatmap than the one that is there now.

    Parameters
    ----------
    row : RecordedDecision
        The decision.
    fingerprint : str or None
        Of the heatmap that is there now; None where that is not known, and so is ``outdated``.
    """
    return row.to_dict() | {"outdated": None if fingerprint is None else row.fingerprint != fingerprint}


class Decisions:
    """The log of one folder of predictions, open for reading and writing; any thread may use it.

    Parameters
    ----------
    path : Path
        ``OUT/review.sqlite``; made if it is not there.
    fingerprint_of : callable, optional
        Slide id -> fingerprint of the heatmap that is there now, "" if there is none. Without it, nothing is said of
        decisions that are outdated.
    busy_s : float
        So long a lock that another process holds is waited for.

    Raises
    ------
    InputCorruptError
        The file is no such log.
    InputUnsupportedError
        It cannot be written, or a symbolic link leads outside its folder.
    SlideTimeoutError
        Another process kept it locked.
    StaleArtefactError
        A newer version of this package wrote it.
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

    def __enter__(self) -> Decisions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, decision: Decision, *, revision: int) -> RecordedDecision:
        """Write a decision down and return it with its number, time and revision; it is on the disk then.

        Parameters
        ----------
        decision : Decision
            Of a slide or of a patch.
        revision : int
            Of the state of the slide that the reviewer saw.

        Raises
        ------
        ReviewConflictError
            The slide has another revision by now: somebody else decided. ``state`` says what.
        SlideTimeoutError, DiskFullError, InputUnsupportedError, InputCorruptError
            It could not be written; nothing was.
        """
        with self._writing():
            self._require_revision(decision.slide_id, revision)
            return self._append(decision)

    def undo(self, slide_id: str, reviewer: str, revision: int) -> RecordedDecision:
        """Withdraw the newest row of a slide that stands, and return the row that says so.

        Parameters
        ----------
        slide_id : str
            The slide.
        reviewer : str
            Who withdraws.
        revision : int
            Of the state of the slide that the reviewer saw.

        Raises
        ------
        InputMissingError
            Nothing stands.
        ReviewConflictError, SlideTimeoutError, DiskFullError, InputUnsupportedError, InputCorruptError
            As `record`.
        """
        with self._writing():
            self._require_revision(slide_id, revision)
            last = latest_decision(self._rows_of(slide_id))
            if last is None:
                raise InputMissingError("nothing to withdraw", place=slide_id, remedy="decide something first")
            return self._append(replace(last, verdict=UNDO, reviewer=reviewer, reason="", comment="", undoes=last.id))

    def merge(self, rows: Sequence[RecordedDecision]) -> int:
        """Write down the rows of another log that are not here yet, all or none; return how many.

        Parameters
        ----------
        rows : sequence of RecordedDecision
            In the order in which they were written, with that log's ids; a time of "" becomes now.

        Raises
        ------
        SlideTimeoutError, DiskFullError, InputUnsupportedError, InputCorruptError
            They could not be written; nothing was.
        """
        with self._writing():
            here = self._read(_ALL)
            known = {content_key(row): row.id for row in here}
            known |= {content_key(replace(row, made="")): row.id for row in here}  # of rows that say no time
            taken = {row.undoes for row in here}
            ids: dict[int | None, int] = {None: 0}  # there -> here
            added = 0
            for row in rows:
                mine = replace(row, undoes=None if row.undoes is None else ids[row.undoes])
                if content_key(mine) in known or (mine.undoes is not None and mine.undoes in taken):
                    ids[row.id] = known.get(content_key(mine), 0)
                    continue
                ids[row.id] = known[content_key(mine)] = self._append(mine, made=row.made).id
                added += 1
            return added

    def rows(self) -> list[RecordedDecision]:
        """Return all rows of all slides, in the order in which they were written."""
        return self._read(_ALL)

    def state(self, slide_id: str) -> SlideState:
        """Return what is decided of a slide; an empty state for one that nobody has decided of."""
        rows = self._rows_of(slide_id)
        counted = current_decisions(rows)
        return SlideState(
            slide_id=slide_id,
            revision=len(rows),
            decision=next((row for row in counted if row.x is None), None),
            patches=tuple(row for row in counted if row.x is not None),
            history=tuple(reversed(rows)),
            fingerprint=self._fingerprint(slide_id),
        )

    def last(self) -> dict[str, dict[str, Any]]:
        """Return the verdict on each slide that stands, as plain values with ``outdated``; by one query."""
        return {row.slide_id: described(row, self._fingerprint(row.slide_id)) for row in self._read(_LAST)}

    def _fingerprint(self, slide_id: str) -> str | None:
        """Return the fingerprint of the heatmap that is there now; "" of a slide that is not here."""
        if self._fingerprint_of is None:
            return None
        try:
            return self._fingerprint_of(slide_id)
        except InputMissingError:
            return ""

    def _rows_of(self, slide_id: str) -> list[RecordedDecision]:
        return self._read(_OF_SLIDE, slide_id)

    def _read(self, query: str, *values: object) -> list[RecordedDecision]:
        with self._lock, sqlite_errors(self.path):
            return [
                decision_of_row(row)
                for row in self._retried(lambda: self._connection.execute(query, values).fetchall())
            ]

    def _require_revision(self, slide_id: str, revision: int) -> None:
        """Refuse a decision on a slide that has changed since it was looked at."""
        state = self.state(slide_id)
        if state.revision != revision:
            raise ReviewConflictError(
                f"slide {slide_id} has {state.revision} decisions by now, {revision} were seen",
                place=str(self.path),
                remedy="look at what was decided meanwhile, then decide again",
                state=state.to_dict(),
            )

    def _append(self, decision: Decision, *, made: str = "") -> RecordedDecision:
        """Add a row inside the transaction that is open; without a time it is made now."""
        query = "SELECT COUNT(*), MAX(made) FROM decisions WHERE slide_id = ?"
        count, latest = self._connection.execute(query, (decision.slide_id,)).fetchone()
        values = asdict(decision) | {"id": 0, "made": made or _after(latest), "revision": count + 1}
        row = RecordedDecision(**values)
        added = self._connection.execute(_INSERT, row.to_dict()).lastrowid
        assert added is not None  # an INSERT has one
        return replace(row, id=added)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the write lock; what was added is on the disk at the end, or not there at all."""
        with self._lock, sqlite_errors(self.path):
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
        """Make the file a log if it is empty, and see that it is one; every commit waits for the disk from then on."""
        self._connection.execute("PRAGMA foreign_keys = ON")
        if not self._is_empty():
            require_version(self._connection, self.path)
        self._retried(lambda: self._connection.execute("PRAGMA journal_mode = WAL").fetchone())
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._writing():
            if self._is_empty():  # another process may have been first
                for statement in _SCHEMA:
                    self._connection.execute(statement)

    def _is_empty(self) -> bool:
        query = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)"
        (found,) = self._retried(lambda: self._connection.execute(query).fetchone())
        return bool(found)

    def _retried(self, action: Callable[[], T]) -> T:
        """Return what an action does once nobody holds the lock: SQLite's own wait does not cover every case."""
        until = time.monotonic() + self._busy_s
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if not is_lock_error(error) or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE_S)


def _after(latest: str | None) -> str:
    """Return the time now, or just after the latest row where the clock was set back: order in time must hold."""
    now = utc_text(datetime.now(UTC))
    if latest is None or now > latest:
        return now
    return utc_text(datetime.fromisoformat(latest) + timedelta(microseconds=1))
