"""Two reviewers on one slide, a locked file, a page that is killed: what was acknowledged is there, no more is said."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fresh_process import FRESH

from pathopatch.core.errors import (
    DiskFullError,
    InputChangedError,
    InputUnsupportedError,
    PathopatchError,
    ReviewConflictError,
    SlideTimeoutError,
)
from pathopatch.core.files import FAULT_VARIABLE
from pathopatch.core.locks import REVIEW, folder_lock
from pathopatch.groups.decisions.decision import Decision
from pathopatch.groups.decisions.log import read_log
from pathopatch.review.decisions import DecisionLog
from pathopatch.stages.clean import remove_stale_files


def accept(reviewer: str = "Ada", slide_id: str = "s1") -> Decision:
    return Decision(slide_id=slide_id, verdict="accept", reviewer=reviewer)


def is_whole(path: Path) -> bool:
    connection = sqlite3.connect(path)
    problems = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return problems == [("ok",)]


@pytest.mark.fault("two-reviewers")
@pytest.mark.parametrize("share", [True, False])
def test_of_two_reviewers_at_once_one_decides_and_one_gets_a_conflict(tmp_path: Path, share: bool) -> None:
    """In 20 rounds on one log, or each on a log of the same file."""
    path = tmp_path / "review.sqlite"
    first = DecisionLog(path)
    logs = {"Ada": first, "Bo": first if share else DecisionLog(path)}
    start = threading.Barrier(2)
    refused: list[tuple[int, str, dict[str, object]]] = []

    def review(name: str) -> None:
        for seen in range(20):
            start.wait(30)
            try:
                logs[name].record(accept(name), revision=seen)
            except ReviewConflictError as error:
                refused.append((seen, name, error.state))

    threads = [threading.Thread(target=review, args=(name,)) for name in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    rows = first.rows()
    assert [row.revision for row in rows] == list(range(1, 21))  # each round one row, whoever was first
    assert sorted(seen for seen, _, _ in refused) == list(range(20))
    for seen, name, state in refused:
        assert rows[seen].reviewer != name
        assert state["history"][0]["reviewer"] == rows[seen].reviewer  # type: ignore[index]
    for log in logs.values():
        log.close()
    assert is_whole(path)


def decide_on_many(path: Path, reviewer: str, count: int) -> None:
    with DecisionLog(path) as decisions:
        for number in range(count):
            decisions.record(accept(reviewer, f"{reviewer}{number}"), revision=0)


@pytest.mark.slow
def test_four_processes_that_make_one_log_at_once_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    processes = [FRESH.Process(target=decide_on_many, args=(path, name, 20)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(row.slide_id for row in read_log(path)) == sorted(f"{name}{n}" for name in "abcd" for n in range(20))
    assert is_whole(path)


@pytest.mark.fault("two-reviewers")
def test_a_log_that_is_locked_for_a_while_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as decisions:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.5, other.execute, ["COMMIT"])
        began = time.monotonic()
        release.start()
        decisions.record(accept(), revision=0)
        assert time.monotonic() - began > 0.4
        release.join()
        other.close()
        assert len(decisions.rows()) == 1


def test_a_log_that_stays_locked_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path, busy_s=0.2) as decisions:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SlideTimeoutError, match="locked by another process; nothing was written"):
            decisions.record(accept(), revision=0)
        assert decisions.state("s1")["revision"] == 0  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert decisions.record(accept(), revision=0).revision == 1  # and so does writing, afterwards


@pytest.mark.fault("review-log")
def test_the_lock_of_another_page_is_waited_for_and_then_told(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "review.sqlite", busy_s=0.2) as decisions:
        with folder_lock(tmp_path, REVIEW), pytest.raises(SlideTimeoutError, match="still at it after 0.2 s"):
            decisions.record(accept(), revision=0)
        assert decisions.rows() == []
        decisions.record(accept(), revision=0)


def put_another_in_its_place(path: Path) -> None:
    with DecisionLog(path.with_name("other.sqlite")) as other:
        other.record(accept("Bo", "s7"), revision=0)
    path.with_name("other.sqlite").replace(path)


def put_an_earlier_copy_in_its_place(path: Path) -> None:
    path.with_name("earlier.sqlite").replace(path)


def put_an_equal_copy_in_its_place(path: Path) -> None:
    shutil.copy2(path, path.with_name("equal.sqlite"))
    path.with_name("equal.sqlite").replace(path)


def remove_and_copy_back(path: Path) -> None:
    content, inode = path.read_bytes(), path.stat().st_ino
    path.unlink()
    for number in range(200):  # until one gets the same inode, which a file system may give again
        copy = path.with_name(f"copy-{number}")
        copy.write_bytes(content)
        if copy.stat().st_ino == inode:
            break
    copy.replace(path)


def write_over(path: Path) -> None:
    shutil.copyfile(path.with_name("earlier.sqlite"), path)


LOST = [Path.unlink, put_another_in_its_place, put_an_earlier_copy_in_its_place, put_an_equal_copy_in_its_place,
        remove_and_copy_back, write_over, lambda path: path.write_bytes(b"")]  # fmt: skip


@pytest.mark.fault("review-log")
@pytest.mark.parametrize("lose", LOST, ids=lambda lose: lose.__name__)
def test_a_log_removed_or_replaced_is_told_and_nothing_acknowledged(
    tmp_path: Path, lose: Callable[[Path], object]
) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as decisions:
        shutil.copy2(path, tmp_path / "earlier.sqlite")
        row = decisions.record(accept(), revision=0)
        kept = tmp_path / "kept.sqlite"
        if lose is not remove_and_copy_back:
            os.link(path, kept)
        lose(path)
        there = path.read_bytes() if path.exists() else None
        for _ in range(2):
            with pytest.raises(PathopatchError) as refused:
                decisions.record(accept("Bo"), revision=1)
            assert refused.value.code in ("INPUT_CHANGED", "INPUT_CORRUPT")
            assert refused.value.remedy
        with pytest.raises(PathopatchError):
            decisions.undo("s1", "Bo", 1)
        assert decisions.rows() == [row]  # what is known can still be exported
        assert (path.read_bytes() if path.exists() else None) == there
        if lose not in (remove_and_copy_back, write_over, LOST[-1]):  # after which the file itself is gone
            kept.replace(path)
            assert decisions.record(accept("Bo"), revision=1).revision == 2


@pytest.mark.fault("review-log")
def test_a_folder_that_was_moved_away_is_told_and_not_made_again(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "out" / "review.sqlite") as decisions:
        (tmp_path / "out").rename(tmp_path / "elsewhere")
        with pytest.raises(InputChangedError, match="removed; nothing was written"):
            decisions.record(accept(), revision=0)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


@pytest.mark.fault("review-log")
def test_whoever_copies_the_file_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    """A copy that is made page by page, while decisions are written and SQLite must split its pages."""
    path, acknowledged = tmp_path / "review.sqlite", 0
    ended = threading.Event()
    problems: list[object] = []

    def copy() -> None:
        (tmp_path / "alone").mkdir()
        while not ended.is_set():
            before = acknowledged
            alone = copied_slowly(path, tmp_path / "alone")
            rows = read_log(alone)
            if len(rows) < before or not is_whole(alone):
                problems.append((before, len(rows)))

    with DecisionLog(path) as decisions:
        copier = threading.Thread(target=copy)
        copier.start()
        for n in range(150):
            decisions.record(Decision(slide_id=f"s{n % 7}", verdict="flag", reviewer="Ada", comment="x" * 300),
                             revision=n // 7)  # fmt: skip
            acknowledged += 1
        ended.set()
        copier.join(60)
    assert problems == []


def copied_slowly(path: Path, folder: Path) -> Path:
    with path.open("rb") as source, (folder / path.name).open("wb") as target:
        while part := source.read(1024):
            target.write(part)
            time.sleep(0)
    return folder / path.name


@pytest.mark.fault("review-log")
def test_a_log_that_was_written_in_place_opens_with_its_journal(tmp_path: Path) -> None:
    """As another program, or an earlier version of this one, leaves it when it is killed."""
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as decisions:
        row = decisions.record(accept(), revision=0)
    code = """
        import os, signal, sqlite3, sys
        log = sqlite3.connect(sys.argv[1], isolation_level=None)
        log.execute("PRAGMA journal_mode = WAL")
        for column in ("sorted_as", "region", "settles"):
            log.execute(f"ALTER TABLE decisions DROP COLUMN {column}")
        log.execute("INSERT INTO decisions SELECT 2, made, 'Bo', 's2', x, y, verdict, reason, comment, fingerprint,"
                    " run, threshold, undoes, 1 FROM decisions")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], check=False, timeout=60)
    assert (tmp_path / "review.sqlite-wal").stat().st_size
    with DecisionLog(path) as decisions:
        assert decisions.rows() == read_log(path) == [row, replace(row, id=2, slide_id="s2", reviewer="Bo")]
        decisions.record(accept(), revision=1)
    assert not list(tmp_path.glob("review.sqlite-*"))
    assert len(read_log(path)) == 3
    assert is_whole(path)


