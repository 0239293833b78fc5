"""Record decisions in ``OUT/review.sqlite``, to which rows are only ever appended.

`DecisionLog.record` and `undo` return once the row is on the disk. Several pages, in one process or many, may write
into one file. Each write makes a longer file and renames it over the earlier one: whoever copies or reads the file, at
any moment, has a whole log with every row that was acknowledged.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from pathopatch.core.errors import (
    InputChangedError,
    InputMissingError,
    InputUnsupportedError,
    PathopatchError,
    ReviewConflictError,
)
from pathopatch.core.files import atomic_path, disk_errors, fault_point, inside, write_bytes
from pathopatch.core.locks import REVIEW, folder_lock
from pathopatch.groups.decisions.decision import (
    FIELDS,
    REMOVED,
    UNDO,
    Decision,
    RecordedDecision,
    Standing,
    StandingDecisions,
    content_key,
    latest_decision,
    utc_text,
)
from pathopatch.groups.decisions.log import (
    ALL_ROWS,
    LATE_COLUMNS,
    LOCK_WAIT_S,
    LOG_VERSION,
    decision_of_row,
    load_log,
    log_in_memory,
    open_in_place,
    read_log,
    sqlite_errors,
)
from pathopatch.groups.decisions.readers import known_reader, reader_key
from pathopatch.groups.decisions.table import decisions_csv
from pathopatch.review.reading import json_row, reading_state, readings_state, require_dispute, visible_rows

# The triggers keep the history: no other program can change or remove a row either.
_SCHEMA = (
    """CREATE TABLE decisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT, made TEXT NOT NULL, reviewer TEXT NOT NULL, slide_id TEXT NOT NULL,
        x INTEGER, y INTEGER, verdict TEXT NOT NULL, reason TEXT NOT NULL, comment TEXT NOT NULL,
        fingerprint TEXT NOT NULL, run TEXT NOT NULL, threshold REAL, undoes INTEGER UNIQUE REFERENCES decisions (id),
        revision INTEGER NOT NULL, UNIQUE (slide_id, revision)) STRICT""",
    *LATE_COLUMNS.values(),
    """CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions
        BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END""",
    """CREATE TRIGGER decisions_are_kept BEFORE DELETE ON decisions
        BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END""",
    f"PRAGMA user_version = {LOG_VERSION}",
)
_OF_SLIDE = f"SELECT {', '.join(FIELDS)} FROM decisions WHERE slide_id = ? AND revision > ? ORDER BY revision"
_SLIDE_IDS = "SELECT DISTINCT slide_id FROM decisions"
_READERS = "SELECT DISTINCT reviewer FROM decisions"
_NEWEST = f"SELECT {', '.join(FIELDS)} FROM decisions ORDER BY id DESC LIMIT 1"
_NEWEST_SETTING = "SELECT id FROM settings ORDER BY id DESC LIMIT 1"
_BLINDED = "SELECT value FROM settings WHERE name = 'blinded' ORDER BY id DESC LIMIT 1"
_BY_ID = f"SELECT {', '.join(FIELDS)} FROM decisions WHERE id = ?"
_TIME = "COALESCE(NULLIF(sorted_as, ''), made)"  # as `RecordedDecision.order`
_WRITTEN = tuple(name for name in FIELDS if name != "id")
_INSERT = f"INSERT INTO decisions ({', '.join(_WRITTEN)}) VALUES ({', '.join(f':{name}' for name in _WRITTEN)})"


_HISTORY = 200
"""Rows of a slide, the newest, that its page lists."""


@dataclass
class _SlideRows:
    """The rows of one slide as a reader sees them, by revision, and what stands of them."""

    rows: list[RecordedDecision] = field(default_factory=list)
    standing: StandingDecisions = field(default_factory=StandingDecisions)

    def add(self, rows: Sequence[RecordedDecision]) -> None:
        self.rows += rows
        self.standing.add(rows)


class DecisionLog:
    """The decisions of one folder of predictions, open for reading and writing; safe to share among threads.

    Reading waits for nobody. A `reader` is a reviewer to whom a blinded folder shows what `visible_rows` names; without
    one, all rows are read. `path` is created if it is missing. `fingerprint_of` maps a slide id to the fingerprint of
    its current heatmap, or to "" for no heatmap. `busy_s` is how long a write waits for the lock of another process, s.

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
        self, path: Path, *, fingerprint_of: Callable[[str], str] = lambda _: "", busy_s: float = LOCK_WAIT_S
    ) -> None:
        self.path = inside(path.parent, path.name)
        self._fingerprint_of = fingerprint_of
        self._busy_s = busy_s
        self._lock = threading.Lock()  # on those below; held for moments, never while a write waits
        # Rows are never changed: only new ones are read. To check 10,000 at each decision took a second.
        self._slides: dict[str, _SlideRows] = {}
        # A folder on a medium that cannot be written is opened for looking.
        self.is_read_only = path.parent.is_dir() and not os.access(path.parent, os.W_OK)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locked, sqlite_errors(path):
            if not self.is_read_only:
                locked.enter_context(folder_lock(path.parent, REVIEW, limit_s=busy_s))
            if not path.exists():
                with closing(sqlite3.connect(":memory:", isolation_level=None)) as log:
                    for statement in _SCHEMA:
                        log.execute(statement)
                    if self.is_read_only:
                        self._log = log_in_memory(log.serialize(), path)
                        self._file: BinaryIO = open(os.devnull, "rb")  # noqa: PTH123, SIM115
                        self._version: tuple[int, ...] = ()
                        return
                    self._put(log).close()
            self._log = load_log(path, busy_s=busy_s)
            # Open as long as this is its content: no other file can get its number meanwhile.
            self._file = path.open("rb")
            self._version = _version(os.fstat(self._file.fileno()))

    def close(self) -> None:
        """Close the file; the rows are on the disk already."""
        with self._lock:
            self._log.close()
            self._file.close()

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, decision: Decision, *, revision: int, reader: str | None = None) -> RecordedDecision:
        """Write a decision on the state of a slide that the reviewer saw; return its row once it is on the disk.

        Raises
        ------
        ReviewConflictError
            The reader has decided on the slide since that revision, in another window; without a reader, anybody has.
            The error's ``state`` has what stands. Or what the decision settles is no dispute.
        InputChangedError
            The file was removed, or another one put in its place, since it was opened; nothing was written.
        SlideTimeoutError, DiskFullError, InputUnsupportedError, InputCorruptError
            It could not be written; nothing was.
        """
        with self._writing(decision.slide_id, revision, reader) as log:
            require_dispute(self._require_revision(log, decision.slide_id, revision, reader).standing, decision)
            return _append(log, replace(decision, reviewer=_known(log, decision.reviewer)))

    def undo(self, slide_id: str, reviewer: str, revision: int, reader: str | None = None) -> RecordedDecision:
        """Withdraw a reviewer's own newest decision on a slide, and return the row that records this.

        Raises
        ------
        InputMissingError
            The reviewer has decided nothing that is not withdrawn; others' decisions are theirs.
        ReviewConflictError, InputChangedError, SlideTimeoutError, DiskFullError, InputUnsupportedError,
        InputCorruptError
            As `record`.
        """
        with self._writing(slide_id, revision, reader) as log:
            last = latest_decision(self._require_revision(log, slide_id, revision, reader).rows, reviewer)
            if last is None:
                raise InputMissingError(
                    f"no decision of {reviewer} to withdraw",
                    place=slide_id,
                    remedy="only its own reviewer withdraws a decision; a new one of yours stands beside it",
                )
            undo = replace(last, verdict=UNDO, reviewer=reviewer, undoes=last.id, reason="", comment="", settles="")
            return _append(log, undo)

    def merge(self, rows: Sequence[RecordedDecision]) -> int:
        """Add the rows of another log that are not here yet, all or none, and return their number; errors as `record`.

        `rows` come in the order in which they were written, with that log's ids; a time of "" becomes now. By time, the
        latest verdict stands, in whichever log it was made. The same rows a second time change nothing.
        """
        with self._writing() as log:
            own_rows = _rows(log, ALL_ROWS)
            own_ids = {content_key(row): row.id for row in own_rows}
            # A file written by hand has no times: its rows are compared without them.
            own_ids |= {content_key(replace(row, made="")): row.id for row in own_rows}
            withdrawn = {row.undoes for row in own_rows}
            id_map: dict[int | None, int] = {None: 0}  # that log's id -> this log's
            added = 0
            names = {reader_key(name): name for (name,) in log.execute(_READERS)}
            for row in rows:
                settles = " ".join(str(id_map[settled]) for settled in row.settled_ids)
                reviewer = names.setdefault(reader_key(row.reviewer), row.reviewer)
                undoes = None if row.undoes is None else id_map[row.undoes]
                own = replace(row, reviewer=reviewer, undoes=undoes, settles=settles)
                if content_key(own) in own_ids or (own.undoes is not None and own.undoes in withdrawn):
                    id_map[row.id] = own_ids.get(content_key(own), 0)
                    continue
                id_map[row.id] = own_ids[content_key(own)] = _append(log, own, made=row.made).id
                added += 1
            return added

    def rows(self, reader: str | None = None) -> list[RecordedDecision]:
        """Return all rows of all slides, in the order in which they were written."""
        with self._lock, sqlite_errors(self.path):
            self._reload()
            rows = _rows(self._log, ALL_ROWS)
            is_whole = reader is None or not _is_blinded(self._log)
            return rows if is_whole else visible_rows(rows, str(reader), self._fingerprint)

    def newest(self, reader: str | None = None) -> int:
        """Return the number of the newest row; in a blinded folder of the reader's own."""
        with self._lock, sqlite_errors(self.path):
            self._reload()
            is_own = reader is not None and _is_blinded(self._log)
            rows = "decisions WHERE reviewer = ?" if is_own else "decisions"
            return int(self._log.execute(f"SELECT COALESCE(MAX(id), 0) FROM {rows}", [reader][:is_own]).fetchone()[0])

    def reader(self, name: str) -> str:
        """Return a reader's name as the log has it, whatever its case."""
        with self._lock, sqlite_errors(self.path):
            self._reload()
            return _known(self._log, name)

    def is_blinded(self) -> bool:
        """Return whether reviewers read independently: nobody sees others' verdicts before giving his own."""
        with self._lock, sqlite_errors(self.path):
            self._reload()
            return _is_blinded(self._log)

    def set_blinded(self, is_blinded: bool, reviewer: str) -> None:
        """Keep with the folder whether reviewers read independently, and who said so; errors as `record`."""
        with self._writing() as log:
            if _is_blinded(log) != is_blinded:
                values = utc_text(datetime.now(UTC)), reviewer, "yes" if is_blinded else "no"
                log.execute("INSERT INTO settings (made, reviewer, name, value) VALUES (?, ?, 'blinded', ?)", values)

    def keep_lost(self) -> Path | None:
        """Write all rows to a new CSV file if the log no longer holds each of them; return it, else None.

        That is so where the log was removed, replaced or damaged after these rows were on the disk. The new file lies
        beside it or, where that folder is gone or cannot be written, in the current one.

        Raises
        ------
        DiskFullError, InputUnsupportedError
            Neither folder takes the file.
        """
        rows = self.rows()
        try:
            there = {content_key(row) for row in read_log(self.path)}
        except PathopatchError:
            there = set()
        if there.issuperset(map(content_key, rows)):
            return None
        name = f"review-kept-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.csv"
        content = decisions_csv(rows).encode()
        if self.path.parent.is_dir():  # a folder that was moved away is not made again
            with suppress(PathopatchError, OSError):
                write_bytes(self.path.parent / name, content)
                return self.path.parent / name
        write_bytes(Path.cwd() / name, content)
        return Path.cwd() / name

    def state(self, slide_id: str, reader: str | None = None, *, since: int = 0) -> dict[str, Any]:
        """Return the decisions on a slide as JSON values, each with ``outdated``.

        ``revision`` is the number of its rows, which a reviewer who decides must have seen. ``decision`` is the current
        one, and ``history`` has the newest rows, the newest first, with ``stands``: current, or its reviewer's latest.
        ``patches`` and ``regions``, less those removed, have the current decision on each, the oldest first, with
        ``verdicts`` and ``dispute`` as `reading_state`, whose values make the rest. Where ``since``, a revision, is not
        0, they are only those that were decided on since then; without a decision, ``verdict`` is None.
        """
        with self._lock, sqlite_errors(self.path):
            self._reload()
            seen = self._seen(self._log, slide_id, reader)
            standing = seen.standing
            # Blinded, a reader's own verdict brings up what others decided before.
            if since > len(seen.rows) or (reader is not None and _is_blinded(self._log)):
                since = 0
            subjects = (
                standing.subjects(seen.rows[since:]) if since else [one.decision.subject for one in standing.by_time()]
            )
            places = [
                {"x": x, "y": y, "region": region}
                | _place_state(standing.by_subject.get(subject), standing.fingerprint)
                for subject in subjects
                for _, x, y, region in [subject]
                if x is not None or region
            ]
            return {
                "slide_id": slide_id,
                "revision": len(seen.rows),
                "since": since,
                "decision": _slide_decision(standing, slide_id),
                "patches": [place for place in places if not place["region"]],
                "regions": [place for place in places if place["region"] and (since or place["verdict"])],
                "history": [
                    json_row(row, standing.fingerprint) | {"stands": standing.stands(row)}
                    for row in seen.rows[: -_HISTORY - 1 : -1]
                ],
                **reading_state(seen.rows, standing, slide_id, reader),
            }

    def verdicts(self, reader: str | None = None) -> dict[str, dict[str, Any]]:
        """Return by slide `reading_state`, ``decision`` and ``disputed_patches``, their number.

        ``decision`` is the current verdict with ``outdated``, or None.
        """
        states = {}
        with self._lock, sqlite_errors(self.path):
            self._reload()
            for (slide_id,) in self._log.execute(_SLIDE_IDS).fetchall():
                seen = self._seen(self._log, slide_id, reader)
                if not seen.rows:
                    continue
                state = reading_state(seen.rows, seen.standing, slide_id, reader)
                disputes = [one.decision.kind for one in seen.standing.by_subject.values() if one.dispute]
                decision = _slide_decision(seen.standing, slide_id)
                states[slide_id] = {"decision": decision, "disputed_patches": disputes.count("patch"), **state}
        return states

    def _fingerprint(self, slide_id: str) -> str:
        """Return the fingerprint of the current heatmap; "" for a slide without one."""
        try:
            return self._fingerprint_of(slide_id)
        except InputMissingError:
            return ""

    def _require_revision(
        self, log: sqlite3.Connection | None, slide_id: str, revision: int, reader: str | None
    ) -> _SlideRows:
        """Return what the reader sees of a slide, by default as known; refuse a decision if he decided since then.

        Without a reader, whoever did.
        """
        with self._lock:
            if log is None:
                self._reload()
            seen = self._seen(log or self._log, slide_id, reader)
        is_newer = any(reader in (None, row.reviewer) for row in seen.rows[revision:])
        if is_newer or revision > len(seen.rows):
            raise ReviewConflictError(
                f"slide {slide_id} has {len(seen.rows)} decisions by now, the page showed {revision}",
                place=str(self.path),
                remedy="look at the new decisions, then decide again",
                state=self.state(slide_id, reader, since=max(0, revision)),
            )
        return seen

    def _seen(self, log: sqlite3.Connection, slide_id: str, reader: str | None) -> _SlideRows:
        """Return what a log, in which nothing is unsaved, shows a reader of a slide; `_lock` is held."""
        fingerprint = self._fingerprint(slide_id)
        known = self._slides.get(slide_id)
        if known is None or known.standing.fingerprint != fingerprint:
            rows = [] if known is None else known.rows
            known = self._slides[slide_id] = _SlideRows(rows, StandingDecisions(rows, fingerprint=fingerprint))
        known.add(_rows(log, _OF_SLIDE, slide_id, len(known.rows)))
        if reader is None or not _is_blinded(log):
            return known
        rows = visible_rows(known.rows, reader, lambda _: fingerprint)
        return _SlideRows(rows, StandingDecisions(rows, fingerprint=fingerprint))

    def _reload(self) -> None:
        """Read the file again if another page has written to it, or keep what is known; the next write says why."""
        with suppress(PathopatchError, OSError, sqlite3.Error):
            if _version(self.path.stat()) != self._version:
                with ExitStack() as unless_adopted:
                    file = unless_adopted.enter_context(self.path.open("rb"))
                    log = unless_adopted.enter_context(closing(load_log(self.path, busy_s=0)))
                    self._require_successor(log, os.fstat(file.fileno()))
                    unless_adopted.pop_all()
                self._adopt(log, file)

    def _adopt(self, log: sqlite3.Connection, file: BinaryIO) -> None:
        """Go on from a file's content."""
        self._log.close()
        self._file.close()
        self._log, self._file, self._version = log, file, _version(os.fstat(file.fileno()))

    def _require_successor(self, log: sqlite3.Connection, status: os.stat_result) -> None:
        """Refuse a file that is neither the known one nor one that another page made of it by adding rows."""
        known, newest = (connection.execute(_NEWEST).fetchone() for connection in (self._log, log))
        known_setting, newest_setting = (c.execute(_NEWEST_SETTING).fetchone() or (0,) for c in (self._log, log))
        has_all = known_setting <= newest_setting and (
            known is None or log.execute(_BY_ID, (known[FIELDS.index("id")],)).fetchone() == known
        )
        is_same_file = (status.st_dev, status.st_ino) == self._version[:2]
        if not has_all or (newest == known and newest_setting == known_setting and not is_same_file):
            raise self._gone("another file was put in its place")

    def _gone(self, what: str) -> InputChangedError:
        return InputChangedError(
            f"{self.path.name} is not the file that this page opened: {what}; nothing was written",
            place=str(self.path),
            remedy="put the file back, or export the decisions from the page, and start it again with --import",
        )

    @contextmanager
    def _writing(
        self, slide_id: str = "", revision: int = 0, reader: str | None = None
    ) -> Iterator[sqlite3.Connection]:
        """Yield a copy of the log under the write lock; rows added to it are on the disk at the end, or none is there.

        Reading goes on meanwhile. A slide's outdated revision is refused before the file is copied.
        """
        if self.is_read_only:
            raise InputUnsupportedError(
                "this folder cannot be written: it is open for looking alone",
                place=str(self.path.parent),
                remedy="copy it to a disk that can be written, and review the copy",
            )
        if not self.path.exists():  # before a lock is made in a folder that was moved away
            raise self._gone("it was removed")
        with folder_lock(self.path.parent, REVIEW, limit_s=self._busy_s), sqlite_errors(self.path):
            if slide_id:
                self._require_revision(None, slide_id, revision, reader)
            # SQLite's own lock too: a program that writes in place must not write to a file that is being replaced.
            with closing(open_in_place(self.path, self._busy_s)) as in_place:
                in_place.execute("BEGIN IMMEDIATE")
                log = log_in_memory(in_place.serialize(), self.path)
                try:
                    with self._lock:
                        self._require_successor(log, self.path.stat())
                    before = log.total_changes
                    yield log
                    file = self._put(log) if log.total_changes != before else self.path.open("rb")
                except BaseException:
                    log.close()
                    raise
                with self._lock:
                    self._adopt(log, file)

    def _put(self, log: sqlite3.Connection) -> BinaryIO:
        """Put a log in the place of the file, and return the open file once it is on the disk."""
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(log.serialize())
            if self.path.exists():
                shutil.copymode(self.path, temporary)
            fault_point("deciding")
        fault_point("decided")
        return self.path.open("rb")


