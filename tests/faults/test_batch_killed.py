"""A batch killed at any point, or its parent alone, or its workers: what is finished stays, a rerun does the rest."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import made_slides as made
import pytest
from fresh_process import FRESH
from made_model import write_model

from pathopatch.core.files import FAULT_VARIABLE
from pathopatch.core.status import read_status

POINTS = ("chunk", "rename", "renamed")
SLIDES = ("a", "b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, a manifest of them, and a model."""
    folder = tmp_path_factory.mktemp("batch")
    for number, name in enumerate(SLIDES):
        image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 100 + number), glass=(245, 245, 245))
        made.write_rgb_pyramid(folder / f"{name}.tif", image, levels=1)
    lines = ["slide_id,patient_id,path", *(f"{name},p{name},{name}.tif" for name in SLIDES)]
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    write_model(folder / "model")
    return folder


def batch(stage: str, folder: Path, out: Path, workers: int, fault: str = "", after: int = 0) -> None:
    """Run a stage over the slides; `fault` is for all its processes, `after` so many slides it kills itself."""
    from pathopatch.core.config import BatchOptions, PredictConfig, TileConfig
    from pathopatch.stages.find_slides import slides_to_predict
    from pathopatch.stages.predict import predict_cohort
    from pathopatch.stages.tile import tile_cohort

    if fault:
        os.environ[FAULT_VARIABLE] = fault

    def progress(what: str, done: int, _total: int, _detail: str = "") -> None:
        if after and (what, done) == (stage, after):
            children = [child.pid for child in multiprocessing.active_children()]
            (out.parent / "children.json").write_text(json.dumps(children))
            os.kill(os.getpid(), signal.SIGKILL)

    if stage == "tile":
        tile_cohort(
            folder / "cohort.csv", out, TileConfig(patch_px=16), BatchOptions(workers=workers), progress=progress
        )
    else:
        config = PredictConfig(device="cpu", precision="float32", threads=1)
        rows = slides_to_predict(str(folder / "cohort.csv"))
        predict_cohort(rows, folder / "model", out, config, BatchOptions(workers=workers), progress=progress)


def run(stage: str, folder: Path, out: Path, workers: int, fault: str = "", after: int = 0) -> int:
    """Run a batch in a process of its own and return how that ended."""
    process = FRESH.Process(target=batch, args=(stage, folder, out, workers, fault, after))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def artefacts(out: Path) -> dict[str, bytes]:
    """Every file but status and log, which hold times."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(("status", "logs"))}


def states(stage: str, out: Path) -> list[str]:
    return [read_status(out, name).get(stage, {}).get("state", "") for name in SLIDES]


def completed(stage: str, folder: Path, out: Path, workers: int, expected: dict[str, bytes], after: str) -> None:
    """Run again without a fault and look at what is there."""
    assert run(stage, folder, out, workers) == 0, after
    assert states(stage, out) == ["done"] * len(SLIDES), after
    assert artefacts(out) == expected, after


@pytest.mark.slow
@pytest.mark.fault("kill", "kill-before-status", "parent-killed")
@pytest.mark.parametrize(("stage", "workers"), [("tile", 1), ("predict", 1), ("tile", 2)])
def test_a_rerun_completes_a_batch_killed_at_any_point(stage: str, workers: int, folder: Path, tmp_path: Path) -> None:
    assert run(stage, folder, tmp_path / "undisturbed", 1) == 0
    expected = artefacts(tmp_path / "undisturbed")
    assert expected
    kills = 0
    for point in POINTS:
        for number in range(1, 60):
            out, fault = tmp_path / "out", f"{point}:{number}"
            code = run(stage, folder, out, workers, fault)
            if code == 0 and states(stage, out) == ["done"] * len(SLIDES):
                assert artefacts(out) == expected, fault
                shutil.rmtree(out)
                break
            assert code in (0, -signal.SIGKILL), fault  # with workers the batch outlives theirs, whose slides failed
            kills += 1
            completed(stage, folder, out, workers, expected, fault)
            shutil.rmtree(out)
    assert kills >= 6, kills


@pytest.mark.slow
@pytest.mark.fault("parent-killed")
@pytest.mark.parametrize("after", [1, 2])
def test_workers_end_with_their_killed_parent_and_a_rerun_completes(after: int, folder: Path, tmp_path: Path) -> None:
    assert run("tile", folder, tmp_path / "undisturbed", 1) == 0
    assert run("tile", folder, tmp_path / "out", 2, after=after) == -signal.SIGKILL
    children = json.loads((tmp_path / "children.json").read_text())
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.02)
    completed("tile", folder, tmp_path / "out", 2, artefacts(tmp_path / "undisturbed"), f"{after} slides")


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
