import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pathopatch.batch import Outcome, exit_code, run_slides
from pathopatch.errors import InputCorruptError
from pathopatch.provenance import read_status


@dataclass(frozen=True)
class FakeTask:
    slide_id: str
    out: Path
    fault: str = ""
    stage: str = "tile"
    force: bool = False

    def run(self) -> Outcome:
        if self.fault == "corrupt":
            raise InputCorruptError("cut file", place=self.slide_id)
        if self.fault == "bug":
            raise ZeroDivisionError("oh")
        if self.fault == "abort":
            os.abort()
        return Outcome(slide_id=self.slide_id, state="done", counts={"pid": os.getpid()})


@pytest.mark.parametrize("workers", [1, 2])
def test_one_bad_slide_does_not_stop_the_others(tmp_path: Path, workers: int) -> None:
    tasks = [FakeTask("a", tmp_path), FakeTask("b", tmp_path, "corrupt"), FakeTask("c", tmp_path, "bug")]
    tasks.append(FakeTask("d", tmp_path))
    seen: list[str] = []
    outcomes = run_slides(tasks, workers=workers, on_done=lambda outcome: seen.append(outcome.slide_id))
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "failed", "done"]
    assert [outcome.code for outcome in outcomes] == ["", "INPUT_CORRUPT", "INTERNAL", ""]
    assert sorted(seen) == ["a", "b", "c", "d"]
    assert read_status(tmp_path, "b")["tile"]["code"] == "INPUT_CORRUPT"
    assert "ZeroDivisionError" in read_status(tmp_path, "c")["tile"]["trace"]


def test_a_worker_that_dies_takes_down_its_own_slide_only(tmp_path: Path) -> None:
    tasks = [FakeTask("a", tmp_path), FakeTask("b", tmp_path, "abort"), FakeTask("c", tmp_path)]
    outcomes = run_slides(tasks, workers=2)
    assert [(outcome.state, outcome.code) for outcome in outcomes] == [
        ("done", ""),
        ("failed", "WORKER_CRASH"),
        ("done", ""),
    ]


def test_exit_codes_tell_all_some_and_none() -> None:
    good = Outcome(slide_id="a", state="done_empty")
    bad = Outcome(slide_id="b", state="failed", code="INPUT_CORRUPT")
    assert [exit_code(each) for each in ([good], [good, bad], [bad], [])] == [0, 3, 1, 0]
