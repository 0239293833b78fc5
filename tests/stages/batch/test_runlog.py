"""A run leaves a log that machines read: what was begun, what became of each slide, how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pathopatch.core.task import Outcome
from pathopatch.stages.batch import run
from pathopatch.stages.batch.run import logged

DONE = Outcome(slide_id="a", state="done", counts={"patches": 4}, warnings=("thin /data/a.svs",))
FAILED = Outcome(slide_id="b", state="failed", code="INPUT_CORRUPT", message='cut: /data/b.svs\n"x"')


def lines(out: Path) -> list[dict[str, Any]]:
    (path,) = out.glob("logs/*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_slide_is_a_line_between_the_runs_begin_and_end(tmp_path: Path) -> None:
    with logged(tmp_path, "predict", slide_ids=("a", "b")) as write_line:
        write_line(DONE)
        assert len(lines(tmp_path)) == 2  # there as soon as it is known
        write_line(FAILED)
    begin, one, two, end = lines(tmp_path)
    expected = {"event": "begin", "stage": "predict", "slides": 2, "slide_ids": ["a", "b"]}
    assert {name: begin[name] for name in expected} == expected
    assert (one["slide_id"], one["state"], one["counts"]) == ("a", "done", {"patches": 4})
    assert (two["code"], two["message"]) == ("INPUT_CORRUPT", FAILED.message)
    assert (end["event"], end["states"]) == ("end", {"done": 1, "failed": 1})


def test_a_run_that_breaks_off_says_by_what(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), logged(tmp_path, "tile", slide_ids="a"):
        raise KeyboardInterrupt
    assert lines(tmp_path)[-1]["event"] == "ended by KeyboardInterrupt"


def test_where_nothing_may_be_named_messages_and_warnings_stay_out(tmp_path: Path) -> None:
    with logged(tmp_path, "predict", slide_ids=("a", "b"), deidentified=True) as write_line:
        write_line(DONE)
        write_line(FAILED)
    assert "/data" not in json.dumps(lines(tmp_path))
    assert lines(tmp_path)[2]["code"] == "INPUT_CORRUPT"


def test_logs_of_old_runs_of_the_stage_go(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for number in range(30):
        (tmp_path / "logs" / f"predict-2026{number:04d}T000000Z-1.jsonl").touch()
        (tmp_path / "logs" / f"tile-2026{number:04d}T000000Z-1.jsonl").touch()
    with logged(tmp_path, "predict", slide_ids=()):
        pass
    runs = {path.stem for path in tmp_path.glob("logs/predict-*")}
    assert len(runs) == run.KEPT_RUNS
    assert "predict-20260000T000000Z-1" not in runs
    assert len(list(tmp_path.glob("logs/tile-*"))) == 30


def test_a_full_disk_ends_no_run_for_its_logs_sake(tmp_path: Path) -> None:
    with logged(tmp_path, "predict", slide_ids="a") as write_line:
        (log,) = tmp_path.glob("logs/*.jsonl")
        log.unlink()
        log.symlink_to("/dev/full")
        write_line(DONE)
