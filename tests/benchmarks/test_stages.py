"""The time of a stage is its own, without that of the stages that it calls."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "pipelines" / "bench"))
import stages  # noqa: E402 - found through the line above


def test_a_stage_does_not_count_the_time_of_those_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(stages.time, "process_time", lambda: now)
    stopwatch = stages.Stopwatch()
    decode = stopwatch.wrapped("decode", lambda: work(2))
    tissue = stopwatch.wrapped("tissue", lambda: (work(1), decode(), decode(), work(4)))
    tissue()
    decode()
    assert stopwatch.seconds == {"tissue": 5, "decode": 6}
