"""Two processes on one slide: one works, the others wait and then find it done; a killed one stands in nobody's way."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Thread
from typing import Any

import made_slides as made
import pytest
from fresh_process import FRESH
from made_model import write_model

from pathopatch.core import status as statuses
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.locks import SLOTS, folder_lock, is_locked, slide_lock, sole_command
from pathopatch.core.status import read_status, update_status
from pathopatch.core.task import Outcome
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.run import run_slides
from pathopatch.stages.clean import find
from pathopatch.stages.doctor import examine_locks
from pathopatch.stages.predict import open_model, predict_cohort, predict_one
from pathopatch.stages.tile import tile_cohort, tile_one

pytestmark = pytest.mark.fault("two-processes")

WORKERS = 4
SLIDES = {"tile": 50, "predict": 4}


def slide(folder: Path, number: int = 0) -> SlideRow:
    """A slide of 30 patches, unlike those of other numbers."""
    path = folder / f"s{number}.tif"
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 100 + number), glass=(245, 245, 245))
    made.write_rgb_pyramid(path, image, levels=1)
    return SlideRow(row=2 + number, slide_id=path.stem, patient_id="p", source=str(path))


def work_of(stage: str, folder: Path, *, force: bool = False) -> Callable[..., Outcome]:
    if stage == "tile":
        return partial(tile_one, config=TileConfig(patch_px=16), out=folder / "out", force=force)
    config = PredictConfig(device="cpu", precision="float32", threads=1)
    return partial(
        predict_one, model=open_model(folder / "model", config), out=folder / "out", config=config, force=force
    )


STAGES = sorted(SLIDES)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_of_four_processes_one_makes_each_slide_and_the_others_find_it(stage: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    rows = [slide(tmp_path, number) for number in range(SLIDES[stage])]
    run = partial(run_slides, tmp_path / "out", stage, work_of(stage, tmp_path), rows)
    start, (ours, theirs) = FRESH.Barrier(WORKERS), FRESH.Pipe(duplex=False)
    processes = [FRESH.Process(target=_run_all, args=(run, start, theirs)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    states = [state for _ in processes for state in ours.recv()]
    for process in processes:
        process.join(60)
    assert Counter(states) == Counter(
        (row.slide_id, state) for row in rows for state in ("done", *["current"] * (WORKERS - 1))
    )
    locks = [path.name for path in (tmp_path / "out" / "status" / "locks").iterdir()]
    assert set(locks) == {
        "status.lock",
        *(f"{slide_lock(row.slide_id, stage)}.lock" for row in rows),
    }
    assert len(locks) <= 1 + SLOTS


def _run_all(run: Callable[[], list[Outcome]], start: Barrier, pipe: Connection) -> None:
    start.wait()
    pipe.send([(outcome.slide_id, outcome.state) for outcome in run()])


@pytest.mark.parametrize("stage", STAGES)
def test_a_slide_that_another_is_at_is_left_alone_until_that_ends(
    stage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path / "model")
    work, row, outcomes = work_of(stage, tmp_path, force=True), slide(tmp_path), []
    second = Thread(target=lambda: outcomes.append(work(row)))
    deadline = time.monotonic() + 60
    with folder_lock(tmp_path / "out", slide_lock("s0", stage)):
        second.start()
        while f"another process is at slide s0 ({stage}): waiting" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second.join(1.0)
        assert second.is_alive()
        assert read_status(tmp_path / "out", "s0") == {}
    second.join(60)
    assert [outcome.state for outcome in outcomes] == ["done"]


def test_doctor_asks_two_processes_whether_a_drive_shares_locks(tmp_path: Path) -> None:
    locks, across = examine_locks(tmp_path)
    assert (locks.value, locks.remedy) == ("shared by processes of this machine", "")
    assert f"flock -n {tmp_path}/lock-test" in across.value
    with pytest.raises(InputMissingError, match="no folder"):
        examine_locks(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_process_keeps_no_slide_from_the_next(stage: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    out = tmp_path / "out"
    process = FRESH.Process(target=_die_at, args=(out, slide_lock("s0", stage)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not is_locked(out, slide_lock("s0", stage))
    assert not find(out)
    assert work_of(stage, tmp_path)(slide(tmp_path)).state == "done"


def _die_at(out: Path, name: str) -> None:
    with folder_lock(out, name):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_lock_is_released_when_the_work_under_it_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with folder_lock(tmp_path, "tile-00"):
            assert is_locked(tmp_path, "tile-00")
            assert not is_locked(tmp_path, "predict-00")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not is_locked(tmp_path, "tile-00")


def test_two_stages_that_write_one_status_at_once_keep_both_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(out: Path, slide_id: str) -> dict[str, Any]:
        status = read_status(out, slide_id)
        time.sleep(0.02)
        return status

    def write(stage: str) -> None:
        for count in range(5):
            update_status(tmp_path, "a", stage, {"state": "running", "count": count})

    monkeypatch.setattr(statuses, "read_status", slowly)
    threads = [Thread(target=write, args=(stage,)) for stage in STAGES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert read_status(tmp_path, "a") == {stage: {"state": "running", "count": 4} for stage in STAGES}


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def no_locks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The drive has no locks; how it says so depends on its kind."""

    def flock(*_: object) -> None:
        raise OSError(getattr(errno, request.param), "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_drive_without_locks_gives_a_warning_and_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with folder_lock(tmp_path, "tile-00"), folder_lock(tmp_path, "tile-00"):
        assert "a drive without locks" in caplog.text


def command(stage: str, folder: Path) -> list[str]:
    """Run the stage's command on one slide; return its state."""
    row = slide(folder)
    if stage == "tile":
        (folder / "cohort.csv").write_text(f"slide_id,patient_id,path\n{row.slide_id},p,{row.source}\n")
        outcomes = tile_cohort(folder / "cohort.csv", folder / "out", TileConfig(patch_px=16))
    else:
        config = PredictConfig(device="cpu", precision="float32", threads=1)
        outcomes = predict_cohort([row], folder / "model", folder / "out", config)
    return [outcome.state for outcome in outcomes]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("stage", STAGES)
def test_a_second_command_is_refused_on_a_drive_without_locks(stage: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    out = tmp_path / "out"
    with sole_command(out), pytest.raises(InputUnsupportedError, match="another command works here") as refused:
        command(stage, tmp_path)
    assert refused.value.place == str(out)
    assert f"if it was killed remove {out / 'status' / 'locks' / 'command'};" in str(refused.value.remedy)
    assert [path for path in out.rglob("*") if path.is_file() and path.parent.name != "locks"] == []
    assert command(stage, tmp_path) == ["done"]


@pytest.mark.usefixtures("no_locks")
def test_the_mark_of_a_dead_command_is_taken_over_on_its_machine_alone(tmp_path: Path) -> None:
    process = FRESH.Process(target=_die_alone, args=(tmp_path,))
    process.start()
    process.join(60)
    mark = tmp_path / "status" / "locks" / "command"
    left = mark.read_text()
    with sole_command(tmp_path):
        assert mark.read_text() != left
    assert not mark.exists()
    mark.write_text(left.replace(socket.gethostname(), "another-node"))
    with pytest.raises(InputUnsupportedError), sole_command(tmp_path):
        pass
    mark.unlink()
    with sole_command(tmp_path):
        pass


def _die_alone(out: Path) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    fcntl.flock = flock
    with sole_command(out):
        os.kill(os.getpid(), signal.SIGKILL)


def test_commands_share_a_folder_on_a_drive_with_locks(tmp_path: Path) -> None:
    with sole_command(tmp_path), sole_command(tmp_path):
        assert [path.name for path in (tmp_path / "status" / "locks").iterdir()] == ["status.lock"]