@pytest.mark.fault("review-log")
def test_a_log_that_was_written_in_place_and_closed_is_read(tmp_path: Path) -> None:
    """As an earlier version of this one leaves it: its header asks for a journal, of which there is none."""
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as decisions:
        row = decisions.record(accept(), revision=0)
    other = sqlite3.connect(path)
    other.execute("PRAGMA journal_mode = WAL")
    other.close()
    assert [file.name for file in tmp_path.glob("review*")] == ["review.sqlite"]
    assert read_log(path) == [row]
    with DecisionLog(path) as decisions:
        decisions.record(accept(), revision=1)
        assert len(decisions.rows()) == len(read_log(path)) == 2


def decide_until_killed(path: Path, fault: str, pipe: Connection) -> None:
    if fault:
        os.environ[FAULT_VARIABLE] = fault
    decisions = DecisionLog(path)
    for seen in range(3):
        decisions.record(accept(), revision=seen)
        pipe.send(seen + 1)
    os.kill(os.getpid(), signal.SIGKILL)


def killed(path: Path, *, fault: str = "") -> list[int]:
    """Decide in a process that says so, then is killed; return what it said."""
    ours, theirs = FRESH.Pipe(duplex=False)
    process = FRESH.Process(target=decide_until_killed, args=(path, fault, theirs))
    process.start()
    theirs.close()
    said = []
    with suppress(EOFError):
        while True:
            said.append(ours.recv())
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return said


