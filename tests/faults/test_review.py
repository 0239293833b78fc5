"""Two reviewers on one slide, a locked file, a page that is killed: what was acknowledged is there, no more is said."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pathopatch.core.errors import DiskFullError, InputUnsupportedError, ReviewConflictError, SlideTimeoutError
from pathopatch.core.files import FAULT_VARIABLE
from pathopatch.groups.decisions.decision import Decision
from pathopatch.groups.decisions.log import read_log
from pathopatch.review.decisions import DecisionLog

_SPAWN = multiprocessing.get_context("spawn")


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
    processes = [_SPAWN.Process(target=decide_on_many, args=(path, name, 20)) for name in "abcd"]
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
        assert decisions.state("s1").revision == 0  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert decisions.record(accept(), revision=0).revision == 1  # and so does writing, afterwards


def test_a_lock_that_sqlite_does_not_wait_for_is_retried(tmp_path: Path) -> None:
    """A switch to write-ahead logging on a file that somebody reads is refused at once."""
    path = tmp_path / "review.sqlite"
    DecisionLog(path).close()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN")
    other.execute("SELECT COUNT(*) FROM decisions").fetchone()
    with pytest.raises(SlideTimeoutError):
        DecisionLog(path, busy_s=0.2)
    release = threading.Timer(0.5, other.execute, ["COMMIT"])
    release.start()
    with DecisionLog(path) as decisions:
        decisions.record(accept(), revision=0)
    release.join()
    other.close()


def killed(path: Path, *, fault: str = "") -> list[str]:
    """Decide in a process that says so, then is killed; return what it said."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from pathopatch.groups.decisions.decision import Decision
        from pathopatch.review.decisions import DecisionLog

        decisions = DecisionLog(Path(sys.argv[1]))
        for seen in range(3):
            decisions.record(Decision(slide_id="s1", verdict="accept", reviewer="Ada"), revision=seen)
            print(f"recorded {seen + 1}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, FAULT_VARIABLE: fault} if fault else dict(os.environ)
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return ended.stdout.split("\n")[:-1]


@pytest.mark.fault("two-reviewers")
@pytest.mark.parametrize(
    ("fault", "acknowledged", "there"),
    [("", 3, 3), ("deciding:1", 0, 0), ("deciding:2", 0, 0), ("decided:2", 0, 1), ("deciding:4", 2, 2),
     ("decided:4", 2, 3)],
)  # fmt: skip
def test_after_a_kill_what_was_acknowledged_is_there_and_the_file_is_whole(
    tmp_path: Path, fault: str, acknowledged: int, there: int
) -> None:
    """The first commit makes the table; a decision that was committed but not yet acknowledged may be there."""
    path = tmp_path / "review.sqlite"
    assert killed(path, fault=fault) == [f"recorded {n}" for n in range(1, acknowledged + 1)]
    assert is_whole(path)
    with DecisionLog(path) as decisions:
        assert [row.revision for row in decisions.rows()] == list(range(1, there + 1))
        decisions.record(accept("Bo"), revision=there)
    assert len(read_log(path)) == there + 1


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    with DecisionLog(tmp_path / "review.sqlite") as decisions:
        (level,) = decisions._connection.execute("PRAGMA synchronous").fetchone()
        (mode,) = decisions._connection.execute("PRAGMA journal_mode").fetchone()
    assert (level, mode) == (2, "wal")  # 2: FULL


@pytest.mark.fault("disk-full")
def test_a_full_disk_is_an_error_and_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    with DecisionLog(path) as decisions:
        decisions.record(accept(), revision=0)
        (pages,) = decisions._connection.execute("PRAGMA page_count").fetchone()
        decisions._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to have no space left
        long = Decision(slide_id="s1", verdict="reject", reviewer="Ada", comment="x" * 10_000)
        with pytest.raises(DiskFullError, match="nothing was written"):
            decisions.record(long, revision=1)
        assert [row.verdict for row in decisions.rows()] == ["accept"]
    assert is_whole(path)


def test_a_log_at_an_impossible_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputUnsupportedError, match="cannot write here"):
        DecisionLog(tmp_path / "file" / "review.sqlite")
    (tmp_path / "review.sqlite").mkdir()
    with pytest.raises(InputUnsupportedError, match="may write to"):
        DecisionLog(tmp_path / "review.sqlite")
