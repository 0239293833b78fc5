"""A row says whether it met its goal, and a comparison of different outputs is no comparison."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "pipelines" / "bench"))
import measure  # noqa: E402 - found through the line above


def test_a_goal_is_met_from_its_own_side() -> None:
    assert measure.Row("a", 2.0, 2.0).is_met
    assert not measure.Row("a", 1.9, 2.0).is_met
    assert measure.Row("a", 1.0, 1.1, "at most").is_met
    assert not measure.Row("a", 1.2, 1.1, "at most").is_met


def test_ratios_are_of_the_work_and_each_repeat_prepares_its_pieces_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "cpu_seconds", lambda work: float(work()))
    prepared = []

    def pieces(seconds: float) -> list[measure.Work]:
        prepared.append(seconds)
        return [lambda: seconds, lambda: 2 * seconds]

    assert measure.ratio(lambda: pieces(3.0), lambda: pieces(1.5), repeats=5) == 2.0
    assert measure.speedup(lambda: pieces(3.0), lambda: pieces(1.5), repeats=5) == 0.5
    assert len(prepared) == 2 * 2 * 6


def test_different_outputs_stop_the_benchmark() -> None:
    measure.require_equal([np.zeros(3)], [np.zeros(3)])
    with pytest.raises(SystemExit, match="output 1 differs"):
        measure.require_equal([np.zeros(3), np.zeros(3)], [np.zeros(3), np.ones(3)])


@pytest.mark.slow
def test_every_part_of_the_benchmark_still_imports_what_it_measures() -> None:
    script = Path(measure.__file__).with_name("bench.py")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
