"""Processes that die, hang, or lose their parent: what each costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest

from pathopatch.core.workers import WorkerDied, Workers

Item = tuple[Path, str]


def work(item: Item) -> str:
    """Write down what is worked on, and do what it says."""
    log, name = item
    with log.open("a") as stream:
        stream.write(f"{name} {os.getpid()}\n")
    if name == "dies":
        os.abort()
    if name == "hangs":
        time.sleep(600)
    if name == "grows":
        memory = bytearray(os.urandom(1)) * 600_000_000
        time.sleep(600)
        return str(len(memory))
    return name.upper()


def logged(log: Path) -> list[tuple[str, int]]:
    return [(name, int(pid)) for name, pid in (line.split() for line in log.read_text().splitlines())]


@pytest.mark.fault("native-crash")
def test_a_process_that_dies_costs_its_own_piece_which_is_tried_once_more(tmp_path: Path) -> None:
    names = ["a", "dies", "b", "c"]
    with Workers(2) as workers:
        results = dict(workers.run(work, [(tmp_path / "log", name) for name in names]))
    assert results == {0: "A", 1: WorkerDied(), 2: "B", 3: "C"}
    assert Counter(name for name, _ in logged(tmp_path / "log")) == {"a": 1, "dies": 2, "b": 1, "c": 1}
    assert logged(tmp_path / "log")[-1][0] == "dies"


@pytest.mark.slow
@pytest.mark.fault("native-crash")
def test_a_piece_that_takes_too_long_is_given_up_once_and_for_all(tmp_path: Path) -> None:
    with Workers(2) as workers:
        assert len(dict(workers.run(work, [(tmp_path / "start", name) for name in "ab"]))) == 2
        workers.limit_s = 5  # of processes that have started
        results = dict(workers.run(work, [(tmp_path / "log", name) for name in ("hangs", "a")]))
    assert results == {0: WorkerDied(is_late=True), 1: "A"}
    assert Counter(name for name, _ in logged(tmp_path / "log")) == {"hangs": 1, "a": 1}


@pytest.mark.fault("memory")
def test_a_piece_that_takes_too_much_memory_is_given_up_once_and_for_all(tmp_path: Path) -> None:
    with Workers(2, limit_bytes=500_000_000) as workers:
        results = dict(workers.run(work, [(tmp_path / "log", name) for name in ("grows", "a", "b")]))
    assert results == {0: WorkerDied(is_large=True), 1: "A", 2: "B"}
    assert Counter(name for name, _ in logged(tmp_path / "log")) == {"grows": 1, "a": 1, "b": 1}


def test_processes_live_through_several_lists_and_end_with_the_block(tmp_path: Path) -> None:
    with Workers(2) as workers:
        for _ in range(2):
            assert dict(workers.run(work, [(tmp_path / "log", name) for name in "abc"])) == {0: "A", 1: "B", 2: "C"}
        pids = {child.pid for child in active_children()}
        assert {pid for _, pid in logged(tmp_path / "log")} <= pids
        assert len(pids) == 2
    assert not active_children()
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "log")
    assert not active_children()


def _interrupted(log: Path) -> None:
    with Workers(1) as workers:
        for _ in workers.run(work, [(log, "a"), (log, "hangs")]):
            raise KeyboardInterrupt


_PARENT = """
import sys
from pathlib import Path

sys.path[:0] = sys.argv[1:3]
from test_workers import work
from pathopatch.core.workers import Workers

if __name__ == "__main__":
    with Workers(1) as workers:
        list(workers.run(work, [(Path(sys.argv[3]), "hangs")]))
"""


@pytest.mark.fault("parent-killed")
def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script, log = tmp_path / "parent.py", tmp_path / "log"
    script.write_text(_PARENT)
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, script, root, root / "tests" / "core", log]) as parent:
        _until(log.exists)
        _until(lambda: bool(log.read_text()))
        parent.send_signal(signal.SIGKILL)
    ((_, pid),) = logged(log)
    _until(lambda: not _is_running(pid))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
