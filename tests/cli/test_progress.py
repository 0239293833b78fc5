"""Progress in lines where standard error is no terminal, and in bars with named clocks where it is one."""

from __future__ import annotations

import ast
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_model import write_model
from PIL import Image

from pathopatch import cli
from pathopatch.cli.output import ProgressLines, progress_bars
from pathopatch.core.text import duration


class Clock:
    """Seconds that tests set."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def lines(clock: Clock, written: list[str]) -> ProgressLines:
    return ProgressLines(written.append, clock=clock)


def test_a_stage_has_a_line_at_its_start_and_at_its_end(lines: ProgressLines, clock: Clock, written: list[str]) -> None:
    for done in range(4):
        lines("tile", done, 3, f"s{done} done")
        clock.seconds += 10
    assert written == ["tile: started, 0 of 3", "tile: finished, 3 of 3 in 30 s"]


def test_between_start_and_end_there_is_one_line_a_minute(
    lines: ProgressLines, clock: Clock, written: list[str]
) -> None:
    for done in range(200):
        lines("tile", done, 1000)
        clock.seconds += 1
    assert [line.split(",")[0] for line in written[1:]] == [f"tile: {n} of 1" for n in (60, 120, 180)]


def test_a_line_tells_rate_and_time_left(lines: ProgressLines, clock: Clock, written: list[str]) -> None:
    lines("tile", 2, 8)  # two were done before: they say nothing of the rate
    clock.seconds += 120
    lines("tile", 4, 8, "s4 done")
    assert written[-1] == "tile: 4 of 8 after 2 min 0 s, 1.0 a minute, about 4 min 0 s left, s4 done"


def test_slides_of_a_cohort_have_no_lines_of_their_own(lines: ProgressLines, clock: Clock, written: list[str]) -> None:
    lines("predict", 0, 2)
    for slide in ("a", "b"):
        lines("patches", 0, 900, slide)
        lines("patches", 900, 900, slide)
    assert written == ["predict: started, 0 of 2"]
    clock.seconds += 60
    lines("patches", 450, 900, "b")
    assert written[1:] == ["predict: 0 of 2 after 1 min 0 s, b: 450 of 900 patches"]


@pytest.mark.parametrize("then", ["train b", "train a"])
def test_a_stage_that_stopped_early_is_told_at_the_next(lines: ProgressLines, written: list[str], then: str) -> None:
    lines("train a", 5, 100)
    lines(then, 0, 100)
    assert written == ["train a: started, 5 of 100", "train a: ended at 5 of 100", f"{then}: started, 0 of 100"]


def test_a_stage_without_anything_to_do_has_no_line(lines: ProgressLines, written: list[str]) -> None:
    lines("tile", 0, 0)
    assert written == []


@pytest.mark.parametrize(("seconds", "text"), [(9.6, "10 s"), (192, "3 min 12 s"), (7380, "2 h 3 min")])
def test_durations_are_told_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_forced_colours_do_not_bring_bars_into_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bars(False) as progress:
        assert isinstance(progress, ProgressLines)


def test_no_command_prints_results_while_bars_are_drawn() -> None:
    inside = []
    for path in Path(cli.__file__).parent.glob("*.py"):
        for block in ast.walk(ast.parse(path.read_text())):
            if isinstance(block, ast.With) and "progress_bars" in ast.unparse(block.items[0]):
                called = {ast.unparse(node.func) for node in ast.walk(block) if isinstance(node, ast.Call)}
                inside += [f"{path.name}:{block.lineno}"] * bool(called & {"print", "finish", "say"})
    assert not inside


@pytest.mark.slow
def test_predict_writes_lines_to_a_pipe_and_bars_to_a_terminal(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), 240, np.uint8)
    pixels[8:56, 8:56] = 150
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    words = ["predict", tmp_path / "slide.png", "--slide-mpp", "0.5", "-o", tmp_path / "out"]
    words += ["--model", write_model(tmp_path / "model")]
    command = [sys.executable, "-m", "pathopatch", *map(str, words)]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "predict: started, 0 of 1" in piped.stderr
    assert "predict: finished, 1 of 1 in " in piped.stderr
    terminal, its_end = pty.openpty()
    shown = subprocess.run([*command, "--force"], stdout=subprocess.DEVNULL, stderr=its_end, check=True)
    os.close(its_end)
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        text = stream.read(2**16).decode()
    assert shown.returncode == 0
    assert "elapsed" in text
    assert "left" in text
    assert "started" not in text
