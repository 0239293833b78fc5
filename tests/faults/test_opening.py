"""Opening a batch's slides in its worker processes: a crash costs one slide, and the cohort is checked as ever."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
from made_model import write_model
from typer.testing import CliRunner

import pathopatch
from pathopatch.cli.program import app
from pathopatch.core.config import BatchOptions, PredictConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError, TableError
from pathopatch.core.status import read_status
from pathopatch.stages.batch.run import workers_for
from pathopatch.stages.check import check_manifest
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.predict import predict_cohort
from pathopatch.stages.tile import tile_cohort

CONFIG = TileConfig(patch_px=32)
# Python runs a module of this name when it starts, so a worker process finds a reader that does as its file is called.
_FAULTY = """
import os, sys, time

if "--multiprocessing-fork" in sys.argv:
    import pathopatch.slides

    honest = pathopatch.slides.open_slide

    def hang(*_):
        time.sleep(600)

    def grow(*_):
        held = bytearray(os.urandom(1)) * 3_000_000_000
        time.sleep(600)

    def open_slide(source, **arguments):
        if "aborts-opening" in source:
            os.abort()
        slide = honest(source, **arguments)
        for name, act in (("aborts-reading", lambda *_: os.abort()), ("hangs", hang), ("grows", grow)):
            if name in source:
                slide.read_scanned_overview = act
        return slide

    pathopatch.slides.open_slide = open_slide
"""
_BECOMES = {
    "a": "",
    "aborts-opening": "WORKER_CRASH",
    "aborts-reading": "WORKER_CRASH",
    "hangs": "TIMEOUT",
    "grows": "OUT_OF_MEMORY",
    "b": "",
}


def cohort(folder: Path, names: tuple[str, ...], *, mpp: tuple[float, ...] = (0.5,)) -> Path:
    """A manifest of slides for training, each with a disc of its own brightness."""
    lines = ["slide_id,patient_id,split,path"]
    for number, name in enumerate(names):
        level = 500 + 100 * number
        disc = made.disc_image(160, 128, (80, 64), 40, tissue=[level], glass=[20], dtype=np.uint16)
        made.write_channel(folder / f"{name}.tif", disc[0], mpp=mpp[number % len(mpp)])
        lines.append(f"{name},{name},train,{name}.tif")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder / "cohort.csv"


def _make_readers_faulty(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let processes that start from now on find the reader of `_FAULTY`."""
    (folder / "start").mkdir()
    (folder / "start" / "sitecustomize.py").write_text(_FAULTY)
    paths = [str(folder / "start"), str(Path(pathopatch.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    patch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.slow
@pytest.mark.fault("native-crash", "memory")
def test_a_reader_that_aborts_hangs_or_fills_memory_fails_only_its_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = cohort(tmp_path, tuple(_BECOMES))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _make_readers_faulty(tmp_path, patch)
        config = TileConfig(patch_px=32)
        outcomes = tile_cohort(manifest, out, config, BatchOptions(workers=2, timeout_s=20, memory_gb=2))
    assert {outcome.slide_id: outcome.code for outcome in outcomes} == _BECOMES
    for slide_id, code in _BECOMES.items():
        entry = read_status(out, slide_id)["tile"]
        assert (entry["state"], entry.get("code", "")) == ("failed" if code else "done", code)
    assert sorted(path.stem for path in (out / "patches").glob("*.parquet")) == ["a", "b"]


@pytest.mark.slow
@pytest.mark.fault("limits-alone")
def test_limits_hold_for_check_which_reports_each_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = cohort(tmp_path, tuple(_BECOMES))
    _make_readers_faulty(tmp_path, monkeypatch)
    with pytest.raises(TableError) as caught:
        check_manifest(manifest, None, BatchOptions(timeout_s=20, memory_gb=2), measure=TileConfig(patch_px=32))
    rows = {name: row for row, name in enumerate(_BECOMES, 2)}
    expected = {rows[name]: code for name, code in _BECOMES.items() if code}
    assert {problem.row: problem.code for problem in caught.value.problems} == expected


@pytest.mark.slow
@pytest.mark.fault("limits-alone")
@pytest.mark.parametrize("name", ["hangs", "grows"])
def test_limits_hold_for_a_single_slide_and_a_single_worker(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write_rgb_pyramid(tmp_path / f"{name}.tif", np.full((3, 64, 64), 200, np.uint8), levels=1)
    (tmp_path / "cohort.csv").write_text(f"slide_id,patient_id,path\ns,p,{name}.tif\n")
    _make_readers_faulty(tmp_path, monkeypatch)
    limit = BatchOptions(timeout_s=20) if name == "hangs" else BatchOptions(memory_gb=2)
    tiled = tile_cohort(tmp_path / "cohort.csv", tmp_path / "tiled", TileConfig(patch_px=32), limit)
    rows = slides_to_predict(str(tmp_path / f"{name}.tif"))
    predicted = predict_cohort(rows, write_model(tmp_path / "model"), tmp_path / "out", PredictConfig(), limit)
    assert [outcome.code for outcome in (*tiled, *predicted)] == 2 * [_BECOMES[name]]


@pytest.mark.fault("native-crash")
def test_a_crash_in_the_process_of_a_command_is_told() -> None:
    crash = "program._run = lambda: os.kill(os.getpid(), signal.SIGSEGV); program.main()"
    code = f"import os, signal; from pathopatch.cli import program; {crash}"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "Segmentation fault" in ended.stderr


@pytest.mark.fault("limits-alone")
def test_a_limit_takes_a_process_of_its_own() -> None:
    count = partial(workers_for, Path("out"), "tile", [])
    assert [count(BatchOptions(workers=workers)).count for workers in (1, 2)] == [0, 0]
    assert [count(BatchOptions(**limit)).count for limit in ({"timeout_s": 9}, {"memory_gb": 1})] == [1, 1]


@pytest.mark.fault("limits-alone")
def test_check_takes_both_limits_from_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[BatchOptions] = []

    def check(manifest: Path, out: Path | None, batch: BatchOptions, **_: object) -> pd.DataFrame:
        given.append(batch)
        return pd.DataFrame()

    monkeypatch.setattr("pathopatch.stages.check.check_manifest", check)
    command = ["check", str(tmp_path / "cohort.csv"), "--timeout=5", "--memory-gb=2"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (given[0].timeout_s, given[0].limit_bytes) == (5, 2e9)


@pytest.mark.fault("limits-alone")
def test_limits_of_a_set_of_ready_patches_are_refused_with_the_reason(tmp_path: Path) -> None:
    for option in ("--timeout=5", "--memory-gb=1", "--workers=2", "--align", "--retry-failed"):
        told = CliRunner().invoke(app, ["tile", "--patches", str(tmp_path), "-o", str(tmp_path / "out"), option])
        assert told.exit_code == 2
        assert "a set of patches is no slide" in " ".join(told.output.replace("\u2502", " ").split())


@pytest.mark.parametrize("workers", [1, 2])
def test_slides_of_different_scale_are_refused_before_any_is_tiled(workers: int, tmp_path: Path) -> None:
    manifest = cohort(tmp_path, ("a", "b", "cut"), mpp=(0.5, 0.6))
    made.write_truncated(tmp_path / "a.tif", 60, tmp_path / "cut.tif")
    with pytest.raises(InputUnsupportedError, match=r"a has 0\.5, b has 0\.6"):
        tile_cohort(manifest, tmp_path / "out", CONFIG, BatchOptions(workers=workers))
    assert not (tmp_path / "out").exists()
