"""A slide's status is the same whether it lies in a file of its own or in a chunk of many."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from spoilt_status import CONTENTS

from pathopatch.core import status as statuses
from pathopatch.core.errors import InputCorruptError
from pathopatch.core.files import read_json

DONE = {
    "state": "done",
    "counts": {"patches": 4, "predicted": 3},
    "summary": {"tissue_mm2": 0.1 + 0.2},
    "warnings": ["a", "b"],
}
FAILED = {"state": "failed", "code": "INPUT_CORRUPT", "message": 'cut: "a",\nb', "patient_id": "p1"}


def fill(out: Path, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        statuses.update_status(out, f"s{number:03d}", "tile", {"state": "done", "seconds": "1.50"})
        statuses.update_status(out, f"s{number:03d}", "predict", FAILED if number % 5 == 0 else DONE)


def all_read(out: Path) -> dict[str, dict[str, object]]:
    return {slide_id: statuses.read_status(out, slide_id) for slide_id in statuses.slide_ids(out)}


def test_rolled_statuses_read_as_the_files_did_and_the_files_are_gone(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    before = all_read(tmp_path)
    assert len(before) == 12
    assert before["s005"] == {"tile": {"state": "done", "seconds": "1.50"}, "predict": FAILED}
    table = statuses.StatusTable(tmp_path, ("state", "code", "tissue_mm2", "predicted", "warnings")).read()
    chunk = statuses.compact_status(tmp_path, at_least=12)
    assert chunk == tmp_path / "status" / "chunk-000001.parquet"
    assert not list(tmp_path.glob("status/*.json"))
    assert all_read(tmp_path) == before
    again = statuses.StatusTable(tmp_path, ("state", "code", "tissue_mm2", "predicted", "warnings")).read()
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert statuses.read_status(tmp_path, "elsewhere") == {}


def test_too_few_are_left_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    assert statuses.compact_status(tmp_path, at_least=6) is None
    assert len(list(tmp_path.glob("status/*.json"))) == 5


def test_a_slide_that_somebody_is_at_or_whose_file_is_damaged_stays(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    statuses.update_status(tmp_path, "s001", "predict", {"state": "running"})
    (tmp_path / "status" / "s002.json").write_text("{")
    statuses.compact_status(tmp_path, at_least=4)
    assert sorted(path.stem for path in tmp_path.glob("status/*.json")) == ["s001", "s002"]
    assert statuses.read_status(tmp_path, "s002") == {}  # and not what an earlier chunk might say
    assert statuses.slide_ids(tmp_path) == [f"s{number:03d}" for number in range(6)]


def test_what_is_written_later_stands_before_what_was_rolled(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    statuses.compact_status(tmp_path, at_least=1)
    statuses.update_status(tmp_path, "s000", "predict", DONE)
    assert statuses.read_status(tmp_path, "s000") == {"tile": {"state": "done", "seconds": "1.50"}, "predict": DONE}
    for is_rolled in (False, True):
        if is_rolled:
            statuses.compact_status(tmp_path, at_least=1)
        table = statuses.StatusTable(tmp_path).read().set_index(["slide_id", "stage"])["state"]
        assert len(table) == 12
        assert table["s000", "predict"] == "done"
        assert table["s005", "predict"] == "failed"
        assert statuses.read_status(tmp_path, "s000")["predict"] == DONE
    assert len(statuses.chunks(tmp_path)) == 2


def test_a_table_that_is_read_again_sees_what_was_written_since(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    table = statuses.StatusTable(tmp_path)
    assert len(table.read()) == 6
    statuses.update_status(tmp_path, "s000", "predict", DONE)
    fill(tmp_path, 1, first=3)
    assert table.read()["state"].tolist() == ["done"] * 8
    statuses.compact_status(tmp_path, at_least=1)
    fill(tmp_path, 1, first=5)
    assert table.read()["state"].tolist() == ["done"] * 8 + ["failed", "done"]


def test_a_damaged_status_chunk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    chunk = statuses.compact_status(tmp_path, at_least=1)
    assert chunk is not None
    chunk.write_bytes(chunk.read_bytes()[:100])
    for read in (
        lambda: statuses.read_status(tmp_path, "s001"),
        lambda: statuses.slide_ids(tmp_path),
        lambda: statuses.StatusTable(tmp_path).read(),
    ):
        with pytest.raises(InputCorruptError, match=r"chunk-000001\.parquet"):
            read()


_KILLED = """
import os, signal, sys
from pathlib import Path
from pathopatch.core import status as statuses
count, unlink = int(sys.argv[2]), Path.unlink
def killing(path, **options):
    global count
    if path.suffix == ".json":
        count -= 1
        if count < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    unlink(path, **options)
Path.unlink = killing
statuses.compact_status(Path(sys.argv[1]), at_least=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("files", [0, 1, 4])
def test_a_kill_while_files_go_loses_none_and_doubles_none(tmp_path: Path, files: int) -> None:
    fill(tmp_path, 5)
    before = all_read(tmp_path)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), str(files)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("status/*.json"))) == 5 - files
    assert all_read(tmp_path) == before
    assert len(statuses.StatusTable(tmp_path).read()) == 10
    statuses.compact_status(tmp_path, at_least=1)
    assert all_read(tmp_path) == before


def _write_many(out: Path, first: int) -> None:
    for number in range(first, first + 40):
        statuses.update_status(out, f"s{number:03d}", "predict", DONE)
        if number % 7 == 0:
            statuses.compact_status(out, at_least=5)


@pytest.mark.slow
def test_processes_that_write_and_roll_at_a_time_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_write_many, args=(tmp_path, first)) for first in (0, 40, 80)]
    for process in others:
        process.start()
    for process in others:
        process.join(60)
        assert process.exitcode == 0
    assert statuses.slide_ids(tmp_path) == [f"s{number:03d}" for number in range(120)]
    assert all(status == {"predict": DONE} for status in all_read(tmp_path).values())
    assert len(statuses.chunks(tmp_path)) > 2
    assert not list(tmp_path.glob("status/*tmp*"))
    assert all(read_json(path) for path in tmp_path.glob("status/*.json"))


@pytest.mark.fault("spoilt-status")
@pytest.mark.parametrize("spoil", CONTENTS, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_status_is_none_and_is_written_anew(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    statuses.update_status(tmp_path, "a", "predict", {"state": "done"})
    assert statuses.is_recorded_done(tmp_path, "a", "predict")
    spoil(tmp_path / "status" / "a.json")
    assert statuses.read_status(tmp_path, "a") == {}
    assert not statuses.is_recorded_done(tmp_path, "a", "predict")
    statuses.update_status(tmp_path, "a", "predict", {"state": "done"})
    assert statuses.is_recorded_done(tmp_path, "a", "predict")
