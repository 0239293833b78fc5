"""Two processes predict one cohort and one is killed: the other one does the rest, to the same bytes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import made_slides as made
import pytest
from fresh_process import FRESH
from made_model import write_model

from pathopatch.core.files import FAULT_VARIABLE
from pathopatch.core.locks import is_locked, slide_lock
from pathopatch.core.status import read_status

SLIDES = ("a", "b")
POINTS = ("chunk", "rename", "renamed")


def predict(folder: Path, out: Path, order: tuple[str, ...], fault: str) -> None:
    from pathopatch.core.config import PredictConfig
    from pathopatch.stages.find_slides import slides_to_predict
    from pathopatch.stages.predict import predict_cohort

    if fault:
        os.environ[FAULT_VARIABLE] = fault
    rows = [row for name in order for row in slides_to_predict(str(folder / f"{name}.tif"))]
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    outcomes = predict_cohort(rows, folder / "model", out, config)
    assert [outcome.state for outcome in outcomes if outcome.state not in ("done", "current")] == []


def run_two(folder: Path, out: Path, fault: str = "") -> list[int | None]:
    """Predict both slides by two processes, of which the first meets the fault; return how they ended."""
    orders = ((SLIDES, fault), (SLIDES[::-1], ""))
    processes = [FRESH.Process(target=predict, args=(folder, out, *arguments)) for arguments in orders]
    first, second = processes
    first.start()
    # Otherwise the second may have done both slides before the first comes to its point.
    while first.is_alive() and not is_locked(out, slide_lock(SLIDES[0], "predict")):
        time.sleep(0.01)
    second.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def run(folder: Path, out: Path, order: tuple[str, ...]) -> int | None:
    process = FRESH.Process(target=predict, args=(folder, out, order, ""))
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    for number, name in enumerate(SLIDES):
        image = made.disc_image(160, 128, (80, 64), 40 + number, tissue=(180, 90, 150), glass=(245, 245, 245))
        made.write_rgb_pyramid(folder / f"{name}.tif", image, levels=1)
    write_model(folder / "model")
    return folder


def outputs(out: Path) -> dict[str, bytes]:
    """Every file but status, locks and logs, which hold times."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(("status", "logs"))}


@pytest.mark.slow
@pytest.mark.fault("kill", "two-processes")
@pytest.mark.parametrize("point", POINTS)
def test_a_second_process_does_what_a_killed_one_left_at_any_point(point: str, folder: Path, tmp_path: Path) -> None:
    assert run_two(folder, tmp_path / "undisturbed") == [0, 0]
    expected = outputs(tmp_path / "undisturbed")
    kills = 0
    for number in range(1, 60):
        out = tmp_path / str(number)
        ends = run_two(folder, out, f"{point}:{number}")
        assert ends[1] == 0, f"{point} {number}"
        # The first may have been killed in its last steps, when the second had ended.
        assert run(folder, out, SLIDES) == 0
        assert outputs(out) == expected, f"{point} {number}"
        assert {read_status(out, name)["predict"]["state"] for name in SLIDES} == {"done"}
        if ends[0] == 0:
            break
        assert ends[0] == -signal.SIGKILL
        kills += 1
    assert kills >= {"chunk": 0, "rename": 5, "renamed": 5}[point]