def _slide_decision(standing: StandingDecisions, slide_id: str) -> dict[str, Any] | None:
    """Return the current verdict on a slide with ``outdated``; None without one."""
    one = standing.by_subject.get((slide_id, None, None, ""))
    return None if one is None else json_row(one.decision, standing.fingerprint)


def _place_state(standing: Standing | None, fingerprint: str | None) -> dict[str, Any]:
    """Return the current decision on a patch or region, and what reviewers decided, as JSON values."""
    if standing is None or standing.decision.verdict == REMOVED:
        return {"verdict": None}
    names = ("id", "verdict", "reviewer", "made", "comment", "settles")
    return json_row(standing.decision, fingerprint, names) | readings_state(standing, fingerprint)


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes with a file's content: which file it is, when it was written, and its size."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _known(log: sqlite3.Connection, name: str) -> str:
    return known_reader(name, (known for (known,) in log.execute(_READERS)))


def _is_blinded(log: sqlite3.Connection) -> bool:
    return bool(log.execute(_BLINDED).fetchone() == ("yes",))


def _rows(log: sqlite3.Connection, query: str, *values: object) -> list[RecordedDecision]:
    return [decision_of_row(row) for row in log.execute(query, values)]


def _append(log: sqlite3.Connection, decision: Decision, *, made: str = "") -> RecordedDecision:
    """Add a row; without a time it gets the current one, and counts as later than all rows of its slide."""
    query = f"SELECT COUNT(*), MAX({_TIME}) FROM decisions WHERE slide_id = ?"
    count, latest = log.execute(query, (decision.slide_id,)).fetchone()
    values = asdict(decision) | {"id": 0, "revision": count + 1}
    if made:
        values["made"] = made
    else:
        values["made"] = now = utc_text(datetime.now(UTC))
        # A clock that was set back, or once was ahead, must neither turn the order round nor date what follows.
        is_behind = latest is not None and now <= latest
        just_after = datetime.fromisoformat(latest) + timedelta(microseconds=1) if is_behind else None
        values["sorted_as"] = "" if just_after is None else utc_text(just_after)
    row = RecordedDecision(**values)
    row_id = log.execute(_INSERT, row.to_dict()).lastrowid
    assert row_id is not None  # an INSERT has one
    return replace(row, id=row_id)
