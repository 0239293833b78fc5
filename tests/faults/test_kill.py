"""kill -9 at every point of tiling and predicting: no finished stamp is left, and a rerun gives the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
from fresh_process import FRESH
from made_model import write_model

from pathopatch.core.files import FAULT_VARIABLE
from pathopatch.core.status import read_status

POINTS = ("chunk", "rename", "renamed")


def tile(folder: Path, out: Path, force: bool) -> None:
    from pathopatch.core.config import TileConfig
    from pathopatch.patches.tile import tile_slide
    from pathopatch.slides import open_slide

    with open_slide(folder / "slide.tif") as slide:
        tile_slide(slide, TileConfig(patch_px=16), out, force=force)


def predict(folder: Path, out: Path, force: bool) -> None:
    from made_prediction import predict_to

    from pathopatch.core.config import PredictConfig
    from pathopatch.models.loading import load_model
    from pathopatch.slides import open_slide

    with open_slide(folder / "slide.tif") as slide:
        config = PredictConfig(device="cpu", precision="float32", threads=1)
        predict_to(slide, load_model(folder / "model"), out, slide_id="slide", config=config, force=force)


STAGES: dict[str, Callable[[Path, Path, bool], None]] = {"tile": tile, "predict": predict}


def run(stage: str, folder: Path, out: Path, *, fault: str = "", force: bool = False) -> int:
    """Run a stage in a process of its own and return how that ended."""
    process = FRESH.Process(target=_with_fault, args=(stage, folder, out, fault, force))
    process.start()
    process.join(60)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _with_fault(stage: str, folder: Path, out: Path, fault: str, force: bool) -> None:
    if fault:
        os.environ[FAULT_VARIABLE] = fault
    STAGES[stage](folder, out, force)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 600 patches in three shards, and a model for it."""
    folder = tmp_path_factory.mktemp("kill")
    image = made.disc_image(480, 320, (200, 160), 120, tissue=(180, 90, 150), glass=(245, 245, 245))
    image[:, :, ::7] -= 5
    made.write_rgb_pyramid(folder / "slide.tif", image, levels=1)
    write_model(folder / "model")
    return folder


def artefacts(out: Path) -> dict[str, bytes]:
    """Every finished file but status, which holds times; what is temporary is not finished."""
    files = [path for path in out.rglob("*") if path.is_file() and ".tmp-" not in str(path)]
    return {
        str(p.relative_to(out)): p.read_bytes() for p in files if p.relative_to(out).parts[0] not in ("status", "logs")
    }


@pytest.mark.slow
@pytest.mark.fault("kill", "kill-before-status")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_point_leaves_nothing_finished_and_a_rerun_completes(
    stage: str, force: bool, folder: Path, tmp_path: Path
) -> None:
    assert run(stage, folder, tmp_path / "undisturbed") == 0
    expected = artefacts(tmp_path / "undisturbed")
    kills = 0
    for point in POINTS[1:] if force else POINTS:  # what stood there before matters where something takes its place
        for number in range(1, 40):
            out = tmp_path / f"{point}-{number}"
            if force:  # something of another kind stands there already
                _stale_copy(stage, folder, tmp_path, out)
            code = run(stage, folder, out, fault=f"{point}:{number}", force=force)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills += 1
            entry = read_status(out, "slide").get(stage, {})
            if entry.get("state") == "done":
                assert artefacts(out) == expected, f"called done after {point} {number}"
            assert run(stage, folder, out, force=force) == 0
            assert artefacts(out) == expected, f"after {point} {number}"
            assert read_status(out, "slide")[stage]["state"] == "done"
            shutil.rmtree(out)
    assert kills >= 8


def _stale_copy(stage: str, folder: Path, tmp_path: Path, out: Path) -> None:
    """Outputs of another slide under the same id."""
    other = tmp_path / "other"
    if not other.exists():
        other.mkdir()
        image = np.full((3, 64, 64), 245, np.uint8)
        image[:, 10:40, 10:40] = 120
        made.write_rgb_pyramid(other / "slide.tif", image, levels=1)
        if (folder / "model").exists():
            shutil.copytree(folder / "model", other / "model")
        assert run(stage, other, other / "out") == 0
    shutil.copytree(other / "out", out)