@pytest.mark.fault("two-reviewers")
@pytest.mark.parametrize(
    ("fault", "acknowledged", "there"),
    [("", 3, 3), ("deciding:1", 0, 0), ("deciding:2", 0, 0), ("decided:2", 0, 1), ("rename:2", 0, 0),
     ("renamed:2", 0, 1), ("deciding:4", 2, 2), ("rename:4", 2, 2), ("renamed:4", 2, 3), ("decided:4", 2, 3)],
)  # fmt: skip
def test_after_a_kill_what_was_acknowledged_is_there_and_the_file_is_whole(
    tmp_path: Path, fault: str, acknowledged: int, there: int
) -> None:
    """The first file has no rows; a decision that was written but not yet acknowledged may be there."""
    path = tmp_path / "review.sqlite"
    assert killed(path, fault=fault) == list(range(1, acknowledged + 1))
    if path.exists():  # alone, without anything that lies beside it
        (tmp_path / "alone").mkdir()
        path = path.rename(tmp_path / "alone" / path.name)
        assert is_whole(path)
    remove_stale_files(tmp_path)
    assert list(tmp_path.glob("*.tmp-*")) == []
    with DecisionLog(path) as decisions:
        assert [row.revision for row in decisions.rows()] == list(range(1, there + 1))
        decisions.record(accept("Bo"), revision=there)
    assert len(read_log(path)) == there + 1


def test_every_decision_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        written.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        monkeypatch.setattr(os, "fsync", noted)
        decisions.record(accept(), revision=0)
    file, folder = written
    assert file.startswith("review.sqlite.tmp-")  # before it is renamed
    assert folder == tmp_path.name


@pytest.mark.fault("disk-full")
def test_a_full_disk_is_an_error_and_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as decisions:
        decisions.record(accept(), revision=0)
        monkeypatch.setattr(Path, "write_bytes", no_space)
        with pytest.raises(DiskFullError):
            decisions.record(accept("Bo"), revision=1)
        assert [row.verdict for row in decisions.rows()] == ["accept"]
    assert is_whole(path)


def test_a_log_at_an_impossible_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputUnsupportedError, match="cannot write here"):
        DecisionLog(tmp_path / "file" / "review.sqlite")
    (tmp_path / "review.sqlite").mkdir()
    with pytest.raises(InputUnsupportedError, match="no file of decisions"):
        DecisionLog(tmp_path / "review.sqlite")
    os.mkfifo(tmp_path / "pipe.sqlite")
    with pytest.raises(InputUnsupportedError, match="no file of decisions"):
        DecisionLog(tmp_path / "pipe.sqlite")


def test_the_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as decisions:
        path.chmod(0o600)
        decisions.record(accept(), revision=0)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_drive_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pathopatch.core.locks.FileLock.acquire", no_locks)
    with pytest.raises(InputUnsupportedError, match="drive without locks"):
        DecisionLog(tmp_path / "review.sqlite")
