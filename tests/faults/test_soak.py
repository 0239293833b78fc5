"""The soak in short: some slides, some of each fault, some kills."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "pipelines" / "soak"))

import pytest
import soak


@pytest.mark.slow
@pytest.mark.fault("all-at-once")
def test_a_run_killed_repeatedly_ends_with_every_slide_in_its_due_state(tmp_path: Path) -> None:
    run = soak.make(tmp_path / "cohort", 60, share=0.04, seed=1)
    with soak.being_changed(run):
        soak.interrupted(run, kills=3, workers=2, every_s=4, seed=1)
        assert soak.finished(run, workers=2) == 3
    assert soak.faults_found(run) == []
    one, two = [run.out / "predictions" / f"{slide_id}.parquet" for slide_id, due in run.due.items() if due == "done"][
        :2
    ]
    one.write_bytes(two.read_bytes())
    (run.out / "left.tmp-1-2").touch()
    assert [fault.partition(":")[0] for fault in soak.faults_found(run)] == [
        one.stem,
        "left over",
    ]  # it sees what is wrong
