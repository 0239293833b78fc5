"""kill -9 at every point of a batch, of one of two batches, or of its parent alone: a rerun gives the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from fresh_process import FRESH
from made_model import write_model
from written_files import finished

from pathopatch.core.files import FAULT_VARIABLE
from pathopatch.core.locks import is_locked, slide_lock
from pathopatch.core.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # each starts dozens of processes, one after the other
POINTS = ("chunk", "rename", "renamed")
SLIDES = ("a", "b")


def write_cohort(folder: Path, *images: np.ndarray) -> Path:
    """A slide for each image, a manifest of them, and a model."""
    folder.mkdir(exist_ok=True)
    lines = ["slide_id,patient_id,path"]
    for name, image in zip(SLIDES, images, strict=True):
        made.write_rgb_pyramid(folder / f"{name}.tif", image, levels=1)
        lines.append(f"{name},p{name},{name}.tif")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    write_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 600 patches of 8 px in three shards, and one of 120."""
    large = made.disc_image(240, 160, (100, 80), 60, tissue=(180, 90, 150), glass=(245, 245, 245))
    large[:, :, ::7] -= 5
    small = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 101), glass=(245, 245, 245))
    return write_cohort(tmp_path_factory.mktemp("kill"), large, small)


def batch(
    stage: str, folder: Path, out: Path, workers: int, force: bool, fault: str, after: int, order: tuple[str, ...]
) -> None:
    """Run a stage over the slides; `fault` is for all its processes, `after` so many slides it kills itself."""
    from pathopatch.core.config import BatchOptions, PredictConfig, TileConfig
    from pathopatch.stages.find_slides import find_cohort
    from pathopatch.stages.predict import predict_cohort
    from pathopatch.stages.tile import tile_cohort

    if fault:
        os.environ[FAULT_VARIABLE] = fault

    def progress(what: str, done: int, _total: int, _detail: str = "") -> None:
        if after and (what, done) == (stage, after):
            children = [child.pid for child in multiprocessing.active_children()]
            (out.parent / "children.json").write_text(json.dumps(children))
            os.kill(os.getpid(), signal.SIGKILL)

    how = BatchOptions(workers=workers, force=force)
    if stage == "tile":
        tile_cohort(folder / "cohort.csv", out, TileConfig(patch_px=8), how, progress=progress)
    else:
        config = PredictConfig(device="cpu", precision="float32", threads=1)
        rows = {row.slide_id: row for row in find_cohort([str(folder / "cohort.csv")]).rows}
        predict_cohort([rows[name] for name in order], folder / "model", out, config, how, progress=progress)


def started(
    stage: str,
    folder: Path,
    out: Path,
    workers: int = 1,
    force: bool = False,
    fault: str = "",
    after: int = 0,
    order: tuple[str, ...] = SLIDES,
) -> multiprocessing.process.BaseProcess:
    """Begin a batch in a process of its own."""
    process = FRESH.Process(target=batch, args=(stage, folder, out, workers, force, fault, after, order))
    process.start()
    return process


def ended(process: multiprocessing.process.BaseProcess) -> int:
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def states(stage: str, out: Path) -> list[str]:
    return [read_status(out, name).get(stage, {}).get("state", "") for name in SLIDES]


@pytest.mark.fault("kill", "kill-before-status", "parent-killed")
@pytest.mark.parametrize(
    ("stage", "workers", "force"),
    [("tile", 1, False), ("predict", 1, False), ("tile", 2, False), ("tile", 1, True), ("predict", 1, True)],
)
def test_a_rerun_completes_a_batch_killed_at_any_point(
    stage: str, workers: int, force: bool, folder: Path, tmp_path: Path
) -> None:
    """With `force`, outputs of other slides of the same names are there already."""
    assert ended(started(stage, folder, tmp_path / "undisturbed")) == 0
    expected = finished(tmp_path / "undisturbed")
    assert expected
    stale, out = tmp_path / "stale", tmp_path / "out"
    if force:
        blank = np.full((3, 64, 64), 245, np.uint8)
        blank[:, 10:40, 10:40] = 120
        others = write_cohort(tmp_path / "others", blank, np.ascontiguousarray(blank.transpose(0, 2, 1) - 1))
        assert ended(started(stage, others, stale)) == 0
    kills = 0
    for point in POINTS[1:] if force else POINTS:  # what was there before matters where something takes its place
        for number in range(1, 60):
            after = f"{point}:{number}"
            if force:
                shutil.copytree(stale, out)
            code = ended(started(stage, folder, out, workers, force, after))
            is_done = states(stage, out) == ["done"] * len(SLIDES)
            if code == 0 and is_done:
                assert finished(out) == expected, after
                shutil.rmtree(out)
                break
            assert code in (0, -signal.SIGKILL), after  # with workers the batch outlives theirs, whose slides failed
            kills += 1
            assert ended(started(stage, folder, out, force=force)) == 0, after
            assert states(stage, out) == ["done"] * len(SLIDES), after
            assert finished(out) == expected, after
            shutil.rmtree(out)
    assert kills >= 6, kills


@pytest.mark.fault("parent-killed")
@pytest.mark.parametrize("after", [1, 2])
def test_workers_end_with_their_killed_parent_and_a_rerun_completes(after: int, folder: Path, tmp_path: Path) -> None:
    assert ended(started("tile", folder, tmp_path / "undisturbed")) == 0
    assert ended(started("tile", folder, tmp_path / "out", 2, after=after)) == -signal.SIGKILL
    children = json.loads((tmp_path / "children.json").read_text())
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.02)
    assert ended(started("tile", folder, tmp_path / "out", 2)) == 0
    assert states("tile", tmp_path / "out") == ["done"] * 2
    assert finished(tmp_path / "out") == finished(tmp_path / "undisturbed")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.fault("kill", "two-processes")
@pytest.mark.parametrize("point", POINTS)
def test_a_second_process_does_what_a_killed_one_left_at_any_point(point: str, folder: Path, tmp_path: Path) -> None:
    def run_two(out: Path, fault: str = "") -> list[int]:
        first = started("predict", folder, out, fault=fault)
        # Otherwise the second may have done both slides before the first comes to its point.
        while first.is_alive() and not is_locked(out, slide_lock(SLIDES[0], "predict")):
            time.sleep(0.01)
        return [ended(process) for process in (first, started("predict", folder, out, order=SLIDES[::-1]))]

    assert run_two(tmp_path / "undisturbed") == [0, 0]
    expected = finished(tmp_path / "undisturbed")
    kills = 0
    for number in range(1, 60):
        out = tmp_path / str(number)
        ends = run_two(out, f"{point}:{number}")
        assert ends[1] == 0, f"{point} {number}"
        # The first may have been killed in its last steps, when the second had ended.
        assert ended(started("predict", folder, out)) == 0
        assert finished(out) == expected, f"{point} {number}"
        assert states("predict", out) == ["done"] * 2
        if ends[0] == 0:
            break
        assert ends[0] == -signal.SIGKILL
        kills += 1
    assert kills >= {"chunk": 0, "rename": 5, "renamed": 5}[point]
